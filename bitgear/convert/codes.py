"""One set of INT8 codes that is good at every width: coordinate descent on what a layer makes.

A width sees the codes rounded a second time, so a code has a value at each width. A layer's loss at a width is the
variance of its output's error, as a part of the output's variance, under the best gain; it is a quadratic form of the
values and known from second moments of the layer's inputs. What is minimised is the sum over widths of the loss's
fourth root, in which neither the few bits, whose losses are large, nor the many, which can halve theirs, have all the
say.

Weights are visited one input at a time, all output channels at once; each takes the code out of all 256 that
minimises the sum with the others as they are.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitgear.bits import MASTER_BITS
from bitgear.inputs import MIN_SCALE
from bitgear.rounding import derive

Array = NDArray[np.float32]

ALL_CODES = np.arange(-128, 128).astype(np.int8)
LARGEST_CODE = 127
CLIPPINGS = np.linspace(0.4, 1.1, 15)
"""Scales tried, in parts of the one that makes the largest weight the largest code."""
SMALLEST_WEIGHT = float(MIN_SCALE * LARGEST_CODE / CLIPPINGS[0])
"""A channel of weights all below it, whose scale a master could not hold, says nothing."""
SWEEPS = 2
EXPONENT = 0.25
"""Power of the losses summed: 1 would give up 8 bits for a little at 2, towards 0 the other way round."""
_BLOCK = 64
_SMALLEST_LOSS = 1e-9
_SMALLEST_VARIANCE = 1e-10
"""In parts of the largest channel's: below it a channel is taken for constant."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Second moments of a layer at a width, around the means.

    ``inputs``: float32 (D, D), covariance of what an output sums; ``cross``: float32 (O, D), covariance of wanted
    outputs with it; ``variance``: float32 (O,) of the wanted outputs.
    """

    inputs: Array
    cross: Array
    variance: Array


def values_of(codes: NDArray[np.int8], bits: int) -> Array:
    """Return what codes amount to at a width, in units of the weight scale: float32 of their shape."""
    return derive(codes, bits).astype(np.float32) * np.float32(1 << (MASTER_BITS - bits))


def round_weights(weight: Array) -> tuple[NDArray[np.int8], Array]:
    """Return codes (O, D) and scales (O,) of least squared error at 8 bits, for weights (O, D) of any more axes."""
    weight = weight.reshape(len(weight), -1)
    codes, scales = np.zeros(weight.shape, np.int8), np.empty(len(weight), np.float32)
    least = np.full(len(weight), np.inf)
    for scale in _candidates(weight):
        tried = _round(weight, scale)
        error = ((tried * scale[:, None] - weight) ** 2).sum(axis=1)
        better = error < least
        codes[better], scales[better], least[better] = tried[better], scale[better], error[better]
    return codes, scales


def choose_codes(weight: Array, moments: Mapping[int, Moments]) -> tuple[NDArray[np.int8], Array]:
    """Return codes, int8 (O, D), and scales, float32 (O,), of weights (O, D) for all the widths in ``moments``.

    The scales only say how weights map to codes: gains of each width correct them.
    """
    codes, scales = rounded_codes(weight, moments)
    for _ in range(SWEEPS):
        codes = _sweep(codes, moments)
    return codes, scales


def _round(weight: Array, scale: Array) -> NDArray[np.int8]:
    codes: NDArray[np.int8] = np.clip(np.rint(weight / scale[:, None]), -128, LARGEST_CODE).astype(np.int8)
    return codes


def rounded_codes(weight: Array, moments: Mapping[int, Moments]) -> tuple[NDArray[np.int8], Array]:
    """Return rounded weights at the scale of least loss."""
    codes, scales = np.zeros(weight.shape, np.int8), np.empty(len(weight), np.float32)
    least = np.full(len(weight), np.inf)
    for scale in _candidates(weight):
        tried = _round(weight, scale)
        amplitude = np.zeros(len(weight))
        for bits, known in moments.items():
            amplitude += losses(tried, bits, known)[0] ** EXPONENT
        better = amplitude < least
        codes[better], scales[better], least[better] = tried[better], scale[better], amplitude[better]
    return codes, scales


def _candidates(weight: Array) -> Iterator[Array]:
    """Give scales, float32 (O,), to try; a channel without weights gets those of weights of 1."""
    largest = np.abs(weight).max(axis=1)
    largest = np.where(largest < SMALLEST_WEIGHT, 1, largest)
    for clipping in CLIPPINGS:
        yield (largest * clipping / LARGEST_CODE).astype(np.float32)


def losses(codes: NDArray[np.int8], bits: int, known: Moments) -> tuple[Array, Array]:
    """Return each channel's loss at a width, 0..1, and the best gain for values in code units, float32 (O,)."""
    value = values_of(codes, bits)
    product = (value * known.cross).sum(axis=1)
    square = ((value @ known.inputs) * value).sum(axis=1)
    gain = np.where(square > 0, product / np.where(square > 0, square, 1), 0).astype(np.float32)
    return np.clip(1 - gain * product / _floored(known.variance), _SMALLEST_LOSS, 1).astype(np.float32), gain


