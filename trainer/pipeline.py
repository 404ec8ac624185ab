"""From a configuration to a master and its report: what ``bitgear train`` does."""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from bitgear.bits import WIDTHS
from bitgear.checkpoint import Master, read_master, rewrite_master, write_master
from bitgear.convert.float_model import read_metadata
from bitgear.engines import Engine, create_engine
from bitgear.engines.registry import most_threads
from bitgear.errors import BitgearError, MasterChanged, PrecisionNotOffered
from bitgear.files import write_atomically, write_json
from bitgear.plans import NamedPlan, check_plans
from trainer import configs
from trainer.config import ConfigError, HasbConfig, RunConfig, read_config
from trainer.export import build_master, export, export_own, export_plan, replacing, versions, with_own
from trainer.hasb import sensitive_layers
from trainer.hessian import FLOATS, Traces, TracesInvalid, measure_traces, network_fingerprint
from trainer.loop import Run, create_network, join_processes, kernels_of, prepare
from trainer.model import Pass, QuantNet
from trainer.quantizers import Kernels
from trainer.report import Sheet, draw_traces, write_report
from trainer.restore import check_data, check_network, load_floats, load_master, load_trained
from trainer.schedule import trained_recipe
from trainer.supernet import HASB_STATE, SuperNetwork
from trainer.tasks import create_task
from trainer.tasks.base import Examined, Metrics, on_device
from trainer.tune import Tuning
from trainer.with_plan import PLAN_STATE, WithPlan, plan_of

SHEET_WIDTHS = (8, 4, 2)
"""Widths on the contact sheet."""


def find_config(path: Path) -> Path:
    """Return the path of a configuration: a file, or a name alone that is shipped; raise :class:`ConfigError`."""
    if path.is_file():
        return path
    if len(path.parts) > 1:
        raise ConfigError(f"configuration {path} does not exist; give a file, or the name alone of a shipped one")
    return shipped_config(path.name)


def shipped_config(name: str) -> Path:
    """Return the path of a shipped configuration such as ``cifar10_resnet20``; raise :class:`ConfigError`."""
    folder = Path(configs.__file__).parent
    path = folder / f"{name.removesuffix('.toml')}.toml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.toml")))
        raise ConfigError(f"{name!r} is neither a file nor a shipped configuration; shipped are {known}")
    return path


def train_master(
    config_path: Path,
    data: Path,
    out: Path,
    *,
    weights: Path | None,
    teacher: Path | None,
    masters: Sequence[Path] = (),
    from_epoch: int | None = None,
) -> Path | None:
    """Train to the end (resuming what is in ``out``), export, measure, report; return the master's path.

    ``masters``: one to go on from, or several, of which the mean is the start.

    Under ``torchrun`` only the first process exports; the others return None.
    """
    config = read_config(config_path)
    process = join_processes(config.train.device)
    run = Run(config, data, out, weights=weights, teacher=teacher, masters=masters, process=process)
    planned = [NamedPlan(name, entry.plan) for name, entry in config.plans.items()]
    if config.with_plan is not None:
        planned.append(plan_of(run.masters, config.with_plan.plan))
    check_plans(planned, run.task.graph, WIDTHS)
    run.fit(from_epoch, _stage_state(config, out))
    if config.hasb is not None:
        fit_supernet(run, config.hasb, anew=from_epoch is not None)
    own = None
    if config.with_plan is not None:
        stage = WithPlan(run, config.with_plan)
        stage.fit(anew=from_epoch is not None)
        own = stage.plan
    if not process.first:
        return None
    sources = {"weights": _provenance(weights), "teacher": _provenance(teacher)}
    if run.masters:
        sources["masters"] = [{"name": master.name, "sha256": master.digest} for master in run.masters]
    return finish(run, data, sources, own)


def _stage_state(config: RunConfig, out: Path) -> Path | None:
    """Return where the stage after joint training has its state; None without one."""
    if config.hasb is not None:
        return out / HASB_STATE
    return None if config.with_plan is None else out / PLAN_STATE


def fit_supernet(run: Run, settings: HasbConfig, *, anew: bool = False) -> None:
    """Train the super-network stage of a run, after the traces that it needs unless its master knows them."""
    layers = {conv.name: False for conv in run.model.graph.searchable}
    if settings.sampling == "hasb":
        layers = sensitive_layers(_sensitivities(run))
    SuperNetwork(run, settings, layers).fit(anew=anew)


