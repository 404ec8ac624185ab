"""What a training run needs to know of its task: the only place where tasks differ."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitgear.evaluate import Progress, Run
from bitgear.graph import Graph
from bitgear.inputs import InputRecord
from trainer.model import QuantNet

Forward = Callable[[Tensor], Tensor]
"""Codes, int8 (N, 3, H, W) on the training device, to the network's output, float32."""

Metrics = dict[str, float]


class EpochBatches(Protocol):
    """The batches of one epoch: codes and targets on the training device."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Tensor, Any]]: ...


class Examined(Protocol):
    """The test split, opened once training has ended."""

    images: int

    def codes(self, count: int) -> NDArray[np.int8]:
        """Return the first ``count`` images as the network reads them."""
        ...

    def measure(self, run: Run, progress: Progress) -> Metrics:
        """Return the metrics of a network, with ``images``; ``progress`` gets images done."""
        ...

    def sheet(self, columns: Mapping[str, Run]) -> list[list[NDArray[np.uint8]]]:
        """Return rows of pictures (H, W, 3): the truth, then what each network makes of it; no rows where none fit."""
        ...


class Task(Protocol):
    """A task with its data; ``metric`` names the figure of :meth:`evaluate` that curves show."""

    name: str
    metric: str
    record: InputRecord
    labels: tuple[str, ...]
    graph: Graph
    compared_images: int
    training_images: int
    watches_test: bool
    """Whether :meth:`evaluate` shows images of the test split, so that nothing may be chosen by it."""

    def other_sizes(self) -> Sequence[tuple[Graph, int, int]]:
        """Return the network's graph for images of other sizes that occur in training: graph, height and width."""
        ...

    def start(self, model: QuantNet, weights: Path | None) -> bool:
        """Give the FP32 network its first parameters, and return whether ``weights`` are those of all its layers.

        Raises :class:`~trainer.config.ConfigError` if it has no start.
        """
        ...

    def teacher(self, weights: Path, network: Callable[[Graph], QuantNet]) -> QuantNet:
        """Return the FP32 network in a file; raise :class:`~trainer.config.ConfigError` where the task takes none."""
        ...

    def batches(
        self, epoch: int, rank: int = 0, processes: int = 1, limit: int | None = None
    ) -> EpochBatches:  # fmt: skip
        """Return one process's batches of an epoch, of at most ``limit`` images, others each time."""
        ...

    def sample(self, batch_size: int, count: int) -> Iterator[tuple[Tensor, Any]]:
        """Yield up to ``count`` batches of training images with targets, augmented as in training, always the same."""
        ...

    def loss(self, output: Tensor, targets: Any) -> Tensor:
        """Return the mean loss of a batch."""
        ...

    def distillation(self, output: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean distance of a batch's output from a teacher's."""
        ...

    def evaluate(self, run: Forward) -> Metrics:
        """Return the metrics on the images that are watched during training."""
        ...

    def examine(self) -> Examined:
        """Open the test split."""
        ...


def on_device(run: Forward, device: torch.device) -> Run:
    """Return a torch network as a function of numpy arrays."""

    def numpy_run(q_images: NDArray[np.int8]) -> NDArray[np.float32]:
        codes = torch.from_numpy(q_images).contiguous(memory_format=torch.channels_last).to(device)
        with torch.no_grad():
            output: NDArray[np.float32] = run(codes).float().contiguous().cpu().numpy()
        return output

    return numpy_run
