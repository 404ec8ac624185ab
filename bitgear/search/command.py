"""From a file to the same file with plans: what ``bitgear search`` does, progress bars included."""

import dataclasses
import sys
from collections.abc import Callable, Iterable, Set
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bitgear.bits import Plan, is_plan_name, plan_name
from bitgear.checkpoint import Master, read_master, rewrite_master, write_master
from bitgear.engines.registry import create_native
from bitgear.errors import MasterChanged, PlanInvalid
from bitgear.evaluate import Measured, check_measurable, evaluate_master, read_data
from bitgear.graph import IMAGE
from bitgear.machine import available_cores
from bitgear.models import find_master
from bitgear.plans import MAX_PLANS, NamedPlan, mean_bits
from bitgear.search.distance import BETWEEN, Distance
from bitgear.search.moves import Refined, refine
from bitgear.search.pictures import codes_of, read_pictures
from bitgear.search.programme import check_solver
from bitgear.search.report import check_plots, write_report
from bitgear.search.run import Result, SearchOptions, added, search
from bitgear.search.stated import apart
from bitgear.search.statistics import Statistics
from bitgear.search.timings import measure_timings, read_timings
from bitgear.search.trials import alone

CALIBRATION_PIXELS = 1 << 17
"""Of all pictures that batch norm is fitted on, where their number is not given: 128 of CIFAR-10's size."""
MIN_CALIBRATION, MAX_CALIBRATION = 16, 128


@dataclass(frozen=True)
class SearchRequest:
    """What the command line asks for. ``replace``: whether the master's present plans go; ``out`` None: in place."""

    model: str
    data: Path
    options: SearchOptions
    split: str | None
    test_split: str
    validate: int
    calibrate: int | None
    timings: Path | None
    replace: bool
    out: Path | None
    report: Path | None
    threads: int


def search_and_write(request: SearchRequest) -> Result:
    """Search, write the master and the report; the master is as it was if anything fails before that.

    What the report needs is asked for first. Lines on the standard error tell of timings that are given but were
    measured otherwise than plans are timed, of predictions that are far off, and of widths that were measured on other
    test pictures than the plans. Present plans go only if others were found. Raises
    :class:`~bitgear.errors.SearchError` for timings of another master, :class:`~bitgear.errors.PlanInvalid` where it
    has no room for what is wanted, and :class:`~bitgear.errors.MasterChanged` if it got other weights meanwhile.
    """
    check_solver()
    if request.report is not None:
        check_plots()
    path = find_master(request.model)
    held = read_master(path)
    replaced = {plan.name for plan in held.plans} if request.replace else set()
    master = _without_plans(held, replaced)
    _check_room(master, len(request.options.goals) + request.options.front)
    engine, runner = create_native(request.threads), create_native(available_cores())
    known = None if request.timings is None else read_timings(request.timings)
    if known is not None:
        known.check_master(master)
        for line in known.measured_otherwise(engine):
            tqdm.write(f"warning: {line}", file=sys.stderr)
    pictures = read_pictures(
        master, request.data, split=request.split, calibration=request.calibrate or calibration_count(master),
        validation=request.validate, rng=np.random.default_rng(request.options.seed),
    )  # fmt: skip
    test = read_data(master, request.data, request.test_split)
    check_measurable(test)  # comes last: too late to learn that nothing is labelled
    with ExitStack() as bars:

        def stage(name: str, parts: int) -> Callable[[int], object]:
            bar = bars.enter_context(tqdm(desc=name, total=parts or None, leave=False))
            return lambda count: bar.update(count)

        timings = known or measure_timings(master, engine, request.options.seconds, stage("layers", 0))
        result = search(master, engine, runner, timings, pictures, test, request.options, stage)
        if result.found:
            other = apart(
                master, runner, test, written=request.out or request.model, data=request.data,
                progress=stage("test, widest width", len(test)),
            )  # fmt: skip
            result = dataclasses.replace(result, apart=other)
    for warning in (timings.far_off({trial.plan: trial.use for trial in result.uniform}), result.apart):
        if warning is not None:
            tqdm.write(f"warning: {warning}", file=sys.stderr)
    if replaced and not result.found:
        told = "no plan was found to replace those that the master has, which stay"
        result = dataclasses.replace(result, master=held, told=[*result.told, told])
    if request.out is not None:
        write_master(result.master, request.out)
    elif result.found:
        result = _write(result, path, held, replaced)
    if request.report is not None:
        write_report(result, request.report)
    return result


def _write(result: Result, path: Path, held: Master, replaced: Set[str]) -> Result:
    """Add what was found to the master in a file, in place of some of its plans; return it as it was added.

    ``held``: the master as it was read; it may have got other plans since, which stay.
    """
    written = result

    def change(master: Master) -> Master:
        nonlocal written
        written = added(result, _without_plans(master, replaced))
        return written.master

    rewrite_master(path, change, of=held)
    return written


def _check_room(master: Master, wanted: int) -> None:
    """Raise :class:`~bitgear.errors.PlanInvalid` if a master could not hold so many more plans."""
    count = len(master.plans)
    if count + wanted > MAX_PLANS:
        raise PlanInvalid(
            f"model {master.name!r} has {count} plans and up to {wanted} are wanted; a master holds up to {MAX_PLANS}: "
            "ask for fewer, or drop what it has with bitgear search --replace"
        )


def _without_plans(master: Master, names: Set[str]) -> Master:
    plans = tuple(plan for plan in master.plans if plan.name not in names)
    return _untuned(dataclasses.replace(master, plans=plans, digest=""), names)


