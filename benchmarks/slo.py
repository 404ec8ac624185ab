"""Policies under load: what a real server keeps of its promises when requests come in bursts, over real HTTP.

    python -m benchmarks.slo [--data FOLDER] [--quick | --short] [--kernel avx2] [--minutes 8] [--resume] [--json FILE]

Starts a server of its own and measures it at rest: the latency of one request at a time at 8 bits, as the client sees
it, of which the objective is a multiple, and how many requests per second it answers at 8 bits, which is load 1. Then
every policy and every fixed width gets the same arrivals, one after the other in an order drawn anew for each of
several seeds. All requests carry the objective as their deadline, so any policy may refuse what cannot be met. A fixed
width is one that every request pins.

What became of each request is kept in build/slo, so ``--resume`` goes on after a stop, or after the ``--minutes`` that
one piece of the whole may take; and the report is written anew whenever a scene is complete. Those that there are bars
for come first. ``--kernel`` holds the server to an instruction set, for what an ordinary processor does. Without
``--data`` there are neither labels nor traces, and the pictures are those in examples/.
"""

import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks import loadgen, servers, slo_figure, slo_tables
from benchmarks.attainment import OK, Outcomes, ceiling, outstanding, score
from benchmarks.cases import ADAPTIVE, Case, Scene, all_scenes, bar_scenes, fixed, pinned, planned
from benchmarks.histograms import Histogram
from benchmarks.loadgen import Plan, Record
from benchmarks.measure import command_line, write_report
from benchmarks.networks import RANDOM, master_file
from benchmarks.pictures import Grades, Pictures, examples, miou, photographs, street_scenes
from benchmarks.subject import Subject, body_of, subject
from bitgear.bits import MASTER_BITS
from bitgear.checkpoint import Master, read_master
from bitgear.engines.registry import native_instruction_set

WORK = Path("build/slo")
BAR_WIDTHS = (8, 6, 4, 2)
BAR_SECONDS, BAR_SEEDS = 4.0, 6
"""Many short runs rather than few long ones: a machine that is slow for some seconds is so for every policy."""
SECONDS, SEEDS = 10.0, 1
SHORT_SECONDS = 3.0
DEFAULT_MODEL = "camvid-resnet"
RUN_COST_SECONDS = 1.5
SETTLE_SECONDS = 0.3
"""Before a run: the queue of the one before is empty, but not all threads rest."""
TIMELINE_SECONDS, TIMELINE_STEP_SECONDS = 4.0, 0.01
TIMELINE_POLICIES = (*ADAPTIVE, fixed(MASTER_BITS))
DECISION = "bitgear_policy_decision_duration_seconds"


@dataclass(frozen=True)
class Run:
    """What one run left.

    ``decisions``: how long the policy took for each. ``client_cpu_share``: of one core. ``different_answers``: not
    equal to an earlier one about the same picture at the same precision. ``confusion``: of the pixels answered in time,
    by true and by predicted class, empty where no truth is known.
    """

    outcomes: Outcomes
    decisions: Histogram
    client_cpu_share: float
    different_answers: int
    confusion: list[list[int]]

    def save(self, path: Path) -> None:
        """Write two files, the second one telling that both are complete."""
        self.outcomes.save(path.with_name(f"{path.name}.npz"))
        others = {name: value for name, value in vars(self).items() if name not in ("outcomes", "decisions")}
        path.with_name(f"{path.name}.json").write_text(json.dumps({**others, "decisions": asdict(self.decisions)}))

    @staticmethod
    def load(path: Path) -> "Run":
        """Read what :meth:`save` wrote."""
        others = json.loads(path.with_name(f"{path.name}.json").read_text())
        decisions = others.pop("decisions")
        buckets = tuple((bound_s, count) for bound_s, count in decisions["buckets"])
        outcomes = Outcomes.load(path.with_name(f"{path.name}.npz"))
        return Run(outcomes, Histogram(buckets, decisions["sum_s"]), **others)


