"""Bars of milliseconds per width, one panel for each network, with the best peers as lines."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.contest import FP32, INT8, NATIVE
from benchmarks.engine_tables import Row, best, first_contests, peer_name, same_setting

OURS, LINES = "#3b6ea5", {FP32: "#8a8a8a", INT8: "#c44e2c"}


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Write the first contest of each network of a report of :mod:`benchmarks.engine` as a picture."""
    contests = first_contests(report)
    figure = Figure(figsize=(4.2 * len(contests), 3.6), layout="constrained", dpi=120)
    panels = figure.subplots(1, len(contests), squeeze=False)[0]
    for panel, rows in zip(panels, contests, strict=True):
        _panel(panel, rows, report["ratios"])
    panels[0].set_ylabel("milliseconds (median, 10-90 %)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})


def _panel(panel: Axes, rows: list[Row], ratios: list[Row]) -> None:
    first = rows[0]
    ours = [row for row in rows if row["engine"] == NATIVE]
    medians = [row["median_ms"] for row in ours]
    spread = [
        [max(0.0, row["median_ms"] - row["p10_ms"]) for row in ours],
        [max(0.0, row["p90_ms"] - row["median_ms"]) for row in ours],
    ]
    top = max(medians)
    positions = range(len(ours))
    panel.bar(positions, medians, yerr=spread, color=OURS, capsize=3, ecolor="#1d3550")
    for precision, color in LINES.items():
        peer = best(rows, precision)
        if peer is not None:
            label = f"{peer_name(peer)} {precision}: {peer['median_ms']:.3g}"
            panel.axhline(peer["median_ms"], color=color, linestyle="--", linewidth=1.5, label=label)
            top = max(top, peer["median_ms"])
    against = {
        entry["precision"]: entry["ratio"]
        for entry in ratios
        if entry["against"] == INT8 and same_setting(entry, first)
    }
    texts = [f"{r['precision']}\n{r['median_ms']:.3g} ms{_times(against.get(r['precision']))}" for r in ours]
    panel.set_xticks(positions, texts, fontsize=8)
    panel.set_ylim(0, 1.3 * top)
    if panel.get_legend_handles_labels()[1]:
        panel.legend(frameon=False, fontsize=8, loc="upper right")
    panel.set_xlabel("bits, median, time of the best int8 peer / ours")
    panel.set_title(
        f"{first['network']} ({first['weights']} weights)\nbatch {first['batch']}, {first['threads']} threads",
        fontsize=10,
    )
    panel.spines[["top", "right"]].set_visible(False)


def _times(ratio: float | None) -> str:
    """Return how many times as long the best int8 peer takes, as another line."""
    return "" if ratio is None else f"\n{ratio:.2f}x"
