"""What it costs and buys to keep parts of a pyramid network at 8 bits whatever the width: accuracy and time.

    python -m benchmarks.eight_bits begin --config bccd_resnet_cpu --data bccd.tar --trained RUN --out DIR
    python -m benchmarks.eight_bits train --config bccd_resnet_cpu --data bccd.tar --trained RUN --out DIR
    python -m benchmarks.eight_bits gather --out DIR [DIR ...]
    python -m benchmarks.eight_bits time [--models NAME ...]

``begin`` takes a finished run and changes which parts stay at 8 bits: layers that change get scales anew, all layers
the statistics of the changed network; it is measured on the split ``val`` as it is then. ``train`` goes on with a few
epochs of joint training, which show every choice the same images in the same order, and measures again. A cell is one
choice with one seed, and is DIR/cells/CHOICE-SEED.json; what is there already is skipped, and a cell whose training was
cut off goes on from its last epoch. ``gather`` makes results/eight-bits.json of them.

``time`` runs shipped masters, their graphs changed accordingly, with one thread: what a call takes depends on the
graph, not on what the weights were trained for. All choices take turns, and a node takes the least of its medians over
a few calls; that is done three times.
"""

import argparse
import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.ablations import cells
from benchmarks.measure import command_line, write_report
from bitgear.checkpoint import Master, read_master
from bitgear.engines.registry import create_native
from bitgear.files import write_json
from bitgear.models import find_master
from bitgear.search.timings import least_ms
from trainer.config import CONFIGS, DetectConfig, PyramidConfig, RunConfig, SegmentConfig, read_config
from trainer.loop import Run
from trainer.model import slug
from trainer.networks.pyramid import Part
from trainer.pipeline import shipped_config
from trainer.state import History, save_state
from trainer.tasks.scratch import pyramid

CALIBRATION_BATCHES = 8
REPEATS = 3
SHIPPED = "shipped"
CHOICES: Mapping[str, frozenset[Part]] = {
    SHIPPED: frozenset({"stem", "shortcut", "lateral", "predict"}),
    "none": frozenset(),
    "no stem": frozenset({"shortcut", "lateral", "predict"}),
    "no prediction": frozenset({"stem", "shortcut", "lateral"}),
    "neither stem nor prediction": frozenset({"shortcut", "lateral"}),
    "no shortcuts": frozenset({"stem", "lateral", "predict"}),
    "no laterals": frozenset({"stem", "shortcut", "predict"}),
    "stem and prediction alone": frozenset({"stem", "predict"}),
    "head too": frozenset({"stem", "shortcut", "lateral", "head", "predict"}),
}
"""Choices of the parts that stay at 8 bits; all others follow the width."""


def cell_config(config: RunConfig, parts: frozenset[Part], epochs: int, lr: float, seed: int) -> RunConfig:
    """Return a run's configuration with other parts at 8 bits, without FP32 training, and of a few joint epochs."""
    values = config.model_dump()
    values["network"]["eight_bits"] = parts
    values["fp32"]["epochs"] = 0
    values["train"] |= {
        "epochs": epochs, "lr": lr, "seed": seed, "evaluate_every": max(epochs, 1), "keep_every": max(epochs, 1),
    }  # fmt: skip
    values["calibrate"]["batches"] = CALIBRATION_BATCHES
    return CONFIGS[values["task"]["kind"]].model_validate(values)


def create_run(config: RunConfig, data: Path, trained: Path, folder: Path) -> Run:
    """Return a cell's run."""
    return Run(config, data, folder, weights=trained / "fp32.pt", progress=False)


