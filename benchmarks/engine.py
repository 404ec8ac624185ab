"""The native engine beside others: milliseconds per width, what a width costs to get ready, and where the time goes.

    python -m benchmarks.engine [--networks resnet18-224 ...] [--batches 1 8] [--rounds 20] [--json FILE] ...

All contenders answer the same pictures with the same network in one process, in turn (:mod:`benchmarks.contest`).
Each peer takes part with all settings that may suit it (:mod:`benchmarks.peers`), less those that a shorter contest
shows to be far slower; its fastest counts. A ratio is the peer's time divided by ours, of the medians of a round: the
median over the rounds, and its spread, 10 to 90 percent of them. The best peer is the one of least median in the same
contest.

bitgear reads int8 codes, which it makes of a picture's bytes by table while it decodes it; the peers read float32 and
quantise it themselves.

Of ResNet-18 and MobileNetV2 the weights are random: their speed means something, their answers do not. ResNet-20, the
segmenter and the detector are shipped masters; their peers get what the 8-bit codes stand for, as float32.

With ``--kernel avx2`` or ``avx2-vnni`` the peers are held to it as well, where they can be, and ONNX Runtime, which
cannot, is left out: that is a look at processors without VNNI, and without AVX-512.
"""

import argparse
import gc
import importlib.metadata
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks import engine_figure
from benchmarks.contest import FP32, INT8, NATIVE, Contender, Times, hold, ratio
from benchmarks.engine_tables import Row, busy_note, layer_table, ready_table, table
from benchmarks.measure import command_line, write_report
from benchmarks.networks import ALL, NETWORKS, Network, network
from benchmarks.peers import Peers, hold_to, missing
from bitgear.bits import Plan
from bitgear.engines.cache import ModelCache
from bitgear.engines.native import NativeEngine, NativeModel
from bitgear.engines.registry import KERNEL_VARIABLE
from bitgear.machine import available_cores
from bitgear.tasks.metrics import SHOWN

PRECISIONS = ("8", "w8a7", "6", "4", "2")
TARGETS = {
    ("resnet18-224", INT8): {"8": 0.8, "w8a7": 1.0, "6": 1.2, "4": 1.5, "2": 2.2},
    ("resnet20-32", INT8): {"8": 1.1, "6": 1.3, "4": 1.5, "2": 2.0},
    ("segmenter-480x360", INT8): {"8": 0.8, "6": 1.1, "4": 1.4, "2": 2.0},
    ("detector-416x320", INT8): {"8": 0.8, "6": 1.1, "4": 1.4, "2": 2.0},
    ("mobilenetv2-224", INT8): {"8": 0.85, "6": 1.0, "4": 1.15, "2": 1.3},
    ("resnet18-224", FP32): {"2": 4.5},
}
"""Least ratio to the best peer that is aimed at, on two threads with single pictures."""
DERIVATION_TARGET_MS, SWITCH_TARGET_US = 10.0, 20.0
SWITCHES = 2000
PROMISING = 1.25
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm")
PACKAGES = ("numpy", "onnx", "onnxruntime", "openvino", "nncf", "torch")


@dataclass(frozen=True)
class Setting:
    """What a contest is about."""

    network: str
    batch: int
    threads: int


def main() -> None:
    """Run the measurements and print the tables."""
    arguments = _arguments()
    report: dict[str, Any] = {"conditions": conditions(), "rows": [], "ratios": [], "ladders": [], "ready": []}
    report |= {"rounds": arguments.rounds, "layers": []}
    report["conditions"]["peers_held_to"] = arguments.kernel if hold_to(arguments.kernel) else None
    print(busy_note(report["conditions"]), end="")
    for name in missing() if arguments.peers else ():
        print(f"{name} is not installed and takes no part; pip install -e '.[train,bench]' installs it")
    for name in arguments.networks:
        for key, rows in _measure(network(name), arguments).items():
            report[key] += rows
        report["conditions"]["load_average_after"] = os.getloadavg()
        path = write_report("engine", report, arguments.json)  # each time: a run that is stopped keeps what it has
    engine_figure.draw(report, path.with_suffix(".png"))
    print(f"wrote {path} and {path.with_suffix('.png')}")


def _arguments() -> argparse.Namespace:
    parser = command_line(__doc__)
    parser.add_argument("--networks", nargs="+", choices=ALL, default=NETWORKS, metavar="NAME", help=", ".join(ALL))
    parser.add_argument("--threads", type=int, nargs="+", default=[2])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS, help="widths, or pairs like w8a7")
    parser.add_argument("--rounds", type=int, default=20)
    kernel = os.environ.get(KERNEL_VARIABLE, "")
    parser.add_argument("--kernel", default=kernel, help=f"instruction set, instead of {KERNEL_VARIABLE}")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--layers", action=argparse.BooleanOptionalAction, default=True, help="rates of single layers")
    parser.add_argument("--json", type=Path, help="where the numbers go instead of benchmarks/results/engine.json")
    return parser.parse_args()


