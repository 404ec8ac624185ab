"""The tables of plans in the documents, from the masters and the reports of ``bitgear search`` and ``bitgear tune``."""

from collections.abc import Mapping, Sequence
from typing import Any

from bitgear.checkpoint import Master
from bitgear.plans import mean_bits
from bitgear.tasks.metrics import SHOWN


def table(masters: Sequence[Master], times: Sequence[Mapping[str, float]], searches: Sequence[dict[str, Any]]) -> str:
    """Return time and accuracy of every width and plan, a table for each master, and how its plans were sought.

    ``times``: milliseconds by precision. ``searches``: the reports of ``bitgear search``.
    """
    return "\n\n".join(_master(*each) for each in zip(masters, times, searches, strict=True))


def _master(master: Master, times_ms: Mapping[str, float], search: dict[str, Any]) -> str:
    metric = search["metric"]
    rows = [
        (
            f"{name} bit" if name.isdecimal() else f"**{name}**",
            mean_bits(master.graph, plan),
            times_ms[name],
            master.metrics(name)[metric],
        )
        for name, plan in master.precisions.items()
    ]
    lines = [
        f"| {master.name} | mean width | ms | {SHOWN[metric]} in %, test | undominated |",
        "|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: -row[2]):
        name, width, ms, score = row
        beaten = any(other[2] <= ms and other[3] >= score and other is not row for other in rows)
        lines.append(f"| {name} | {width:.1f} | {ms:.4g} | {100 * score:.2f} | {'' if beaten else 'yes'} |")
    pictures, tuned = search["pictures"], master.provenance.get("tuned", {})
    method = {"ilp": "the programme's candidates", "evolution": "evolution, seeded by the programme"}[search["method"]]
    lines += [
        "",
        f"{search['instruction_set']}, one thread, single pictures. {len(search['trials'])} plans tried: {method}; "
        f"chosen by {_chosen_by(pictures['validation'], pictures['validation_split'])}. "
        + (f"Tuned: {', '.join(sorted(tuned))}." if tuned else "None tuned."),
    ]
    return "\n".join(lines)


def _chosen_by(count: int, split: str) -> str:
    """Return the pictures that plans are chosen by; of those for training it is told that the network knows them."""
    if split.startswith("train"):
        return f"{count:,} pictures that the network was trained on, batch norm of the plans not"
    return f"{count:,} pictures ({split})"


def tuned(report: dict[str, Any]) -> str:
    """Return what tuning gave plans, from the report of ``bitgear tune`` on a classifier."""
    lines = [
        "| | held out, altered: distance before | kept epoch | top-1 in % before | kept epoch | test: before | after |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in report.items():
        start, *epochs = row["epochs"]
        kept = min(row["epochs"], key=lambda epoch: epoch["distance"])
        shares = [start["top1"], kept["top1"], row["before"]["top1"], row["after"]["top1"]]
        cells = [
            f"{start['distance']:.3f}",
            f"{kept['distance']:.3f} ({kept['epoch']} of {len(epochs)})",
            *(f"{100 * share:.2f}" for share in shares),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def costs(report: dict[str, Any]) -> str:
    """Return how well costs rank plans, in a sentence. Older reports are of a classifier, and do not name the split."""
    said = {
        "weights": "the error of the weights (the default)",
        "hessian": "trace times error (HAWQ)",
        "measured": "what the output moves by when one layer alone is lowered",
        "mean_width": "the mean width",
    }
    ranked = sorted(report["rank_correlation"].items(), key=lambda item: -item[1])
    return (
        f"Rank correlation with the accuracy of {report['plans']} random plans of {report['model']}, each with a batch "
        f"norm of its own, on {_chosen_by(report['validation'], report.get('split', 'train'))}: "
        + ", ".join(f"{said[name]} {value:.2f}" for name, value in ranked)
        + "."
    )


def methods(report: dict[str, Any]) -> str:
    """Return what the programme and evolution find in as many trials, by cost and mean width."""
    rows: dict[tuple[float, str], dict[str, list[dict[str, Any]]]] = {}
    for row in report["rows"]:
        rows.setdefault((row["mean_width"], row["cost"]), {}).setdefault(row["method"], []).append(row)

    def shown(found: Sequence[Mapping[str, Any]]) -> str:
        return "; ".join(f"{each['divergence']:.4f}, {100 * each['top1']:.2f}" for each in found)

    uniform = report["uniform"]
    lines = ["| mean width | cost | programme | evolution | the width everywhere |", "|---|---|---|---|---|"]
    for (width, cost), by_method in rows.items():
        plain = uniform[f"{width:g}"]
        lines.append(
            f"| {width:g} | {cost} | {shown(by_method['programme'])} | {shown(by_method['evolution'])} "
            f"| {plain['told']:.4f}, {100 * plain['top1']:.2f} |"
        )
    seeds = len({row["seed"] for row in report["rows"]} - {None})
    most, least = report["trials"], min(row["trials"] for row in report["rows"])
    trials = f"{most} trials" if least == most else f"{least} to {most} trials"
    lines += [
        "",
        f"{report['model']}: divergence from 8 bits in nats, and top-1 in %, on {report['pictures'] // 2:,} altered "
        f"training pictures, of the best of {trials} by as many others; evolution with {seeds} seeds. "
        f"At 8 bits top-1 is {100 * uniform['8']['top1']:.2f}.",
    ]
    return "\n".join(lines)


def predictions(report: dict[str, Any]) -> str:
    """Return how far predicted and measured times are apart, in a sentence for each master."""
    lines = []
    for name, row in report["models"].items():
        worst = max(abs(each["ratio"] - 1) for each in row["precisions"].values())
        lines.append(f"{name}: {len(row['precisions'])} widths and plans, at most {100 * worst:.1f} % apart")
    return f"{report['machine']['cpu']}, one thread, whole calls. " + "; ".join(lines) + "."
