"""Tables and plots of the ablations: docs/reports/ablations.

python -m benchmarks.ablations_report --cells DIR  # gathers the cells of benchmarks.ablations, then writes the report
python -m benchmarks.ablations_report              # writes it from benchmarks/results/ablations.json
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.ablations import ARMS, SELECTION
from benchmarks.measure import RESULTS, command_line, write_report
from benchmarks.student import clear_of_zero
from bitgear.files import write_atomically
from bitgear.search.grid import WIDTH_COLORS

REPORT = Path(__file__).parent.parent / "docs" / "reports" / "ablations"
BASE = "joint"
WIDTHS = ("8", "6", "4", "2")
ARM_COLORS = ("#1b3a6b", "#d97b3f", "#3a8fb7", "#b8323c", "#66b2a6", "#8a6bb0")

Cell = Mapping[str, Any]


def gather(folder: Path) -> list[dict[str, Any]]:
    """Return the finished cells of a folder, arm by arm in the order of the arms.

    Raises ``ValueError`` where they were measured on different test images: these do not compare.
    """
    cells = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder / "cells").glob("*.json"))]
    measured = sorted({measured_on(cell) for cell in cells})
    if len(measured) > 1:
        raise ValueError(f"{folder} mixes cells measured on {' and on '.join(measured)}; run those of one kind anew")
    order = list(ARMS)
    return sorted(cells, key=lambda cell: (order.index(cell["arm"]), cell["seed"]))


def measured_on(cell: Cell) -> str:
    """Return in words which test images a cell was measured on."""
    count = f"{cell['test_images']:,} test images"
    return f"{count} spread evenly over the split" if cell.get("test_selection") == SELECTION else f"the first {count}"


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


def joint_cells(cells: Iterable[Cell]) -> list[Cell]:
    """Return the cells of joint training of the ResNet."""
    return [cell for cell in cells if "loss" in cell and cell["recipe"]["network"]["kind"] == "resnet"]


def mobile_cells(cells: Iterable[Cell]) -> list[Cell]:
    """Return the cells of depthwise convolutions."""
    return [cell for cell in cells if cell["recipe"]["network"]["kind"] == "mobilenet-v2"]


def stage_cells(cells: Iterable[Cell]) -> list[Cell]:
    """Return the cells of the super-network stage."""
    return [cell for cell in cells if "plans_kept" in cell]


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


def clear_differences(pairs: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Return in words whether more differences are clear of chance, by a paired t-test over seeds, than by chance.

    ``pairs``: for each comparison by name, shares of one and the other, seed by seed; those of one seed are left out.
    They are not independent, widths and plans of a seed being of one network, so that many are clear of chance together
    more often than the binomial distribution has it: it can say that nothing is shown, and not that something is.
    """
    tested = {name: values for name, values in pairs.items() if len(values) > 1}
    clear = []
    for name, values in tested.items():
        differences = [100 * (one - other) for one, other in values]
        mean, error = np.mean(differences), np.std(differences, ddof=1) / len(differences) ** 0.5
        if abs(mean) > clear_of_zero(len(differences)) * error:
            clear.append(f"{name} ({mean:+.2f})")
    count = len(tested)
    chance = sum(math.comb(count, k) * 0.05**k * 0.95 ** (count - k) for k in range(len(clear), count + 1))
    listed = f" ({', '.join(clear)})" if clear else ""
    return (
        f"{'Perhaps' if chance < 0.05 else 'Not shown'}.\nOf {count} differences, seed by seed, {len(clear)} are clear "
        f"of chance at 95 %{listed};\nso many or more would be with a probability of {chance:.2f} if nothing "
        "differed and comparisons were independent,\nwhich those of one network are not, so that it is more."
    )


def paired(cells: Sequence[Cell], arm: str, base: str, part: str) -> dict[str, list[tuple[float, float]]]:
    """Return the shares under ``part`` of both arms by name, seed by seed, as :func:`clear_differences` takes them."""
    others = {cell["seed"]: cell[part] for cell in of_arm(cells, base)}
    own = [(cell[part], others[cell["seed"]]) for cell in of_arm(cells, arm) if cell["seed"] in others]
    return {name: [(one[name], other[name]) for one, other in own] for name in (own[0][0] if own else ())}


