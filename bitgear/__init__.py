"""bitgear: one INT8 master checkpoint, served at any width from 8 to 2 bits. docs/library.md: how programs use it."""

import os
from typing import TYPE_CHECKING

# ONNX Runtime tells its makers how it is used, unless it is told not to before it is first imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"

if TYPE_CHECKING:
    from bitgear.predictor import BitgearError, Detection, ImageInput, Prediction, Predictor, Segmentation, load

__all__ = ["BitgearError", "Detection", "ImageInput", "Prediction", "Predictor", "Segmentation", "load"]

if not TYPE_CHECKING:  # a type checker would take every name for one that exists

    def __getattr__(name: str) -> object:
        """Return what is public, imported when it is first used: the command and the server start without it."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from bitgear import predictor

        return getattr(predictor, name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
