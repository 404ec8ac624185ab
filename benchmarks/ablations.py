"""What each part of the training recipe is worth: short equal schedules, one part changed at a time, several seeds.

    python -m benchmarks.ablations --data CIFAR10 --weights FILE --master FILE --out DIR [--arms joint] [--seeds 1 2 3]

ResNet-20 on CIFAR-10: arms of joint training start from imported FP32 weights, arms of the super-network stage from a
master that is trained at uniform widths and knows its sensitivities (``bitgear hessian``). A cell is one arm with one
seed and ends as DIR/cells/ARM-SEED.json; cells that are there already are skipped, so the command may be stopped at any
time and given again, and a cell that was cut off goes on from its last epoch. Arms of one seed see the same images in
the same order. The tables and plots of docs/reports/ablations are made from the cells by
``python -m benchmarks.ablations_report``.
"""

import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.measure import command_line
from bitgear.bits import LayerBits, Plan
from bitgear.files import write_json
from trainer.config import Config
from trainer.loop import Run
from trainer.model import OWN
from trainer.pipeline import fit_supernet
from trainer.subject import master_fingerprint

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


SELECTION = "spread"
"""Which test images a cell is measured on: ``spread`` evenly over the split. Cells without the entry took the first."""


STAGE: Sections = {
    "train": {"epochs": 0},
    "hasb": {"epochs": 8, "epoch_images": 1024, "lr": 2e-4},
    "calibrate": {"images": 64, "batches": 16},
}
"""What arms of the super-network stage change: as many steps, of which half keep to uniform widths."""


MOBILE: Sections = {
    "network": {"name": "mobilenet-ablation", "kind": "mobilenet-v2", "width": 0.25},
    "train": {"kurtosis": 0.0},
}
"""What arms of depthwise convolutions change: a quarter of MobileNetV2's channels, which :data:`FLOATS` trains."""

FLOATS: Sections = {
    "network": MOBILE["network"],
    "data": RECIPE["data"],
    "fp32": {"epochs": 8, "lr": 0.1, "warmup": 0.25},
    "train": {"epochs": 0, "batch_size": 128, "evaluate_every": 1},
}
"""The float network that these arms start from: all training images, eight times."""


@dataclass(frozen=True)
class Arm:
    """One way to train: what it is in words, and the entries of the recipe that it changes."""

    what: str
    changes: Sections


def mobile(what: str, network: Mapping[str, Any], **train: Any) -> Arm:
    """Return an arm of depthwise convolutions."""
    return Arm(what, {**MOBILE, "network": {**MOBILE["network"], **network}, "train": {**MOBILE["train"], **train}})


def stage(what: str, **hasb: Any) -> Arm:
    """Return an arm of the super-network stage."""
    return Arm(what, {**STAGE, "hasb": {**STAGE["hasb"], **hasb}})


ARMS: Mapping[str, Arm] = {
    "joint": Arm("all widths together, ALRS `mult`, with distillation: the recipe", {}),
    "alrs-off": Arm("ALRS `off`", {"train": {"alrs": "off"}}),
    "alrs-eta": Arm("ALRS `eta`", {"train": {"alrs": "eta"}}),
    "alrs-literal": Arm("ALRS `literal`", {"train": {"alrs": "literal"}}),
    "no-distillation": Arm("labels alone", {"train": {"distill": 0.0, "start_teaches": False}}),
    **{f"only-{bits}": Arm(f"{bits} bit alone", {"train": {"widths": (bits,)}}) for bits in (8, 6, 4, 2)},
    "no-stage": Arm("the master as it is", {name: STAGE[name] for name in ("train", "calibrate")}),
    "hasb": stage("widths drawn by HASB"),
    "uniform-sampling": stage("widths drawn alike for all layers", sampling="uniform"),
    "transitional": stage("HASB with a batch norm for each pair of widths", batch_norm="pair"),
    "mobile": mobile("MobileNetV2, a scale for each channel", {}),
    "mobile-layer": mobile("MobileNetV2, a scale for each layer", {"per_channel": False}),
    "mobile-rate": mobile("a rate for each channel too", {}, alrs_scope="channel"),
    "mobile-damped": mobile("weights damped towards their codes", {}, dampening=1e-3),
    "mobile-frozen": mobile("weights held still that swing in 2 % of the steps", {}, freeze=0.02),
}


def cell_config(arm: Arm, seed: int) -> Config:
    """Return the configuration of a cell."""
    sections = {name: dict(entries) for name, entries in RECIPE.items()}
    for name, entries in {**arm.changes, "train": {**arm.changes.get("train", {}), "seed": seed}}.items():
        sections[name] = sections.get(name, {}) | dict(entries)
    return Config.model_validate(sections)


