"""What segmentation and detection share: a pyramid network, trained from scratch or from what another run has left."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from bitgear.graph import Graph
from bitgear.inputs import InputRecord
from trainer.config import ConfigError, PicturesConfig, PyramidConfig, RunConfig
from trainer.data import SAMPLE_EPOCH, Epoch, Order
from trainer.model import QuantNet
from trainer.networks import Pyramid
from trainer.restore import load_trained


def pyramid(config: PyramidConfig) -> Pyramid:
    """Return the network of a configuration."""
    return Pyramid(
        config.stem, config.channels, config.blocks, config.pyramid, config.stride, config.head, config.eight_bits
    )


class FromScratch(ABC):
    """Order of batches and start of a network; codes are exactly ``pixel - offset``, in real units / 128."""

    def __init__(self, data: PicturesConfig, network: PyramidConfig, run: RunConfig) -> None:
        self.record = replace(InputRecord.centred(data.width_px, data.offset), height_px=data.height_px)
        self.network = pyramid(network)
        self.run = run
        self.training_images = 0

    @abstractmethod
    def show(self, order: Order) -> Iterator[tuple[Tensor, Any]]:
        """Yield the batches of an order: codes and targets."""

    def other_sizes(self) -> Sequence[tuple[Graph, int, int]]:
        return ()

    def start(self, model: QuantNet, weights: Path | None) -> bool:
        """Leave the network untrained, or give it what is in the ``fp32.pt`` of another run, or its encoder's.

        Returns whether all layers were in the file.
        """
        whole = weights is not None and load_trained(model, weights, self.network.encoder)
        if whole:
            return True
        if not self.run.fp32.epochs:
            found = "no start" if weights is None else f"{weights} is of the encoder alone"
            raise ConfigError(f"{found}: set fp32.epochs to train from there, or give the fp32.pt of another run")
        self.start_prediction(model)
        return False

    def start_prediction(self, model: QuantNet) -> None:  # noqa: B027 - what it begins with may be right as it is
        """Give the prediction of an untrained network what it begins with."""

    def teacher(self, weights: Path, network: Callable[[Graph], QuantNet]) -> QuantNet:  # noqa: ARG002
        raise ConfigError(f"this task takes no teacher; {weights} cannot be used")

    def batches(self, epoch: int, rank: int = 0, processes: int = 1, limit: int | None = None) -> Epoch:
        return self._epoch(self.run.train.batch_size, epoch, rank, processes, limit)

    def sample(self, batch_size: int, count: int) -> Iterator[tuple[Tensor, Any]]:
        return islice(self._epoch(batch_size, SAMPLE_EPOCH), count)

    def _epoch(
        self, size: int, epoch: int, rank: int = 0, processes: int = 1, limit: int | None = None
    ) -> Epoch:  # fmt: skip
        order = Order(
            self.training_images, size, seed=self.run.train.seed, epoch=epoch, rank=rank, processes=processes,
            limit=limit,
        )  # fmt: skip
        return Epoch(self.show, order)
