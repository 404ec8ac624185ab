"""The report of a training run: report.json, report.md and its plots."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from bitgear.bits import Plan
from bitgear.checkpoint import Master
from bitgear.describe import describe
from bitgear.files import write_atomically, write_json
from bitgear.search.grid import WIDTH_COLORS, draw_widths
from bitgear.tasks.metrics import METRIC_NAMES
from trainer.hessian import Traces
from trainer.schedule import SCHEDULE, cut_short, stretches
from trainer.state import History

mpl.use("agg")

CODE_COLORS = ("#1b3a6b", "#7fa8d1", "#e8e4da", "#d97b3f")
CELL_WIDTH_PX = 320
"""Width of a picture on the contact sheet."""


@dataclass(frozen=True)
class Sheet:
    """A contact sheet: names of its columns, and rows of pictures uint8 (H, W, 3)."""

    names: tuple[str, ...]
    rows: list[list[NDArray[np.uint8]]]


def write_report(
    out: Path,
    master: Master,
    history: History,
    file_bytes: int,
    *,
    metric: str,
    fp32: Mapping[str, float],
    sheet: Sheet,
    watches_test: bool,
) -> None:
    """Write the report of a run into its folder.

    ``metric`` is the one that curves show; ``fp32`` are the test metrics of the network joint training started from;
    ``watches_test``: whether curves are of the test images.
    """
    description = describe(master, file_bytes)
    report = {"master": description, "fp32_test": fp32, **vars(history)}
    write_json(out / "report.json", report, indent=1)
    if history.epochs:
        start = None if history.fp32 is None else history.fp32[metric]
        _curves(history, metric, f"{METRIC_NAMES[metric]}, watched images", 100, start, out / "accuracy.png")
        label = "mean clipped |dL/ds|, weight scales"
        _curves(history, "weight_scale_gradient", label, 1, None, out / "scale_gradients.png")
    if history.hasb_epochs:
        _supernet(history, out / "supernet.png")
    _occupancy(description, out / "codes_2bit.png")
    if sheet.rows:
        _contact_sheet(sheet, out / "contact_sheet.jpg")
    columns = sheet.names if sheet.rows else ()
    write_atomically(out / "report.md", markdown(description, history, metric, fp32, columns, watches_test).encode())


def _contact_sheet(sheet: Sheet, path: Path) -> None:
    header, gap = 24, 4
    first = sheet.rows[0][0]
    cell = (CELL_WIDTH_PX, max(1, round(CELL_WIDTH_PX * first.shape[0] / first.shape[1])))
    page = Image.new(
        "RGB", (len(sheet.names) * (cell[0] + gap), header + len(sheet.rows) * (cell[1] + gap)), (255, 255, 255)
    )
    draw = ImageDraw.Draw(page)
    for x, name in enumerate(sheet.names):
        draw.text((x * (cell[0] + gap) + gap, gap), name, fill=(0, 0, 0))
    for y, row in enumerate(sheet.rows):
        for x, pixels in enumerate(row):
            picture = Image.fromarray(pixels)
            share = min(cell[0] / picture.width, cell[1] / picture.height)  # of its size, which may be small
            size = (max(1, round(share * picture.width)), max(1, round(share * picture.height)))
            picture = picture.resize(size, Image.Resampling.BICUBIC)
            page.paste(picture, (x * (cell[0] + gap), header + y * (cell[1] + gap)))
    page.save(path, quality=88)


def _curves(history: History, name: str, label: str, factor: float, start: float | None, path: Path) -> None:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    rows = [row for row in history.epochs if name in row]
    for bits in rows[0][name]:
        values = [factor * row[name][bits] for row in rows]
        axes.plot(
            [row["epoch"] for row in rows], values, color=WIDTH_COLORS[int(bits)], marker=".", label=f"{bits} bit"
        )
    if start is not None:
        axes.axhline(factor * start, color="#555555", linestyle="--", linewidth=1, label="FP32 start")
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{label} (%)" if factor == 100 else label)
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def _supernet(history: History, path: Path) -> None:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, color in (("uniform", WIDTH_COLORS[8]), ("drawn", WIDTH_COLORS[2])):
        points = [(row["epoch"], row["loss"][name]) for row in history.hasb_epochs if name in row["loss"]]
        if points:
            axes.plot(*zip(*points, strict=True), color=color, marker=".", label=f"{name} widths")
    axes.set_xlabel("epoch of the stage")
    axes.set_ylabel("training loss")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def _occupancy(description: dict[str, Any], path: Path) -> None:
    layers = [layer for layer in description["layers"] if layer["codes_2bit"]]
    figure = Figure(figsize=(7, 0.3 * len(layers) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    names = [layer["name"] for layer in layers]
    left = [0.0] * len(layers)
    for i, code in enumerate((-2, -1, 0, 1)):
        shares = [100 * layer["codes_2bit"][i] for layer in layers]
        axes.barh(names, shares, left=left, color=CODE_COLORS[i], label=str(code))
        left = [a + b for a, b in zip(left, shares, strict=True)]
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of weights (%), by 2-bit code")
    axes.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    figure.savefig(path, dpi=130)


def draw_traces(traces: Traces, plans: Mapping[str, Plan], path: Path) -> None:
    """Draw each layer's trace against its depth, with its standard error, and below it the widths of ``plans``."""
    average, error = traces.average(), traces.error()
    names = list(average)
    figure = Figure(figsize=(max(7.0, 0.32 * len(names)), 4.5 + 0.4 * len(plans)), layout="constrained")
    upper, *lower = figure.subplots(
        1 + bool(plans), 1, sharex=True, squeeze=False, height_ratios=(3, 0.4 * len(plans))[: 1 + bool(plans)]
    )
    axes, places = upper[0], np.arange(len(names))
    shown = [max(average[name], 0.0) for name in names]
    axes.bar(
        places, shown, yerr=[error[name] for name in names], color=WIDTH_COLORS[6], ecolor=WIDTH_COLORS[8], capsize=2
    )
    axes.axhline(float(np.mean(shown)), color=WIDTH_COLORS[2], linestyle="--", linewidth=1, label="mean over layers")
    axes.set_ylabel("Hessian trace / weights")
    axes.legend(frameon=False)
    last = axes
    if plans:
        last = lower[0][0]
        draw_widths(last, names, {name: {layer: plan.of(layer) for layer in names} for name, plan in plans.items()})
    last.set_xticks(places, names, rotation=90, fontsize=8)
    figure.savefig(path, dpi=130)


