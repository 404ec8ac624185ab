"""What each precision of a model takes on this device: engine calls timed, and a line through them."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np

from bitgear.bits import MASTER_BITS, Plan
from bitgear.checkpoint import Master
from bitgear.engines.base import DerivedModel
from bitgear.plans import mean_bits
from server.ladder import Ladder, Rung, by_time
from server.tasks import TASKS

PERCENTILE = 90
"""Of calls, as the ladder states it: a plan that holds nine times out of ten."""

ROUNDS = 3
"""How often a batch must at least be timed: one that was timed once, in a slow moment, bends the line of its width."""

MAX_NOISE = 1.5
"""A busy moment does not make the ladder slower than this, relative to the median."""

Samples = Mapping[int, Sequence[float]]
"""Milliseconds of engine calls, by number of images."""


@dataclass(frozen=True)
class Line:
    """A batch of n images takes ``fixed_ms`` + ``per_image_ms`` * n, neither negative, not both zero."""

    fixed_ms: float
    per_image_ms: float

    def at(self, count: float) -> float:
        """Return the milliseconds for ``count`` images."""
        return self.fixed_ms + self.per_image_ms * count

    def scaled(self, factor: float) -> "Line":
        """Return the line of times that are so many times as long."""
        return Line(self.fixed_ms * factor, self.per_image_ms * factor)


@dataclass(frozen=True)
class Times:
    """Medians of engine calls as a line for each precision, and what factor leads from there to the 90th percentile."""

    lines: Mapping[str, Line]
    noise: float


def fit(weight: float, x: float, xx: float, y: float, xy: float) -> Line:
    """Return the line of least weighted squares, from sums over observations of weight * (1, x, x*x, y, x*y).

    x is a number of images, y are milliseconds. Where the best line has a negative part, that part is 0.
    """
    spread = weight * xx - x * x
    if spread > 1e-9 * weight * xx:
        slope = (weight * xy - x * y) / spread
        fixed = (y - slope * x) / weight
        if slope >= 0 and fixed >= 0:
            return Line(fixed, slope)
        if slope < 0:
            return Line(y / weight, 0.0)
    return Line(0.0, xy / xx)


def fit_samples(samples: Samples) -> tuple[Line, list[float]]:
    """Return the line through the medians, and each sample relative to the median of its batch.

    Squares are of relative errors: a batch of one counts as much as one of sixteen.
    """
    sums = np.zeros(5)
    relative: list[float] = []
    for count, times_ms in samples.items():
        median_ms = float(np.median(times_ms))
        sums += np.array([1, count, count * count, median_ms, count * median_ms]) / median_ms**2
        relative += [time_ms / median_ms for time_ms in times_ms]
    return fit(*map(float, sums)), relative


def measure(
    master: Master,
    derive: Callable[[Plan], DerivedModel],
    max_batch: int,
    budget_s: float,
    clock: Callable[[], float] = time.perf_counter,
    turn: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Times:
    """Return what the precisions of a master take, from calls of batches of 1, 2, 4, ... up to ``max_batch``.

    Rounds go through all precisions in turn, so that a slow moment hits all alike; the batch that has had least time so
    far is next. Batches are left out that there is no time to run :data:`ROUNDS` times at each precision. After
    ``budget_s``, and as much longer as there are plans beside the widths, no call begins, but each precision is called
    twice, the first time to warm up. ``turn`` is entered for each call.
    """
    models = {name: derive(plan) for name, plan in master.precisions.items()}
    budget_s *= len(models) / len(master.widths)
    batches = [*(1 << power for power in range(max_batch.bit_length()) if 1 << power < max_batch), max_batch]
    rng = np.random.default_rng(0)
    record = master.input
    pixels = rng.integers(0, 256, (max_batch, record.height_px, record.width_px, 3), np.uint8)
    codes = record.encode(pixels)
    started_s = clock()
    for model in models.values():
        with turn():
            model.run(codes[:1])
    samples: dict[str, dict[int, list[float]]] = {name: {} for name in models}

    def call(name: str, batch: int) -> float:
        with turn():
            begun_s = clock()
            models[name].run(codes[:batch])
            taken_s = max(clock() - begun_s, 1e-9)
        samples[name].setdefault(batch, []).append(1000 * taken_s)
        return taken_s

    spent_s = {1: sum(call(name, 1) for name in models)}
    left_s = budget_s - (clock() - started_s)
    # A batch takes no longer than its images one by one. All batches get the same time: the largest, the fewest rounds.
    spent_s |= {
        batch: 0.0
        for others, batch in enumerate(batches[1:], 1)
        if ROUNDS * batch * spent_s[1] * (1 + others) <= left_s
    }
    while clock() - started_s < budget_s:
        batch = min(spent_s, key=spent_s.__getitem__)
        for name in models:
            if clock() - started_s >= budget_s:
                break
            spent_s[batch] += call(name, batch)
    lines: dict[str, Line] = {}
    relative: list[float] = []
    for name, calls in samples.items():
        lines[name], spread = fit_samples(calls)
        relative += spread
    return Times(lines, min(MAX_NOISE, max(1.0, float(np.percentile(relative, PERCENTILE)))))


def measured_ladder(master: Master, times: Times, max_batch: int) -> Ladder:
    """Return the ladder of a master whose precisions take these times."""
    lines = {name: times.lines[name].scaled(times.noise) for name in master.precisions}
    return _ladder(master, lines, max_batch, times.noise)


def unmeasured_ladder(master: Master, alone_ms: float, max_batch: int) -> Ladder:
    """Return the ladder of a master of which one call of one image is known: as if no precision were any faster."""
    return _ladder(master, dict.fromkeys(master.precisions, Line(0.0, alone_ms)), max_batch)


def assumed_ladder(master: Master, max_batch: int) -> Ladder:
    """Return the ladder of a master that was not measured: a millisecond for an image at 8 bits, half of it fixed."""
    bits = {name: mean_bits(master.graph, plan) for name, plan in master.precisions.items()}
    return _ladder(master, {name: Line(0.5, 0.5).scaled(bits[name] / MASTER_BITS) for name in bits}, max_batch)


def _ladder(master: Master, lines: Mapping[str, Line], max_batch: int, noise: float = 1.0) -> Ladder:
    metric = TASKS[master.task].metrics[0]
    rungs = by_time(
        Rung(
            precision=name,
            plan=plan,
            mean_bits=mean_bits(master.graph, plan),
            accuracy=master.metrics(name).get(metric, 0.0),
            fixed_ms=lines[name].fixed_ms,
            per_image_ms=lines[name].per_image_ms,
        )
        for name, plan in master.precisions.items()
    )
    return Ladder.of(master.name, rungs, max_batch, noise)
