"""Which rung of the ladder serves: what a request allows, and what a free worker runs next. No clock, no I/O."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from server.errors import BadParameter, WidthNotOffered
from server.ladder import Ladder, Rung, positions
from server.precision import Wish
from server.profiles import Profile

Source = Literal["request", "policy", "profile", "default"]
Reason = Literal["asked", "default", "slack", "backlog", "floor", "ceiling", "pruned", "lenient"]

PRIORITY_HEAD_START_S = 1.0
"""How much earlier a request is served for each step of priority. Bounded, so that nobody waits for ever."""


@dataclass(frozen=True)
class Admission:
    """What one request allows. ``allowed``: a mask of the ladder's rungs, never empty.

    ``preferred``: the rung that serves it while nothing presses, the first one of the mask; ``source`` and ``reason``
    say where that comes from. ``pinned``: the request names its precision; if the mask has further rungs, it lets
    itself be degraded.
    """

    allowed: int
    preferred: int
    source: Source
    reason: Reason
    pinned: bool


@dataclass(frozen=True)
class Choice:
    """The rung that served one request, who decided it, and why. The words are defined in docs/http.md."""

    rung: int
    source: Source
    reason: Reason


class Waiting(NamedTuple):
    """One queued request.

    ``deadline_s``: when its answer must be made, on the monotonic clock. ``allowed``: the mask of :class:`Admission`.
    ``hard``: the client set the deadline, and an answer after it is worth nothing; otherwise it is the aim of the
    profile, and a late answer is still an answer. ``priority``: 0 or higher. ``images``: how many it has, 1 or more.
    ``pinned``: it names its precision, the first rung that it allows.
    """

    deadline_s: float
    allowed: int
    hard: bool = False
    priority: int = 0
    images: int = 1
    pinned: bool = False

    @property
    def order_s(self) -> float:
        """What queues are sorted by, ascending: the deadline, with a head start for priority."""
        return self.deadline_s - PRIORITY_HEAD_START_S * self.priority

    def is_late(self, now_s: float) -> bool:
        """Return whether its aim is missed; never, of a hard deadline."""
        return not self.hard and self.deadline_s < now_s

    def goes_first(self, now_s: float) -> bool:
        """Return whether it is served before what is late: for its deadline, or its priority unless it is late too."""
        return self.hard or (self.priority > 0 and not self.is_late(now_s))


@dataclass(frozen=True)
class Load:
    """What a free worker sees.

    ``queue``: requests for one model, in order of :attr:`Waiting.order_s`; or first those, in this order, that go
    before what is late without a deadline, and then the rest, likewise. ``arrivals_per_s``: how many requests for it
    come in, recent average. ``workers``: how many engine workers there are, the asking one included; ``busy_until_s``:
    when each of them is expected to be free, in any order; those that are left out are free, all if it is empty.
    ``elsewhere``: for each request that waits for another model, in order of it, its deadline, and the seconds that one
    worker takes at least for it and all before it. ``coming``: requests for this model that are still to be made ready,
    by decoding a picture, say, in any order; they cannot run yet, but will want their time.
    ``ready_s``: the seconds of one worker that it takes to make one of them ready.
    """

    now_s: float
    queue: Sequence[Waiting]
    arrivals_per_s: float = 0.0
    workers: int = 1
    busy_until_s: tuple[float, ...] = ()
    elsewhere: Sequence[tuple[float, float]] = ()
    coming: Sequence[Waiting] = ()
    ready_s: float = 0.0

    def elsewhere_s(self, until_s: float) -> float:
        """Return how long all workers take at least for what other models' requests are due from now until then."""
        if not self.elsewhere:
            return 0.0
        done, due = bisect_left(self.elsewhere, (self.now_s,)), bisect_right(self.elsewhere, (until_s, math.inf))
        if due <= done:
            return 0.0
        lost_s = self.elsewhere[done - 1][1] if done else 0.0
        return (self.elsewhere[due - 1][1] - lost_s) / self.workers


@dataclass(frozen=True)
class Dispatch:
    """What a free worker is to do: run ``members`` at ``rung``, and refuse ``drop``.

    ``members`` and ``drop``: positions in the queue, ascending, none in both. All members allow the rung; they have no
    more images than the ladder's largest batch, unless it is one member with more. ``drop``: requests whose hard
    deadline cannot be met any more. There are no members only if nothing is left in the queue. ``reason``: of a rung
    that is not the one preferred.
    """

    rung: int
    members: tuple[int, ...]
    drop: tuple[int, ...]
    reason: Reason


