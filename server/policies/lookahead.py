"""Look-ahead: the best precision at which the whole queue still meets its deadlines, while time has a price."""

import heapq
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import add, gt
from typing import NamedTuple, TypeVar

from server.ladder import Ladder
from server.policies.batches import (
    LOOKED_AT,
    allowed_of,
    crowd,
    deadline_of,
    fastest_of,
    fill,
    give_up,
    images_of,
    lost,
    nearest,
    others,
    work_of,
)
from server.policy import Dispatch, Load, Reason, Waiting

T = TypeVar("T")

BURSTINESS = 8.0
"""Squared coefficient of variation that gaps between arrivals are taken to have; 1 is Poisson."""

PIECES = 10
"""A long queue is looked at in about so many pieces."""


@dataclass(frozen=True)
class LookAhead:
    """Plans the whole queue, and weighs what time is worth.

    A precision is feasible if all deadlines that can still be met are met when the queue is served at it: in service
    order, in efficient batches, by all workers, each request at the nearest precision that it allows, everything
    taking ``margin`` longer than the ladder says; and if those of other models are too, as fast as they can be served.
    Requests that are still to be made ready belong to the queue, though none of them can run yet, and take the time for
    that as well.
    Of those the one is chosen that is greatest in::

        accuracy - price * seconds for an image         price = P * (accuracy / seconds at the fastest)

    (of a width, a little more than any narrower one's, and of what would serve at rest, more than any other's, whatever
    noise says: :meth:`~server.ladder.Ladder.worth`).
    P is the chance that the work at hand, done as fast as the ladder allows, grows beyond what can be saved before it
    is done. Time that is lost now is then lost answers, so the price rises with the backlog, before anything becomes
    infeasible. Work is taken for a Brownian motion with the drift and variance of bursty arrivals, between no work and
    as much as the time that newcomers have.

    A first request that names its precision, and lets itself be degraded, has the widest that is feasible.

    If nothing is feasible, P is 1, among the precisions at which the batch itself is in time: mostly the fastest runs.
    Hard deadlines that not even that can meet any more are dropped; and then, as some must be lost, those that it would
    only meet with luck, unless they have priority or nobody else waits: what they take, one with more time would not
    get.
    """

    margin: float

    @property
    def name(self) -> str:
        return "look-ahead"

    def dispatch(self, ladder: Ladder, load: Load) -> Dispatch:
        rung_of = fastest_of(ladder)
        drop = lost(ladder, load, rung_of)
        left = others(len(load.queue), drop)
        if not left:
            return give_up(load, rung_of, "slack")
        outlook = _Outlook(ladder, load, left, self.margin)
        chosen = outlook.best()
        if chosen is None:
            tight = lost(ladder, load, rung_of, longer=(1 + self.margin) * ladder.noise)
            gone = set(drop)
            tight = tuple(at for at in tight if not load.queue[at].priority or at in gone)
            if len(drop) < len(tight) < len(load.queue):
                drop, left = tight, others(len(load.queue), tight)
                outlook = _Outlook(ladder, load, left, self.margin)
                chosen = outlook.best()
        rung, members, reason = chosen or outlook.most()
        return Dispatch(rung, members, drop, reason)


class _Pieces(NamedTuple):
    """A queue in pieces: of each, when it is due, and how many requests of each kind it has.

    ``until_s``: on the clock; ``due_s``: in seconds from now, less what other models need until then. ``ready_s``: what
    it takes to make those ready that are not; empty if all are. ``kinds_s``: by mask and rung, what those of a kind
    take in each piece, as far as anybody has asked.
    """

    until_s: list[float]
    due_s: list[float]
    ready_s: list[float]
    counts: dict[int, list[float]]
    kinds_s: dict[tuple[int, int], list[float]]