def _measure(subject: Network, arguments: argparse.Namespace) -> dict[str, list[Row]]:
    """Return what was measured of a network by kind, after printing it."""
    report: dict[str, list[Row]] = {"rows": [], "ratios": [], "ladders": [], "ready": [], "layers": []}
    plans = [Plan.parse(text) for text in arguments.precisions]
    with tempfile.TemporaryDirectory() as folder:
        peers = None
        if arguments.peers:
            calibration = subject.model.normalise(subject.pixels(4))
            peers = Peers(subject.model, Path(folder), calibration, held=hold_to(arguments.kernel))
        for threads in arguments.threads:
            engine = NativeEngine(threads, arguments.kernel)
            models = [engine.derive(subject.master, plan) for plan in plans]
            for batch in arguments.batches:
                setting = Setting(subject.name, batch, threads)
                rows, ratios, ladder = _contest(subject, setting, engine, models, peers, arguments.rounds)
                report["rows"] += rows
                report["ratios"] += ratios
                report["ladders"].append(ladder)
                print(table(rows, ratios, ladder), flush=True)
                gc.collect()  # sessions of the peers hold threads and memory
            if arguments.layers:
                layers = profile(subject, models, threads, arguments.rounds)
                report["layers"] += layers
                print(layer_table(layers), flush=True)
    ready = readiness(subject, plans, arguments.kernel, arguments.rounds)
    report["ready"].append(ready)
    print(ready_table(ready), flush=True)
    return report


def _contest(
    subject: Network,
    setting: Setting,
    engine: NativeEngine,
    models: Sequence[NativeModel],
    peers: Peers | None,
    rounds: int,
) -> tuple[list[Row], list[Row], Row]:
    """Return rows, ratios and the ladder of one setting."""
    pixels = subject.pixels(setting.batch)
    q_image, images = subject.master.input.encode(pixels), subject.model.normalise(pixels)
    contenders = [_native(model, q_image, engine.instruction_set) for model in models]
    if peers is not None:
        contenders += _promising(list(peers.contenders(np.ascontiguousarray(images), setting.threads)), rounds)
    wanted = subject.model.session().run(None, {"image": images})[0]
    times = hold(contenders, rounds, label=f"{setting.network}, batch {setting.batch}")
    kept = best_settings(contenders, times)
    contenders, times = [contenders[i] for i in kept], [times[i] for i in kept]
    rows = [
        {
            **asdict(setting),
            "weights": subject.weights,
            **row(contender, measured),
            "correlation_with_fp32": float(np.corrcoef(wanted.ravel(), contender.call().ravel())[0, 1]),
        }
        for contender, measured in zip(contenders, times, strict=True)
    ]
    for entry, model in zip(rows, models, strict=False):  # ours come first
        bits = model.plan.default.weight_bits
        accuracy = subject.master.accuracy.get(bits, {})
        if model.plan == Plan.uniform(bits):
            entry |= {name: accuracy[name] for name in SHOWN if name in accuracy}
    return rows, ratios(setting, contenders, times), ladder(setting, contenders, times)


def _native(model: NativeModel, q_image: NDArray[np.int8], instruction_set: str) -> Contender:
    return Contender(NATIVE, str(model.plan), instruction_set, lambda: model.run(q_image))


