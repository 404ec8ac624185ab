"""Masks of class ids on the wire: as a PNG, as run lengths, and as outlines. docs/http.md says how they are read."""

import struct
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from zlib_ng import zlib_ng

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_GREY_8_BIT = bytes([8, 0, 0, 0, 0])
_PNG_UP = 2
"""The filter of PNG that takes from every byte the one above it: of flat areas, zeros stay."""

_MEMORY_LEVEL = 5
"""Of zlib, which takes runs alone: at this one masks are smallest and soonest done."""

Counts = list[int]
"""Lengths of runs in pixels, down each column from the left: outside the class, inside, outside, and so on."""

Outline = list[tuple[int, int]]
"""Corners (x, y) of a closed polygon, clockwise as one looks at it, first not repeated, along the edges of pixels."""


def to_png(mask: NDArray[np.uint8]) -> bytes:
    """Return an 8-bit PNG of one channel whose values are those of ``mask``, uint8 (height, width).

    Written here, since image libraries try all filters on every row, which takes five times as long; compressed by
    zlib-ng, which gives the bytes of zlib in a third of its time.
    """
    height_px, width_px = mask.shape
    rows = np.empty((height_px, width_px + 1), np.uint8)
    rows[:, 0] = _PNG_UP
    rows[0, 1:] = mask[0]
    np.subtract(mask[1:], mask[:-1], out=rows[1:, 1:])
    packer = zlib_ng.compressobj(1, zlib_ng.DEFLATED, zlib_ng.MAX_WBITS, _MEMORY_LEVEL, zlib_ng.Z_RLE)
    header = struct.pack(">II", width_px, height_px) + _PNG_GREY_8_BIT
    chunks = ((b"IHDR", header), (b"IDAT", packer.compress(rows.data) + packer.flush()), (b"IEND", b""))
    return _PNG_SIGNATURE + b"".join(_png_chunk(kind, content) for kind, content in chunks)


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib_ng.crc32(kind + content))


def run_lengths(mask: NDArray[np.uint8]) -> Mapping[int, Counts]:
    """Return the uncompressed counts of COCO's run-length encoding, by class id, of a mask uint8 (height, width).

    >>> run_lengths(np.array([[5, 5], [7, 5]], np.uint8))
    {5: [0, 1, 1, 2], 7: [1, 1, 2]}
    """
    flat = mask.ravel(order="F")
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    ends = np.append(starts[1:], flat.size)
    values = flat[starts]
    lengths: dict[int, Counts] = {}
    for class_id in np.unique(values):
        chosen = values == class_id
        edges = np.stack([starts[chosen], ends[chosen]], axis=1).ravel()
        counts = np.diff(edges, prepend=0).tolist()
        if edges[-1] < flat.size:
            counts.append(flat.size - int(edges[-1]))
        lengths[int(class_id)] = counts
    return lengths


def outlines(mask: NDArray[np.uint8]) -> Mapping[int, list[Outline]]:
    """Return the outer outlines of every connected area, by class id, of a mask uint8 (height, width).

    Pixel (x, y) covers the square from (x, y) to (x + 1, y + 1); pixels that touch at a corner alone are two areas.
    Outlines of an id are in the order of their uppermost corners, the left one first. Holes are not told.

    >>> outlines(np.array([[5, 5], [7, 5]], np.uint8))
    {5: [[(0, 0), (2, 0), (2, 2), (1, 2), (1, 1), (0, 1)]], 7: [[(0, 1), (1, 1), (1, 2), (0, 2)]]}
    """
    framed = np.full((mask.shape[0] + 2, mask.shape[1] + 2), -1, np.int16)
    framed[1:-1, 1:-1] = mask
    quarters = framed[:-1, :-1], framed[:-1, 1:], framed[1:, :-1], framed[1:, 1:]
    # Only where four pixels that meet are not all the same can anything turn: few points, looked at for each id.
    upper_left, upper_right, lower_left, lower_right = quarters
    mixed = (upper_left != upper_right) | (lower_left != lower_right) | (upper_left != lower_left)
    y, x = np.nonzero(mixed)
    around = np.stack([quarter[y, x] for quarter in quarters])
    return {int(class_id): _trace(x, y, around == class_id) for class_id in np.unique(around) if class_id >= 0}


def _trace(x: NDArray[np.int64], y: NDArray[np.int64], inside: NDArray[np.bool_]) -> list[Outline]:
    """Return the outlines of one id. ``inside``: of the four pixels around each point (x, y), points row by row.

    An outline turns at each of its corners, so its edges lie in rows and in columns by turns. Along a row the corners
    are the ends of edges, two by two, and along a column likewise: sorting finds both neighbours of every corner. Where
    two pixels touch at a corner, two outlines do, and the point counts twice; which of the two is left of the other,
    and which above, makes them pass without crossing.
    """
    count = inside.sum(axis=0)
    falling = (count == 2) & (inside[0] == inside[3])  # both pixels of one diagonal
    places = np.flatnonzero((count == 1) | (count == 3) | falling)
    places = np.repeat(places, 1 + falling[places])
    second = np.append(False, places[1:] == places[:-1])
    # Of the two corners at a point the first, to which a row's edge comes from the left, comes from above if the upper
    # left pixel is inside, and goes down otherwise.
    below = second != ~inside[0, places] & falling[places]
    corner_x, corner_y = x[places], y[places]
    by_column = np.lexsort((below, corner_y, corner_x))
    vertical = np.empty_like(places)
    vertical[by_column[0::2]], vertical[by_column[1::2]] = by_column[1::2], by_column[0::2]
    turns, points = vertical.tolist(), list(zip(corner_x.tolist(), corner_y.tolist(), strict=True))
    outer = inside[3, places].tolist()  # the uppermost left corner of an outline has its area, or its hole, behind it
    seen = bytearray(len(points))
    found: list[Outline] = []
    for first in range(len(points)):
        if seen[first]:
            continue
        outline: Outline = []
        corner = first
        while not seen[corner]:
            across = corner ^ 1  # rows are in order already: corners 2k and 2k + 1 are the ends of an edge
            seen[corner] = seen[across] = True
            outline += (points[corner], points[across])
            corner = turns[across]
        if outer[first]:
            found.append(outline)
    return found