class _Outlook:
    """One look at what is ``left`` of a queue, positions of which there is one at least. Times are in seconds from now.

    ``masks``, ``deadlines_s``, ``comes``: of the requests looked at, each of which stands for ``each`` of all: whether
    it is still to be made ready is what the last one says, which is empty if all are.
    """

    def __init__(self, ladder: Ladder, load: Load, left: Sequence[int], margin: float) -> None:
        self.ladder = ladder
        self.load = load
        self.queue = load.queue
        self.left = left
        self.longer = 1 + margin
        possible_s = load.now_s + load.ready_s + min(ladder.alone_s)  # before that nothing can be done for them

        def possible(step: int) -> tuple[list[Waiting], int]:
            """Return each so manieth of what comes, as far as it is not lost, and how many these stand for."""
            some = [one for one in load.coming[::step] if not one.hard or one.deadline_s >= possible_s]
            return some, min(len(some) * step, len(load.coming))

        rough = max(1, len(load.coming) // LOOKED_AT)
        coming, coming_count = possible(rough)
        self.step = max(1, (len(left) + coming_count) // LOOKED_AT)
        if coming and self.step != rough:
            coming, coming_count = possible(self.step)
        looked_at = [self.queue[position] for position in left[:: self.step]]
        self.comes: list[bool] = []
        self.count = len(left) + coming_count
        if coming:
            looked_at, self.comes = _merged(looked_at, coming)
        self.each = self.count / len(looked_at)
        first = self.queue[left[0]]
        self.mask, self.pinned = first.allowed, first.pinned
        self.masks = list(map(allowed_of, looked_at))
        self.kinds = {self.masks[0]} if self.masks.count(self.masks[0]) == len(looked_at) else set(self.masks)
        self.worth = ladder.worth(self.mask)
        images = list(map(images_of, looked_at))
        self.images: float = 1.0 if images.count(1) == len(looked_at) else sum(images) / len(looked_at)
        self.workers = load.workers
        self.arrivals_per_s = load.arrivals_per_s
        busy_s = [until_s - load.now_s for until_s in load.busy_until_s if until_s > load.now_s]
        self.idle = max(1, load.workers - len(busy_s))
        images_left = len(left) * self.images
        self.crowd, self.share = crowd(ladder, images_left, load.workers), math.ceil(images_left / self.idle)
        self.others_s = (busy_s + [0.0] * load.workers)[: load.workers - 1]

        self.now_s = load.now_s
        self.pieces: dict[tuple[tuple[int, ...], int], _Pieces] = {}
        # How much time newcomers have, judging by those who came last; less than none where late ones stand there.
        self.room_s = looked_at[len(looked_at) - 1 - len(looked_at) // 4].deadline_s - self.now_s
        self.deadlines_s = list(map(deadline_of, looked_at))
        self.soonest_s = load.now_s + min(ladder.alone_s[ladder.fastest(mask)] for mask in self.kinds)
        if min(self.deadlines_s) < self.soonest_s:  # aims that are missed: nothing is to be gained from them
            self.deadlines_s = [due_s if due_s >= self.soonest_s else math.inf for due_s in self.deadlines_s]
        self.head_s = first.deadline_s - self.now_s if first.deadline_s >= self.soonest_s else math.inf
        # The queue is at least so much work: each request at the fastest that it allows.
        least_s = self.each * sum(self._request_s(ladder.fastest(mask)) * self.masks.count(mask) for mask in self.kinds)
        self.request_s = least_s / self.count + load.ready_s
        # What all workers take at least before newcomers have had their time, but for the first request here.
        self.backlog_s = (least_s - least_s / self.count + sum(self.others_s)) / self.workers
        self.backlog_s += coming_count * load.ready_s / self.workers
        self.backlog_s += load.elsewhere_s(self.now_s + self.room_s)

    def best(self) -> tuple[int, tuple[int, ...], Reason] | None:
        """Return the rung, the members, and why it is not a wider one; None: nothing keeps every deadline."""
        rungs: Sequence[int] = self.ladder.by_speed(self.mask)
        members: dict[int, tuple[int, ...]] = {}
        feasible: dict[int, bool] = {}

        def is_feasible(rung: int) -> bool:
            if rung not in feasible:
                members[rung] = self._members(rung, self._timely_batch(rung))
                feasible[rung] = self._feasible(rung, members[rung])
            return feasible[rung]

        # What is infeasible at one rung is so at all that take longer.
        if not is_feasible(rungs[0]):
            rungs = rungs[bisect_left(rungs, True, 1, key=is_feasible) :]
        # Who names a precision gets it if that can be: it has no price.
        rungs = sorted(rungs) if self.pinned else sorted(rungs, key=self._weigh, reverse=True)
        for rung in rungs:
            if is_feasible(rung):
                return rung, members[rung], self._reason(rung)
        return None

    def most(self) -> tuple[int, tuple[int, ...], Reason]:
        """Return what :meth:`best` does, where not all can be in time: the rung that makes the most of it."""
        rungs = self.ladder.by_speed(self.mask)
        worth, image_s, price = self.worth, self.ladder.image_s, self.images * self._most_price()
        rung = max(rungs, key=lambda rung: worth[rung] - price * image_s[rung])
        members = self._members(rung, self._timely_batch(rung))
        if rung != rungs[-1] and self._first_s(rung, members) is None:
            rung = rungs[-1]
            members = self._members(rung, self._timely_batch(rung))
        return rung, members, self._reason(rung)

    def _reason(self, rung: int) -> Reason:
        """Say ``slack`` if the first request alone has no time for the next wider rung that it allows."""
        wider = self.mask & ((1 << rung) - 1)
        if not wider:
            return "slack"
        alone_s = self.longer * self.ladder.rungs[wider.bit_length() - 1].latency_ms(1) / 1000
        return "slack" if alone_s > self.head_s else "backlog"

    def _weigh(self, rung: int) -> float:
        """Return what a request is worth at a rung, less the price of its time."""
        chosen = self.ladder.rungs[rung]
        chance = self._chance(chosen.latency_ms(1) / 1000)
        if chance == 0:
            return self.worth[rung]
        batch = self._timely_batch(rung)
        image_s = chosen.latency_ms(batch) / batch / 1000
        return self.worth[rung] - chance * self._most_price() * self.images * image_s

    def _most_price(self) -> float:
        """Return what a second of a worker is worth, in accuracy of answers, where time does not suffice."""
        return self.ladder.rungs[self.ladder.fastest(self.mask)].accuracy / self.request_s

    def _timely_batch(self, rung: int) -> int:
        """Return a worthwhile batch that leaves something for the other workers that are idle, and is not late."""
        batch = min(max(self.ladder.efficient_batches[rung], self.crowd), self.share)
        if self.head_s == math.inf:
            return batch
        return self.ladder.rungs[rung].images_within(1000 * self.head_s / self.longer, batch)

    def _chance(self, first_s: float) -> float:
        """Return the chance that work grows beyond what can be saved, if a batch of ``first_s`` runs next."""
        if self.count == 1 and self.head_s == math.inf:
            return 0.0  # late in any case, and alone
        work_s = self.backlog_s + first_s / self.workers
        return _overwhelmed(work_s, self.room_s, self.arrivals_per_s, self.request_s / self.workers)

    def _request_s(self, rung: int) -> float:
        return self.images * self.ladder.image_s[rung]

    def _members(self, rung: int, batch: int) -> tuple[int, ...]:
        first = self.left[:batch]
        works = {work_of(self.queue[position]) for position in first}
        if all(images == 1 and mask >> rung & 1 for mask, images in works):
            return tuple(first)
        return fill(self.queue, self.left, rung, batch)

    def _feasible(self, rung: int, members: tuple[int, ...]) -> bool:
        """Return whether all is in time if ``members`` run at a rung, and then the rest as near to it as it allows."""
        first_s = self._first_s(rung, members)
        return first_s is not None and self._rest_in_time(rung, members, first_s)

    def _first_s(self, rung: int, members: tuple[int, ...]) -> float | None:
        """Return what ``members`` take at a rung; None: one of them would be late."""
        chosen = [self.queue[position] for position in members]
        first_s = self.longer * self.ladder.rungs[rung].latency_ms(sum(map(images_of, chosen))) / 1000
        due_s = min(map(deadline_of, chosen))
        if due_s < self.soonest_s:
            due_s = min(
                (later_s for later_s in map(deadline_of, chosen) if later_s >= self.soonest_s), default=math.inf
            )
        return None if first_s > due_s - self.now_s else first_s

    def _rest_in_time(self, rung: int, members: tuple[int, ...], first_s: float) -> bool:
        batch, taken = self.ladder.efficient_batches[rung], self._looked_at(members)
        piece = max(batch, -(-(len(self.masks) - len(taken)) // PIECES))
        pieces = self._pieces(taken, piece)
        parts_s = pieces.ready_s
        for mask in pieces.counts:
            kind_s = self._kind_s(pieces, mask, nearest(mask, rung))
            parts_s = list(map(add, parts_s, kind_s)) if parts_s else kind_s
        if self.each * piece > batch:  # a piece is several batches, by all workers
            parts_s = [part_s / self.workers for part_s in parts_s]
            done_s = list(accumulate(parts_s, initial=max(first_s, *self.others_s, 0.0)))[1:]
        else:
            done_s = _in_turn(parts_s, [first_s, *self.others_s])
        if any(map(gt, done_s, pieces.due_s)):
            return False
        return not self.load.elsewhere or self._in_time_elsewhere(pieces.until_s, [first_s, *done_s])

    def _looked_at(self, members: tuple[int, ...]) -> tuple[int, ...]:
        """Return which of what is looked at are among the members."""
        taken = self._looked_at_ready(members)
        if not self.comes:
            return taken
        ready = [place for place, comes in enumerate(self.comes) if not comes]
        return tuple(ready[place] for place in taken)

    def _looked_at_ready(self, members: tuple[int, ...]) -> tuple[int, ...]:
        """Return likewise, places among what is ready and looked at."""
        left, step = self.left, self.step
        if isinstance(left, range):
            if members[-1] - left.start == len(members) - 1:  # the first ones
                return tuple(range(-(-len(members) // step)))
            places: Sequence[int] = [position - left.start for position in members]
        else:
            places = [bisect_left(left, position) for position in members]
        return tuple(place // step for place in places if place % step == 0)

    def _in_time_elsewhere(self, until_s: Sequence[float], done_s: Sequence[float]) -> bool:
        """Return whether what other models wait for is in time as well.

        What is due here until ``until_s``, moments that ascend but where late ones stand behind others, is done before
        it, in ``done_s`` seconds.
        """
        elsewhere = self.load.elsewhere
        for other_s, _ in elsewhere[bisect_left(elsewhere, (self.now_s,)) :: max(1, len(elsewhere) // PIECES)]:
            before_s = done_s[bisect_left(until_s, other_s)]
            if before_s + self.longer * self.load.elsewhere_s(other_s) > other_s - self.now_s:
                return False
        return True

    def _pieces(self, taken: tuple[int, ...], piece: int) -> _Pieces:
        """Return what is looked at and not taken, in pieces of so many."""
        known = self.pieces.get((taken, piece))
        if known is not None:
            return known
        deadlines_s, masks, comes = (_without(column, taken) for column in (self.deadlines_s, self.masks, self.comes))
        starts = range(0, len(masks), piece)
        until_s = [min(deadlines_s[start : start + piece]) for start in starts]
        due_s = [moment_s - self.now_s for moment_s in until_s]
        if self.load.elsewhere:
            others_s = map(self.load.elsewhere_s, until_s)
            due_s = [own_s - self.longer * other_s for own_s, other_s in zip(due_s, others_s, strict=True)]
        if len(self.kinds) == 1:
            counts = {self.masks[0]: [self.each * min(piece, len(masks) - start) for start in starts]}
        else:
            parts = [masks[start : start + piece] for start in starts]
            counts = {mask: [self.each * part.count(mask) for part in parts] for mask in self.kinds}
        each_s = self.longer * self.each * self.load.ready_s
        ready_s = [each_s * sum(comes[start : start + piece]) for start in starts] if comes else []
        found = self.pieces[taken, piece] = _Pieces(until_s, due_s, ready_s, counts, {})
        return found

    def _kind_s(self, pieces: _Pieces, mask: int, rung: int) -> list[float]:
        """Return the seconds that the requests of a kind take in each piece, in efficient batches at a rung."""
        known = pieces.kinds_s.get((mask, rung))
        if known is not None:
            return known
        chosen, scale = self.ladder.rungs[rung], self.longer / 1000
        batch_s, request_s = scale * chosen.fixed_ms, scale * chosen.per_image_ms * self.images
        requests = max(1.0, self.ladder.efficient_batches[rung] / self.images)
        found = [count * request_s - (-count // requests) * batch_s for count in pieces.counts[mask]]
        pieces.kinds_s[mask, rung] = found
        return found


def _merged(ready: list[Waiting], coming: Sequence[Waiting]) -> tuple[list[Waiting], list[bool]]:
    """Return both together, in the order in which they are served, and of each whether it comes.

    What is ready keeps its order: late ones may stand behind others.
    """
    both = [*ready, *coming]
    orders_s = [waiting.order_s if waiting.priority else waiting.deadline_s for waiting in both]
    orders_s[: len(ready)] = accumulate(orders_s[: len(ready)], max)
    places = sorted(range(len(both)), key=orders_s.__getitem__)
    return [both[place] for place in places], [place >= len(ready) for place in places]


def _without(column: list[T], taken: tuple[int, ...]) -> list[T]:
    """Return a column without these places, which ascend; an empty one as it is."""
    if not taken or taken[-1] == len(taken) - 1:  # the first ones
        return column[len(taken) :]
    gone = set(taken)
    return [value for place, value in enumerate(column) if place not in gone]


def _in_turn(parts_s: Sequence[float], free_s: list[float]) -> list[float]:
    """Return when each part is done if the first worker that is free takes the next."""
    heapq.heapify(free_s)
    done_s = []
    for part_s in parts_s:
        done_s.append(free_s[0] + part_s)
        heapq.heapreplace(free_s, done_s[-1])
    return done_s


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
