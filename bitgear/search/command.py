"""From a file to the same file with plans: what ``bitgear search`` does, progress bars included."""

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bitgear.checkpoint import Master, read_master, rewrite_master, write_master
from bitgear.engines.registry import create_native
from bitgear.evaluate import read_data
from bitgear.machine import available_cores
from bitgear.models import find_master
from bitgear.search.pictures import read_pictures
from bitgear.search.report import write_report
from bitgear.search.run import Result, SearchOptions, search
from bitgear.search.timings import measure_timings, read_timings

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
    """Search, write the master and the report; the master is as it was if anything fails before that."""
    path = find_master(request.model)
    master = read_master(path)
    if request.replace:
        master = dataclasses.replace(master, plans=())
    engine, runner = create_native(request.threads), create_native(available_cores())
    pictures = read_pictures(
        master, request.data, split=request.split, calibration=request.calibrate or calibration_count(master),
        validation=request.validate, rng=np.random.default_rng(request.options.seed),
    )  # fmt: skip
    test = read_data(master, request.data, request.test_split)
    with ExitStack() as bars:

        def stage(name: str, parts: int) -> Callable[[int], object]:
            bar = bars.enter_context(tqdm(desc=name, total=parts or None, leave=False))
            return lambda count: bar.update(count)

        if request.timings is None:
            timings = measure_timings(master, engine, request.options.seconds, stage("layers", 0))
        else:
            timings = read_timings(request.timings)
        result = search(master, engine, runner, timings, pictures, test, request.options, stage)
    if request.out is None:
        rewrite_master(path, lambda stored: dataclasses.replace(stored, plans=result.master.plans))
    else:
        write_master(result.master, request.out)
    if request.report is not None:
        write_report(result, request.report)
    return result


def calibration_count(master: Master) -> int:
    """Return how many pictures batch norm is fitted on: the smaller they are, the more."""
    pixels = master.input.height_px * master.input.width_px
    return min(max(CALIBRATION_PIXELS // pixels, MIN_CALIBRATION), MAX_CALIBRATION)