class Policy(Protocol):
    """Decides what a free worker runs next. A pure function: the same load gives the same answer."""

    @property
    def name(self) -> str:
        """As it is written in settings and reports: ``look-ahead``, ``slackfit``, ``fixed``, ``fixed-4``."""

    def dispatch(self, ladder: Ladder, load: Load) -> Dispatch:
        """Return what to do with a queue that is not empty."""


def admit(wish: Wish, ladder: Ladder, profile: Profile) -> Admission:
    """Return which rungs may serve a wish under a profile.

    A pinned precision allows its own rung alone, unless the wish is lenient: then useful ones further down within all
    bounds too. ``auto`` prefers the profile's default, or the widest rung; a bound that excludes it moves it
    to the nearest rung inside, one that is not on the ladder gives way to the widest inside, one that is pruned to the
    rung that is as good. It allows what is useful from there down to the floor. Bounds are of mean widths. What the
    profile says of the ladder's model alone wins over what it says of all.

    Raises :class:`~server.errors.WidthNotOffered` for a pinned precision that is not on the ladder within the profile's
    bounds, and for bounds with no rung between them; :class:`~server.errors.BadParameter` for a pinned precision
    outside the wish's own bounds.
    """
    rungs = ladder.rungs
    profile = profile.of(ladder.model)
    within = _between(ladder, profile.floor, profile.ceiling)
    floor, ceiling = profile.floor, profile.ceiling
    floor_source: Source = "profile"
    ceiling_source: Source = "profile"
    if wish.floor is not None and wish.floor > floor:
        floor, floor_source = wish.floor, "request"
    if wish.ceiling is not None and wish.ceiling < ceiling:
        ceiling, ceiling_source = wish.ceiling, "request"
    inside = _between(ladder, floor, ceiling)
    if wish.precision is not None:
        pinned = ladder.index(wish.precision)
        if pinned is not None:
            _check_bounds(wish, rungs[pinned])
        if pinned is None or not within >> pinned & 1:
            raise WidthNotOffered(f"precision {wish.precision}", _names(ladder, within))
        allowed = 1 << pinned
        if wish.lenient:
            allowed |= ladder.useful(inside & -allowed)
        return Admission(allowed, pinned, "request", "asked", pinned=True)
    if not inside:
        raise WidthNotOffered(f"a precision from {floor} to {ceiling}", _names(ladder, within))

    source: Source = "default" if profile.default is None else "profile"
    reason: Reason = "default"
    default = rungs[0].mean_bits if profile.default is None else profile.default
    preferred = 0 if profile.default is None else ladder.index(str(default))
    if default < floor:
        preferred, source, reason = _least(ladder, inside), floor_source, "floor"
    elif default > ceiling:
        preferred, source, reason = _greatest(ladder, inside), ceiling_source, "ceiling"
    elif preferred is None or not inside >> preferred & 1:
        preferred, reason = _greatest(ladder, inside), "pruned"
    if ladder.instead(preferred, inside) != preferred:
        preferred, reason = ladder.instead(preferred, inside), "pruned"
    return Admission(ladder.useful(inside) & -(1 << preferred), preferred, source, reason, pinned=False)


def explain(admission: Admission, rung: int, reason: Reason) -> Choice:
    """Return what is said of a request that was served at ``rung`` by a dispatch with ``reason``."""
    if rung == admission.preferred:
        return Choice(rung, admission.source, admission.reason)
    return Choice(rung, "policy", "lenient" if admission.pinned else reason)


def _between(ladder: Ladder, floor: int, ceiling: int) -> int:
    return sum(1 << index for index, rung in enumerate(ladder.rungs) if rung.within(floor, ceiling))


def _least(ladder: Ladder, mask: int) -> int:
    """Return the rung of the fewest bits in a mask, of several the most accurate."""
    return min(positions(mask), key=lambda index: (ladder.rungs[index].mean_bits, -ladder.rungs[index].accuracy))


def _greatest(ladder: Ladder, mask: int) -> int:
    """Return the rung of the most bits in a mask, of several the most accurate."""
    return max(positions(mask), key=lambda index: (ladder.rungs[index].mean_bits, ladder.rungs[index].accuracy))


def _check_bounds(wish: Wish, rung: Rung) -> None:
    mean = f", {rung.mean_bits:.2f} bits in the mean," if rung.is_mixed else ""
    if wish.floor is not None and rung.mean_bits < wish.floor:
        raise BadParameter(f"precision {rung.precision}{mean} is below precision_min {wish.floor}", "precision_min")
    if wish.ceiling is not None and rung.mean_bits > wish.ceiling:
        raise BadParameter(f"precision {rung.precision}{mean} is above precision_max {wish.ceiling}", "precision_max")


def _names(ladder: Ladder, mask: int) -> list[int | str]:
    return [ladder.rungs[index].said for index in positions(mask)]
