"""The order in which an epoch shows its items, and which process shows which."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainer.config import ConfigError

SAMPLE_EPOCH = 1_000_000
"""The epoch whose order samples have, whatever a run's schedule: training does not come so far."""


class Order:
    """The items of one epoch: shuffled by (seed, epoch), in full batches, this process's share of each.

    ``limit``: how many of the items an epoch shows, other ones in every epoch; None is all. ``indices``: int64
    (steps, batch). ``generator`` is left seeded for this process's augmentation. Raises
    :class:`~trainer.config.ConfigError` for more processes than a batch has items.
    """

    def __init__(
        self, count: int, batch_size: int, *, seed: int, epoch: int, rank: int, processes: int, limit: int | None = None
    ) -> None:  # fmt: skip
        self.generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(count, generator=self.generator)[:limit]
        count = len(order)
        per_step = min(batch_size, count) // processes
        if per_step == 0:
            raise ConfigError(
                f"{processes} processes share a batch of {min(batch_size, count)} items; start no more processes than "
                "that, or raise train.batch_size or epoch_images"
            )
        steps = max(count // batch_size, 1)
        picked = order[: steps * batch_size].view(steps, -1) if count >= batch_size else order.view(1, -1)
        self.indices: Tensor = picked[:, rank * per_step : (rank + 1) * per_step] if processes > 1 else picked
        self.generator.manual_seed(seed * 1_000_003 + epoch + 7919 * (rank + 1))

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class Epoch:
    """The batches of one epoch: what ``show`` makes of its order."""

    show: Callable[[Order], Iterator[tuple[Tensor, Any]]]
    order: Order

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[tuple[Tensor, Any]]:
        return self.show(self.order)
