"""Pictures with label maps on the training device, and random crops of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitgear.tasks.annotations import IGNORE
from trainer.config import ViewsConfig
from trainer.data.order import Order
from trainer.data.views import encode, random_views, show, show_map


@dataclass(frozen=True)
class MapSet:
    """``pixels``: uint8 (N, 3, H, W) RGB; ``maps``: uint8 (N, H, W) of class ids, 255 where no class is known."""

    pixels: Tensor
    maps: Tensor

    def __len__(self) -> int:
        return len(self.pixels)

    @classmethod
    def of(cls, images: NDArray[np.uint8], maps: NDArray[np.uint8], device: torch.device) -> "MapSet":
        """Return pictures, uint8 (N, H, W, 3), and their maps, uint8 (N, H, W), as tensors on ``device``."""
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(device)
        return cls(pixels.contiguous(memory_format=torch.channels_last), torch.from_numpy(maps).to(device))


@dataclass(frozen=True)
class MapViews:
    """How an epoch shows a set: crops of ``height_px`` x ``width_px``, codes through ``table`` (int8 (3, 256)).

    ``background``: the pixel value outside pictures, that of code 0.
    """

    data: MapSet
    height_px: int
    width_px: int
    settings: ViewsConfig
    table: Tensor
    background: int

    def batches(self, order: Order) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield codes, int8 (N, 3, H, W), with class ids, int64 (N, H, W)."""
        device, source = self.data.pixels.device, self.data.maps.shape[1:]
        for row in order.indices:
            row = row.to(device)
            views = random_views(
                len(row),
                (source[0], source[1]),
                (self.height_px, self.width_px),
                self.settings,
                order.generator,
                device,
            )
            pixels = show(self.data.pixels[row], views, self.background, self.settings, order.generator)
            yield encode(pixels, self.table), show_map(self.data.maps[row], views, IGNORE)
