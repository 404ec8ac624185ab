"""A ladder that follows the device: batches that were served correct what was measured at the start."""

import math
import threading
from dataclasses import dataclass, field, replace
from statistics import median

from server.ladder import Ladder
from server.measurement import MAX_NOISE, Line, Times, fit

TOLERATED_ERROR = 0.1
"""Beyond that share of error a ladder is made anew."""

MEMORY_BATCHES = 100
"""An observation has lost most of its weight after so many others."""

PRIOR_BATCHES = 5
"""What was measured at the start counts as so many observations, which are forgotten as others are.

The proportions between sizes count as so many for good: nothing else is known of sizes that are not served.
"""

ENOUGH_BATCHES = 8.0
"""Weight of observations below which nothing is said of a precision itself."""

OUTLIER = 2.0
"""A batch that takes so many times as long as expected, or less than the inverse of it, counts as just that."""

STEP, STEP_BATCHES = 1.75, 8
"""So many batches on end that all take more than so many times as long as those of their precision and about their size
did lately, or all less than the inverse of it, are a device that has changed: another program has begun or ended."""

LEVEL_WEIGHT = 0.1
"""Weight of the newest batch in what those of its size took lately."""

LEAST_MS = 1e-6
"""A batch that takes no time by the clock, which may stand still, counts as one nanosecond."""

_DEVIATIONS_OF_90_PERCENT = 1.2816
_FORGET = 1 - 1 / MEMORY_BATCHES

Sums = tuple[float, float, float, float, float]