def _sensitivities(run: Run) -> Mapping[str, float]:
    """Return the traces by layer: of the run's folder, of the master that it goes on from, or measured now."""
    path = run.out / "traces.json"
    if not path.is_file() and (known := _known_sensitivities(run)):
        return known
    if run.process.first:
        network = _start_name(run.config)
        measure_traces(run.fp32_network(), run.task, run.config, path, network=network, progress=run.progress)
    run.process.wait()
    return Traces.read(path).average()


def _known_sensitivities(run: Run) -> Mapping[str, float]:
    """Return the traces of the first master that a run goes on from; empty without one."""
    return run.masters[0].sensitivities if run.masters else {}


def _start_name(config: RunConfig) -> str:
    return f"the FP32 start of {config.network.name}"


def measure_sensitivities(
    config_path: Path, data: Path, out: Path, *, weights: Path | None, master: Path | None
) -> Traces:  # fmt: skip
    """Measure the traces of a float network into the folder ``out`` and, if given, a master; return them.

    They are drawn with the widths of the master's plans.

    The network is that of ``weights``, or the FP32 start of the run in ``out``, or that of the master's 8-bit weights
    as floats. Raises :class:`~trainer.config.ConfigError` if there is none, ``weights`` are not of all its layers, or
    the folder's traces are of another network, seed or data.
    """
    config = read_config(config_path)
    device = prepare(config.train)
    task = create_task(config, data, device)
    model = create_network(task.graph, task, config, Kernels())
    stored, start = None if master is None else read_master(master), out / "fp32.pt"
    if stored is not None:
        check_data(stored, task.labels, task.record)
        check_network(stored, task.graph)
    if weights is not None:
        if not task.start(model, weights):
            raise ConfigError(
                f"{weights} is of the encoder alone, the rest is untrained; give the fp32.pt of a whole run"
            )
        network = _start_name(config)
    elif start.is_file():
        load_trained(model, start)
        network = _start_name(config)
    elif stored is not None:
        load_floats(model, stored)
        network = f"the 8-bit weights of {stored.name} as floats"
    else:
        raise ConfigError(f"no float network: {start} does not exist; give --weights or --master")
    out.mkdir(parents=True, exist_ok=True)
    traces = measure_traces(model.to(device), task, config, out / "traces.json", network=network)
    plans = {} if stored is None else {each.name: each.plan for each in stored.plans}
    draw_traces(traces, plans, out / "traces.png")
    if master is not None:
        rewrite_master(master, lambda held: replace(held, sensitivities=traces.average(), digest=""))
    return traces


@dataclass(frozen=True)
class Tuned:
    """What tuning made of a plan: rows by epoch, the start among them, and metrics of the test split.

    ``before``: of the plan as the master held it when tuning began.
    """

    name: str
    rows: list[dict[str, Any]]
    before: Mapping[str, float]
    after: Mapping[str, float]


