"""How many engine calls at the same time, and how many threads for each: measured on the cores there are."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bitgear.checkpoint import Master
from bitgear.engines import DerivedModel

Aim = Literal["throughput", "latency"]

NOISE = 0.05
"""Two layouts whose latencies differ by no more than this share are alike; the one with more workers is taken."""

LEAD = 0.25
"""By what share the throughput of a layout must exceed that of one with more workers. Threads of one call wait for one
another, which costs little alone, and much beside all else that a server does: measured with the engine alone, fewer
workers look better than they serve."""


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
