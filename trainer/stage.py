"""What the stages after joint training do alike: one Adam for all parameters, cosine to zero, resumable by epoch."""

import hashlib
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.config import HasbConfig, WithPlanConfig
from trainer.loop import Run, cosine, set_rate
from trainer.model import QuantNet
from trainer.schedule import SCHEDULE, schedule_of, told, warn_of_past
from trainer.state import History, read_state, save_state
from trainer.subject import Subject, entries

KEYS = ("model", "optimizer", "history", "epoch")
"""What a state has."""


class Stage(ABC):
    """A stage of a run whose joint training has ended; its state is the file ``path``.

    ``name``: of the section ``settings``. ``keys``: of the scales and batch norms that are trained. ``subject``: what
    else may not change but the section's entries.
    """

    def __init__(
        self, run: Run, path: Path, name: str, settings: HasbConfig | WithPlanConfig, *, keys: Collection[str],
        subject: Subject,
    ) -> None:  # fmt: skip
        self.run = run
        self.path = path
        self.name = name
        self.settings = settings
        joint = hashlib.sha256(json.dumps(run.history.epochs).encode()).hexdigest()
        self.subject = {**run.subject, **entries(name, settings), **subject, "joint training": joint[:12]}
        self.next_epoch = 0
        self.optimizer = torch.optim.Adam(_groups(run.model, keys, run.config.train.weight_decay), lr=settings.lr)

    @abstractmethod
    def _epoch(self, epoch: int) -> dict[str, Any]:
        """Train one epoch, from 0, and return its row of the history."""

    @abstractmethod
    def _rows(self) -> list[dict[str, Any]]:
        """Return the stage's part of the run's history."""

    def fit(self, *, anew: bool = False) -> None:
        """Train from where the file stands, or from the run's network if it does not exist or ``anew``.

        Raises :class:`~trainer.config.ConfigError` if the file is of another subject: also if joint training went on
        since, which what it holds would undo.
        """
        run = self.run
        state = None if anew else read_state(self.path, self.subject, run.device, KEYS)
        if state is not None:
            run.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            run.history, self.next_epoch = History.parse(state["history"]), state["epoch"]
        epochs = self.settings.epochs
        for epoch in range(self.next_epoch, epochs):
            started = time.perf_counter()
            row = self._epoch(epoch)
            run.average_statistics()
            if run.evaluates(epoch, epochs):
                row[run.task.metric] = self._evaluate()
            row |= {"seconds": time.perf_counter() - started, SCHEDULE: schedule_of(self.settings)}
            self._rows().append(row)
            run.history.seconds += row["seconds"]
            self._save(epoch + 1)
            run.tell(told(f"{self.name} {epoch + 1}/{epochs}", row, run.task.metric))
        if run.process.first:
            warn_of_past(self.name, self.settings, self._rows())

    def _evaluate(self) -> dict[str, float]:
        """Return the task's metric by precision: of the widths that are trained."""
        return self.run.evaluate_widths()

    def _set_rate(self, done: float) -> None:
        """Set the learning rate of a moment, 0..1 of the stage."""
        set_rate(self.optimizer, self.settings.lr * cosine(math.pi * done))

    def _step(self) -> None:
        """Step by the gradients, averaged over processes."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.run.process.average([p.grad for p in parameters if p.grad is not None])
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _save(self, epoch: int) -> None:
        run = self.run
        if not run.process.first:
            return
        state = {"model": run.model.state_dict(), "optimizer": self.optimizer.state_dict(), "epoch": epoch}
        save_state(self.path, self.subject, {**state, "history": run.history.text()})
        run.history.save(run.out / "history.json")


def _groups(model: QuantNet, keys: Collection[str], weight_decay: float) -> list[dict[str, Any]]:
    """Return all parameters: weights decay, scales, biases and batch norm do not."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for _, layer in model.quantised():
        decayed += [] if layer.weight is None else [layer.weight]
        plain += [each for each in (layer.bias, layer.weight_log_scale) if each is not None]
        for scales in layer.read_scales.values():
            plain += [scale for name, scale in scales.items() if name in keys]
        plain += [each for name in sorted(set(keys) & set(layer.bn)) for each in layer.norm(name).parameters()]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
