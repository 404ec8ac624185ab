"""Answers painted onto pictures: boxes with names, and masks with a legend."""

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from bitgear.tasks.detect import Detection

MASK_OPACITY = 0.55
PALETTE = (
    (58, 95, 224), (245, 130, 49), (255, 225, 25), (125, 30, 176), (240, 50, 230), (47, 168, 74),
    (66, 212, 244), (138, 90, 32), (230, 25, 75), (180, 240, 60), (250, 190, 212), (0, 0, 117),
    (15, 127, 123), (128, 0, 0), (170, 255, 195), (192, 168, 255),
)  # fmt: skip
"""Of the first classes, chosen to be told apart by eye, the first twelve best of all."""
_GOLDEN_RATIO = 0.6180339887498949
_SHADES = ((0.75, 0.95), (0.95, 0.6), (0.45, 0.9), (0.6, 0.45), (0.9, 0.8))
_DARK, _LIGHT = (20, 20, 20), (255, 255, 255)


def color(class_id: int) -> tuple[int, int, int]:
    """Return a class's colour, RGB in 0..255, always the same: from the palette, beyond it far from its neighbours'."""
    if class_id < len(PALETTE):
        return PALETTE[class_id]
    # Hues come near each other again after 1, 2, 3, 5, 8, ... steps; five shades in turn keep most of those apart.
    shade = _SHADES[class_id % len(_SHADES)]
    red, green, blue = colorsys.hsv_to_rgb(class_id * _GOLDEN_RATIO % 1, *shade)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_boxes(
    pixels: NDArray[np.uint8], detections: Sequence[Detection], *, confidences: bool = True
) -> NDArray[np.uint8]:
    """Return the picture, uint8 (H, W, 3) RGB, with boxes, names and confidences; the best lie on top.

    ``confidences``: False where nobody gave any. No box hides a name: all boxes are drawn first.
    """
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    font = _font(image)
    line = max(2, round(min(image.size) / 240))
    for found in reversed(detections):
        x1, y1, x2, y2 = found.box_xyxy
        draw.rectangle((x1, y1, max(x2 - 1, x1), max(y2 - 1, y1)), outline=color(found.class_id), width=line)
    for found in reversed(detections):
        x1, y1, _, _ = found.box_xyxy
        own = color(found.class_id)
        text = f"{found.class_name} {found.confidence:.2f}" if confidences else found.class_name
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        width, height = right - left + 4, bottom - top + 4
        corner_x = min(max(x1, 0), max(image.width - width, 0))
        corner_y = y1 - height if y1 >= height else y1
        draw.rectangle((corner_x, corner_y, corner_x + width, corner_y + height), fill=own)
        draw.text((corner_x + 2 - left, corner_y + 2 - top), text, fill=_readable(own), font=font)
    return np.asarray(image)


def draw_mask(pixels: NDArray[np.uint8], mask: NDArray[np.uint8], labels: Sequence[str]) -> NDArray[np.uint8]:
    """Return the picture, uint8 (H, W, 3) RGB, tinted by class, with a legend of the classes that are there.

    ``mask``: class ids, uint8 (H, W); where an id has no label the picture stays as it is.
    """
    colors = np.array([color(i) for i in range(len(labels))], np.float32)
    known = mask < len(labels)
    tinted = pixels.copy()
    tinted[known] = (1 - MASK_OPACITY) * pixels[known] + MASK_OPACITY * colors[mask[known]]
    image = Image.fromarray(tinted)
    draw = ImageDraw.Draw(image)
    font = _font(image)
    row = round(_font_px(image) * 1.3)
    counts = np.bincount(mask[known].ravel(), minlength=len(labels))
    y = 4
    for class_id in np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]:
        if y + row > image.height:
            break
        label = " ".join(labels[class_id].split())  # in one line
        width = draw.textlength(label, font=font)
        draw.rectangle((4, y, 10 + row + width, y + row), fill=_DARK)
        draw.rectangle((6, y + 2, 4 + row - 2, y + row - 2), fill=color(int(class_id)), outline=_LIGHT)
        draw.text((6 + row, y + row / 2), label, fill=_LIGHT, font=font, anchor="lm")
        y += row
    return np.asarray(image)


def _font_px(image: Image.Image) -> int:
    return max(11, round(min(image.size) / 32))


def _font(image: Image.Image) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_font_px(image))


def _readable(background: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = background
    return _DARK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else _LIGHT
