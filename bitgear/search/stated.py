"""Whether what plans reach on test pictures may stand beside what a master states of its widths."""

import math
import shlex
from dataclasses import dataclass
from pathlib import Path

from bitgear.bits import Plan
from bitgear.checkpoint import Master
from bitgear.engines.base import Engine
from bitgear.evaluate import Data, Progress, evaluate_master
from bitgear.tasks.metrics import MAIN_METRIC, SHOWN

SAME = 5e-5
"""Shares that differ by no more are equal as they are shown: less than one picture of 10,000."""


@dataclass(frozen=True)
class Apart:
    """What a master ``stated`` of its widest width, and what was ``measured`` of it on the pictures that plans met.

    ``command`` measures every width and plan on the same pictures.
    """

    precision: str
    metric: str
    stated: float
    measured: float
    command: str

    def __str__(self) -> str:
        shown = SHOWN[self.metric]
        return (
            f"on these test pictures {self.precision} bits reach {shown} {self.measured:.2%}, while the master states "
            f"{self.stated:.2%}: its widths were measured on other pictures than the plan or plans that are new, so do "
            f"not compare these; to measure all on the same: {self.command}"
        )


def apart(
    master: Master, engine: Engine, test: Data, *, written: Path | str, data: Path, progress: Progress = lambda _: None
) -> Apart | None:  # fmt: skip
    """Return how the widest width differs on test pictures from what the master states; None if not at all.

    ``written`` is the master with the new plans, ``data`` where the pictures are. A master that states nothing of that
    width cannot differ.
    """
    widest, metric = max(master.widths), MAIN_METRIC[master.task]
    stated = master.metrics(str(widest)).get(metric)
    if stated is None:
        return None
    plan = Plan.uniform(widest)
    measured = evaluate_master(master, engine, test, [plan], progress)[plan].metrics[metric]
    if math.isclose(measured, stated, rel_tol=0, abs_tol=SAME):
        return None
    command = shlex.join(["bitgear", "evaluate", str(written), "--data", str(data), "--store"])
    return Apart(str(widest), metric, stated, measured, command)
