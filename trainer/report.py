"""The report of a training run: report.json, report.md and its plots."""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from bitgear.checkpoint import Master
from bitgear.describe import describe
from bitgear.files import write_atomically
from trainer.loop import History

mpl.use("agg")

COLORS = {8: "#1b3a6b", 7: "#2f6690", 6: "#3a8fb7", 5: "#66b2a6", 4: "#d9a441", 3: "#d97b3f", 2: "#b8323c"}
CODE_COLORS = ("#1b3a6b", "#7fa8d1", "#e8e4da", "#d97b3f")


def write_report(out: Path, master: Master, history: History, file_bytes: int) -> None:
    """Write the report of a run into its folder."""
    description = describe(master, file_bytes)
    report = {"master": description, **vars(history)}
    write_atomically(out / "report.json", (json.dumps(report, indent=1) + "\n").encode())
    if history.epochs:
        _curves(history, "top1", "top-1, test images", 100, out / "accuracy.png")
        _curves(history, "weight_scale_gradient", "mean clipped |dL/ds|, weight scales", 1, out / "scale_gradients.png")
    _occupancy(description, out / "codes_2bit.png")
    write_atomically(out / "report.md", _markdown(description, history).encode())


def _curves(history: History, name: str, label: str, factor: float, path: Path) -> None:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    epochs = [row["epoch"] for row in history.epochs]
    for bits in history.epochs[0][name]:
        values = [factor * row[name][bits] for row in history.epochs]
        axes.plot(epochs, values, color=COLORS[int(bits)], marker=".", label=f"{bits} bit")
    if name == "top1" and history.fp32_top1 is not None:
        axes.axhline(100 * history.fp32_top1, color="#555555", linestyle="--", linewidth=1, label="FP32 start")
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{label} (%)" if factor == 100 else label)
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


def _markdown(description: dict[str, Any], history: History) -> str:
    lines = [f"# Training report: {description['name']}", ""]
    if history.fp32_top1 is not None:
        lines += [f"FP32 start: top-1 {100 * history.fp32_top1:.2f} %."]
    if history.teacher_top1 is not None:
        lines += [f"Teacher: top-1 {100 * history.teacher_top1:.2f} %."]
    lines += [
        f"Joint training: {len(history.epochs)} epochs, {history.seconds / 60:.0f} minutes.",
        f"Master: {description['file_bytes']:,} bytes, {description['file_bytes_per_parameter']:.3f} a parameter.",
        "",
        "| bits | top-1 through the serving engine | images |",
        "|---|---|---|",
    ]
    for bits, row in description["precisions"].items():
        lines.append(f"| {bits} | {100 * row['top1']:.2f} % | {int(row['images']):,} |")
    lines += [
        "",
        "Curves are measured after each epoch on the test images, with convolutions in bfloat16; they steer nothing:",
        "the last epoch is what is exported. The table is exact.",
        "",
    ]
    if history.epochs:
        lines += ["![accuracy per width](accuracy.png)", "", "![scale gradients](scale_gradients.png)", ""]
    lines += ["![2-bit codes per layer](codes_2bit.png)", ""]
    return "\n".join(lines)