def alrs_said(joint: Sequence[Cell], first: Cell) -> str:
    """Return what the table says of ALRS, and that ``literal`` trains no weight scale; empty without such arms."""
    arms = [arm for arm in names(joint) if arm.startswith("alrs-")]
    pairs = {
        f"`{arm}` at {bits} bit": values
        for arm in arms
        for bits, values in paired(joint, arm, BASE, "top1").items()
    }  # fmt: skip
    if not pairs:
        return ""
    text = f"**Does a reading of ALRS other than `{BASE}`'s matter beyond what seeds do?** {clear_differences(pairs)}"
    (least, whose), rate = least_gradient(of_arm(joint, "alrs-literal")), first["recipe"]["train"]["lr"]
    if "alrs-literal" in arms and least > rate:
        text += (
            "\n\n`alrs-literal` never trained a weight scale: Eq. 6 takes G, which averages "
            f"{least:.2f} or more in every epoch at every width{whose},\nfrom a rate of {rate} or less, "
            "and what is left is floored at zero. That arm is worth what scales that stay as they began are worth."
        )
    return text


def least_gradient(literal: Sequence[Cell]) -> tuple[float, str]:
    """Return the least G, the mean of an epoch at a width, of cells, or else of the shipped joint training; and whose.

    The latter in words if it is not the cells'.
    """
    recorded = [cell["weight_scale_gradient"] for cell in literal if "weight_scale_gradient" in cell]
    if recorded:
        return min(min(values) for each in recorded for values in each.values()), ""
    report = json.loads((REPORT.parent / "resnet20-joint" / "report.json").read_text(encoding="utf-8"))
    least = min(min(row["weight_scale_gradient"].values()) for row in report["epochs"])
    return least, "\nof the shipped joint training (these runs kept none)"


def stage_said(stage: Sequence[Cell]) -> str:
    """Return what the tables say of HASB beside uniform sampling, and of the stage beside none."""
    parts = {"top1": "{} bit", "plans_kept": "{}, kept", "plans_calibrated": "{}, re-calibrated"}
    pairs = {
        form.format(name): values
        for part, form in parts.items()
        for name, values in paired(stage, "hasb", "uniform-sampling", part).items()
    }
    lines = []
    if pairs:
        lines.append(
            "**Does `hasb` beat `uniform-sampling`, or the other way round, at widths and plans?** "
            f"{clear_differences(pairs)}"
        )
    base, arms = of_arm(stage, "no-stage"), [arm for arm in names(stage) if arm != "no-stage"]
    if base and arms:
        means = [
            (np.mean([cell[part][name] for cell in of_arm(stage, arm)]), base[0][part][name])
            for part in ("top1", "plans_calibrated")
            for arm in arms
            for name in base[0][part]
        ]
        below = sum(bool(mean < other) for mean, other in means)
        lines.append(
            f"**Is the stage worth anything here?** {below} of {len(means)} means of its arms, at widths and at "
            "re-calibrated plans, are below\n`no-stage`."
        )
    return "\n\n".join(lines)


def plan_table(cells: Sequence[Cell]) -> str:
    """Return mean and spread of the top-1 of plans in per cent, with kept and with re-calibrated batch norms."""
    plans = list(cells[0]["plans_kept"])
    lines = [f"| top-1 of plans, % | batch norm | {' | '.join(plans)} |", "|---|---|" + "---|" * len(plans)]
    for arm in names(cells):
        for said, part in (("kept from training", "plans_kept"), ("re-calibrated", "plans_calibrated")):
            values = (spread([cell[part][plan] for cell in of_arm(cells, arm)]) for plan in plans)
            lines.append(f"| `{arm}` | {said} | {' | '.join(values)} |")
    return "\n".join(lines)


