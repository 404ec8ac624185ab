"""How many pictures a second: our server at fixed widths, the engine alone on the same cores, and other servers.

    python -m benchmarks.serving --data FOLDER [--rounds 5] [--json FILE] [--tune-only | --tuned] [--resume]

All get the same JPEGs of 224x224 and run the same ResNet-18 of random weights: bitgear its master, LitServe and
MLServer ONNX Runtime or OpenVINO with the network quantised to int8. The others are tuned first (engine, format of
quantisation, workers, threads of each, batches) and get what gave them most. Then all are measured in turn, in an order
drawn anew in every round, while the processes of those whose turn it is not stand still: first as many requests as they
can answer, then all at the same offered load, for their latency.

In pieces: ``--tune-only``, some 3 minutes, then ``--tuned``, some 5. Whole rounds are kept in build/serving, and
``--resume`` goes on after them.

"The engine alone" runs codes that were made before, in a process of its own, a call on each core: what the server lacks
to that is what HTTP, JPEG and JSON cost.
"""

import base64
import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks import arrivals, loadgen, servers
from benchmarks.loadgen import Plan, Record
from benchmarks.measure import command_line, write_report
from benchmarks.networks import RANDOM, master_file
from benchmarks.peers import Peers
from benchmarks.pictures import Pictures, message, photographs
from benchmarks.servers import Server
from bitgear.checkpoint import read_master
from bitgear.convert.float_model import random_float_model
from bitgear.machine import available_cores

NETWORK = "resnet18-224"
WIDTHS = (8, 6, 4, 2)
WORK = Path("build/serving")
ENVIRONMENTS = Path("build/peers")
"""Where the other servers are installed, each in an environment of its own."""
APPS = Path(__file__).parent / "peer_servers"
CALLERS = 16
SATURATION_SECONDS, TUNING_SECONDS, LATENCY_SECONDS, ENGINE_SECONDS = 3.5, 3.0, 6.0, 1.5
LATENCY_SHARE = 0.7
"""Offered load when latency is measured, by the least saturation throughput of all at 8 bits."""
LATENCY_ROUNDS = 3
BATCH, BATCH_SECONDS = 4, 0.002
ENGINE = "engine alone"
FULL = ("8", "int8")


@dataclass(frozen=True)
class Layout:
    """How another server is set up: as workers of so many threads, each with an engine of its own.

    ``batch``: the largest one; 1 is none. ``network``: format of quantisation.
    """

    workers: int
    threads: int
    engine: str
    network: str = "QDQ"
    batch: int = 1

    def __str__(self) -> str:
        batch = "no batches" if self.batch == 1 else f"batches up to {self.batch}"
        return f"workers {self.workers}, threads {self.threads}, {batch}, {self.engine}, {self.network}"


@dataclass(frozen=True)
class Peer:
    """Another server: how it is started, and what a picture looks like to it."""

    name: str
    package: str
    start: Callable[[Layout, Path], contextlib.AbstractContextManager[Server]]
    request: Callable[[bytes], bytes]

    @property
    def version(self) -> str:
        """The installed one."""
        command = [_python(self.package), "-c", f"import importlib.metadata as m; print(m.version({self.package!r}))"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _python(package: str) -> str:
    return str(ENVIRONMENTS / package / "bin" / "python")


def _environment(layout: Layout) -> dict[str, str]:
    return {
        "PEER_ENGINE": layout.engine,
        "PEER_NETWORK": str((WORK / f"{layout.network}.onnx").resolve()),
        "PEER_THREADS": str(layout.threads),
        "PEER_BATCH": str(layout.batch),
        "PYTHONPATH": str(APPS),
    }


@contextlib.contextmanager
def litserve(layout: Layout, log: Path) -> Iterator[Server]:
    """Run LitServe for the duration of a block."""
    port = servers.free_port()
    command = [_python("litserve"), str(APPS / "litserve_app.py"), str(port), str(layout.workers), str(layout.batch)]
    with servers.run(command, port, "/health", log, _environment(layout)) as server:
        yield server


@contextlib.contextmanager
def mlserver(layout: Layout, log: Path) -> Iterator[Server]:
    """Run MLServer for the duration of a block."""
    port, grpc_port, metrics_port = (servers.free_port() for _ in range(3))
    folder = WORK / "mlserver"
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": grpc_port,
        "metrics_port": metrics_port,
        "metrics_dir": str((folder / "metrics").resolve()),
        "debug": False,
        "parallel_workers": layout.workers,
    }
    model = {
        "name": "resnet18",
        "implementation": "mlserver_model.Model",
        "max_batch_size": layout.batch if layout.batch > 1 else 0,
        "max_batch_time": BATCH_SECONDS if layout.batch > 1 else 0,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    command = [str(ENVIRONMENTS / "mlserver" / "bin" / "mlserver"), "start", str(folder)]
    with servers.run(command, port, "/v2/models/resnet18/ready", log, _environment(layout)) as server:
        yield server


def _litserve_request(picture: bytes) -> bytes:
    body = json.dumps({"image": base64.b64encode(picture).decode()}).encode()
    return message("/predict", body, "application/json", {})


def _mlserver_request(picture: bytes) -> bytes:
    image = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(picture).decode()]}
    return message("/v2/models/resnet18/infer", json.dumps({"inputs": [image]}).encode(), "application/json", {})


