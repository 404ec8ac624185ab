"""Detection: picture -> network input, output map -> boxes, and the order in which they are told.

The network's output is one map, float32 (C + 4, H', W'), of cells ``stride`` input pixels apart. Channels 0 to C - 1
are the logits of the classes: sigmoid makes them scores. The last four are the distances from the cell's centre to the
left, top, right and bottom side of its object: ``softplus(value) * stride`` input pixels. No anchors, one level.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitgear.inputs import InputRecord
from bitgear.tasks.letterbox import Letterbox
from bitgear.tasks.options import MAX_DETECTIONS, check_option, share, whole

SIDES = 4
MAX_CANDIDATES = 2000
"""Boxes that compete for a place in the answer, the best by score: a bound of the time for output all of objects."""

_NMS_BLOCK = 128
"""Boxes that are compared with each other at once."""

_LARGEST_LOGIT = 80.0
"""Beyond, a score is 0 or 1 to the last bit; what is not a number becomes the least score."""

_ROUNDING = 1e-3
"""More than a logit and its score are rounded by."""

_LARGEST_DISTANCE = 1e4
"""In cells: farther than any input reaches."""


@dataclass(frozen=True)
class Detection:
    """An object: its class, its score in 0..1 and its box in pixels of the picture, ``(x1, y1, x2, y2)``."""

    class_name: str
    class_id: int
    confidence: float
    box_xyxy: tuple[float, float, float, float]


@dataclass(frozen=True)
class DetectOptions:
    """What is told: scores from ``confidence`` up, no two boxes of a class overlapping by more than ``iou``.

    ``confidence`` and ``iou``: 0 to 1. ``max_detections``: of the best, 1 to 1000. ``classes``: ids that are looked
    for; None: all. Raises :class:`~bitgear.errors.InputError` for a number outside its range.
    """

    confidence: float = 0.25
    iou: float = 0.6
    max_detections: int = 100
    classes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_option("confidence", self.confidence, share)
        check_option("iou", self.iou, share)
        check_option("max_detections", self.max_detections, whole(1, MAX_DETECTIONS))


def decode(output: NDArray[np.float32], record: InputRecord) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return what an output (C + 4, H', W') says of every cell, row by row: boxes and scores.

    Boxes: float32 (H' * W', 4), ``x1, y1, x2, y2`` in input pixels. Scores: float32 (H' * W', C), in 0..1. What is no
    number becomes the least score or distance, and what is infinite a bound of them.
    """
    channels, height, width = output.shape
    cells = output.reshape(channels, -1).T
    return _boxes(cells[:, -SIDES:], np.arange(height * width), height, width, record), _sigmoid(cells[:, :-SIDES])


def detections(
    output: NDArray[np.float32],
    letterbox: Letterbox,
    labels: Sequence[str],
    record: InputRecord,
    options: DetectOptions,
) -> list[Detection]:
    """Return the objects in one output (C + 4, H', W'), best first; equal scores go by class id, then by cell.

    Boxes that the picture's edge leaves without an area are not told.
    """
    channels, height, width = output.shape
    flat = output.reshape(channels, -1)
    logits = flat[:-SIDES]
    wanted = ~(logits < _least_logit(options.confidence))  # few; what is no number is among them
    if options.classes is not None:
        wanted[np.setdiff1d(np.arange(len(labels)), options.classes)] = False
    class_ids, cells = np.nonzero(wanted)
    found = _sigmoid(logits[class_ids, cells])
    order = np.argsort(-found, kind="stable")  # nonzero gives class ids ascending, then cells
    order = order[: min(MAX_CANDIDATES, np.count_nonzero(found >= np.float32(options.confidence)))]
    class_ids, cells, found = class_ids[order], cells[order], found[order]
    boxes = letterbox.to_picture(_boxes(flat[-SIDES:, cells].T, cells, height, width, record))
    real = ((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])).nonzero()[0]
    # Every class has a plane of its own, where its boxes meet no others.
    planes = class_ids[real, None] * (2.0 * max(letterbox.width_px, letterbox.height_px))
    kept = real[nms(boxes[real] + planes, found[real], options.iou, options.max_detections)]
    return [
        Detection(
            labels[class_ids[i]], int(class_ids[i]), float(found[i]),
            (float(boxes[i, 0]), float(boxes[i, 1]), float(boxes[i, 2]), float(boxes[i, 3])),
        )
        for i in kept
    ]  # fmt: skip


