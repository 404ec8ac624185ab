"""The tables of parts that stay at 8 bits, from the reports of :mod:`benchmarks.eight_bits`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.eight_bits import CHOICES, SHIPPED
from benchmarks.plan_tables import SHOWN

Row = dict[str, Any]


def said(choice: str) -> str:
    """Return the parts that a choice keeps at 8 bits, in words; the one that ships is marked."""
    parts = {"stem": "stem", "shortcut": "shortcuts", "lateral": "laterals", "head": "head", "predict": "prediction"}
    kept = ", ".join(name for part, name in parts.items() if part in CHOICES[choice]) or "nothing"
    return f"**{kept}** (shipped)" if choice == SHIPPED else kept


def accuracy(report: Row) -> str:
    """Return what every choice is trained to by width, in per cent, and its last epoch's loss; means over seeds."""
    cells: Sequence[Row] = report["cells"]
    first = cells[0]
    widths = list(first["accuracy"])
    heads = " | ".join(f"{bits} bit" for bits in widths)
    lines = [
        f"| {SHOWN[first['metric']]} of {first['model']} in %, stays at 8 bits | {heads} | loss at 4, 2 bit | seeds |",
        "|---|" + "---|" * (len(widths) + 2),
    ]
    for choice in dict.fromkeys(cell["choice"] for cell in cells):
        own = [cell for cell in cells if cell["choice"] == choice]
        values = " | ".join(spread([cell["accuracy"][bits] for cell in own]) for bits in widths)
        losses = ", ".join(f"{np.mean([cell['loss'][bits] for cell in own]):.3f}" for bits in ("4", "2"))
        lines.append(f"| {said(choice)} | {values} | {losses} | {len(own)} |")
    seeds = len({cell["seed"] for cell in cells})
    alike = "the same pictures in the same order" if seeds == 1 else f"up to {seeds} seeds, mean and half the range"
    lines += [
        "",
        f"Split `val`, after {first['epochs']} joint epochs, {first['steps']} steps, from one FP32 network "
        f"({100 * first['fp32']:.1f} %); {alike}.",
    ]
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """Return the mean of shares in per cent, and half of their range if there are several."""
    mean = f"{100 * float(np.mean(values)):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {50 * float(np.ptp(values)):.1f}"


def times(report: Row) -> str:
    """Return by how much a call takes longer than with the shipped choice, in per cent, for every master and width."""
    models: dict[str, Row] = report["models"]
    first = next(iter(models.values()))
    heads = [f"{name}, {bits} bit" for name, row in models.items() for bits in row["choices"][SHIPPED]["widths"]]
    lines = [f"| stays at 8 bits | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    for choice in first["choices"]:
        timed = [each for row in models.values() for each in row["choices"][choice]["widths"].values()]
        cells = [f"{each['ms']:.2f} ms" if choice == SHIPPED else _longer(each) for each in timed]
        lines.append(f"| {said(choice)} | {' | '.join(cells)} |")
    shares = ", ".join(f"{100 * row['choices'][SHIPPED]['share']:.1f} % in {name}" for name, row in models.items())
    lines += [
        "",
        f"{report['machine']['cpu']}, {first['instruction_set']}, one thread, single pictures, sums over layers; "
        f"medians of {first['repeats']} measurements, in brackets least and most. At 8 bits all choices do the same "
        f"work: what differs there is noise. The parts that ship at 8 bits are {shares} of the multiplications.",
    ]
    return "\n".join(lines)


def _longer(row: Row) -> str:
    middle, low, high = (100 * (row[name] - 1) for name in ("ratio", "least_ratio", "largest_ratio"))
    return f"{middle:+.1f} % ({low:+.1f} to {high:+.1f})"
