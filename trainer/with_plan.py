"""Training on with a plan: the weights of a master learn to serve one plan beside the widths. Resumable by epoch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from bitgear.bits import Plan
from bitgear.checkpoint import Master
from bitgear.errors import PrecisionNotOffered
from bitgear.plans import NamedPlan
from trainer.config import ConfigError, WithPlanConfig
from trainer.loop import Run
from trainer.model import OWN, Pass, key
from trainer.restore import load_plans
from trainer.stage import Stage

PLAN_STATE = "with_plan.pt"
"""The state of the stage, in the run's folder."""


def plan_of(masters: Sequence[Master], name: str) -> NamedPlan:
    """Return the plan that masters have under a name.

    Raises :class:`~trainer.config.ConfigError` without a master or for several whose plans of this name differ, and
    :class:`~bitgear.errors.PrecisionNotOffered` for a plan that a master does not have.
    """
    if not masters:
        raise ConfigError("with_plan goes on from a master that has the plan; give --master")
    first, *others = [_held(master, name) for master in masters]
    if any(plan != first for plan in others):
        raise ConfigError(f"the masters mean different plans by {name!r}; give masters of one plan")
    return NamedPlan(name, first)


def _held(master: Master, name: str) -> Plan:
    """Return the plan of a master by its name."""
    held = {each.name: each.plan for each in master.plans}
    if name not in held:
        raise PrecisionNotOffered(name, held, master.name)
    return held[name]


class WithPlan(Stage):
    """A stage of a run that goes on from a master with plans; its state is ``with_plan.pt`` in the run's folder.

    Every step runs the widths, highest first, each taught by the one before and the first by the teacher, and then the
    plan, taught by the first; each takes a step of its own. The plan has a batch norm and scales of its own, which
    begin as the master holds them.

    Raises what :func:`plan_of` raises.
    """

    settings: WithPlanConfig

    def __init__(self, run: Run, settings: WithPlanConfig) -> None:
        self.plan = plan_of(run.masters, settings.plan)
        widths = self.plan.plan
        run.add_untrained_widths()  # a plan may have them, and begins with theirs
        load_plans(run.model, run.masters, widths, run.config.train.widths, run.calibration_batches())
        keys = {OWN, *(key(bits) for bits in run.config.train.widths)}
        told = [str(widths.default), *(f"{name}: {bits}" for name, bits in widths.layers)]
        super().__init__(run, run.out / PLAN_STATE, "with_plan", settings, keys=keys, subject={"plan": told})

    def _rows(self) -> list[dict[str, Any]]:
        return self.run.history.plan_epochs

    def _epoch(self, epoch: int) -> dict[str, Any]:
        run, settings = self.run, self.settings
        number = run.config.train.epochs + 1 + epoch  # images in an order that joint training has not seen
        batches = run.task.batches(number, run.process.rank, run.process.count, settings.epoch_images)
        losses: dict[str, list[float]] = {}
        name = f"with {self.plan.name} {epoch + 1}/{settings.epochs}"
        bar = tqdm(batches, desc=name, disable=not run.progress, leave=False)
        for step, (codes, targets) in enumerate(bar):
            self._set_rate((epoch + step / len(batches)) / settings.epochs)
            taught, first = run.teacher_output(codes), None
            for precision in [*self._widths(step), self.plan.plan]:
                of_plan = precision is self.plan.plan
                output = run.model(codes, self._pass(precision))
                loss = run.loss(output, targets, first if of_plan else taught)
                where = f"epoch {epoch + 1} with the plan, step {step + 1}, precision {precision}"
                run.check_finite(loss, where, "with_plan.lr", self.path)
                (loss + run.shape_penalty()).backward()
                taught = output.detach()
                first = taught if first is None else first
                self._step()
                losses.setdefault(self.plan.name if of_plan else str(precision), []).append(loss.item())
            if run.progress and step % 20 == 0:
                bar.set_postfix({name: f"{np.mean(values):.3f}" for name, values in losses.items()})
        return {"epoch": epoch + 1, "loss": {name: float(np.mean(values)) for name, values in losses.items()}}

    def _widths(self, step: int) -> list[Plan]:
        """Return the widths of a step: all but those whose turn it is not."""
        widths = self.run.config.train.widths
        return [Plan.uniform(bits) for bits in widths if step % self.settings.every.get(bits, 1) == 0]

    def _pass(self, precision: Plan) -> Pass:
        return Pass(
            precision, training=True, momentum=self.run.config.train.bn_momentum,
            norms=OWN if precision is self.plan.plan else "width",
        )  # fmt: skip

    def _evaluate(self) -> dict[str, float]:
        run, how = self.run, Pass(self.plan.plan, training=False, norms=OWN)
        with torch.no_grad():
            reached = run.task.evaluate(lambda codes: run.model(codes, how))[run.task.metric]
        return {**super()._evaluate(), self.plan.name: reached}
