"""How long policies take to decide with a queue of 1,000, in real time.

    python -m benchmarks.decisions [--slo FILE] [--json FILE]

Queues are drawn anew for each decision: of requests that leave the precision to the server; of such, pinned ones and
ones with a floor; and of all these, some with priority, half of them still to be decoded. Time is short in some and
plentiful in others, so that few or many precisions are weighed.
Ladders: one that is made up, of six widths, and the one in a report of ``benchmarks.slo``, of widths and plans.
"""

import gc
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import RESULTS, command_line, write_report
from benchmarks.simulate import STEEP, made_up, told
from server.ladder import Ladder
from server.policies import create_policy
from server.policy import Load, Waiting

QUEUED = 1000
DECISIONS = 2000
MAX_BATCH = 16
POLICIES = ("look-ahead", "slackfit", "fixed")
READY_S = 0.001
"""What it takes to decode a picture."""


@dataclass(frozen=True)
class Crowd:
    """Who waits: each allows one of ``masks``; of all, what share has priority, and is still to be decoded."""

    masks: Sequence[int]
    priority: float = 0.0
    coming: float = 0.0


def loads(ladder: Ladder, crowd: Crowd, count: int) -> Iterator[Load]:
    """Yield so many loads of a crowd, for two workers, one of them busy."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        slack_s = rng.uniform(0.2, 2) * QUEUED * ladder.rungs[-1].latency_ms(1) / 1000
        due_s = rng.uniform(slack_s / 5, slack_s, QUEUED).tolist()
        kinds = rng.integers(0, len(crowd.masks), QUEUED).tolist()
        priorities = (rng.random(QUEUED) < crowd.priority).tolist()
        waiting = [
            Waiting(at_s, crowd.masks[kind], hard=True, priority=int(first))
            for at_s, kind, first in zip(due_s, kinds, priorities, strict=True)
        ]
        ready = round(QUEUED * (1 - crowd.coming))
        queue = sorted(waiting[:ready], key=lambda one: one.order_s)
        yield Load(0.0, queue, 100.0, 2, (0.0, 0.01), coming=waiting[ready:], ready_s=READY_S)


def rows(ladder: Ladder) -> Iterator[dict[str, Any]]:
    """Yield for each policy and kind of queue how long decisions take."""
    every = ladder.useful(ladder.all_rungs)
    masks = [every, 1, every & 0b111]
    crowds = {
        "auto": Crowd([every]),
        "auto, pinned and floors": Crowd(masks),
        "the same, half still to be decoded, a third with priority": Crowd(masks, priority=1 / 3, coming=0.5),
    }
    for name, crowd in crowds.items():
        for policy in POLICIES:
            decides, taken_us = create_policy(policy), []
            for load in loads(ladder, crowd, DECISIONS):
                gc.disable()  # it would count what drawing has left
                began_s = time.perf_counter()
                decides.dispatch(ladder, load)
                taken_us.append(1e6 * (time.perf_counter() - began_s))
                gc.enable()
            p50, p99 = (float(value) for value in np.percentile(taken_us, [50, 99]))
            yield {
                "ladder": ladder.model,
                "rungs": every.bit_count(),
                "policy": policy,
                "queued": QUEUED,
                "requests": name,
                "p50_us": p50,
                "p99_us": p99,
            }


def main() -> None:
    """Measure, print, and write the report."""
    parser = command_line(__doc__)
    parser.add_argument("--slo", type=Path, default=RESULTS / "slo-quick.json", help="a report of benchmarks.slo")
    parser.add_argument("--json", type=Path, help="the report, instead of benchmarks/results/decisions.json")
    arguments = parser.parse_args()
    report = json.loads(arguments.slo.read_text(encoding="utf-8"))
    ladders = made_up("steep", STEEP, 0.5, MAX_BATCH), told(report["ladder"], MAX_BATCH)
    measured = []
    for row in (row for ladder in ladders for row in rows(ladder)):
        measured.append(row)
        print(
            f"{row['policy']} with {QUEUED} queued, ladder of {row['ladder']} ({row['requests']}):"
            f" {row['p50_us']:.0f} us, p99 {row['p99_us']:.0f}"
        )
    path = write_report("decisions", {"decisions": DECISIONS, "rows": measured}, arguments.json)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
