"""Random views of whole batches of pictures on the training device: scaled, moved, mirrored, turned, recoloured."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.config import ViewsConfig

GREY = (0.299, 0.587, 0.114)
"""Share of red, green and blue in brightness (ITU-R BT.601)."""


@dataclass(frozen=True)
class Views:
    """One view for each picture of a batch: ``source = matrix @ (view - view centre) + centre``, in pixels.

    ``matrix`` float32 (N, 2, 2); ``centre`` float32 (N, 2), the point (x, y) of the picture in the middle of the view.
    Pixels are squares: the centre of the first lies at (0.5, 0.5).
    """

    matrix: Tensor
    centre: Tensor
    width_px: int
    height_px: int

    def grid(self, source_height_px: int, source_width_px: int) -> Tensor:
        """Return where each pixel of the views lies in its picture, float32 (N, H, W, 2), as ``grid_sample`` counts."""
        device = self.matrix.device
        x = torch.arange(self.width_px, device=device) + 0.5 - self.width_px / 2
        y = torch.arange(self.height_px, device=device) + 0.5 - self.height_px / 2
        points = torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]), 2)
        places = torch.einsum("nij,hwj->nhwi", self.matrix, points) + self.centre[:, None, None]
        return places * places.new_tensor([2 / source_width_px, 2 / source_height_px]) - 1

    def boxes(self, boxes_xyxy: Tensor) -> Tensor:
        """Return boxes of the pictures, float32 (N, K, 4), as the views show them, not clipped."""
        x1, y1, x2, y2 = boxes_xyxy.unbind(2)
        corners = torch.stack([torch.stack([x1, y1], 2), torch.stack([x2, y2], 2)], 2) - self.centre[:, None, None]
        middle = corners.new_tensor([self.width_px / 2, self.height_px / 2])
        moved = torch.einsum("nij,nkcj->nkci", torch.linalg.inv(self.matrix), corners) + middle
        return torch.cat([moved.amin(2), moved.amax(2)], 2)


def random_views(
    count: int, source: tuple[int, int], view: tuple[int, int], settings: ViewsConfig, generator: torch.Generator,
    device: torch.device,
) -> Views:  # fmt: skip
    """Return ``count`` random views of pictures, on ``device``; ``source`` and ``view`` are (height, width) in pixels.

    The scale is drawn evenly by its logarithm. A picture larger than the view is shown in part, anywhere; a smaller one
    whole, anywhere.
    """

    def coin() -> Tensor:
        return torch.randint(0, 2, (count,), generator=generator) * 2.0 - 1.0

    low, high = settings.scale
    scale = low * (high / low) ** torch.rand(count, generator=generator)
    flip_x = coin() if settings.mirror else torch.ones(count)
    flip_y = coin() if settings.mirror_vertical else torch.ones(count)
    turned = (coin() > 0) & settings.turn
    way = coin() if settings.turn else torch.ones(count)  # a quarter to the left or to the right
    zero = torch.zeros(count)
    straight = torch.stack([torch.stack([flip_x, zero], 1), torch.stack([zero, flip_y], 1)], 1)
    quarter = straight.flip(2) * torch.stack([way, -way], 1)[:, :, None]
    matrix = torch.where(turned[:, None, None], quarter, straight) / scale[:, None, None]
    # what the view covers of the picture, (N, 2) as x, y; the slack on each side decides how far it may move
    covered = torch.einsum("nij,j->ni", matrix.abs(), torch.tensor([float(view[1]), float(view[0])]))
    size = torch.tensor([float(source[1]), float(source[0])])
    slack = (size - covered).abs() / 2
    centre = size / 2 + (2 * torch.rand(count, 2, generator=generator) - 1) * slack
    return Views(matrix.to(device), centre.to(device), view[1], view[0])


def show(
    pixels: Tensor, views: Views, background: int, settings: ViewsConfig, generator: torch.Generator
) -> Tensor:  # fmt: skip
    """Return the views, recoloured, float32 (N, 3, H, W) of 0..255, of pictures uint8 (N, 3, H', W'), bilinearly.

    What lies outside a picture becomes ``background``, whatever the colours.
    """
    grid = views.grid(pixels.shape[2], pixels.shape[3])
    shown = F.grid_sample(pixels.float(), grid, "bilinear", "border", align_corners=False)
    inside = (grid.abs() <= 1).all(3)[:, None]
    return torch.where(inside, recolour(shown, settings, generator), float(background))


def show_map(maps: Tensor, views: Views, background: int) -> Tensor:
    """Return the views, int64 (N, H, W), of maps of class ids uint8 (N, H', W'), each pixel the nearest."""
    grid = views.grid(maps.shape[1], maps.shape[2])
    shifted = (maps.int() - background).float().unsqueeze(1)  # so that zeros outside mean the background
    return F.grid_sample(shifted, grid, "nearest", "zeros", align_corners=False)[:, 0].long() + background


def recolour(pixels: Tensor, settings: ViewsConfig, generator: torch.Generator) -> Tensor:
    """Return pictures, float32 (N, 3, H, W) of 0..255, with random brightness, contrast and saturation.

    Each is a factor drawn evenly from 1 - setting to 1 + setting: of the picture, of its distance from its mean grey,
    and of each pixel's distance from its own grey.
    """

    def factor(reach: float) -> Tensor:
        drawn = 1 + reach * (2 * torch.rand(len(pixels), generator=generator) - 1)
        return drawn.to(pixels.device).view(-1, 1, 1, 1)

    brightness, contrast, saturation = (
        factor(reach) for reach in (settings.brightness, settings.contrast, settings.saturation)
    )
    grey = (pixels * pixels.new_tensor(GREY).view(1, 3, 1, 1)).sum(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    # all three are linear in the picture, its grey and its mean grey, so that one sum does it
    shown = brightness * contrast * (saturation * pixels + (1 - saturation) * grey) + brightness * (1 - contrast) * mean
    return shown.clamp(0, 255)


def encode(pixels: Tensor, table: Tensor) -> Tensor:
    """Return int8 codes (N, 3, H, W) of pictures, float32 of 0..255, rounded to whole pixel values.

    ``table``: int8 (3, 256), the input record's; stored as channels last, as convolutions run.
    """
    whole = pixels.round().to(torch.uint8).long()
    codes = torch.stack([table[channel][whole[:, channel]] for channel in range(3)], 1)
    return codes.contiguous(memory_format=torch.channels_last)
