"""Policies on a virtual clock: long runs and ladders of other devices, in seconds.

    python -m benchmarks.simulate [--master NAME] [--slo FILE] [--data FOLDER] [--seconds 60] [--seeds 5] [--json FILE]

The policies are those that serve. Ladders: two that are made up, ``steep``, on which 2 bits take half of what 8 bits
take and half of a single image's time is fixed, and ``shallow``, which resembles that of a network whose time is bytes
more than bits; that of a master, measured now; or, instead of all these, the one in a report of ``benchmarks.slo``,
with the capacity and the objective of that run.

Service times are drawn around the ladder, which states their 90th percentile. Load 1 is what the widest rung serves at
most. The objective is a multiple of its latency with one image, and every request has it as a hard deadline. The queue
has no limit. Fixed widths drop what they cannot serve in time, and keep batches to what the first request can bear, so
they are stronger than a server that knows no deadlines.
"""

import argparse
import heapq
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.attainment import EXPIRED, OK, Outcomes, ceiling, score
from benchmarks.cases import ADAPTIVE, Scene, all_scenes, bar_scenes, fixed
from benchmarks.measure import command_line, write_report
from bitgear.bits import Plan
from bitgear.checkpoint import read_master
from bitgear.engines import create_engine
from bitgear.models import find_master
from server.ladder import Ladder, Rung, positions
from server.measurement import measure, measured_ladder
from server.policies import create_policy
from server.policy import Load, Policy, Waiting
from server.scheduler import ARRIVALS

NINETY_PERCENT = 1.2816
MEASURE_SECONDS = 3.0
MEASURES = (
    "submitted",
    "attainment",
    "served_accuracy",
    "effective_accuracy",
    "p50_ms",
    "p95_ms",
    "p99_ms",
    "goodput_per_s",
    "share",
)
ACCURACY = {8: 0.707, 6: 0.706, 5: 0.705, 4: 0.700, 3: 0.685, 2: 0.664}
"""Made up, of the usual shape."""

STEEP = {8: 5.0, 6: 4.2, 5: 3.8, 4: 3.4, 3: 2.9, 2: 2.5}
SHALLOW = {8: 8.0, 6: 6.2, 5: 6.0, 4: 5.8, 3: 5.2, 2: 4.6}
"""Milliseconds of one image by width, made up."""


@dataclass(frozen=True)
class Device:
    """What is simulated. ``noise``: standard deviation of the logarithm of service times.

    ``overhead_ms``: what a request takes before and after the queue, beside the engine.
    """

    ladder: Ladder
    workers: int
    noise: float
    overhead_ms: float = 0.0

    @property
    def capacity_per_s(self) -> float:
        """Requests per second that the widest rung serves at most."""
        return self.at_most_per_s(self.ladder.rungs[0])

    def at_most_per_s(self, rung: Rung) -> float:
        """Return the requests per second that a rung serves at most."""
        sizes = range(1, self.ladder.max_batch + 1)
        return 1000 * self.workers * max(size / self._mean_ms(rung, size) for size in sizes)

    def _mean_ms(self, rung: Rung, size: int) -> float:
        return rung.latency_ms(size) * math.exp(self.noise**2 / 2 - NINETY_PERCENT * self.noise)

    def service_ms(self, rung: Rung, size: int, rng: np.random.Generator) -> float:
        """Draw what a batch takes."""
        return rung.latency_ms(size) * math.exp(self.noise * (rng.standard_normal() - NINETY_PERCENT))


