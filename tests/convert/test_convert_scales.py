"""The scale of least error."""

import numpy as np
import pytest

from bitgear.bits import WIDTHS, activation_range
from bitgear.convert.scales import NORM, least_error_scale

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", WIDTHS)
def test_no_other_range_is_clearly_better(bits: int, signed: bool) -> None:
    values = RNG.standard_t(5, 20_000).astype(np.float32)
    values = values if signed else np.abs(values)
    low, high = activation_range(bits, signed)

    def error(scale: float) -> float:
        return float((np.abs(np.clip(np.rint(values / scale), low, high) * scale - values) ** NORM).sum())

    found = least_error_scale(values, bits, signed)
    assert found.dtype == np.float32
    assert error(found) <= 1.05 * min(error(np.abs(values).max() * part / high) for part in np.linspace(0.1, 1, 200))


def test_values_that_lie_on_a_grid_get_it() -> None:
    values = (RNG.integers(0, 256, 5000) * 0.01).astype(np.float32)
    assert least_error_scale(values, 8, signed=False) == pytest.approx(0.01, rel=0.02)


def test_nothing_but_zeros_gets_a_scale_too() -> None:
    assert least_error_scale(np.zeros((2, 3, 4), np.float32), 4, signed=False) == 1


def test_values_hardly_above_zero_get_a_scale_that_a_master_may_hold() -> None:
    assert least_error_scale(np.full((2, 3), 1e-30, np.float32), 4, signed=False) >= 2.0**-32