def draw_plans(cells: Sequence[Cell], path: Path) -> None:
    """Draw top-1 against mean width: lines of uniform widths and points of re-calibrated plans, by arm."""
    figure = Figure(figsize=(7.5, 4.6), layout="constrained", dpi=120)
    axes: Axes = figure.add_subplot()
    for number, arm in enumerate(names(cells)):
        own, color = of_arm(cells, arm), ARM_COLORS[number % len(ARM_COLORS)]
        uniform = [100 * float(np.mean([cell["top1"][b] for cell in own])) for b in WIDTHS]
        axes.plot([int(b) for b in WIDTHS], uniform, color=color, marker=".", label=arm)
        for plan in own[0]["plans_calibrated"]:
            mean = 100 * float(np.mean([cell["plans_calibrated"][plan] for cell in own]))
            marker = "^" if plan.endswith("first") else "v"
            axes.plot(int(plan.split()[1].strip(",")), mean, marker, color=color, alpha=0.8)
    axes.set_xlabel("mean width, bits (up: more bits for sensitive layers, down: fewer)")
    axes.set_ylabel("top-1, %")
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.3)
    figure.savefig(path, metadata={"Software": None})


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
        panel.set_title(f"{bits} bit", color=WIDTH_COLORS[int(bits)])
        panel.set_yscale("log")
        panel.set_xlabel("epoch")
        panel.set_ylabel("training loss")
        panel.grid(alpha=0.3)
    panels[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Software": None})


def markdown(cells: Sequence[Cell]) -> str:
    """Return the report of what has been run."""
    parts = [
        "# Ablations",
        """ResNet-20 on CIFAR-10, **short equal schedules**: they say which part of the recipe matters early and how far
seeds differ, not what a full run reaches. Mean ± standard deviation over seeds; a seed decides the images and their
order, which are the same for every arm. **A figure without ± is of one seed**, and of two the spread is a rough guess:
what is smaller than it says nothing. Accuracy is the trainer's own evaluation.""",
    ]
    joint, stage = merged(joint_cells(cells)), stage_cells(cells)
    if joint:
        parts.append(_joint_markdown(joint, joint_cells(cells)[0]))
    if stage:
        parts.append(_stage_markdown(stage))
    if mobile_cells(cells):
        parts.append(_mobile_markdown(mobile_cells(cells)))
    parts.append(
        """`python -m benchmarks.ablations` ran the cells, `python -m benchmarks.ablations_report` wrote this page from
[benchmarks/results/ablations.json](../../../benchmarks/results/ablations.json)."""
    )
    return "\n\n".join(parts) + "\n"


def _joint_markdown(joint: Sequence[Cell], first: Cell) -> str:
    train = first["recipe"]["train"]
    return f"""## Joint training

From imported FP32 weights: {train["epochs"]} epochs of {train["epoch_images"]:,} images, batch {train["batch_size"]},
Adam at {train["lr"]}, cosine to zero. Measured on {measured_on(first)}, of which the FP32
network has {100 * first["fp32_top1"]:.2f} %.

{accuracy_table(joint)}

Differences between runs of the same seed:

{difference_table(joint)}

{alrs_said(joint, first)}

A network trained alone takes one step for each batch, joint training one for each width; both see the same images.

Training loss; bands span the seeds. Losses with and without distillation do not compare, nor do those of networks
trained alone with the others: alone, every width learns from the FP32 network, together, from the next higher width.

![convergence](convergence.png)"""


def _stage_markdown(stage: Sequence[Cell]) -> str:
    recipe = next((cell["recipe"] for cell in stage if cell["recipe"]["hasb"]), None)
    hasb = None if recipe is None else recipe["hasb"]
    schedule = (
        "arms that train have not been run yet."
        if hasb is None
        else f"{hasb['epochs']} epochs of {hasb['epoch_images']:,} images, Adam at {hasb['lr']}, every other batch at "
        "uniform widths."
    )
    weights = stage[0].get("master_fingerprint")
    master = "the master that joint training left" if weights is None else f"the master of weights {weights[:12]}"
    return f"""## Super-network stage

From {master}: {schedule}
Top-1 of uniform widths on {measured_on(stage[0])}, statistics re-calibrated:

{accuracy_table(stage)}

Plans of a mean width with the higher widths in the layers of the largest Hessian traces ("sensitive first") or of the
smallest ("sensitive last"). Batch norms as training left them, or re-calibrated for the plan on training images:

{plan_table(stage)}

{stage_said(stage)}

![accuracy against mean width](plans.png)"""


def _mobile_markdown(mobile: Sequence[Cell]) -> str:
    recipe, floats = mobile[0]["recipe"], mobile[0]["floats"]
    by_seed = {cell["seed"]: cell["fp32_top1"] for cell in mobile}  # all arms of a seed begin with one network
    train, fp32 = recipe["train"], spread([*by_seed.values()])
    return f"""## Depthwise convolutions

MobileNetV2 with {recipe["network"]["width"]} of its channels, from scratch: {floats["fp32"]["epochs"]} epochs of all
training images in FP32, the same network for all arms of a seed, which reaches {fp32} % of
{measured_on(mobile[0])}, then {train["epochs"]} of {train["epoch_images"]:,} images at all widths.
Far from trained: what the arms differ by counts, not what they reach.

{accuracy_table(mobile)}"""


def main() -> None:
    """Gather if asked to, then write the report."""
    parser = command_line(__doc__)
    parser.add_argument("--cells", type=Path, help="output folder of benchmarks.ablations")
    arguments = parser.parse_args()
    if arguments.cells is not None:
        write_report("ablations", {"cells": gather(arguments.cells)})
    cells = json.loads((RESULTS / "ablations.json").read_text(encoding="utf-8"))["cells"]
    REPORT.mkdir(parents=True, exist_ok=True)
    if joint_cells(cells):
        draw_convergence(merged(joint_cells(cells)), REPORT / "convergence.png")
    if stage_cells(cells):
        draw_plans(stage_cells(cells), REPORT / "plans.png")
    write_atomically(REPORT / "report.md", markdown(cells).encode())


if __name__ == "__main__":
    main()