def markdown(
    description: dict[str, Any],
    history: History,
    metric: str,
    fp32: Mapping[str, float],
    columns: Sequence[str],
    watches_test: bool,
) -> str:
    """Return the text of a report, of what ``report.json`` holds. ``columns``: of the contact sheet, none without."""
    names = [name for name in fp32 if name != "images"]
    lines = [f"# Training report: {description['name']}", ""]
    if history.fp32_epochs:
        lines += [f"FP32 training: {_duration(history.fp32_epochs)}."]
    masters = description["provenance"].get("masters", [])
    if masters:
        digests = ", ".join(master["sha256"][:12] for master in masters)
        began = "the master" if len(masters) == 1 else f"the mean of {len(masters)} masters,"
        lines += [f"Began as {began} sha256 {digests}."]
    if history.teacher is not None:
        lines += [f"Teacher: {METRIC_NAMES[metric]} {100 * history.teacher[metric]:.2f} %."]
    stages = {
        "Joint training": history.epochs,
        "Super-network stage": history.hasb_epochs,
        "Training on with a plan": history.plan_epochs,
    }
    for stage, rows in stages.items():
        if rows:
            lines += [f"{stage}: {_duration(rows)}."]
    lines += [
        f"Master: {description['file_bytes']:,} bytes, {description['file_bytes_per_parameter']:.3f} a parameter.",
        "",
        "| bits | " + " | ".join(METRIC_NAMES[name] for name in names) + " | images |",
        "|" + "---|" * (len(names) + 2),
        _row("FP32 start", names, fp32),
    ]
    lines += [_row(str(bits), names, row) for bits, row in description["precisions"].items()]
    lines += [
        "",
        "The table is measured on the test images, every width through the serving engine, the FP32 network that joint",
        "training started from by the same code.",
        *_curves_said(stages, watches_test),
        "",
    ]
    if columns:
        lines += [f"Test images: {', '.join(columns)}.", "", "![contact sheet](contact_sheet.jpg)", ""]
    if history.epochs:
        lines += ["![accuracy per width](accuracy.png)", "", "![scale gradients](scale_gradients.png)", ""]
    if history.hasb_epochs:
        lines += [
            "The super-network stage: mean loss of steps at uniform widths, and at drawn ones, which leave the uniform",
            "ones more often with every epoch.",
            "",
            "![losses of the super-network stage](supernet.png)",
            "",
        ]
    lines += ["![2-bit codes per layer](codes_2bit.png)", ""]
    return "\n".join(lines)


def _duration(rows: Sequence[dict[str, Any]]) -> str:
    """Return how many epochs there were, by which schedules if by several or not all of one, and minutes."""
    parts, epochs = stretches(rows), f"{len(rows)} epochs"
    if len(parts) > 1:
        told = ", then ".join(f"{part['epochs']} of {part['of']} from a rate of {part['lr']:g}" for part in parts)
        epochs += f" ({told})"
    elif cut_short(rows):
        epochs = f"{len(rows)} of {parts[0]['of']} epochs"
    return f"{epochs}, {sum(row['seconds'] for row in rows) / 60:.0f} minutes"


NONE_HELD_OUT = [
    "No training images are held out to choose by: a choice among runs or epochs, by curves or by the table, is",
    "made on the test images.",
]


def _curves_said(stages: Mapping[str, Sequence[dict[str, Any]]], watches_test: bool) -> list[str]:
    """Return the lines that say of which images curves are, and what may have been chosen by what."""
    trained = {stage: rows for stage, rows in stages.items() if rows}
    chosen = NONE_HELD_OUT if watches_test else []
    if not trained:
        return chosen
    images = "these test images too" if watches_test else "other images than these"
    short = [
        f"epoch {len(rows)} of {rows[-1][SCHEDULE]['epochs']} ({stage.lower()})"
        for stage, rows in trained.items()
        if cut_short(rows)
    ]
    if short:
        ended = f"What is exported is the state after {' and '.join(short)}, a choice that curves may have made."
    elif any(len(stretches(rows)) > 1 for rows in trained.values()):
        ended = (
            "The schedule was changed midway, a choice that curves may have made; the last epoch is what is exported."
        )
    elif all(SCHEDULE in row for rows in trained.values() for row in rows):
        ended = "They steer nothing in this run: the last epoch is what is exported."
    else:
        ended = "What is exported is the state after the last epoch told above."
    lines = [
        f"Curves are of {images}, measured during training with convolutions in the training's own arithmetic.", ended,
    ]  # fmt: skip
    return lines + chosen


def _row(name: str, metrics: list[str], figures: Mapping[str, float]) -> str:
    values = " | ".join(f"{100 * figures[metric]:.2f} %" for metric in metrics)
    return f"| {name} | {values} | {int(figures['images']):,} |"