LITSERVE = Peer("LitServe", "litserve", litserve, _litserve_request)
MLSERVER = Peer("MLServer", "mlserver", mlserver, _mlserver_request)


@dataclass(frozen=True)
class Contestant:
    """A running server, the requests it gets, and the precision at which it answers them."""

    name: str
    precision: str
    server: Server
    requests: Sequence[bytes]

    def saturate(self, seconds: float) -> Record:
        """Have so many callers ask that it always has something to do."""
        record = loadgen.generate(loadgen.closed(self.server.port, self.requests, CALLERS, seconds))
        if not (record.status == 200).all():
            failed = record.answers[int(np.argmax(record.status != 200))]
            raise RuntimeError(f"{self.name} does not answer all: {failed[:500]!r}")
        return record

    def offer(self, due_s: arrivals.Moments) -> Record:
        """Send requests at these times."""
        which = np.arange(len(due_s)) % len(self.requests)
        plan = Plan(self.server.port, self.requests, which, due_s, float(due_s[-1]) + 1)
        return loadgen.generate(plan).whole(plan)


def tune(peer: Peer, pictures: Pictures, cores: int) -> tuple[Layout, dict[str, float]]:
    """Return the set-up of another server that gives most pictures a second, and what each one tried gives."""
    tried: dict[str, float] = {}
    requests = [peer.request(body) for body in pictures.bodies]

    def rate(layout: Layout) -> float:
        if str(layout) not in tried:
            with peer.start(layout, WORK / f"{peer.package}.log") as server:
                contestant = Contestant(peer.name, "int8", server, requests)
                contestant.saturate(1.0)
                tried[str(layout)] = loadgen.throughput(contestant.saturate(TUNING_SECONDS))
            print(f"  {peer.name}, {layout}: {tried[str(layout)]:.1f} a second")
        return tried[str(layout)]

    engines = (("OpenVINO", "QDQ"), ("ONNX Runtime", "QDQ"), ("ONNX Runtime", "QOperator"))
    best = max((Layout(cores, 1, engine, network) for engine, network in engines), key=rate)
    best = max((best, replace(best, workers=1, threads=cores), replace(best, workers=cores + 1)), key=rate)
    best = max((best, replace(best, batch=BATCH)), key=rate)
    return best, tried


def set_ups(
    peers: Sequence[Peer], pictures: Pictures, cores: int, file: Path, notes: Path, *, tuned: bool
) -> dict[str, Any]:
    """Return how each other server is set up, and what it was tried with: of ``file`` if ``tuned``, else tried now.

    What is tried is kept in the file, and drops the rounds in ``notes``, which may be of another set-up.
    """
    known: dict[str, Any] = json.loads(file.read_text()) if tuned else {}
    for peer in peers:
        if peer.package not in known:
            notes.unlink(missing_ok=True)
            layout, tried = tune(peer, pictures, cores)
            known[peer.package] = {"layout": asdict(layout), "tried": tried}
            file.write_text(json.dumps(known))
    return known


