"""Pictures with boxes on the training device, and random views of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.config import ViewsConfig
from trainer.data.order import Order
from trainer.data.views import encode, random_views, show

SIDES = 4
"""Numbers of a box."""

KEPT_SHARE = 0.3
"""A box is dropped from a view that shows less than this share of its area: too little to name it by."""


@dataclass(frozen=True)
class Boxes:
    """Boxes of a batch, padded to the picture with the most.

    ``xyxy``: float32 (N, K, 4) in input pixels; ``class_ids``: int64 (N, K); ``real``: bool (N, K), False for padding.
    """

    xyxy: Tensor
    class_ids: Tensor
    real: Tensor


@dataclass(frozen=True)
class BoxSet:
    """``pixels``: uint8 (N, 3, H, W) RGB, letterboxed to the network's input, with their boxes."""

    pixels: Tensor
    boxes: Boxes

    def __len__(self) -> int:
        return len(self.pixels)

    @classmethod
    def of(
        cls,
        images: NDArray[np.uint8],
        boxes_xyxy: Sequence[NDArray[np.float32]],
        class_ids: Sequence[NDArray[np.int64]],
        device: torch.device,
    ) -> "BoxSet":
        """Return pictures of the input's size, uint8 (N, H, W, 3), with each one's boxes, as tensors on ``device``."""
        most = max((len(ids) for ids in class_ids), default=0)
        shape = (len(images), max(most, 1))
        boxes = Boxes(torch.zeros(*shape, SIDES), torch.zeros(shape, dtype=torch.int64), torch.zeros(shape).bool())
        for i, (xyxy, ids) in enumerate(zip(boxes_xyxy, class_ids, strict=True)):
            boxes.xyxy[i, : len(ids)] = torch.from_numpy(xyxy)
            boxes.class_ids[i, : len(ids)] = torch.from_numpy(ids)
            boxes.real[i, : len(ids)] = True
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(device)
        placed = Boxes(boxes.xyxy.to(device), boxes.class_ids.to(device), boxes.real.to(device))
        return cls(pixels.contiguous(memory_format=torch.channels_last), placed)


@dataclass(frozen=True)
class BoxViews:
    """How an epoch shows a set: views of the input's size, codes through ``table`` (int8 (3, 256)).

    ``background``: the pixel value outside pictures, that of code 0.
    """

    data: BoxSet
    settings: ViewsConfig
    table: Tensor
    background: int

    def batches(self, order: Order) -> Iterator[tuple[Tensor, Boxes]]:
        """Yield codes, int8 (N, 3, H, W), with the boxes that the views show."""
        device = self.data.pixels.device
        size = (self.data.pixels.shape[2], self.data.pixels.shape[3])
        for row in order.indices:
            row = row.to(device)
            views = random_views(len(row), size, size, self.settings, order.generator, device)
            pixels = show(self.data.pixels[row], views, self.background, self.settings, order.generator)
            moved = views.boxes(self.data.boxes.xyxy[row])
            boxes = Boxes(moved, self.data.boxes.class_ids[row], self.data.boxes.real[row])
            yield encode(pixels, self.table), clip(boxes, size[0], size[1])


def clip(boxes: Boxes, height_px: int, width_px: int) -> Boxes:
    """Return the boxes cut off at the border; of which too little is left are no longer real."""
    limits = boxes.xyxy.new_tensor([width_px, height_px, width_px, height_px])
    clipped = torch.minimum(boxes.xyxy.clamp_min(0), limits)
    left = _area(clipped) >= KEPT_SHARE * _area(boxes.xyxy)
    large = (clipped[..., 2:] - clipped[..., :2]).amin(2) >= 2
    return Boxes(clipped, boxes.class_ids, boxes.real & left & large)


def _area(xyxy: Tensor) -> Tensor:
    sides = (xyxy[..., 2:] - xyxy[..., :2]).clamp_min(0)
    return sides[..., 0] * sides[..., 1]
