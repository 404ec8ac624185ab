"""Plans tried out: each with a batch norm of its own, on pictures kept for choosing, through the engine that serves."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from bitgear.bits import Plan
from bitgear.checkpoint import Master
from bitgear.engines.base import Engine
from bitgear.evaluate import Data, Measured, evaluate_master
from bitgear.plans import BatchNorm, NamedPlan
from bitgear.search.space import Choice, Space
from bitgear.search.statistics import Statistics
from bitgear.search.timings import Timings
from bitgear.tasks.metrics import MAIN_METRIC


@dataclass(frozen=True, eq=False)
class Trial:
    """A choice and what it reaches. ``use``: milliseconds, predicted or measured. ``batch_norm``: None of a width."""

    choice: Choice
    plan: Plan
    batch_norm: dict[str, BatchNorm] | None
    use: float
    measured: Measured
    score: float

    def named(self, name: str) -> NamedPlan:
        """Return the plan under a name."""
        return NamedPlan(name, self.plan, batch_norm=self.batch_norm)


@dataclass
class Trials:
    """Runs choices, each once, with a batch norm fitted to each if ``fitting``; else with the rows of the widths.

    ``progress`` is called with 1 after each that is new.
    """

    space: Space
    engine: Engine
    timings: Timings
    statistics: Statistics
    data: Data
    fitting: bool = True
    progress: Callable[[int], object] = lambda _: None
    done: dict[Choice, Trial] = field(default_factory=dict)

    def run(self, choice: Choice) -> Trial:
        """Return what a choice reaches."""
        if choice not in self.done:
            plan = self.space.plan(choice)
            norms = self.statistics.fit(plan) if plan.layers and self.fitting else None
            measured = self.measure(plan, norms)
            score = measured.metrics[MAIN_METRIC[self.space.master.task]]
            self.done[choice] = Trial(choice, plan, norms, self.timings.predict_ms(plan), measured, score)
            self.progress(1)
        return self.done[choice]

    def score(self, plan: Plan, norms: dict[str, BatchNorm] | None) -> float:
        """Return the main metric of a plan."""
        return self.measure(plan, norms).metrics[MAIN_METRIC[self.space.master.task]]

    def measure(self, plan: Plan, norms: dict[str, BatchNorm] | None) -> Measured:
        """Return what a plan reaches with a batch norm; None: with the rows of the widths."""
        return evaluate_master(alone(self.space.master, plan, norms), self.engine, self.data, [plan])[plan]

    def chosen(self) -> list[Trial]:
        """Return the trials of plans, those of widths left out."""
        return [trial for trial in self.done.values() if trial.plan.layers]


def alone(master: Master, plan: Plan, norms: dict[str, BatchNorm] | None) -> Master:
    """Return a master that offers one plan beside its widths, with this batch norm."""
    return replace(master, plans=() if norms is None else (NamedPlan("candidate", plan, batch_norm=norms),), digest="")