def run_cell(config: Config, data: Path, weights: Path, master: Path | None, folder: Path) -> dict[str, Any]:
    """Train in ``folder``, resuming what is there; return what was measured.

    Of joint training: the top-1 of every trained width and, by epoch, its loss and ALRS's G. Of the super-network
    stage, which goes on from ``master``: the top-1 of the widths and of the plans of :func:`probe_plans`, and which
    weights it began with.
    """
    joint, scratch = config.train.epochs > 0, config.network.kind == "mobilenet-v2"
    if scratch:
        weights = trained_floats(data, folder.parent / f"{config.network.name}-{config.train.seed}", config.train.seed)
    run = Run(
        config, data, folder, weights=weights, masters=[] if joint or master is None else [master], progress=False
    )
    run.fit()
    if config.hasb is not None:
        fit_supernet(run, config.hasb)
    history = run.history
    row = {
        "recipe": config.model_dump(mode="json"),
        "test_images": len(run.task.data.test),
        "test_selection": SELECTION,
        "fp32_top1": history.fp32["top1"],
        "training_seconds": history.seconds,
        **({"floats": FLOATS} if scratch else {}),
    }
    if joint:
        kept = {
            name: {str(b): [each[name][str(b)] for each in history.epochs] for b in config.train.widths}
            for name in ("loss", "weight_scale_gradient")
        }
        return {**row, "top1": history.epochs[-1]["top1"], **kept}
    row["master_fingerprint"] = master_fingerprint(run.masters[0])
    return {**row, **measured_plans(run, probe_plans(run.masters[0].sensitivities))}


def trained_floats(data: Path, folder: Path, seed: int) -> Path:
    """Return the file of the float network that arms of depthwise convolutions share; it is trained if missing."""
    path = folder / "fp32.pt"
    if not path.is_file():
        sections = {**FLOATS, "train": {**FLOATS["train"], "seed": seed}}
        Run(Config.model_validate(sections), data, folder, progress=False).fit()
    return path


def probe_plans(sensitivities: Mapping[str, float]) -> dict[str, Plan]:
    """Return four plans by name, of mean width 3 and 4, with the higher widths where traces are large, or small."""
    ranked = sorted(sensitivities, key=lambda name: -sensitivities[name])
    plans = {}
    for widths in ((4, 2), (6, 4, 2)):
        share = len(ranked) / len(widths)
        for order, names in (("sensitive first", ranked), ("sensitive last", ranked[::-1])):
            bits = [widths[int(place / share)] for place in range(len(names))]
            layers = tuple((name, LayerBits(b, b)) for name, b in zip(names, bits, strict=True))
            plans[f"mean {np.mean(bits):.0f}, {order}"] = Plan(LayerBits(widths[0], widths[0]), layers)
    return plans


def measured_plans(run: Run, plans: Mapping[str, Plan]) -> dict[str, Any]:
    """Return top-1 of the plans with the batch norms of training and with re-calibrated ones, and of the widths."""
    norms = "width" if run.config.hasb is None else run.config.hasb.batch_norm
    batches = run.calibration_batches()
    kept = {name: run.evaluate(run.model, plan, norms)["top1"] for name, plan in plans.items()}
    calibrated = {}
    for name, plan in plans.items():
        run.model.calibrate_plan(plan, batches, norms)
        calibrated[name] = run.evaluate(run.model, plan, OWN)["top1"]
    for bits in run.config.train.widths:
        run.model.calibrate_width(bits, batches, scales=False)
    top1 = {str(bits): run.evaluate(run.model, bits)["top1"] for bits in run.config.train.widths}
    return {"top1": top1, "plans_kept": kept, "plans_calibrated": calibrated}


def cells(arms: Iterable[str], seeds: Iterable[int]) -> list[tuple[str, int]]:
    """Return the cells in the order in which they run: every arm with the first seed, then with the next."""
    return [(arm, seed) for seed in seeds for arm in arms]


def main() -> None:
    """Run every cell that has no result yet."""
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--master", type=Path, help="of resnet20-cifar10, for arms of the super-network stage")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    arguments = parser.parse_args()
    if arguments.master is None and any(cell_config(ARMS[arm], 1).train.epochs == 0 for arm in arguments.arms):
        parser.error("arms of the super-network stage go on from a master: give --master")
    (arguments.out / "cells").mkdir(parents=True, exist_ok=True)
    for arm, seed in tqdm(cells(arguments.arms, arguments.seeds), unit="cell"):
        path = arguments.out / "cells" / f"{arm}-{seed}.json"
        if path.is_file():
            continue
        folder, cpu_started = arguments.out / "runs" / f"{arm}-{seed}", time.process_time()
        config = cell_config(ARMS[arm], seed)
        row = run_cell(config, arguments.data, arguments.weights, arguments.master, folder)
        row = {"arm": arm, "seed": seed, **row, "cpu_seconds": time.process_time() - cpu_started}
        write_json(path, row, indent=1)
        shutil.rmtree(folder)
        tqdm.write(f"{arm} seed {seed}: " + "  ".join(f"{b} bit {v:.2%}" for b, v in row["top1"].items()))


if __name__ == "__main__":
    main()
