"""What this installation can run: engines, instruction sets, and why something is missing."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from bitgear import __version__
from bitgear.engines.registry import (
    ENGINE_NAMES,
    KERNEL_VARIABLE,
    create_engine,
    native_failure,
    native_instruction_set,
)
from bitgear.errors import EngineUnavailable, named
from bitgear.machine import available_cores, processor

_LIBRARIES = (
    "numpy", "onnxruntime", "onnx", "safetensors", "pillow", "simplejpeg", "zlib-ng",
    "torch", "scipy", "matplotlib", "pycocotools",
)  # fmt: skip


def diagnose() -> dict[str, Any]:
    """Return what was found, as JSON types.

    ``instruction_sets``: a row for each one known: compiled in or not, offered by this processor or not, chosen or not,
    and its multiplication paths. ``rates_ns``: what the chosen set's kernels take here, by which paths are chosen,
    measured now if never before. ``native_failure``: the original import error, None if there was none.
    """
    failure = native_failure()
    sets: list[dict[str, Any]] = []
    chosen: str | None = None
    rates: dict[str, float] = {}
    if failure is None:
        from bitgear import _native

        chosen = native_instruction_set()
        if chosen is not None:
            from bitgear.engines.rates import rates_here

            rates = rates_here(chosen)
        sets = [
            {"name": name, "compiled": compiled, "offered": offered, "chosen": name == chosen, "paths": list(paths)}
            for name, compiled, offered, paths in _native.instruction_sets()
        ]
    return {
        "bitgear": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": processor(),
        "cores": available_cores(),
        "kernel_variable": os.environ.get(KERNEL_VARIABLE),
        "native_failure": None if failure is None else named(failure),
        "instruction_sets": sets,
        "rates_ns": rates,
        "engines": {name: _state(name) for name in ENGINE_NAMES},
        "auto": _auto(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
    }


def report(found: dict[str, Any]) -> str:
    """Return :func:`diagnose`'s findings as text."""
    lines = [
        f"bitgear {found['bitgear']}, Python {found['python']}",
        f"processor         {found['processor'] or found['machine']}, {found['cores']} cores",
        f"default engine    {found['auto'] or 'none'}",
    ]
    lines += [f"engine            {name:13}{state}" for name, state in found["engines"].items()]
    if found["native_failure"]:
        lines.append(f"native extension  {found['native_failure']}")
    for row in found["instruction_sets"]:
        facts = "compiled" if row["compiled"] else "not compiled"
        if row["compiled"]:
            facts += ", offered" if row["offered"] else ", not offered by this processor"
        if row["chosen"]:
            facts += f", chosen ({KERNEL_VARIABLE if found['kernel_variable'] else 'the best here'})"
        paths = f": {', '.join(row['paths'])}" if row["paths"] else ""
        lines.append(f"instruction set   {row['name']:13}{facts}{paths}")
    for name, ns in found["rates_ns"].items():
        rate = f", {1 / ns:.3g} GMAC/s" if name.endswith(" mac") and ns > 0 else ""
        lines.append(f"measured          {name:26}{ns:.3g} ns{rate}")
    if found["kernel_variable"] and not any(row["chosen"] for row in found["instruction_sets"]):
        lines.append(f"{KERNEL_VARIABLE}    {found['kernel_variable']!r} cannot be used here")
    lines += [f"library           {name:13}{number or 'not installed'}" for name, number in found["libraries"].items()]
    return "\n".join(lines)


def _state(name: str) -> str:
    try:
        create_engine(name)
    except EngineUnavailable as error:
        return str(error)
    return "usable"


def _auto() -> str | None:
    try:
        return create_engine().name
    except EngineUnavailable:
        return None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
