"""The one owner of the queue: whenever a worker is free, it asks the policy for a batch and runs it.

What waits lies in one lane for each model, in service order. A batch is formed when a worker is free to run it and no
earlier, out of requests of one lane at one rung, so it never mixes models, precisions or input shapes.

**Whose fault it is.** A batch of several that fails is run again request by request: the one that cannot be computed
fails, its neighbours do not know. A derivation that fails, fails all that wanted it. A worker that dies answers for
what it held, and goes on.

**Order.** That of :attr:`~server.policy.Waiting.order_s`: the earliest deadline first, priority being a head start. The
order of two requests never changes, and whoever waits gets ahead of all newcomers in the end. One exception: while
requests that set no deadline are late, those that set one, or have priority and are not late, are served first, for an
aim that is missed is no reason to miss a promise; but for every
:data:`~server.turns.LATE_TURN`-th batch. So nobody starves.
"""

import bisect
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, takewhile

import numpy as np
from numpy.typing import NDArray

from bitgear.engines import DerivedModel, ModelCache
from server.crew import Crew
from server.errors import DeadlineExceeded, Draining
from server.ladder import Ladder, Rung, positions
from server.policies.batches import LOOKED_AT, hopeless
from server.policy import Dispatch, Load, Policy, Reason, Waiting
from server.registry import ServedModel
from server.turns import Turns

ARRIVALS = 64
"""How many recent arrivals tell their rate."""

SERVICE_WEIGHT = 0.1
"""Weight of the newest batch in the running mean of what one request takes, and of the newest job in what that took to
be made ready."""

ODDLY_LONG = 4.0
"""A job counts for no more than so many times the mean of those before it."""

