"""What engine calls took: percentiles of the most recent ones, by model, precision and batch."""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

WINDOW_CALLS = 1000


@dataclass(frozen=True)
class Latency:
    """Engine calls of one batch size, most recent up to :data:`WINDOW_CALLS`: percentiles in milliseconds, how many."""

    p50_ms: float
    p99_ms: float
    count: int


class Latencies:
    """Windows of engine calls. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._windows: dict[tuple[str, str, int], deque[float]] = {}

    def note(self, model: str, precision: str, images: int, duration_ms: float) -> None:
        """Add an engine call of a batch of ``images``."""
        with self._lock:
            self._windows.setdefault((model, precision, images), deque(maxlen=WINDOW_CALLS)).append(duration_ms)

    def of(self, model: str, precision: str, images: int = 1) -> Latency | None:
        """Return what was measured of batches of that many images; None before the first call."""
        with self._lock:
            window = list(self._windows.get((model, precision, images), ()))
        if not window:
            return None
        window.sort()  # not under the lock, for which engine workers wait
        return Latency(percentile(window, 50), percentile(window, 99), len(window))

    def forget(self, model: str) -> None:
        """Drop what was measured of a model."""
        with self._lock:
            for key in [key for key in self._windows if key[0] == model]:
                del self._windows[key]


def percentile(ordered: Sequence[float], percent: int) -> float:
    """Return the nearest-rank percentile of ascending values."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
