"""The scale at which a layer reads its activations."""

import numpy as np
from numpy.typing import NDArray

from bitgear.bits import activation_range
from bitgear.inputs import MAX_SCALE, MIN_SCALE

NORM = 2.4
"""Exponent of the error minimised: a little above the square, rare large values count a little more."""
RANGES = np.linspace(0.1, 1, 91)
"""Ranges tried, in parts of the largest value."""
_BINS = 2048
_SAMPLE = 4_000_000


def least_error_scale(values: NDArray[np.float32], bits: int, signed: bool) -> np.float32:
    """Return the scale whose codes of ``values`` (any shape) have the least summed ``|error| ** NORM``.

    Searched on a histogram of up to four million values: of stretches of equal length, one at random of each, the same
    ones every time. Values next to zero, all of them, get scale 1.
    """
    flat = _sample(values.reshape(-1))
    largest = float(np.abs(flat).max())
    if largest < MIN_SCALE:
        return np.float32(1)
    counts, edges = np.histogram(flat, _BINS, range=(-largest if signed else 0.0, largest))
    centres = (edges[:-1] + edges[1:]) / 2
    low, high = activation_range(bits, signed)
    scales = RANGES[:, None] * largest / max(high, 1)
    codes = np.clip(np.rint(centres / scales), low, high)
    errors = (counts * np.abs(codes * scales - centres) ** NORM).sum(axis=1)
    return np.float32(np.clip(scales[int(errors.argmin()), 0], MIN_SCALE, MAX_SCALE))


def _sample(flat: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return all of few values, and of many one of each stretch.

    A fixed step would have a factor in common with the rows of a picture, and see a few of its columns alone.
    """
    step = -(-flat.size // _SAMPLE)
    if step <= 1:
        return flat
    starts = np.arange(0, flat.size - step + 1, step)
    picked: NDArray[np.float32] = flat[starts + np.random.default_rng(0).integers(step, size=starts.size)]
    return picked
