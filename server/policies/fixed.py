"""One precision whatever comes: for comparison, and for those who want no degrading."""

from dataclasses import dataclass

from server.ladder import Ladder, positions
from server.policy import Dispatch, Load, Waiting


@dataclass(frozen=True)
class Fixed:
    """Serves each request at ``precision`` if it allows that, else at the widest rung below that it allows.

    ``precision`` None: at what each request prefers. Batches are of the requests that share the rung of the first one.
    """

    precision: str | None = None

    @property
    def name(self) -> str:
        return "fixed" if self.precision is None else f"fixed-{self.precision}"

    def dispatch(self, ladder: Ladder, load: Load) -> Dispatch:
        queue = load.queue
        aim = 0 if self.precision is None else ladder.index(self.precision) or 0
        expired = tuple(
            index for index, waiting in enumerate(queue) if waiting.hard and waiting.deadline_s <= load.now_s
        )
        dropped = set(expired)
        members: list[int] = []
        rung = 0
        for index, waiting in enumerate(queue):
            if index in dropped:
                continue
            own = _rung(waiting, aim)
            if not members:
                rung = own
            if own == rung:
                members.append(index)
                if len(members) == ladder.max_batch:
                    break
        return Dispatch(rung, tuple(members), expired, "default")


def _rung(waiting: Waiting, aim: int) -> int:
    """Return the first rung from ``aim`` on that is allowed, else the last one before it."""
    return next(positions(waiting.allowed & -(1 << aim)), waiting.allowed.bit_length() - 1)
