"""The ladder of a model on this device: what each precision costs in time here, and which of them are worth having."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from bitgear.bits import Plan
from bitgear.errors import BitgearError

NOISE = 0.03
"""A rung must be faster than another by more than this share of its time to count as faster."""

RESOLUTION = 1e-4
"""A width counts for this much more accuracy, at least, than any narrower one: of ten thousand pictures, one."""

EFFICIENT = 1.05
"""An image in an efficient batch takes no more than so many times what it takes in the best one."""

PROMPT = 1.15
"""The same of a prompt batch, for which it is worth to wait where a deadline is set: what larger ones save, their first
images lose by waiting for the last to be decoded."""


class LadderError(BitgearError):
    """A ladder that cannot be: no rungs, a precision twice, latencies that are not positive."""

    code = "ladder-invalid"


@dataclass(frozen=True)
class Rung:
    """One precision of a model on this device: a width, or a named plan.

    ``precision``: its name, as clients write it. ``mean_bits``: of its layers, see :func:`bitgear.plans.mean_bits`; of
    a width the width. ``accuracy``: the main metric of the model's task as the master states it, 0..1; 0 if it states
    none. A batch of n occupies a worker for ``fixed_ms`` + ``per_image_ms`` * n, a high percentile of what was
    measured. ``pruned``: ``auto`` takes it only where bounds leave no better one; ``reason`` says why. Whoever pins it
    gets it all the same.
    """

    precision: str
    plan: Plan
    mean_bits: float
    accuracy: float
    fixed_ms: float
    per_image_ms: float
    pruned: bool = False
    reason: str | None = None

    @property
    def said(self) -> int | str:
        """Its name as JSON has it: a number for a width, a string for a plan."""
        return self.precision if self.is_mixed else int(self.precision)

    @property
    def is_mixed(self) -> bool:
        """Whether it is a named plan."""
        return not self.precision.isdecimal()

    def latency_ms(self, count: int) -> float:
        """Return the milliseconds that a batch of ``count`` images occupies a worker."""
        return self.fixed_ms + self.per_image_ms * count

    def images_within(self, time_ms: float, limit: int) -> int:
        """Return how many images, from 1 to ``limit``, a batch may have that takes up to ``time_ms``."""
        if self.per_image_ms == 0:
            return limit
        return int(max(1, min(limit, (time_ms - self.fixed_ms) / self.per_image_ms)))

    def within(self, floor_bits: int, ceiling_bits: int) -> bool:
        """Return whether its mean width lies between the bounds, both included."""
        return floor_bits <= self.mean_bits <= ceiling_bits


@dataclass(frozen=True, eq=False)
class Ladder:
    """The rungs of a model on this device, and the largest batch of one engine call.

    ``noise``: by what factor the rungs' times, a high percentile, exceed the median.

    The highest width is the first rung, and what stands later is meant to be faster: widths by falling bits, plans
    between them by their time when the ladder was first made (:func:`by_time`). Sets of rungs are bit masks: bit i
    stands for ``rungs[i]``, for as long as the model is served. Made by :meth:`of`, which marks what is pruned. Two
    ladders are the same only if they are the same object.
    """

    model: str
    rungs: tuple[Rung, ...]
    max_batch: int
    noise: float = 1.0

    @classmethod
    def of(cls, model: str, rungs: tuple[Rung, ...], max_batch: int, noise: float = 1.0) -> "Ladder":
        """Return the ladder of these rungs, in their order, with those marked as pruned that buy nothing.

        Raises :class:`LadderError` for no rungs, a precision given twice, a batch below 1, or a time that is negative
        or not finite, or zero altogether.
        """
        if not rungs or len({rung.precision for rung in rungs}) != len(rungs) or max_batch < 1:
            raise LadderError(f"ladder of {model}: expected rungs of different precisions and a batch of at least 1")
        for rung in rungs:
            times_ms = (rung.fixed_ms, rung.per_image_ms)
            if not (all(0 <= time_ms < float("inf") for time_ms in times_ms) and sum(times_ms) > 0):
                raise LadderError(
                    f"ladder of {model}: precision {rung.precision} takes {rung.fixed_ms} ms and {rung.per_image_ms} ms"
                    " an image; expected times that are not negative, nor both zero"
                )
        bare = cls(model, tuple(replace(rung, pruned=False, reason=None) for rung in rungs), max_batch, noise)
        better = bare._better(bare.all_rungs)
        marked = [
            replace(rung, pruned=True, reason=bare._why(index, better[index])) if index in better else rung
            for index, rung in enumerate(bare.rungs)
        ]
        return cls(model, tuple(marked), max_batch, noise)

    def _why(self, index: int, other: int) -> str:
        if self._is_blind(index):
            return "its accuracy is not known"
        return f"{self.rungs[other].precision} is as fast and as accurate"

    @cached_property
    def efficient_batches(self) -> tuple[int, ...]:
        """For each rung the smallest batch in which an image takes little longer than in the best one."""
        return self._batches(EFFICIENT)

    @cached_property
    def prompt_batches(self) -> tuple[int, ...]:
        """Likewise, but those worth waiting for where a deadline is set."""
        return self._batches(PROMPT)

    def _batches(self, longer: float) -> tuple[int, ...]:
        return tuple(
            next(
                count
                for count in range(1, self.max_batch + 1)
                if rung.latency_ms(count) / count
                <= longer * min(rung.latency_ms(other) / other for other in (1, self.max_batch))
            )
            for rung in self.rungs
        )

    def worth(self, mask: int) -> tuple[float, ...]:
        """Return for each rung the accuracy it counts for: its own, but a width for more than any narrower one.

        The first of a mask, at which a server at rest serves whoever allows these, counts for more than any other of
        it, whatever noise says.
        """
        worth = self._worth_by_mask.get(mask)
        if worth is None:
            worth = self._worth_by_mask[mask] = self._weigh(mask)
        return worth

    @cached_property
    def _worth_by_mask(self) -> dict[int, tuple[float, ...]]:
        return {}

    def _weigh(self, mask: int) -> tuple[float, ...]:
        worth = [rung.accuracy for rung in self.rungs]
        narrower = -math.inf
        for index in reversed(range(len(worth))):
            if not self.rungs[index].is_mixed:
                narrower = worth[index] = max(worth[index], narrower + RESOLUTION)
        first, *others = positions(mask)
        worth[first] = max(worth[first], max((worth[index] for index in others), default=-math.inf) + RESOLUTION)
        return tuple(worth)

    @cached_property
    def alone_s(self) -> tuple[float, ...]:
        """For each rung the seconds that one image takes at the median."""
        return tuple(rung.latency_ms(1) / self.noise / 1000 for rung in self.rungs)

    @cached_property
    def image_s(self) -> tuple[float, ...]:
        """For each rung the seconds that an image in an efficient batch takes."""
        batches = zip(self.rungs, self.efficient_batches, strict=True)
        return tuple(rung.latency_ms(count) / count / 1000 for rung, count in batches)

    @property
    def all_rungs(self) -> int:
        """The mask of all rungs."""
        return (1 << len(self.rungs)) - 1

    def index(self, precision: str) -> int | None:
        """Return the position of the rung of that name; None if there is none."""
        return self._positions.get(precision)

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {rung.precision: index for index, rung in enumerate(self.rungs)}

    def by_speed(self, mask: int) -> tuple[int, ...]:
        """Return the positions of a mask, the rung that takes longest with one image first; equals as they stand.

        For useful rungs that is their order, until the times of a ladder are made anew.
        """
        found = self._by_speed.get(mask)
        if found is None:
            found = tuple(sorted(positions(mask), key=lambda index: -self.rungs[index].latency_ms(1)))
            self._by_speed[mask] = found
        return found

    def fastest(self, mask: int) -> int:
        """Return the rung of a mask that takes least with one image, of equals the last."""
        return self.by_speed(mask)[-1]

    @cached_property
    def _by_speed(self) -> dict[int, tuple[int, ...]]:
        return {}

    def useful(self, mask: int) -> int:
        """Return those rungs of a mask that are worth having if there are no others than these: one at least.

        A rung is not if another one is as fast at any batch, give or take :data:`NOISE`, and as accurate; nor is a plan
        of unknown accuracy. Among widths a wider one passes for as accurate as any narrower one, whatever noise says;
        the first rung, the model at its best, for the most accurate of all.
        """
        return mask & ~sum(1 << index for index in self._better(mask))

    def instead(self, index: int, mask: int) -> int:
        """Return the useful rung of a mask that is as good as ``index``, or ``index`` itself if it is useful."""
        better = self._better(mask)
        while index in better:
            index = better[index]
        return index

    @cached_property
    def _pruned_by_mask(self) -> dict[int, dict[int, int]]:
        return {}

    def _better(self, mask: int) -> dict[int, int]:
        """Return, for each rung of a mask that is not worth having, the one that is as good."""
        better = self._pruned_by_mask.get(mask)
        if better is None:
            better = self._pruned_by_mask[mask] = self._compare(mask)
        return better

    def _compare(self, mask: int) -> dict[int, int]:
        accuracy = self._accuracies(mask)
        highest = next((index for index in positions(mask) if not self.rungs[index].is_mixed), None)

        def rank(index: int) -> tuple[float, bool, float, int]:
            return -accuracy[index], index != highest, self.rungs[index].latency_ms(1), index

        better: dict[int, int] = {}
        kept: list[int] = []
        for index in sorted(accuracy, key=rank):
            other = next((each for each in kept if self._replaces(each, index)), None)
            if other is None:
                kept.append(index)
            else:
                better[index] = other
        return better

    def _accuracies(self, mask: int) -> dict[int, float]:
        """Return the accuracy that each rung of a mask passes for: a width for that of any narrower one at least."""
        accuracy: dict[int, float] = {}
        narrower = 0.0
        for index in sorted(positions(mask), reverse=True):
            rung = self.rungs[index]
            if rung.is_mixed:
                accuracy[index] = -math.inf if self._is_blind(index) else rung.accuracy
            else:
                accuracy[index] = narrower = math.inf if index == 0 else max(narrower, rung.accuracy)
        return accuracy

    def _replaces(self, one: int, other: int) -> bool:
        """Return whether ``one``, which passes for as accurate as ``other``, makes it worthless."""
        if self._is_blind(other):
            return True
        if self.rungs[other].is_mixed and one != 0 and self.rungs[one].accuracy < self.rungs[other].accuracy:
            return False  # that a wider width is better is no matter of a plan
        return self._as_fast(one, other, NOISE)

    def _is_blind(self, index: int) -> bool:
        return self.rungs[index].is_mixed and self.rungs[index].accuracy == 0

    def _as_fast(self, one: int, other: int, noise: float) -> bool:
        """Return whether ``one`` takes no more time than ``other`` at any batch, give or take a share of it."""
        # Both are lines over the batch size: what holds at its ends holds between.
        return all(
            self.rungs[one].latency_ms(count) * (1 - noise) <= self.rungs[other].latency_ms(count)
            for count in (1, self.max_batch)
        )


def by_time(rungs: Iterable[Rung]) -> tuple[Rung, ...]:
    """Return rungs in the order of a ladder: widths by falling bits, each plan before the first width that is faster.

    That is judged by the time of one image. The highest width is the first in any case.
    """
    given = sorted(rungs, key=lambda rung: (-rung.latency_ms(1), rung.precision))
    plans = [rung for rung in given if rung.is_mixed]
    ordered = sorted((rung for rung in given if not rung.is_mixed), key=lambda rung: -rung.mean_bits)
    for plan in plans:  # the slowest first, so that none gets before a slower one at the same place
        faster = (place for place, rung in enumerate(ordered[1:], 1) if rung.latency_ms(1) < plan.latency_ms(1))
        ordered.insert(next(faster, len(ordered)), plan)
    return tuple(ordered)


def positions(mask: int) -> Iterator[int]:
    """Yield the positions of the bits of a mask, lowest first.

    >>> list(positions(0b1010))
    [1, 3]
    """
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
