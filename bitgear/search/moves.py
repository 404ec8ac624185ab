"""Moves: bits go from one place of a plan to another at random, and stay where the output comes nearer to 8 bits.

A search gives a layer one width. Here weights and activations of a layer have widths of their own, which are too many
choices for a programme of them all and, one judgement being the run of some pictures, for evolution too. The mean width
never changes.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from bitgear.bits import LayerBits, Plan

SECOND_MOVE = 0.3
"""In what share of the trials there are two moves at once: some pay only together."""

ATTEMPTS = 1000
"""At a plan that has not been tried yet."""

Places = tuple[int, ...]
"""The widths of the weights of every layer, then those of what each reads, the image left out."""


@dataclass(frozen=True)
class Refined:
    """A plan and how far its output is from that at 8 bits, the same of what it began as, and how many were tried."""

    plan: Plan
    distance: float
    start_distance: float
    trials: int


def refine(
    start: Plan, layers: Sequence[str], widths: Sequence[int], judge: Callable[[Plan], float], trials: int,
    rng: np.random.Generator, progress: Callable[[float], object] = lambda _: None, *, image: Collection[str] = (),
) -> Refined:  # fmt: skip
    """Return the plan that is nearest to 8 bits of those that moves lead to, one after the other, from ``start``.

    ``layers``: the convolutions whose widths may change; ``widths``: those that there are. ``judge`` tells how far the
    output of a plan is from that at 8 bits; ``trials``: how many plans it judges at most, ``start`` aside. ``progress``
    is called with the least distance after each. ``image``: those of the layers that read the image, which is read
    exactly whatever a plan says.
    """
    readers = [name for name in layers if name not in image]
    places = _places(start, layers, readers)
    known = {places}
    started = least = judge(start)
    tried = 0
    while tried < trials:
        other = next(filter(None, (_moved(places, widths, known, rng) for _ in range(ATTEMPTS))), None)
        if other is None:
            break
        known.add(other)
        distance = judge(_plan(start, layers, readers, other))
        tried += 1
        if distance < least:
            places, least = other, distance
        progress(least)
    return Refined(_plan(start, layers, readers, places), least, started, tried)


def _places(plan: Plan, layers: Sequence[str], readers: Sequence[str]) -> Places:
    return (*(plan.of(name).weight_bits for name in layers), *(plan.of(name).act_bits for name in readers))


def _plan(start: Plan, layers: Sequence[str], readers: Sequence[str], places: Places) -> Plan:
    """Return a plan of these widths, with all else of ``start``."""
    weights = dict(zip(layers, places[: len(layers)], strict=True))
    activations = dict(zip(readers, places[len(layers) :], strict=True))
    return Plan(
        start.default,
        tuple(
            (name, LayerBits(bits, activations.get(name, start.of(name).act_bits))) for name, bits in weights.items()
        ),
    )


def _moved(places: Places, widths: Sequence[int], known: set[Places], rng: np.random.Generator) -> Places | None:
    """Return widths of which one or two went up to the next, and others down by as many bits.

    None if that cannot be, or they are known.
    """
    moved = list(places)
    for _ in range(2 if rng.random() < SECOND_MOVE else 1):
        up, down = (int(place) for place in rng.integers(len(moved), size=2))
        higher = min((bits for bits in widths if bits > moved[up]), default=0)
        lower = max((bits for bits in widths if bits < moved[down]), default=0)
        if up == down or not higher or not lower or higher - moved[up] != moved[down] - lower:
            return None
        moved[up], moved[down] = higher, lower
    return None if tuple(moved) in known else tuple(moved)
