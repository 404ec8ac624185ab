"""Encodings of masks, read back as docs/http.md says they are read."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from bitgear.tasks.masks import Counts, Outline, outlines, run_lengths, to_png

Mask = NDArray[np.uint8]


@st.composite
def masks(draw: st.DrawFn) -> Mask:
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.choice(draw(st.sampled_from([[0], [0, 1], [0, 255], [3, 4, 5]])), (height, width)).astype(np.uint8)


def filled(counts: Counts, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels of run lengths."""
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(shape, order="F")


def painted(outline: Outline, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels whose centres a polygon holds, by the even-odd rule."""
    inside = np.zeros(shape, bool)
    for (x, y), (next_x, next_y) in zip(outline, outline[1:] + outline[:1], strict=True):
        if x == next_x:
            inside[min(y, next_y) : max(y, next_y), x:] ^= True
    return inside


def grown(area: NDArray[np.bool_], seed: tuple[int, int], corners: bool) -> NDArray[np.bool_]:
    """The part of an area that is connected to one of its pixels."""
    part = np.zeros_like(area)
    part[seed] = True
    while True:
        wide = np.pad(part, 1)
        reached = wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]
        if corners:
            reached |= wide[:-2, :-2] | wide[2:, 2:] | wide[:-2, 2:] | wide[2:, :-2]
        larger = part | (reached & area)
        if (larger == part).all():
            return part
        part = larger


def areas(mask: Mask, class_id: int) -> list[NDArray[np.bool_]]:
    """The connected areas of a class, row by row, without their holes."""
    left = mask == class_id
    found = []
    while left.any():
        y, x = np.argwhere(left)[0]
        area = grown(mask == class_id, (y, x), corners=False)
        left &= ~area
        outside = grown(~np.pad(area, 1), (0, 0), corners=True)
        found.append(~outside[1:-1, 1:-1])
    return found


@given(masks())
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_a_png_holds_the_ids(mask: Mask) -> None:
    with Image.open(io.BytesIO(to_png(mask))) as image:
        assert image.mode == "L"
        assert np.array_equal(np.asarray(image), mask)


@given(masks())
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_run_lengths_hold_the_pixels_of_every_class(mask: Mask) -> None:
    lengths = run_lengths(mask)
    assert list(lengths) == np.unique(mask).tolist()
    for class_id, counts in lengths.items():
        assert np.array_equal(filled(counts, mask.shape), mask == class_id)
        assert all(count > 0 for count in counts[1:])


@given(masks())
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
def test_outlines_hold_the_areas_of_every_class(mask: Mask) -> None:
    traced = outlines(mask)
    assert list(traced) == np.unique(mask).tolist()
    for class_id, polygons in traced.items():
        expected = areas(mask, class_id)
        assert len(polygons) == len(expected)
        for polygon, area in zip(polygons, expected, strict=True):
            assert np.array_equal(painted(polygon, mask.shape), area)


@given(masks())
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_outlines_turn_at_every_corner_and_run_clockwise(mask: Mask) -> None:
    for polygons in outlines(mask).values():
        for polygon in polygons:
            corners = np.asarray(polygon)
            steps = np.roll(corners, -1, axis=0) - corners
            assert ((steps != 0).sum(axis=1) == 1).all()
            assert ((steps[0::2, 1] == 0) & (steps[1::2, 0] == 0)).all()
            assert (corners[:, 0] * np.roll(corners[:, 1], -1) - np.roll(corners[:, 0], -1) * corners[:, 1]).sum() > 0
            assert polygon[0] == min(polygon, key=lambda corner: (corner[1], corner[0]))


@pytest.mark.parametrize("shape", [(1, 4000), (4000, 1), (1, 1)])
def test_one_row_or_column(shape: tuple[int, int]) -> None:
    mask = np.full(shape, 2, np.uint8)
    assert run_lengths(mask) == {2: [0, mask.size]}
    assert outlines(mask) == {2: [[(0, 0), (shape[1], 0), shape[::-1], (0, shape[0])]]}