def _untuned(master: Master, names: Iterable[str]) -> Master:
    """Return a master that no longer says of these plans that they were tuned: what has their names now was not."""
    tuned = {name: how for name, how in master.provenance.get("tuned", {}).items() if name not in names}
    others = {name: value for name, value in master.provenance.items() if name != "tuned"}
    return dataclasses.replace(master, provenance={**others, **({"tuned": tuned} if tuned else {})}, digest="")


@dataclass(frozen=True)
class RefineRequest:
    """What ``bitgear refine`` asks for. ``start``: a width or the name of a plan; ``name`` None: the usual one."""

    model: str
    data: Path
    start: str
    name: str | None
    trials: int
    split: str | None
    test_split: str
    validate: int
    calibrate: int | None
    seed: int
    out: Path | None


@dataclass(frozen=True, eq=False)
class Refinement:
    """What moves led to, the plan as it was written, what it reaches in ``test``, and the master's mean width of it.

    ``plan`` None: nothing was written, since nothing was nearer to 8 bits than the start, or the master has a plan of
    the widths that are, or they are one width everywhere: ``held``, which stays as it is.
    """

    refined: Refined
    mean_bits: float
    plan: NamedPlan | None
    held: str | None = None
    test: Measured | None = None


def refine_and_write(request: RefineRequest) -> Refinement:
    """Refine a plan or a width, and write what is nearer to 8 bits; the master is as it was if anything fails before.

    A plan that is refined under its own name is replaced; its own scales, tuned for other widths, go, and the master
    no longer says that it was tuned. Raises :class:`~bitgear.errors.PlanInvalid` for a name that is none or that of
    another plan, and where the master has no room for one more, and :class:`~bitgear.errors.MasterChanged` if the
    master got other weights, or the plan other widths, meanwhile.
    """
    path = find_master(request.model)
    master = read_master(path)
    start = master.plan(request.start)
    if request.name is not None and not is_plan_name(request.name):
        raise PlanInvalid(f"{request.name[:40]!r} cannot name a plan; give 1 to 32 of a-z 0-9 . -, first a letter")
    if request.name in {each.name for each in master.plans} - {request.start.strip()}:
        raise PlanInvalid(
            f"model {master.name!r} has another plan {request.name!r}; give another name, or begin with that plan: "
            f"--start {request.name}"
        )
    if _wanted_name(master, request) not in {each.name for each in master.plans}:
        _check_room(master, 1)
    engine, rng = create_native(available_cores()), np.random.default_rng(request.seed)
    pictures = read_pictures(
        master, request.data, split=request.split, calibration=request.calibrate or calibration_count(master),
        validation=request.validate, rng=rng,
    )  # fmt: skip
    test = read_data(master, request.data, request.test_split)
    check_measurable(test)
    statistics = Statistics(master, engine, pictures.calibration)
    distance = Distance(master, engine, codes_of(pictures.validation, master.input), BETWEEN[master.task])

    def judge(plan: Plan) -> float:
        return distance.of(alone(master, plan, statistics.fit(plan) if plan.layers else None), plan)

    layers = [conv.name for conv in master.graph.searchable]
    image = {conv.name for conv in master.graph.searchable if conv.input == IMAGE}
    with tqdm(desc="moves", total=request.trials, leave=False) as bar:

        def progress(least: float) -> None:
            bar.set_postfix(distance=f"{least:.4f}")
            bar.update()

        refined = refine(start, layers, master.widths, judge, request.trials, rng, progress, image=image)
    mean = mean_bits(master.graph, refined.plan)
    if refined.distance >= refined.start_distance:
        return Refinement(refined, mean, None)
    plan = refined.plan
    held = next((each.name for each in master.plans if each.plan == plan), None) if plan.layers else str(plan)
    if held is not None:
        return Refinement(refined, mean, None, held)
    norms = statistics.fit(plan)
    measured = evaluate_master(alone(master, plan, norms), engine, test, [plan])[plan]
    other = apart(master, engine, test, written=request.out or request.model, data=request.data)
    named = NamedPlan("", plan, measured.stored, norms)

    def change(now: Master) -> Master:
        nonlocal named
        named = dataclasses.replace(named, name=_name(now, master, request, plan))
        return _untuned(now.with_plans([named]), [named.name])

    if request.out is None:
        rewrite_master(path, change, of=master)
    else:
        write_master(change(master), request.out)
    if other is not None:
        tqdm.write(f"warning: {other}", file=sys.stderr)
    if named.name in master.provenance.get("tuned", {}):
        tqdm.write(f"{named.name} was tuned; as it is now it is not: bitgear tune trains it again", file=sys.stderr)
    return Refinement(refined, mean, named, test=measured)


def _wanted_name(master: Master, request: RefineRequest) -> str | None:
    """Return the name that is asked for, or that of the plan to begin with; None: the usual one."""
    start = request.start.strip()
    return request.name or (start if start in {each.name for each in master.plans} else None)


def _name(now: Master, master: Master, request: RefineRequest, plan: Plan) -> str:
    """Return the name of a refined plan in the master as it is ``now``; ``master``: as it was read.

    Raises :class:`~bitgear.errors.MasterChanged` if that is the name of other widths by now.
    """
    held, before = ({each.name: each.plan for each in of.plans} for of in (now, master))
    name = _wanted_name(master, request)
    if name is None:
        return plan_name(mean_bits(master.graph, plan), held)
    if held.get(name) != before.get(name):
        raise MasterChanged(
            f"model {master.name!r} got other widths under the name {name!r} meanwhile, or lost them; run again"
        )
    return name


def calibration_count(master: Master) -> int:
    """Return how many pictures batch norm is fitted on: the smaller they are, the more."""
    pixels = master.input.height_px * master.input.width_px
    return min(max(CALIBRATION_PIXELS // pixels, MIN_CALIBRATION), MAX_CALIBRATION)
