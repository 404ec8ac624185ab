"""What all policies do alike: drop what is lost, and fill a batch."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter, itemgetter

from server.ladder import Ladder
from server.policy import Dispatch, Load, Reason, Waiting

_column = Waiting._fields.index
deadline_of = itemgetter(_column("deadline_s"))
allowed_of = itemgetter(_column("allowed"))
images_of = itemgetter(_column("images"))
work_of = itemgetter(_column("allowed"), _column("images"))
"""With ``map`` the fastest way to read a long queue."""


def fastest_of(ladder: Ladder) -> Callable[[Waiting], int]:
    """Return what tells the fastest rung that a request allows."""
    return lambda waiting: ladder.fastest(waiting.allowed)


def nearest(mask: int, rung: int) -> int:
    """Return the first rung of a mask from ``rung`` on, else the last one before it."""
    rest = mask >> rung
    return rung + (rest & -rest).bit_length() - 1 if rest else mask.bit_length() - 1


LOOKED_AT = 50
"""Of a queue of twice this or more, every second request is looked at, every third of three times this, and so on: each
stands for those behind it."""

CROWD = 4
"""Images of a batch, at least, when the queue is long."""


def crowd(ladder: Ladder, images: float, workers: int) -> int:
    """Return how many images a batch should have of a queue of so many, even if that makes none of them faster.

    When many wait, a few: the interpreter has work with every batch, other threads want it as well then, and only
    batches that are larger would show what that costs.
    """
    return min(CROWD, ladder.max_batch, int(images / (2 * workers)))


def lost(ladder: Ladder, load: Load, rung_of: Callable[[Waiting], int], longer: float = 1.0) -> tuple[int, ...]:
    """Return the positions of requests whose hard deadline is likely missed even if they run now and alone.

    Likely is what happens at the median, which ``ladder`` states with its noise: to refuse what is met every other time
    would lose more. ``rung_of``: at which rung a request would run. ``longer``: so many times the median.
    """
    now_s, scale = load.now_s, longer / ladder.noise / 1000
    fixed_s = [now_s + scale * rung.fixed_ms for rung in ladder.rungs]
    image_s = [scale * rung.per_image_ms for rung in ladder.rungs]

    def longest_s(images: int) -> float:
        """Return until when a request takes that has no more images than so many."""
        return max(fixed_s) + images * max(image_s)

    def within(queue: Sequence[Waiting], until_s: float) -> Sequence[Waiting]:
        # No deadline is before what the queue is sorted by; where late ones stand at the end, none of them is hard.
        return queue[: bisect_left(queue, until_s, key=attrgetter("order_s"))]

    def late(waiting: Waiting) -> bool:
        rung = rung_of(waiting)
        return waiting.deadline_s < fixed_s[rung] + image_s[rung] * waiting.images

    urgent = within(load.queue, longest_s(ladder.max_batch))
    until_s = longest_s(max(map(images_of, urgent), default=1))
    urgent = within(urgent, until_s)
    return tuple(
        position
        for position, waiting in enumerate(urgent)
        # A backlog that has expired is long: what is over needs no closer look.
        if waiting.deadline_s < until_s and waiting.hard and (waiting.deadline_s < now_s or late(waiting))
    )


def give_up(load: Load, rung_of: Callable[[Waiting], int], reason: Reason) -> Dispatch:
    """Return what to do with a queue that is lost altogether: drop it.

    While nothing runs, the request with most time left is tried all the same, at the rung that it would run at:
    expectations that were too high once, such as those of a busy moment, and that refuse everything, would never be
    corrected.
    """
    everyone = range(len(load.queue))
    last = max(everyone, key=lambda position: load.queue[position].deadline_s)
    rung = rung_of(load.queue[last])
    if load.busy_until_s:
        return Dispatch(rung, (), tuple(everyone), reason)
    return Dispatch(rung, (last,), tuple(position for position in everyone if position != last), reason)


def hopeless(ladder: Ladder, load: Load, newcomer: Waiting, margin: float) -> bool:
    """Return whether a request that is not in the queue yet would be late even if all narrowed down for it.

    What the workers do is finished, and what stands before it and is not lost, for other models too, is served by all
    of them in efficient batches, each at the fastest that it allows: in sum that takes what it takes at the median.
    Then its own time must be left, as the ladder says, and of all that ``margin`` more.
    """
    if not newcomer.hard:
        return False
    order_of = attrgetter("order_s")
    first = bisect_left(load.queue, load.now_s + min(ladder.alone_s), key=order_of)
    ahead = load.queue[first : bisect_left(load.queue, newcomer.order_s, key=order_of)]
    work_s = sum(until_s - load.now_s for until_s in load.busy_until_s if until_s > load.now_s)
    least_s = {mask: ladder.image_s[ladder.fastest(mask)] for mask in set(map(allowed_of, ahead))}
    work_s += sum(least_s[mask] * images for mask, images in map(work_of, ahead))
    own_s = ladder.rungs[ladder.fastest(newcomer.allowed)].latency_ms(newcomer.images) / 1000
    needed_s: float = work_s / ladder.noise / load.workers + load.elsewhere_s(newcomer.order_s) + own_s
    needed_s *= 1 + margin
    return needed_s > newcomer.deadline_s - load.now_s


def others(count: int, drop: Sequence[int]) -> Sequence[int]:
    """Return the positions of a queue of so many requests that are not in ``drop``."""
    if not drop or drop[-1] == len(drop) - 1:  # the first ones
        return range(len(drop), count)
    gone = set(drop)
    return [position for position in range(count) if position not in gone]


def fill(queue: Sequence[Waiting], positions: Iterable[int], rung: int, limit: int) -> tuple[int, ...]:
    """Return the first of these positions that allow a rung, with no more than ``limit`` images, but at least one."""
    members: list[int] = []
    images = 0
    for position in positions:
        waiting = queue[position]
        if waiting.allowed >> rung & 1:
            images += waiting.images
            if images > limit and members:
                break
            members.append(position)
            if images >= limit:
                break
    return tuple(members)
