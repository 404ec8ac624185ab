"""What a report of :mod:`benchmarks.slo` says, as Markdown for the documents, and which bars it meets."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.cases import ADAPTIVE, BAR_LOADS, BURSTY_CV2, SLO_FACTOR
from benchmarks.student import clear_of_zero

LOOK_AHEAD, SLACK_FIT = ADAPTIVE
ATTAINMENT_BARS = dict(zip(BAR_LOADS, (0.999, 0.99), strict=True))

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Bar:
    """Something to be reached: what it is, what was measured, what was asked, and what became of it."""

    name: str
    measured: str
    asked: str
    verdict: str


def bursts(rows: Iterable[Row], load: float, slo_factor: float = SLO_FACTOR) -> list[Row]:
    """Return the rows of the bursts that there are bars for, at one load."""
    return [
        row
        for row in rows
        if (row["arrivals"], row["cv2"], row["load"], row["slo_factor"]) == ("gamma", BURSTY_CV2, load, slo_factor)
    ]


def bars(report: Mapping[str, Any]) -> list[Bar]:
    """Return the bars that a report tells something about."""
    found: list[Bar] = []
    for load, asked in ATTAINMENT_BARS.items():
        for row in bursts(report["rows"], load):
            if row["policy"] == LOOK_AHEAD:
                name = f"attainment of look-ahead, CV² {BURSTY_CV2:g}, load {_load(report, row)}"
                verdict = "met" if row["attainment"] >= asked else "MISSED"
                found.append(Bar(name, f"{row['attainment']:.4f}", f"at least {asked}", verdict))
    for load in BAR_LOADS:
        by_policy = {row["policy"]: row for row in bursts(report["rows"], load)}
        if LOOK_AHEAD in by_policy and len(by_policy) > 1:
            ours, rivals = by_policy.pop(LOOK_AHEAD), [*by_policy.values()]
            hardest = min(rivals, key=lambda row: lead(ours, row))
            difference, error = paired(ours, hardest)
            found.append(
                Bar(
                    f"effective accuracy of look-ahead, CV² {BURSTY_CV2:g}, load {_load(report, ours)}",
                    f"{ours['effective_accuracy']:.4f}",
                    f"above each of the others; hardest: {hardest['effective_accuracy']:.4f} ({hardest['policy']}), by "
                    f"seed {difference:+.4f} ± {error:.4f}",
                    against(ours, rivals),
                )
            )
    return found


def paired(row: Row, other: Row) -> tuple[float, float]:
    """Return by how much a row's effective accuracy is above another's, by seed: the mean, and its standard error.

    Both had the same arrivals in each seed. The error of a single seed is NaN.
    """
    differences = np.subtract(_effective_by_seed(row), _effective_by_seed(other))
    count = len(differences)
    error = float(np.std(differences, ddof=1) / np.sqrt(count)) if count > 1 else float("nan")
    return float(differences.mean()), error


def lead(row: Row, other: Row) -> float:
    """Return a row's lead over another in standard errors; of a single seed, which has none, the difference."""
    difference, error = paired(row, other)
    if math.isnan(error):
        return difference
    return difference / error if error else math.copysign(math.inf, difference) if difference else 0.0


def against(ours: Row, rivals: Sequence[Row]) -> str:
    """Return what is shown: that ours is ahead of every rival, that one of them is ahead, or neither.

    The rival that is ahead is picked afterwards from all, so it has to be further ahead than one that was named before.
    """
    count = len(_effective_by_seed(ours))
    least = min(lead(ours, rival) for rival in rivals)
    if count > 1 and least > clear_of_zero(count):
        return "met"
    return "MISSED" if count > 1 and least < -clear_of_zero(count, len(rivals)) else "not told apart"


def _effective_by_seed(row: Row) -> list[float]:
    # Older reports have the accuracy that was served over all seeds alone.
    found: list[float] | None = row.get("effective_by_seed")
    return found or [attained * (row["served_accuracy"] or 0.0) for attained in row["attainment_by_seed"]]


