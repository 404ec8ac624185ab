"""A training run of seconds: three classes of small synthetic pictures, the smallest CIFAR ResNet."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from trainer.config import Config
from trainer.loop import Run
from trainer.tasks.base import EpochBatches, Task

CLASSES = ("blue", "green", "red")


def write_pictures(folder: Path, per_class: int = 16, side_px: int = 8) -> Path:
    """Class folders ``train`` and ``test``: noise with more of the channel that the class is called by."""
    rng = np.random.default_rng(0)
    for split, count in (("train", per_class), ("test", per_class // 2)):
        for i, name in enumerate(CLASSES):
            target = folder / split / name
            target.mkdir(parents=True)
            for k in range(count):
                pixels = rng.integers(0, 150, (side_px, side_px, 3))
                pixels[:, :, 2 - i] += 90
                Image.fromarray(pixels.astype(np.uint8)).save(target / f"{k:03d}.png")
    return folder


def tiny_config(**sections: Any) -> Config:
    """Depth 8, pictures of 8 x 8, two epochs at 8, 4 and 2 bits; ``sections`` replace single entries."""
    values: dict[str, dict[str, Any]] = {
        "network": {"name": "tiny", "depth": 8},
        "data": {"side_px": 8, "shift_px": 1},
        "fp32": {"epochs": 1, "lr": 0.05},
        "train": {
            "widths": (8, 4, 2), "epochs": 2, "batch_size": 16, "lr": 2e-3, "compile": False, "kurtosis": 0.01,
        },
        "calibrate": {"images": 16, "batches": 2},
    }  # fmt: skip
    for name, entries in sections.items():
        values[name] = values.get(name, {}) | entries
    return Config.model_validate(values)


def tiny_run(data: Path, out: Path, config: Config | None = None, **options: Any) -> Run:
    """A run that shows no progress bar."""
    return Run(config or tiny_config(), data, out, progress=False, **options)


def state_of(run: Run) -> dict[str, torch.Tensor]:
    """Copies of all parameters and statistics."""
    return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


class Interrupted(Exception):
    """Training ended by :func:`interrupt_after`."""


def interrupt_after(epochs: int, task: Task) -> None:
    """Let training have the batches of some epochs more, and raise :class:`Interrupted` where the next one begins."""
    batches, left = task.batches, iter(range(epochs))

    def limited(*args: Any, **options: Any) -> EpochBatches:
        if next(left, None) is None:
            raise Interrupted
        return batches(*args, **options)

    task.batches = limited  # type: ignore[method-assign]
