"""Training of classification on labelled images."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bitgear.errors import DataError
from bitgear.evaluate import Progress, Run
from bitgear.graph import Graph
from bitgear.inputs import InputRecord
from bitgear.tasks.classify import measure
from bitgear.tasks.datasets import LabelledImages, read_labelled_images, spread, subset
from bitgear.tasks.metrics import MAIN_METRIC
from trainer.config import Config, ConfigError, NetworkConfig
from trainer.data import SAMPLE_EPOCH, Batches, ImageSet, read_images, watched_views
from trainer.model import QuantNet
from trainer.networks import encoder_classifier, mobilenet_cifar, resnet_cifar
from trainer.restore import import_resnet, load_trained
from trainer.tasks.base import Forward, Metrics

EVALUATED_IMAGES = 500
"""Images in one pass of an evaluation during training."""


@dataclass(frozen=True)
class Data:
    """The two splits as codes, what is watched during training, and the class names."""

    train: ImageSet
    test: ImageSet
    watched: ImageSet
    classes: tuple[str, ...]


def read_split(config: Config, folder: Path, split: str) -> LabelledImages:
    """Return a split, or the configured number of its images, spread evenly."""
    data = read_labelled_images(folder, split, config.data.side_px)
    limit = config.data.train_images if split == "train" else config.data.test_images
    return data if limit is None else subset(data, spread(len(data.labels), limit))


def load_data(config: Config, folder: Path, record: InputRecord, device: torch.device) -> Data:
    """Return both splits on ``device``; raise :class:`~bitgear.errors.DataError` if their classes differ.

    Watched are the test images, or training images that are held out, altered more than in training.
    """
    table = torch.tensor(record.table())
    train, test = (read_split(config, folder, split) for split in ("train", "test"))
    if len(train.classes) < 2:
        raise DataError(f"{folder} has one class only, {train.classes[0]!r}; classification needs two or more")
    if test.classes != train.classes:
        raise DataError(f"{folder} has other classes for testing ({', '.join(test.classes)}) than for training")
    shown, tested = read_images(train, table), read_images(test, table)
    watched = tested
    if config.data.held_out:
        if config.data.held_out >= len(shown):
            raise ConfigError(f"data.held_out is {config.data.held_out}; {folder} has {len(shown)} training images")
        order = torch.randperm(len(shown), generator=torch.Generator().manual_seed(config.train.seed))
        held, kept = order[: config.data.held_out], order[config.data.held_out :]
        watched = watched_views(shown[held], config.train.seed)
        shown = shown[kept]
    return Data(shown.to(device), tested.to(device), watched.to(device), train.classes)


class Classify:
    """The task of a :class:`~trainer.config.Config`.

    Curves and the final figures are measured on the same images, unless some of training are held out to be watched.
    """

    name = "classify"
    metric = MAIN_METRIC["classify"]
    compared_images = 64

    def __init__(self, config: Config, folder: Path, device: torch.device) -> None:
        self.config = config
        self.folder = folder
        self.record = InputRecord.centred(config.data.side_px, config.data.offset)
        self.data = load_data(config, folder, self.record, device)
        self.labels = self.data.classes
        self.training_images = len(self.data.train)
        self.watches_test = not config.data.held_out
        self.graph = network(config.network, len(self.labels))

    def other_sizes(self) -> Sequence[tuple[Graph, int, int]]:
        return ()

    def start(self, model: QuantNet, weights: Path | None) -> bool:
        if weights is not None and weights.suffix == ".pt":
            load_trained(model, weights)
        elif weights is not None:
            if self.config.network.kind != "resnet":
                raise ConfigError(
                    f"only weights of ResNets are imported; {weights} cannot be used; give the fp32.pt of another run"
                )
            start = self.config.start
            import_resnet(model, weights, start.mean, start.std, self.config.data.offset)
        elif not self.config.fp32.epochs:
            raise ConfigError("no start: give FP32 weights, or set fp32.epochs to train them")
        return weights is not None

    def teacher(self, weights: Path, network: Callable[[Graph], QuantNet]) -> QuantNet:
        settings = self.config.teacher
        teacher = network(resnet_cifar(settings.depth, len(self.labels)))
        import_resnet(teacher, weights, settings.mean, settings.std, self.config.data.offset)
        return teacher

    def batches(self, epoch: int, rank: int = 0, processes: int = 1, limit: int | None = None) -> Batches:
        return self._batches(self.config.train.batch_size, epoch, rank, processes, limit)

    def sample(self, batch_size: int, count: int) -> Iterator[tuple[Tensor, Any]]:
        return islice(self._batches(batch_size, SAMPLE_EPOCH), count)

    def _batches(
        self, size: int, epoch: int, rank: int = 0, processes: int = 1, limit: int | None = None
    ) -> Batches:  # fmt: skip
        data = self.config.data
        return Batches(
            self.data.train, size, shift_px=data.shift_px, mirror=data.mirror, altered_share=data.altered,
            seed=self.config.train.seed, epoch=epoch, rank=rank, processes=processes, limit=limit,
        )  # fmt: skip

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(output, targets)

    def distillation(self, output: Tensor, teacher: Tensor) -> Tensor:
        """Return the divergence from softened logits (Hinton et al. 2015)."""
        t = self.config.train.temperature
        divergence = F.kl_div(
            F.log_softmax(output / t, 1), F.log_softmax(teacher / t, 1), reduction="batchmean", log_target=True
        )
        return t * t * divergence

    def evaluate(self, run: Forward) -> Metrics:
        watched, hits = self.data.watched, 0
        for start in range(0, len(watched), EVALUATED_IMAGES):
            logits = run(watched.codes[start : start + EVALUATED_IMAGES])
            hits += int((logits.argmax(1) == watched.labels[start : start + EVALUATED_IMAGES]).sum())
        return {"top1": hits / len(watched)}

    def examine(self) -> "ExaminedImages":
        return ExaminedImages(read_split(self.config, self.folder, "test"), self.record)


def network(config: NetworkConfig, classes: int) -> Graph:
    """Return the graph of a configuration."""
    match config.kind:
        case "resnet":
            return resnet_cifar(config.depth, classes)
        case "mobilenet-v2":
            return mobilenet_cifar(config.width, classes)
        case "pyramid-encoder":
            return encoder_classifier(config.stem, config.channels, config.blocks, config.eight_bits, classes)


class ExaminedImages:
    """Labelled test images; they make no contact sheet."""

    def __init__(self, data: LabelledImages, record: InputRecord) -> None:
        self.data = data
        self.record = record
        self.images = len(data.labels)

    def codes(self, count: int) -> NDArray[np.int8]:
        return self.record.encode(self.data.images[:count])

    def measure(self, run: Run, progress: Progress) -> Metrics:
        accuracy = measure(lambda pixels: run(self.record.encode(pixels)), self.data, progress, batch_size=100)
        return {"top1": accuracy.top1, "images": accuracy.images}

    def sheet(self, columns: Mapping[str, Run]) -> list[list[NDArray[np.uint8]]]:  # noqa: ARG002
        return []
