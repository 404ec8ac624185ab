"""When requests come in: processes to draw from, and recorded traces to replay.

All return moments in seconds from the start, ascending, float64, within ``duration_s``: as many as the rate makes in
that time, rounded, so that every run has the load it is called by. The same generator gives the same moments.
"""

import csv
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Moments = NDArray[np.float64]


def gamma(rate_per_s: float, cv2: float, duration_s: float, rng: np.random.Generator) -> Moments:
    """Return a renewal process whose gaps are gamma distributed, squeezed or stretched to have its number of moments.

    ``cv2``: squared coefficient of variation of the gaps: 0 is a clock, 1 is Poisson, above are bursts.
    """
    return _renewal(rate_per_s * duration_s, cv2, rng) / rate_per_s


def ramp(start_per_s: float, end_per_s: float, cv2: float, duration_s: float, rng: np.random.Generator) -> Moments:
    """Return a gamma process whose rate goes from one value to another in a straight line."""
    total = (start_per_s + end_per_s) / 2 * duration_s
    # The process runs on a clock that counts expected arrivals; that clock is a parabola over time, inverted here.
    clock = _renewal(total, cv2, rng)
    slope = (end_per_s - start_per_s) / duration_s
    if slope == 0:
        return clock / start_per_s
    moments: Moments = 2 * clock / (start_per_s + np.sqrt(start_per_s**2 + 2 * slope * clock))
    return moments


def replay_counts(
    counts: NDArray[np.integer], rate_per_s: float, duration_s: float, rng: np.random.Generator
) -> Moments:
    """Return moments whose density follows counts over equal periods, squeezed or stretched into ``duration_s``.

    Each is drawn on its own.
    """
    edges = np.linspace(0, duration_s, len(counts) + 1)
    share = np.concatenate([[0.0], np.cumsum(counts, dtype=np.float64)])
    drawn = np.sort(rng.random(round(rate_per_s * duration_s))) * share[-1]
    moments: Moments = np.interp(drawn, share, edges)
    return moments


def replay_moments(
    recorded_s: NDArray[np.floating], rate_per_s: float, duration_s: float, rng: np.random.Generator
) -> Moments:
    """Return recorded moments, from one drawn at random on, at the speed that fits them into ``duration_s``.

    Bursts stay bursts. After the last recorded moment comes the first, a mean gap later: a short trace is repeated.

    Where so many from it on have one stamp, all come at once, at the start.
    """
    gaps_s = np.diff(np.sort(recorded_s.astype(np.float64)))
    gaps_s = np.append(gaps_s, gaps_s.mean() if gaps_s.any() else 1.0)
    first, count = rng.integers(len(gaps_s)), round(rate_per_s * duration_s)
    kept_s = np.cumsum(gaps_s[(first + np.arange(count)) % len(gaps_s)])
    if not count:
        return np.empty(0)
    return np.concatenate([[0.0], kept_s[:-1]]) * (duration_s / kept_s[-1] if kept_s[-1] else 1.0)


def read_trace(path: Path, rate_per_s: float, duration_s: float, rng: np.random.Generator) -> Moments:
    """Return a recorded trace at a mean rate.

    ``path``: ``.npz`` with ``counts`` over equal periods, the whole of it squeezed into ``duration_s``; ``.csv`` with a
    column ``TIMESTAMP``; anything else has one gap in microseconds a line.

    Raises ``ValueError`` for a file without moments.
    """
    if path.suffix == ".npz":
        counts = np.load(path)["counts"]
        if not counts.sum():
            raise ValueError(f"{path} counts no requests")
        return replay_counts(counts, rate_per_s, duration_s, rng)
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            stamps = [datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp() for row in csv.DictReader(file)]
        recorded_s = np.asarray(stamps)
    else:
        recorded_s = read_intervals(path)
    if not len(recorded_s):
        raise ValueError(f"{path} holds no requests")
    return replay_moments(recorded_s, rate_per_s, duration_s, rng)


def read_intervals(path: Path) -> Moments:
    """Return the moments of a file of gaps in microseconds, one a line, as load generators for other servers read."""
    moments: Moments = np.cumsum(np.loadtxt(path, dtype=np.float64, ndmin=1)) / 1e6
    return moments


def _renewal(total: float, cv2: float, rng: np.random.Generator) -> Moments:
    """Return moments within ``total``, that many of them, rounded, scaled so that the next would come at its end.

    With ``cv2`` = 1 that is the process on the condition of its count. Gaps are shorter by one part in the count.
    """
    count = round(total)
    ends = np.cumsum(np.ones(count + 1) if cv2 == 0 else rng.gamma(1 / cv2, cv2, count + 1))
    moments: Moments = ends[:-1] * (total / ends[-1])
    return moments
