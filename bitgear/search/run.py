"""A search from a master to the same master with plans: docs/search.md."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from bitgear.bits import plan_name
from bitgear.checkpoint import Master
from bitgear.engines.base import Engine
from bitgear.errors import SearchError
from bitgear.evaluate import Data, Measured, evaluate_master
from bitgear.plans import NamedPlan
from bitgear.search.costs import Cost, hessian_costs, measured_costs, weight_costs
from bitgear.search.evolution import best, evolve, undominated
from bitgear.search.front import worthwhile
from bitgear.search.pictures import Pictures
from bitgear.search.programme import Limit, candidates
from bitgear.search.space import Choice, Space, Table
from bitgear.search.stated import Apart
from bitgear.search.statistics import Statistics
from bitgear.search.timings import Timings, least_ms
from bitgear.search.trials import Trial, Trials, alone

if TYPE_CHECKING:
    from bitgear.engines.native import NativeEngine

SEED_SHARE = 4
"""One trial in so many of an evolution is a seed from the programme."""
PROBES = 3
"""Plans drawn at random by which it is decided whether batch norm is fitted."""
FINALISTS = 3
"""So many times the plans wanted of a front are timed, and so many for a limit of time."""


class Method(StrEnum):
    """``ilp``: the programme's candidates, all of them. ``evolution``: its best, and what evolves from them."""

    ILP = "ilp"
    EVOLUTION = "evolution"


class Quantity(StrEnum):
    """What can be limited: milliseconds of one picture, mean width, bytes of packed weights, bit operations."""

    LATENCY_MS = "latency_ms"
    MEAN_WIDTH = "mean_width"
    BYTES = "bytes"
    BIT_OPERATIONS = "bit_operations"


@dataclass(frozen=True)
class Goal:
    """The best plan is wanted that takes at most so much of a quantity, the whole network counted."""

    quantity: Quantity
    most: float

    def __str__(self) -> str:
        return f"{self.quantity.value.replace('_', ' ')} {self.most:g}"


@dataclass(frozen=True)
class SearchOptions:
    """What is wanted: a plan for each of ``goals``, and the ``front`` of so many; and how it is sought.

    ``trials``: for each goal, and for the front. ``seconds``: of timing layers, and plans against each other.
    """

    goals: tuple[Goal, ...] = ()
    front: int = 0
    widths: tuple[int, ...] = ()
    method: Method = Method.ILP
    cost: Cost = Cost.WEIGHTS
    trials: int = 48
    seconds: float = 15.0
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Found:
    """A plan that was chosen, under its name, and why. ``rows``: what it reaches with the rows of the widths instead.

    ``name`` is empty until the plan is added to a master.
    """

    name: str
    reason: str
    trial: Trial
    rows: Measured
    test: Measured

    @property
    def plan(self) -> NamedPlan:
        """The plan as a master holds it."""
        return replace(self.trial.named(self.name), accuracy=self.test.stored)


@dataclass(frozen=True, eq=False)
class Result:
    """What a search found. ``uniform`` and ``trials``: all that was run; ``told``: what gave no new plan, and why.

    ``probes``: scores of random plans, with a batch norm ``fitted`` to each and with that of the ``widths``: the better
    way was taken. ``apart``: set if the plans' test pictures are others than those that the master's widths met.
    """

    master: Master
    space: Space
    timings: Timings
    pictures: Pictures
    options: SearchOptions
    costs: Table
    uniform: list[Trial]
    trials: list[Trial]
    found: list[Found]
    told: list[str]
    probes: dict[str, float]
    seconds: dict[str, float]
    apart: Apart | None = None


Stage = Callable[[str, int], Callable[[int], object]]
"""Told what begins and of how many parts it is; returns what gets parts done."""


def search(
    master: Master, engine: "NativeEngine", runner: Engine, timings: Timings, pictures: Pictures, test: Data,
    options: SearchOptions, stage: Stage = lambda _, __: lambda _: None,
) -> Result:  # fmt: skip
    """Return a master with the plans that were found beside those that it has, which stay as they are.

    ``engine`` is what plans are timed on, ``runner`` what they are tried on: any, of as many threads as there are.
    Raises :class:`~bitgear.errors.SearchError` if a goal cannot be reached by any choice.
    """
    return _Search(master, engine, runner, timings, pictures, options, stage).run(test)