def engine_alone(path: Path, bits: int, threads: int, calls: int) -> float:
    """Return pictures a second of the engine: ``calls`` at the same time, of ``threads`` threads each."""
    command = [sys.executable, "-m", "benchmarks.engine_alone", str(path), *map(str, (bits, threads, calls))]
    command.append(str(ENGINE_SECONDS))
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def contest(contestants: Sequence[Contestant], path: Path, rounds: int, cores: int, notes: Path) -> dict[str, Any]:
    """Measure all in turn; return what the report says of throughput, of the engine alone, and of latency.

    Whole rounds are kept in the file ``notes``; those that are there are not measured again.
    """
    kept: dict[str, list[list[dict[str, Any]]]] = {"saturation": [], "latency": []}
    if notes.is_file():
        kept = json.loads(notes.read_text())
    for number in tqdm(range(len(kept["saturation"]), rounds), desc="saturation", unit="round"):
        kept["saturation"].append(_saturation_round(contestants, path, cores, number))
        notes.write_text(json.dumps(kept))
    turns = [turn for turns in kept["saturation"] for turn in turns]
    rates: dict[tuple[str, str], list[float]] = {}
    for turn in turns:
        rates.setdefault((turn["server"], turn["precision"]), []).append(turn["per_s"])
    full = [float(np.median(values)) for (name, bits), values in rates.items() if name != ENGINE and bits in FULL]
    offered_per_s = LATENCY_SHARE * min(full)
    for seed in tqdm(range(len(kept["latency"]), LATENCY_ROUNDS), desc="latency", unit="round"):
        kept["latency"].append(_latency_round(contestants, offered_per_s, seed))
        notes.write_text(json.dumps(kept))
    latencies: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for turn in (turn for turns in kept["latency"] for turn in turns):
        latencies.setdefault((turn["server"], turn["precision"]), []).append(turn)
    return {
        "callers": CALLERS,
        "rounds": rounds,
        "client_cpu_share": float(np.mean([turn["cpu_share"] for turn in turns if "cpu_share" in turn])),
        "offered_per_s": offered_per_s,
        "rows": [
            {
                "server": name,
                "precision": precision,
                **throughputs(values),
                **(percentiles(latencies[name, precision]) if (name, precision) in latencies else {}),
            }
            for (name, precision), values in sorted(rates.items())
        ],
    }


def _saturation_round(contestants: Sequence[Contestant], path: Path, cores: int, number: int) -> list[dict[str, Any]]:
    """Return pictures a second of all contestants and of the engine alone, each once, in an order drawn anew."""
    turns = [*contestants, *WIDTHS]
    found: list[dict[str, Any]] = []
    for index in np.random.default_rng(number).permutation(len(turns)):
        turn = turns[index]
        if isinstance(turn, int):
            with _paused(contestants):
                per_s = engine_alone(path, turn, 1, cores)
            found.append({"server": ENGINE, "precision": str(turn), "per_s": per_s})
        else:
            with _paused(contestants, but=turn):
                record = turn.saturate(SATURATION_SECONDS)
            row = {"server": turn.name, "precision": turn.precision, "per_s": loadgen.throughput(record)}
            found.append({**row, "cpu_share": record.cpu_s / record.wall_s})
    return found


def _latency_round(contestants: Sequence[Contestant], offered_per_s: float, seed: int) -> list[dict[str, Any]]:
    """Return what became of the same requests with each contestant, in an order drawn anew."""
    rng = np.random.default_rng(seed)
    due_s = arrivals.gamma(offered_per_s, 1.0, LATENCY_SECONDS, rng)
    found: list[dict[str, Any]] = []
    for index in rng.permutation(len(contestants)):
        contestant = contestants[index]
        with _paused(contestants, but=contestant):
            record = contestant.offer(due_s)
        answered = record.status == 200
        found.append(
            {
                "server": contestant.name,
                "precision": contestant.precision,
                "latency_ms": record.latency_ms[answered].tolist(),
                "lag_ms": record.lag_ms.tolist(),
                "unanswered": int((~answered).sum()),
            }
        )
    return found


def throughputs(rates: Sequence[float]) -> dict[str, Any]:
    """Return the median and the spread of rates over the rounds."""
    low, median, high = (float(value) for value in np.percentile(rates, [10, 50, 90]))
    return {"per_s": median, "per_s_p10": low, "per_s_p90": high, "per_s_by_round": list(rates)}


