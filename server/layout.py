"""How many engine calls at the same time, and how many threads for each: measured on the cores there are."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from bitgear.checkpoint import Master
from bitgear.engines import DerivedModel, create_engine
from bitgear.kept import Key, keep, kept_file, recall
from bitgear.machine import available_cores, cache_folder
from server.ladder_cache import WHAT, device_key
from server.profiles import Profile
from server.settings import Settings

Aim = Literal["throughput", "latency"]

Learn = Callable[[Callable[[], bool]], None]
"""Measures something of the device, and keeps it if what it is given says that nothing has disturbed it."""

FORMAT = "bitgear-layout"

BUDGET_S = 0.2
"""How long each layout is measured."""

NOISE = 0.05
"""Two layouts whose latencies differ by no more than this share are alike; the one with more workers is taken."""

LEAD = 0.25
"""By what share the throughput of a layout must exceed that of one with more workers. Threads of one call wait for one
another, which costs little alone, and much beside all else that a server does: measured with the engine alone, fewer
workers look better than they serve."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """``workers`` engine calls at the same time, of ``threads`` threads each."""

    workers: int
    threads: int


@dataclass(frozen=True)
class Figures:
    """What a layout makes of calls of one image with all of its workers busy."""

    images_per_s: float
    latency_ms: float


def plan_layout(
    settings: Settings, profile: Profile, masters: Sequence[Master], measure: bool
) -> tuple[Layout, Learn | None]:
    """Return the layout that settings or the profile give, or the one that was found best on this device.

    Where that is not known yet, a likely one, and what finds the best one for the largest model, for later starts.
    ``measure``: whether it may be found so; it is not looked for where there is but one core, or settings measure none.
    """
    cores = available_cores()
    threads = profile.threads if settings.threads is None else settings.threads
    if settings.engine_workers is not None:
        return Layout(settings.engine_workers, threads or max(1, cores // settings.engine_workers)), None
    if threads is not None or not measure:
        return Layout(max(1, cores // (threads or 1)), threads or 1), None
    largest = max(masters, key=lambda master: master.nbytes * master.input.height_px * master.input.width_px)
    folder = settings.ladders or cache_folder()
    engine = create_engine(settings.engine, 1)
    key = {**device_key(largest, engine, 0, 0, cores), "aim": settings.layout}
    first = first_layout(cores, settings.layout)
    kept = read_layout(folder, key)
    if kept is not None or cores == 1 or settings.measure_s == 0:
        return kept or first, None

    def figures(layout: Layout) -> Figures:
        derived = create_engine(settings.engine, layout.threads).derive(largest, max(largest.widths))
        return measure_layout(derived, largest, layout, BUDGET_S)

    def learn(undisturbed: Callable[[], bool]) -> None:
        best = choose_layout(layouts(cores), figures, settings.layout)
        if not undisturbed():
            return
        write_layout(folder, key, best)
        if best != first:
            _logger.info("%d workers of %d threads are best here: from the next start on", best.workers, best.threads)

    return first, learn


def layouts(cores: int) -> list[Layout]:
    """Return the layouts that fill a number of cores, those with the most workers first.

    >>> layouts(4)
    [Layout(workers=4, threads=1), Layout(workers=2, threads=2), Layout(workers=1, threads=4)]
    """
    return [Layout(cores // threads, threads) for threads in range(1, cores + 1) if cores % threads == 0]


def first_layout(cores: int, aim: Aim) -> Layout:
    """Return the layout to begin with on a device of which nothing is known yet: what is mostly best for the aim."""
    return layouts(cores)[0 if aim == "throughput" else -1]


def choose_layout(candidates: list[Layout], measure: Callable[[Layout], Figures], aim: Aim) -> Layout:
    """Return the layout with the most images per second, or the one with the lowest latency."""
    if len(candidates) == 1:
        return candidates[0]
    figures = {layout: measure(layout) for layout in candidates}
    if aim == "throughput":
        most = max(each.images_per_s for each in figures.values())
        good = [layout for layout, each in figures.items() if each.images_per_s * (1 + LEAD) >= most]
    else:
        least = min(each.latency_ms for each in figures.values())
        good = [layout for layout, each in figures.items() if each.latency_ms <= least * (1 + NOISE)]
    return max(good, key=lambda layout: layout.workers)


def measure_layout(model: DerivedModel, master: Master, layout: Layout, budget_s: float) -> Figures:
    """Return what ``layout.workers`` threads make of a model whose calls take ``layout.threads`` threads each."""
    record = master.input
    q_image = np.zeros((1, 3, record.height_px, record.width_px), np.int8)
    model.run(q_image)
    durations_s: list[float] = []  # list.append is atomic
    ready = threading.Barrier(layout.workers + 1)
    threads = [
        threading.Thread(target=_call, args=(model, q_image, ready, budget_s, durations_s), daemon=True)
        for _ in range(layout.workers)
    ]
    try:
        for thread in threads:
            thread.start()
    except RuntimeError:  # there may be no more threads: those that there are do not wait for the others
        ready.abort()
        raise
    ready.wait()
    started_s = time.monotonic()
    for thread in threads:
        thread.join()
    elapsed_s = time.monotonic() - started_s
    return Figures(len(durations_s) / elapsed_s, float(np.median(durations_s)) * 1000)


def _call(
    model: DerivedModel, q_image: NDArray[np.int8], ready: threading.Barrier, budget_s: float, durations_s: list[float]
) -> None:
    try:
        ready.wait()
    except threading.BrokenBarrierError:
        return
    end_s = time.monotonic() + budget_s
    while True:
        started_s = time.monotonic()
        model.run(q_image)
        ended_s = time.monotonic()
        durations_s.append(ended_s - started_s)
        if ended_s >= end_s:
            return


def read_layout(folder: Path, key: Key) -> Layout | None:
    """Return the layout kept under a key; None if there is none, or none that can be used, which is logged."""
    return recall(kept_file(folder / "layouts", key), lambda content: _parse(content, key))


def write_layout(folder: Path, key: Key, layout: Layout) -> None:
    """Keep a layout under a key. That it cannot be written is logged, and no error."""
    content = {"format": FORMAT, "key": dict(key), **asdict(layout)}
    keep(kept_file(folder / "layouts", key), content, WHAT)


def _parse(content: object, key: Key) -> Layout:
    kept = _Content.model_validate(content)
    if kept.key != dict(key) or kept.workers * kept.threads > int(key["cores"]):
        raise ValueError("it is of another device")
    return Layout(kept.workers, kept.threads)


class _Content(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal["bitgear-layout"]
    key: dict[str, str | int]
    workers: Annotated[int, Field(ge=1)]
    threads: Annotated[int, Field(ge=1)]
