"""Look-ahead: the best precision at which the whole queue still meets its deadlines, while time has a price."""

import heapq
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from server.ladder import Ladder, positions
from server.policies.batches import (
    allowed_of,
    deadline_of,
    fill,
    give_up,
    images_of,
    lost,
    narrowest,
    narrowest_of,
    nearest,
    others,
    worthwhile,
)
from server.policy import Dispatch, Load, Reason, Waiting

BURSTINESS = 8.0
"""Squared coefficient of variation that gaps between arrivals are taken to have; 1 is Poisson."""

PIECES = 16
"""A long queue is looked at in about so many pieces."""

LOOKED_AT = 100
"""Of a queue of twice this or more, every second request is looked at, every third of three times this, and so on: each
stands for those behind it."""


@dataclass(frozen=True)
class LookAhead:
    """Plans the whole queue, and weighs what time is worth.

    A precision is feasible if all deadlines that can still be met are met when the queue is served at it: in service
    order, in efficient batches, by all workers, each request at the nearest precision that it allows, everything
    taking ``margin`` longer than the ladder says; and if those of other models are too, as fast as they can be served.
    Of those the one is chosen that is greatest in::

        accuracy - price * seconds for an image         price = P * (accuracy / seconds at the narrowest)

    (of a width, a little more than any narrower one's, whatever noise says: :attr:`~server.ladder.Ladder.worth`).
    P is the chance that the work at hand, done as fast as the ladder allows, grows beyond what can be saved before it
    is done. Time that is lost now is then lost answers, so the price rises with the backlog, before anything becomes
    infeasible. Work is taken for a Brownian motion with the drift and variance of bursty arrivals, between no work and
    as much as the time that newcomers have.

    If nothing is feasible, the narrowest runs. Hard deadlines that not even that can meet any more are dropped; and
    then, as some must be lost, those that it would only meet with luck, unless they have priority or nobody else waits:
    what they take, one with more time would not get.
    """

    margin: float = 0.1

    @property
    def name(self) -> str:
        return "look-ahead"

    def dispatch(self, ladder: Ladder, load: Load) -> Dispatch:
        drop = lost(ladder, load)
        left = others(len(load.queue), drop)
        if not left:
            return give_up(load, narrowest_of, "slack")
        outlook = self._outlook(ladder, load, left)
        chosen = outlook.best()
        if chosen is None:
            tight = lost(ladder, load, longer=(1 + self.margin) * ladder.noise)
            gone = set(drop)
            tight = tuple(at for at in tight if not load.queue[at].priority or at in gone)
            if len(drop) < len(tight) < len(load.queue):
                drop, left = tight, others(len(load.queue), tight)
                outlook = self._outlook(ladder, load, left)
                chosen = outlook.best()
        rung, members, reason = chosen or outlook.at_narrowest()
        return Dispatch(rung, tuple(left[position] for position in members), drop, reason)

    def _outlook(self, ladder: Ladder, load: Load, left: Sequence[int]) -> "_Outlook":
        queue = load.queue[left[0] :] if isinstance(left, range) else [load.queue[position] for position in left]
        return _Outlook(ladder, load, queue, self.margin)


