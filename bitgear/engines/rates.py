"""How long the native engine's kernels take on this machine: measured, kept on disk, and what paths are chosen by.

Measuring takes some hundredths of a second, in which the machine may be busy with something else. So the first few
processes measure, each once, and the median of what was kept counts; from then on all processes of a machine choose the
same paths. Nothing depends on the file: without it, or with a bad one, one measures; and results are the same whatever
is chosen.
"""

import platform
import sys
import threading
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from bitgear import __version__, _native
from bitgear.kept import Key, keep, kept_file, recall
from bitgear.machine import cache_folder, processor

FORMAT = "bitgear-rates"
MEASUREMENTS = 5
"""So many processes measure."""

Rates = dict[str, float]
"""Nanoseconds by name, as :func:`bitgear._native.measure_rates` returns them."""
Measure = Callable[[str], Rates]

_measuring = threading.Lock()


def rates_here(instruction_set: str) -> Rates:
    """Return the rates of an instruction set: medians over the first processes on this machine.

    They are kept in the folder ``rates`` of :func:`bitgear.machine.cache_folder`. A process measures once, even where
    nothing can be kept; threads that ask in the meantime wait.
    """
    with _measuring:  # two at once would time each other, and count as two processes
        return _rates_here(instruction_set)


@cache
def _rates_here(instruction_set: str) -> Rates:
    return rates(instruction_set, cache_folder() / "rates")


def rates(instruction_set: str, folder: Path, measure: Measure | None = None) -> Rates:
    """Return the medians of what a folder keeps for this processor and build; measure once more while that is little.

    Rates that cannot be read are measured anew, which is logged; that they cannot be written is no error.
    """
    measure = measure or _native.measure_rates
    key = machine_key(instruction_set)
    path = kept_file(folder, key)
    held = recall(path, lambda content: _parse(content, key)) or []
    if len(held) < MEASUREMENTS:
        held.append(measure(instruction_set))
        keep(path, {"format": FORMAT, "key": key, "ns": held}, "the measured rates are")
    return {name: median(each[name] for each in held) for name in held[0]}


def machine_key(instruction_set: str) -> Key:
    """Return all that rates depend on."""
    return {
        "processor": processor() or platform.machine(),
        "instruction_set": instruction_set,
        "bitgear": __version__,
        "build": _build(),
    }


@cache
def _build() -> str:
    """Return a number of the extension that is loaded: other kernels have other rates, whatever the version says."""
    return f"{zlib.crc32(Path(str(sys.modules[_native.__name__].__file__)).read_bytes()):08x}"


def _parse(content: Any, key: Key) -> list[Rates]:
    if content["format"] != FORMAT or content["key"] != dict(key):
        raise ValueError("they are of something else")
    held = [{str(name): float(ns) for name, ns in each.items()} for each in content["ns"]]
    for each in held:
        _native.Model(str(key["instruction_set"]), each)  # refuses what it cannot use
    return held
