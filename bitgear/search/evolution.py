"""Evolution: choices that nothing dominates are crossed and changed, and the children are judged by running them.

It needs no cost model, so it finds what the sum of the layers' costs cannot tell. It is as good as its seeds where
judgements are few.
"""

from collections.abc import Callable, Container, Sequence
from typing import Protocol, TypeVar

import numpy as np

from bitgear.search.space import Choice, Space

ATTEMPTS = 200
"""At a child that has not been judged yet."""


class Judged(Protocol):
    """What a choice takes, the less the better, and how good it is."""

    @property
    def use(self) -> float:
        """What is to be small."""

    @property
    def score(self) -> float:
        """What is to be large."""


J = TypeVar("J", bound=Judged)


def undominated(judged: Sequence[J]) -> list[J]:
    """Return those than which no other takes less and is as good, or is better and takes no more; least use first."""
    front: list[J] = []
    for each in sorted(judged, key=lambda one: (one.use, -one.score)):
        if not front or each.score > front[-1].score:
            front.append(each)
    return front


def best(judged: Sequence[J]) -> list[J]:
    """Return the best quarter whatever it takes, four at least."""
    return sorted(judged, key=lambda one: -one.score)[: max(4, len(judged) // 4)]


def evolve(
    space: Space, seeds: Sequence[Choice], judge: Callable[[Choice], J], count: int, fits: Callable[[Choice], bool],
    parents: Callable[[Sequence[J]], list[J]], rng: np.random.Generator, *, fill: bool = False,
) -> list[Choice]:  # fmt: skip
    """Return up to ``count`` choices that were judged, seeds first, all of which fit.

    ``parents`` picks those that have children. ``fill``: each unit of a child goes up by one width where that fits.
    Ends early where no new child is found.
    """
    judged = {choice: judge(choice) for choice in seeds[:count]}
    while judged and len(judged) < count:
        kept = {id(each) for each in parents(list(judged.values()))}
        couple = [choice for choice, found in judged.items() if id(found) in kept]
        child = next(filter(None, (_child(space, couple, judged, fits, fill, rng) for _ in range(ATTEMPTS))), None)
        if child is None:
            break
        judged[child] = judge(child)
    return list(judged)


def _child(
    space: Space, parents: Sequence[Choice], known: Container[Choice], fits: Callable[[Choice], bool],
    fill: bool, rng: np.random.Generator,
) -> Choice | None:  # fmt: skip
    """Return a child of two parents, or of one that is both; None if it is known or cannot be made to fit."""
    one, other = (parents[int(rng.integers(len(parents)))] for _ in range(2))
    widths = [a if rng.random() < 0.5 else b for a, b in zip(one, other, strict=True)]
    for unit in rng.choice(len(widths), min(len(widths), int(rng.integers(1, 4))), replace=False):
        widths[unit] = _neighbour(space, widths[unit], rng)
    while not fits(tuple(widths)):
        lowerable = [unit for unit, bits in enumerate(widths) if bits > space.open[-1]]
        if not lowerable:
            return None
        _step(space, widths, lowerable[int(rng.integers(len(lowerable)))], 1)
    for unit in rng.permutation(len(widths)) if fill else ():
        raised = list(widths)
        if widths[unit] < space.open[0] and fits(tuple(_step(space, raised, unit, -1))):
            widths = raised
    child = tuple(widths)
    return None if child in known else child


def _step(space: Space, widths: list[int], unit: int, places: int) -> list[int]:
    """Move a unit's width by places of the list that starts with the highest, and return all widths."""
    widths[unit] = space.open[space.open.index(widths[unit]) + places]
    return widths


def _neighbour(space: Space, bits: int, rng: np.random.Generator) -> int:
    place = space.open.index(bits)
    near = [i for i in (place - 1, place + 1) if 0 <= i < len(space.open)]
    return space.open[near[int(rng.integers(len(near)))]]
