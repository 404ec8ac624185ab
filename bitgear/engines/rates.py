"""How long the native engine's kernels take on this machine: measured once, kept on disk, and what paths are chosen by.

Measuring takes some hundredths of a second, and two measurements never agree in all digits. Since layers are lowered by
what was kept, all processes of a machine choose the same paths. Nothing depends on the file: without it, or with a bad
one, one measures; and results are the same whatever is chosen.
"""

import hashlib
import json
import logging
import platform
import sys
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from bitgear import __version__, _native
from bitgear.files import write_atomically
from bitgear.machine import cache_folder, processor

FORMAT = "bitgear-rates"
Rates = dict[str, float]
"""Nanoseconds by name, as :func:`bitgear._native.measure_rates` returns them."""
Measure = Callable[[str], Rates]

_logger = logging.getLogger(__name__)


@cache  # so that a process measures once even where nothing can be kept
def rates_here(instruction_set: str) -> Rates:
    """Return the rates of an instruction set, of this process, of an earlier one on this machine, or measured now.

    They are kept in the folder ``rates`` of :func:`bitgear.machine.cache_folder`.
    """
    return rates(instruction_set, cache_folder() / "rates")


def rates(instruction_set: str, folder: Path, measure: Measure | None = None) -> Rates:
    """Return the rates kept in a folder for this processor and this build; measure and keep them if there are none.

    Rates that cannot be read are measured anew, which is logged; that they cannot be written is no error.
    """
    measure = measure or _native.measure_rates
    key = machine_key(instruction_set)
    path = rates_file(folder, key)
    found = _read(path, key)
    if found is None:
        found = measure(instruction_set)
        _write(path, key, found)
    return found


def machine_key(instruction_set: str) -> dict[str, str]:
    """Return all that rates depend on."""
    return {
        "processor": processor() or platform.machine(),
        "instruction_set": instruction_set,
        "bitgear": __version__,
        "build": _build(),
    }


def rates_file(folder: Path, key: Mapping[str, str]) -> Path:
    """Return the file that keeps the rates of a key."""
    digest = hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()
    return folder / f"{digest[:24]}.json"


@cache
def _build() -> str:
    """Return a number of the extension that is loaded: other kernels have other rates, whatever the version says."""
    return f"{zlib.crc32(Path(str(sys.modules[_native.__name__].__file__)).read_bytes()):08x}"


def _read(path: Path, key: Mapping[str, str]) -> Rates | None:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        _logger.warning("the measured rates %s cannot be read and are measured anew: %s", path, error)
        return None
    try:
        if content["format"] != FORMAT or content["key"] != dict(key):
            raise ValueError("they are of something else")
        found = {str(name): float(ns) for name, ns in content["ns"].items()}
        _native.Model(key["instruction_set"], found)  # refuses what it cannot use
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        _logger.warning("the measured rates %s are broken and are measured anew: %s", path, error)
        return None
    return found


def _write(path: Path, key: Mapping[str, str], found: Rates) -> None:
    content = {"format": FORMAT, "key": dict(key), "ns": found}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())
    except OSError as error:
        _logger.info("the measured rates are not kept: %s", error)
