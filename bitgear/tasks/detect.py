"""Detection: picture -> network input, output map -> boxes, and the order in which they are told.

The network's output is one map, float32 (C + 4, H', W'), of cells ``stride`` input pixels apart. Channels 0 to C - 1 are
the logits of the classes: sigmoid makes them scores. The last four are the distances from the cell's centre to the left,
top, right and bottom side of its object: ``softplus(value) * stride`` input pixels. No anchors, one level.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitgear.inputs import InputRecord
from bitgear.tasks.letterbox import Letterbox
from bitgear.tasks.pictures import Picture

SIDES = 4
MAX_CANDIDATES = 2000
"""Boxes that compete for a place in the answer: the best by score. It bounds the time for output that is all objects."""

_LARGEST_LOGIT = 80.0
"""Beyond, a score is 0 or 1 to the last bit; what is not a number becomes the least score."""


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

    ``max_detections``: of the best. ``classes``: ids that are looked for; None: all.
    """

    confidence: float = 0.25
    iou: float = 0.6
    max_detections: int = 100
    classes: tuple[int, ...] | None = None


def preprocess(picture: Picture, record: InputRecord) -> tuple[NDArray[np.int8], Letterbox]:
    """Return the codes, int8 (1, 3, H, W), of the picture in a letterbox, and the letterbox."""
    letterbox = Letterbox.of(picture.width_px, picture.height_px, record)
    return record.encode(letterbox.place(picture.pixels)[None]), letterbox


def decode(output: NDArray[np.float32], record: InputRecord) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return what an output (C + 4, H', W') says of every cell, row by row: boxes and scores.

    Boxes: float32 (H' * W', 4), ``x1, y1, x2, y2`` in input pixels. Scores: float32 (H' * W', C), in 0..1.
    """
    channels, height, width = output.shape
    cells = np.nan_to_num(
        output.reshape(channels, -1).T, nan=-_LARGEST_LOGIT, posinf=_LARGEST_LOGIT, neginf=-_LARGEST_LOGIT
    )
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
    logits = np.nan_to_num(flat[:-SIDES], nan=-_LARGEST_LOGIT, posinf=_LARGEST_LOGIT, neginf=-_LARGEST_LOGIT)
    scores = _sigmoid(logits)
    wanted = scores >= np.float32(options.confidence)
    if options.classes is not None:
        wanted[np.setdiff1d(np.arange(len(labels)), options.classes)] = False
    class_ids, cells = np.nonzero(wanted)
    found = scores[class_ids, cells]
    order = np.argsort(-found, kind="stable")[:MAX_CANDIDATES]  # nonzero gives class ids ascending, then cells
    class_ids, cells, found = class_ids[order], cells[order], found[order]
    sides = np.nan_to_num(flat[-SIDES:, cells].T, nan=-_LARGEST_LOGIT, posinf=1e6, neginf=-_LARGEST_LOGIT)
    boxes = letterbox.to_picture(_boxes(sides, cells, height, width, record))
    real = ((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])).nonzero()[0]
    kept = real[nms(boxes[real], class_ids[real], options.iou, options.max_detections)]
    return [
        Detection(
            labels[class_ids[i]], int(class_ids[i]), float(found[i]),
            (float(boxes[i, 0]), float(boxes[i, 1]), float(boxes[i, 2]), float(boxes[i, 3])),
        )
        for i in kept
    ]  # fmt: skip


def nms(boxes_xyxy: NDArray[np.float32], class_ids: NDArray[np.int64], iou: float, limit: int) -> NDArray[np.int64]:
    """Return which boxes stay, int64, up to ``limit``: of two that overlap, the one that comes first.

    ``boxes_xyxy``: float32 (K, 4), best first. Two boxes overlap if they are of one class and the area that they share
    is more than ``iou`` (0..1) times the area that they cover.
    """
    areas = (boxes_xyxy[:, 2] - boxes_xyxy[:, 0]) * (boxes_xyxy[:, 3] - boxes_xyxy[:, 1])
    left = np.arange(len(boxes_xyxy))
    kept: list[int] = []
    while len(left) and len(kept) < limit:
        best, left = left[0], left[1:]
        kept.append(int(best))
        low = np.maximum(boxes_xyxy[best, :2], boxes_xyxy[left, :2])
        high = np.minimum(boxes_xyxy[best, 2:], boxes_xyxy[left, 2:])
        shared = np.maximum(high - low, 0).prod(axis=1)
        beaten = (shared > iou * (areas[best] + areas[left] - shared)) & (class_ids[left] == class_ids[best])
        left = left[~beaten]
    return np.asarray(kept, np.int64)


def _boxes(
    sides: NDArray[np.float32], cells: NDArray[np.int64], height: int, width: int, record: InputRecord
) -> NDArray[np.float32]:
    strides = np.array([record.width_px / width, record.height_px / height])
    centres = (np.stack([cells % width, cells // width], axis=1) + 0.5) * strides
    distances = np.logaddexp(0, sides.astype(np.float64)) * np.tile(strides, 2)
    boxes: NDArray[np.float32] = np.hstack([centres - distances[:, :2], centres + distances[:, 2:]]).astype(np.float32)
    return boxes


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    bounded = np.clip(logits, -_LARGEST_LOGIT, _LARGEST_LOGIT)
    scores: NDArray[np.float32] = 1 / (1 + np.exp(-bounded))
    return scores