MUCH_LONGER = 4.0
"""If making a request ready takes so many times as long as a call, calls do not wait for batches."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Served:
    """What a job gets: the network's output, float32 (n, ...), and how it came about.

    ``position``: of the rung on the ladder. ``batch_images``: of the whole batch. ``switch_ms``: deriving the rung if
    it was not resident; ``infer_ms``: the engine's call for the whole batch.
    """

    output: NDArray[np.float32]
    position: int
    rung: Rung
    reason: Reason
    batch_images: int
    queue_ms: float
    switch_ms: float
    infer_ms: float


@dataclass(eq=False, slots=True)
class Job:
    """One request in the queue.

    ``q_image``: codes, int8 (n, 3, H, W), n being ``waiting.images``. ``expires_s``: when it
    must not be run any more, on the scheduler's clock. ``deliver`` is called once, on a worker's thread: with a
    :class:`Served`, or with what went wrong. Whoever waits for it sets ``gone`` when nobody does any more; such a job
    is dropped, and nothing is delivered. ``ready_s``: what making it ready took. ``running``: an engine works on it.
    """

    model: ServedModel
    q_image: NDArray[np.int8]
    waiting: Waiting
    expires_s: float
    deliver: Callable[[Served | Exception], None]
    ready_s: float = 0.0
    submitted_s: float = 0.0
    gone: bool = False
    running: bool = False
    settled: bool = False

    def settle(self, outcome: Served | Exception) -> None:
        """Deliver, unless that was done."""
        if self.settled:
            return
        self.settled = True
        if self.gone:
            return
        try:
            self.deliver(outcome)
        except Exception:
            _logger.exception("an answer could not be delivered")


@dataclass(frozen=True, slots=True)
class BatchReport:
    """One engine call."""

    model: ServedModel
    rung: Rung
    images: int
    switch_ms: float
    infer_ms: float


@dataclass(frozen=True, eq=False, slots=True)
class _Batch:
    """Jobs that run together. ``expected_s``: when their worker should be free, as the ladder says."""

    model: ServedModel
    position: int
    rung: Rung
    reason: Reason
    jobs: list[Job]
    taken_s: float
    expected_s: float
    decision_s: float


@dataclass(eq=False, slots=True)
class _Lane:
    """What waits for one model, in service order. ``ready_s``: what it lately took to make a request ready."""

    jobs: list[Job] = field(default_factory=list)
    ready_s: float = 0.0
    arrivals_s: deque[float] = field(default_factory=lambda: deque(maxlen=ARRIVALS))

    def arrivals_per_s(self, now_s: float, coming: int) -> float:
        """Return how many requests came lately, with those that are not submitted yet."""
        count = len(self.arrivals_s) + coming
        if count < 2 or not self.arrivals_s:
            return 0.0
        span_s = now_s - self.arrivals_s[0]
        return (count - 1) / span_s if span_s > 0 else 0.0

    def note_ready(self, ready_s: float) -> None:
        if self.ready_s > 0:
            ready_s = min(ready_s, ODDLY_LONG * self.ready_s)
            ready_s = self.ready_s + SERVICE_WEIGHT * (ready_s - self.ready_s)
        self.ready_s = ready_s


_Queue = tuple[ServedModel, _Lane, list[Job]]
"""A lane, and what waits in it in the order in which it is to be served."""


class Scheduler:
    """Runs what is submitted on the workers of a crew, in batches that ``policy`` forms.

    ``policy`` may be replaced at any time. ``report`` is called after every engine call and before its answers are
    delivered: who has an answer finds it counted. ``occupied`` is called when they are, with the milliseconds that the
    call kept its worker, from the decision to the last answer; deriving a rung is not part of that. ``decided`` is
    called with the seconds that the policy took for a decision, once for each, while a lock is held. All on the
    worker's thread. ``clock`` gives monotonic seconds.
    """

    def __init__(
        self,
        cache: ModelCache,
        policy: Policy,
        crew: Crew,
        report: Callable[[BatchReport], None] = lambda _: None,
        occupied: Callable[[BatchReport, float], None] = lambda _, __: None,
        decided: Callable[[float], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.policy = policy
        self._cache = cache
        self._crew = crew
        self._report = report
        self._occupied = occupied
        self._decided = decided
        self._clock = clock
        self._lock = threading.Lock()
        # Lanes go with the last who holds their model: a job that waits, or the registry.
        self._lanes: weakref.WeakKeyDictionary[ServedModel, _Lane] = weakref.WeakKeyDictionary()
        self._running: list[_Batch | None] = [None] * crew.workers
        self._job_s = 0.0
        self._turns = Turns()
        self._closing = False
        crew.calls(self._work)

    @property
    def workers(self) -> int:
        """How many batches run at the same time."""
        return len(self._running)

    @property
    def drain_per_s(self) -> float:
        """Requests per second that the workers get done, as measured of recent batches; 0 before the first."""
        return self.workers / self._job_s if self._job_s > 0 else 0.0

    @property
    def busy(self) -> bool:
        """Whether anything waits or runs."""
        with self._lock:
            return any(self._running) or any(lane.jobs for lane in self._lanes.values())

    def depth(self, model: ServedModel) -> int:
        """Return how many jobs wait for a model."""
        lane = self._lanes.get(model)
        return 0 if lane is None else len(lane.jobs)

    def crowded_out(self, model: ServedModel, newcomer: Waiting, margin: float) -> bool:
        """Return whether a request would be late for what waits to be made ready before it, for whichever models.

        However narrow all of that is served, and with ``margin``. False if nothing does: what may be wrong is found
        out by trying.
        """
        ahead = self._crew.errands_before(newcomer.order_s) if newcomer.hard else None
        if not ahead:
            return False
        needed_s = sum(count * self._least_s(whose) for whose, count in ahead.items()) + min(model.ladder.alone_s)
        return needed_s * (1 + margin) > newcomer.deadline_s - self._clock()

    def _least_s(self, whose: object) -> float:
        """Return what all cores take at least to make a request of a model ready and to serve it."""
        if not isinstance(whose, ServedModel):
            return 0.0
        lane, crew = self._lanes.get(whose), self._crew
        ready_s = 0.0 if lane is None else lane.ready_s
        image_s = min(whose.ladder.image_s) / whose.ladder.noise
        return max(image_s / self.workers, (ready_s + crew.threads * image_s) / crew.cores)

    def hopeless(self, model: ServedModel, newcomer: Waiting, margin: float) -> bool:
        """Return whether a request that is to be made ready now would be late for what waits.

        See :func:`~server.policies.batches.hopeless`. False if nothing waits. Takes a lock that is held while a policy
        decides: not for the event loop.
        """
        with self._lock:
            lane = self._lanes.get(model) or _Lane()
            waiting = [job for job in lane.jobs if not job.gone]
            if not waiting and not self._crew.errands:
                return False
            load = self._load(lane, waiting, self._clock())
        return hopeless(model.ladder, load, newcomer, margin)

    def submit(self, job: Job) -> None:
        """Queue a job. Takes a lock that is held while a policy decides: not for the event loop."""
        with self._lock:
            if not self._closing:
                job.submitted_s = self._clock()
                lane = self._lanes.setdefault(job.model, _Lane())
                lane.note_ready(job.ready_s)
                lane.arrivals_s.append(job.submitted_s)
                bisect.insort(lane.jobs, job, key=_order)
                self._crew.want(self._is_due())
                return
        job.settle(Draining())

    def close(self) -> None:
        """Refuse what waits, and what is submitted from now on; batches that run are finished by the crew."""
        with self._lock:
            self._closing = True
            waiting = [job for lane in self._lanes.values() for job in lane.jobs]
            self._lanes.clear()
        for job in waiting:
            job.settle(Draining())

    def _is_due(self) -> bool:
        """Return whether engine calls should not wait for what is still to be made ready."""
        return any(self._is_full(lane, model.ladder) for model, lane in self._lanes.items() if lane.jobs)

    def _is_full(self, lane: _Lane, ladder: Ladder) -> bool:
        """Return whether there is an efficient batch for each worker, or a prompt one where a deadline is set.

        Where a call is short beside what it takes to make a request ready, batches save little. But all threads of a
        call must be free at once, and until they are, some cores do nothing: then there should be some requests more.
        """
        batches = ladder.prompt_batches if lane.jobs[0].waiting.hard else ladder.efficient_batches
        enough = self.workers * max(batches)
        if lane.ready_s > MUCH_LONGER * ladder.alone_s[0]:
            enough = min(enough, max(1, 4 * (self._crew.threads - 1)))
        return sum(job.waiting.images for job in lane.jobs[:enough]) >= enough

    def _work(self, slot: int) -> None:
        """Form a batch of what waits, if anything does still, and run it. What a worker does when it is free."""
        try:
            expired: list[Job] = []
            with self._lock:
                batch = None if self._closing else self._form(slot, expired)
                if any(lane.jobs for lane in self._lanes.values()):
                    self._crew.want(self._is_due())  # another worker may be free
            for job in expired:
                job.settle(DeadlineExceeded("queue"))
            if batch is not None:
                self._run(batch)
                self._running[slot] = None
        except BaseException as error:  # nothing that ends a worker may leave its callers waiting
            _logger.exception("an engine worker died; it goes on")
            self._bury(slot, error)

    def _bury(self, slot: int, error: BaseException) -> None:
        batch, self._running[slot] = self._running[slot], None
        if batch is not None:
            for job in batch.jobs:
                job.settle(error if isinstance(error, Exception) else RuntimeError(f"an engine worker died: {error!r}"))
        self._crew.want()

    def _form(self, slot: int, expired: list[Job]) -> _Batch | None:
        """Take a batch out of the lane with the most urgent head; None: there is nothing to run.

        What must not be run any more goes to ``expired``.
        """
        now_s = self._clock()
        for lane in self._lanes.values():
            if any(job.gone or job.expires_s <= now_s for job in lane.jobs):
                expired += [job for job in lane.jobs if job.expires_s <= now_s]
                lane.jobs = [job for job in lane.jobs if not job.gone and job.expires_s > now_s]
        waiting = self._whose_turn(
            [(model, lane, lane.jobs) for model, lane in self._lanes.items() if lane.jobs], now_s
        )
        if not waiting:
            return None
        model, lane, queue = min(waiting, key=lambda item: _order(item[2][0]))
        ladder = model.ladder
        dispatch, decision_s = self._decide(slot, model, lane, queue, now_s)
        expired += [queue[i] for i in dispatch.drop]
        rung = ladder.rungs[dispatch.rung]
        jobs = [queue[i] for i in dispatch.members]
        taken = {id(job) for job in (*jobs, *expired)}
        lane.jobs = [job for job in lane.jobs if id(job) not in taken]
        if not jobs:
            return None
        for job in jobs:
            job.running = True
        expected_s = now_s + rung.latency_ms(sum(job.waiting.images for job in jobs)) / 1000
        batch = _Batch(model, dispatch.rung, rung, dispatch.reason, jobs, now_s, expected_s, decision_s)
        self._running[slot] = batch
        return batch

    def _whose_turn(self, waiting: list[_Queue], now_s: float) -> list[_Queue]:
        """Return the lanes that may be served now, each in its order: the usual one, or late ones last.

        Nothing is left out of a lane: a policy has to see all that waits.
        """
        if not any(_holds_late(jobs, now_s) for _, _, jobs in waiting):
            return waiting
        first = [
            (model, lane, sorted(jobs, key=lambda job: not job.waiting.goes_first(now_s)))
            for model, lane, jobs in waiting
            if any(job.waiting.goes_first(now_s) for job in jobs)
        ]
        return first if self._turns.gives_way(bool(first)) else waiting

    def _decide(
        self, slot: int, model: ServedModel, lane: _Lane, queue: Sequence[Job], now_s: float
    ) -> tuple[Dispatch, float]:
        ladder = model.ladder
        load = self._load(lane, queue, now_s, self._crew.coming(model), slot)
        started_s = self._clock()
        try:
            dispatch = self.policy.dispatch(ladder, load)
            _check(dispatch, ladder, load.queue)
        except Exception:
            _logger.exception("policy %s failed; the most urgent request runs alone", self.policy.name)
            dispatch = Dispatch(rung=next(positions(load.queue[0].allowed)), members=(0,), drop=(), reason="default")
        decision_s = self._clock() - started_s
        self._decided(decision_s)
        return dispatch, decision_s

    def _load(
        self, lane: _Lane, jobs: Sequence[Job], now_s: float, coming: Sequence[Waiting] = (), asking: int | None = None
    ) -> Load:
        """Return what these jobs of a lane are to a policy, what waits in other lanes, and what runs in other slots."""
        return Load(
            now_s=now_s,
            queue=[job.waiting for job in jobs],
            arrivals_per_s=lane.arrivals_per_s(now_s, len(coming)),
            workers=self.workers,
            busy_until_s=tuple(
                batch.expected_s for slot, batch in enumerate(self._running) if slot != asking and batch is not None
            ),
            elsewhere=self._elsewhere(lane),
            coming=coming,
            ready_s=lane.ready_s * self.workers / self._crew.cores,
        )

    def _elsewhere(self, lane: _Lane) -> Sequence[tuple[float, float]]:
        """Return :attr:`~server.policy.Load.elsewhere` of a lane: each request at the fastest, at the median."""
        least_s: list[tuple[float, float]] = []
        for model, other in self._lanes.items():
            if other is not lane:
                step = max(1, len(other.jobs) // LOOKED_AT)  # each stands for those behind it
                ladder, scale = model.ladder, step / model.ladder.noise
                least_s += [
                    (waiting.deadline_s, scale * waiting.images * ladder.image_s[ladder.fastest(waiting.allowed)])
                    for waiting in (job.waiting for job in other.jobs[::step] if not job.gone)
                ]
        least_s.sort()
        sums_s = accumulate(own_s for _, own_s in least_s)
        return [(due_s, sum_s) for (due_s, _), sum_s in zip(least_s, sums_s, strict=True)]

    def _run(self, batch: _Batch) -> None:
        started_s = self._clock()
        try:
            derived = self._cache.get(batch.model.master, batch.rung.plan)
        except Exception as error:
            for job in batch.jobs:
                job.settle(error)
            return
        switch_ms = (self._clock() - started_s) * 1000
        jobs = self._still_wanted(batch.jobs)
        if not jobs:
            return
        try:
            self._call(batch, derived, jobs, switch_ms)
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].settle(error)
                return
            _logger.warning("a batch of %d failed with %r; its requests run one by one", len(jobs), error)
            for job in jobs:
                self._run_alone(batch, derived, job, switch_ms)

    def _run_alone(self, batch: _Batch, derived: DerivedModel, job: Job, switch_ms: float) -> None:
        if not self._still_wanted([job]):
            return
        try:
            self._call(batch, derived, [job], switch_ms)
        except Exception as error:
            job.settle(error)

    def _still_wanted(self, jobs: Sequence[Job]) -> list[Job]:
        """Return the jobs that may still be run; those that expired get to know."""
        now_s = self._clock()
        for job in jobs:
            if job.expires_s <= now_s:
                job.settle(DeadlineExceeded("queue"))
        return [job for job in jobs if not job.settled and not job.gone]

    def _call(self, batch: _Batch, derived: DerivedModel, jobs: Sequence[Job], switch_ms: float) -> None:
        began_s = self._clock()
        q_image = jobs[0].q_image if len(jobs) == 1 else np.concatenate([job.q_image for job in jobs])
        started_s = self._clock()
        output = derived.run(q_image)
        infer_ms = (self._clock() - started_s) * 1000
        images = len(q_image)
        report = BatchReport(batch.model, batch.rung, images, switch_ms, infer_ms)
        self._report(report)
        first = 0
        for job in jobs:
            last = first + len(job.q_image)
            queue_ms = (batch.taken_s - job.submitted_s) * 1000
            job.settle(
                Served(
                    output[first:last],
                    batch.position,
                    batch.rung,
                    batch.reason,
                    images,
                    queue_ms,
                    switch_ms,
                    infer_ms,
                )
            )
            first = last
        occupied_s = batch.decision_s + self._clock() - began_s
        self._job_s += (occupied_s / len(jobs) - self._job_s) * (SERVICE_WEIGHT if self._job_s > 0 else 1.0)
        self._occupied(report, occupied_s * 1000)


def _order(job: Job) -> float:
    return job.waiting.order_s


def _holds_late(jobs: Sequence[Job], now_s: float) -> bool:
    """Return whether any of these jobs, in service order, is late without a deadline; priority may stand before it."""
    due = takewhile(lambda job: job.waiting.order_s < now_s, jobs)
    return any(job.waiting.is_late(now_s) for job in due)


def _check(dispatch: Dispatch, ladder: Ladder, queue: Sequence[Waiting]) -> None:
    """Raise ``ValueError`` for a batch that breaks what was promised to a request, or makes no progress."""
    members, bit = dispatch.members, 1 << dispatch.rung
    if not 0 <= dispatch.rung < len(ladder.rungs):
        raise ValueError(f"rung {dispatch.rung} of {len(ladder.rungs)}")
    if len({*members, *dispatch.drop}) != len(members) + len(dispatch.drop) or not (members or dispatch.drop):
        raise ValueError(f"members {members} and dropped {dispatch.drop}")
    if not all(queue[position].allowed & bit for position in members):
        raise ValueError(f"rung {dispatch.rung} for requests that do not allow it")
    if len(members) > 1 and sum(queue[position].images for position in members) > ladder.max_batch:
        raise ValueError(f"members {members} for batches of {ladder.max_batch}")
    if not all(queue[position].hard for position in dispatch.drop):
        raise ValueError(f"dropped {dispatch.drop} without a deadline of their own")
