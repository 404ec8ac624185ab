"""bitgear: one INT8 master checkpoint, served at any width from 8 to 2 bits."""

import os

# ONNX Runtime tells its makers how it is used, unless it is told not to before it is first imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
