"""What the event loop waits for while threads work on it: an answer, a deadline, or a client that has gone."""

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from starlette.types import Receive

from server.body import ClientGone
from server.errors import DeadlineExceeded
from server.scheduler import Job

WATCH_AFTER_S = 0.01
"""An answer that comes sooner is not watched over: to know that its client has gone would save little."""

T = TypeVar("T")


class Pending(Generic[T]):
    """An answer to come. Made and awaited on the event loop; resolved by the thread that has it.

    ``expires_s``: when nobody waits any longer, on the monotonic clock.
    """

    def __init__(self, expires_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[T] = self._loop.create_future()
        self._expires_s = expires_s
        self._timer: asyncio.TimerHandle | None = None
        self._watch: asyncio.Task[None] | None = None
        self._job: Job | None = None
        self.gone = False
        """Whether nobody waits any more: what is not begun should not be."""

    def attach(self, job: Job) -> None:
        """Tell which job the answer comes from; it is gone when this is."""
        self._job = job
        if self.gone:  # else it may become so just now, and that must not be taken back
            job.gone = True

    def resolve(self, answer: T) -> None:
        """Give the answer. From any thread."""
        self._post(lambda: self._accept(answer))

    def fail(self, error: Exception) -> None:
        """Give an error instead. From any thread."""
        self._post(lambda: self._abandon(error))

    def expire_at(self, expires_s: float) -> None:
        """Wait until then at most. From any thread."""
        self._post(lambda: self._arm(expires_s))

    async def wait(self, receive: Receive, begin: Callable[[], object]) -> T:
        """Return the answer, or raise what was given instead.

        ``begin`` sets a thread to work. It is called last: that thread cannot run before the event loop waits.
        Raises :class:`~server.errors.DeadlineExceeded` once it expires, and :class:`~server.body.ClientGone` once
        ``receive``, an ASGI channel whose body has ended, says so. That is asked from :data:`WATCH_AFTER_S` on.
        """
        self._arm(self._expires_s)
        watching = self._loop.call_later(WATCH_AFTER_S, self._begin_watch, receive)
        try:
            begin()
            return await self._future
        finally:
            self._give_up()
            watching.cancel()
            if self._watch is not None:
                self._watch.cancel()
            if self._timer is not None:
                self._timer.cancel()

    def _begin_watch(self, receive: Receive) -> None:
        self._watch = self._loop.create_task(self._await_end(receive))

    async def _await_end(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._abandon(ClientGone())

    def _arm(self, expires_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._future.done():
            self._timer = self._loop.call_later(expires_s - time.monotonic(), self._expire)

    def _expire(self) -> None:
        running = self._job is not None and self._job.running
        self._abandon(DeadlineExceeded("infer" if running else "queue"))

    def _accept(self, answer: T) -> None:
        if not self._future.done():
            self._future.set_result(answer)

    def _abandon(self, error: Exception) -> None:
        if not self._future.done():
            self._future.set_exception(error)

    def _give_up(self) -> None:
        self.gone = True
        if self._job is not None:
            self._job.gone = True
            self._job = None  # it holds images, and through its delivery this: a cycle would keep them for long

    def _post(self, action: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(action)
        except RuntimeError:  # the loop is closed: nobody waits
            self.gone = True
