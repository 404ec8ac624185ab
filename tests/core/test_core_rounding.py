"""Double Rounding, held against its definition in float64."""

import numpy as np
import pytest

from bitgear.bits import WIDTHS
from bitgear.errors import PrecisionError
from bitgear.rounding import derive

ALL_CODES = np.arange(-128, 128).astype(np.int8)


def defined(q8: np.ndarray, bits: int) -> np.ndarray:
    """Eq. 2 in float64: round half to even, then clip."""
    rounded = np.rint(q8.astype(np.float64) / 2.0 ** (8 - bits))
    return np.clip(rounded, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


@pytest.mark.parametrize("bits", WIDTHS)
def test_every_code_derives_as_defined(bits: int) -> None:
    derived = derive(ALL_CODES, bits)
    assert derived.dtype == np.int8
    np.testing.assert_array_equal(derived, defined(ALL_CODES, bits))


@pytest.mark.parametrize("bits", [7, 6, 5, 4, 3, 2])
def test_ties_go_to_the_even_code(bits: int) -> None:
    step = 2 ** (8 - bits)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    lower = np.arange(low, high)  # the tie lies between each code and the next
    ties = (lower * step + step // 2).astype(np.int8)
    np.testing.assert_array_equal(derive(ties, bits), lower + lower % 2)


@pytest.mark.parametrize("bits", [7, 6, 5, 4, 3, 2])
def test_only_the_upper_end_saturates(bits: int) -> None:
    step, half = 2 ** (8 - bits), 2 ** (bits - 1)
    unclipped = np.rint(ALL_CODES / step)
    clipped = unclipped != derive(ALL_CODES, bits)
    assert set(unclipped[clipped]) == {half}
    assert unclipped.min() == -half
    assert ALL_CODES[clipped].min() == 128 - step // 2  # the tie itself goes up, the code below it is odd


def test_codes_96_to_127_saturate_at_2_bits() -> None:
    np.testing.assert_array_equal(derive(np.arange(96, 128).astype(np.int8), 2), 1)


def test_chaining_through_the_widths_differs_on_exactly_30_codes() -> None:
    chained = ALL_CODES
    for fine, coarse in ((8, 6), (6, 4), (4, 2)):
        chained = np.clip(np.rint(chained / 2.0 ** (fine - coarse)), -(2 ** (coarse - 1)), 2 ** (coarse - 1) - 1)
    assert int((chained != derive(ALL_CODES, 2)).sum()) == 30


@pytest.mark.parametrize(("bits", "by_floor", "by_half_up"), [(7, 63, 64), (6, 94, 32), (4, 112, 8), (2, 94, 2)])
def test_floor_and_half_up_are_other_roundings(bits: int, by_floor: int, by_half_up: int) -> None:
    scaled = ALL_CODES / 2.0 ** (8 - bits)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    assert int((np.clip(np.floor(scaled), low, high) != derive(ALL_CODES, bits)).sum()) == by_floor
    assert int((np.clip(np.floor(scaled + 0.5), low, high) != derive(ALL_CODES, bits)).sum()) == by_half_up


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint8, np.float32])
def test_other_types_than_the_masters_int8_are_refused(dtype: type) -> None:
    with pytest.raises(TypeError, match="int8"):
        derive(np.zeros(3, dtype), 4)


@pytest.mark.parametrize("bits", [1, 9, 0, -2, True, 4.0, "4", None])
def test_what_is_no_width_is_refused(bits: object) -> None:
    with pytest.raises(PrecisionError):
        derive(ALL_CODES, bits)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(0,), (1,), (2, 3, 1, 1), ()])
def test_the_shape_is_kept(shape: tuple[int, ...]) -> None:
    assert derive(np.full(shape, -128, np.int8), 2).shape == shape


def test_the_master_is_left_alone() -> None:
    q8 = ALL_CODES.copy()
    for bits in WIDTHS:
        derive(q8, bits)
    np.testing.assert_array_equal(q8, ALL_CODES)