class _Outlook:
    """One look at a queue that is not empty, what is lost for certain left out. Times are in seconds from now.

    ``masks``, ``deadlines_s``: of the requests looked at, each of which stands for ``each`` of the queue.
    """

    def __init__(self, ladder: Ladder, load: Load, queue: Sequence[Waiting], margin: float) -> None:
        self.ladder = ladder
        self.queue = queue
        self.longer = 1 + margin
        self.count = len(queue)
        self.step = max(1, self.count // LOOKED_AT)
        looked_at = queue[:: self.step]
        self.each = self.count / len(looked_at)
        self.masks = list(map(allowed_of, looked_at))
        self.kinds = {self.masks[0]} if self.masks.count(self.masks[0]) == len(looked_at) else set(self.masks)
        images = list(map(images_of, looked_at))
        self.images: float = 1.0 if images.count(1) == len(looked_at) else sum(images) / len(looked_at)
        self.load = load
        self.workers = load.workers
        self.arrivals_per_s = load.arrivals_per_s
        busy_s = [until_s - load.now_s for until_s in load.busy_until_s if until_s > load.now_s]
        self.idle = max(1, load.workers - len(busy_s))
        self.others_s = (busy_s + [0.0] * load.workers)[: load.workers - 1]

        self.now_s = load.now_s
        # How much time newcomers have, judging by those who came last.
        self.room_s = queue[self.count - 1 - self.count // 4].deadline_s - self.now_s
        self.deadlines_s = list(map(deadline_of, looked_at))
        self.soonest_s = load.now_s + ladder.alone_s[max(map(narrowest, self.kinds))]
        if queue[0].order_s < self.soonest_s:  # aims that are missed: nothing is to be gained from them
            self.deadlines_s = [due_s if due_s >= self.soonest_s else math.inf for due_s in self.deadlines_s]
        self.head_s = self.deadlines_s[0] - self.now_s
        # The queue is at least so much work: each request at the narrowest that it allows.
        self.least_s = self.each * sum(self._request_s(narrowest(mask)) * self.masks.count(mask) for mask in self.kinds)

    def best(self) -> tuple[int, tuple[int, ...], Reason] | None:
        """Return the rung, the members, and why it is not a wider one; None: nothing keeps every deadline."""
        allowed = self.masks[0]
        rungs = list(positions(allowed))
        weighed = {rung: self._weigh(rung) for rung in rungs}
        members: dict[int, tuple[int, ...]] = {}
        feasible: dict[int, bool] = {}

        def is_feasible(rung: int) -> bool:
            if rung not in feasible:
                members[rung] = self._members(rung, weighed[rung][1])
                feasible[rung] = self._feasible(rung, members[rung])
            return feasible[rung]

        # Wider ones take longer: what is infeasible at one rung is so at all that are wider.
        if not is_feasible(rungs[0]):
            rungs = rungs[bisect_left(rungs, True, 1, key=is_feasible) :]
        for rung in sorted(rungs, key=lambda rung: weighed[rung][0], reverse=True):
            if is_feasible(rung):
                return rung, members[rung], self._reason(rung)
        return None

    def at_narrowest(self) -> tuple[int, tuple[int, ...], Reason]:
        """Return what :meth:`best` does, of the narrowest rung that the first request allows."""
        rung = narrowest(self.masks[0])
        return rung, self._members(rung, self._timely_batch(rung)), self._reason(rung)

    def _reason(self, rung: int) -> Reason:
        """Say ``slack`` if the first request alone has no time for the next wider rung that it allows."""
        wider = self.masks[0] & ((1 << rung) - 1)
        if not wider:
            return "slack"
        alone_s = self.longer * self.ladder.rungs[narrowest(wider)].latency_ms(1) / 1000
        return "slack" if alone_s > self.head_s else "backlog"

    def _weigh(self, rung: int) -> tuple[float, int]:
        """Return what a request is worth at a rung, less the price of its time, and how many images to run at once."""
        chosen = self.ladder.rungs[rung]
        price = self._price(chosen.latency_ms(1) / 1000)
        batch = self._timely_batch(rung)
        return self.ladder.worth[rung] - price * self.images * chosen.latency_ms(batch) / batch / 1000, batch

    def _timely_batch(self, rung: int) -> int:
        """Return a worthwhile batch that leaves something for the other workers that are idle, and is not late."""
        images = self.count * self.images
        batch = min(worthwhile(self.ladder, rung, images, self.workers), max(1, math.ceil(images / self.idle)))
        if self.head_s == math.inf:
            return batch
        return self.ladder.rungs[rung].images_within(1000 * self.head_s / self.longer, batch)

    def _price(self, first_s: float) -> float:
        """Return what a second of a worker is worth, in accuracy of answers, if a batch of ``first_s`` runs next."""
        if self.count == 1 and self.head_s == math.inf:
            return 0.0  # late in any case, and alone
        request_s = self.least_s / self.count
        work_s = (self.least_s - request_s + first_s + sum(self.others_s)) / self.workers
        work_s += self.load.elsewhere_s(self.now_s + self.room_s)
        chance = _overwhelmed(work_s, self.room_s, self.arrivals_per_s, request_s / self.workers)
        return chance * self.ladder.rungs[narrowest(self.masks[0])].accuracy / request_s

    def _request_s(self, rung: int) -> float:
        return self.images * self.ladder.image_s[rung]

    def _members(self, rung: int, batch: int) -> tuple[int, ...]:
        if self.step == 1 and len(self.kinds) == 1 and self.images == 1:
            return tuple(range(min(batch, self.count)))
        return fill(self.queue, range(self.count), rung, batch)

    def _feasible(self, rung: int, members: tuple[int, ...]) -> bool:
        """Return whether all is in time if ``members`` run at a rung, and then the rest as near to it as it allows."""
        images = sum(self.queue[position].images for position in members)
        first_s = self.longer * self.ladder.rungs[rung].latency_ms(images) / 1000
        due = [
            due_s
            for due_s in map(deadline_of, (self.queue[position] for position in members))
            if due_s >= self.soonest_s
        ]
        if first_s > min(due, default=math.inf) - self.now_s:
            return False
        free_s = [first_s, *self.others_s]
        heapq.heapify(free_s)
        deadlines_s, masks = self._rest(members)
        batch = self.ladder.efficient_batches[rung]
        piece = max(batch, -(-len(masks) // PIECES))
        shared = self.each * piece > batch  # a piece is several batches, by all workers
        own = [(self.now_s, first_s)]  # when what is due here until then is done
        all_free_s = max(free_s)
        times = [(mask, *self._times(nearest(mask, rung))) for mask in self.kinds]
        for start in range(0, len(masks), piece):
            until_s = min(deadlines_s[start : start + piece])
            due_s = until_s - self.now_s
            part = masks[start : start + piece] if len(times) > 1 else ()
            work_s = 0.0
            for mask, batch_s, request_s, requests in times:  # in efficient batches
                count = self.each * (part.count(mask) if part else min(piece, len(masks) - start))
                work_s += request_s * count + batch_s * math.ceil(count / requests)
            if shared:
                all_free_s = done_s = all_free_s + work_s / self.workers
            else:
                done_s = free_s[0] + work_s
                heapq.heapreplace(free_s, done_s)
            if done_s + self.longer * self.load.elsewhere_s(until_s) > due_s:
                return False
            own.append((until_s, done_s))
        # What other models wait for must be in time as well, with what is due here before it.
        elsewhere = self.load.elsewhere
        for until_s, _ in elsewhere[bisect_left(elsewhere, (self.now_s,)) :: max(1, len(elsewhere) // PIECES)]:
            done_s = own[max(0, bisect_left(own, (until_s,)) - 1)][1]
            if done_s + self.longer * self.load.elsewhere_s(until_s) > until_s - self.now_s:
                return False
        return True

    def _rest(self, members: tuple[int, ...]) -> tuple[list[float], list[int]]:
        """Return what was looked at and is not among the members."""
        members = tuple(position // self.step for position in members if position % self.step == 0)
        if not members or members[-1] == len(members) - 1:
            return self.deadlines_s[len(members) :], self.masks[len(members) :]
        deadlines_s, masks = self.deadlines_s.copy(), self.masks.copy()
        for position in reversed(members):
            del deadlines_s[position], masks[position]
        return deadlines_s, masks

    def _times(self, rung: int) -> tuple[float, float, float]:
        """Return seconds of a batch, seconds of a request in it, and how many requests make an efficient batch."""
        chosen, batch = self.ladder.rungs[rung], self.ladder.efficient_batches[rung]
        scale = self.longer / 1000
        return scale * chosen.fixed_ms, scale * chosen.per_image_ms * self.images, max(1.0, batch / self.images)


def _overwhelmed(work_s: float, room_s: float, arrivals_per_s: float, image_s: float) -> float:
    """Return the chance that work grows from ``work_s`` to ``room_s`` before it is done."""
    if work_s >= room_s:
        return 1.0
    load = arrivals_per_s * image_s
    if work_s <= 0 or load <= 0:
        return 0.0
    # Work W has drift load - 1 and variance load * image_s * BURSTINESS a second; exp(decay * W) is then a martingale.
    decay = 2 * (1 - load) / (load * image_s * BURSTINESS)
    if abs(decay * room_s) < 1e-6:
        return work_s / room_s
    if decay * room_s > 500:
        return math.exp(decay * (work_s - room_s))
    return math.expm1(decay * work_s) / math.expm1(decay * room_s)