def tune_plans(
    config_path: Path, data: Path, out: Path, *, master: Path, names: Sequence[str] = (), progress: bool = True
) -> list[Tuned]:
    """Train batch norm and scales of plans of a master, all or those named, and write those that gain by it into it.

    Returns what they reach. The folder ``out`` keeps the state of every plan and ``tuned.json``. The test split is
    opened once all are trained.
    Raises :class:`~trainer.config.ConfigError` where epochs would be chosen by the test split, or the master has no
    plans, :class:`~bitgear.errors.PrecisionNotOffered` for a plan that it does not have, and
    :class:`~bitgear.errors.MasterChanged` for a plan or a master that was written anew meanwhile.
    """
    config = read_config(config_path)
    device = prepare(config.train)
    stored = read_master(master)
    held = {each.name: each for each in stored.plans}
    if not held:
        raise ConfigError(f"master {stored.name!r} has no plans; bitgear search finds some")
    for name in names:
        if name not in held:
            raise PrecisionNotOffered(name, held, stored.name)
    told = _read_tuned(out / "tuned.json")
    task = create_task(config, data, device)
    check_data(stored, task.labels, task.record)
    if task.watches_test:
        raise ConfigError("epochs would be chosen by the test split; hold some training images out: data.held_out")
    model = create_network(task.graph, task, config, kernels_of(config.train, device))
    load_master(model.to(device), stored, stored.widths)
    out.mkdir(parents=True, exist_ok=True)
    tunings = []
    for name in names or held:
        tuning = Tuning(model, task, config, stored, held[name], out / f"tune-{name}.pt", progress=progress)
        tuning.fit()
        tunings.append(tuning)
    cpu, engine, examined = torch.device("cpu"), _engine(), task.examine()
    q_images = examined.codes(task.compared_images)
    model.to(cpu)
    results = []
    for tuning in tunings:
        plan, before = tuning.plan, tuning.before
        if before is None:  # else the master may hold what tuning has made of it
            before = examined.measure(engine.derive(stored, plan.plan).run, lambda _: None)
            tuning.keep_before(before)
        after = before
        if tuning.improved:
            tuning.give()
            tuned = with_own(stored, model, replace(plan, accuracy={}), q_images, engine)
            after = examined.measure(engine.derive(tuned, plan.plan).run, lambda _: None)
            record = {"recipe": config.tune.model_dump(mode="json"), "images": task.training_images}
            named = replace(next(each for each in tuned.plans if each.name == plan.name), accuracy=after)
            rewrite_master(master, partial(_with_tuned, named=named, record=record), of=stored)
        told[plan.name] = {"epochs": tuning.rows, "before": before, "after": after}
        write_json(out / "tuned.json", told, indent=1)
        results.append(Tuned(plan.name, tuning.rows, before, after))
    return results


def _read_tuned(path: Path) -> dict[str, Any]:
    """Return what ``tuned.json`` tells of plans that were tuned before; raise :class:`ConfigError` for another file."""
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_bytes()))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path} is no report of bitgear tune; delete it or choose another --out") from error


def _with_tuned(master: Master, named: NamedPlan, record: Mapping[str, Any]) -> Master:
    """Return a master with a plan as it was tuned, that says how it was."""
    if named.plan not in [each.plan for each in master.plans if each.name == named.name]:
        raise MasterChanged(
            f"model {master.name!r} has no plan {named.name!r} of the widths that were tuned any more; tune what it has"
        )
    tuned = {**master.provenance.get("tuned", {}), named.name: record}
    return replace(master.with_plans([named]), provenance={**master.provenance, "tuned": tuned})


def _traces(run: Run, floats: QuantNet) -> Traces | None:
    """Return the traces in the run's folder if a round of them is complete and they are of its float network.

    Those of another are no use to the master, and no reason to give up what was trained.
    """
    path = run.out / "traces.json"
    try:
        traces = Traces.read(path) if path.is_file() else None
    except TracesInvalid as error:
        tqdm.write(f"warning: {error}", file=sys.stderr)
        return None
    if traces is None or not traces.rounds:
        return None
    if traces.subject.get(FLOATS) != network_fingerprint(floats):
        tqdm.write(f"warning: {path} is of another float network; the master goes without it", file=sys.stderr)
        return None
    return traces


