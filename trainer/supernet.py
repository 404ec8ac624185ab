"""The super-network stage: after joint training, weights that serve a width for every layer. Resumable by epoch."""

import io
import json
import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from bitgear.bits import Plan
from bitgear.files import write_atomically
from trainer.config import HasbConfig
from trainer.hasb import draw_plan, switching_probability
from trainer.loop import History, Run
from trainer.model import Pass, pair_key


class SuperNetwork:
    """The stage of a run whose joint training has ended; its state is ``hasb.pt`` in the run's folder.

    ``layers``: by name of a searchable convolution, whether it is sensitive: it then draws high widths more often.
    """

    def __init__(self, run: Run, settings: HasbConfig, layers: Mapping[str, bool]) -> None:
        self.run = run
        self.settings = settings
        self.layers = layers
        self.path = run.out / "hasb.pt"
        self.next_epoch = 0
        if settings.batch_norm == "pair":
            run.model.add_transitions(run.config.train.widths)
        self.optimizer = torch.optim.Adam(self._groups(), lr=settings.lr)

    def _groups(self) -> list[dict[str, Any]]:
        """Return all parameters: weights decay, scales, biases and batch norm do not."""
        train = self.run.config.train
        decayed: list[nn.Parameter] = []
        plain: list[nn.Parameter] = []
        keys = {pair_key(a, b) for a in train.widths for b in train.widths}
        for _, layer in self.run.model.quantised():
            decayed += [] if layer.weight is None else [layer.weight]
            plain += [each for each in (layer.bias, layer.weight_log_scale) if each is not None]
            for scales in layer.read_scales.values():
                plain += [scale for name, scale in scales.items() if name in keys]
            plain += [each for name in sorted(keys & set(layer.bn)) for each in layer.norm(name).parameters()]
        return [{"params": decayed, "weight_decay": train.weight_decay}, {"params": plain, "weight_decay": 0.0}]

    def fit(self, *, anew: bool = False) -> None:
        """Train from where ``hasb.pt`` stands, or from the run's network if it does not exist or ``anew``."""
        run, settings = self.run, self.settings
        if self.path.is_file() and not anew:
            state = torch.load(self.path, weights_only=True, map_location=run.device)
            run.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            run.history, self.next_epoch = History(**json.loads(state["history"])), state["epoch"]
        for epoch in range(self.next_epoch, settings.epochs):
            started = time.perf_counter()
            row = self._epoch(epoch)
            run.average_statistics()
            if run.evaluates(epoch, settings.epochs):
                metric = run.task.metric
                row[metric] = {str(b): run.evaluate(run.model, b)[metric] for b in run.config.train.widths}
            row["seconds"] = time.perf_counter() - started
            run.history.hasb_epochs.append(row)
            run.history.seconds += row["seconds"]
            self._save(epoch + 1)

    def _epoch(self, epoch: int) -> dict[str, Any]:
        run, settings, widths = self.run, self.settings, self.run.config.train.widths
        number = run.config.train.epochs + 1 + epoch  # images in an order that joint training has not seen
        batches = run.task.batches(number, run.process.rank, run.process.count, settings.epoch_images)
        rng = np.random.default_rng([run.config.train.seed, epoch])  # the same plans in every process
        switch = switching_probability(settings.switch, epoch, settings.epochs)
        losses: dict[str, list[float]] = {"uniform": [], "drawn": []}
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        bar = tqdm(batches, desc=f"hasb {epoch + 1}/{settings.epochs}", disable=not run.progress, leave=False)
        for step, (codes, targets) in enumerate(bar):
            done = (epoch + step / len(batches)) / settings.epochs
            for group in self.optimizer.param_groups:
                group["lr"] = 0.5 * settings.lr * (1 + math.cos(math.pi * done))
            uniform = settings.uniform_every > 0 and step % settings.uniform_every == 0
            taught = run.teacher_output(codes)
            for base in widths:
                plan = Plan.uniform(base) if uniform else draw_plan(base, self.layers, widths, switch, rng)
                output = run.model(codes, self._pass(plan, uniform))
                loss = run.loss(output, targets, taught)
                run.check_finite(loss, f"super-network epoch {epoch + 1}, step {step + 1}, plan {plan}")
                (loss + run.shape_penalty()).backward()
                if uniform or taught is None:  # widths teach each other downwards; plans have no order
                    taught = output.detach()
                run.process.average([p.grad for p in parameters if p.grad is not None])
                self.optimizer.step()
                self.optimizer.zero_grad()
                losses["uniform" if uniform else "drawn"].append(loss.item())
            if run.progress and step % 20 == 0:
                bar.set_postfix({name: f"{np.mean(values):.3f}" for name, values in losses.items() if values})
        return {
            "epoch": epoch + 1,
            "switch": switch,
            "loss": {name: float(np.mean(values)) for name, values in losses.items() if values},
        }

    def _pass(self, plan: Plan, uniform: bool) -> Pass:
        """Return how a step runs: running statistics of a width are those of uniform widths, of a pair those of all."""
        paired = self.settings.batch_norm == "pair"
        momentum = self.run.config.train.bn_momentum if uniform or paired else None
        return Pass(plan, training=True, momentum=momentum, norms=self.settings.batch_norm)

    def _save(self, epoch: int) -> None:
        if not self.run.process.first:
            return
        buffer = io.BytesIO()
        history = json.dumps(vars(self.run.history))
        state = {"model": self.run.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save({**state, "history": history, "epoch": epoch}, buffer)
        write_atomically(self.path, buffer.getvalue())
        write_atomically(self.run.out / "history.json", json.dumps(vars(self.run.history), indent=1).encode())