def _load(report: Mapping[str, Any], row: Row) -> str:
    """Return the load that a row is called by, and the one that was offered."""
    return f"{row['load']:g} ({row['offered_per_s'] / report['capacity_per_s']:.2f} offered)"


def conditions(report: Mapping[str, Any]) -> str:
    """Return what was measured on, and against which objective."""
    lag_ms = max(row["client_lag_p99_ms"] for row in report["rows"])
    share = max(row["client_cpu_share"] for row in report["rows"])
    late = ", too late for some rows: it was slow, or found no connection free" * any(
        row["client_too_busy"] for row in report["rows"]
    )
    different = sum(row["different_answers"] for row in report["rows"])
    settings = ", ".join(report["settings"]) or "as they come"
    kernel = f"kernels {report['kernel']}; " if "kernel" in report else ""
    short = f"Runs of {report['seconds']:g} s only. " if report.get("extent") == "short" else ""
    answers = f"{different} answers differed from earlier ones about the same picture at the same precision!"
    if not different:
        answers = "Equal pictures at equal precisions got equal answers throughout."
    return (
        f"{short}{report['machine']['cpu']}; {kernel}{report['model']} (weights: {report['weights']}), "
        f"{report['pictures']}. "
        "At rest, at 8 bits: "
        f"{report['round_trip_ms']:.1f} ms over HTTP, {report['engine_ms']:.1f} ms of it in the engine; "
        f"{report['capacity_per_s']:.0f} requests a second at 8 bits{_tries(report)}, which is load 1, and "
        f"{report['capacity_narrowest_per_s']:.0f} at the narrowest width. Settings: {settings}. The objective is "
        f"{SLO_FACTOR:g} times that latency over HTTP unless another multiple is named. The client took at most "
        f"{100 * share:.1f} % of one core and sent at most {lag_ms:.1f} ms late (99th percentile)"
        f"{late}. "
        f"{answers}"
    )


def _tries(report: Mapping[str, Any]) -> str:
    """Return what each measurement of the capacity gave: whether the machine was as fast throughout."""
    tries = {"before": report.get("capacities_per_s", []), "after": report.get("capacities_after_per_s", [])}
    told = [f"{', '.join(f'{rate:.0f}' for rate in rates)} {when}" for when, rates in tries.items() if rates]
    return f" (measured: {'; '.join(told)} the runs)" if told else ""


def bar_table(report: Mapping[str, Any]) -> str:
    """Return the bars as Markdown, and what the machine allows at most."""
    lines = ["| | measured | bar | |", "|---|---|---|---|"]
    lines += [f"| {bar.name} | {bar.measured} | {bar.asked} | {bar.verdict} |" for bar in bars(report)]
    ceilings = ", ".join(
        f"{bursts(report['rows'], load)[0]['ceiling']:.3f} at load {load:g}"
        for load in BAR_LOADS
        if bursts(report["rows"], load)
    )
    return "\n".join(
        [
            *lines,
            "",
            "± is the standard error of the difference over seeds, whose arrivals all policies had"
            f"{_of_attainment(report)}. By t-tests at 95 % over these, met is what is ahead of every other, missed "
            "what any is ahead of, that one being picked afterwards from all (Bonferroni); else they are not told "
            "apart. A single server as fast as this machine is at the narrowest width under full load, that never "
            f"begins what would be late, would attain {ceilings}.",
        ]
    )


def _of_attainment(report: Mapping[str, Any]) -> str:
    """Return what is left out of errors of a report without effective accuracy by seed; empty of any other."""
    lacking = any("effective_by_seed" not in row for load in BAR_LOADS for row in bursts(report["rows"], load))
    return ", and that of attainment alone: the accuracy of what was served is over all seeds" * lacking