def percentiles(turns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return percentiles of latency over all rounds, the 99th of each round, and how late the client sent."""
    latency_ms = [turn["latency_ms"] for turn in turns]
    p50, p95, p99 = (float(value) for value in np.percentile(np.concatenate(latency_ms), [50, 95, 99]))
    return {
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "p99_ms_by_round": [float(np.percentile(values, 99)) for values in latency_ms],
        "unanswered": sum(turn["unanswered"] for turn in turns),
        "client_lag_p99_ms": float(np.percentile(np.concatenate([turn["lag_ms"] for turn in turns]), 99)),
    }


@contextlib.contextmanager
def _paused(contestants: Sequence[Contestant], but: Contestant | None = None) -> Iterator[None]:
    running = None if but is None else but.server
    with contextlib.ExitStack() as stack:
        for server in dict.fromkeys(contestant.server for contestant in contestants):
            if server is not running:
                stack.enter_context(server.paused())
        yield


def main() -> None:
    """Tune, measure, print and write the report."""
    servers.end_in_order()
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of imagenet1000.tar")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="the report, instead of benchmarks/results/serving.json")
    parser.add_argument("--peers", nargs="*", default=[LITSERVE.package, MLSERVER.package])
    tuning_is = parser.add_mutually_exclusive_group()
    tuning_is.add_argument("--tuned", action="store_true", help="take the set-ups that an earlier run found best")
    tuning_is.add_argument("--tune-only", action="store_true", help="find the best set-ups for a later run, no more")
    parser.add_argument("--resume", action="store_true", help="keep the rounds of an earlier run that was stopped")
    arguments = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    cores = available_cores()
    pictures = photographs(arguments.data)
    path = master_file(NETWORK)
    model = random_float_model(RANDOM[NETWORK])
    peers = [peer for peer in (LITSERVE, MLSERVER) if peer.package in arguments.peers]
    missing = [peer.package for peer in peers if not Path(_python(peer.package)).is_file()]
    if missing:
        raise SystemExit(f"not installed: {', '.join(missing)}; make bench-serving installs them")
    if not (WORK / "QDQ.onnx").is_file():
        calibration = np.random.default_rng(0).integers(0, 256, (4, 224, 224, 3)).astype(np.uint8)
        Peers(model, WORK, model.normalise(calibration))
    tuning_file = WORK / "set-ups.json"
    tuned = arguments.tuned or (arguments.resume and tuning_file.is_file())
    if tuned and not tuning_file.is_file():
        raise SystemExit(f"{tuning_file} does not exist; run with --tune-only first")
    notes = WORK / "rounds.json"
    tuning = set_ups(peers, pictures, cores, tuning_file, notes, tuned=tuned)
    if arguments.tune_only:
        return

    if not arguments.resume:
        notes.unlink(missing_ok=True)
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(servers.bitgear(WORK / "bitgear.log", {"models": str(path)}))
        name = read_master(path).name
        contestants = [Contestant("bitgear", str(bits), ours, _requests(pictures, name, bits)) for bits in WIDTHS]
        for peer in peers:
            layout = Layout(**tuning[peer.package]["layout"])
            server = stack.enter_context(peer.start(layout, WORK / f"{peer.package}.log"))
            contestants.append(Contestant(peer.name, "int8", server, [peer.request(body) for body in pictures.bodies]))
        for contestant in contestants:
            contestant.saturate(2.0)
        report = contest(contestants, path, arguments.rounds, cores, notes)
    _print(report)
    report["peers"] = {peer.name: {"version": peer.version, **tuning[peer.package]} for peer in peers}
    print(f"wrote {write_report('serving', {'network': NETWORK, 'pictures': pictures.name, **report}, arguments.json)}")


def _requests(pictures: Pictures, name: str, bits: int) -> list[bytes]:
    headers = {"Precision": str(bits)}
    return [message(f"/v1/models/{name}/classify", body, "image/jpeg", headers) for body in pictures.bodies]


def _print(report: Mapping[str, Any]) -> None:
    print(f"server        bits  per second (10-90 %)     at {report['offered_per_s']:.0f} a second: p50 ms    p99 ms")
    for row in report["rows"]:
        latency = f"{row['p50_ms']:8.1f}  {row['p99_ms']:8.1f}" if "p50_ms" in row else ""
        spread = f"{row['per_s_p10']:.1f}-{row['per_s_p90']:.1f}"
        print(f"{row['server']:12} {row['precision']:>5}  {row['per_s']:10.1f} ({spread})     {latency}")


if __name__ == "__main__":
    main()
