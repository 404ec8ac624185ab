"""Tables and plots of the ablations: docs/reports/ablations.

python -m benchmarks.ablations_report --cells DIR  # gathers the cells of benchmarks.ablations, then writes the report
python -m benchmarks.ablations_report              # writes it from benchmarks/results/ablations.json
"""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.ablations import ARMS
from benchmarks.measure import RESULTS, write_report
from bitgear.files import write_atomically
from trainer.report import COLORS

REPORT = Path(__file__).parent.parent / "docs" / "reports" / "ablations"
BASE = "joint"
WIDTHS = ("8", "6", "4", "2")
ARM_COLORS = ("#1b3a6b", "#d97b3f", "#3a8fb7", "#b8323c", "#66b2a6", "#8a6bb0")

Cell = Mapping[str, Any]


def gather(folder: Path) -> list[dict[str, Any]]:
    """Return the finished cells of a folder, arm by arm in the order of the arms."""
    cells = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder / "cells").glob("*.json"))]
    order = list(ARMS)
    return sorted(cells, key=lambda cell: (order.index(cell["arm"]), cell["seed"]))


def spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation of shares in per cent; of one value the value alone."""
    mean = 100 * float(np.mean(values))
    return f"{mean:.2f}" if len(values) == 1 else f"{mean:.2f} ± {100 * float(np.std(values, ddof=1)):.2f}"


def of_arm(cells: Iterable[Cell], arm: str) -> list[Cell]:
    """Return the cells of an arm."""
    return [cell for cell in cells if cell["arm"] == arm]


def merged(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells with those of single widths of one seed as one cell of the arm ``dedicated``.

    A seed counts once every width of it is there.
    """
    single = [cell for cell in cells if cell["arm"].startswith("only-")]
    joined: list[Cell] = []
    for seed in sorted({cell["seed"] for cell in single}):
        own = [cell for cell in single if cell["seed"] == seed]
        parts = {name: {b: v for cell in own for b, v in cell[name].items()} for name in ("top1", "loss")}
        if set(parts["top1"]) == set(WIDTHS):
            joined.append({"arm": "dedicated", "seed": seed, **parts})
    return [cell for cell in cells if cell not in single] + joined


def names(cells: Iterable[Cell]) -> list[str]:
    """Return the arms that occur, in order."""
    return list(dict.fromkeys(cell["arm"] for cell in cells))


def what(arm: str) -> str:
    """Return what an arm is in words."""
    return "a network for each width, trained alone" if arm == "dedicated" else ARMS[arm].what


def accuracy_table(cells: Sequence[Cell]) -> str:
    """Return mean and spread of top-1 in per cent by arm and width."""
    lines = [f"| top-1, % | {' | '.join(f'{b} bit' for b in WIDTHS)} | seeds |", "|---|" + "---|" * (len(WIDTHS) + 1)]
    for arm in names(cells):
        own = of_arm(cells, arm)
        values = " | ".join(spread([cell["top1"][b] for cell in own]) for b in WIDTHS)
        lines.append(f"| `{arm}`: {what(arm)} | {values} | {len(own)} |")
    return "\n".join(lines)


def difference_table(cells: Sequence[Cell]) -> str:
    """Return each arm's top-1 minus the recipe's, seed by seed, mean and spread in points."""
    base = {cell["seed"]: cell for cell in of_arm(cells, BASE)}
    lines = [f"| points against `{BASE}` | {' | '.join(f'{b} bit' for b in WIDTHS)} |", "|---|" + "---|" * len(WIDTHS)]
    for arm in names(cells):
        pairs = [(cell, base[cell["seed"]]) for cell in of_arm(cells, arm) if cell["seed"] in base]
        if arm == BASE or not pairs:
            continue
        values = (spread([cell["top1"][b] - same["top1"][b] for cell, same in pairs]) for b in WIDTHS)
        lines.append(f"| `{arm}` | {' | '.join(values)} |")
    return "\n".join(lines)


def draw_convergence(cells: Sequence[Cell], path: Path) -> None:
    """Write the training loss by epoch, one panel for each width, a line and the spread of its seeds for each arm."""
    figure = Figure(figsize=(10, 6.4), layout="constrained", dpi=120)
    panels: list[Axes] = list(figure.subplots(2, 2).flat)
    for panel, bits in zip(panels, WIDTHS, strict=True):
        for number, arm in enumerate(names(cells)):
            losses = np.array([cell["loss"][bits] for cell in of_arm(cells, arm)])
            epochs, mean = np.arange(1, losses.shape[1] + 1), losses.mean(0)
            color = ARM_COLORS[number % len(ARM_COLORS)]
            panel.plot(epochs, mean, color=color, marker=".", label=arm)
            panel.fill_between(epochs, losses.min(0), losses.max(0), color=color, alpha=0.15, linewidth=0)
        panel.set_title(f"{bits} bit", color=COLORS[int(bits)])
        panel.set_yscale("log")
        panel.set_xlabel("epoch")
        panel.set_ylabel("training loss")
        panel.grid(alpha=0.3)
    panels[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Software": None})


def markdown(cells: Sequence[Cell]) -> str:
    """Return the report."""
    first = cells[0]
    train = first["recipe"]["train"]
    start = 100 * float(np.mean([cell["fp32_top1"] for cell in cells]))
    joint = merged(cells)
    return f"""# Ablations

ResNet-20 on CIFAR-10 from imported FP32 weights, **short equal schedules**: {train["epochs"]} epochs of
{train["epoch_images"]:,} images, batch {train["batch_size"]}, Adam at {train["lr"]}, cosine to zero. They say which
part of the recipe matters early and how far seeds differ, not what a full run reaches. Top-1 of the first
{first["test_images"]:,} test images by the trainer's own evaluation; the FP32 start has {start:.2f} % of them.
Mean ± standard deviation over seeds. A seed decides the images and their order, which are the same for every arm.

{accuracy_table(joint)}

Differences between runs of the same seed:

{difference_table(joint)}

A network trained alone takes one step for each batch, joint training one for each width; both see the same images.

Training loss; bands span the seeds. An arm with distillation has another loss than one without.

![convergence](convergence.png)

`python -m benchmarks.ablations` ran the cells, `python -m benchmarks.ablations_report` wrote this page from
[benchmarks/results/ablations.json](../../../benchmarks/results/ablations.json).
"""


def main() -> None:
    """Gather if asked to, then write the report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cells", type=Path, help="output folder of benchmarks.ablations")
    arguments = parser.parse_args()
    if arguments.cells is not None:
        write_report("ablations", {"cells": gather(arguments.cells)})
    cells = json.loads((RESULTS / "ablations.json").read_text(encoding="utf-8"))["cells"]
    REPORT.mkdir(parents=True, exist_ok=True)
    draw_convergence(merged(cells), REPORT / "convergence.png")
    write_atomically(REPORT / "report.md", markdown(cells).encode())


if __name__ == "__main__":
    main()
