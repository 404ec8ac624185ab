"""Steps of a native model, valid for the buffers that most tests begin with but for the arguments that are given."""

from typing import Any

import numpy as np

from tests.native.paths import _native

NAMES = ("top", "left", "bottom", "right", "spare_bottom", "spare_right", "fill")


def interpolation(first: int, second: int) -> Any:
    return _native.Interpolation(first=first, second=second, second_weight=1)


ROWS = [interpolation(0, 1)] * 5


def add_buffer(core: Any, height: int, width: int, channels: int, **changes: int) -> int:
    """Add a buffer, without borders; return its number."""
    arguments = {**dict.fromkeys(NAMES, 0), **changes}
    return core.add_buffer(height=height, width=width, channels=channels, **arguments)


def add_conv(core: Any, **changes: Any) -> None:
    """Add a 3x3 convolution of buffer 0 to the result."""
    arguments: dict[str, Any] = {
        "name": "c", "input": 0, "q8": np.ones((4, 3, 3, 3), np.int8), "channels": 4, "kernel": 3, "stride": 1,
        "dilation": 1, "groups": 1, "weight_bits": 8, "act_max": 255, "zero": 128, "multiplier": [1.0] * 4, "bias": [],
        "relu": True, "clip": 6.0, "residual": None, "outputs": [], "result": True, "pooling": None, "path": "",
    }  # fmt: skip
    core.add_conv(**{**arguments, **changes})


def add_sum(core: Any, **changes: Any) -> None:
    """Add the sum of all of buffer 0 to the result."""
    arguments: dict[str, Any] = {
        "name": "s", "input": 0, "kernel": 0, "stride": 1, "zero": 0, "multiplier": [1.0] * 3, "outputs": [],
        "result": True,
    }  # fmt: skip
    core.add_window_sum(**{**arguments, **changes})


def add_bilinear(core: Any, **changes: Any) -> None:
    """Add a resizing of buffer 0 to the result."""
    arguments: dict[str, Any] = {
        "name": "b", "input": 0, "rows": ROWS, "columns": ROWS, "zero": 0, "multiplier": [1.0] * 3, "outputs": [],
        "result": True,
    }  # fmt: skip
    core.add_bilinear(**{**arguments, **changes})


def add_maximum(core: Any, **changes: Any) -> None:
    """Add a max pooling of buffer 0 to buffer 1."""
    arguments: dict[str, Any] = {"name": "m", "input": 0, "output": 1, "channel": 0, "kernel": 3, "stride": 1}
    core.add_maximum(**{**arguments, **changes})


def add_copy(core: Any, **changes: Any) -> None:
    """Add a copy of a column of buffer 0 to buffer 1."""
    arguments: dict[str, Any] = {
        "name": "k", "input": 0, "output": 1, "channel": 0, "source_y": [0] * 5, "source_x": [0] * 5,
        "pad_channels": 0, "pad_byte": 0,
    }  # fmt: skip
    core.add_copy(**{**arguments, **changes})


def output(buffer: int = 1, channel: int = 0, low: int = 0, high: int = 255, zero: int = 0) -> Any:
    return _native.Output(buffer=buffer, channel=channel, scale=1.0, low=low, high=high, zero=zero)


def residual(buffer: int, zero: int = 0) -> Any:
    return _native.Residual(buffer=buffer, scale=1.0, zero=zero)


def pooling(kernel: int, height: int, width: int, stride: int = 1, padding: int = 0) -> Any:
    return _native.Pooling(kernel=kernel, stride=stride, padding=padding, height=height, width=width)
