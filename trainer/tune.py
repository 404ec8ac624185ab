"""The batch norm of a plan, trained: it is the plan's own, so other precisions stay as they are. Resumable by epoch."""

import hashlib
import io
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from bitgear.bits import MASTER_BITS
from bitgear.checkpoint import Master
from bitgear.files import write_atomically
from bitgear.plans import NamedPlan, to_json
from trainer.config import ConfigError, RunConfig
from trainer.loop import check_finite, mixed_loss
from trainer.model import OWN, Pass, QuantNet
from trainer.restore import load_plan, restore_statistics
from trainer.tasks.base import Task

Norms = dict[str, dict[str, Tensor]]
"""State of the plan's batch norm, by convolution."""


class Tuning:
    """Trains the batch norm of one plan of a master; its state is a file that the same plan of the same master resumes.

    ``model`` holds the widths of the master, whose 8 bits teach. Gains and biases are trained as they are served:
    folded, rounded to float16, with statistics that stay. Kept is the epoch that was best on the images that the task
    watches, or the start. ``rows``: the start, as epoch 0, and each epoch. Raises
    :class:`~trainer.config.ConfigError` for the state of another plan or master.
    """

    def __init__(
        self, model: QuantNet, task: Task, config: RunConfig, master: Master, plan: NamedPlan, path: Path, *,
        progress: bool = True,
    ) -> None:  # fmt: skip
        self.model = model.requires_grad_(False)
        self.task = task
        self.config = config
        self.plan = plan
        self.path = path
        self.progress = progress
        self.how = Pass(plan.plan, training=False, norms=OWN)
        settings = config.calibrate
        load_plan(model, master, plan.plan)
        restore_statistics(
            model, plan.plan, [codes for codes, _ in task.sample(settings.images, settings.batches)], OWN
        )
        self.norms = {conv.name: model.layer(conv.name).norm(OWN) for conv in model.graph.convs}
        trained = [parameter for bn in self.norms.values() for parameter in bn.requires_grad_().parameters()]
        self.optimizer = torch.optim.Adam(trained, lr=config.tune.lr)
        self.best = self._copy()
        self.rows: list[dict[str, Any]] = []
        self.subject = {"weights": _fingerprint(master), "plan": to_json(plan)["layers"], "default": str(plan.plan)}

    def fit(self) -> None:
        """Train from where the file stands to the last epoch, and leave the network with the best batch norm."""
        settings, metric = self.config.tune, self.task.metric
        if self.path.is_file():
            self._resume()
        else:
            self.rows.append({"epoch": 0, metric: self._evaluate()})
        for epoch in range(len(self.rows) - 1, settings.epochs):
            started = time.perf_counter()
            loss = self._epoch(epoch)
            reached = self._evaluate()
            if reached > self.reached:
                self.best = self._copy()
            seconds = time.perf_counter() - started
            self.rows.append({"epoch": epoch + 1, "loss": loss, metric: reached, "seconds": seconds})
            self._save()
        self._load(self.best)

    def give(self) -> None:
        """Make the network's batch norm of a plan's own that of this plan, after others were tuned."""
        device = next(self.model.parameters()).device
        for name, bn in self.norms.items():
            self.model.layer(name).bn[OWN] = bn.to(device)

    @property
    def reached(self) -> float:
        """The metric of the best batch norm on the images watched."""
        best: float = max(row[self.task.metric] for row in self.rows)
        return best

    def _epoch(self, epoch: int) -> float:
        settings, losses = self.config.tune, []
        batches = self.task.batches(epoch, limit=settings.epoch_images)
        name = f"{self.plan.name} {epoch + 1}/{settings.epochs}"
        bar = tqdm(batches, desc=name, disable=not self.progress, leave=False)
        for step, (codes, targets) in enumerate(bar):
            done = (epoch + step / len(batches)) / settings.epochs
            self.optimizer.param_groups[0]["lr"] = 0.5 * settings.lr * (1 + math.cos(math.pi * done))
            with torch.no_grad():
                taught = self.model(codes, Pass(MASTER_BITS, training=False))
            loss = mixed_loss(self.task, self.model(codes, self.how), targets, taught, self.config.train.distill)
            check_finite(loss, f"tuning of {self.plan.name}, epoch {epoch + 1}, step {step + 1}", self.path, "tune.lr")
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
            if self.progress and step % 20 == 0:
                bar.set_postfix(loss=f"{np.mean(losses):.3f}")
        return float(np.mean(losses))

    @torch.no_grad()
    def _evaluate(self) -> float:
        return self.task.evaluate(lambda codes: self.model(codes, self.how))[self.task.metric]

    def _copy(self) -> Norms:
        return {
            name: {part: tensor.clone() for part, tensor in bn.state_dict().items()} for name, bn in self.norms.items()
        }

    def _load(self, norms: Norms) -> None:
        for name, state in norms.items():
            self.norms[name].load_state_dict(state)

    def _resume(self) -> None:
        state = torch.load(self.path, weights_only=True, map_location=next(self.model.parameters()).device)
        if json.loads(state["subject"]) != self.subject:
            raise ConfigError(
                f"{self.path} is of another master, or of other widths than plan {self.plan.name!r} has; delete it or "
                "choose another folder"
            )
        self._load(state["norms"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best, self.rows = state["best"], json.loads(state["rows"])

    def _save(self) -> None:
        buffer = io.BytesIO()
        state = {"norms": self._copy(), "best": self.best, "optimizer": self.optimizer.state_dict()}
        torch.save({**state, "rows": json.dumps(self.rows), "subject": json.dumps(self.subject)}, buffer)
        write_atomically(self.path, buffer.getvalue())


def _fingerprint(master: Master) -> str:
    """Return a hash of what all precisions share: plans, accuracy and descriptions do not count."""
    digest = hashlib.sha256()
    for name in sorted(master.tensors):
        digest.update(name.encode() + np.ascontiguousarray(master.tensors[name]).tobytes())
    return digest.hexdigest()