class Bench:
    """A server under load. ``rest``: what is known of it at rest. Runs are kept in a folder."""

    def __init__(self, server: Subject, rest: Mapping[str, Any], folder: Path, data: Path | None) -> None:
        self.server = server
        self.rest = rest
        self.folder = folder
        self.data = data
        self.grades = Grades(server.pictures)

    def slo_ms(self, scene: Scene) -> float:
        """Return the objective: a multiple of the latency at 8 bits and batch 1, over HTTP."""
        return float(scene.slo_factor * self.rest["round_trip_ms"])

    def measured(self, case: Case) -> bool:
        """Return whether a run is there already."""
        return (self.folder / f"{case.name}.json").is_file()

    def run(self, case: Case) -> Run:
        """Put the server under load, and keep what comes of it."""
        scene, pin = case.scene, pinned(case.policy)
        due_s = scene.moments(self.rest["capacity_per_s"], self.rest["seconds"], case.seed, self.data)
        headers = {"Deadline-Ms": f"{self.slo_ms(scene):.0f}", **({} if pin is None else {"Precision": pin})}
        requests = self.server.messages(headers)
        which = np.random.default_rng(case.seed).integers(0, len(requests), len(due_s))
        self.server.set_policy("fixed" if pin else case.policy)
        decided = Histogram.of(self.server.metrics(), DECISION)
        time.sleep(SETTLE_SECONDS)
        plan = Plan(self.server.server.port, requests, which, due_s, self.rest["seconds"] + 1)
        record = loadgen.generate(plan).whole(plan)
        decisions = Histogram.of(self.server.metrics(), DECISION) - decided
        before_run = self.grades.different
        outcomes = self._outcomes(record)
        attained = outcomes.attained(self.slo_ms(scene))
        confusion = self.grades.confusion(outcomes.picture[attained].tolist(), outcomes.served[attained].tolist())
        different = self.grades.different - before_run
        run = Run(outcomes, decisions, record.cpu_s / record.wall_s, different, confusion)
        run.save(self.folder / case.name)
        return run

    def _outcomes(self, record: Record) -> Outcomes:
        served = [""] * len(record.status)
        right = np.full(len(record.status), np.nan)
        for i in np.flatnonzero(record.status == OK).tolist():
            answer = body_of(record.answers[i])
            served[i] = str(answer["precision"]["served"])
            right[i] = self.grades.grade(int(record.which[i]), served[i], answer)
        columns = (record.at_s, record.lag_ms, record.latency_ms, record.status, record.which)
        return Outcomes(*columns, np.array(served, dtype="U16"), right)

    def row(self, policy: str, scene: Scene, seeds: int) -> dict[str, Any]:
        """Return a row of the report: all seeds together, and the attainment of each."""
        runs = [Run.load(self.folder / Case(policy, scene, seed).name) for seed in range(seeds)]
        slo_ms, seconds = self.slo_ms(scene), self.rest["seconds"]
        outcomes = Outcomes.joined([run.outcomes for run in runs])
        by_seed = [score(run.outcomes, slo_ms, self.rest["accuracy"], seconds) for run in runs]
        decisions = sum((run.decisions for run in runs), Histogram())
        return {
            "policy": policy,
            "kernel": self.rest["kernel"],
            **scene.described(slo_ms),
            "offered_per_s": len(outcomes.status) / (seconds * len(runs)),
            **score(outcomes, slo_ms, self.rest["accuracy"], seconds * len(runs)),
            "served_miou": miou([run.confusion for run in runs]),
            "decision_mean_us": _microseconds(decisions.mean_s),
            "decision_p99_us": _microseconds(decisions.quantile_s(0.99)),
            "decisions": int(decisions.count),
            "client_cpu_share": float(np.mean([run.client_cpu_share for run in runs])),
            "different_answers": sum(run.different_answers for run in runs),
            "ceiling": self._ceiling(runs, slo_ms),
            "attainment_by_seed": [each["attainment"] for each in by_seed],
            "effective_by_seed": [each["effective_accuracy"] for each in by_seed],
        }

    def _ceiling(self, runs: Sequence[Run], slo_ms: float) -> float:
        fastest_per_s = self.rest["capacity_narrowest_per_s"]
        return float(np.mean([ceiling(run.outcomes.due_s, fastest_per_s, slo_ms) for run in runs]))

    def timeline(self, scene: Scene, policies: Sequence[str], seed: int = 0) -> dict[str, Any]:
        """Return a few seconds of one run under several policies: those around the longest queue of the last one."""
        runs = {policy: Run.load(self.folder / Case(policy, scene, seed).name).outcomes for policy in policies}
        at_s = np.arange(0, self.rest["seconds"], TIMELINE_STEP_SECONDS)
        peak_s = float(at_s[np.argmax(outstanding(runs[policies[-1]], at_s))])
        from_s = max(0.0, peak_s - TIMELINE_SECONDS / 2)
        at_s = at_s[(at_s >= from_s) & (at_s < from_s + TIMELINE_SECONDS)]
        lines: dict[str, Any] = {}
        for policy, outcomes in runs.items():
            within = (outcomes.due_s >= from_s) & (outcomes.due_s < from_s + TIMELINE_SECONDS)
            lines[policy] = {
                "due_s": outcomes.due_s[within].round(4).tolist(),
                "latency_ms": [None if np.isnan(ms) else round(ms, 1) for ms in outcomes.latency_ms[within].tolist()],
                "served": outcomes.served[within].tolist(),
                "attained": float(outcomes.attained(self.slo_ms(scene))[within].mean()),
                "at_s": at_s.round(3).tolist(),
                "outstanding": outstanding(outcomes, at_s).tolist(),
            }
        return {"slo_ms": self.slo_ms(scene), "load": scene.load, "cv2": scene.cv2, "policies": lines}


