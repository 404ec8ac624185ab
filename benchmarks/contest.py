"""Several ways to the same answer, timed in turn in one process.

A machine is never quite the same from one minute to the next, so nothing is measured in one piece: in every round each
contender has a block of a few calls, in an order drawn anew, and what is compared are blocks of the same round.

Idle contenders must not disturb the one that is measured. Thread pools go on spinning after a call, for up to 50 ms
here, and would take a core from the next contender. So a block begins when the whole process has come to rest, which
its own processor time tells, and with calls that do not count, which wake the contender's threads and fill the caches.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

NATIVE = "bitgear-native"
FP32, BF16, INT8 = "fp32", "bf16", "int8"
"""Precisions of peers; ours are called as in requests: ``4``, ``w8a7``."""

BLOCK_SECONDS = 0.05
CALLS_MIN, CALLS_MAX = 3, 100
WARM_UP_CALLS = 2
REST_STEP_SECONDS, REST_LIMIT_SECONDS = 0.002, 0.5
REST_STEPS, REST_SHARE = 2, 0.1


@dataclass(frozen=True)
class Contender:
    """A network ready to run: ``call`` answers one fixed batch, float32 (N, classes)."""

    engine: str
    precision: str
    settings: str
    call: Callable[[], NDArray[np.float32]]


@dataclass
class Times:
    """Milliseconds of every call by round, and milliseconds of rest that the contenders before it made necessary."""

    rounds_ms: list[list[float]] = field(default_factory=list)
    rest_ms: list[float] = field(default_factory=list)

    @property
    def median_ms(self) -> float:
        """Median over all calls."""
        return self.percentile_ms(50)

    def percentile_ms(self, percent: float) -> float:
        """Return a percentile over all calls."""
        return float(np.percentile(np.concatenate([np.asarray(r) for r in self.rounds_ms]), percent))


@dataclass(frozen=True)
class Ratio:
    """One contender's time by another's, of a round's medians: median, 10th and 90th percentile over the rounds."""

    median: float
    p10: float
    p90: float


def hold(contenders: Sequence[Contender], rounds: int, seed: int = 0, label: str = "rounds") -> list[Times]:
    """Return the times of every contender, in the order given."""
    rng = np.random.default_rng(seed)
    times = [Times() for _ in contenders]
    for _ in tqdm(range(rounds), desc=label, unit="round", leave=False):
        for index in rng.permutation(len(contenders)):
            times[index].rest_ms.append(1e3 * _rest())
            times[index].rounds_ms.append(_block(contenders[index].call))
    return times


def ratio(slower: Times, faster: Times) -> Ratio:
    """Return how many times as long as ``faster`` the contender ``slower`` took in the same contest."""
    rounds = [np.median(a) / np.median(b) for a, b in zip(slower.rounds_ms, faster.rounds_ms, strict=True)]
    p10, median, p90 = (float(value) for value in np.percentile(rounds, [10, 50, 90]))
    return Ratio(median, p10, p90)


def _rest() -> float:
    """Wait until no thread of this process computes any more; return the seconds it took."""
    started = time.perf_counter()
    steps = 0  # of rest, one after the other
    while steps < REST_STEPS and time.perf_counter() - started < REST_LIMIT_SECONDS:
        wall, computed = time.perf_counter(), time.process_time()
        time.sleep(REST_STEP_SECONDS)
        computing = time.process_time() - computed > REST_SHARE * (time.perf_counter() - wall)
        steps = 0 if computing else steps + 1
    return time.perf_counter() - started


def _block(call: Callable[[], object]) -> list[float]:
    for _ in range(WARM_UP_CALLS):
        call()
    samples_ms: list[float] = []
    until = time.perf_counter() + BLOCK_SECONDS
    while len(samples_ms) < CALLS_MIN or (len(samples_ms) < CALLS_MAX and time.perf_counter() < until):
        started = time.perf_counter()
        call()
        samples_ms.append(1e3 * (time.perf_counter() - started))
    return samples_ms
