"""The scale of least error."""

import numpy as np
import pytest

from bitgear.bits import WIDTHS, activation_range
from bitgear.convert import scales
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


@pytest.mark.parametrize("quiet", [0, 27, 55])
def test_of_many_values_all_columns_of_pictures_are_seen(monkeypatch: pytest.MonkeyPatch, quiet: int) -> None:
    """A step of as many values as a row has sees one column alone."""
    values = np.abs(np.random.default_rng(1).normal(0, 1, (40, 8, 56, 56))).astype(np.float32)
    values[..., quiet] *= 0.05
    expected = least_error_scale(values, 4, signed=False)
    monkeypatch.setattr(scales, "_SAMPLE", values.size // 56)
    found = least_error_scale(values, 4, signed=False)
    assert found == pytest.approx(expected, rel=0.1)
    assert found == least_error_scale(values, 4, signed=False)


@pytest.mark.parametrize(("count", "picked"), [(99, 99), (100, 100), (101, 50), (1000, 100), (1099, 99)])
def test_a_sample_takes_one_value_of_each_stretch(monkeypatch: pytest.MonkeyPatch, count: int, picked: int) -> None:
    monkeypatch.setattr(scales, "_SAMPLE", 100)
    found = scales._sample(np.arange(count, dtype=np.float32))
    step = -(-count // 100)
    assert (found // step).tolist() == list(range(picked))


def test_values_that_lie_on_a_grid_get_it() -> None:
    values = (RNG.integers(0, 256, 5000) * 0.01).astype(np.float32)
    assert least_error_scale(values, 8, signed=False) == pytest.approx(0.01, rel=0.02)


def test_nothing_but_zeros_gets_a_scale_too() -> None:
    assert least_error_scale(np.zeros((2, 3, 4), np.float32), 4, signed=False) == 1


def test_values_hardly_above_zero_get_a_scale_that_a_master_may_hold() -> None:
    assert least_error_scale(np.full((2, 3), 1e-30, np.float32), 4, signed=False) >= 2.0**-32
