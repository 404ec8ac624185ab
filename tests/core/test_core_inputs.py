"""From pixels to codes."""

import json
from typing import Any

import numpy as np
import pytest

from bitgear.inputs import InputRecord

RECORD = InputRecord(8, 6, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 0.0186)


def test_the_table_is_what_the_formula_says() -> None:
    table = RECORD.table()
    assert table.shape == (3, 256)
    assert table.dtype == np.int8
    for channel in range(3):
        for p in (0, 1, 100, 124, 254, 255):
            real = ((p / 255 - RECORD.mean[channel]) / RECORD.std[channel]) / RECORD.scale
            assert table[channel, p] == max(-128, min(127, round(real)))


def test_values_beyond_the_codes_saturate() -> None:
    table = InputRecord(8, 8, (0.5, 0.5, 0.5), (0.1, 0.1, 0.1), 0.01).table()
    assert table[0, 0] == -128
    assert table[0, 255] == 127


@pytest.mark.parametrize("offset", [0, 1, 127, 128, 255])
def test_centred_codes_are_the_pixel_minus_the_offset(offset: int) -> None:
    table = InputRecord.centred(32, offset).table()
    np.testing.assert_array_equal(table, np.broadcast_to(np.clip(np.arange(256) - offset, -128, 127), (3, 256)))


def test_encoding_looks_every_channel_up_in_its_own_row() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 6, 3)).astype(np.uint8)
    codes = RECORD.encode(pixels)
    assert codes.shape == (2, 3, 8, 6)
    assert codes.dtype == np.int8
    for n, y, x, channel in ((0, 0, 0, 0), (1, 7, 5, 2), (0, 3, 4, 1), (1, 2, 0, 0)):
        assert codes[n, channel, y, x] == RECORD.table()[channel, pixels[n, y, x, channel]]


def test_json_round_trip_gives_an_equal_record() -> None:
    assert InputRecord.from_json(json.loads(json.dumps(RECORD.to_json()))) == RECORD


def test_whole_numbers_become_floats() -> None:
    record = InputRecord.from_json(RECORD.to_json() | {"mean": [0, 0, 0], "std": [1, 1, 1], "scale": 1})
    assert record == InputRecord(8, 6, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0)
    assert type(record.scale) is float


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("height_px", 0), ("height_px", 8193), ("height_px", 8.0), ("height_px", True), ("height_px", "8"),
        ("width_px", -1), ("width_px", None),
        ("mean", [0.0, 0.0]), ("mean", [0.0] * 4), ("mean", "abc"), ("mean", [0.0, 0.0, None]), ("mean", 0.5),
        ("mean", [0.0, 0.0, float("nan")]), ("mean", [0.0, 0.0, float("inf")]), ("mean", [True, 0.0, 0.0]),
        ("mean", [10**400, 0, 0]), ("std", [10**400, 1, 1]),
        ("std", [0.0, 1.0, 1.0]), ("std", [1.0, -1.0, 1.0]), ("std", [1.0, 1.0, float("nan")]),
        ("std", [1e-300, 1.0, 1.0]), ("mean", [0.0, 1e300, 0.0]), ("std", None),
        ("scale", 0.0), ("scale", -1.0), ("scale", float("nan")), ("scale", float("inf")), ("scale", "1"),
        ("scale", None), ("scale", True), ("scale", 10**400), ("scale", 1e-60), ("scale", 1e39),
        ("scale", 2.0**-33), ("scale", 2.0**33), ("scale", [[0.5] * 5000] * 5000),
    ],
)  # fmt: skip
def test_each_entry_is_checked_and_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        InputRecord.from_json(RECORD.to_json() | {name: value})


@pytest.mark.parametrize("value", [None, [], "x", {}, RECORD.to_json() | {"extra": 1}])
def test_the_keys_must_be_exactly_the_known_ones(value: Any) -> None:
    with pytest.raises(ValueError, match="expected the keys"):
        InputRecord.from_json(value)


@pytest.mark.parametrize("scale", [2.0**-32, 2.0**32])
def test_extreme_scales_make_a_table_without_warnings(scale: float) -> None:
    record = InputRecord.from_json(
        RECORD.to_json() | {"scale": scale, "mean": [3e38, 0, -3e38], "std": [1.2e-38, 1, 3e38]}
    )
    assert record.table().dtype == np.int8


def test_ties_go_to_the_even_code() -> None:
    table = InputRecord(8, 8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 2 / 255).table()  # code = pixel / 2
    ties = [p for p in range(1, 256, 2) if p / 255 / (2 / 255) == p / 2]
    assert len(ties) > 50
    assert [int(table[0, p]) for p in ties] == [min(127, round(p / 2)) for p in ties]


def test_values_in_real_units_have_the_codes_of_their_pixels() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    real = ((pixels / 255 - np.array(RECORD.mean)) / np.array(RECORD.std)).astype(np.float32).transpose(0, 3, 1, 2)
    codes = RECORD.quantise(real)
    assert codes.dtype == np.int8
    np.testing.assert_array_equal(codes, RECORD.encode(pixels))


def test_values_halfway_go_to_the_even_code_and_those_beyond_saturate() -> None:
    record = InputRecord(1, 1, (0.0,) * 3, (1.0,) * 3, 0.5)
    values = np.array([0.25, 0.75, -0.25, -0.75, 63.5, 64.0, 3e38, -3e38], np.float32)
    assert record.quantise(values).tolist() == [0, 2, 0, -2, 127, 127, 127, -128]
