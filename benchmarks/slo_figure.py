"""Attainment and effective accuracy by load, and one burst as two policies see it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.cases import BURSTY_CV2, SLO_FACTOR
from benchmarks.slo_tables import LOOK_AHEAD, SLACK_FIT

COLORS = {LOOK_AHEAD: "#3b6ea5", SLACK_FIT: "#c44e2c"}
GREY = "#8a8a8a"
WIDTH_COLORS = {
    "8": "#16324f",
    "7": "#24527a",
    "6": "#3b6ea5",
    "5": "#6b97c4",
    "4": "#e0a030",
    "3": "#dd7230",
    "2": "#b8321f",
}
PLAN_COLOR = "#3f9b6c"
MISS = "#b0b0b0"


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Write a report of :mod:`benchmarks.slo` as a picture."""
    timelines: Mapping[str, Any] = report["timeline"]["policies"]
    figure = Figure(figsize=(11, 4 + 2.6 * len(timelines)), layout="constrained", dpi=120)
    grid = figure.add_gridspec(1 + len(timelines), 2, height_ratios=[1.5] + [1] * len(timelines))
    by_load = [figure.add_subplot(grid[0, column]) for column in range(2)]
    _by_load(by_load[0], report["rows"], "attainment", "answered in time, share of all submitted")
    _by_load(by_load[1], report["rows"], "effective_accuracy", "effective accuracy (a miss is wrong)")
    first: Axes | None = None
    for number, (policy, line) in enumerate(timelines.items(), 1):
        panel = figure.add_subplot(grid[number, :], sharex=first, sharey=first)
        first = first or panel
        _timeline(panel, policy, line, report["timeline"]["slo_ms"])
    if first is not None:
        panel.set_xlabel("seconds from the start of the run")
    figure.savefig(path, metadata={"Software": None})


def _by_load(panel: Axes, rows: Sequence[Mapping[str, Any]], name: str, title: str) -> None:
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if (row["arrivals"], row["cv2"], row["slo_factor"]) == ("gamma", BURSTY_CV2, SLO_FACTOR):
            lines.setdefault(row["policy"], []).append((row["load"], row[name]))
    for policy, points in lines.items():
        loads, values = zip(*sorted(points), strict=True)
        ours = policy in COLORS
        panel.plot(
            loads,
            values,
            marker="o",
            color=COLORS.get(policy, GREY),
            linewidth=2.2 if ours else 1.0,
            markersize=5 if ours else 3,
            zorder=3 if ours else 2,
            label=policy if ours else None,
        )
        if not ours:
            panel.annotate(
                policy.removeprefix("fixed-"), (loads[-1], values[-1]), xytext=(4, 0), textcoords="offset points",
                fontsize=8, color="#555555", va="center",
            )  # fmt: skip
    panel.plot([], [], color=GREY, linewidth=1.0, label="a fixed width, its bits at the end")
    panel.set_xlabel(f"load by the capacity at 8 bits (gamma arrivals, CV² {BURSTY_CV2:g})")
    panel.set_title(title, fontsize=10)
    panel.legend(frameon=False, fontsize=8, loc="best")
    panel.spines[["top", "right"]].set_visible(False)


def _timeline(panel: Axes, policy: str, line: Mapping[str, Any], slo_ms: float) -> None:
    labels = {width: f"{width} bits" for width in WIDTH_COLORS}
    points: dict[str, list[tuple[float, float]]] = {label: [] for label in (*labels.values(), "a plan", "refused")}
    for due_s, latency_ms, served in zip(line["due_s"], line["latency_ms"], line["served"], strict=True):
        label = labels.get(served, "a plan") if served else "refused"
        points[label].append((due_s, latency_ms if served else slo_ms))
    colors = [*WIDTH_COLORS.values(), PLAN_COLOR, MISS]
    for (label, of_label), color in zip(points.items(), colors, strict=True):
        if of_label:
            size, marker = (16, "x") if label == "refused" else (9, "o")
            panel.scatter(*zip(*of_label, strict=True), s=size, marker=marker, color=color, label=label, zorder=3)
    panel.axhline(slo_ms, color="#333333", linestyle="--", linewidth=1)
    panel.set_ylabel("latency, ms")
    panel.set_title(f"{policy}: {100 * line['attained']:.1f} % of these in time", fontsize=10, loc="left")
    queue = panel.twinx()
    queue.fill_between(line["at_s"], line["outstanding"], step="post", color="#000000", alpha=0.12, linewidth=0)
    queue.set_ylabel("waiting or running", color="#777777")
    queue.set_ylim(0, 2.2 * max([*line["outstanding"], 1]))
    panel.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(points), borderpad=0)
    panel.set_zorder(queue.get_zorder() + 1)
    panel.patch.set_visible(False)
    panel.spines["top"].set_visible(False)
