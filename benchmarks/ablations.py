"""What each part of the training recipe is worth: short equal schedules, one part changed at a time, several seeds.

    python -m benchmarks.ablations --data CIFAR10 --weights FILE --out DIR [--arms joint alrs-off] [--seeds 1 2 3]

ResNet-20 on CIFAR-10 from imported FP32 weights. A cell is one arm with one seed and ends as DIR/cells/ARM-SEED.json;
cells that are there already are skipped, so the command may be stopped at any time and given again, and a cell that was
cut off goes on from its last epoch. Arms of one seed see the same images in the same order. The tables and plots of
docs/reports/ablations are made from the cells by ``python -m benchmarks.ablations_report``.
"""

import argparse
import json
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bitgear.files import write_atomically
from trainer.config import Config
from trainer.loop import Run

Sections = Mapping[str, Mapping[str, Any]]
"""Entries of a configuration by section."""

RECIPE: Sections = {
    "network": {"name": "resnet20-ablation", "depth": 20},
    "data": {"test_images": 4000},
    "train": {
        "widths": (8, 6, 4, 2), "epochs": 8, "epoch_images": 1024, "batch_size": 64, "lr": 1e-3, "alrs": "mult",
        "distill": 0.5, "start_teaches": True, "kurtosis": 0.015, "evaluate_every": 8, "keep_every": 8,
    },
    "calibrate": {"images": 64, "batches": 8},
}  # fmt: skip
"""The shipped recipe, cut to 128 steps; the FP32 network that training starts from is the teacher."""


@dataclass(frozen=True)
class Arm:
    """One way to train: what it is in words, and the entries of the recipe that it changes."""

    what: str
    changes: Sections


ARMS: Mapping[str, Arm] = {
    "joint": Arm("all widths together, ALRS `mult`, with distillation: the recipe", {}),
    "alrs-off": Arm("ALRS `off`", {"train": {"alrs": "off"}}),
    "alrs-eta": Arm("ALRS `eta`", {"train": {"alrs": "eta"}}),
    "alrs-literal": Arm("ALRS `literal`", {"train": {"alrs": "literal"}}),
    "no-distillation": Arm("labels alone", {"train": {"distill": 0.0, "start_teaches": False}}),
    **{f"only-{bits}": Arm(f"{bits} bit alone", {"train": {"widths": (bits,)}}) for bits in (8, 6, 4, 2)},
}


def cell_config(arm: Arm, seed: int) -> Config:
    """Return the configuration of a cell."""
    sections = {name: dict(entries) for name, entries in RECIPE.items()}
    for name, entries in {**arm.changes, "train": {**arm.changes.get("train", {}), "seed": seed}}.items():
        sections[name] = sections.get(name, {}) | dict(entries)
    return Config.model_validate(sections)


def run_cell(config: Config, data: Path, weights: Path, folder: Path) -> dict[str, Any]:
    """Train in ``folder``, resuming what is there; return the top-1 of every trained width and its loss by epoch."""
    run = Run(config, data, folder, weights=weights, progress=False)
    run.fit()
    history = run.history
    return {
        "recipe": config.model_dump(mode="json"),
        "test_images": len(run.task.data.test),
        "fp32_top1": history.fp32["top1"],
        "top1": history.epochs[-1]["top1"],
        "loss": {str(b): [row["loss"][str(b)] for row in history.epochs] for b in config.train.widths},
        "training_seconds": history.seconds,
    }


def cells(arms: Iterable[str], seeds: Iterable[int]) -> list[tuple[str, int]]:
    """Return the cells in the order in which they run: every arm with the first seed, then with the next."""
    return [(arm, seed) for seed in seeds for arm in arms]


def main() -> None:
    """Run every cell that has no result yet."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    arguments = parser.parse_args()
    (arguments.out / "cells").mkdir(parents=True, exist_ok=True)
    for arm, seed in tqdm(cells(arguments.arms, arguments.seeds), unit="cell"):
        path = arguments.out / "cells" / f"{arm}-{seed}.json"
        if path.is_file():
            continue
        folder, cpu_started = arguments.out / "runs" / f"{arm}-{seed}", time.process_time()
        row = run_cell(cell_config(ARMS[arm], seed), arguments.data, arguments.weights, folder)
        row = {"arm": arm, "seed": seed, **row, "cpu_seconds": time.process_time() - cpu_started}
        write_atomically(path, (json.dumps(row, indent=1) + "\n").encode())
        shutil.rmtree(folder)
        tqdm.write(f"{arm} seed {seed}: " + "  ".join(f"{b} bit {v:.2%}" for b, v in row["top1"].items()))


if __name__ == "__main__":
    main()
