"""Engines by name. An engine's library is imported when the engine is asked for, not before."""

from bitgear.engines.base import Engine
from bitgear.errors import EngineUnavailable

ENGINE_NAMES = ("onnxruntime", "reference")


def create_engine(name: str, threads: int = 1) -> Engine:
    """Return the engine ``name`` whose models use up to ``threads`` threads for one call.

    Raises :class:`~bitgear.errors.EngineUnavailable` if the name is unknown or the library cannot be loaded; the
    original failure is in the message and the cause.
    """
    if name == "reference":
        from bitgear.engines.numpy import NumpyEngine

        return NumpyEngine()
    if name == "onnxruntime":
        try:
            from bitgear.engines.onnxruntime import OnnxRuntimeEngine
        except ImportError as error:
            raise EngineUnavailable(
                f"engine 'onnxruntime' cannot be loaded: {error}; install onnx and onnxruntime"
            ) from error
        return OnnxRuntimeEngine(threads)
    raise EngineUnavailable(f"engine {name!r} is unknown; known are {', '.join(ENGINE_NAMES)}")
