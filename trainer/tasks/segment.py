"""Training of semantic segmentation: a pyramid network on pictures with label maps."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bitgear.errors import DataError
from bitgear.evaluate import Progress, Run, measure_segmenter
from bitgear.graph import Graph
from bitgear.inputs import InputRecord
from bitgear.tasks.annotations import IGNORE, LabelledMaps, check_label_maps, read_label_maps
from bitgear.tasks.drawing import draw_mask
from bitgear.tasks.letterbox import Letterbox
from bitgear.tasks.metrics import MAIN_METRIC
from bitgear.tasks.segment import segmentation
from trainer.config import SegmentConfig
from trainer.data.maps import MapSet, MapViews
from trainer.data.order import Order
from trainer.tasks.base import Forward, Metrics, on_device
from trainer.tasks.scratch import FromScratch


class Segment(FromScratch):
    """The task of a :class:`~trainer.config.SegmentConfig`; curves are measured on the split ``val``."""

    name = "segment"
    metric = MAIN_METRIC["segment"]
    compared_images = 2
    watches_test = False

    def __init__(self, config: SegmentConfig, folder: Path, device: torch.device) -> None:
        super().__init__(config.data, config.network, config)
        data = config.data
        self.config = config
        self.folder = folder
        self.device = device
        train = self._read("train")
        self.labels = train.classes
        self.validation = self._read("val")
        self.validation.check_measurable()
        check_label_maps(folder, "test")  # measured once, at the end: too late to learn of a broken map
        self.training_images = len(train.images)
        self.graph = self.network.graph(data.height_px, data.width_px, len(self.labels))
        self.crop = (data.crop_height_px or data.height_px, data.crop_width_px or data.width_px)
        self.weights = class_weights(train.maps, len(self.labels), config.task.class_balance).to(device)
        table = torch.tensor(self.record.table()).to(device)
        self.views = MapViews(MapSet.of(train.images, train.maps, device), *self.crop, data.views, table, data.offset)

    def _read(self, split: str) -> LabelledMaps:
        return read_label_maps(self.folder, split, self.record.height_px, self.record.width_px, mean=self.record.mean)

    def other_sizes(self) -> Sequence[tuple[Graph, int, int]]:
        return [(self.network.graph(*self.crop, len(self.labels)), *self.crop)]

    def show(self, order: Order) -> Iterator[tuple[Tensor, Any]]:
        return self.views.batches(order)

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the weighted cross entropy at the size of the label maps, the logits resized bilinearly."""
        return pixel_loss(output, targets, self.weights)

    def distillation(self, output: Tensor, teacher: Tensor) -> Tensor:
        """Return the divergence from softened logits, averaged over the output's pixels (Hinton et al. 2015)."""
        t = self.config.train.temperature
        divergence = F.kl_div(
            F.log_softmax(output / t, 1), F.log_softmax(teacher / t, 1), reduction="none", log_target=True
        )
        return t * t * divergence.sum(1).mean()

    def evaluate(self, run: Forward) -> Metrics:
        measured = measure_segmenter(on_device(run, self.device), self.record, self.labels, self.validation)
        return {**measured, "images": len(self.validation)}

    def examine(self) -> "ExaminedMaps":
        return ExaminedMaps(self._read("test"), self.record, self.config.data.contact_images)


class ExaminedMaps:
    """Test pictures with label maps."""

    def __init__(self, data: LabelledMaps, record: InputRecord, contact_images: int) -> None:
        self.data = data
        self.record = record
        self.images = len(data.images)
        self.contact_images = min(contact_images, self.images)

    def codes(self, count: int) -> NDArray[np.int8]:
        return self.record.encode(self.data.images[:count])

    def measure(self, run: Run, progress: Progress) -> Metrics:
        measured = measure_segmenter(run, self.record, self.data.classes, self.data, progress)
        return {**measured, "images": self.images}

    def sheet(self, columns: Mapping[str, Run]) -> list[list[NDArray[np.uint8]]]:
        letterbox = Letterbox.of(self.record.width_px, self.record.height_px, self.record)
        rows = []
        for i in np.arange(self.contact_images) * self.images // self.contact_images:
            pixels, labels = self.data.images[i], self.data.classes
            codes = self.record.encode(pixels[None])
            masks = [segmentation(run(codes)[0], letterbox, labels).mask for run in columns.values()]
            void = self.data.maps[i] == IGNORE
            bars = void.all(1)[:, None] | void.all(0)  # around the picture: no user sees them
            for mask in masks:
                mask[bars] = IGNORE
            rows.append([draw_mask(pixels, mask, labels) for mask in (self.data.maps[i], *masks)])
        return rows


def pixel_loss(logits: Tensor, maps: Tensor, weights: Tensor) -> Tensor:
    """Return the mean cross entropy, weighted by class, over pixels of known class; zero if there are none.

    ``logits`` (N, C, H', W') are resized bilinearly to the maps, int64 (N, H, W).
    """
    resized = F.interpolate(logits, maps.shape[1:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(resized, maps, weights, ignore_index=IGNORE, reduction="sum")
    known = maps != IGNORE
    return total / weights[torch.where(known, maps, 0)].mul(known).sum().clamp_min(1e-6)


def class_weights(maps: NDArray[np.uint8], classes: int, balance: float) -> Tensor:
    """Return each class's median-frequency weight (Eigen and Fergus 2015) to the power ``balance``, float32 (C,).

    A class's frequency is its share of the known pixels of the pictures that show it. A class that no picture shows
    takes weight 1. Raises :class:`~bitgear.errors.DataError` if the pictures show none, but void alone.
    """
    counts = np.stack([np.bincount(each.ravel(), minlength=256)[:classes] for each in maps]).astype(np.float64)
    if not counts.any():
        raise DataError("every label map of split train is void alone; give maps of the classes")
    shown = (counts > 0) * counts.sum(1, keepdims=True)
    frequency = counts.sum(0) / np.maximum(shown.sum(0), 1)
    known = frequency > 0
    weights = np.ones(classes)
    weights[known] = (np.median(frequency[known]) / frequency[known]) ** balance
    return torch.from_numpy(weights.astype(np.float32))
