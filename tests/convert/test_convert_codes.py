"""Codes of least error over all widths."""

import numpy as np
import pytest
from numpy.typing import NDArray

from bitgear.bits import WIDTHS
from bitgear.convert.codes import (
    EXPONENT,
    SMALLEST_WEIGHT,
    Moments,
    choose_codes,
    losses,
    round_weights,
    values_of,
)
from bitgear.inputs import MIN_SCALE
from bitgear.rounding import derive

RNG = np.random.default_rng(0)


def layer(channels: int = 6, terms: int = 40) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Weights and correlated, non-negative inputs (rows, terms)."""
    weight = RNG.normal(0, 0.2, (channels, terms)).astype(np.float32)
    inputs = np.maximum(RNG.normal(0, 1, (2000, terms)) @ RNG.normal(0, 0.3, (terms, terms)), 0)
    return weight, inputs


def moments_of(weight: NDArray[np.float32], inputs: NDArray[np.float64], read: NDArray[np.float64]) -> Moments:
    wanted = inputs @ weight.T
    read, wanted = read - read.mean(0), wanted - wanted.mean(0)
    count = len(read)
    return Moments(
        (read.T @ read / count).astype(np.float32),
        (wanted.T @ read / count).astype(np.float32),
        wanted.var(axis=0).astype(np.float32),
    )


def quantised(inputs: NDArray[np.float64], bits: int) -> NDArray[np.float64]:
    scale = inputs.max() * 0.7 / (2**bits - 1)
    return np.clip(np.rint(inputs / scale), 0, 2**bits - 1) * scale


def total(codes: NDArray[np.int8], moments: dict[int, Moments]) -> NDArray[np.float64]:
    return np.sum([losses(codes, bits, known)[0] ** EXPONENT for bits, known in moments.items()], axis=0)


def test_a_loss_is_the_part_of_the_variance_that_the_best_gain_leaves() -> None:
    weight, inputs = layer()
    known = moments_of(weight, inputs, inputs)
    codes, _ = round_weights(weight)
    loss, gain = losses(codes, 3, known)
    made = inputs @ values_of(codes, 3).T
    for channel in range(len(weight)):
        wanted = inputs @ weight[channel]
        slope, offset = np.polyfit(made[:, channel], wanted, 1)
        left = np.var(wanted - slope * made[:, channel] - offset)
        assert gain[channel] == pytest.approx(slope, rel=1e-3)
        assert loss[channel] == pytest.approx(left / np.var(wanted), rel=1e-2)


def test_every_channel_gains_over_rounding() -> None:
    weight, inputs = layer()
    moments = {bits: moments_of(weight, inputs, quantised(inputs, bits)) for bits in WIDTHS}
    rounded, _ = round_weights(weight)
    codes, scales = choose_codes(weight, moments)
    assert codes.dtype == np.int8
    assert scales.dtype == np.float32
    assert codes.shape == weight.shape
    assert (total(codes, moments) < total(rounded, moments)).all()
    for bits in (4, 3):  # 8 bits pay a little for it
        assert losses(codes, bits, moments[bits])[0].mean() < losses(rounded, bits, moments[bits])[0].mean()


def test_with_8_bits_alone_the_weights_come_back() -> None:
    weight, inputs = layer()
    codes, scales = choose_codes(weight, {8: moments_of(weight, inputs, inputs)})
    loss, gain = losses(codes, 8, moments_of(weight, inputs, inputs))
    assert loss.max() < 1e-4
    np.testing.assert_allclose(codes * (gain)[:, None], weight, atol=0.02 * np.abs(weight).max())
    assert (np.abs(gain / scales - 1) < 0.02).all()


def test_one_code_is_the_best_of_all_with_the_others_as_they_are() -> None:
    weight, inputs = layer(3, 5)
    moments = {bits: moments_of(weight, inputs, quantised(inputs, bits)) for bits in (8, 2)}
    codes, _ = choose_codes(weight, moments)
    for term in range(5):  # a weighted sum stands for the sum of powers, so a little may be left
        least = np.full(3, np.inf)
        for code in range(-128, 128):
            tried = codes.copy()
            tried[:, term] = code
            least = np.minimum(least, total(tried, moments))
        assert (total(codes, moments) <= 1.1 * least).all()


def test_values_are_in_units_of_the_8_bit_code() -> None:
    codes = np.arange(-128, 128).astype(np.int8)
    for bits in WIDTHS:
        np.testing.assert_array_equal(values_of(codes, bits), derive(codes, bits).astype(int) * 2 ** (8 - bits))


def test_rounding_beats_the_plain_scale() -> None:
    weight = RNG.standard_t(3, (20, 3, 3, 3)).astype(np.float32)
    codes, scales = round_weights(weight)
    flat = weight.reshape(20, -1)
    plain = np.abs(flat).max(axis=1, keepdims=True) / 127
    assert codes.shape == flat.shape
    error = ((codes * scales[:, None] - flat) ** 2).sum(axis=1)
    assert (error <= ((np.rint(flat / plain) * plain - flat) ** 2).sum(axis=1) * 1.0001).all()


def test_channels_that_say_nothing_stay_finite() -> None:
    weight, inputs = layer(4, 9)
    weight[1] = 0
    weight[2] *= 1e-20
    inputs[:, 3] = 0.5
    for read in (inputs, np.zeros_like(inputs)):
        codes, scales = choose_codes(weight, {bits: moments_of(weight, inputs, read) for bits in (8, 4, 2)})
        assert (codes[1:3] == 0).all() or read is not inputs
        assert np.isfinite(scales).all()
        assert (scales > 2.0**-32).all()
    codes, scales = round_weights(weight)
    assert (codes[1] == 0).all()
    assert (scales > 2.0**-32).all()


@pytest.mark.parametrize("largest", [0.0, 1e-30, 9e-13, 2.4e-8, 1e-7, 1e-3])
def test_scales_of_hardly_any_weights_fit_a_master(largest: float) -> None:
    weight, inputs = layer()
    weight[2] *= largest / np.abs(weight[2]).max()
    moments = {bits: moments_of(weight, inputs, quantised(inputs, bits)) for bits in (8, 2)}
    for codes, scales in (round_weights(weight), choose_codes(weight, moments)):
        assert (scales >= MIN_SCALE).all()
        assert np.isfinite(scales).all()
        assert codes[2].any() or largest < SMALLEST_WEIGHT