def simulate(policy: Policy, device: Device, due_s: np.ndarray[Any, Any], slo_ms: float, seed: int) -> Outcomes:
    """Return what becomes of requests that come at ``due_s``, ascending, and want an answer within ``slo_ms``."""
    ladder, rng = device.ladder, np.random.default_rng(seed)
    count = len(due_s)
    latency_ms, status = np.full(count, np.nan), np.full(count, EXPIRED)
    served = np.full(count, "", "U16")
    arrived_s = (due_s + device.overhead_ms / 2000).tolist()
    within_s = (slo_ms - device.overhead_ms) / 1000
    allowed = ladder.useful(ladder.all_rungs)
    if policy.name.startswith("fixed-"):  # also one that is pruned for auto
        allowed = 1 << (ladder.index(policy.name.removeprefix("fixed-")) or 0)
    free_s = [0.0] * device.workers
    queue: list[Waiting] = []
    ids: list[int] = []
    following = 0
    while following < count or queue:
        now_s = heapq.heappop(free_s)
        if not queue:
            now_s = max(now_s, arrived_s[following])
        while following < count and arrived_s[following] <= now_s:
            queue.append(Waiting(arrived_s[following] + within_s, allowed, hard=True))
            ids.append(following)
            following += 1
        first = max(0, following - ARRIVALS)
        span_s = now_s - arrived_s[first]
        rate_per_s = (following - first - 1) / span_s if span_s > 0 else 0.0
        chosen = policy.dispatch(ladder, Load(now_s, tuple(queue), rate_per_s, device.workers, (now_s, *free_s)))
        done_s = now_s
        if chosen.members:
            rung = ladder.rungs[chosen.rung]
            done_s += device.service_ms(rung, len(chosen.members), rng) / 1000
            of = [ids[position] for position in chosen.members]
            latency_ms[of] = 1000 * (done_s - due_s[of]) + device.overhead_ms / 2
            status[of] = OK
            served[of] = rung.precision
        heapq.heappush(free_s, done_s)
        gone = {*chosen.members, *chosen.drop}
        queue = [one for position, one in enumerate(queue) if position not in gone]
        ids = [one for position, one in enumerate(ids) if position not in gone]
    nothing = np.zeros(count)
    return Outcomes(due_s, nothing, latency_ms, status, nothing.astype(np.int64), served, np.full(count, np.nan))


