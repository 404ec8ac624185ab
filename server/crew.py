"""The threads that do whatever takes time: errands, such as a picture to decode, and engine calls.

No more of them compute at a time than there are cores, errands first until calls are due. More would not get more
done, but make one another slower: an engine call that is set aside while pictures are decoded takes longer than the
ladder says, the ladder follows, and a policy refuses what would have been in time.

Whoever is done with one thing takes the next: the picture that a thread has decoded, it may well run through the
network too. To wake another thread, and wait until it has the interpreter, takes longer than many an errand.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal

from server.errands import Errand, Errands
from server.errors import Draining
from server.policy import Waiting
from server.settings import SettingsError

GIVES_WAY = 32
"""So many errands at most go before as many engine calls as there are workers, due or not."""

PATIENCE_S = 0.1
"""When engine calls keep all cores for so long, errands go ahead, one by one: a slow device does not keep them from
what is short."""

START_TIMEOUT_S = 1.0
"""How long threads that have nothing to do yet may take to end, where others cannot be started."""

Kind = Literal["errand", "call"]

_logger = logging.getLogger(__name__)


class Crew:
    """Threads that compute on ``cores`` cores. Any thread may use it.

    ``call`` is what an engine call is, given the number of its worker, from 0 to ``workers`` - 1, of which each does
    one at a time; it computes with ``threads`` threads. It is called after :meth:`want`, at least once; if there may be
    more to do, it calls that again. ``spare``: threads for errands beside those of the workers. ``clock`` gives
    monotonic seconds.

    Construction raises :class:`~server.settings.SettingsError` where there may not be so many threads.
    """

    def __init__(
        self, cores: int, workers: int, threads: int = 1, spare: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.workers = workers
        self.cores = cores
        self.threads = threads
        self._gives_way = max(1, GIVES_WAY // workers)
        self._clock = clock
        self._call: Callable[[int], None] = lambda _: None
        lock = threading.Lock()
        self._lock = lock
        self._work = threading.Condition(lock)
        self._holders = threading.Condition(lock)
        self._free = cores
        self._idle_workers = list(range(workers))
        self._errands = Errands()
        self._errands_since_call = 0
        self._on_errands: dict[int, Errand] = {}
        self._wanted = self._due = False
        self._holds_waiting = 0
        self._called_s = clock()
        self._watched = False
        self._closed = False
        self._threads: list[threading.Thread] = []
        self._start(workers + spare)

    def calls(self, call: Callable[[int], None]) -> None:
        """Say what an engine call is. Before any is wanted."""
        self._call = call

    def errand(self, do: Callable[[], None], request: Waiting, whose: object = None) -> None:
        """Have something short done for a request of somebody.

        Raises :class:`~server.errors.Draining` once the crew is closed.
        """
        with self._lock:
            if self._closed:
                raise Draining()
            self._errands.put(Errand(do, request, whose))
            self._rouse()

    @property
    def errands(self) -> int:
        """How many errands nobody has begun yet."""
        return len(self._errands)

    def errands_before(self, order_s: float) -> Counter[object]:
        """Return how many errands go before one of that order for a deadline, by whose they are."""
        with self._lock:
            return self._errands.before(order_s, self._clock())

    def coming(self, whose: object) -> list[Waiting]:
        """Return the requests of somebody whose errands are not done yet, in no order."""
        with self._lock:
            begun = [errand.request for errand in self._on_errands.values() if errand.whose is whose]
            return begun + self._errands.of(whose)

    def want(self, due: bool = False) -> None:
        """Have an engine call made, as soon as a worker and its cores are free and no errand waits.

        ``due``: errands that wait are no reason to wait for.
        """
        with self._lock:
            self._wanted = True
            self._due = self._due or due
            # A thread on an errand looks for more itself, as soon as that is done.
            if threading.get_ident() not in self._on_errands:
                self._rouse()

    @contextmanager
    def hold(self, cores: int) -> Iterator[None]:
        """Keep cores from all others, for a call of one's own. It has its turn before engine calls.

        Raises :class:`~server.errors.Draining` once the crew is closed.
        """
        with self._lock:
            self._holds_waiting += 1
            self._holders.wait_for(lambda: self._closed or (self._free >= cores and not self._errands_wait_for_cores()))
            self._holds_waiting -= 1
            if self._closed:
                raise Draining()
            self._begin_call(cores)
            self._rouse()
        try:
            yield
        finally:
            with self._lock:
                self._end_call(cores)
                self._rouse()

    def close(self, timeout_s: float) -> None:
        """Forget errands that wait, and end the threads, waiting for up to ``timeout_s`` for what they do."""
        with self._lock:
            self._closed = True
            self._errands.clear()
            self._work.notify_all()
            self._holders.notify_all()
        until_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))

    # -- with the lock held ---------------------------------------------------------------------------------------

    def _has_given_way(self) -> bool:
        return self._errands_since_call >= self._gives_way

    def _call_waits(self) -> bool:
        return bool(self._wanted and self._idle_workers)

    def _errands_wait_for_cores(self) -> bool:
        """Return whether there are errands, and no call or holder whose turn it is."""
        turn = self._has_given_way()
        call_is_due = (self._call_waits() and (self._due or turn)) or (self._holds_waiting > 0 and turn)
        return len(self._errands) > 0 and not call_is_due

    def _calls_keep_all(self) -> bool:
        """Return whether there are errands, but no core is on any."""
        return len(self._errands) > 0 and not self._on_errands

    def _next(self) -> Kind | None:
        """Return what a thread should do now; None: nothing can be done, or nothing is to be."""
        if self._errands_wait_for_cores() and self._free > 0:
            return "errand"
        if self._call_waits() and self._free >= self.threads and not self._holds_waiting:
            return "call"
        if self._calls_keep_all() and self._clock() >= self._called_s + PATIENCE_S:
            return "errand"
        return None

    def _rouse(self) -> None:
        """Wake whoever could do something, or should see to it that errands do not wait for too long."""
        if self._next() is not None or (self._errands and not self._watched):
            self._work.notify()
        if self._holds_waiting:
            self._holders.notify_all()  # each judges for itself whether it is its turn

    def _await(self) -> Kind | None:
        """Wait for something to do; None: the crew is closed."""
        while not self._closed:
            kind = self._next()
            if kind is not None:
                return kind
            if self._calls_keep_all() and not self._watched:
                self._watched = True
                self._work.wait(max(0.0, self._called_s + PATIENCE_S - self._clock()))
                self._watched = False
            else:
                self._work.wait()
        return None

    def _begin_call(self, cores: int) -> None:
        self._free -= cores
        self._errands_since_call = 0
        self._called_s = self._clock()

    def _end_call(self, cores: int) -> None:
        self._free += cores
        self._called_s = self._clock()

    # -- without it -----------------------------------------------------------------------------------------------

    def _start(self, count: int) -> None:
        try:
            for number in range(count):
                thread = threading.Thread(target=self._serve, name=f"bitgear-{number}", daemon=True)
                thread.start()
                self._threads.append(thread)
        except RuntimeError as error:
            self.close(START_TIMEOUT_S)
            raise SettingsError(
                f"only {len(self._threads)} of {count} threads can be started; lower engine_workers or workers, or "
                "raise the limit of processes and threads that the system sets"
            ) from error

    def _serve(self) -> None:
        while self._do_next():
            pass

    def _do_next(self) -> bool:
        """Do the next thing; False: the crew is closed. What it was about is let go of before it waits for another."""
        with self._lock:
            kind = self._await()
            if kind is None:
                return False
            if kind == "errand":
                errand = self._errands.pop(self._clock())
                do, cores, worker = errand.do, 1, None
                self._free -= 1
                self._errands_since_call += 1
                self._on_errands[threading.get_ident()] = errand
            else:
                worker, cores = self._idle_workers.pop(), self.threads
                do = partial(self._call, worker)
                self._wanted = self._due = False
                self._begin_call(cores)
            self._rouse()
        try:
            do()
        except BaseException:  # a thread that ended would leave others waiting
            _logger.exception("a thread of the server goes on after a failure")
        with self._lock:
            if worker is None:
                self._free += 1
                del self._on_errands[threading.get_ident()]
            else:
                self._idle_workers.append(worker)
                self._end_call(cores)
            if self._holds_waiting:
                self._holders.notify_all()
        return True
