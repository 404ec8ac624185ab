"""What a report of :mod:`benchmarks.engine` says, as text for the terminal and as Markdown for the documents."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.contest import CALLS_MAX, FP32, INT8, NATIVE
from bitgear.tasks.metrics import SHOWN

PEERS = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "pytorch": "PyTorch"}

BUSY = 0.25
"""Load average for each core before a measurement, above which the machine counts as busy."""

Row = dict[str, Any]


def table(rows: Sequence[Row], ratios: Sequence[Row], ladder: Row) -> str:
    """Return a contest as text."""
    first = rows[0]
    lines = [
        "",
        f"{first['network']} ({first['weights']} weights), batch {first['batch']}, {first['threads']} threads",
        f"{'engine':<17}{'precision':<10}{'median ms':>10}{'p10':>9}{'p90':>9}   ratio to best int8 (10-90 %)   "
        "best fp32   accuracy",
    ]
    for entry in rows:
        native = entry["engine"] == NATIVE
        cells = [f"{entry['engine']:<17}{entry['precision']:<10}{entry['median_ms']:10.3f}"]
        cells.append(f"{entry['p10_ms']:9.3f}{entry['p90_ms']:9.3f}")
        if native:
            of_row = {r["against"]: r for r in ratios if r["precision"] == entry["precision"]}
            cells.append(f"   {_ratio_text(of_row.get(INT8)):<31}{_ratio_text(of_row.get(FP32), short=True):<12}")
            cells += [f"{entry[name]:.2%} {said}" for name, said in SHOWN.items() if name in entry]
        else:
            cells.append(f"   {entry['settings']}")
        lines.append("".join(cells).rstrip())
    if ladder["steps"]:
        steps = ", ".join(f"{s['from']}>{s['to']} {s['ratio']:.2f}" for s in ladder["steps"])
        lines.append(f"ladder: {'falls' if ladder['falls'] else 'DOES NOT FALL'} ({steps})")
    return "\n".join(lines)


def _ratio_text(entry: Row | None, short: bool = False) -> str:
    if entry is None:
        return ""
    text = f"{entry['ratio']:.2f}" if short else f"{entry['ratio']:.2f} ({entry['p10']:.2f}-{entry['p90']:.2f})"
    if entry["target"] is not None:
        text += f" {'>=' if entry['met'] else 'MISSES'} {entry['target']:.2f}"
    return text


def layer_table(layers: Sequence[Row]) -> str:
    """Return the rates of all layers as text: GMAC/s and the path taken by precision."""
    first = layers[0]
    precisions = list(dict.fromkeys(entry["precision"] for entry in layers))
    lines = [
        "",
        f"{first['network']}, single pictures, {first['threads']} threads: ms, GMAC/s and path of every layer",
        f"{'layer':<26}{'MMAC':>7}" + "".join(f"   {precision:<31}" for precision in precisions),
    ]
    by_layer: dict[tuple[str, int], dict[str, Row]] = {}
    seen: dict[tuple[str, str], int] = {}
    for entry in layers:  # a node may be several steps; they are told apart by their order
        part = seen[entry["precision"], entry["layer"]] = seen.get((entry["precision"], entry["layer"]), -1) + 1
        by_layer.setdefault((entry["layer"], part), {})[entry["precision"]] = entry
    for (name, _), of_layer in by_layer.items():
        macs = next(iter(of_layer.values()))["macs"]
        cells = [f"{name:<26}{macs / 1e6:7.1f}"]
        for precision in precisions:
            entry = of_layer.get(precision)
            text = "" if entry is None else f"{entry['ms']:7.3f} {entry['gmac_per_s']:6.0f} {entry['path']}"
            cells.append(f"   {text:<31}")
        lines.append("".join(cells).rstrip())
    totals = [sum(entry["ms"] for entry in layers if entry["precision"] == precision) for precision in precisions]
    lines.append((f"{'all':<33}" + "".join(f"   {f'{total:7.3f}':<31}" for total in totals)).rstrip())
    return "\n".join(lines)


def ready_table(ready: Row) -> str:
    """Return what a width takes to be ready as text."""
    aim = ready["derivation_target_ms"]
    lines = ["", f"{ready['network']}: a width is ready (one core{'' if aim is None else f', aim {aim:g} ms'})"]
    lines += [
        f"  {entry['precision']:<6} derived in {entry['median_ms']:8.3f} ms ({entry['p10_ms']:.3f}-"
        f"{entry['p90_ms']:.3f}), {entry['resident_bytes']:>11,} bytes resident"
        for entry in ready["derivation"]
    ]
    switch = ready["switch"]
    total = ready["master_bytes"] + sum(entry["resident_bytes"] for entry in ready["derivation"])
    lines.append(f"  switch between resident widths: {switch['median_us']:.1f} us (aim {switch['target_us']:g} us)")
    lines.append(f"  master {ready['master_bytes']:,} bytes; master and all widths above {total:,} bytes")
    return "\n".join(lines)


def first_contests(report: Mapping[str, Any]) -> list[list[Row]]:
    """Return the rows of the first batch and thread count of each network, as the report has them."""
    contests: dict[str, list[Row]] = {}
    for entry in report["rows"]:
        rows = contests.setdefault(entry["network"], [])
        if not rows or same_setting(entry, rows[0]):
            rows.append(entry)
    return list(contests.values())


def same_setting(a: Row, b: Row) -> bool:
    """Return whether two rows are of one contest."""
    return all(a[key] == b[key] for key in ("network", "batch", "threads"))


def best(rows: Sequence[Row], precision: str) -> Row | None:
    """Return the fastest peer of a precision, ``int8`` or ``fp32``, in a contest; None if there is none."""
    peers = [entry for entry in rows if entry["engine"] != NATIVE and entry["precision"] == precision]
    return min(peers, key=lambda entry: entry["median_ms"], default=None)


def peer_name(entry: Row) -> str:
    """Return how a peer is called: ``OpenVINO``."""
    name: str = entry["engine"].removesuffix(f"-{entry['precision']}")
    return PEERS[name]


def busy_note(conditions: Mapping[str, Any]) -> str:
    """Return a line that says so if other work ran beside a measurement; such numbers are no results."""
    load = conditions["load_average_before"][0]
    if load <= BUSY * conditions["cores"]:
        return ""
    return (
        f"Provisional: other work ran beside (load average {load:.1f}), so these numbers are not to be relied upon.\n"
    )


def overview(report: Mapping[str, Any]) -> str:
    """Return a Markdown table of one line for each network: milliseconds, and the best int8 peer's time by ours."""
    contests = first_contests(report)
    precisions = list(dict.fromkeys(e["precision"] for rows in contests for e in rows if e["engine"] == NATIVE))
    first = contests[0][0]
    lines = _warning(report)
    lines += [
        f"{_machine(report)}; batch {first['batch']}, {first['threads']} threads; medians in ms, and as `x` the time "
        f"of the faster int8 peer divided by ours. {_rounds_told(report)}",
        "",
        "| | best fp32 | best int8 | " + " | ".join(f"{p} bit" if p.isdigit() else p for p in precisions) + " |",
        "|---|---|---|" + "---|" * len(precisions),
    ]
    for rows in contests:
        of_precision = {entry["precision"]: entry for entry in rows if entry["engine"] == NATIVE}
        ratios = _ratios(report, rows[0], INT8)
        cells = [f"{rows[0]['network']}, {rows[0]['weights']} weights"]
        cells += [_peer_cell(best(rows, FP32)), _peer_cell(best(rows, INT8))]
        for precision in precisions:
            entry = of_precision.get(precision)
            text = "" if entry is None else f"**{_ms(entry['median_ms'])}**"
            cells.append(text + (f" {ratios[precision]['ratio']:.2f}x" if precision in ratios else ""))
        lines.append("| " + " | ".join(cells) + " |")
        for name, said in SHOWN.items():
            if not any(name in entry for entry in of_precision.values()):
                continue
            accuracies = [of_precision[p].get(name) if p in of_precision else None for p in precisions]
            cells = [f"{said} in %", "", "", *("" if a is None else f"{100 * a:.2f}" for a in accuracies)]
            lines.append("| " + " | ".join(cells) + " |")
    steps = [s for d in report["ladders"] if any(same_setting(d, rows[0]) for rows in contests) for s in d["steps"]]
    clear = sum(step["p10"] > 1 for step in steps)
    told = f"Of {len(steps)} steps to the next lower width, {clear} gain time at the 10th percentile of the rounds too."
    return "\n".join([*lines, *(["", told] if steps else [])])


