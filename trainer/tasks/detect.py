"""Training of object detection: a pyramid network that predicts a box in every cell of one map."""

import math
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitgear.errors import DataError
from bitgear.evaluate import Progress, Run, measure_detector
from bitgear.inputs import InputRecord
from bitgear.tasks.annotations import BoxedPicture, BoxedPictures, read_boxed_pictures
from bitgear.tasks.detect import Detection, DetectOptions, detections
from bitgear.tasks.drawing import draw_boxes
from bitgear.tasks.letterbox import Letterbox, place_picture
from bitgear.tasks.metrics import MAIN_METRIC
from trainer.config import DetectConfig
from trainer.data import Boxes, BoxSet, BoxViews, Order
from trainer.data.boxes import SIDES
from trainer.model import QuantNet
from trainer.networks.pyramid import PREDICT
from trainer.tasks.assignment import Predictions, assign, detection_loss, imitation_loss, predictions
from trainer.tasks.base import Forward, Metrics, on_device
from trainer.tasks.scratch import FromScratch

FIRST_SCORE = 0.01
"""Every score before training: nearly all cells are background (Lin et al. 2017, "Focal Loss", section 4.1)."""

FIRST_DISTANCE_CELLS = 3.0
"""Every distance before training, so that the first boxes overlap something."""

FIRST_GAMMA = 0.1
"""Spread of the prediction before training: small, so that the starts above hold."""


class Detect(FromScratch):
    """The task of a :class:`~trainer.config.DetectConfig`; curves are measured on the split ``val``."""

    name = "detect"
    metric = MAIN_METRIC["detect"]
    compared_images = 2
    watches_test = False

    def __init__(self, config: DetectConfig, folder: Path, device: torch.device) -> None:
        super().__init__(config.data, config.network, config)
        data = config.data
        self.config = config
        self.device = device
        train = read_boxed_pictures(folder, "train")
        self.labels = train.classes
        self.validation = read_boxed_pictures(folder, "val")
        self.test = read_boxed_pictures(folder, "test")
        for other in (self.validation, self.test):
            if other.classes != self.labels:
                raise _other_classes(train, other)
        for boxed in (train, self.validation, self.test):
            boxed.check_measurable()
        for other in (self.validation, self.test):  # of train all are kept
            other.check_pictures()  # measured later, the last at the end: too late to learn of a broken one
        self.training_images = len(train.items)
        self.graph = self.network.graph(data.height_px, data.width_px, len(self.labels) + SIDES)
        table = torch.tensor(self.record.table()).to(device)
        self.views = BoxViews(box_set(train, self.record, device), data.views, table, data.offset)

    def show(self, order: Order) -> Iterator[tuple[Tensor, Any]]:
        return self.views.batches(order)

    @torch.no_grad()
    def start_prediction(self, model: QuantNet) -> None:
        bn, classes = model.layer(PREDICT).batch_norm(None), len(self.labels)
        bn.gamma.fill_(FIRST_GAMMA)
        bn.beta[:classes] = math.log(FIRST_SCORE / (1 - FIRST_SCORE))
        bn.beta[classes:] = math.log(math.expm1(FIRST_DISTANCE_CELLS))  # what softplus takes to that distance

    def loss(self, output: Tensor, targets: Boxes) -> Tensor:
        task, found = self.config.task, self._predictions(output)
        wanted = assign(found, targets, cells=task.cells, alpha=task.alpha, beta=task.beta)
        return detection_loss(found, wanted, task.box_weight)

    def distillation(self, output: Tensor, teacher: Tensor) -> Tensor:
        return imitation_loss(self._predictions(output), self._predictions(teacher), self.config.task.box_weight)

    def _predictions(self, output: Tensor) -> Predictions:
        return predictions(output, self.record.height_px, self.record.width_px)

    def evaluate(self, run: Forward) -> Metrics:
        return measure_detector(on_device(run, self.device), self.record, self.labels, self.validation)

    def examine(self) -> "ExaminedBoxes":
        return ExaminedBoxes(self.test, self.record, self.config.data.contact_images)


def _other_classes(train: BoxedPictures, other: BoxedPictures) -> DataError:
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(train.classes, other.classes, strict=False)))
    ours, theirs = (", ".join(data.classes[alike:])[:100] or "none" for data in (train, other))
    return DataError(
        f"{train.source} has other classes in {other.split} than in train: after {alike} that are alike "
        f"{theirs}, not {ours}"
    )


class ExaminedBoxes:
    """Test pictures with boxes."""

    def __init__(self, data: BoxedPictures, record: InputRecord, contact_images: int) -> None:
        self.data = data
        self.record = record
        self.images = len(data.items)
        self.contact_images = min(contact_images, self.images)

    def codes(self, count: int) -> NDArray[np.int8]:
        return np.concatenate([place_picture(self.data.read(item), self.record)[0] for item in self.data.items[:count]])

    def measure(self, run: Run, progress: Progress) -> Metrics:
        measured = measure_detector(run, self.record, self.data.classes, self.data, progress)
        return {**measured, "images": self.images}

    def sheet(self, columns: Mapping[str, Run]) -> list[list[NDArray[np.uint8]]]:
        rows = []
        for i in np.arange(self.contact_images) * self.images // self.contact_images:
            item = self.data.items[i]
            picture = self.data.read(item)
            codes, letterbox = place_picture(picture, self.record)
            found = [
                detections(run(codes)[0], letterbox, self.data.classes, self.record, DetectOptions())
                for run in columns.values()
            ]
            annotated = draw_boxes(picture.pixels, truth(item, self.data.classes), confidences=False)
            rows.append([annotated, *(draw_boxes(picture.pixels, each) for each in found)])
        return rows


def box_set(data: BoxedPictures, record: InputRecord, device: torch.device) -> BoxSet:
    """Return a data set on ``device``: every picture decoded once and letterboxed to the network's input."""
    images = np.empty((len(data.items), record.height_px, record.width_px, 3), np.uint8)
    boxes = []
    for i, item in enumerate(data.items):
        letterbox = Letterbox.of(item.width_px, item.height_px, record)
        images[i] = letterbox.place(data.read(item).pixels)
        boxes.append(letterbox.to_input(item.boxes_xyxy).astype(np.float32))
    return BoxSet.of(images, boxes, [item.class_ids for item in data.items], device)


def truth(item: BoxedPicture, classes: tuple[str, ...]) -> list[Detection]:
    """Return the annotated boxes as detections of confidence 1."""
    return [
        Detection(classes[class_id], int(class_id), 1.0, (float(x1), float(y1), float(x2), float(y2)))
        for class_id, (x1, y1, x2, y2) in zip(item.class_ids, item.boxes_xyxy, strict=True)
    ]
