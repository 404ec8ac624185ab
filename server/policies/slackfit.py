"""SlackFit (SuperServe, NSDI'25): the slowest choice of precision and batch that the most urgent request can bear."""

from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache

from server.ladder import Ladder, positions
from server.policies.batches import fastest_of, fill, give_up, lost, others
from server.policy import Dispatch, Load

BUCKETS = 16
"""Of latency; the paper does not say how many."""


@dataclass(frozen=True)
class SlackFit:
    """Looks at the slack of the most urgent request alone, latencies taken ``margin`` longer.

    Off line, for a ladder: pairs of precision and batch are put into buckets of equal width by their latency; of each
    the pair with the largest batch is kept, among these the most accurate. On line: the slowest kept pair that is
    faster than the slack; the fastest precision if there is none, with one image unless something is late already.
    Off line is whenever the ladder changes. A first request that names its precision, and lets itself be degraded, gets
    what it names if its own slack bears that, whatever else is late.
    """

    margin: float

    @property
    def name(self) -> str:
        return "slackfit"

    def dispatch(self, ladder: Ladder, load: Load) -> Dispatch:
        rung_of = fastest_of(ladder)
        drop = lost(ladder, load, rung_of)
        left = others(len(load.queue), drop)
        if not left:
            return give_up(load, rung_of, "slack")
        head = load.queue[left[0]]
        # Those who go before what is late stand first, but it has no slack all the same.
        behind = bisect_left(load.queue, True, left[0], key=lambda waiting: not waiting.goes_first(load.now_s))
        urgent_s = min(waiting.deadline_s for waiting in (head, *load.queue[behind : behind + 1]))
        allowed, slack_ms = head.allowed, self._slack_ms(urgent_s, load)
        own_ms, named = self._slack_ms(head.deadline_s, load), next(positions(head.allowed))
        if head.pinned and ladder.rungs[named].latency_ms(head.images) < own_ms:
            allowed, slack_ms = 1 << named, own_ms
        pairs = _pairs(ladder, allowed)
        found = bisect_left(pairs, (slack_ms,)) - 1
        if found >= 0:
            _, batch, rung = pairs[found]
        else:  # what is late in any case is no reason to serve others one by one
            rung = ladder.fastest(allowed)
            batch = ladder.efficient_batches[rung] if slack_ms < 0 else 1
        return Dispatch(rung, fill(load.queue, left, rung, batch), drop, "slack")

    def _slack_ms(self, deadline_s: float, load: Load) -> float:
        return 1000 * (deadline_s - load.now_s) / (1 + self.margin)


@lru_cache(maxsize=64)
def _pairs(ladder: Ladder, allowed: int) -> list[tuple[float, int, int]]:
    """Return what is kept of the pairs as (latency in ms, batch, rung), the fastest first."""
    pairs = [
        (ladder.rungs[rung].latency_ms(batch), batch, rung)
        for rung in positions(allowed)
        for batch in range(1, ladder.max_batch + 1)
    ]
    lowest, highest = min(pairs)[0], max(pairs)[0]
    kept: dict[int, tuple[float, int, int]] = {}
    for pair in pairs:
        share = (pair[0] - lowest) / (highest - lowest) if highest > lowest else 0.0
        bucket = min(BUCKETS - 1, int(share * BUCKETS))
        if bucket not in kept or (pair[1], -pair[2]) > (kept[bucket][1], -kept[bucket][2]):
            kept[bucket] = pair
    return sorted(kept.values())