def in_short(report: Mapping[str, Any], models: Mapping[str, str], precisions: Sequence[str]) -> str:
    """Return a Markdown table of time and accuracy at some precisions, one picture at a time, a line for each master.

    ``models``: the networks that have one, and its name.
    """
    head = ["", *(f"{precision} bit" for precision in precisions)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    contests = [rows for rows in first_contests(report) if rows[0]["network"] in models]
    for rows in contests:
        of_precision = {entry["precision"]: entry for entry in rows if entry["engine"] == NATIVE}
        cells = [models[rows[0]["network"]]]
        for entry in (of_precision[precision] for precision in precisions):
            accuracy = next(f"{100 * entry[name]:.1f} % {said}" for name, said in SHOWN.items() if name in entry)
            cells.append(f"{_ms(entry['median_ms'])} ms, {accuracy}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(
        [
            *lines,
            "",
            f"{_machine(report)}, {contests[0][0]['threads']} threads; medians of {_rounds(report)} rounds, one "
            "picture a call.",
        ]
    )


def details(report: Mapping[str, Any]) -> str:
    """Return every contest as a Markdown table, with spread, targets and the peers' settings."""
    lines = _warning(report)
    for ladder in report["ladders"]:
        rows = [entry for entry in report["rows"] if same_setting(entry, ladder)]
        lines += [
            f"**{ladder['network']}**, {rows[0]['weights']} weights, batch {ladder['batch']}, "
            f"{ladder['threads']} threads",
            "",
            "| engine | precision | median ms | 10-90 % | best int8 peer / ours | best fp32 peer / ours |",
            "|---|---|---|---|---|---|",
        ]
        ratios = {kind: _ratios(report, ladder, kind) for kind in (INT8, FP32)}
        for entry in rows:
            native = entry["engine"] == NATIVE
            name = "bitgear" if native else f"{peer_name(entry)} ({entry['settings']})".replace(" ()", "")
            cells = [name, entry["precision"], _ms(entry["median_ms"])]
            cells.append(f"{_ms(entry['p10_ms'])}-{_ms(entry['p90_ms'])}")
            cells += [_ratio_text(ratios[kind].get(entry["precision"])) if native else "" for kind in (INT8, FP32)]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    lines.append(f"{_rounds_told(report)} {_conditions(report)}")
    return "\n".join(lines)


def ready(report: Mapping[str, Any]) -> str:
    """Return what a width takes to be ready as a Markdown table."""
    lines = _warning(report)
    lines += ["| network | precision | derived on one core, ms (10-90 %) | resident |", "|---|---|---|---|"]
    for of_network in report["ready"]:
        lines += [
            f"| {of_network['network']} | {entry['precision']} | {entry['median_ms']:.2f} "
            f"({entry['p10_ms']:.2f}-{entry['p90_ms']:.2f}) | {_mb(entry['resident_bytes'])} |"
            for entry in of_network["derivation"]
        ]
        lines.append(f"| {of_network['network']} | master | | {_mb(of_network['master_bytes'])} |")
    slowest = max(report["ready"], key=lambda of_network: of_network["switch"]["median_us"])["switch"]
    lines += ["", f"A switch between widths that are resident takes {slowest['median_us']:.1f} us (median)."]
    return "\n".join(lines)


def _warning(report: Mapping[str, Any]) -> list[str]:
    note = busy_note(report["conditions"])
    return [f"**{note.strip()}**", ""] if note else []


def _ratios(report: Mapping[str, Any], setting: Row, against: str) -> dict[str, Row]:
    return {r["precision"]: r for r in report["ratios"] if r["against"] == against and same_setting(r, setting)}


def _rounds(report: Mapping[str, Any]) -> int:
    # Older reports do not tell; the fastest contender has the greatest number of calls in every round.
    return int(report.get("rounds") or max(row["calls"] for row in report["rows"]) // CALLS_MAX)


def _rounds_told(report: Mapping[str, Any]) -> str:
    """Return how many rounds there were, and what a ratio is made of."""
    made = "medians over them"
    if "rounds" not in report:
        made = "of medians over all calls, so one may lie outside its range over the rounds"
    return f"{_rounds(report)} rounds; ratios are {made}."


def _peer_cell(entry: Row | None) -> str:
    return "" if entry is None else f"{_ms(entry['median_ms'])} ({peer_name(entry)})"


def _ms(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.2f} MB"


def _machine(report: Mapping[str, Any]) -> str:
    conditions = report["conditions"]
    sets = sorted({entry["settings"] for entry in report["rows"] if entry["engine"] == NATIVE})
    held = conditions.get("peers_held_to")
    limit = f", peers held to {held}" if held else ""
    return f"{report['machine']['cpu']}, {conditions['cores']} cores, kernels {', '.join(sets)}{limit}"


def _conditions(report: Mapping[str, Any]) -> str:
    conditions = report["conditions"]
    packages = ", ".join(f"{name} {version}" for name, version in conditions["packages"].items() if version)
    return f"{_machine(report)} ({', '.join(conditions['flags'])}); {packages}."
