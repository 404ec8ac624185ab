"""Labelled images as int8 codes on the training device, with augmentation done there for a whole batch at once."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
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

    def __getitem__(self, indices: Tensor) -> "ImageSet":
        """Return the set of some of the images, int64 (M,), in this order."""
        return ImageSet(self.codes[indices], self.labels[indices])

    def to(self, device: torch.device) -> "ImageSet":
        """Return the set with its tensors on ``device``."""
        return ImageSet(self.codes.to(device), self.labels.to(device))


def read_images(data: LabelledImages, table: Tensor) -> ImageSet:
    """Return the images as codes through ``table``, int8 (3, 256): channel and pixel value -> code."""
    pixels = torch.from_numpy(data.images).permute(0, 3, 1, 2).long()
    codes = torch.stack([table[channel][pixels[:, channel]] for channel in range(3)], 1)
    return ImageSet(codes.contiguous(memory_format=torch.channels_last), torch.from_numpy(data.labels))


VIEWS = 2
"""Of each image that is watched."""


def watched_views(images: ImageSet, seed: int) -> ImageSet:
    """Return some views of each image, all altered.

    A network that was trained on images knows almost all of them at any width; what it makes of such views is nearer to
    what it makes of images that it has never seen.
    """
    generator = torch.Generator().manual_seed(seed)
    views = [altered(part, generator) for part in images.codes.split(500) for _ in range(VIEWS)]
    labels = [part for part in images.labels.split(500) for _ in range(VIEWS)]
    return ImageSet(torch.cat(views), torch.cat(labels))


def altered(codes: Tensor, generator: torch.Generator) -> Tensor:
    """Return images turned up to 15 degrees, stretched by up to a seventh, moved and recoloured at random."""
    count, device = len(codes), codes.device

    def drawn(most: float, columns: int = 1) -> Tensor:
        return ((2 * torch.rand(count, columns, generator=generator) - 1) * most).to(device)

    turn, stretch, moved = drawn(math.radians(15)), drawn(0.15, 2).exp(), drawn(0.15, 2)
    rows = (torch.cat([turn.cos(), -turn.sin()], 1), torch.cat([turn.sin(), turn.cos()], 1))
    places = torch.stack([torch.cat([row * stretch, moved[:, i : i + 1]], 1) for i, row in enumerate(rows)], 1)
    grid = F.affine_grid(places, list(codes.shape), align_corners=False)
    seen = F.grid_sample(codes.float(), grid, "bilinear", "reflection", align_corners=False)
    contrast, brightness = (each[:, :, None, None] for each in (1 + drawn(0.3), drawn(20.0)))
    recoloured = (seen * contrast + brightness).round().clamp(-128, 127)
    return recoloured.to(torch.int8, memory_format=torch.channels_last)


class Batches:
    """The batches of one epoch: shuffled by (seed, epoch), this process's share, shifted and mirrored at random.

    The first images of each batch, the share ``altered_share``, are altered beyond that.
    """

    def __init__(
        self,
        data: ImageSet,
        batch_size: int,
        *,
        shift_px: int,
        mirror: bool,
        altered_share: float = 0.0,
        seed: int,
        epoch: int,
        rank: int = 0,
        processes: int = 1,
        limit: int | None = None,
    ) -> None:
        self.data = data
        self.shift_px = shift_px
        self.mirror = mirror
        self.altered_share = altered_share
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
            codes = F.pad(codes, (pad, pad, pad, pad))  # code 0, as the network's own padding
            rows, columns = rows + shift[0][:, None], columns + shift[1][:, None]
        picked = codes.permute(0, 2, 3, 1)[
            torch.arange(count, device=device)[:, None, None], rows[:, :, None], columns[:, None, :]
        ]
        codes = picked.permute(0, 3, 1, 2)
        more = round(self.altered_share * count)
        return torch.cat([altered(codes[:more], self.generator), codes[more:]]) if more else codes