@torch.no_grad()
def begin(run: Run, trained: Path, network: PyramidConfig) -> dict[str, float]:
    """Leave the start of a cell in its folder, from a finished run; return its accuracy at every trained width.

    It is the state of that run, of ``network``, except for scales of layers whose widths change and for statistics.
    """
    state = torch.load(trained / "state.pt", weights_only=True, map_location=run.device)
    shape = (run.record.height_px, run.record.width_px, run.task.graph.nodes[-1].channels)
    was = {conv.name: conv.bits for conv in pyramid(network).graph(*shape).convs}
    changed = [slug(conv.name) for conv in run.task.graph.convs if conv.bits != was[conv.name]]
    model, widths, batches = run.model, run.config.train.widths, run.calibration_batches()
    for bits in widths:
        model.add_width(bits, None)
    model.load_state_dict(state["model"])
    model.start_weight_scales(run.config.train.scale_start_widths)
    for bits in widths:
        model.calibrate_width(bits, batches[:1], scales=True)
    scales = {name: tensor for name, tensor in model.state_dict().items() if is_scale_of(name, changed)}
    model.load_state_dict({**state["model"], **{name: tensor.clone() for name, tensor in scales.items()}})
    for bits in widths:
        model.calibrate_width(bits, batches, scales=False)
    history = History(fp32=History.parse(state["history"]).fp32)
    run.out.mkdir(parents=True, exist_ok=True)
    shutil.copy(trained / "fp32.pt", run.out / "fp32.pt")
    begun = {"model": model.state_dict(), "history": history.text(), "epoch": 0}
    save_state(run.out / "state.pt", run.subject, {**state, **begun})
    return {str(bits): run.evaluate(model, bits)[run.task.metric] for bits in widths}


def is_scale_of(name: str, layers: Collection[str]) -> bool:
    """Return whether a tensor of a network's state is a scale of one of some layers."""
    _, layer, *rest = name.split(".")
    return layer in layers and rest[0] in ("weight_log_scale", "act_log_scale")


def begin_cells(arguments: argparse.Namespace) -> None:
    """Begin every cell that is not there yet."""
    config = read_run(arguments.config)
    (arguments.out / "cells").mkdir(parents=True, exist_ok=True)
    for choice, seed in cells(arguments.choices, arguments.seeds):
        name = cell_name(choice, seed)
        result = arguments.out / "cells" / f"{name}.json"
        if result.is_file():
            continue
        cell = cell_config(config, CHOICES[choice], arguments.epochs, arguments.lr, seed)
        run = create_run(cell, arguments.data, arguments.trained, arguments.out / "runs" / name)
        row = {
            "choice": choice, "seed": seed, "model": config.network.name, "metric": run.task.metric,
            "epochs": arguments.epochs, "lr": arguments.lr, "before": begin(run, arguments.trained, config.network),
        }  # fmt: skip
        write_cell(result, row, row["before"])


def train_cells(arguments: argparse.Namespace) -> None:
    """Train every cell that was begun and has not ended."""
    config = read_run(arguments.config)
    for choice, seed in cells(arguments.choices, arguments.seeds):
        name = cell_name(choice, seed)
        result, folder = arguments.out / "cells" / f"{name}.json", arguments.out / "runs" / name
        if not result.is_file():
            continue
        row = json.loads(result.read_text(encoding="utf-8"))
        if "after" in row:
            continue
        run = create_run(
            cell_config(config, CHOICES[choice], row["epochs"], row["lr"], seed),
            arguments.data, arguments.trained, folder,
        )  # fmt: skip
        run.fit()
        history = run.history
        row |= {
            "steps": row["epochs"] * len(run.batches(0)), "fp32": history.fp32[row["metric"]],
            "after": history.epochs[-1][row["metric"]], "loss": history.epochs[-1]["loss"],
            "training_seconds": history.seconds,
        }  # fmt: skip
        write_cell(result, row, row["after"])
        shutil.rmtree(folder)


def read_run(path: Path) -> SegmentConfig | DetectConfig:
    """Return the configuration in a file, or a shipped one, of a pyramid network."""
    config = read_config(path if path.is_file() else shipped_config(str(path)))
    if not isinstance(config, SegmentConfig | DetectConfig):
        raise SystemExit(f"{path} describes no pyramid network; parts at 8 bits are a choice of these")
    return config


def cell_name(choice: str, seed: int) -> str:
    """Return what a cell's files are called by."""
    return f"{choice.replace(' ', '-')}-{seed}"


def write_cell(path: Path, row: Mapping[str, Any], accuracy: Mapping[str, float]) -> None:
    """Write a cell and say what was measured last."""
    write_json(path, row, indent=1)
    measured = "  ".join(f"{bits} bit {value:.2%}" for bits, value in accuracy.items())
    print(f"{row['choice']}, seed {row['seed']}: {measured}", flush=True)


def gather(arguments: argparse.Namespace) -> None:
    """Write the report of all cells that are done, choice by choice: of several folders, one for each network."""
    files = [path for folder in arguments.out for path in sorted((folder / "cells").glob("*.json"))]
    done = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    order = list(CHOICES)
    done.sort(key=lambda cell: (order.index(cell["choice"]), cell["seed"]))
    print(f"{len(done)} cells: wrote {write_report('eight-bits', {'cells': done})}")


