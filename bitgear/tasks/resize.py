"""Pictures made smaller or larger: by blocks as far as that loses nothing, then by Pillow's bilinear filter."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bitgear.engines.registry import native_instruction_set

REDUCING_GAP = 2
"""A picture that shrinks by twice this or more is first averaged in blocks, until it shrinks by this or more still."""
_BILINEAR = Image.Resampling.BILINEAR


def resize(pixels: NDArray[np.uint8], width_px: int, height_px: int) -> NDArray[np.uint8]:
    """Return a picture, uint8 (height_px, width_px, 3), of one of any size, uint8 (H, W, 3).

    Pillow's bilinear filter averages where it shrinks. A picture of that size comes back as it is.
    """
    if pixels.shape[:2] == (height_px, width_px):
        return pixels
    reduced, (width, height) = reduce(pixels, width_px, height_px)
    # One axis at a time, first across, then down: which one Pillow takes first depends on its version and on the sizes.
    across = Image.fromarray(reduced).resize((width_px, len(reduced)), _BILINEAR, (0, 0, width, len(reduced)))
    return np.asarray(across.resize((width_px, height_px), _BILINEAR, (0, 0, width_px, height)))


def reduce(pixels: NDArray[np.uint8], width_px: int, height_px: int) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    """Return a picture averaged in blocks, and the width and height in its pixels of what the given picture shows.

    ``width_px``, ``height_px``: the size that it is to be resized to afterwards. The native extension, where there is
    one, and Pillow give the same bytes.
    """
    height, width = pixels.shape[:2]
    across = int(width / width_px / REDUCING_GAP) or 1
    down = int(height / height_px / REDUCING_GAP) or 1
    shown = (width / across, height / down)
    if across == down == 1:
        return pixels, shown
    if native_instruction_set() is not None:
        from bitgear import _native

        if pixels.size <= _native.MAX_PICTURE_BYTES and across * down <= _native.MAX_AVERAGED:
            averages = np.empty((-(-height // down), -(-width // across), 3), np.uint8)
            _native.reduce_picture(np.ascontiguousarray(pixels), (across, down), averages)
            return averages, shown
    return np.asarray(Image.fromarray(pixels).reduce((across, down))), shown
