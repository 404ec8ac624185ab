"""The tables of plans in the documents, from the reports of ``bitgear search``."""

from collections.abc import Sequence
from typing import Any

SHOWN = {"top1": "top-1", "miou": "mIoU", "map50_95": "mAP50-95"}


def table(reports: Sequence[dict[str, Any]]) -> str:
    """Return time and accuracy of every width and plan, a table for each master."""
    return "\n\n".join(_master(report) for report in reports)


def _master(report: dict[str, Any]) -> str:
    metric = report["metric"]
    rows = [(f"{bits} bit", row) for bits, row in report["uniform"].items()]
    rows += [(f"**{name}**", row) for name, row in report["plans"].items()]
    rows = [row for row in rows if metric in row[1]["test"]]
    slowest = sorted(rows, key=lambda row: -row[1]["latency_ms"])
    lines = [
        f"| {report['model']} | mean width | ms | {SHOWN[metric]} in %, test | undominated |",
        "|---|---|---|---|---|",
    ]
    for name, row in slowest:
        score, ms = row["test"][metric], row["latency_ms"]
        beaten = any(
            other["latency_ms"] <= ms and other["test"][metric] >= score and other is not row for _, other in rows
        )
        mark = "" if beaten else "yes"
        lines.append(f"| {name} | {row['mean_width']:.1f} | {ms:.4g} | {100 * score:.2f} | {mark} |")
    pictures = report["pictures"]
    method = {"ilp": "the programme's candidates", "evolution": "evolution, seeded by the programme"}[report["method"]]
    lines += [
        "",
        f"{report['instruction_set']}, threads {report['threads']}, single pictures. {len(report['trials'])} plans "
        f"tried: {method}; chosen by {pictures['validation']:,} pictures ({pictures['validation_split']}).",
    ]
    return "\n".join(lines)


def costs(report: dict[str, Any]) -> str:
    """Return how well costs rank plans, in a sentence."""
    said = {
        "weights": "the error of the weights (the default)",
        "hessian": "trace times error (HAWQ)",
        "measured": "what the output moves by when one layer alone is lowered",
        "mean_width": "the mean width",
    }
    ranked = sorted(report["rank_correlation"].items(), key=lambda item: -item[1])
    return (
        f"Rank correlation with the accuracy of {report['plans']} random plans of {report['model']}, each with a batch "
        f"norm of its own, on {report['validation']:,} pictures: "
        + ", ".join(f"{said[name]} {value:.2f}" for name, value in ranked)
        + "."
    )


def predictions(report: dict[str, Any]) -> str:
    """Return how far predicted and measured times are apart, in a sentence for each master."""
    lines = []
    for name, row in report["models"].items():
        worst = max(abs(each["ratio"] - 1) for each in row["precisions"].values())
        lines.append(f"{name}: {len(row['precisions'])} widths and plans, at most {100 * worst:.1f} % apart")
    return f"{report['machine']['cpu']}, one thread, whole calls. " + "; ".join(lines) + "."
