"""Engines by name. An engine's library is imported when the engine is asked for, not before."""

import os
from functools import cache
from typing import TYPE_CHECKING

from bitgear.engines.base import Engine
from bitgear.errors import EngineUnavailable

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

    Raises :class:`~bitgear.errors.EngineUnavailable` if the name is unknown or the library cannot be loaded; the
    original failure is in the message and the cause.
    """
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
        except ImportError as error:
            raise EngineUnavailable(
                f"engine 'onnxruntime' cannot be loaded: {error}; install onnx and onnxruntime"
            ) from error
        return OnnxRuntimeEngine(threads)
    raise EngineUnavailable(f"engine {name!r} is unknown; known are {AUTO}, {', '.join(ENGINE_NAMES)}")


def create_native(threads: int = 1) -> "NativeEngine":
    """Return the native engine, whose layers alone can be timed; raise what :func:`create_engine` does."""
    failure = native_failure()
    if failure is not None:
        raise EngineUnavailable(
            f"engine 'native' cannot be loaded: {failure}; "
            "install bitgear where there is a C++ compiler, or choose the engine onnxruntime"
        ) from failure
    from bitgear.engines.native import NativeEngine

    return NativeEngine(threads, os.environ.get(KERNEL_VARIABLE, ""))


def native_failure() -> ImportError | None:
    """Return why the native engine's extension cannot be imported; None if it can."""
    try:
        import bitgear._native  # noqa: F401
    except ImportError as error:
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
    from bitgear import _native

    try:
        return _native.choose(name)
    except ValueError:
        return None
