"""The way of a request through the threads: prepared, run by the scheduler, finished."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.types import Receive

from server.calls import Pending
from server.crew import Crew
from server.errors import DeadlineExceeded, Draining, RequestError
from server.exchange import Exchange, ServedAt, Step
from server.pixels import NoRoom, Pixels, Room
from server.policy import Admission, Waiting, admit, explain
from server.precision import Wish
from server.registry import ServedModel
from server.rules import Rules
from server.scheduler import Job, Scheduler, Served

T = TypeVar("T")


@dataclass(frozen=True)
class Work(Generic[T]):
    """A request made ready for an engine: what it asks for, its codes, and how an answer is made of the output.

    ``q_image``: int8 (n, 3, H, W); ``finish`` takes the network's output, float32 (n, ...). Both are a worker's work.
    """

    wish: Wish
    q_image: NDArray[np.int8]
    finish: Callable[[NDArray[np.float32]], T]


Prepare = Callable[[Callable[[Wish], None], Room], Work[T]]
"""Makes a request ready; tells its first argument what it asks for as soon as that is known, decodes in its second."""


@dataclass(frozen=True)
class Inference(Generic[T]):
    """The answer to a request, what it was asked at, and the rung that served it."""

    answer: T
    asked: str
    served: ServedAt


class Requests:
    """Serves requests: threads of a crew prepare, run and finish them; the event loop does none of that."""

    def __init__(self, crew: Crew, scheduler: Scheduler, rules: Rules, pixels: Pixels) -> None:
        self._crew = crew
        self._scheduler = scheduler
        self._rules = rules
        self._pixels = pixels

    async def infer(
        self, model: ServedModel, wish: Wish, prepare: Prepare[T], exchange: Exchange, receive: Receive
    ) -> Inference[T]:
        """Return the answer to a request whose body has ended.

        ``wish``: what is known of it so far, for its deadline; that of the prepared work counts. ``prepare`` runs in a
        thread; it passes the whole wish on before it decodes, and lets through what that raises, and
        :class:`~server.pixels.NoRoom`, after which it is called again. The time each phase took, and which rung served,
        goes to ``exchange``. ``receive`` tells whether the client is still there.

        Raises what ``prepare`` and the engine raise, :class:`~server.errors.WidthNotOffered`,
        :class:`~server.errors.DeadlineExceeded`, :class:`~server.errors.Draining`, and
        :class:`~server.body.ClientGone`.
        """
        pending: Pending[_Done[T]] = Pending(exchange.started_s + self._rules.longest_s(wish))
        exchange.target_s = self._rules.target_s(model, wish)
        waiting = self._waiting(model, exchange, wish, self._likely(model, wish))
        if model.refresh is not None and self._scheduler.crowded_out(model, waiting, self._rules.conduct.margin):
            raise DeadlineExceeded("queue")
        request = _Request(pending, model, exchange, wish, prepare, waiting, time.monotonic())
        done = await pending.wait(
            receive,
            lambda: self._crew.errand(lambda: self._prepare(request, self._pixels.room()), waiting, model),
        )
        exchange.steps = done.steps
        exchange.served = done.inference.served
        return done.inference

    def _prepare(self, request: "_Request[T]", room: Room) -> None:
        """Make a request ready and queue it, or have that done once there is room for it. An errand of the crew."""
        try:
            job = None if request.pending.gone else self._job(request, room)
        except NoRoom as full:
            room.close()
            self._pixels.wait(request.waiting, full.pixels, lambda room: self._resume(request, room))
            return
        finally:
            room.close()
        if job is not None:
            request.pending.attach(job)
            self._scheduler.submit(job)

    def _resume(self, request: "_Request[T]", room: Room) -> None:
        try:
            self._crew.errand(lambda: self._prepare(request, room), request.waiting, request.model)
        except Draining as error:  # nothing is decoded any more, so nobody misses the room
            request.pending.fail(error)

    def _job(self, request: "_Request[T]", room: Room) -> Job | None:
        """Return what a request is to the scheduler; None, and the request has failed, if it cannot be made ready.

        Raises :class:`~server.pixels.NoRoom`.
        """
        pending, model, exchange = request.pending, request.model, request.exchange
        try:
            began_s, computed_s = time.monotonic(), time.thread_time()
            work = request.prepare(lambda wish: self._know(request, wish), room)
            admission = self._admission(model, work.wish)
            ended_s = time.monotonic()
            prepared = _Prepared(work, admission, began_s, ended_s)
            return Job(
                model=model,
                q_image=work.q_image,
                waiting=self._waiting(model, exchange, work.wish, admission, len(work.q_image)),
                expires_s=exchange.started_s + self._rules.longest_s(work.wish),
                ready_s=time.thread_time() - computed_s,  # without what it waited for others
                deliver=lambda outcome: self._finish(request, prepared, outcome),
            )
        except NoRoom:
            raise
        except Exception as error:
            pending.fail(error)
            return None

    def _know(self, request: "_Request[T]", wish: Wish) -> None:
        """Take in all that a request asks for, before its picture is decoded.

        Raises :class:`~server.errors.DeadlineExceeded` if it is known by now that it is late.
        """
        model, exchange = request.model, request.exchange
        exchange.asked = wish.asked
        exchange.target_s = self._rules.target_s(model, wish)
        if wish.deadline_ms != request.wish.deadline_ms:  # it stood in the body
            request.pending.expire_at(exchange.started_s + self._rules.longest_s(wish))
        if wish.deadline_ms is None:
            return  # nothing is promised
        request.waiting = self._waiting(model, exchange, wish, self._admission(model, wish))
        if model.refresh is None:
            return  # times are assumed
        if self._scheduler.hopeless(model, request.waiting, self._rules.conduct.margin):
            raise DeadlineExceeded("queue")

    def _admission(self, model: ServedModel, wish: Wish) -> Admission:
        return admit(wish, model.ladder, self._rules.profile_of(wish))

    def _likely(self, model: ServedModel, wish: Wish) -> Admission:
        """Return the admission of a request of which not all may be known yet."""
        try:
            return self._admission(model, wish)
        except RequestError:  # it may ask for something else in its body, or be refused when that was read
            return Admission(model.ladder.all_rungs, 0, "default", "default", pinned=False)

    def _waiting(
        self, model: ServedModel, exchange: Exchange, wish: Wish, admission: Admission, images: int = 1
    ) -> Waiting:
        return Waiting(
            deadline_s=exchange.started_s + self._rules.target_s(model, wish),
            allowed=admission.allowed,
            hard=wish.deadline_ms is not None,
            priority=wish.priority,
            images=images,
            pinned=admission.pinned,
        )

    def _finish(self, request: "_Request[T]", prepared: "_Prepared[T]", served: Served | Exception) -> None:
        """Make the answer of what the network gave, or pass on what went wrong, on whichever thread that did."""
        if isinstance(served, Exception):
            request.pending.fail(served)
            return
        if request.pending.gone:
            return
        delivered_s = time.monotonic()
        try:
            answer = prepared.work.finish(served.output)
        except Exception as error:
            request.pending.fail(error)
            return
        post_s = time.monotonic() - delivered_s
        choice = explain(prepared.admission, served.position, served.reason)
        at = ServedAt(served.rung, choice.source, choice.reason, served.batch_images)
        began_s, queued_s = prepared.began_s, prepared.ended_s
        taken_s = queued_s + served.queue_ms / 1000
        derived_s = taken_s + served.switch_ms / 1000
        steps = (
            Step("queue", request.made_s, began_s - request.made_s),
            Step("decode", began_s, queued_s - began_s),
            Step("queue", queued_s, taken_s - queued_s),
            Step("switch", taken_s, derived_s - taken_s),
            Step("infer", derived_s, served.infer_ms / 1000),
            Step("post", delivered_s, post_s),
        )
        request.pending.resolve(_Done(Inference(answer, prepared.work.wish.asked, at), steps))


@dataclass(eq=False, slots=True)
class _Request(Generic[T]):
    """One request on its way through the threads.

    ``wish``: what was known of it before its body was looked at. ``waiting``: what it is to those who decide whose turn
    it is, as far as it is known.
    """

    pending: "Pending[_Done[T]]"
    model: ServedModel
    exchange: Exchange
    wish: Wish
    prepare: Prepare[T]
    waiting: Waiting
    made_s: float


@dataclass(frozen=True, slots=True)
class _Prepared(Generic[T]):
    work: Work[T]
    admission: Admission
    began_s: float
    ended_s: float


@dataclass(frozen=True, slots=True)
class _Done(Generic[T]):
    inference: Inference[T]
    steps: Sequence[Step]
