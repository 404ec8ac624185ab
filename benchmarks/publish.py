"""Write the measured numbers into the documents, between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``.

    python -m benchmarks.publish          # writes
    python -m benchmarks.publish --check  # exits 1 if a document differs from the reports

What stands between these marks is made from reports and typed by nobody; benchmarks/README.md says which command makes
which report.
"""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import eight_bits_tables, engine_tables, plan_tables, serving_tables, slo_tables
from benchmarks.contest import NATIVE
from benchmarks.measure import RESULTS, command_line
from benchmarks.networks import SHIPPED
from bitgear.bits import MASTER_BITS, WIDTHS
from bitgear.checkpoint import Master, read_master
from bitgear.files import write_atomically
from bitgear.models import find_master
from bitgear.tasks.metrics import METRIC_NAMES, SHOWN
from server.metrics import TABLE
from server.settings import Settings

ROOT = Path(__file__).parent.parent
DOCUMENTS = (
    "README.md",
    "docs/http.md",
    "docs/training.md",
    "docs/importing.md",
    "docs/performance.md",
    "docs/policy.md",
    "docs/search.md",
    "docs/settings.md",
)
IMPORTS = ("import-mobilenet-v1-075", "import-mobilenet-v1-025")
MODEL = "resnet20-cifar10"
SEGMENTER = "camvid-resnet"
DETECTOR = "bccd-resnet"


def blocks() -> dict[str, str]:
    """Return every generated block by name."""
    return {
        "accuracy": _accuracy(_report("evaluate")),
        "settings": _settings(),
        "metrics": _metrics(),
        "overhead": _overhead(_report("overhead")),
        "start": _start(_report("start")),
        "answer": _answer(_report("start")),
        "soak": _soak(_report("soak")),
        "switching": _switching(_report("switching")),
        "calibration": _calibration(_report("calibration")),
        "in_short": engine_tables.in_short(_engine("engine"), SHIPPED, ("8", "4", "2")),
        "engine": engine_tables.overview(_engine("engine")),
        "engine_details": engine_tables.details(_report("engine")),
        "engine_ready": engine_tables.ready(_report("engine")),
        "engine_avx2": engine_tables.overview(_engine("engine-avx2")),
        "engine_avx2_vnni": engine_tables.overview(_engine("engine-avx2-vnni")),
        "engine_amx": engine_tables.overview(_engine("engine-amx")),
        "bounds": _bounds(_report("bounds")),
        "policies": _policies(_report("simulate")),
        "policy_decisions": _policy_decisions(_report("decisions")),
        "phases": _phases(_report("phases")),
        "phases_vnni": _phases(_report("phases-vnni")),
        "imports": _imports([_report(name) for name in IMPORTS]),
        "provenance": _provenance(),
        "supernet": _supernet(),
        "with_plan": _with_plan(),
        "segmenter": _trained(SEGMENTER, ("miou", "pixel_accuracy")),
        "segmenter_training": _segmenter_training(),
        "detector": _trained(DETECTOR, ("map50_95", "map50")),
        "detector_training": _training(DETECTOR),
        "pretraining": _pretraining(_report("pretraining")),
        "segmenter_starts": _segmenter_starts(),
        "detector_starts": _detector_starts(),
        "eight_bits": eight_bits_tables.accuracy(_report("eight-bits")),
        "eight_bits_times": eight_bits_tables.times(_report("eight-bits-times")),
        "slo_conditions": slo_tables.conditions(_report("slo-quick")),
        "slo_bars": slo_tables.bar_table(_report("slo-quick")),
        "slo_bursts": slo_tables.burst_table(_report("slo-quick")),
        "slo_matrix": slo_tables.matrix_table(_report("slo-short")),
        "slo_classifier_conditions": slo_tables.conditions(_report("slo-resnet18")),
        "slo_classifier_bars": slo_tables.bar_table(_report("slo-resnet18")),
        "slo_classifier": slo_tables.burst_table(_report("slo-resnet18")),
        "slo_avx2_conditions": slo_tables.conditions(_report("slo-resnet18-avx2")),
        "slo_avx2_bars": slo_tables.bar_table(_report("slo-resnet18-avx2")),
        "slo_avx2": slo_tables.burst_table(_report("slo-resnet18-avx2")),
        "slo_amx_conditions": slo_tables.conditions(_report("slo-amx")),
        "slo_amx_bars": slo_tables.bar_table(_report("slo-amx")),
        "slo_amx": slo_tables.burst_table(_report("slo-amx")),
        "slo_simulated": slo_tables.simulated_table(_report("slo-quick"), _report("simulate-slo")),
        "plans": _plans(),
        "tuned": plan_tables.tuned(_filed("resnet20-joint", "tuned")),
        "plan_costs": plan_tables.costs(_report("plan-costs")),
        "plan_methods": plan_tables.methods(_report("methods")),
        "plan_times": plan_tables.predictions(_report("plans")),
        "serving_conditions": serving_tables.conditions(_report("serving")),
        "serving": serving_tables.table(_report("serving")),
        "serving_avx2_conditions": serving_tables.conditions(_report("serving-avx2")),
        "serving_avx2": serving_tables.table(_report("serving-avx2")),
    }