class _Search:
    def __init__(
        self, master: Master, engine: "NativeEngine", runner: Engine, timings: Timings, pictures: Pictures,
        options: SearchOptions, stage: Stage,
    ) -> None:  # fmt: skip
        self.master = master
        self.engine = engine
        self.runner = runner
        self.timings = timings
        self.pictures = pictures
        self.options = options
        self.stage = stage
        self.space = Space(master, options.widths or master.widths)
        self.costs = self._costs()
        statistics = Statistics(master, runner, pictures.calibration)
        self.trials = Trials(self.space, runner, timings, statistics, pictures.validation)
        self.rng = np.random.default_rng(options.seed)
        self.seconds = {"programme": 0.0, "trials": 0.0}
        self.told: list[str] = []

    def run(self, test: Data) -> Result:
        goals = {goal: self._limit(goal) for goal in self.options.goals}
        levels = self._levels() if self.options.front else []
        count = self.options.trials * (len(goals) + bool(levels)) + len(self.master.widths)
        self.trials.progress = self.stage("trials", count)
        uniform = [self.trials.run(self.space.uniform(bits)) for bits in self.master.widths]
        probes = self._probes()
        self.trials.fitting = probes["fitted"] > probes["widths"]
        for limit in goals.values():
            self._seek([limit])
        if levels:
            self._seek(levels)
        finalists = self._finalists(uniform)
        best = {goal: self._best(goal, limit) for goal, limit in goals.items()}
        plans = [trial for trials in (finalists, *best.values()) for trial in trials if trial.plan.layers]
        timed_widths, timed = self._timed(uniform, plans)
        front = worthwhile([timed[trial.choice] for trial in finalists], timed_widths, self.options.front)
        if len(front) < self.options.front:
            few = f"{len(front) or 'no'} plans that nothing dominates, {self.options.front} were asked for"
            self.told.append(f"front of time and accuracy: {few}")
        chosen = {trial.choice: ("front of time and accuracy", trial) for trial in front}
        for goal, trials in best.items():
            trial = self._picked(goal, [timed[trial.choice] for trial in trials])
            if trial is not None:
                chosen[trial.choice] = (str(goal), trial)
        found = self._tested(list(chosen.values()), test)
        result = Result(
            self.master, self.space, self.timings, self.pictures, self.options,
            self.costs, timed_widths, self.trials.chosen(), found, self.told, probes, self.seconds,
        )  # fmt: skip
        return added(result, self.master)

    def _costs(self) -> Table:
        match self.options.cost:
            case Cost.WEIGHTS:
                return weight_costs(self.space)
            case Cost.HESSIAN:
                return hessian_costs(self.space)
            case Cost.MEASURED:
                progress = self.stage("costs", len(self.space.units))
                return measured_costs(self.space, self.runner, self.pictures.calibration, progress)

    def _probes(self) -> dict[str, float]:
        """Return the mean score of a few random plans, with batch norm ``fitted`` to them, and with the ``widths``'."""
        plans = [
            self.space.plan(tuple(self.rng.choice(self.space.open, len(self.space.units)).tolist()))
            for _ in range(PROBES)
        ]
        fitted = [self.trials.score(plan, self.trials.statistics.fit(plan)) for plan in plans]
        return {
            "fitted": float(np.mean(fitted)),
            "widths": float(np.mean([self.trials.score(plan, None) for plan in plans])),
        }

    def _limit(self, goal: Goal) -> Limit:
        match goal.quantity:
            case Quantity.LATENCY_MS:
                limit = Limit(self.timings.table(self.space), goal.most - self.timings.other_ms)
            case Quantity.MEAN_WIDTH:
                limit = Limit(self.space.mean_widths, goal.most)
            case Quantity.BYTES:
                limit = Limit(self.space.weight_bytes, goal.most - self.space.fixed_bytes)
            case Quantity.BIT_OPERATIONS:
                limit = Limit(self.space.bit_operations, goal.most - self.space.fixed_bit_operations)
        least = float(self._open(limit.table).min(axis=1).sum())
        if not _within(least, limit.most):
            raise SearchError(
                f"no choice of widths {', '.join(map(str, self.space.open))} keeps {goal}: the least is "
                f"{goal.most - limit.most + least:g}"
            )
        return limit

    def _levels(self) -> list[Limit]:
        """Return limits of time: what each width takes, and one that no width keeps."""
        table = self.timings.table(self.space)
        uniform = [self.space.total(table, self.space.uniform(bits)) for bits in self.space.open]
        fastest = float(self._open(table).min(axis=1).sum())
        return [Limit(table, most) for most in (*uniform, (min(uniform) + fastest) / 2)]

    def _open(self, table: Table) -> Table:
        return table[:, [self.space.widths.index(bits) for bits in self.space.open]]

    def _seek(self, limits: Sequence[Limit]) -> None:
        """Try choices at one limit, or at each of several."""
        count = self.options.trials
        evolving = self.options.method is Method.EVOLUTION
        wanted = max(1, count // (SEED_SHARE if evolving else 1) // len(limits))
        started = time.perf_counter()
        seeds = list(
            dict.fromkeys(
                choice
                for limit in limits
                for choice in candidates(self.space, self.costs, [limit], wanted)
                if len(set(choice)) > 1
            )
        )
        self.seconds["programme"] += time.perf_counter() - started
        started = time.perf_counter()
        if evolving:
            loosest = max(limits, key=lambda limit: limit.most)
            widths = [self.space.uniform(bits) for bits in self.space.open]
            known = [choice for choice in widths if self._keeps(choice, loosest)]
            evolve(
                self.space, [*known, *seeds], self.trials.run, len(known) + count,
                lambda choice: self._keeps(choice, loosest),
                best if len(limits) == 1 else undominated, self.rng, fill=len(limits) == 1,
            )  # fmt: skip
        else:
            for choice in seeds[:count]:
                self.trials.run(choice)
        self.seconds["trials"] += time.perf_counter() - started

    def _keeps(self, choice: Choice, limit: Limit) -> bool:
        return _within(self.space.total(limit.table, choice), limit.most)

    def _finalists(self, uniform: Sequence[Trial]) -> list[Trial]:
        return worthwhile(self.trials.chosen(), uniform, FINALISTS * self.options.front)

    def _best(self, goal: Goal, limit: Limit) -> list[Trial]:
        """Return the best plan or width within a limit; of time, which is only predicted, faster ones after it too."""
        within = [trial for trial in self.trials.done.values() if self._keeps(trial.choice, limit)]
        ranked = sorted(within, key=lambda trial: (-trial.score, bool(trial.plan.layers), trial.use))
        best = ranked[:1]
        for trial in ranked if goal.quantity is Quantity.LATENCY_MS else ():
            if trial.use < best[-1].use and len(best) < FINALISTS:
                best.append(trial)
        return best

    def _picked(self, goal: Goal, best: Sequence[Trial]) -> Trial | None:
        """Return the first that keeps its goal in the time that was measured; None if that is a width, or if none."""
        for trial in best:
            if goal.quantity is Quantity.LATENCY_MS and not _within(trial.use, goal.most):
                continue
            if trial.plan.layers:
                return trial
            self.told.append(f"{goal}: no plan is better than {trial.plan} bits everywhere")
            return None
        fastest = min(trial.use for trial in best)
        self.told.append(f"{goal}: what was predicted to keep it took {fastest:.4g} ms and more")
        return None

    def _timed(
        self, uniform: Sequence[Trial], plans: Sequence[Trial]
    ) -> tuple[list[Trial], dict[Choice, Trial]]:  # fmt: skip
        """Return trials with the time that they were measured to take, all in turns."""
        trials = [*uniform, *{trial.choice: trial for trial in plans}.values()]
        models = [self.engine.derive(alone(self.master, each.plan, each.batch_norm), each.plan) for each in trials]
        seconds = self.options.seconds
        times = least_ms(models, seconds, self.stage("timing", 0))
        timed = [replace(trial, use=ms) for trial, ms in zip(trials, times, strict=True)]
        return timed[: len(uniform)], {trial.choice: trial for trial in timed}

    def _tested(self, chosen: Sequence[tuple[str, Trial]], test: Data) -> list[Found]:
        """Return what was chosen with its test metrics, the widest first, not yet named."""
        found = []
        progress = self.stage("test", len(chosen) * len(test))
        for reason, trial in sorted(chosen, key=lambda pair: -self.space.mean_width(pair[1].choice)):
            rows = self.trials.measure(trial.plan, None)
            master = alone(self.master, trial.plan, trial.batch_norm)
            tested = evaluate_master(master, self.runner, test, [trial.plan], progress)[trial.plan]
            found.append(Found("", reason, trial, rows, tested))
        return found


def added(result: Result, master: Master) -> Result:
    """Return the result with what it found added to a master, under names that are free there.

    A plan of the same widths as one that the master has is left out, and told: that one may be tuned.
    """
    held = {plan.plan: plan.name for plan in master.plans}
    taken, told, found = set(held.values()), list(result.told), []
    for each in result.found:
        if each.trial.plan in held:
            name = held[each.trial.plan]
            told.append(f"{each.reason}: {name}, which the master has and which stays as it is")
            continue
        name = plan_name(result.space.mean_width(each.trial.choice), taken)
        taken.add(name)
        found.append(replace(each, name=name))
    return replace(result, master=master.with_plans(each.plan for each in found), found=found, told=told)


def _within(total: float, most: float) -> bool:
    """Return whether a sum of shares is at most so much: their rounding is no reason to say no."""
    return total <= most * (1 + 1e-9)