def burst_table(report: Mapping[str, Any]) -> str:
    """Return the bursts that there are bars for, everything that was measured of them."""
    rows = [row for load in BAR_LOADS for row in bursts(report["rows"], load)]
    lines = [
        f"| CV² {BURSTY_CV2:g} | load | attained (of each seed) | served accuracy | effective accuracy | right pixels, "
        "a miss is wrong | mean IoU served | p50 / p95 / p99 ms of answers | in time a second | decision, mean / p99 "
        "at most | answers by width |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        seeds = " ".join(f"{value:.3f}" for value in row["attainment_by_seed"])
        times = " / ".join(_number(row[name], ".0f") for name in ("p50_ms", "p95_ms", "p99_ms"))
        decision = f"{_number(row['decision_mean_us'], '.0f')} / {_number(row['decision_p99_us'], '.0f')} µs"
        lines.append(
            f"| {_policy(row)} | {_load(report, row)} | **{row['attainment']:.4f}** ({seeds}) | "
            f"{_number(row['served_accuracy'], '.4f')} | **{row['effective_accuracy']:.4f}** | "
            f"{_number(row['effective_right'], '.4f')} | {_number(row['served_miou'], '.4f')} | {times} | "
            f"{row['goodput_per_s']:.1f} | {decision} | {_share(row)} |"
        )
    return "\n".join(lines)


def matrix_table(report: Mapping[str, Any]) -> str:
    """Return all scenes by policy: attainment and effective accuracy, and which is best how often."""
    policies = list(dict.fromkeys(row["policy"] for row in report["rows"]))
    lines = [
        "| attained / effective accuracy | load | " + " | ".join(policies) + " |",
        "|---|---|" + "---|" * len(policies),
    ]
    scenes: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in report["rows"]:
        key = (row["slo_factor"], row["arrivals"], row["cv2"], row["load"])
        scenes.setdefault(key, {})[row["policy"]] = row
    leads = Counter[str]()
    for (factor, arrivals, cv2, _), by_policy in scenes.items():
        name = f"{arrivals}{'' if cv2 is None else f' CV² {cv2:g}'}{'' if factor == SLO_FACTOR else f', {factor:g} x'}"
        best = max(float(row["effective_accuracy"]) for row in by_policy.values())
        leads.update(policy for policy, row in by_policy.items() if row["effective_accuracy"] == best)
        cells = [_cell(by_policy[policy], best) if policy in by_policy else "" for policy in policies]
        lines.append(f"| {name} | {_load(report, next(iter(by_policy.values())))} | " + " | ".join(cells) + " |")
    told = ", ".join(f"{policy} in {leads[policy]}" for policy in policies if leads[policy])
    return "\n".join([*lines, "", f"The best effective accuracy has, of {len(scenes)} scenes, {told}."])


def simulated_table(report: Mapping[str, Any], simulated: Mapping[str, Any]) -> str:
    """Return the bursts that there are bars for, as measured and as :mod:`benchmarks.simulate` has them."""
    lines = [
        f"| CV² {BURSTY_CV2:g} | load when measured | attained: measured | simulated | effective accuracy: measured "
        "| simulated |",
        "|---|---|---|---|---|---|",
    ]
    for load in BAR_LOADS:
        expected = {row["policy"]: row for row in bursts(simulated["rows"], load)}
        for row in bursts(report["rows"], load):
            cells = [
                f"{one[name]:.3f}"
                for name in ("attainment", "effective_accuracy")
                for one in (row, expected[row["policy"]])
            ]
            lines.append(f"| {_policy(row)} | {_load(report, row)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(row: Row, best: float) -> str:
    effective = f"{row['effective_accuracy']:.3f}"
    return f"{row['attainment']:.3f} / {f'**{effective}**' if row['effective_accuracy'] == best else effective}"


def _policy(row: Row) -> str:
    return f"**{row['policy']}**" if row["policy"] == LOOK_AHEAD else str(row["policy"])


def _share(row: Row) -> str:
    parts = sorted(row["share"].items(), key=lambda item: -item[1])
    return ", ".join(f"{name}: {100 * part:.0f} %" for name, part in parts if part >= 0.005)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
