"""One precision whatever comes: for comparison, and for those who want no degrading."""

from dataclasses import dataclass

from server.ladder import Ladder
from server.policies.batches import crowd, fill, give_up, lost, nearest, others
from server.policy import Dispatch, Load, Reason, Waiting


@dataclass(frozen=True)
class Fixed:
    """Serves each request at ``precision``, or at the nearest it allows: the next narrower one, else the next wider.

    ``precision`` None, and of requests that name theirs: at what each prefers. Batches are as large as makes an image
    faster, and as the deadline of the first request allows, unless that one is late in any case.
    """

    precision: str | None = None

    @property
    def name(self) -> str:
        return "fixed" if self.precision is None else f"fixed-{self.precision}"

    def dispatch(self, ladder: Ladder, load: Load) -> Dispatch:
        aim = 0 if self.precision is None else ladder.index(self.precision) or 0

        def rung_of(waiting: Waiting) -> int:
            return nearest(waiting.allowed, 0 if waiting.pinned else aim)

        drop = lost(ladder, load, rung_of)
        left = others(len(load.queue), drop)
        if not left:
            return give_up(load, rung_of, "default")
        head = load.queue[left[0]]
        rung = rung_of(head)
        left_ms = 1000 * (head.deadline_s - load.now_s)
        # That large also where the first is late whatever is done.
        limit = max(ladder.efficient_batches[rung], crowd(ladder, len(left), load.workers))
        if left_ms >= ladder.rungs[rung].latency_ms(head.images):
            limit = ladder.rungs[rung].images_within(left_ms, limit)
        # Not at a rung that these do not aim at, even if they allow it.
        alike = (position for position in left if rung_of(load.queue[position]) == rung)
        return Dispatch(rung, fill(load.queue, alike, rung, limit), drop, self._reason(ladder, head, rung))

    def _reason(self, ladder: Ladder, head: Waiting, rung: int) -> Reason:
        """Say why a request does not get ``precision``: ``auto`` has no use for it here, or a floor excludes it."""
        aim = None if self.precision is None or head.pinned else ladder.index(self.precision)
        if aim is None or aim == rung:
            return "default"
        return "pruned" if ladder.rungs[aim].pruned else "floor"
