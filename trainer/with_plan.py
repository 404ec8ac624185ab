"""Training on with a plan: the weights of a master learn to serve one plan beside the widths. Resumable by epoch."""

import io
import json
import math
import time
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from bitgear.bits import Plan
from bitgear.errors import PrecisionNotOffered
from bitgear.files import write_atomically
from bitgear.plans import NamedPlan
from trainer.config import ConfigError, WithPlanConfig
from trainer.loop import History, Run
from trainer.model import OWN, Pass, key
from trainer.restore import load_plan, restore_statistics


class WithPlan:
    """A stage of a run that goes on from a master with plans; its state is ``with_plan.pt`` in the run's folder.

    Every step runs the widths, highest first, each taught by the one before and the first by the teacher, and then the
    plan, taught by the first; each takes a step of its own. The plan has a batch norm and scales of its own, which
    begin as the master holds them. One Adam for all, as in :class:`~trainer.supernet.SuperNetwork`.

    Raises :class:`~trainer.config.ConfigError` for a run without a master, and
    :class:`~bitgear.errors.PrecisionNotOffered` for a plan that the master does not have.
    """

    def __init__(self, run: Run, settings: WithPlanConfig) -> None:
        if run.master is None:
            raise ConfigError("with_plan goes on from a master that has the plan; give --master")
        held = {each.name: each for each in run.master.plans}
        if settings.plan not in held:
            raise PrecisionNotOffered(settings.plan, held, run.master.name)
        self.run = run
        self.settings = settings
        self.plan = NamedPlan(settings.plan, held[settings.plan].plan)
        self.path = run.out / "with_plan.pt"
        self.next_epoch = 0
        run.add_untrained_widths()  # a plan may have them, and begins with theirs
        load_plan(run.model, run.master, self.plan.plan)
        restore_statistics(run.model, self.plan.plan, run.calibration_batches(), OWN)
        self.optimizer = torch.optim.Adam(self._groups(), lr=settings.lr)

    def _groups(self) -> list[dict[str, Any]]:
        """Return all parameters: weights decay, scales, biases and batch norm do not."""
        train = self.run.config.train
        names = {OWN, *(key(bits) for bits in train.widths)}
        decayed: list[nn.Parameter] = []
        plain: list[nn.Parameter] = []
        for _, layer in self.run.model.quantised():
            decayed += [] if layer.weight is None else [layer.weight]
            plain += [each for each in (layer.bias, layer.weight_log_scale) if each is not None]
            for scales in layer.read_scales.values():
                plain += [scale for name, scale in scales.items() if name in names]
            plain += [each for name in layer.bn if name in names for each in layer.norm(name).parameters()]
        return [{"params": decayed, "weight_decay": train.weight_decay}, {"params": plain, "weight_decay": 0.0}]

    def fit(self, *, anew: bool = False) -> None:
        """Train from where ``with_plan.pt`` stands, or from the master if it does not exist or ``anew``."""
        run, settings = self.run, self.settings
        if self.path.is_file() and not anew:
            state = torch.load(self.path, weights_only=True, map_location=run.device)
            run.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            run.history, self.next_epoch = History(**json.loads(state["history"])), state["epoch"]
        for epoch in range(self.next_epoch, settings.epochs):
            started = time.perf_counter()
            row: dict[str, Any] = {"epoch": epoch + 1, "loss": self._epoch(epoch)}
            run.average_statistics()
            if run.evaluates(epoch, settings.epochs):
                row[run.task.metric] = self._evaluate()
            row["seconds"] = time.perf_counter() - started
            run.history.plan_epochs.append(row)
            run.history.seconds += row["seconds"]
            self._save(epoch + 1)

    def _epoch(self, epoch: int) -> dict[str, float]:
        run, settings = self.run, self.settings
        number = run.config.train.epochs + 1 + epoch  # images in an order that joint training has not seen
        batches = run.task.batches(number, run.process.rank, run.process.count, settings.epoch_images)
        losses: dict[str, list[float]] = {}
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        name = f"with {self.plan.name} {epoch + 1}/{settings.epochs}"
        bar = tqdm(batches, desc=name, disable=not run.progress, leave=False)
        for step, (codes, targets) in enumerate(bar):
            done = (epoch + step / len(batches)) / settings.epochs
            for group in self.optimizer.param_groups:
                group["lr"] = 0.5 * settings.lr * (1 + math.cos(math.pi * done))
            taught, first = run.teacher_output(codes), None
            for precision in [*self._widths(step), self.plan.plan]:
                of_plan = precision is self.plan.plan
                output = run.model(codes, self._pass(precision))
                loss = run.loss(output, targets, first if of_plan else taught)
                run.check_finite(loss, f"epoch {epoch + 1} with the plan, step {step + 1}, precision {precision}")
                (loss + run.shape_penalty()).backward()
                taught = output.detach()
                first = taught if first is None else first
                run.process.average([p.grad for p in parameters if p.grad is not None])
                self.optimizer.step()
                self.optimizer.zero_grad()
                losses.setdefault(self.plan.name if of_plan else str(precision), []).append(loss.item())
            if run.progress and step % 20 == 0:
                bar.set_postfix({name: f"{np.mean(values):.3f}" for name, values in losses.items()})
        return {name: float(np.mean(values)) for name, values in losses.items()}

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
        reached = {str(bits): run.evaluate(run.model, bits)[run.task.metric] for bits in run.config.train.widths}
        with torch.no_grad():
            return {**reached, self.plan.name: run.task.evaluate(lambda codes: run.model(codes, how))[run.task.metric]}

    def _save(self, epoch: int) -> None:
        if not self.run.process.first:
            return
        buffer = io.BytesIO()
        history = json.dumps(vars(self.run.history))
        state = {"model": self.run.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save({**state, "history": history, "epoch": epoch}, buffer)
        write_atomically(self.path, buffer.getvalue())
        write_atomically(self.run.out / "history.json", json.dumps(vars(self.run.history), indent=1).encode())