def _report(name: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return report


def _engine(name: str) -> dict[str, Any]:
    """Return a report of the engine with the accuracy of the masters that ship now: times do not depend on weights."""
    report = _report(name)
    masters = {network: read_master(find_master(model)) for network, model in SHIPPED.items()}
    for row in report["rows"]:
        known = {} if row["network"] not in masters else masters[row["network"]].accuracy
        if row["engine"] == NATIVE and row["precision"].isdecimal():
            row |= known.get(int(row["precision"]), {})
    return report


def _filed(folder: str, name: str) -> dict[str, Any]:
    """Return a report of training, a search or tuning, of a folder of docs/reports."""
    report: dict[str, Any] = json.loads((ROOT / "docs/reports" / folder / f"{name}.json").read_text(encoding="utf-8"))
    return report


def _plans() -> str:
    """Return the tables of plans, timed by the searches; of the classifier, one is younger, by benchmarks.plans."""
    names = (MODEL, SEGMENTER, DETECTOR)
    searches = [_filed(name, "plans") for name in names]
    times = [
        {name: row["latency_ms"] for name, row in {**report["uniform"], **report["plans"]}.items()}
        for report in searches
    ]
    times[0] = {name: row["ms"] for name, row in _report("plans")["models"][MODEL]["precisions"].items()}
    return plan_tables.table([read_master(find_master(name)) for name in names], times, searches)


def _said(precision: str) -> str:
    return f"{precision} bit" if precision.isdecimal() else precision


def _accuracy(report: dict[str, Any]) -> str:
    path = find_master(MODEL)
    fp32 = read_master(path).provenance["fp32_top1"]
    widths = report["precisions"]
    images = next(iter(widths.values()))["images"]
    return "\n".join(
        [
            f"| {report['model']} | FP32 start | " + " | ".join(map(_said, widths)) + " |",
            "|---|---|" + "---|" * len(widths),
            f"| top-1, {images:,} test images | {100 * fp32:.2f} | "
            + " | ".join(f"**{100 * row['top1']:.2f}**" for row in widths.values())
            + " |",
            "",
            f"One file of {path.stat().st_size:,} bytes serves all of them.",
        ]
    )


def _imports(reports: Sequence[dict[str, Any]]) -> str:
    widths = list(reports[0]["precisions"])
    lines = ["| top-1 / top-5 in % | FP32 | " + " | ".join(f"{bits} bit" for bits in widths) + " |"]
    lines += ["|---|---|" + "---|" * len(widths)]
    for report in reports:
        rows = [report["fp32"], *report["precisions"].values()]
        shares = [f"{100 * row['top1']:.1f} / {100 * row['top5']:.1f}" for row in rows]
        lines.append(f"| {report['model']}, {report['master_bytes']:,} bytes | " + " | ".join(shares) + " |")
    seconds = " and ".join(f"{report['calibration_seconds']:.0f} s" for report in reports)
    counts = [reports[0]["images"][key] for key in ("calibrated", "measured")]
    fractions = " and ".join(dict.fromkeys(f"{report['images']['central_fraction']:g}" for report in reports))
    lines += [
        "",
        f"With `--central-fraction {fractions}`. Calibrated on {counts[0]} of the pictures in {seconds}, "
        f"measured on the other {counts[1]}.",
    ]
    return "\n".join(lines)


def _overhead(report: dict[str, Any]) -> str:
    lines = [f"{report['machine']['cpu']}, one connection, {report['image']}; medians in ms.", ""]
    lines += ["| bits | round trip | engine | everything else | of it decode | top-1 |", "|---|---|---|---|---|---|"]
    for bits, row in report["precisions"].items():
        lines.append(
            f"| {bits} | {row['round_trip']['p50_ms']:.2f} | {row['phases']['infer']['p50_ms']:.2f} | "
            f"{row['overhead']['p50_ms']:.2f} | {row['phases']['decode']['p50_ms']:.2f} | {100 * row['top1']:.2f} % |"
        )
    return "\n".join(lines)


def _start(report: dict[str, Any]) -> str:
    answers = [
        f"{row['first_answer']['p50_ms'] / 1e3:.2f} s at {bits} bits" for bits, row in report["precisions"].items()
    ]
    rounds = next(iter(report["precisions"].values()))["first_answer"]["count"]
    return f"{report['machine']['cpu']}; medians of {rounds} starts: {', '.join(answers)}."


def _soak(report: dict[str, Any]) -> str:
    said = {"200": "answered", "429": "refused as too many", "422": "no picture", "504": "too late", "left": "given up"}
    seen = sorted(report["seen"].items(), key=lambda item: -item[1])
    told = ", ".join(f"{count:,} {said.get(what, what)}" for what, count in seen)
    growth = report["growth"]
    return (
        f"{report['machine']['cpu']}: {report['sent']:,} requests in {report['minutes']:g} minutes: {told}. In "
        f"the last third of the time there were {growth['resident_kb']:.4f} times as many bytes resident as in the "
        f"second, and {growth['threads']:.4f} times as many threads; in the end {report['descriptors_leaked']:+d} "
        "descriptors."
    )


def _phases(report: dict[str, Any]) -> str:
    threads = report["threads"]
    lines = [
        f"{report['machine']['cpu']}, {threads} thread{'s' * (threads > 1)} for the network, one connection, "
        f"{report['picture']}; medians in ms.",
        "",
        "| model | bits | whole | decode and place | network | answer | before and after (10-90 %) | accuracy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, model in report["models"].items():
        for bits, row in model["precisions"].items():
            times = [f"{row['phases'][phase]['p50_ms']:.2f}" for phase in ("total", "decode", "infer", "post")]
            share = row["around_share"]
            spread = f"{100 * share['p50']:.0f} % ({100 * share['p10']:.0f}-{100 * share['p90']:.0f})"
            found = [f"{100 * row['accuracy'][m]:.1f} % {said}" for m, said in SHOWN.items() if m in row["accuracy"]]
            lines.append(f"| {name} | {bits} | {' | '.join(times)} | {spread} | {', '.join(found)} |")
    return "\n".join(lines)


def _answer(report: dict[str, Any]) -> str:
    answer = report["precisions"]["4"]["answer"]
    members = [f'  "{name}": {json.dumps(value)}' for name, value in answer.items()]
    return "```json\n{\n" + ",\n".join(members) + "\n}\n```"


def _switching(report: dict[str, Any]) -> str:
    lines = [f"{report['machine']['cpu']}, engine {report['engine']}; medians (quartiles) in ms.", ""]
    lines += ["| bits | derive from the master | load an ONNX file | ratio | top-1 |", "|---|---|---|---|---|"]
    for bits, row in report["precisions"].items():
        cells = [
            f"{row[which]['p50_ms']:.1f} ({row[which]['p25_ms']:.1f}-{row[which]['p75_ms']:.1f})"
            for which in ("derive", "onnx_file")
        ]
        lines.append(
            f"| {bits} | {cells[0]} | {cells[1]} | {row['ratio_of_medians']:.2f} | {100 * row['top1']:.2f} % |"
        )
    return "\n".join(lines)


def _calibration(report: dict[str, Any]) -> str:
    names = {
        "kept": "trained; statistics as the master has them",
        "plain": "trained; statistics re-estimated on plain images",
        "re_estimated": "trained; statistics re-estimated on augmented images (what is done)",
        "searched": "not trained; scales of least error searched anew",
        "inherited": "not trained; clipping ranges of the next higher width",
        "between": "not trained; clipping ranges a third of the way to the next lower width's (what is done)",
    }
    widths = report["precisions"]
    lines = ["| top-1 in % | " + " | ".join(f"{bits} bit" for bits in widths) + " |", "|---|" + "---|" * len(widths)]
    for name, label in names.items():
        cells = [f"{100 * row[name]:.2f}" if name in row else "" for row in widths.values()]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _provenance() -> str:
    p = _joint().provenance
    train = p["recipe"]["train"]
    stages = [_filed(name, "report") for name in ("resnet20-plan-long", "resnet20-plan-longer")]
    epochs = [len(stage["plan_epochs"]) for stage in stages]
    return (
        f"{train['epochs']} epochs over widths {', '.join(map(str, train['widths']))}, batch {train['batch_size']}, "
        f"Adam at {train['lr']}, ALRS `{train['alrs']}`, seed {p['seed']}; {p['data']}; "
        f"{p['training_seconds'] / 60:.0f} minutes on `{train['device']}`. "
        f"FP32 start {100 * p['fp32_top1']:.2f} %, teacher {100 * p['teacher_top1']:.2f} %. Then with a plan: "
        f"{epochs[0]} epochs and {epochs[1]} more, {sum(stage['seconds'] for stage in stages) / 60:.0f} minutes; "
        "what is shipped is the mean of what these two left."
    )


def _trained(model: str, metrics: Sequence[str]) -> str:
    path = find_master(model)
    master = read_master(path)
    measured = {name: figures for name in master.precisions if (figures := master.metrics(name))}
    lines = [
        f"| {model} | FP32 start | " + " | ".join(map(_said, measured)) + " |",
        "|---|---|" + "---|" * len(measured),
    ]
    for name in metrics:
        images = master.accuracy[MASTER_BITS]["images"]
        lines.append(
            f"| {METRIC_NAMES[name]}, {images:,} test images | {100 * master.provenance[f'fp32_{name}']:.1f} | "
            + " | ".join(f"**{100 * figures[name]:.1f}**" for figures in measured.values())
            + " |"
        )
    return "\n".join([*lines, "", f"One file of {path.stat().st_size:,} bytes serves all of them."])


def _pretraining(report: dict[str, Any]) -> str:
    """Return what the float network reaches on the way, from scratch and from a pretrained encoder."""
    rows, encoder = report["rows"], report["encoder"]
    metric, epochs = rows[0]["metric"], list(rows[0]["curve"])
    starts = {"scratch": "from scratch", "cifar10": "encoder pretrained"}
    return "\n".join(
        [
            f"| {report['model']}, {METRIC_NAMES[metric]} of `val` in %, epoch | " + " | ".join(epochs) + " |",
            "|---|" + "---|" * len(epochs),
            *(
                f"| {starts[row['start']]} | "
                + " | ".join(f"{100 * row['curve'][epoch]:.1f}" for epoch in epochs)
                + " |"
                for row in rows
            ),
            "",
            f"Float networks, the recipe cut to {rows[0]['epochs']} epochs, one seed. The encoder classified CIFAR-10, "
            f"enlarged to {encoder['side_px']} pixels, for {encoder['epochs']} epochs "
            f"({encoder['seconds'] / 60:.0f} minutes), and reached {100 * encoder['top1']:.1f} %.",
        ]
    )


def _segmenter_starts() -> str:
    """Return the mean IoU of a segmenter from scratch, and of what became of one whose encoder was pretrained."""
    scratch, joint, taught, shipped = (
        _filed(name, "report") for name in ("camvid-scratch", "camvid-joint", "camvid-taught", SEGMENTER)
    )
    return _starts(
        "miou",
        {
            f"from scratch, {_epochs(scratch)} epochs": scratch,
            f"encoder pretrained, {_epochs(joint)} epochs": joint,
            f"then {len(taught['epochs'])} epochs, taught more": taught,
            "**shipped**: the mean of the last two": shipped,
        },
    )


def _detector_starts() -> str:
    """Return the mAP of the shipped detector, which began from scratch, and of one whose encoder was pretrained."""
    scratch, pretrained = (_filed(name, "report") for name in (DETECTOR, "bccd-pretrained"))
    return _starts(
        "map50_95",
        {
            f"**shipped**: from scratch, {_epochs(scratch)} epochs": scratch,
            f"encoder pretrained, {_epochs(pretrained)} epochs": pretrained,
        },
    )


def _starts(metric: str, reports: Mapping[str, dict[str, Any]]) -> str:
    lines = [
        f"| {METRIC_NAMES[metric]} in % | `val`, FP32 | FP32 | " + " | ".join(f"{bits} bit" for bits in WIDTHS) + " |"
    ]
    lines.append("|---|" + "---|" * (len(WIDTHS) + 2))
    for what, report in reports.items():
        measured = report["master"]["precisions"]
        figures = [report["fp32"], report["fp32_test"], *(measured[str(bits)] for bits in WIDTHS)]
        lines.append(f"| {what} | " + " | ".join(f"{100 * row[metric]:.1f}" for row in figures) + " |")
    return "\n".join(lines)


def _epochs(report: Mapping[str, Any]) -> str:
    return f"{len(report['fp32_epochs'])} and {len(report['epochs'])}"


def _joint() -> Master:
    """Return the classifier as joint training left it, with the plans found then."""
    return read_master(ROOT / "docs/reports/resnet20-joint" / f"{MODEL}.safetensors")


def _supernet() -> str:
    """Return top-1 of the classifier after joint training, and of what the super-network stage made of it."""
    report = _filed("resnet20-hasb", "report")
    return _beside_joint({f"after {len(report['hasb_epochs'])} epochs of the stage": report})


def _with_plan() -> str:
    """Return top-1 of the classifier after joint training, and of those trained on with one of its plans."""
    reports = {}
    for name, first in (
        ("resnet20-plan", "with"),
        ("resnet20-plan-long", "with"),
        ("resnet20-plan-longer", "then with"),
    ):
        report = _filed(name, "report")
        stage = report["master"]["provenance"]["recipe"]["with_plan"]
        images = "all" if stage["epoch_images"] is None else f"{stage['epoch_images']:,}"
        reports[f"{first} {stage['plan']}, {stage['epochs']} epochs of {images} pictures"] = report
    return _beside_joint({**reports, "**shipped**: the mean of the last two": _filed(MODEL, "report")})


def _beside_joint(reports: Mapping[str, dict[str, Any]]) -> str:
    joint = _joint()
    rows = {
        what: {name: row["top1"] for name, row in report["master"]["precisions"].items() if name in joint.precisions}
        for what, report in reports.items()
    }
    names = next(iter(rows.values()))
    rows = {"joint training": {name: joint.metrics(name)["top1"] for name in names}, **rows}
    lines = [f"| top-1, % | {' | '.join(map(_said, names))} |", "|---|" + "---|" * len(names)]
    lines += [f"| {what} | {' | '.join(f'{100 * row[each]:.2f}' for each in names)} |" for what, row in rows.items()]
    return "\n".join(lines)


def _training(name: str) -> str:
    """Return how a network was trained, from the report of the run."""
    report = _filed(name, "report")
    p = report["master"]["provenance"]
    train, fp32 = p["recipe"]["train"], p["recipe"]["fp32"]
    fp32_minutes = sum(row["seconds"] for row in report["fp32_epochs"]) / 60
    return (
        f"FP32: {fp32['epochs']} epochs {_begun(p)}, {fp32_minutes:.0f} minutes. Then {train['epochs']} epochs over "
        f"widths {', '.join(map(str, train['widths']))}; together {p['training_seconds'] / 60:.0f} minutes on "
        f"`{train['device']}`. {p['data'].capitalize()}, batch {train['batch_size']}, seed {p['seed']}."
    )


def _segmenter_training() -> str:
    taught = _filed("camvid-taught", "report")
    train = taught["master"]["provenance"]["recipe"]["train"]
    minutes = sum(row["seconds"] for row in taught["epochs"]) / 60
    return (
        f"{_training('camvid-joint')} Then {len(taught['epochs'])} epochs more at a rate of {train['lr']}, "
        f"{minutes:.0f} minutes, in which {100 * train['distill']:.0f} % of the loss is what a teacher says. What is "
        "shipped is the mean of what these two left."
    )


def _begun(provenance: Mapping[str, Any]) -> str:
    """Return what FP32 training began with."""
    if provenance.get("weights") is None:
        return "from scratch"
    encoder = _filed("cifar10-encoder", "report")
    return (
        f"from an encoder that had learnt CIFAR-10 for {encoder['epochs']} epochs "
        f"({encoder['seconds'] / 60:.0f} minutes, {100 * encoder['top1']:.1f} %)"
    )


def _policies(report: dict[str, Any]) -> str:
    """Attainment and effective accuracy of the adaptive policies and of the best fixed width, by ladder and load."""
    lines = []
    for name, ladder in report["ladders"].items():
        times = ", ".join(
            f"{_said(r['precision'])} {r['fixed_ms'] + r['per_image_ms']:.1f} ms" for r in ladder if r["useful"]
        )
        lines += [
            f"**{name}** (one image: {times}), {report['workers']} workers, objective 5 times the widest",
            "",
            "| bursts (CV^2) | load | offered a second | look-ahead | SlackFit | 8 bit | best fixed width |",
            "|---|---|---|---|---|---|---|",
        ]
        rows = [row for row in report["rows"] if row["ladder"] == name and row["slo_factor"] == 5]
        scenes = {(row["arrivals"], row["cv2"], row["load"]) for row in rows}
        for scene in sorted(scenes, key=lambda scene: (scene[0] != "gamma", scene)):
            of = {row["policy"]: row for row in rows if (row["arrivals"], row["cv2"], row["load"]) == scene}
            best = max((row for policy, row in of.items() if policy.startswith("fixed-")), key=_effective)
            arrivals, cv2, load = scene
            cells = [_attained(of[policy]) for policy in ("look-ahead", "slackfit", f"fixed-{MASTER_BITS}")]
            cells.append(f"{_attained(best)} ({_said(best['policy'].removeprefix('fixed-'))})")
            what = f"{cv2:g}" if arrivals == "gamma" else arrivals
            offered_per_s = best["submitted"] / (report["seconds"] * report["seeds"])
            lines.append(f"| {what} | {load:.4g} | {offered_per_s:.0f} | {' | '.join(cells)} |")
        lines.append("")
    lines.append("Cells: attainment, effective accuracy in %.")
    return "\n".join(lines)


def _bounds(report: dict[str, Any]) -> str:
    """Return what share of requests can be in time at most, by cores and by what the narrowest width gains."""
    rows = {(row["cores"], row["load"], row["gain"]): row["ceiling"] for row in report["rows"]}
    cores, loads, gains = (sorted({key[part] for key in rows}) for part in range(3))
    lines = [
        "| cores | load | " + " | ".join(f"{gain:g} x" for gain in gains) + " |",
        "|---|---|" + "---|" * len(gains),
    ]
    for count, load in itertools.product(cores, loads):
        cells = " | ".join(f"{rows[count, load, gain]:.4f}" for gain in gains)
        lines.append(f"| {count} | {load:g} | {cells} |")
    return "\n".join(lines)


def _effective(row: dict[str, Any]) -> float:
    return float(row["effective_accuracy"])


def _attained(row: dict[str, Any]) -> str:
    return f"{row['attainment']:.4f}, **{100 * row['effective_accuracy']:.1f}**"


def _policy_decisions(report: dict[str, Any]) -> str:
    """Return a line for each policy and kind of queue, a column for each ladder."""
    rungs = {row["ladder"]: row["rungs"] for row in report["rows"]}
    head = [f"`{ladder}`, {count} precisions: median, 99 %" for ladder, count in rungs.items()]
    lines = [f"| decision with 1,000 queued | requests | {' | '.join(head)} |", "|---|---" + "|---" * len(head) + "|"]
    cells: dict[tuple[str, str], list[str]] = {}
    for row in report["rows"]:
        cells.setdefault((row["policy"], row["requests"]), []).append(f"{row['p50_us']:.0f} us, {row['p99_us']:.0f} us")
    lines += [f"| {policy} | {requests} | {' | '.join(each)} |" for (policy, requests), each in cells.items()]
    return "\n".join([*lines, "", f"{report['machine']['cpu']}, {report['decisions']:,} decisions each."])


def _settings() -> str:
    lines = ["| Setting | Default | |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "as many as cores" if field.default_factory is not None else _said_default(field.default)
        lines.append(f"| `{name}` | {default} | {field.description} |")
    return "\n".join(lines)


def _metrics() -> str:
    lines = ["| Metric | Kind | |", "|---|---|---|"]
    for each in TABLE:
        labels = f"{{{','.join(each.labels)}}}" if each.labels else ""
        lines.append(f"| `{each.name}{labels}` | {each.kind.__name__.lower()} | {each.help} |")
    return "\n".join(lines)


def _said_default(default: object) -> str:
    return "" if default in (None, ()) else f"`{json.dumps(default)}`"


def main() -> None:
    """Write or check the documents."""
    parser = command_line(__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    known = blocks()
    for name in DOCUMENTS:
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        wanted = re.sub(
            r"(<!-- begin (\w+) -->\n).*?(<!-- end \2 -->)",
            lambda found: f"{found[1]}{known[found[2]]}\n{found[3]}",
            text,
            flags=re.DOTALL,
        )
        if wanted != text:
            stale.append(name)
            if not check:
                write_atomically(path, wanted.encode())
    if check and stale:
        raise SystemExit(f"{', '.join(stale)}: numbers differ from the reports; run python -m benchmarks.publish")
    print("documents agree with the reports" if not stale else f"wrote {', '.join(stale)}")


if __name__ == "__main__":
    main()