def _microseconds(seconds: float | None) -> float | None:
    return None if seconds is None else 1e6 * seconds


def at_rest(server: Subject, seconds: float) -> dict[str, Any]:
    """Measure a server before it is put under load; ``seconds`` of it each run is to have."""
    server.warm()
    times_ms = server.at_rest()
    rates = server.capacity_per_s(MASTER_BITS)
    narrowest = server.capacity_per_s(min(server.master.widths))
    return {
        "engine_ms": times_ms["infer"]["p50_ms"],
        "round_trip_ms": times_ms["round_trip"]["p50_ms"],
        "phases_ms": times_ms,
        "capacity_per_s": float(np.median(rates)),
        "capacities_per_s": rates,
        "capacity_narrowest_per_s": float(np.median(narrowest)),
        "accuracy": server.accuracy(),
        "ladder": server.ladder(),
        "seconds": seconds,
    }


def main() -> None:
    """Run what is asked for, and print and write the report."""
    servers.end_in_order()
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, help="folder of camvid.tar, imagenet1000.tar and traces")
    parser.add_argument("--model", default=DEFAULT_MODEL, help=f"a shipped master, a file, or {', '.join(RANDOM)}")
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_true", help="what there are bars for, in less than 8 minutes")
    extent.add_argument("--short", action="store_true", help="everything, but few seconds and widths, in 11 minutes")
    parser.add_argument("--kernel", help="instruction set to hold the server to, such as avx2, instead of the best one")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop in order after them; --resume goes on")
    parser.add_argument("--policies", nargs="+", help="instead of all: look-ahead, slackfit, fixed-WIDTH")
    parser.add_argument("--seconds", type=float, help="of load in each run")
    parser.add_argument("--seeds", type=int, help="runs of each row")
    parser.add_argument(
        "--json", type=Path, help="the report, instead of benchmarks/results/slo.json, slo-quick.json or slo-short.json"
    )
    parser.add_argument("--resume", action="store_true", help="keep what was measured, and measure what is missing")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings of the server")
    arguments = parser.parse_args()
    end_s = time.monotonic() + 60 * arguments.minutes
    extent_name = "quick" if arguments.quick else "short" if arguments.short else "full"
    path = master_file(arguments.model)
    master = read_master(path)
    folder = WORK / "-".join([arguments.model, *filter(None, [arguments.kernel]), extent_name])
    if not arguments.resume:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    widths = master.widths if extent_name == "full" else BAR_WIDTHS
    policies = arguments.policies or [*ADAPTIVE, *map(fixed, widths)]
    seeds = arguments.seeds or (BAR_SEEDS if arguments.quick else SEEDS)
    seconds = arguments.seconds or {"quick": BAR_SECONDS, "short": SHORT_SECONDS, "full": SECONDS}[extent_name]
    scenes = bar_scenes() if arguments.quick else all_scenes(traces=arguments.data is not None)
    pictures = _pictures(master, arguments.data)
    cases = list(planned(scenes, policies, seeds))
    print(f"{len(cases)} runs of {seconds:g} s: about {len(cases) * (seconds + RUN_COST_SECONDS) / 60:.0f} minutes")

    report_name = "-".join(
        [
            "slo",
            *([] if extent_name == "full" else [extent_name]),
            *([] if arguments.model == DEFAULT_MODEL else [Path(arguments.model).stem]),
            *filter(None, [arguments.kernel]),
        ]
    )
    # A ladder of its own: one that was measured earlier may be of another state of the machine.
    settings = {"ladders": str(folder.resolve() / "ladders"), **dict(item.split("=", 1) for item in arguments.set)}
    if arguments.kernel:
        settings["kernel"] = arguments.kernel
    with subject(path, pictures, folder / "server.log", settings) as server:
        rest_file = folder / "rest.json"
        if not rest_file.is_file():
            kernel = arguments.kernel or native_instruction_set() or "none"
            rest_file.write_text(json.dumps({"kernel": kernel, **at_rest(server, seconds)}))
        bench = Bench(server, json.loads(rest_file.read_text()), folder, arguments.data)
        known = {
            "model": master.name,
            "weights": "random, its accuracy assumed" if arguments.model in RANDOM else "trained",
            "pictures": pictures.name,
            "seeds": seeds,
            "settings": arguments.set,
            "extent": extent_name,
            **bench.rest,
        }
        rows: list[dict[str, Any]] = []
        for scene, together in groupby(tqdm(cases, unit="run"), key=lambda case: case.scene):
            for case in together:
                if not bench.measured(case):
                    if time.monotonic() + seconds + RUN_COST_SECONDS > end_s:
                        done = sum(map(bench.measured, cases))
                        print(f"{done} of {len(cases)} runs are measured; go on with --resume")
                        return
                    bench.run(case)
            rows += [bench.row(policy, scene, seeds) for policy in policies]
            write_report(report_name, {**known, "rows": rows}, arguments.json)
        known["capacities_after_per_s"] = server.capacity_per_s(MASTER_BITS)
    shown = [policy for policy in TIMELINE_POLICIES if policy in policies] or policies[:1]
    report = {**known, "rows": rows, "timeline": bench.timeline(bar_scenes()[-1], shown)}
    written = write_report(report_name, report, arguments.json)
    slo_figure.draw(report, written.with_suffix(".png"))
    _print(rows)
    for bar in slo_tables.bars(report):
        print(f"{bar.name}: {bar.measured}, {bar.asked}: {bar.verdict}")
    print(f"wrote {written}")


def _pictures(master: Master, data: Path | None) -> Pictures:
    if data is None:
        return examples()
    return (street_scenes if master.task == "segment" else photographs)(data)


def _print(rows: Sequence[Mapping[str, Any]]) -> None:
    print("policy       arrivals     load  SLO  attained  served  effective   right   p50 ms   p99 ms  share of widths")
    for row in rows:
        arrivals = row["arrivals"] + ("" if row["cv2"] is None else f" CV2 {row['cv2']:g}")
        share = " ".join(f"{name}:{part:.0%}" for name, part in row["share"].items())
        served, right = row["served_accuracy"] or 0, row["effective_right"] or 0
        print(
            f"{row['policy']:12} {arrivals:12} {row['load']:4.1f} {row['slo_factor']:3.0f}x  {row['attainment']:8.4f}"
            f"  {served:6.4f}  {row['effective_accuracy']:9.4f}  {right:6.4f} {row['p50_ms'] or 0:8.1f} "
            f"{row['p99_ms'] or 0:8.1f}  {share}"
        )


if __name__ == "__main__":
    main()
