"""Engines by name. An engine's library is imported when the engine is asked for, not before."""

import operator
import os
from functools import cache
from typing import TYPE_CHECKING, SupportsIndex

from bitgear.engines.base import Engine
from bitgear.errors import EngineUnavailable, named, quoted

if TYPE_CHECKING:
    from bitgear.engines.native import NativeEngine

AUTO = "auto"
ENGINE_NAMES = ("native", "onnxruntime", "reference")
KERNEL_VARIABLE = "BITGEAR_KERNEL"
"""Environment variable that forces the native engine's instruction set.

avx512-amx, avx512-vnni, avx2-vnni, avx2, neon-dotprod or portable.
"""


def create_engine(name: str = AUTO, threads: int = 1) -> Engine:
    """Return the engine ``name`` whose models use up to ``threads`` threads for one call.

    ``auto`` is the native engine where its extension was built, else ONNX Runtime.

    Raises :class:`~bitgear.errors.EngineUnavailable` if the name is unknown or the library cannot be loaded, with the
    original failure in the message and the cause, and for no threads or more than are of use (:func:`most_threads`).
    """
    _check_threads(threads)
    if name == AUTO:
        name = "onnxruntime" if native_failure() is not None else "native"
    if name == "reference":
        from bitgear.engines.numpy import NumpyEngine

        return NumpyEngine()
    if name == "native":
        return create_native(threads)
    if name == "onnxruntime":
        try:
            from bitgear.engines.onnxruntime import OnnxRuntimeEngine
        except Exception as error:  # onnx has others than ImportError, of a protobuf that does not fit
            raise EngineUnavailable(
                f"engine 'onnxruntime' cannot be loaded: {named(error)}; install onnx and onnxruntime"
            ) from error
        return OnnxRuntimeEngine(threads)
    raise EngineUnavailable(f"engine {name!r} is unknown; known are {AUTO}, {', '.join(ENGINE_NAMES)}")


def create_native(threads: int = 1) -> "NativeEngine":
    """Return the native engine, whose layers alone can be timed; raise what :func:`create_engine` does."""
    _check_threads(threads)
    failure = native_failure()
    if failure is not None:
        raise EngineUnavailable(
            f"engine 'native' cannot be loaded: {failure}; "
            "install bitgear where there is a C++ compiler, or choose the engine onnxruntime"
        ) from failure
    from bitgear.engines.native import NativeEngine

    return NativeEngine(threads, os.environ.get(KERNEL_VARIABLE, ""))


def most_threads() -> int:
    """Return the most threads that an engine takes for one call: some times the cores, for those may become more."""
    return max(64, 4 * (os.cpu_count() or 1))


def _check_threads(threads: int) -> None:
    if not (isinstance(threads, SupportsIndex) and 1 <= operator.index(threads) <= most_threads()):
        raise EngineUnavailable(f"an engine here takes 1 to {most_threads()} threads, not {quoted(threads)}")


def native_failure() -> Exception | None:
    """Return why the native engine's extension cannot be imported; None if it can."""
    try:
        # By name: a build of another version may lack some, and is as good as none.
        from bitgear._native import (  # noqa: F401
            MAX_AVERAGED,
            MAX_OUTPUTS,
            MAX_PICTURE_BYTES,
            MAX_POOLED_KERNEL,
            MAX_POOLED_STRIDE,
            Model,
            choose,
            count_ids,
            derive,
            instruction_sets,
            measure_rates,
            paint_mask,
            place_picture,
            reduce_picture,
            winograd_spare,
        )
    except Exception as error:  # whatever its initialisation raises
        return error
    return None


def native_instruction_set() -> str | None:
    """Return the instruction set that :data:`KERNEL_VARIABLE` names, the best by default, for ``bitgear._native``.

    None where the extension is missing or that set cannot be used: whoever asks has another way, to the same bytes.
    """
    return _instruction_set(os.environ.get(KERNEL_VARIABLE, ""))


@cache  # a missing extension would be looked for again and again
def _instruction_set(name: str) -> str | None:
    if native_failure() is not None:
        return None
    try:
        return choose_instruction_set(name, multiplies=False)
    except ValueError:
        return None


def choose_instruction_set(name: str, *, multiplies: bool = True) -> str:
    """Return the instruction set of that name, or the best of this processor (``""``), where there is the extension.

    ``multiplies``: or is for pictures alone, which needs nothing that the system grants.

    Raises ``ValueError`` for one that is unknown, not compiled in, not offered by the processor or refused by the
    system.
    """
    from bitgear import _native

    # Looked up here: the extension takes text alone, and a variable of the environment may hold any bytes.
    if name and name not in {known for known, *_ in _native.instruction_sets()}:
        raise ValueError(f"instruction set {name!r} is unknown")
    return _native.choose(name, multiplies)
