"""What a report of :mod:`benchmarks.serving` says, as Markdown for the documents."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

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
    if peers and not _best_engine(report):
        tried += (
            "They had ONNX Runtime alone, which is far slower than OpenVINO where there is AMX, and were bound by it: "
            "what is told is how far such set-ups are behind, not these servers. "
        )
    return (
        f"{report['machine']['cpu']}; ResNet-18 with random weights, {report['pictures']} as JPEG; {report['callers']} "
        f"callers, medians of {report['rounds']} rounds. {tried}"
        f"The client took {100 * report['client_cpu_share']:.1f} % of one core."
    )


def _best_engine(report: Mapping[str, Any]) -> bool:
    """Return whether the others could choose their engine, which older reports do not tell of: no bar is held then."""
    return all("engine" in peer["layout"] for peer in report["peers"].values())


def table(report: Mapping[str, Any]) -> str:
    """Return throughput, ratios by round and latency of all servers."""
    rows, judged = report["rows"], _best_engine(report)
    engine = {row["precision"]: row for row in rows if row["server"] == ENGINE}
    peers = [row for row in rows if row["server"] not in (OURS, ENGINE)]
    fastest = max(peers, key=lambda row: float(row["per_s"]), default=None)
    # Percentiles are of answers: who left requests unanswered may have the better ones, and is no bar to others.
    best_tail_ms = min((row["p99_ms"] for row in peers if not row.get("unanswered")), default=math.inf)
    lines = [
        "| | precision | pictures a second (10-90 %) | of the engine alone (10-90 %) | of the faster other server "
        f"(10-90 %) | p50 / p95 / p99 ms at {report['offered_per_s']:.0f} a second |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=_order):
        if row["server"] == ENGINE:
            continue
        own = row["server"] == OURS
        alone = engine.get(row["precision"]) if own else None
        unanswered = row.get("unanswered", 0)
        late = judged and own and (unanswered > 0 or row["p99_ms"] >= best_tail_ms)
        cells = [
            row["server"],
            row["precision"],
            f"{'**' * own}{row['per_s']:.1f}{'**' * own} ({row['per_s_p10']:.1f}-{row['per_s_p90']:.1f})",
            _ratio(row, alone, ENGINE_BAR),
            _ratio(row, fastest if own else None, PEER_BARS.get(row["precision"]) if judged else None),
            f"{row['p50_ms']:.1f} / {row['p95_ms']:.1f} / {row['p99_ms']:.1f}"
            f"{f', {unanswered} unanswered' if unanswered else ''}{' MISSES' if late else ''}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    ours = {row["precision"]: row for row in rows if row["server"] == OURS}
    widths = sorted(engine, reverse=True)
    alone_per_s = ", ".join(f"{engine[bits]['per_s']:.1f} at {bits} bits" for bits in widths)
    beside = ", ".join(f"{_beside(ours[bits], engine[bits])} at {bits} bits" for bits in widths)
    room = ", ".join(f"{(1 / ENGINE_BAR - 1) * 1000 / engine[bits]['per_s']:.2f}" for bits in widths)
    return "\n".join(
        [
            *lines,
            "",
            f"The engine alone: {alone_per_s} (pictures a second, a call on each core). Beside that a picture costs, "
            f"in ms of all cores, for HTTP, JPEG, JSON and the client: {beside}. What is below 0 is what the machine "
            f"varies by. {ENGINE_BAR:g} of the engine alone leaves {room} ms. Ratios and differences are medians over "
            "the rounds.",
        ]
    )


def _beside(row: Row, alone: Row) -> str:
    """Return how many milliseconds of all cores a picture takes in the server beside the engine's."""
    differences_ms = 1000 / np.array(row["per_s_by_round"]) - 1000 / np.array(alone["per_s_by_round"])
    p10, median, p90 = np.percentile(differences_ms, [10, 50, 90])
    return f"{median:.2f} ({p10:.2f} to {p90:.2f})"


def _order(row: Row) -> tuple[bool, str, str]:
    return (
        row["server"] != OURS,
        row["server"],
        "" if not row["precision"].isdigit() else str(9 - int(row["precision"])),
    )


def _ratio(row: Row, other: Row | None, bar: float | None) -> str:
    if other is None:
        return ""
    p10, median, p90 = np.percentile(np.divide(row["per_s_by_round"], other["per_s_by_round"]), [10, 50, 90])
    text = f"{median:.2f} ({p10:.2f}-{p90:.2f})"
    return text if bar is None else f"{text} {'>=' if median >= bar else 'MISSES'} {bar:g}"
