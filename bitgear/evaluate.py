"""How good a master is at each precision, measured through an engine and the task's own way from picture to answer."""

import contextlib
import io
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bitgear.bits import Precision
from bitgear.checkpoint import Master
from bitgear.engines.base import Engine
from bitgear.errors import DataError, of_extra
from bitgear.inputs import InputRecord
from bitgear.tasks.annotations import IGNORE, BoxedPictures, LabelledMaps, read_boxed_pictures, read_label_maps
from bitgear.tasks.classify import top1
from bitgear.tasks.datasets import LabelledImages, read_labelled_images, spread, subset
from bitgear.tasks.detect import DetectOptions, detections
from bitgear.tasks.letterbox import Letterbox, place_picture
from bitgear.tasks.segment import Confusion, segmentation

P = TypeVar("P", bound=Precision)
Metrics = dict[str, float]
Run = Callable[[NDArray[np.int8]], NDArray[np.float32]]
"""Codes (N, 3, H, W) to the network's output, (N, ...)."""

Progress = Callable[[int], object]
"""Gets images done."""

BATCH_IMAGES = 8
MEASURED = DetectOptions(confidence=0.001, iou=0.6, max_detections=300)
"""What a detector tells when its average precision is measured, which wants its doubts too."""


def _silent(_: int) -> None:
    pass


@dataclass(frozen=True)
class Measured:
    """What a precision reaches: ``metrics``, 0..1, of so many ``images``, and the ``seconds`` that measuring took."""

    metrics: Metrics
    images: int
    seconds: float

    @property
    def stored(self) -> Metrics:
        """What a master holds of it: metrics and images."""
        return {**self.metrics, "images": self.images}

    def to_json(self) -> Metrics:
        """Return all of it as a JSON object."""
        return {**self.stored, "seconds": self.seconds}


Data = LabelledImages | BoxedPictures | LabelledMaps


def read_data(master: Master, source: Path, split: str, limit: int | None = None) -> Data:
    """Return a ``split`` of a data set in the form that a master's task is measured on, or ``limit`` pictures of it.

    These are spread evenly over the split. Classes are those of the master; a data set may have some of them only, in
    another order, unless it is of label maps.

    Raises :class:`~bitgear.errors.DataError`, also for classes that the master does not have.
    """
    data: Data
    record = master.input
    match master.task:
        case "detect":
            boxed = read_boxed_pictures(source, split)
            numbers = _numbers(master, boxed.classes)
            items = [
                replace(item, class_ids=numbers[item.class_ids], ignored_ids=numbers[item.ignored_ids])
                for item in boxed.items
            ]
            data = replace(boxed, items=items, classes=master.labels)
        case "segment":
            data = read_label_maps(source, split, record.height_px, record.width_px, mean=record.mean)
            _check_classes(master, data.classes)
        case _:
            images = read_labelled_images(source, split, record.height_px, record.central_fraction)
            data = replace(images, labels=_numbers(master, images.classes)[images.labels], classes=master.labels)
    return data if limit is None else taken(data, spread(len(data), limit))


def taken(data: Data, indices: NDArray[np.int64]) -> Data:
    """Return the pictures of a data set at ``indices``."""
    match data:
        case LabelledImages():
            return subset(data, indices)
        case BoxedPictures():
            return replace(data, items=[data.items[i] for i in indices])
        case LabelledMaps():
            names = tuple(data.names[i] for i in indices)
            return replace(data, names=names, images=data.images[indices], maps=data.maps[indices])


def check_measurable(data: Data) -> None:
    """Raise :class:`~bitgear.errors.DataError` if a data set has nothing in it that its task is measured by."""
    if not isinstance(data, LabelledImages):
        data.check_measurable()


def _numbers(master: Master, classes: Sequence[str]) -> NDArray[np.int64]:
    """Return the master's number of each class of a data set."""
    if tuple(classes) == master.labels:
        return np.arange(len(classes))
    counts = Counter(master.labels)
    if twice := next((name for name in classes if counts[name] > 1), None):
        raise DataError(f"class {twice!r} is {counts[twice]} classes of model {master.name!r}; leave it out")
    if not all(name in counts for name in classes):
        raise _other_classes(master, classes)
    return np.array([master.labels.index(name) for name in classes], np.int64)


