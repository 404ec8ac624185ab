"""Labelled images as int8 codes on the training device, with augmentation done there for a whole batch at once."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bitgear.tasks.datasets import LabelledImages
from trainer.data.order import Order


@dataclass(frozen=True)
class ImageSet:
    """``codes``: int8 (N, 3, H, W), the network's input; ``labels``: int64 (N,)."""

    codes: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "ImageSet":
        """Return the set with its tensors on ``device``."""
        return ImageSet(self.codes.to(device), self.labels.to(device))


def read_images(data: LabelledImages, table: Tensor) -> ImageSet:
    """Return the images as codes through ``table``, int8 (3, 256): channel and pixel value -> code."""
    pixels = torch.from_numpy(data.images).permute(0, 3, 1, 2).long()
    codes = torch.stack([table[channel][pixels[:, channel]] for channel in range(3)], 1)
    return ImageSet(codes.contiguous(memory_format=torch.channels_last), torch.from_numpy(data.labels))


class Batches:
    """The batches of one epoch: shuffled by (seed, epoch), this process's share, shifted and mirrored at random."""

    def __init__(
        self,
        data: ImageSet,
        batch_size: int,
        *,
        shift_px: int,
        mirror: bool,
        seed: int,
        epoch: int,
        rank: int = 0,
        processes: int = 1,
        limit: int | None = None,
    ) -> None:
        self.data = data
        self.shift_px = shift_px
        self.mirror = mirror
        self.order = Order(len(data), batch_size, seed=seed, epoch=epoch, rank=rank, processes=processes, limit=limit)
        self.generator = self.order.generator

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        device = self.data.codes.device
        for row in self.order.indices:
            row = row.to(device)
            yield self._augment(self.data.codes[row]), self.data.labels[row]

    def _augment(self, codes: Tensor) -> Tensor:
        count, _, height, width = codes.shape
        device, pad = codes.device, self.shift_px
        rows = torch.arange(height, device=device).expand(count, height)
        columns = torch.arange(width, device=device).expand(count, width)
        if self.mirror:
            flip = (torch.rand(count, generator=self.generator) < 0.5).to(device)
            columns = torch.where(flip[:, None], width - 1 - columns, columns)
        if pad:
            shift = torch.randint(0, 2 * pad + 1, (2, count), generator=self.generator).to(device)
            codes = torch.nn.functional.pad(codes, (pad, pad, pad, pad))  # code 0, as the network's own padding
            rows, columns = rows + shift[0][:, None], columns + shift[1][:, None]
        picked = codes.permute(0, 2, 3, 1)[
            torch.arange(count, device=device)[:, None, None], rows[:, :, None], columns[:, None, :]
        ]
        return picked.permute(0, 3, 1, 2)