def _promising(variants: Sequence[Contender], rounds: int) -> list[Contender]:
    """Return those that are not much slower in a shorter contest than the fastest of their engine and precision."""
    times = hold(variants, max(3, rounds // 4), label="best settings of the peers")
    fastest = [(variants[i], times[i].median_ms) for i in best_settings(variants, times)]
    limits_ms = {(c.engine, c.precision): PROMISING * median_ms for c, median_ms in fastest}
    return [c for c, t in zip(variants, times, strict=True) if t.median_ms <= limits_ms[c.engine, c.precision]]


def best_settings(contenders: Sequence[Contender], times: Sequence[Times]) -> list[int]:
    """Return the indices of all ours and of the fastest contender of each other engine and precision, in order."""
    best: dict[tuple[str, str], int] = {}
    for index, (contender, measured) in enumerate(zip(contenders, times, strict=True)):
        key = (contender.engine, contender.precision)
        if key not in best or measured.median_ms < times[best[key]].median_ms:
            best[key] = index
    return sorted(best.values())


def row(contender: Contender, times: Times) -> Row:
    """Return what is reported of a contender."""
    native = contender.engine == NATIVE
    return {
        "engine": NATIVE if native else f"{contender.engine}-{contender.precision}",
        "precision": contender.precision,
        "settings": contender.settings,
        "median_ms": times.median_ms,
        "p10_ms": times.percentile_ms(10),
        "p90_ms": times.percentile_ms(90),
        "calls": sum(map(len, times.rounds_ms)),
        "median_ms_by_round": [float(np.median(calls)) for calls in times.rounds_ms],
        "rest_before_ms": float(np.median(times.rest_ms)),
    }


def ratios(setting: Setting, contenders: Sequence[Contender], times: Sequence[Times]) -> list[Row]:
    """Return the ratios of the best int8 peer and of the best fp32 peer to each of our precisions."""
    result: list[Row] = []
    measured = list(zip(contenders, times, strict=True))
    for kind in (INT8, FP32):
        of_kind = [(c, t) for c, t in measured if c.engine != NATIVE and c.precision == kind]
        if not of_kind:
            continue
        peer, theirs = min(of_kind, key=lambda pair: pair[1].median_ms)
        aimed = TARGETS.get((setting.network, kind), {}) if (setting.batch, setting.threads) == (1, 2) else {}
        for contender, ours in measured:
            if contender.engine == NATIVE:
                found, target = ratio(theirs, ours), aimed.get(contender.precision)
                result.append(
                    {
                        **asdict(setting),
                        "precision": contender.precision,
                        "against": kind,
                        "peer": f"{peer.engine}-{peer.precision}",
                        "ratio": found.median,
                        "p10": found.p10,
                        "p90": found.p90,
                        "target": target,
                        "met": None if target is None else found.median >= target,
                    }
                )
    return result


def ladder(setting: Setting, contenders: Sequence[Contender], times: Sequence[Times]) -> Row:
    """Return whether every lower width takes less time than the one above it, and how much less."""
    by_width = {int(c.precision): t for c, t in zip(contenders, times, strict=True) if c.precision.isdigit()}
    steps = []
    for upper, lower in pairwise(sorted(by_width, reverse=True)):
        found = ratio(by_width[upper], by_width[lower])
        steps.append({"from": upper, "to": lower, "ratio": found.median, "p10": found.p10, "p90": found.p90})
    return {**asdict(setting), "steps": steps, "falls": all(step["ratio"] > 1 for step in steps)}


def profile(subject: Network, models: Sequence[NativeModel], threads: int, rounds: int) -> list[Row]:
    """Return time and rate of every step with single pictures: medians over the calls."""
    q_image = subject.master.input.encode(subject.pixels(1))
    return [
        {
            **asdict(Setting(subject.name, 1, threads)),
            "precision": str(model.plan),
            "layer": name,
            "path": path,
            "macs": macs,
            "ms": 1e3 * seconds,
            "gmac_per_s": macs / seconds / 1e9 if seconds > 0 else 0.0,
        }
        for model in models
        for name, path, macs, seconds in model.core.profile(q_image, threads, max(rounds, 5))
    ]


def readiness(subject: Network, plans: Sequence[Plan], kernel: str, rounds: int) -> Row:
    """Return what it takes to have a width ready: derivation on one core, a switch between resident ones, and memory.

    A derivation starts from the master in memory and ends with a model that can run. A switch is what a request pays
    for another width than that of the request before it: the look-up of a derived model.
    """
    master, engine = subject.master, NativeEngine(1, kernel)
    samples_ms: dict[Plan, list[float]] = {plan: [] for plan in plans}
    rng = np.random.default_rng(0)
    for _ in tqdm(range(rounds), desc=f"{subject.name}, derivation", unit="round", leave=False):
        for index in rng.permutation(len(plans)):
            started = time.perf_counter()
            engine.derive(master, plans[index])
            samples_ms[plans[index]].append(1e3 * (time.perf_counter() - started))
    cache = ModelCache(engine, 1 << 40)
    models = {plan: cache.get(master, plan) for plan in plans}
    switches_us = []
    for index in range(SWITCHES):
        plan = plans[index % len(plans)]
        started = time.perf_counter()
        cache.get(master, plan)
        switches_us.append(1e6 * (time.perf_counter() - started))
    derivations = []
    for plan in plans:
        p10, median, p90 = (float(value) for value in np.percentile(samples_ms[plan], [10, 50, 90]))
        derivations.append(
            {
                "precision": str(plan),
                "median_ms": median,
                "p10_ms": p10,
                "p90_ms": p90,
                "resident_bytes": models[plan].nbytes,
            }
        )
    p10, median, p90 = (float(value) for value in np.percentile(switches_us, [10, 50, 90]))
    return {
        "network": subject.name,
        "weights": subject.weights,
        "derivation": derivations,
        "derivation_target_ms": DERIVATION_TARGET_MS if subject.name == "resnet18-224" else None,
        "switch": {"median_us": median, "p10_us": p10, "p90_us": p90, "target_us": SWITCH_TARGET_US},
        "master_bytes": master.nbytes,
    }


def conditions() -> dict[str, Any]:
    """Return what the numbers depend on: processor, packages, and how busy the machine was."""
    info = Path("/proc/cpuinfo")
    words = set(info.read_text(encoding="utf-8").split()) if info.is_file() else set()
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "cores": available_cores(),
        "architecture": platform.machine(),
        "flags": [flag for flag in FLAGS if flag in words],
        "packages": versions,
        "load_average_before": os.getloadavg(),
    }


if __name__ == "__main__":
    main()