def finish(run: Run, data: Path, sources: dict[str, Any], own: NamedPlan | None = None) -> Path:
    """Calibrate, export and prove the master with its plans, measure all through the serving engine, and report.

    ``own``: the plan of which the network holds batch norm and scales, if it does.
    The pictures of the test split are opened here and nowhere before, unless training watches them
    (:attr:`Task.watches_test`: classification without ``data.held_out``). The FP32 network that joint training started
    from is measured by the same code. A master of before stays in its place until the new one is complete.
    """
    config, task = run.config, run.task
    run.calibrate()
    if own is not None:
        run.model.calibrate_own(own.plan, run.calibration_batches())
    cpu = torch.device("cpu")
    run.model.to(cpu).eval()
    float_network = run.fp32_network().to(cpu).eval()
    engine = _engine()
    examined = task.examine()
    path = run.out / f"{config.network.name}.safetensors"
    q_images = examined.codes(task.compared_images)
    traces = _traces(run, float_network)
    sensitivities = _known_sensitivities(run) if traces is None else traces.average()
    provenance: dict[str, Any] = {
        "data": f"{task.training_images} training images of {data.name}",
        "recipe": trained_recipe(config, run.history),
        "seed": config.train.seed,
        "versions": versions(),
        "training_seconds": round(run.history.seconds + sum(row["seconds"] for row in run.history.fp32_epochs)),
        **{name: source for name, source in sources.items() if source is not None},
    }

    def built(accuracy: dict[int, Metrics]) -> Master:
        return build_master(
            run.model, run.record, config.network.name, task.labels, task=task.name, accuracy=accuracy,
            provenance=provenance, sensitivities=sensitivities,
        )  # fmt: skip

    run_float = on_device(lambda codes: float_network(codes, Pass(None, training=False)), cpu)
    with replacing(path) as unfinished:
        master = export(built({}), run.model, unfinished, q_images, engine)
        bar = tqdm(total=(len(WIDTHS) + 1) * examined.images, unit="image", disable=not run.progress, leave=False)
        with bar:
            float_metrics = examined.measure(run_float, bar.update)
            accuracy = {bits: examined.measure(engine.derive(master, bits).run, bar.update) for bits in WIDTHS}
        provenance |= _named("fp32", float_metrics) | _named("teacher", run.history.teacher or {})
        export(built(accuracy), run.model, unfinished, q_images, engine)
        _export_plans(run, own, unfinished, examined, q_images, engine)
        _keep_plans(path, read_master(unfinished))
    master = read_master(path)
    if traces is not None:
        draw_traces(traces, {each.name: each.plan for each in master.plans}, run.out / "traces.png")
    columns = {"FP32": run_float} | {f"{b} bit": engine.derive(master, b).run for b in SHEET_WIDTHS}
    sheet = Sheet(("truth", *columns), examined.sheet(columns))
    write_report(
        run.out, master, run.history, path.stat().st_size, metric=task.metric, fp32=float_metrics, sheet=sheet,
        watches_test=task.watches_test,
    )  # fmt: skip
    return path


def _export_plans(
    run: Run, own: NamedPlan | None, path: Path, examined: Examined, q_images: NDArray[np.int8], engine: Engine
) -> None:  # fmt: skip
    """Add to a master, with what they reach, the plan whose own the network holds and those of the configuration."""

    def measure(exported: Master, name: str) -> None:
        metrics = examined.measure(engine.derive(exported, exported.plan(name)).run, lambda _: None)
        write_master(exported.with_accuracy({name: metrics}), path)

    if own is not None:  # first, since the others take the place of its batch norm and must not find its scales
        measure(export_own(path, run.model, own, q_images, engine), own.name)
        run.model.disown()
    batches = [batch.cpu() for batch in run.calibration_batches()]
    norms = "width" if run.config.hasb is None else run.config.hasb.batch_norm
    for name, entry in run.config.plans.items():
        named = NamedPlan(name, entry.plan)
        measure(export_plan(path, run.model, named, batches, norms, q_images, engine), name)


def _keep_plans(path: Path, new: Master) -> None:
    """Copy a master that has plans found since, or tuned, or traces, if the new one to come lacks them."""
    try:
        held = read_master(path)
    except BitgearError:  # none, or nothing to keep
        return
    kept, plans = ({(each.name, each.plan) for each in master.plans} for master in (new, held))
    traces = bool(held.sensitivities) and not new.sensitivities
    if plans <= kept and "tuned" not in held.provenance and not traces:
        return
    number = 1
    while (aside := path.with_suffix(f".before-{number}{path.suffix}")).exists():
        number += 1
    write_atomically(aside, path.read_bytes())
    tqdm.write(f"The new master lacks plans or traces of the one before; a copy of that is {aside}.", file=sys.stderr)


def _named(who: str, metrics: Metrics) -> Metrics:
    """Return the metrics under names such as ``fp32_top1``."""
    return {f"{who}_{name}": value for name, value in metrics.items() if name != "images"}


def _engine() -> Engine:
    """Return the engine that serves, with as many threads as torch has, or as it takes."""
    return create_engine(threads=min(torch.get_num_threads(), most_threads()))


def _provenance(weights: Path | None) -> Any:
    """Return where FP32 weights come from: the metadata of a safetensors file, the digest of another run's network."""
    if weights is None:
        return None
    if weights.suffix != ".safetensors":
        return {"file": weights.name, "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
    return {"file": weights.name, **read_metadata(weights)}
