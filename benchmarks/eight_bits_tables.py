"""The tables of parts that stay at 8 bits, from the reports of :mod:`benchmarks.eight_bits`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.eight_bits import CHOICES, SHIPPED
from bitgear.tasks.metrics import SHOWN

Row = dict[str, Any]


def said(choice: str) -> str:
    """Return the parts that a choice keeps at 8 bits, in words; the one that ships is marked."""
    parts = {"stem": "stem", "shortcut": "shortcuts", "lateral": "laterals", "head": "head", "predict": "prediction"}
    kept = ", ".join(name for part, name in parts.items() if part in CHOICES[choice]) or "nothing"
    return f"**{kept}** (shipped)" if choice == SHIPPED else kept


def accuracy(report: Row) -> str:
    """Return the accuracy of every choice in per cent by width, and of those trained again; means over seeds.

    A table for each network.
    """
    cells: Sequence[Row] = report["cells"]
    lines = []
    for model in dict.fromkeys(cell["model"] for cell in cells):
        own = [cell for cell in cells if cell["model"] == model]
        what = f"{SHOWN[own[0]['metric']]} of {model} in %"
        lines += [*_by_width(f"{what}, stays at 8 bits", own, "before"), ""]
        trained = [cell for cell in own if "after" in cell]
        if trained:
            steps = f"after {trained[0]['steps']} further steps at a rate of {trained[0]['lr']:g}"
            lines += [*_by_width(f"{model} {steps}, stays at 8 bits", trained, "after"), ""]
    lines.append("Split `val`; the trained network, with scales and statistics of the change alone.")
    if any("after" in cell for cell in cells):
        lines[-1] += " Further steps: joint training, of the same pictures in the same order."
    if len({cell["seed"] for cell in cells}) > 1:
        lines[-1] += " Several seeds: mean and half the range."
    return "\n".join(lines)


def _by_width(head: str, cells: Sequence[Row], when: str) -> list[str]:
    widths = list(cells[0][when])
    lines = [f"| {head} | {' | '.join(f'{bits} bit' for bits in widths)} |", "|---|" + "---|" * len(widths)]
    for choice in dict.fromkeys(cell["choice"] for cell in cells):
        own = [cell for cell in cells if cell["choice"] == choice]
        values = " | ".join(spread([cell[when][bits] for cell in own]) for bits in widths)
        lines.append(f"| {said(choice)} | {values} |")
    return lines


def spread(values: Sequence[float]) -> str:
    """Return the mean of shares in per cent, with half of their range if there are several."""
    mean = f"{100 * float(np.mean(values)):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {50 * float(np.ptp(values)):.1f}"


def times(report: Row) -> str:
    """Return by how much a call takes longer than with the shipped choice, in per cent: a table for each master."""
    models: dict[str, Row] = report["models"]
    first = next(iter(models.values()))
    lines = []
    for name, row in models.items():
        heads = " | ".join(f"{bits} bit" for bits in row["choices"][SHIPPED]["widths"])
        lines += [
            f"| {name}, stays at 8 bits | of the multiplications | {heads} |",
            "|---|---|" + "---|" * len(row["choices"][SHIPPED]["widths"]),
        ]
        for choice, timed in row["choices"].items():
            cells = [
                f"{each['ms']:.2f} ms" if choice == SHIPPED else _longer(each) for each in timed["widths"].values()
            ]
            lines.append(f"| {said(choice)} | {100 * timed['share']:.1f} % | {' | '.join(cells)} |")
        lines.append("")
    lines.append(
        f"{report['machine']['cpu']}, {first['instruction_set']}, one thread, single pictures, sums over layers; "
        f"medians of {first['repeats']} measurements, in brackets least and most. At 8 bits all choices do the same "
        "work: what differs there is noise."
    )
    return "\n".join(lines)


def _longer(row: Row) -> str:
    middle, low, high = (100 * (row[name] - 1) for name in ("ratio", "least_ratio", "largest_ratio"))
    return f"{middle:+.1f} % ({low:+.1f} to {high:+.1f})"