def nms(
    boxes_xyxy: NDArray[np.floating], scores: NDArray[np.floating], iou: float, limit: int | None = None
) -> NDArray[np.int64]:
    """Return the indices of the boxes that stay, best first; equal scores in the order given.

    ``boxes_xyxy``: (K, 4). ``scores``: (K,). A box goes if one that stays has a higher rank and more than ``iou`` of
    their union in common. ``limit``: stop after so many.

    >>> nms(np.array([[0, 0, 4, 4], [0, 0, 4, 5], [9, 9, 12, 12]]), np.array([0.5, 0.8, 0.1]), 0.5)
    array([1, 2])
    """
    order = np.argsort(-scores, kind="stable")
    sides = boxes_xyxy[order].astype(np.float64).T
    kept = np.empty(0, np.int64)
    for start in range(0, len(order), _NMS_BLOCK):
        block = np.arange(start, min(start + _NMS_BLOCK, len(order)))
        if len(kept):
            block = block[~_overlap(sides, kept, block, iou).any(axis=0)]
        # A row of bits for each box: those that it overlaps.
        rows = np.packbits(_overlap(sides, block, block, iou), axis=1, bitorder="little")
        gone, stays = 0, []
        for i, row in enumerate(rows):
            if not gone >> i & 1:
                gone |= int.from_bytes(row.tobytes(), "little")
                stays.append(i)
        kept = np.concatenate([kept, block[stays]])
        if limit is not None and len(kept) >= limit:
            break
    return order[kept[:limit]]


def _overlap(
    sides: NDArray[np.float64], first: NDArray[np.int64], second: NDArray[np.int64], iou: float
) -> NDArray[np.bool_]:
    """Return whether boxes have more than ``iou`` of their union in common, each of one list with each of the other.

    ``sides``: (4, K), x1, y1, x2, y2.
    """
    a, b = sides[:, first, None], sides[:, None, second]
    width = np.minimum(a[2], b[2]) - np.maximum(a[0], b[0])
    height = np.minimum(a[3], b[3]) - np.maximum(a[1], b[1])
    common = np.maximum(width, 0) * np.maximum(height, 0)
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    overlapping: NDArray[np.bool_] = common > iou * (areas - common)
    return overlapping


def _boxes(
    sides: NDArray[np.float32], cells: NDArray[np.int64], height: int, width: int, record: InputRecord
) -> NDArray[np.float32]:
    strides = np.array([record.width_px / width, record.height_px / height])
    centres = (np.stack([cells % width, cells // width], axis=1) + 0.5) * strides
    values = _bounded(sides.astype(np.float64), _LARGEST_DISTANCE)
    distances = np.logaddexp(np.float64(0), values) * np.tile(strides, 2)
    boxes: NDArray[np.float32] = np.hstack([centres - distances[:, :2], centres + distances[:, 2:]]).astype(np.float32)
    return boxes


def _least_logit(confidence: float) -> float:
    """Return a bound that no logit is below whose score, as :func:`_sigmoid` rounds it, reaches ``confidence``."""
    if confidence <= math.exp(-_LARGEST_LOGIT):
        return -math.inf  # logits are bounded, and all scores reach it
    bounded = min(confidence, 1 - _ROUNDING)
    return math.log(bounded / (1 - bounded)) - _ROUNDING


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    bounded = _bounded(logits, _LARGEST_LOGIT)
    scores: NDArray[np.float32] = 1 / (1 + np.exp(-bounded))
    return scores


def _bounded(values: NDArray[np.floating], highest: float) -> NDArray[Any]:
    """Return values, of their dtype, between the least logit, which stands for what is no number, and ``highest``."""
    bounded = np.empty_like(values)
    np.fmax(values, -_LARGEST_LOGIT, out=bounded)  # of a number and none, the number
    np.fmin(bounded, highest, out=bounded)
    return bounded
