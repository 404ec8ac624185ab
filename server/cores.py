"""No more threads compute at a time than there are cores, those with little to do first.

More would not get more done, but make one another slower: an engine call that is set aside while pictures are decoded
takes longer than the ladder says, the ladder follows, and a policy refuses what would have been in time.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

GIVES_WAY = 32
"""So many errands at most go before an engine call that waits: in a flood of pictures, some are to be answered, but in
batches."""

PATIENCE_S = 0.1
"""When no engine call has begun or ended for so long, errands go ahead: a slow device does not keep them from what is
short."""


class Cores:
    """``count`` cores, lent to threads one or several at a time. Any thread may use it.

    ``clock`` gives monotonic seconds.
    """

    def __init__(self, count: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._free = count
        self._clock = clock
        lock = threading.Lock()
        self._errand = threading.Condition(lock)
        self._call = threading.Condition(lock)
        self._lock = lock
        self._errands_waiting = 0
        self._errands_begun = 0
        self._calls: deque[int] = deque()  # of those that wait: how many errands may have begun before it is their turn
        self._called_s = clock()

    @property
    def waiting(self) -> tuple[int, int]:
        """How many errands wait for a core, and how many calls."""
        return self._errands_waiting, len(self._calls)

    @contextmanager
    def errand(self) -> Iterator[None]:
        """Hold a core for something short, such as a picture to decode; without one if calls take very long."""
        with self._lock:
            self._errands_waiting += 1
            patience_s = self._called_s + PATIENCE_S - self._clock()
            self._errand.wait_for(lambda: self._free > 0 and not self._call_is_due(), patience_s)
            self._errands_waiting -= 1
            self._errands_begun += 1
            self._free -= 1
        try:
            yield
        finally:
            self._give_back(1)

    @contextmanager
    def call(self, threads: int) -> Iterator[None]:
        """Hold as many cores as an engine call has threads, once no errand waits, or enough have gone before."""
        with self._lock:
            self._calls.append(self._errands_begun + GIVES_WAY)
            self._call.wait_for(lambda: self._free >= threads and (not self._errands_waiting or self._call_is_due()))
            self._calls.popleft()  # the oldest has its turn, whichever it is
            self._free -= threads
            self._called_s = self._clock()
            self._errand.notify(max(0, self._free))
        try:
            yield
        finally:
            self._called_s = self._clock()
            self._give_back(threads)

    def _call_is_due(self) -> bool:
        return bool(self._calls) and self._errands_begun >= self._calls[0]

    def _give_back(self, count: int) -> None:
        with self._lock:
            self._free += count
            self._errand.notify(count)
            self._call.notify_all()  # each judges for itself whether it is its turn
