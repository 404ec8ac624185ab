"""What waits to be made ready, such as pictures to decode, in the order in which requests are served."""

import itertools
from bisect import bisect_left, insort
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter

LATE_TURN = 4
"""While requests without a deadline are late, one turn in so many is theirs."""

Errand = Callable[[], None]

_order_of = itemgetter(0)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an errand stands: ``order_s`` as :attr:`server.policy.Waiting.order_s`; ``hard``: for a deadline."""

    order_s: float
    hard: bool = False


class Errands:
    """Errands that wait, each with its place. Not for several threads at once.

    The least ``order_s`` goes first. While those that are not hard are late, hard ones go before them, but for every
    :data:`LATE_TURN`-th turn: the rule of :mod:`server.scheduler`, for what is not in its lanes yet.
    """

    def __init__(self) -> None:
        self._hard: list[tuple[float, int, Errand]] = []
        self._others: list[tuple[float, int, Errand]] = []
        self._numbers = itertools.count()
        self._gave_way = 0

    def __len__(self) -> int:
        return len(self._hard) + len(self._others)

    def put(self, errand: Errand, place: Place) -> None:
        """Add an errand; behind those of the same order."""
        insort(self._hard if place.hard else self._others, (place.order_s, next(self._numbers), errand))

    def pop(self, now_s: float) -> Errand:
        """Remove and return the one whose turn it is. There must be one."""
        if not self._hard or not self._others:
            queue = self._hard or self._others
        elif self._others[0] < self._hard[0]:
            gives_way = self._others[0][0] < now_s and self._gave_way < LATE_TURN - 1
            self._gave_way = self._gave_way + 1 if gives_way else 0
            queue = self._hard if gives_way else self._others
        else:
            queue = self._hard
        return queue.pop(0)[2]

    def before(self, order_s: float, now_s: float) -> int:
        """Return how many go before a hard one of that order, now; late ones that are not hard do not."""
        late = bisect_left(self._others, now_s, key=_order_of)
        others = max(0, bisect_left(self._others, order_s, key=_order_of) - late)
        return bisect_left(self._hard, order_s, key=_order_of) + others

    def clear(self) -> None:
        """Forget them all."""
        self._hard.clear()
        self._others.clear()
