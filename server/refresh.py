"""A ladder that follows the device: batches that were served correct what was measured at the start."""

import math
import threading
from dataclasses import dataclass, replace

from server.ladder import Ladder
from server.measurement import MAX_NOISE, Line, Times, fit

TOLERATED_ERROR = 0.1
"""Beyond that share of error a ladder is made anew."""

MEMORY_BATCHES = 100
"""An observation has lost most of its weight after so many others."""

PRIOR_BATCHES = 10
"""What was measured at the start counts as so many observations."""

ENOUGH_BATCHES = 8.0
"""Weight of observations below which nothing is said of a precision itself."""

OUTLIER = 2.0
"""A batch that takes so many times as long as expected, or less than the inverse of it, counts as just that."""

_DEVIATIONS_OF_90_PERCENT = 1.2816
_FORGET = 1 - 1 / MEMORY_BATCHES

Sums = tuple[float, float, float, float, float]


@dataclass
class _Track:
    """What is known of a precision: as measured, as the ladder has it now, and as observed.

    ``sums``: discounted, what :func:`~server.measurement.fit` needs. ``weight``: of the observations in them;
    ``square``: of their relative residuals.
    """

    measured: Line
    line: Line
    sums: Sums
    weight: float = 0.0
    square: float = 0.0


class Refresh:
    """Observes batches, and makes a ladder anew when it is wrong by more than :data:`TOLERATED_ERROR`.

    Any thread may use it. Lines are of least squares, recursively and with forgetting. A precision that was not served
    enough of late is what was measured at the start, times what the others have become slower since: what slows a
    device down slows all of them, and a precision that nobody takes any more because it once was slow gets
    another chance.
    """

    def __init__(self, ladder: Ladder, times: Times) -> None:
        self._lock = threading.Lock()
        self._ladder = ladder
        self._noise = times.noise
        self._tracks = {name: _Track(line, line, _prior(line, ladder.max_batch)) for name, line in times.lines.items()}
        self._count = 0

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
            return 0.0 if track is None or track.weight < ENOUGH_BATCHES else self._error(track, fit(*track.sums))

    def observe(self, precision: str, images: int, duration_ms: float) -> bool:
        """Take in what a batch took; return whether the ladder was made anew for it."""
        with self._lock:
            track = self._tracks.get(precision)
            if track is None or images < 1:
                return False
            expected_ms = fit(*track.sums).at(images)
            ratio = min(max(duration_ms / expected_ms, 1 / OUTLIER), OUTLIER)
            track.sums = _plus(track.sums, _FORGET, 1, images, expected_ms, ratio)
            for other in self._tracks.values():
                other.weight *= _FORGET
                other.square *= _FORGET
            track.weight += 1
            track.square += (ratio - 1) ** 2
            self._count += 1
            if self._count % MEMORY_BATCHES == 0:  # what was observed long ago may have been forgotten since
                wrong = any(abs(self._error(each, line)) > TOLERATED_ERROR for each, line in self._lines())
                wrong = wrong or abs(self._observed_noise() / self._noise - 1) > TOLERATED_ERROR
            else:
                wrong = track.weight >= ENOUGH_BATCHES and abs(self._error(track, fit(*track.sums))) > TOLERATED_ERROR
            if wrong:
                self._rebuild()
            return wrong

    def _error(self, track: _Track, line: Line) -> float:
        return max((line.at(images) / track.line.at(images) - 1 for images in (1, self._ladder.max_batch)), key=abs)

    def _lines(self) -> list[tuple[_Track, Line]]:
        """Return for each precision the line that the ladder should have."""
        fitted = {name: fit(*track.sums) for name, track in self._tracks.items() if track.weight >= ENOUGH_BATCHES}
        changes = [line.at(1) / self._tracks[name].measured.at(1) for name, line in fitted.items()]
        drift = sum(changes) / len(changes) if changes else 1.0
        return [(track, fitted.get(name, track.measured.scaled(drift))) for name, track in self._tracks.items()]

    def _observed_noise(self) -> float:
        """Return by what factor the 90th percentile is above the lines, if residuals are normal."""
        weight = sum(track.weight for track in self._tracks.values())
        deviation = math.sqrt(sum(track.square for track in self._tracks.values()) / weight)
        return min(MAX_NOISE, 1 + _DEVIATIONS_OF_90_PERCENT * deviation)

    def _rebuild(self) -> None:
        max_batch = self._ladder.max_batch
        for track, line in self._lines():
            track.line = line
            if track.weight < ENOUGH_BATCHES:
                track.sums = _prior(line, max_batch)
        self._noise = self._observed_noise()
        rungs = []
        for rung in self._ladder.rungs:
            line = self._tracks[rung.precision].line.scaled(self._noise)
            rungs.append(replace(rung, fixed_ms=line.fixed_ms, per_image_ms=line.per_image_ms))
        self._ladder = Ladder.of(self._ladder.model, tuple(rungs), max_batch, self._noise)


def _prior(line: Line, max_batch: int) -> Sums:
    """Return the sums as if the line had been observed, half the times with one image, half with most."""
    alone = _plus((0.0, 0.0, 0.0, 0.0, 0.0), 1.0, PRIOR_BATCHES / 2, 1, line.at(1), 1.0)
    return _plus(alone, 1.0, PRIOR_BATCHES / 2, max_batch, line.at(max_batch), 1.0)


def _plus(sums: Sums, kept: float, times: float, images: int, expected_ms: float, ratio: float) -> Sums:
    """Return what is kept of the sums, and so many observations of ``ratio`` times the expected time."""
    weight, x, xx, y, xy = sums
    own = times / expected_ms**2  # squares of relative errors
    return (
        kept * weight + own,
        kept * x + own * images,
        kept * xx + own * images * images,
        kept * y + own * ratio * expected_ms,
        kept * xy + own * images * ratio * expected_ms,
    )
