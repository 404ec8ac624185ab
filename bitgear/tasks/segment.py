"""Segmentation: picture -> network input, logits -> a class for every pixel of the picture, and how good that is."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bitgear.inputs import InputRecord
from bitgear.tasks.letterbox import Letterbox
from bitgear.tasks.pictures import Picture

IGNORE = 255
"""In a map of class ids: a pixel that nobody labelled."""

_CHUNK_PIXELS = 1 << 20


@dataclass(frozen=True, eq=False)
class Segmentation:
    """``mask``: class ids, uint8 (height, width), of the picture's pixels; ``labels``: the classes' names."""

    mask: NDArray[np.uint8]
    labels: tuple[str, ...]

    @cached_property
    def present(self) -> list[tuple[int, str, int]]:
        """The classes that are there: id, name and pixels, the largest first."""
        pixels = np.bincount(self.mask.ravel(), minlength=len(self.labels))
        order = np.argsort(-pixels, kind="stable")
        return [(int(i), self.labels[i], int(pixels[i])) for i in order if pixels[i]]


def preprocess(picture: Picture, record: InputRecord) -> tuple[NDArray[np.int8], Letterbox]:
    """Return the codes, int8 (1, 3, H, W), of the picture in a letterbox, and the letterbox."""
    letterbox = Letterbox.of(picture.width_px, picture.height_px, record)
    return record.encode(letterbox.place(picture.pixels)[None]), letterbox


def segmentation(logits: NDArray[np.float32], letterbox: Letterbox, labels: Sequence[str]) -> Segmentation:
    """Return the class of every pixel of the picture, of its logits, float32 (C, H', W').

    The logits are read between their points bilinearly, pixels being squares; the largest wins, of equal ones the
    lowest id. Where one class has the largest logit in all four points around, it has it everywhere between them, so
    the logits themselves are looked at only where classes meet.
    """
    channels, height, width = logits.shape
    points = np.ascontiguousarray(logits.reshape(channels, -1).T)  # (H' * W', C)
    best = points.argmax(axis=1).astype(np.uint8).reshape(height, width)
    rows = _Axis.of(
        letterbox.height_px, letterbox.scale_y, letterbox.top_px, height / letterbox.input_height_px, height
    )
    columns = _Axis.of(
        letterbox.width_px, letterbox.scale_x, letterbox.left_px, width / letterbox.input_width_px, width
    )
    mask = np.empty((letterbox.height_px, letterbox.width_px), np.uint8)
    # Between point (y, x) and the three behind it: the class, or whether classes meet.
    padded = np.pad(best, ((0, 1), (0, 1)), mode="edge")
    upper_left, upper_right, lower_left, lower_right = (
        padded[:-1, :-1],
        padded[:-1, 1:],
        padded[1:, :-1],
        padded[1:, 1:],
    )
    meeting = (upper_left != upper_right) | (upper_left != lower_left) | (upper_left != lower_right)
    chunk = max(1, _CHUNK_PIXELS // letterbox.width_px)
    for begin in range(0, letterbox.height_px, chunk):
        part = slice(begin, begin + chunk)
        y = rows.first[part]
        mask[part] = best[y[:, None], columns.first]
        where_y, where_x = np.nonzero(meeting[y[:, None], columns.first])
        if not len(where_y):
            continue
        upper, lower = y[where_y] * width, rows.second[part][where_y] * width
        left, right = columns.first[where_x], columns.second[where_x]
        down, across = rows.weight[part][where_y, None], columns.weight[where_x, None]
        above = points[upper + left] * (1 - across) + points[upper + right] * across
        below = points[lower + left] * (1 - across) + points[lower + right] * across
        mask[part][where_y, where_x] = (above * (1 - down) + below * down).argmax(axis=1)
    return Segmentation(mask, tuple(labels))


@dataclass(frozen=True, eq=False)
class _Axis:
    """Of every pixel along an axis of the picture: the points before and behind it and the latter's weight, 0..1."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    weight: NDArray[np.float32]

    @classmethod
    def of(cls, size_px: int, scale: float, start_px: int, points_per_px: float, points: int) -> "_Axis":
        place = ((np.arange(size_px) + 0.5) * scale + start_px) * points_per_px - 0.5
        place = np.clip(place, 0, points - 1)
        first = place.astype(np.int64)
        return cls(first, np.minimum(first + 1, points - 1), (place - first).astype(np.float32))


class Confusion:
    """Counts of pixels by true and by predicted class; pixels whose true class is :data:`IGNORE` do not count."""

    def __init__(self, classes: int) -> None:
        self.counts = np.zeros((classes, classes), np.int64)

    def add(self, predicted: NDArray[np.uint8], truth: NDArray[np.uint8]) -> None:
        """Count pixels, class ids uint8 of equal shape each."""
        classes = len(self.counts)
        labelled = truth != IGNORE
        pairs = truth[labelled].astype(np.int64) * classes + predicted[labelled]
        self.counts += np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)

    def class_iou(self) -> NDArray[np.float64]:
        """Return each class's share, 0..1, of pixels rightly its own in all that are or were said to be; NaN: none are."""
        right = np.diag(self.counts).astype(np.float64)
        either = self.counts.sum(0) + self.counts.sum(1) - right
        return np.divide(right, either, out=np.full(len(right), np.nan), where=either > 0)

    def miou(self) -> float:
        """Return the mean of :meth:`class_iou` over the classes that there are; 0 without any pixel."""
        ious = self.class_iou()
        return float(np.nanmean(ious)) if np.isfinite(ious).any() else 0.0

    def pixel_accuracy(self) -> float:
        """Return the share, 0..1, of pixels whose class is right; 0 without any pixel."""
        return float(np.trace(self.counts) / max(self.counts.sum(), 1))