def evaluate_master(
    master: Master, engine: Engine, data: Data, precisions: Sequence[P], progress: Progress = _silent
) -> dict[P, Measured]:
    """Return what a master's task is measured by, on its form of data (:func:`read_data`), for every width or plan.

    ``top1`` of a classifier, else what :func:`measure_detector` or :func:`measure_segmenter` returns.

    Raises :class:`~bitgear.errors.DataError` if the data's classes are not the master's.
    """
    _check_classes(master, data.classes)
    results = {}
    for precision in precisions:
        model = engine.derive(master, precision)
        started = time.perf_counter()
        match data:
            case BoxedPictures():
                metrics = measure_detector(model.run, master.input, master.labels, data, progress)
            case LabelledMaps():
                metrics = measure_segmenter(model.run, master.input, master.labels, data, progress)
            case _:
                metrics = {"top1": top1(model, master.input, data, progress=progress)}
        results[precision] = Measured(metrics, len(data), time.perf_counter() - started)
    return results


def _check_classes(master: Master, classes: Sequence[str]) -> None:
    if tuple(classes) != master.labels:
        raise _other_classes(master, classes)


def _other_classes(master: Master, classes: Sequence[str]) -> DataError:
    return DataError(
        f"the data set has the classes {', '.join(classes)[:200]}; model {master.name!r} has "
        f"{', '.join(master.labels)[:200]}; give the data set that it was made for"
    )


def measure_detector(
    run: Run, record: InputRecord, labels: Sequence[str], data: BoxedPictures, progress: Progress = _silent
) -> Metrics:
    """Return ``map50_95`` and ``map50`` (0..1): COCO's average precision, by its own evaluator.

    Objects that are ignored count neither for nor against it.

    Raises :class:`~bitgear.errors.EngineUnavailable` if pycocotools cannot be imported, and
    :class:`~bitgear.errors.DataError` if no object counts.
    """
    with of_extra("measuring a detector", "evaluate"):
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    data.check_measurable()
    told: list[dict[str, Any]] = []
    for begin in range(0, len(data.items), BATCH_IMAGES):
        items = data.items[begin : begin + BATCH_IMAGES]
        placed = [place_picture(data.read(item), record) for item in items]
        outputs = run(np.concatenate([codes for codes, _ in placed]))
        for i, (output, (_, letterbox)) in enumerate(zip(outputs, placed, strict=True), start=begin):
            for found in detections(output, letterbox, labels, record, MEASURED):
                x1, y1, x2, y2 = found.box_xyxy
                told.append(
                    {
                        "image_id": i + 1,
                        "category_id": found.class_id + 1,
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "score": found.confidence,
                    }
                )
        progress(len(items))
    if not told:
        return {"map50_95": 0.0, "map50": 0.0}
    with contextlib.redirect_stdout(io.StringIO()):  # the evaluator prints
        truth = COCO()
        truth.dataset = _as_coco(data)
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(told), "bbox")
        evaluator.params.maxDets = [1, 10, 100]
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return {"map50_95": float(evaluator.stats[0]), "map50": float(evaluator.stats[1])}


def _as_coco(data: BoxedPictures) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for i, item in enumerate(data.items, start=1):
        boxes = np.concatenate([item.boxes_xyxy, item.ignored_xyxy]).tolist()
        class_ids = np.concatenate([item.class_ids, item.ignored_ids]).tolist()
        for k, ((x1, y1, x2, y2), class_id) in enumerate(zip(boxes, class_ids, strict=True)):
            width, height = x2 - x1, y2 - y1
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": class_id + 1,
                    "bbox": [x1, y1, width, height],
                    "area": width * height,
                    "iscrowd": int(k >= len(item.class_ids)),
                }
            )
    return {
        "info": {},
        "images": [
            {"id": i, "width": item.width_px, "height": item.height_px} for i, item in enumerate(data.items, start=1)
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(data.classes, start=1)],
    }


def measure_segmenter(
    run: Run, record: InputRecord, labels: Sequence[str], data: LabelledMaps, progress: Progress = _silent
) -> Metrics:
    """Return ``miou`` and ``pixel_accuracy`` (0..1), over the pixels of the network's input.

    Those in the bars around a picture are not labelled and do not count. Both count all pixels of all images together;
    the mean is over the classes that occur. Raises :class:`~bitgear.errors.DataError` if no pixel is labelled.
    """
    data.check_measurable()
    letterbox = Letterbox.of(record.width_px, record.height_px, record)
    confusion = Confusion(len(labels))
    for begin in range(0, len(data.images), BATCH_IMAGES):
        images = data.images[begin : begin + BATCH_IMAGES]
        for logits, truth in zip(run(record.encode(images)), data.maps[begin:], strict=False):
            confusion.add(segmentation(logits, letterbox, labels).mask, truth, IGNORE)
        progress(len(images))
    return {"miou": confusion.miou(), "pixel_accuracy": confusion.pixel_accuracy()}
