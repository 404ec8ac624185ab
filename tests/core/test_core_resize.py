"""Pictures made smaller or larger, by the native extension and without it, to the same bytes."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bitgear.tasks import resize as resizing
from bitgear.tasks.resize import reduce, resize

RNG = np.random.default_rng(8)


def pictures(height: int, width: int) -> list[NDArray[np.uint8]]:
    """Noise, the extremes alone, and all white."""
    return [
        RNG.integers(0, 256, (height, width, 3), np.uint8),
        RNG.choice(np.array([0, 255], np.uint8), (height, width, 3)),
        np.full((height, width, 3), 255, np.uint8),
    ]


@pytest.fixture(params=["native", "without"], autouse=True)
def extension(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without":
        monkeypatch.setattr(resizing, "native_instruction_set", lambda: None)
    else:
        pytest.importorskip("bitgear._native")


SIZES = [
    (64, 64), (65, 63), (47, 99), (1, 4000), (4000, 1), (7, 1), (3, 3), (301, 200), (2100, 12), (12, 2100),
    (1100, 1037),
]  # fmt: skip


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(("to_height", "to_width"), [(1, 1), (2, 3), (8, 8), (16, 12)])
def test_blocks_are_averaged_as_pillow_does(height: int, width: int, to_height: int, to_width: int) -> None:
    across, down = max(width // to_width // 2, 1), max(height // to_height // 2, 1)
    for pixels in pictures(height, width):
        reduced, shown = reduce(pixels, to_width, to_height)
        np.testing.assert_array_equal(reduced, np.asarray(Image.fromarray(pixels).reduce((across, down))))
        assert shown == (width / across, height / down)


def test_what_shrinks_by_less_than_four_is_not_averaged() -> None:
    pixels = pictures(63, 63)[0]
    assert reduce(pixels, 16, 16)[0] is pixels
    assert reduce(pixels, 200, 200)[0] is pixels


def test_a_part_of_a_picture_is_averaged_like_a_copy_of_it() -> None:
    part = pictures(90, 90)[0][5:80, 7:85]
    np.testing.assert_array_equal(reduce(part, 8, 8)[0], reduce(part.copy(), 8, 8)[0])


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("side_px", [5, 32])
def test_a_picture_of_one_colour_keeps_it(height: int, width: int, side_px: int) -> None:
    resized = resize(np.full((height, width, 3), (1, 128, 254), np.uint8), side_px, side_px)
    assert resized.shape == (side_px, side_px, 3)
    assert (resized == (1, 128, 254)).all()


def test_resizing_is_near_to_pillows_in_one_go() -> None:
    """Blocks first are customary where much is lost anyway: Pillow's own thumbnails are made so."""
    smooth = Image.fromarray(pictures(20, 20)[0]).resize((400, 300), Image.Resampling.BICUBIC)
    whole = np.asarray(smooth.resize((32, 24), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(resize(np.asarray(smooth), 32, 24) - whole).mean() < 2


def test_a_picture_of_the_size_comes_back_as_it_is() -> None:
    pixels = pictures(9, 11)[0]
    assert resize(pixels, 11, 9) is pixels


@pytest.mark.parametrize("bound", ["MAX_PICTURE_BYTES", "MAX_AVERAGED"])
def test_what_is_too_large_for_the_extension_is_averaged_without_it(
    bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    native = pytest.importorskip("bitgear._native")
    pixels = pictures(60, 80)[0]
    expected = reduce(pixels, 8, 8)[0]
    monkeypatch.setattr(native, bound, 1)
    np.testing.assert_array_equal(reduce(pixels, 8, 8)[0], expected)
