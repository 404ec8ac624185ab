"""What waits to be made ready, such as pictures to decode, in the order in which requests are served."""

import itertools
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable
from operator import itemgetter
from typing import Generic, NamedTuple, Protocol, TypeVar

from server.policy import Waiting
from server.turns import Turns


class Asked(Protocol):
    """Whatever is for a request."""

    @property
    def request(self) -> Waiting: ...


A = TypeVar("A", bound=Asked)

_order_of = itemgetter(0)


class InTurn(Generic[A]):
    """What waits, each for a request. Not for several threads at once.

    The least ``order_s`` goes first. While those that are not hard are late, hard ones go before them, in most turns
    (:mod:`server.turns`): the rule of :mod:`server.scheduler`, for what is not in its lanes yet.
    """

    def __init__(self) -> None:
        self._hard: list[tuple[float, int, A]] = []
        self._others: list[tuple[float, int, A]] = []
        self._numbers = itertools.count()
        self._turns = Turns()

    def __len__(self) -> int:
        return len(self._hard) + len(self._others)

    def put(self, item: A) -> None:
        """Add one; behind those of the same order."""
        queue = self._hard if item.request.hard else self._others
        insort(queue, (item.request.order_s, next(self._numbers), item))

    def pop(self, now_s: float) -> A:
        """Remove and return the one whose turn it is. There must be one."""
        if not self._hard or not self._others:
            queue = self._hard or self._others
        elif self._others[0] < self._hard[0]:
            queue = self._hard if self._turns.gives_way(self._others[0][2].request.is_late(now_s)) else self._others
        else:
            queue = self._hard
        return queue.pop(0)[2]

    def clear(self) -> None:
        """Forget them all."""
        self._hard.clear()
        self._others.clear()


class Errand(NamedTuple):
    """What is to be done for a request. ``whose`` that is: any object, such as a model."""

    do: Callable[[], None]
    request: Waiting
    whose: object


class Errands(InTurn[Errand]):
    """Errands that wait."""

    def of(self, whose: object) -> list[Waiting]:
        """Return the requests of one whose errands wait."""
        queues = (self._hard, self._others)
        return [errand.request for queue in queues for _, _, errand in queue if errand.whose is whose]

    def before(self, order_s: float, now_s: float) -> Counter[object]:
        """Return how many go before a hard one of that order, now, by whose they are.

        Those that are over do not, for nobody waits for them; nor does what is late, but not hard.
        """
        return Counter(
            errand.whose
            for queue in (self._hard, self._others)
            for _, _, errand in queue[: bisect_left(queue, order_s, key=_order_of)]
            if errand.request.deadline_s >= now_s
        )
