"""Batch norm and scales of a plan, trained: they are its own, so other precisions stay as they are. Resumable."""

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter
from tqdm import tqdm

from bitgear.bits import MASTER_BITS
from bitgear.checkpoint import Master
from bitgear.plans import NamedPlan, to_json
from trainer.config import RunConfig
from trainer.loop import check_finite, cosine, mixed_loss, set_rate
from trainer.model import OWN, Pass, QuantNet
from trainer.restore import load_plan, restore_statistics
from trainer.state import read_state, save_state
from trainer.subject import master_fingerprint, of_sections
from trainer.tasks.base import Metrics, Task

KEYS = ("own", "best", "optimizer", "rows")
"""What a state has."""

Owned = dict[str, Tensor]
"""State of what is the plan's own, by its place in the network."""


class Tuning:
    """Trains what is one plan's own: the gains and biases of its batch norm, and its scales of activations.

    Its state is a file that the same plan of the same master resumes. ``model`` holds the widths of the master, whose
    8 bits teach. Gains and biases are trained as they are served: folded, rounded to float16, with statistics that
    stay. Kept is the epoch after which the output on the images that the task watches is nearest to that at 8 bits, or
    the start. ``rows``: the start, as epoch 0, and each epoch, with that ``distance`` (the loss of distillation) and
    the task's metric. ``before``: metrics of the test split of the plan as it was when tuning began, once they are
    kept. Raises :class:`~trainer.config.ConfigError` for a file that is no state, or that of another plan,
    master, recipe or data.
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
        self.own = model.own_tensors()
        trained = [tensor.requires_grad_() for tensor in self.own.values() if isinstance(tensor, Parameter)]
        self.optimizer = torch.optim.Adam(trained, lr=config.tune.lr)
        self.best = self.last = self._copy()
        self.rows: list[dict[str, Any]] = []
        self.before: Metrics | None = None
        self.subject = {
            **of_sections(config, task, ("task", "data", "train", "tune")),
            "tune.lr": config.tune.lr, "weights": master_fingerprint(master),
            "plan": to_json(plan)["layers"], "default": str(plan.plan),
        }  # fmt: skip

    def fit(self) -> None:
        """Train from where the file stands to the last epoch, and leave the network with the best epoch's."""
        settings = self.config.tune
        state = read_state(self.path, self.subject, next(self.model.parameters()).device, KEYS)
        if state is None:
            self.rows.append({"epoch": 0, **self.evaluate()})
        else:
            self._load(state["own"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.last, self.best, self.rows = state["own"], state["best"], json.loads(state["rows"])
            self.before = json.loads(state.get("before", "null"))
        for epoch in range(len(self.rows) - 1, settings.epochs):
            started = time.perf_counter()
            loss = self._epoch(epoch)
            reached = self.evaluate()
            if reached["distance"] < min(row["distance"] for row in self.rows):
                self.best = self._copy()
            seconds = time.perf_counter() - started
            self.rows.append({"epoch": epoch + 1, "loss": loss, **reached, "seconds": seconds})
            self.last = self._copy()
            self._save()
        self._load(self.best)

    @property
    def improved(self) -> bool:
        """Whether an epoch is nearer to 8 bits than the start."""
        return min(row["distance"] for row in self.rows) < self.rows[0]["distance"]

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Return ``distance`` and the task's metric, as rows have them, of what the network is now."""
        distances: list[tuple[float, int]] = []

        def run(codes: Tensor) -> Tensor:
            output = self.model(codes, self.how)
            distances.append((self.task.distillation(output, self._taught(codes)).item(), len(codes)))
            return output

        reached = self.task.evaluate(run)[self.task.metric]
        distance = sum(each * count for each, count in distances) / sum(count for _, count in distances)
        return {"distance": distance, self.task.metric: reached}

    def keep_before(self, metrics: Metrics) -> None:
        """Keep what the plan reached when tuning began: given again, tuning finds it as it left it."""
        self.before = metrics
        self._save()

    def give(self) -> None:
        """Make what the network holds of a plan's own that of this plan, after others were tuned."""
        with torch.no_grad():
            for name, tensor in self.model.own_tensors().items():
                tensor.copy_(self.best[name])

    def _epoch(self, epoch: int) -> float:
        settings, losses = self.config.tune, []
        batches = self.task.batches(epoch, limit=settings.epoch_images)
        name = f"{self.plan.name} {epoch + 1}/{settings.epochs}"
        bar = tqdm(batches, desc=name, disable=not self.progress, leave=False)
        for step, (codes, targets) in enumerate(bar):
            done = (epoch + step / len(batches)) / settings.epochs
            set_rate(self.optimizer, settings.lr * cosine(math.pi * done))
            output = self.model(codes, self.how)
            loss = mixed_loss(self.task, output, targets, self._taught(codes), self.config.train.distill)
            check_finite(loss, f"tuning of {self.plan.name}, epoch {epoch + 1}, step {step + 1}", self.path, "tune.lr")
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
            if self.progress and step % 20 == 0:
                bar.set_postfix(loss=f"{np.mean(losses):.3f}")
        return float(np.mean(losses))

    def _taught(self, codes: Tensor) -> Tensor:
        with torch.no_grad():
            output: Tensor = self.model(codes, Pass(MASTER_BITS, training=False))
        return output

    def _copy(self) -> Owned:
        return {name: tensor.detach().clone() for name, tensor in self.own.items()}

    @torch.no_grad()
    def _load(self, held: Owned) -> None:
        for name, tensor in self.own.items():
            tensor.copy_(held[name])

    def _save(self) -> None:
        state = {"own": self.last, "best": self.best, "optimizer": self.optimizer.state_dict()}
        told = {"rows": json.dumps(self.rows), "before": json.dumps(self.before)}
        save_state(self.path, self.subject, {**state, **told})
