"""What a report of :mod:`benchmarks.serving` says, as Markdown for the documents."""

from collections.abc import Mapping
from typing import Any

OURS, ENGINE = "bitgear", "engine alone"
ENGINE_BAR = 0.9
PEER_BARS = {"8": 1.0, "4": 1.4, "2": 2.0}
"""By width: how many times the throughput of the faster other server is asked for."""

Row = Mapping[str, Any]


def conditions(report: Mapping[str, Any]) -> str:
    """Return what was measured on, and how the others were set up."""
    peers = "; ".join(
        f"{name} {peer['version']}: {', '.join(f'{setting} {value}' for setting, value in peer['layout'].items())}"
        for name, peer in report["peers"].items()
    )
    tried = f"Best of the set-ups tried: {peers}. " if peers else ""
    return (
        f"{report['machine']['cpu']}; ResNet-18 with random weights, {report['pictures']} as JPEG; {report['callers']} "
        f"callers, medians of {report['rounds']} rounds. {tried}"
        f"The client took {100 * report['client_cpu_share']:.1f} % of one core."
    )


def table(report: Mapping[str, Any]) -> str:
    """Return throughput, ratios and latency of all servers."""
    rows = report["rows"]
    engine = {row["precision"]: row["per_s"] for row in rows if row["server"] == ENGINE}
    peers = [row for row in rows if row["server"] not in (OURS, ENGINE)]
    fastest = max((row["per_s"] for row in peers), default=None)
    slowest_tail_ms = min((row["p99_ms"] for row in peers), default=None)
    lines = [
        "| | precision | pictures a second (10-90 %) | of the engine alone | of the faster other server | "
        f"p50 / p95 / p99 ms at {report['offered_per_s']:.0f} a second |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=_order):
        if row["server"] == ENGINE:
            continue
        own = row["server"] == OURS
        own_engine_per_s = engine.get(row["precision"]) if own else None
        cells = [
            row["server"],
            row["precision"],
            f"{'**' * own}{row['per_s']:.1f}{'**' * own} ({row['per_s_p10']:.1f}-{row['per_s_p90']:.1f})",
            "" if own_engine_per_s is None else _ratio(row["per_s"] / own_engine_per_s, ENGINE_BAR),
            _ratio(row["per_s"] / fastest, PEER_BARS.get(row["precision"])) if own and fastest else "",
            f"{row['p50_ms']:.1f} / {row['p95_ms']:.1f} / {row['p99_ms']:.1f}"
            + (" MISSES" if own and slowest_tail_ms is not None and row["p99_ms"] >= slowest_tail_ms else ""),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    widths = sorted(engine, reverse=True)
    own_per_s = {row["precision"]: row["per_s"] for row in rows if row["server"] == OURS}
    alone = ", ".join(f"{engine[bits]:.1f} at {bits} bits" for bits in widths)
    # On all cores together, so that it adds up with the engine's share of a picture's time.
    beside = ", ".join(
        f"{max(0.0, 1000 / own_per_s[bits] - 1000 / engine[bits]):.2f} ms at {bits} bits" for bits in widths
    )
    room = ", ".join(f"{(1 / ENGINE_BAR - 1) * 1000 / engine[bits]:.2f}" for bits in widths)
    return "\n".join(
        [
            *lines,
            "",
            f"The engine alone: {alone} (pictures a second, a call on each core). Beside that a picture costs {beside} "
            f"of all cores, for HTTP, JPEG, JSON and the client; {ENGINE_BAR:g} of the engine alone leaves {room} ms.",
        ]
    )


def _order(row: Row) -> tuple[bool, str, str]:
    return (
        row["server"] != OURS,
        row["server"],
        "" if not row["precision"].isdigit() else str(9 - int(row["precision"])),
    )


def _ratio(value: float, bar: float | None) -> str:
    if bar is None:
        return f"{value:.2f}"
    return f"{value:.2f} {'>=' if value >= bar else 'MISSES'} {bar:g}"
