"""From pixels to the integers the first layer reads."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitgear.errors import quoted

MIN_SCALE, MAX_SCALE = 2.0**-32, 2.0**32
"""Bounds of stored scales: within them no product of the epilogue leaves the range of float32."""

_SMALLEST, _LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class InputRecord:
    """How a picture becomes the value ``image``: size in pixels, RGB ``mean`` and ``std`` of pixels in 0..1, ``scale``.

    The code of pixel value p in channel c is ``clip(rint(((p / 255 - mean[c]) / std[c]) / scale), -128, 127)``,
    computed once in float64 for the 256 values of each channel; the network's input in real units is ``scale * code``.
    ``central_fraction``, for classification: side of the square that is looked at, as a part of the shorter side.
    """

    height_px: int
    width_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    scale: float
    central_fraction: float = 1.0

    def table(self) -> NDArray[np.int8]:
        """Return the codes, int8 (3, 256), by channel and pixel value; not to be written to."""
        return _table(self.mean, self.std, self.scale)

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.int8]:
        """Return the codes, int8 (N, 3, H, W), of uint8 RGB pixels (N, H, W, 3)."""
        count, height, width = pixels.shape[:3]
        codes = np.empty((count, 3, height, width), np.int8)
        for channel, row in enumerate(self.table()):
            # The same look-up as row[pixels], in a third of its time: bytes need no index of eight bytes each.
            looked_up = pixels[..., channel].tobytes().translate(row.tobytes())
            codes[:, channel] = np.frombuffer(looked_up, np.int8).reshape(count, height, width)
        return codes

    def quantise(self, values: NDArray[np.float32]) -> NDArray[np.int8]:
        """Return the codes, int8, of finite input values in real units, float32 of any shape.

        ``clip(rint(value / scale), -128, 127)`` in float64. Of ``(p / 255 - mean[c]) / std[c]`` in float32 it is what
        :meth:`encode` gives for p, but where the quotient lies within float32's rounding of a half.
        """
        codes: NDArray[np.int8] = np.clip(np.rint(values.astype(np.float64) / self.scale), -128, 127).astype(np.int8)
        return codes

    def to_json(self) -> dict[str, Any]:
        """Return the record as a JSON object; a central fraction of 1 goes without saying."""
        return {
            "height_px": self.height_px,
            "width_px": self.width_px,
            "mean": list(self.mean),
            "std": list(self.std),
            "scale": self.scale,
            **({} if self.central_fraction == 1 else {"central_fraction": self.central_fraction}),
        }

    @classmethod
    def from_json(cls, value: Any) -> "InputRecord":
        """Return the record of a JSON object; raise ``ValueError`` naming what is wrong."""
        keys = {"height_px", "width_px", "mean", "std", "scale"}
        if not isinstance(value, dict) or value.keys() - {"central_fraction"} != keys:
            raise ValueError("expected the keys height_px, width_px, mean, std, scale")
        for name in ("height_px", "width_px"):
            if type(value[name]) is not int or not 1 <= value[name] <= 8192:
                raise ValueError(f"{name} must be a whole number of pixels from 1 to 8192")
        for name in ("mean", "std"):
            numbers = value[name]
            if not isinstance(numbers, list) or len(numbers) != 3 or not all(_finite(n) for n in numbers):
                raise ValueError(f"{name} must be three finite numbers")
        if min(value["std"]) < _SMALLEST:
            raise ValueError("std must be positive")
        if not _finite(value["scale"]) or not MIN_SCALE <= value["scale"] <= MAX_SCALE:
            raise ValueError(f"scale is {quoted(value['scale'])}; expected a number from 2^-32 to 2^32")
        fraction = value.get("central_fraction", 1.0)
        if not _finite(fraction) or not 0 < fraction <= 1:
            raise ValueError(f"central_fraction is {quoted(fraction)}; expected a number above 0 and up to 1")
        mean, std = tuple(map(float, value["mean"])), tuple(map(float, value["std"]))
        sizes = value["height_px"], value["width_px"]
        return cls(*sizes, mean, std, float(value["scale"]), float(fraction))  # type: ignore[arg-type]

    @classmethod
    def centred(cls, side_px: int, offset: int) -> "InputRecord":
        """Return the record of square pictures whose codes are exactly ``pixel - offset``, in real units / 128."""
        return cls(side_px, side_px, (offset / 255,) * 3, (128 / 255,) * 3, 1 / 128)


@lru_cache(maxsize=64)
def _table(mean: tuple[float, float, float], std: tuple[float, float, float], scale: float) -> NDArray[np.int8]:
    pixels = np.arange(256, dtype=np.float64) / 255
    codes: NDArray[np.int8] = np.clip(
        np.rint((pixels - np.asarray(mean)[:, None]) / np.asarray(std)[:, None] / scale), -128, 127
    ).astype(np.int8)
    codes.flags.writeable = False
    return codes


def _finite(value: Any) -> bool:
    """Return whether ``value`` is a number that float32 can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST
