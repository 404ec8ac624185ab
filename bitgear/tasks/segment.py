"""Segmentation: picture -> network input, logits -> a class for every pixel of the picture, and how good that is."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from bitgear.engines.registry import native_instruction_set
from bitgear.tasks.letterbox import Letterbox

KEPT_AXES = 64
"""Of how many sizes of pictures the samples of an axis are remembered."""

IDS = 256
"""How many ids a map can have."""

_MIXED = 255
_LARGEST = 1e30
_BLOCK_VALUES = 1 << 20
"""How many interpolated values are held at once, so that large pictures take no more memory."""


@dataclass(frozen=True, eq=False)
class Segmentation:
    """``mask``: class ids, uint8 (height, width), of the picture's pixels; ``labels``: the classes' names."""

    mask: NDArray[np.uint8]
    labels: tuple[str, ...]

    @cached_property
    def present(self) -> list[tuple[int, str, int]]:
        """The classes that are there, by id: id, name and pixels."""
        counts = _count_pixels(self.mask).tolist()
        return [(class_id, label, counts[class_id]) for class_id, label in enumerate(self.labels) if counts[class_id]]


def _count_pixels(mask: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return how many pixels of a mask there are of each of 256 ids."""
    if native_instruction_set() is None:
        return np.bincount(mask.ravel(), minlength=IDS)
    from bitgear import _native

    counts = np.zeros(IDS, np.int64)
    _native.count_ids(np.ascontiguousarray(mask), counts)
    return counts


def segmentation(logits: NDArray[np.float32], letterbox: Letterbox, labels: Sequence[str]) -> Segmentation:
    """Return the classes in one picture, of its logits, float32 (classes, H', W'), as :func:`class_mask` reads them."""
    return Segmentation(class_mask(logits, letterbox), tuple(labels))


def class_mask(logits: NDArray[np.float32], letterbox: Letterbox) -> NDArray[np.uint8]:
    """Return the class id of every pixel of the picture, uint8 (height, width), of logits (classes, H', W').

    A pixel's class is the one whose logits, interpolated bilinearly at the pixel's centre, are largest, the lowest
    id of equal ones. Centres are at halves of pixels and cells, and beyond the outermost centres values stay as they
    are: it is the customary resize of the logits to the picture's size, cut to what the picture covers. Four cells
    that agree surround no pixel of another class, so that only those between unlike cells are interpolated:
    down the columns first, then along the rows, in float32. Values that are no numbers count as the smallest.

    The native extension does it where there is one; the ids are the same.
    """
    rows, columns = logits.shape[1:]
    y = _Samples.of(letterbox.height_px, letterbox.scale_y, letterbox.top_px, letterbox.input_height_px, rows)
    x = _Samples.of(letterbox.width_px, letterbox.scale_x, letterbox.left_px, letterbox.input_width_px, columns)
    instruction_set = native_instruction_set()
    if instruction_set is None:
        return _class_mask(logits, y, x)
    from bitgear import _native

    mask = np.empty((letterbox.height_px, letterbox.width_px), np.uint8)
    _native.paint_mask(instruction_set, np.ascontiguousarray(logits), y.first, y.share, x.first, x.share, mask)
    return mask


def _class_mask(logits: NDArray[np.float32], y: "_Samples", x: "_Samples") -> NDArray[np.uint8]:
    classes, _, columns = logits.shape
    values: NDArray[np.float32] = np.nan_to_num(logits, nan=-_LARGEST).clip(-_LARGEST, _LARGEST)
    best = _largest(values)
    beside = np.concatenate([best[:, 1:], best[:, -1:]], axis=1)
    unlike = best != beside
    unlike[:-1] |= (best[:-1] != best[1:]) | unlike[1:]
    best[unlike] = _MIXED
    mask = best[y.first].take(x.first, axis=1)
    block = max(1, _BLOCK_VALUES // (classes * columns))
    for start in range(0, len(mask), block):
        part = mask[start : start + block]
        pixels = np.flatnonzero(part == _MIXED)
        if not pixels.size:
            continue
        row, column = np.divmod(pixels, mask.shape[1])
        # take, and not an index, keeps the classes outermost in memory: nothing is copied to make lines of it.
        upper = values.take(y.first[start : start + block], axis=1)
        lower = values.take(y.second[start : start + block], axis=1)
        lower -= upper
        lower *= y.share[start : start + block, None]
        upper += lower
        lines = upper.reshape(classes, -1)
        row *= columns
        left, right = lines.take(row + x.first[column], axis=1), lines.take(row + x.second[column], axis=1)
        right -= left
        right *= x.share[column]
        left += right
        part.ravel()[pixels] = _largest(left)
    return mask


@dataclass(frozen=True, eq=False)
class _Samples:
    """Along one axis, for each pixel: the cells on both sides of its centre, and how far it is towards the second."""

    first: NDArray[np.int32]
    second: NDArray[np.int32]
    share: NDArray[np.float32]

    @classmethod
    @lru_cache(KEPT_AXES)  # pictures mostly come in few sizes, and the steps below take a tenth of a millisecond
    def of(cls, pixels: int, scale: float, start_px: int, input_px: int, cells: int) -> "_Samples":
        position = ((np.arange(pixels) + 0.5) * scale + start_px) * (cells / input_px) - 0.5
        position = position.clip(0, cells - 1)
        first = position.astype(np.int32)
        samples = cls(first, np.minimum(first + 1, cells - 1), (position - first).astype(np.float32))
        for values in (samples.first, samples.second, samples.share):
            values.flags.writeable = False  # they are handed out again
        return samples


def _largest(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the index along the first axis of the largest value, the first of equal ones, uint8."""
    # By far faster than argmax, which is slow along an axis that is not the last.
    highest = values[0].copy()
    index = np.zeros(highest.shape, np.uint8)
    for i in range(1, len(values)):
        index[values[i] > highest] = i
        np.maximum(highest, values[i], out=highest)
    return index


class Confusion:
    """Counts of pixels by true and by predicted class."""

    def __init__(self, classes: int) -> None:
        self.counts = np.zeros((classes, classes), np.int64)

    def add(self, predicted: NDArray[np.uint8], truth: NDArray[np.uint8], ignore: int) -> None:
        """Count pixels, class ids uint8 of equal shape each; those whose true class is ``ignore`` do not count."""
        classes = len(self.counts)
        labelled = truth != ignore
        pairs = truth[labelled].astype(np.int64) * classes + predicted[labelled]
        self.counts += np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)

    def class_iou(self) -> NDArray[np.float64]:
        """Return each class's pixels in common as a share, 0..1, of its union; NaN where it occurs nowhere."""
        right = np.diag(self.counts).astype(np.float64)
        either = self.counts.sum(0) + self.counts.sum(1) - right
        shares: NDArray[np.float64] = np.divide(right, either, out=np.full(len(right), np.nan), where=either > 0)
        return shares

    def miou(self) -> float:
        """Return the mean of :meth:`class_iou` over the classes that there are; 0 without any pixel."""
        ious = self.class_iou()
        return float(np.nanmean(ious)) if np.isfinite(ious).any() else 0.0

    def pixel_accuracy(self) -> float:
        """Return the share, 0..1, of pixels whose class is right; 0 without any pixel."""
        return float(np.trace(self.counts) / max(self.counts.sum(), 1))
