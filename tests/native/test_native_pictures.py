"""Pixels before and behind the network: every instruction set gives the bytes of the portable way."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from bitgear.engines.registry import KERNEL_VARIABLE
from bitgear.inputs import InputRecord
from bitgear.tasks import letterbox as letterboxes
from bitgear.tasks import segment
from bitgear.tasks.letterbox import Letterbox
from tests.native.paths import OFFERED, _native

SIZES = [
    (1, 1), (1, 4000), (4000, 1), (640, 480), (480, 640), (416, 320), (333, 500), (50, 37), (3, 7), (2000, 1500),
    (1665, 97), (97, 1665), (415, 319), (208, 160),
]  # fmt: skip
"""Widths and heights: shrunk, by more than twice the reducing gap too, enlarged, both, and neither."""

RECORDS = [
    InputRecord(320, 416, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 0.02),
    replace(InputRecord.centred(64, 128), height_px=47, width_px=65),
]


@pytest.fixture(params=OFFERED)
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(KERNEL_VARIABLE, request.param)
    return str(request.param)


def pictures(width: int, height: int) -> list[NDArray[np.uint8]]:
    """Noise, the extremes alone, and all white."""
    rng = np.random.default_rng(width + 5 * height)
    shape = (height, width, 3)
    return [
        rng.integers(0, 256, shape, np.uint8),
        rng.choice(np.array([0, 255], np.uint8), shape),
        np.full(shape, 255, np.uint8),
    ]


@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_placing_equals_resizing_and_encoding(instruction_set: str, width: int, height: int, record: InputRecord):
    letterbox = Letterbox.of(width, height, record)
    for pixels in pictures(width, height):
        expected = record.encode(letterbox.place(pixels)[None])
        np.testing.assert_array_equal(letterbox.codes(pixels, record), expected)
    turned = pictures(height, width)[0].transpose(1, 0, 2)  # not contiguous
    np.testing.assert_array_equal(letterbox.codes(turned, record), record.encode(letterbox.place(turned)[None]))


def weights(size: int, positions: int) -> NDArray[np.int64]:
    """The definition: triangles as wide as the step from pixel to pixel, at least 1, in multiples of 2^-22."""
    step = size / positions
    support = max(step, 1.0)
    distance = np.abs((np.arange(size) + 0.5 - (np.arange(positions)[:, None] + 0.5) * step) / support)
    triangle = np.maximum(1 - distance, 0)
    return np.floor(triangle / triangle.sum(axis=1, keepdims=True) * 2**22 + 0.5).astype(np.int64)


@pytest.mark.parametrize(("width", "height"), [(640, 480), (480, 640), (3, 7), (77, 20), (500, 500)])
def test_resizing_is_what_its_definition_says(width: int, height: int):
    record = RECORDS[0]
    pixels, letterbox = pictures(width, height)[0], Letterbox.of(width, height, record)
    content = pixels.astype(np.int64)
    for axis, size in ((1, letterbox.content_width_px), (0, letterbox.content_height_px)):  # across, then down
        summed = np.moveaxis(np.tensordot(weights(content.shape[axis], size), content, (1, axis)), 0, axis)
        content = (summed + 2**21) >> 22
    placed = letterbox.place(pixels)
    top, left = letterbox.top_px, letterbox.left_px
    inside = placed[top : top + letterbox.content_height_px, left : left + letterbox.content_width_px]
    # The sums of the definition may lie on the other side of a half, in the last of their 22 bits.
    assert np.abs(inside.astype(np.int64) - content).max() <= 1
    assert (inside != content).mean() < 1e-3


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 400), (400, 1), (160, 120), (37, 53), (416, 100)])
def test_masks_equal_those_of_the_portable_way(
    instruction_set: str, width: int, height: int, monkeypatch: pytest.MonkeyPatch
):
    letterbox = Letterbox.of(width, height, RECORDS[0])
    rng = np.random.default_rng(width)
    for classes, rows, columns in ((1, 5, 7), (3, 80, 104), (11, 1, 1), (12, 40, 52), (254, 3, 5)):
        logits = rng.normal(size=(classes, rows, columns)).astype(np.float32)
        flat = np.repeat(np.repeat(logits, 4, axis=1), 4, axis=2)
        ties = logits.round()
        odd = logits.copy()
        odd.ravel()[rng.integers(0, odd.size, 40)] = rng.choice([np.nan, np.inf, -np.inf, 3e38, -3e38, -0.0], 40)
        for values in (logits, flat, ties, odd, flat[:, ::2, ::3]):
            found = segment.class_mask(values, letterbox)
            with monkeypatch.context() as portable:
                portable.setattr(segment, "native_instruction_set", lambda: None)
                np.testing.assert_array_equal(found, segment.class_mask(values, letterbox))


@pytest.mark.parametrize(
    "steps", [(1,), (1, 1, 1, 1, 1, 1, 0), (1, 1, 1, 1, 1, 0), (1, 0), (0, 0, 0, 0, 1), (2, 0, 0), (0, 3, 1)]
)
@pytest.mark.parametrize("pixels", [1, 7, 8, 9, 31, 64, 65, 100])
def test_masks_of_all_densities_of_cells(instruction_set: str, steps: tuple[int, ...], pixels: int):
    """From several pixels a cell to several cells a pixel, and what lies just beside what vectors can hold."""
    rng = np.random.default_rng(pixels)
    first = np.resize(np.array(steps, np.int32), pixels).cumsum(dtype=np.int32)
    cells = int(first[-1]) + int(rng.integers(1, 4))  # pixels end within the last cell, or before it
    share = rng.random(pixels, np.float32)
    x = segment._Samples(first, np.minimum(first + 1, cells - 1), share)
    y = segment._Samples(np.array([0, 0, 1, 4], np.int32), np.array([1, 1, 2, 4], np.int32), rng.random(4, np.float32))
    for classes in (1, 2, 11):
        logits = rng.normal(size=(classes, 5, cells)).astype(np.float32)
        mask = np.full((4, pixels), 200, np.uint8)
        _native.paint_mask(instruction_set, logits, y.first, y.share, x.first, x.share, mask)
        np.testing.assert_array_equal(mask, segment._class_mask(logits, y, x))


def test_without_the_extension_codes_are_the_same(monkeypatch: pytest.MonkeyPatch):
    record, pixels = RECORDS[0], pictures(640, 480)[0]
    letterbox = Letterbox.of(640, 480, record)
    found = letterbox.codes(pixels, record)
    monkeypatch.setattr(letterboxes, "native_instruction_set", lambda: None)
    np.testing.assert_array_equal(letterbox.codes(pixels, record), found)


def test_an_instruction_set_that_is_none_leaves_the_portable_way(monkeypatch: pytest.MonkeyPatch):
    record, pixels = RECORDS[0], pictures(50, 37)[0]
    letterbox = Letterbox.of(50, 37, record)
    monkeypatch.setenv(KERNEL_VARIABLE, "none")
    np.testing.assert_array_equal(letterbox.codes(pixels, record), record.encode(letterbox.place(pixels)[None]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"pixels": np.zeros((0, 5, 3), np.uint8)},
        {"pixels": np.zeros((5, 5, 4), np.uint8)},
        {"box": (0.0, 5.0)},
        {"box": (5.0, 6.0)},
        {"box": (float("nan"), 5.0)},
        {"content": (0, 4)},
        {"content": (4, 9)},
        {"content": (1, 1)},
        {"corner": (-1, 0)},
        {"corner": (5, 0)},
        {"table": np.zeros((3, 255), np.int8)},
        {"codes": np.zeros((2, 8, 8), np.int8)},
    ],
)
def test_what_would_reach_beyond_memory_is_refused(wrong: dict[str, object]):
    right: dict[str, object] = {
        "pixels": np.zeros((5, 5, 3), np.uint8),
        "box": (5.0, 5.0),
        "content": (4, 4),
        "corner": (4, 4),
        "table": np.zeros((3, 256), np.int8),
        "bar": (0, 0, 0),
        "codes": np.zeros((3, 8, 8), np.int8),
    }
    _native.place_picture("portable", **right)
    with pytest.raises(ValueError, match=r"picture is|outside"):
        _native.place_picture("portable", **{**right, **wrong})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logits", np.zeros((257, 2, 2), np.float32)),
        ("logits", np.zeros((3, 0, 2), np.float32)),
        ("y_first", np.array([0, 2], np.int32)),
        ("y_first", np.array([-1, 0], np.int32)),
        ("x_first", np.array([1, 0], np.int32)),
        ("x_share", np.zeros(3, np.float32)),
        ("mask", np.zeros((3, 2), np.uint8)),
    ],
)
def test_samples_that_would_reach_beyond_memory_are_refused(name: str, value: NDArray[np.generic]):
    two, half = np.array([0, 1], np.int32), np.zeros(2, np.float32)
    right = {
        "logits": np.zeros((3, 2, 2), np.float32), "y_first": two, "y_share": half, "x_first": two, "x_share": half,
        "mask": np.zeros((2, 2), np.uint8),
    }  # fmt: skip
    _native.paint_mask("portable", **right)
    with pytest.raises(ValueError, match=r"logits are|samples go"):
        _native.paint_mask("portable", **{**right, name: value})


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 8), (5, 13), (40, 33)])
@pytest.mark.parametrize("ids", [1, 3, 256])
def test_ids_are_counted(shape: tuple[int, int], ids: int):
    noise = np.random.default_rng(ids).integers(256 - ids, 256, shape, np.uint8)
    for mask in (noise, np.repeat(noise, 9, axis=1)):
        counts = np.full(256, 5, np.int64)
        _native.count_ids(mask, counts)
        np.testing.assert_array_equal(counts, 5 + np.bincount(mask.ravel(), minlength=256))


def test_counts_of_fewer_ids_are_refused():
    with pytest.raises(ValueError, match="256 ids"):
        _native.count_ids(np.zeros((2, 2), np.uint8), np.zeros(255, np.int64))


@pytest.mark.parametrize(
    ("shape", "factors", "averages"),
    [((4, 4, 3), (0, 1), (4, 4, 3)), ((4, 4, 3), (2, -1), (4, 2, 3)), ((4, 4, 3), (2, 2), (2, 1, 3)),
     ((4, 4, 3), (3, 3), (1, 1, 3)), ((0, 4, 3), (1, 1), (0, 4, 3)), ((4, 4, 4), (2, 2), (2, 2, 4)),
     ((4, 4, 3), (2**13, 2**12), (1, 1, 3)), ((4, 4, 3), (2**31 - 1, 2**31 - 1), (1, 1, 3))],
)  # fmt: skip
def test_averages_that_do_not_fit_are_refused(
    shape: tuple[int, ...], factors: tuple[int, int], averages: tuple[int, ...]
):
    with pytest.raises(ValueError, match="averages have one for each block"):
        _native.reduce_picture(np.zeros(shape, np.uint8), factors, np.zeros(averages, np.uint8))
