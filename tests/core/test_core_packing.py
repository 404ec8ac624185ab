"""Packed integers: exact bytes, both ways."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgear.bits import WIDTHS, weight_range
from bitgear.errors import PrecisionError
from bitgear.packing import pack, packed_size_bytes, unpack


@settings(deadline=None, database=None, max_examples=60)
@given(bits=st.sampled_from(WIDTHS), data=st.data())
def test_unpacking_returns_what_was_packed(bits: int, data: st.DataObject) -> None:
    low, high = weight_range(bits)
    codes = np.asarray(data.draw(st.lists(st.integers(low, high), max_size=70)), np.int8)
    packed = pack(codes, bits)
    assert packed.dtype == np.uint8
    assert packed.shape == (packed_size_bytes(len(codes), bits),)
    np.testing.assert_array_equal(unpack(packed, bits, len(codes)), codes)


@settings(deadline=None, database=None, max_examples=60)
@given(bits=st.sampled_from(WIDTHS), data=st.data())
def test_bytes_follow_the_documented_layout(bits: int, data: st.DataObject) -> None:
    low, high = weight_range(bits)
    codes = data.draw(st.lists(st.integers(low, high), max_size=40))
    stream = sum((code & ((1 << bits) - 1)) << (i * bits) for i, code in enumerate(codes))
    expected = stream.to_bytes(packed_size_bytes(len(codes), bits), "little")
    assert pack(np.asarray(codes, np.int8), bits).tobytes() == expected


@pytest.mark.parametrize("bits", WIDTHS)
def test_every_code_of_a_width_survives(bits: int) -> None:
    low, high = weight_range(bits)
    codes = np.arange(low, high + 1).astype(np.int8)
    np.testing.assert_array_equal(unpack(pack(codes, bits), bits, codes.size), codes)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("count", range(18))
def test_the_size_is_the_bits_rounded_up_to_bytes(bits: int, count: int) -> None:
    assert packed_size_bytes(count, bits) == -(-count * bits // 8)
    assert pack(np.zeros(count, np.int8), bits).size == packed_size_bytes(count, bits)


def test_the_last_byte_is_filled_with_zero_bits() -> None:
    assert pack(np.full(3, -1, np.int8), 3).tobytes() == bytes([0b11111111, 0b00000001])


def test_arrays_of_any_shape_and_stride_are_packed_in_order() -> None:
    codes = np.arange(-8, 8).astype(np.int8).reshape(2, 2, 2, 2)
    np.testing.assert_array_equal(pack(codes, 4), pack(codes.reshape(-1), 4))
    transposed = codes.transpose(3, 2, 1, 0)
    np.testing.assert_array_equal(pack(transposed, 4), pack(np.ascontiguousarray(transposed), 4))


@pytest.mark.parametrize("bits", [7, 6, 5, 4, 3, 2])
@pytest.mark.parametrize("end", ["low", "high"])
def test_codes_outside_the_range_are_refused(bits: int, end: str) -> None:
    low, high = weight_range(bits)
    code = low - 1 if end == "low" else high + 1
    with pytest.raises(ValueError, match=rf"{bits} bits hold {low} to {high}"):
        pack(np.asarray([0, code], np.int8), bits)


@pytest.mark.parametrize("size", [0, 2, 4])
def test_a_stream_of_the_wrong_length_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=r"bytes given; 6 codes of 4 bits take 3"):
        unpack(np.zeros(size, np.uint8), 4, 6)


@pytest.mark.parametrize("bits", [1, 9, 0])
def test_what_is_no_width_is_refused(bits: int) -> None:
    with pytest.raises(PrecisionError):
        packed_size_bytes(4, bits)
