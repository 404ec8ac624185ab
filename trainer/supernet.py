"""The super-network stage: after joint training, weights that serve a width for every layer. Resumable by epoch."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from tqdm import tqdm

from bitgear.bits import Plan
from trainer.config import HasbConfig
from trainer.hasb import draw_plan, switching_probability
from trainer.loop import Run
from trainer.model import Pass, pair_key
from trainer.stage import Stage

HASB_STATE = "hasb.pt"
"""The state of the stage, in the run's folder."""


class SuperNetwork(Stage):
    """The stage; its state is ``hasb.pt`` in the run's folder.

    ``layers``: by name of a searchable convolution, whether it is sensitive: it then draws high widths more often.
    """

    settings: HasbConfig

    def __init__(self, run: Run, settings: HasbConfig, layers: Mapping[str, bool]) -> None:
        self.layers = layers
        widths = run.config.train.widths
        if settings.batch_norm == "pair":
            run.model.add_transitions(widths)
        keys = {pair_key(a, b) for a in widths for b in widths}
        super().__init__(run, run.out / HASB_STATE, "hasb", settings, keys=keys, subject={})

    def _rows(self) -> list[dict[str, Any]]:
        return self.run.history.hasb_epochs

    def _epoch(self, epoch: int) -> dict[str, Any]:
        run, settings, widths = self.run, self.settings, self.run.config.train.widths
        number = run.config.train.epochs + 1 + epoch  # images in an order that joint training has not seen
        batches = run.task.batches(number, run.process.rank, run.process.count, settings.epoch_images)
        rng = np.random.default_rng([run.config.train.seed, epoch])  # the same plans in every process
        switch = switching_probability(settings.switch, epoch, settings.epochs)
        losses: dict[str, list[float]] = {"uniform": [], "drawn": []}
        bar = tqdm(batches, desc=f"hasb {epoch + 1}/{settings.epochs}", disable=not run.progress, leave=False)
        for step, (codes, targets) in enumerate(bar):
            self._set_rate((epoch + step / len(batches)) / settings.epochs)
            uniform = settings.uniform_every > 0 and step % settings.uniform_every == 0
            taught = run.teacher_output(codes)
            for base in widths:
                plan = Plan.uniform(base) if uniform else draw_plan(base, self.layers, widths, switch, rng)
                output = run.model(codes, self._pass(plan, uniform))
                loss = run.loss(output, targets, taught)
                where = f"super-network epoch {epoch + 1}, step {step + 1}, plan {plan}"
                run.check_finite(loss, where, "hasb.lr", self.path)
                (loss + run.shape_penalty()).backward()
                if uniform or taught is None:  # widths teach each other downwards; plans have no order
                    taught = output.detach()
                self._step()
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