def rows(
    name: str, device: Device, scenes: Sequence[Scene], policies: Sequence[str], arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Yield a row for each scene and policy: all seeds together."""
    accuracy = {rung.precision: rung.accuracy for rung in device.ladder.rungs}
    capacity_per_s = arguments.capacity or device.capacity_per_s
    narrowest_per_s = arguments.narrowest or device.at_most_per_s(device.ladder.rungs[-1])
    alone_ms = arguments.alone_ms or device.ladder.rungs[0].latency_ms(1)
    for scene in tqdm(scenes, desc=name, unit="scene", leave=False):
        slo_ms = scene.slo_factor * alone_ms
        due_s = [
            scene.moments(capacity_per_s, arguments.seconds, seed, arguments.data) for seed in range(arguments.seeds)
        ]
        most = float(np.mean([ceiling(due, narrowest_per_s, slo_ms) for due in due_s]))
        for policy in policies:
            decides = create_policy(policy)
            runs = [simulate(decides, device, due, slo_ms, seed) for seed, due in enumerate(due_s)]
            outcomes = Outcomes.joined(runs)
            scores = score(outcomes, slo_ms, accuracy, arguments.seconds * len(runs))
            yield {
                "ladder": name,
                "policy": policy,
                **scene.described(slo_ms),
                "workers": device.workers,
                "offered_per_s": scores["submitted"] / (arguments.seconds * len(runs)),
                **{name: scores[name] for name in MEASURES},
                "attainment_by_seed": [float(run.attained(slo_ms).mean()) for run in runs],
                "ceiling": most,
            }


def told(document: Mapping[str, Any], max_batch: int) -> Ladder:
    """Return the ladder that a server told. Nothing is run at its rungs: of a plan the mean width will do."""
    rungs = []
    for rung in document["rungs"]:
        bits = rung.get("mean_bits", rung["precision"])  # which servers before plans did not tell
        accuracy, times_ms = next(iter(rung["accuracy"].values()), 0.0), rung["batch_ms"]
        plan = Plan.uniform(round(bits))
        rungs.append(Rung(str(rung["precision"]), plan, bits, accuracy, times_ms["fixed"], times_ms["per_image"]))
    return Ladder.of(document["model"], tuple(rungs), max_batch)


def made_up(name: str, times_ms: Mapping[int, float], fixed_share: float, max_batch: int) -> Ladder:
    """Return a ladder of these times of one image, ``fixed_share`` of them whatever the batch."""
    rungs = tuple(
        Rung(str(bits), Plan.uniform(bits), bits, ACCURACY[bits], time_ms * fixed_share, time_ms * (1 - fixed_share))
        for bits, time_ms in times_ms.items()
    )
    return Ladder.of(name, rungs, max_batch)


def _measured(name: str, max_batch: int) -> Ladder:
    master, engine = read_master(find_master(name)), create_engine("auto", 1)
    times = measure(master, lambda plan: engine.derive(master, plan), max_batch, MEASURE_SECONDS)
    return measured_ladder(master, times, max_batch)


def main() -> None:
    """Simulate what is asked for, and print and write the report."""
    parser = command_line(__doc__)
    parser.add_argument("--master", help="a shipped master or a file, to be measured with one thread")
    parser.add_argument("--slo", type=Path, help="a report of benchmarks.slo: its ladder, capacity and objective")
    parser.add_argument("--data", type=Path, help="folder of data sets, for traces")
    parser.add_argument("--quick", action="store_true", help="only what benchmarks.slo has bars for")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--max-batch", type=int, default=16)
    parser.add_argument("--noise", type=float, default=0.05)
    parser.add_argument("--json", type=Path, help="the report, instead of benchmarks/results/simulate.json")
    arguments = parser.parse_args()
    arguments.capacity = arguments.narrowest = arguments.alone_ms = None
    overhead_ms = 0.0
    if arguments.slo is not None:
        report = json.loads(arguments.slo.read_text(encoding="utf-8"))
        ladders = [told(report["ladder"], arguments.max_batch)]
        arguments.capacity, arguments.alone_ms = report["capacity_per_s"], report["round_trip_ms"]
        arguments.narrowest = report["capacity_narrowest_per_s"]
        overhead_ms = report["round_trip_ms"] - report["engine_ms"]
    else:
        ladders = [made_up("steep", STEEP, 0.5, 16), made_up("shallow", SHALLOW, 0.05, 16)]
        if arguments.master is not None:
            ladders.append(_measured(arguments.master, arguments.max_batch))
    result: list[dict[str, Any]] = []
    for ladder in ladders:
        device = Device(ladder, arguments.workers, arguments.noise, overhead_ms)
        policies = [*ADAPTIVE, *(fixed(rung.precision) for rung in ladder.rungs)]
        scenes = bar_scenes() if arguments.quick else all_scenes(traces=arguments.data is not None)
        result += rows(ladder.model, device, scenes, policies, arguments)
    content = {
        "seconds": arguments.seconds,
        "seeds": arguments.seeds,
        "noise": arguments.noise,
        "workers": arguments.workers,
        "ladders": {ladder.model: _described(ladder) for ladder in ladders},
        "rows": result,
    }
    _print(result)
    print(f"wrote {write_report('simulate', content, arguments.json)}")


def _described(ladder: Ladder) -> list[dict[str, Any]]:
    useful = set(positions(ladder.useful(ladder.all_rungs)))
    return [
        {
            "precision": rung.precision,
            "accuracy": rung.accuracy,
            "fixed_ms": rung.fixed_ms,
            "per_image_ms": rung.per_image_ms,
            "useful": index in useful,
        }
        for index, rung in enumerate(ladder.rungs)
    ]


def _print(result: Sequence[Mapping[str, Any]]) -> None:
    print("ladder    policy       arrivals     load  SLO  attained  served  effective   p50 ms   p99 ms")
    for row in result:
        arrivals = row["arrivals"] + ("" if row["cv2"] is None else f" CV2 {row['cv2']:g}")
        print(
            f"{row['ladder']:9} {row['policy']:12} {arrivals:12} {row['load']:4.1f} {row['slo_factor']:3.0f}x  "
            f"{row['attainment']:8.4f}  {row['served_accuracy'] or 0:6.4f}  {row['effective_accuracy']:9.4f}"
            f" {row['p50_ms'] or 0:8.1f} {row['p99_ms'] or 0:8.1f}"
        )


if __name__ == "__main__":
    main()