def _floored(variance: Array) -> Array:
    largest = float(variance.max())
    return np.maximum(variance, np.float32(largest * _SMALLEST_VARIANCE if largest > 0 else 1))


def _sweep(codes: NDArray[np.int8], moments: Mapping[int, Moments]) -> NDArray[np.int8]:
    """Return the codes after every one has been chosen anew once."""
    channels, terms = codes.shape
    rows = np.arange(channels)
    widths = tuple(moments)
    tables = {bits: values_of(ALL_CODES, bits) for bits in widths}
    # Costs of all codes are a product: (O, 2 widths) coefficients by (2 widths, 256) squares and values.
    basis = np.stack([tables[bits] ** 2 for bits in widths] + [tables[bits] for bits in widths])
    importance, gains, projected = {}, {}, {}
    for bits in widths:
        loss, gains[bits] = losses(codes, bits, moments[bits])
        # The slope of the power, which is concave: what lowers the sum weighted with it lowers the sum of powers.
        importance[bits] = loss ** (EXPONENT - 1) / _floored(moments[bits].variance)
        projected[bits] = values_of(codes, bits) @ moments[bits].inputs
    largest = np.max(list(importance.values()), axis=0)
    importance = {bits: value / largest for bits, value in importance.items()}  # only ratios matter
    chosen = codes.copy()
    coefficients = np.empty((channels, 2 * len(widths)), np.float32)
    for start in range(0, terms, _BLOCK):
        stop = min(terms, start + _BLOCK)
        changes = {bits: np.zeros((channels, stop - start), np.float32) for bits in widths}
        for term in range(start, stop):
            index = chosen[:, term].astype(np.intp) + 128
            for k, bits in enumerate(widths):
                power, gain, cross = moments[bits].inputs[term, term], gains[bits], moments[bits].cross[:, term]
                others = projected[bits][:, term] - power * tables[bits][index]
                slope = importance[bits] * gain
                coefficients[:, k] = slope * gain * power
                coefficients[:, len(widths) + k] = 2 * slope * (gain * others - cross)
            costs = coefficients @ basis
            best = costs.argmin(axis=1)
            best = np.where(costs[rows, best] < costs[rows, index], best, index)
            chosen[:, term] = ALL_CODES[best]
            for bits in widths:
                change = tables[bits][best] - tables[bits][index]
                changes[bits][:, term - start] = change
                projected[bits][:, term:stop] += np.outer(change, moments[bits].inputs[term, term:stop])
        for bits in widths:
            projected[bits][:, stop:] += changes[bits] @ moments[bits].inputs[start:stop, stop:]
    return chosen
