"""Gain and bias of a layer's channels."""

import numpy as np
import pytest
from numpy.typing import NDArray

from bitgear.convert.corrections import fit_gain_bias

RNG = np.random.default_rng(0)
Array = NDArray[np.float32]


def activate(value: Array, rectified: bool, upper: float | None) -> Array:
    return np.clip(value, 0, upper) if rectified else value


@pytest.mark.parametrize(("rectified", "upper"), [(False, None), (True, None), (True, 1.5)])
@pytest.mark.parametrize("with_rest", [False, True])
def test_exact_relations_are_found(rectified: bool, upper: float | None, with_rest: bool) -> None:
    made = RNG.normal(0, 2, (5, 4000)).astype(np.float32)
    rest = RNG.normal(0, 1, (5, 4000)).astype(np.float32) if with_rest else None
    gain, bias = np.asarray([0.5, 1, 1.25, 2, 0.25]), np.asarray([0, 0.25, -0.5, 1, -1])
    wanted = (made * gain[:, None] + bias[:, None] + (0 if rest is None else rest)).astype(np.float32)
    found_gain, found_bias = fit_gain_bias(made, rest, wanted, upper=upper, rectified=rectified)
    np.testing.assert_allclose(found_gain, gain, rtol=2e-3)
    np.testing.assert_allclose(found_bias, bias, atol=5e-3)


def test_what_an_activation_cuts_off_does_not_count() -> None:
    made = RNG.normal(0, 1, (3, 6000)).astype(np.float32)
    wanted = np.where(made > 0, made, 10 * made).astype(np.float32)  # wrong only where the ReLU makes zero of it
    gain, bias = fit_gain_bias(made, None, wanted, upper=None, rectified=True)
    np.testing.assert_allclose(gain, 1, atol=0.02)
    np.testing.assert_allclose(bias, 0, atol=0.02)


@pytest.mark.parametrize(("rectified", "upper"), [(False, None), (True, None), (True, 2.0)])
def test_noise_is_met_half_way_between_least_error_and_equal_deviation(rectified: bool, upper: float | None) -> None:
    wanted = RNG.normal(0.3, 1, (4, 20_000)).astype(np.float32)
    made = (wanted + RNG.normal(0, 1, wanted.shape)).astype(np.float32)  # least error 0.5, equal deviation 0.7
    gain, bias = fit_gain_bias(made, None, wanted, upper=upper, rectified=rectified)
    assert ((gain > 0.5) & (gain < 0.75)).all()
    after = activate(made * gain[:, None] + bias[:, None], rectified, upper)
    goal = activate(wanted, rectified, upper)
    np.testing.assert_allclose(after.mean(axis=1), goal.mean(axis=1), atol=0.05)


def test_both_are_numbers_of_float16() -> None:
    made = RNG.normal(0, 1, (6, 500)).astype(np.float32)
    for found in fit_gain_bias(made, None, made * 0.3337 + 0.7771, upper=None, rectified=True):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, found.astype(np.float16).astype(np.float32))


def test_what_leaves_float16_is_not_finite() -> None:
    made = RNG.normal(0, 1, (2, 500)).astype(np.float32)
    with np.errstate(over="ignore"):
        gain, bias = fit_gain_bias(made, None, np.stack([made[0] * 1e6, made[1] + 1e6]), upper=None, rectified=False)
    assert np.isfinite(gain).tolist() == [False, True]
    assert np.isfinite(bias).tolist() == [False, False]


def test_channels_without_any_variation_get_their_mean() -> None:
    made = np.stack([np.zeros(100), np.full(100, 3), RNG.normal(0, 1, 100), RNG.normal(0, 1, 100)]).astype(np.float32)
    wanted = np.stack([np.full(100, 2), np.full(100, 1), np.full(100, 0.5), np.full(100, -5)]).astype(np.float32)
    gain, bias = fit_gain_bias(made, None, wanted, upper=6.0, rectified=True)
    assert np.isfinite(gain).all()
    after = np.clip(made * gain[:, None] + bias[:, None], 0, 6)
    np.testing.assert_allclose(after.mean(axis=1), [2, 1, 0.5, 0], atol=0.01)
