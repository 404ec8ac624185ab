"""Answers painted onto pictures: boxes with names, and masks with a legend."""

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from bitgear.tasks.detect import Detection

MASK_OPACITY = 0.55
_GOLDEN_RATIO = 0.6180339887498949
_DARK, _LIGHT = (20, 20, 20), (255, 255, 255)


def color(class_id: int) -> tuple[int, int, int]:
    """Return a class's colour, RGB in 0..255: neighbouring ids are far apart, and always the same ones."""
    red, green, blue = colorsys.hsv_to_rgb((0.01 + class_id * _GOLDEN_RATIO) % 1, 0.75, 0.95 - 0.25 * (class_id % 2))
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_boxes(pixels: NDArray[np.uint8], detections: Sequence[Detection]) -> NDArray[np.uint8]:
    """Return the picture, uint8 (H, W, 3) RGB, with boxes, names and confidences; the best lie on top."""
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    font = _font(image)
    line = max(2, round(min(image.size) / 240))
    for found in reversed(detections):
        x1, y1, x2, y2 = found.box_xyxy
        own = color(found.class_id)
        draw.rectangle((x1, y1, max(x2 - 1, x1), max(y2 - 1, y1)), outline=own, width=line)
        text = f"{found.class_name} {found.confidence:.2f}"
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
        draw.rectangle((6, y + 2, 4 + row - 2, y + row - 2), fill=color(int(class_id)))
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
