"""Adaptive learning-rate scaling (ALRS) for quantization scales, arXiv 2502.01199, Eq. 6 and 7."""

from collections.abc import Iterable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

AlrsMode = Literal["off", "eta", "mult", "literal"]

AlrsScope = Literal["network", "layer", "channel"]
"""Whose gradients decide a rate: the mean over layers, as in the paper, a layer's own, or each channel's own."""


def eta(bits: int, master_bits: int = 8) -> float:
    """Return the width factor of Eq. 7: 1 at the master's width, then 0.5, 0.1, 0.05, 0.01, 0.005, 0.001."""
    distance = master_bits - bits
    if distance % 2 == 0:
        return float(10.0 ** (-distance / 2))
    return float(5.0 * 10.0 ** (-(distance + 1) / 2))


def mean_clipped_gradient(scale_grads: Iterable[ArrayLike]) -> float:
    """Return G in [0, 1]: the mean over layers of max |dL/ds|, each clipped to 1 (the sum in Eq. 6).

    ``scale_grads`` holds one array per layer of raw gradients with respect to the scale itself (not its logarithm).
    """
    clipped = [min(float(np.abs(np.asarray(grad)).max()), 1.0) for grad in scale_grads]
    return float(np.mean(clipped)) if clipped else 0.0


def scale_lr(lr: float, gradient: float, bits: int, mode: AlrsMode) -> float:
    """Return the learning rate of the scales of one width, never negative.

    ``lr`` is the scheduled rate of this step, ``gradient`` the G of :func:`mean_clipped_gradient`. Modes:

    - ``off``: the scheduled rate.
    - ``eta``: times the width factor.
    - ``mult``: ``eta * lr * (1 - G)``, the dimensionally sound reading of Eq. 6.
    - ``literal``: ``eta * max(lr - G, 0)``, Eq. 6 as printed with a floor: it subtracts a gradient from a rate and
      is zero as soon as G passes the rate.

    >>> scale_lr(5e-4, 0.1, 4, "mult")
    4.5e-06
    """
    match mode:
        case "off":
            return lr
        case "eta":
            return eta(bits) * lr
        case "mult":
            return eta(bits) * lr * max(1.0 - gradient, 0.0)
        case "literal":
            return eta(bits) * max(lr - gradient, 0.0)