_NOTHING: Sums = (0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass
class _Track:
    """What is known of a precision: as measured, as the ladder has it now, and as observed.

    ``prior``: what was measured, as if it had been observed. ``sums``: what was observed. In both an observation weighs
    the inverse square of what was measured for its size, so that all count alike, whatever their size and whatever
    became of the device. ``count``: of observations; ``ratios``: the sum of what they took, relative to what was
    measured. ``start``: what that was before them, and ``trust`` for how many observations that counts. ``observed``:
    the line that follows. All these are discounted by each batch of the precision.
    ``weight``: of the observations, discounted by each batch of any precision; ``square``: of their relative
    deviations, likewise. ``ratio``: what the last one took, relative to what was expected. ``doubt``: more than 0 if it
    was moved by what others took, and as many batches of its own have not yet agreed. ``levels``: for each size that
    was observed, what its batches took lately, relative to what was measured.
    """

    measured: Line
    prior: Sums
    line: Line
    observed: Line
    sums: Sums = _NOTHING
    count: float = 0.0
    ratios: float = 0.0
    start: float = 1.0
    trust: float = PRIOR_BATCHES
    weight: float = 0.0
    square: float = 0.0
    ratio: float = 1.0
    doubt: int = 0
    levels: dict[int, float] = field(default_factory=dict)

    @property
    def scale(self) -> float:
        """How many times as long as measured batches take, sizes as they come."""
        return (self.trust * self.start + self.ratios) / (self.trust + self.count)

    def against_level(self, images: int, duration_ms: float) -> float:
        """Return how many times as long a batch took as those of about its size did lately; 1 if there were none."""
        near = min(self.levels, key=lambda size: max(size, images) / min(size, images), default=0)
        if not images <= 2 * near <= 4 * images:
            return 1.0
        return duration_ms / self.measured.at(images) / self.levels[near]

    def take(self, images: int, duration_ms: float) -> None:
        """Take in a batch."""
        measured_ms = self.measured.at(images)
        level = self.levels.get(images, duration_ms / measured_ms)
        self.levels[images] = level + LEVEL_WEIGHT * (duration_ms / measured_ms - level)
        self.sums = _plus(_sums(1, images, duration_ms, measured_ms), self.sums, _FORGET)
        self.count = 1 + _FORGET * self.count
        self.ratios = duration_ms / measured_ms + _FORGET * self.ratios
        self.trust *= _FORGET
        mean = self.ratios / self.count
        weight, x, xx, y, xy = self.prior  # moved along with what is observed, so that it bends no line by itself
        self.observed = fit(*_plus(self.sums, (weight, x, xx, mean * y, mean * xy))).scaled(self.scale / mean)

    def change(self, factor: float) -> None:
        """Suppose that batches take so many times as long as they did, and always had."""
        weight, x, xx, y, xy = self.sums
        self.sums = weight, x, xx, factor * y, factor * xy
        self.ratios, self.start, self.observed = factor * self.ratios, factor * self.start, self.observed.scaled(factor)
        self.levels = {images: factor * level for images, level in self.levels.items()}

    def forget(self, scale: float) -> None:
        """Suppose that batches take so many times as long as measured, whatever was observed."""
        self.observed = self.measured.scaled(scale)
        self.sums, self.count, self.ratios, self.levels = _NOTHING, 0.0, 0.0, {}
        self.start, self.trust = scale, PRIOR_BATCHES


class Refresh:
    """Observes batches, and makes a ladder anew when it is wrong by more than :data:`TOLERATED_ERROR`.

    Any thread may use it. What slows a device down slows all batches at all precisions, so what was measured at the
    start moves as a whole with what is observed. Of a precision that is served, observations bend its line where they
    differ by size (least squares, recursively and with forgetting); sizes that are not served keep the proportion that
    was measured. A precision that was not served enough of late is what was measured, times what the others have
    become slower since: one that nobody takes any more because it once was slow gets another chance. A step
    (:data:`STEP`) is taken for one of the whole device, and moves all precisions at once, also those that are not
    served; one that then turns out not to have moved steps back alone.
    """

    def __init__(self, ladder: Ladder, times: Times) -> None:
        self._lock = threading.Lock()
        self._ladder = ladder
        self._noise = times.noise
        self._tracks = {
            name: _Track(line, _prior(line, ladder.max_batch), line, line) for name, line in times.lines.items()
        }
        self._count = 0
        self._aside: list[tuple[_Track, int, float]] = []
        """The last batches, if they all took much longer than others like them, or all much less; and which of both."""
        self._side = 0

    @property
    def ladder(self) -> Ladder:
        """The ladder as it is now."""
        return self._ladder

    def error(self, precision: str) -> float:
        """Return by what share batches take longer than the ladder says, at the size where that is most.

        0 for a precision of which little is known.
        """
        with self._lock:
            track = self._tracks.get(precision)
            return 0.0 if track is None or track.weight < ENOUGH_BATCHES else self._error(track, track.observed)

    def observe(self, precision: str, images: int, duration_ms: float) -> bool:
        """Take in what a batch took, if that is finite; return whether the ladder was made anew for it."""
        with self._lock:
            track = self._tracks.get(precision)
            if track is None or images < 1 or not math.isfinite(duration_ms):
                return False
            duration_ms = max(duration_ms, LEAST_MS)
            ratio = track.against_level(images, duration_ms)
            side = 1 if ratio > STEP else -1 if ratio < 1 / STEP else 0
            wrong = False
            if side == 0 or side != self._side:
                wrong = sum(self._take(*each) for each in self._aside) > 0
                self._aside.clear()
            self._side = side
            if side == 0:
                track.doubt = max(0, track.doubt - 1)
                return self._take(track, images, duration_ms) or wrong
            self._aside.append((track, images, duration_ms))
            if len(self._aside) == STEP_BATCHES:
                self._step()
                return True
            return wrong

    def _take(self, track: _Track, images: int, duration_ms: float) -> bool:
        """Take in a batch; return whether the ladder was made anew for it."""
        expected_ms = track.observed.at(images)
        ratio = min(max(duration_ms / expected_ms, 1 / OUTLIER), OUTLIER)
        track.take(images, ratio * expected_ms)
        for other in self._tracks.values():
            other.weight *= _FORGET
            other.square *= _FORGET
        track.weight += 1
        track.square += (ratio - track.ratio) ** 2 / 2  # between neighbours: a device that changes is no noise
        track.ratio = ratio
        self._count += 1
        if self._count % MEMORY_BATCHES == 0:  # what was observed long ago may have been forgotten since
            noise = self._observed_noise() / self._noise
            wrong = _is_off(noise) or any(self._is_wrong(each, line.scaled(noise)) for each, line in self._lines())
        else:
            wrong = track.weight >= ENOUGH_BATCHES and self._is_wrong(track, track.observed)
        if wrong:
            self._rebuild()
        return wrong

    def _step(self) -> None:
        """Make the ladder anew for a device that has changed."""
        factor = median(track.against_level(images, duration_ms) for track, images, duration_ms in self._aside)
        served = {id(track) for track, _, _ in self._aside}
        doubted = all(track.doubt > 0 for track, _, _ in self._aside)
        for track in self._tracks.values():
            if id(track) in served or not doubted:
                track.change(factor)
                track.doubt = 0 if id(track) in served else STEP_BATCHES
        for track, _, _ in self._aside:
            track.weight += 1
        self._aside.clear()
        self._side = 0
        self._rebuild()

    def _error(self, track: _Track, line: Line) -> float:
        return max((ratio - 1 for ratio in self._ratios(track, line)), key=abs)

    def _is_wrong(self, track: _Track, line: Line) -> bool:
        """Return whether the ladder is off if batches take what the line says."""
        return any(_is_off(ratio) for ratio in self._ratios(track, line))

    def _ratios(self, track: _Track, line: Line) -> list[float]:
        """Return how many times as long a line says as the ladder does, at the smallest batch and at the largest."""
        return [line.at(images) / track.line.at(images) for images in (1, self._ladder.max_batch)]

    def _lines(self) -> list[tuple[_Track, Line]]:
        """Return for each precision the line that the ladder should have."""
        drift = self._drift()
        return [
            (track, track.observed if track.weight >= ENOUGH_BATCHES else track.measured.scaled(drift))
            for track in self._tracks.values()
        ]

    def _drift(self) -> float:
        """Return how many times as long as measured the batches of late took, of whatever precision."""
        weight = sum(track.weight for track in self._tracks.values())
        return sum(track.weight * track.scale for track in self._tracks.values()) / weight

    def _observed_noise(self) -> float:
        """Return by what factor the 90th percentile is above the lines, if deviations are normal."""
        weight = sum(track.weight for track in self._tracks.values())
        deviation = math.sqrt(sum(track.square for track in self._tracks.values()) / weight)
        return min(MAX_NOISE, 1 + _DEVIATIONS_OF_90_PERCENT * deviation)

    def _rebuild(self) -> None:
        drift = self._drift()
        for track in self._tracks.values():
            if track.weight < ENOUGH_BATCHES:
                track.forget(drift)
            track.line = track.observed
        self._noise = self._observed_noise()
        rungs = []
        for rung in self._ladder.rungs:
            line = self._tracks[rung.precision].line.scaled(self._noise)
            rungs.append(replace(rung, fixed_ms=line.fixed_ms, per_image_ms=line.per_image_ms))
        self._ladder = Ladder.of(self._ladder.model, tuple(rungs), self._ladder.max_batch, self._noise)


def _is_off(ratio: float) -> bool:
    """Return whether a time is too long or too short for what it is compared with."""
    return max(ratio, 1 / ratio) > 1 + TOLERATED_ERROR


def _prior(measured: Line, max_batch: int) -> Sums:
    """Return the sums as if what was measured had been observed, half of the times with one image, half with most."""
    alone, most = (
        _sums(PRIOR_BATCHES / 2, images, measured.at(images), measured.at(images)) for images in (1, max_batch)
    )
    return _plus(alone, most)


def _sums(times: float, images: int, duration_ms: float, measured_ms: float) -> Sums:
    """Return the sums of so many observations of one kind."""
    own = times / measured_ms**2
    return own, own * images, own * images * images, own * duration_ms, own * images * duration_ms


def _plus(one: Sums, other: Sums, times: float = 1.0) -> Sums:
    """Return the sums of both, the other ones counting so many times."""
    weight, x, xx, y, xy = (a + times * b for a, b in zip(one, other, strict=True))
    return weight, x, xx, y, xy