def with_parts(master: Master, parts: frozenset[Part]) -> Master:
    """Return a shipped master of a pyramid network as if other parts stayed at 8 bits, without its plans."""
    trained = PyramidConfig.model_validate(master.provenance["recipe"]["network"])
    config = trained.model_copy(update={"eight_bits": parts})
    graph = pyramid(config).graph(master.input.height_px, master.input.width_px, master.graph.nodes[-1].channels)
    return replace(master, graph=graph, plans=(), digest="")


def share_at_eight_bits(master: Master) -> float:
    """Return the share, 0..1, of a master's multiplications that are at 8 bits whatever the width."""
    macs = {
        conv.name: int(np.prod(master.shapes[conv.name])) * master.tensors[f"{conv.name}.weight"][0].size
        for conv in master.graph.convs
    }
    return 1 - sum(macs[conv.name] for conv in master.graph.searchable) / sum(macs.values())


def times(master: Master, seconds: float) -> dict[str, Any]:
    """Return what every choice takes at every trained width in milliseconds, and its ratio to the shipped choice.

    For every repeat all models are derived anew, in an order of its own: where one lies in memory is luck.
    """
    engine = create_native(1)
    masters = {choice: with_parts(master, parts) for choice, parts in CHOICES.items()}
    asked = [(bits, choice) for bits in master.provenance["recipe"]["train"]["widths"] for choice in masters]
    taken = {each: np.empty(REPEATS) for each in asked}
    for repeat in range(REPEATS):
        order = [asked[i] for i in np.random.default_rng(repeat).permutation(len(asked))]
        models = [engine.derive(masters[choice], bits) for bits, choice in order]
        for each, ms in zip(order, least_ms(models, seconds / REPEATS), strict=True):
            taken[each][repeat] = ms
    choices: dict[str, Any] = {
        choice: {"share": share_at_eight_bits(each), "widths": {}} for choice, each in masters.items()
    }
    for (bits, choice), ms in taken.items():
        ratios = ms / taken[bits, SHIPPED]
        choices[choice]["widths"][str(bits)] = {
            "ms": float(np.median(ms)), "ratio": float(np.median(ratios)), "least_ratio": float(ratios.min()),
            "largest_ratio": float(ratios.max()),
        }  # fmt: skip
    return {"instruction_set": engine.instruction_set, "repeats": REPEATS, "choices": choices}


def measure(arguments: argparse.Namespace) -> None:
    """Measure the masters and print what was found."""
    models = {}
    for name in arguments.models:
        models[name] = report = times(read_master(find_master(name)), arguments.seconds)
        for choice, row in report["choices"].items():
            cells = (f"{bits} bit {each['ms']:7.3f} ms {each['ratio']:.3f}" for bits, each in row["widths"].items())
            print(f"{name:14} {choice:28} {row['share']:6.1%}  {'  '.join(cells)}")
    print(f"wrote {write_report('eight-bits-times', {'threads': 1, 'models': models}, arguments.json)}")


def main() -> None:
    """Run the part that is asked for."""
    parser = command_line(__doc__)
    commands = parser.add_subparsers(required=True)
    for name, run in (("begin", begin_cells), ("train", train_cells)):
        training = commands.add_parser(name)
        training.add_argument("--config", type=Path, required=True, help="a file, or a shipped configuration's name")
        training.add_argument("--data", type=Path, required=True)
        training.add_argument("--trained", type=Path, required=True, help="folder of a finished run of it")
        training.add_argument("--out", type=Path, required=True)
        training.add_argument("--choices", nargs="+", choices=CHOICES, default=list(CHOICES))
        training.add_argument("--seeds", nargs="+", type=int, default=[1])
        if name == "begin":
            training.add_argument("--epochs", type=int, default=2)
            training.add_argument("--lr", type=float, default=1e-4)
        training.set_defaults(run=run)
    gathering = commands.add_parser("gather")
    gathering.add_argument("--out", type=Path, nargs="+", required=True)
    gathering.set_defaults(run=gather)
    timing = commands.add_parser("time")
    timing.add_argument("--models", nargs="+", default=["bccd-resnet", "camvid-resnet"])
    timing.add_argument("--seconds", type=float, default=30.0, help="a model")
    timing.add_argument("--json", type=Path)
    timing.set_defaults(run=measure)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
