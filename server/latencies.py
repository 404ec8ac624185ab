"""What engine calls took: percentiles of the most recent ones, by model, precision and batch."""

import threading
from collections import deque
from collections.abc import Mapping, Sequence
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
        self._windows: dict[tuple[str, str], dict[int, deque[float]]] = {}

    def note(self, model: str, precision: str, images: int, duration_ms: float) -> None:
        """Add an engine call of a batch of ``images``."""
        with self._lock:
            batches = self._windows.setdefault((model, precision), {})
            batches.setdefault(images, deque(maxlen=WINDOW_CALLS)).append(duration_ms)

    def of(self, model: str, precision: str) -> Mapping[int, Latency]:
        """Return what was measured by number of images, ascending; nothing before the first call."""
        with self._lock:
            batches = {n: sorted(window) for n, window in sorted(self._windows.get((model, precision), {}).items())}
        return {n: Latency(percentile(ms, 50), percentile(ms, 99), len(ms)) for n, ms in batches.items()}

    def forget(self, model: str) -> None:
        """Drop what was measured of a model."""
        with self._lock:
            for key in [key for key in self._windows if key[0] == model]:
                del self._windows[key]


def percentile(ordered: Sequence[float], percent: int) -> float:
    """Return the nearest-rank percentile of ascending values."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
