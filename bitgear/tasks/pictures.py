"""Encoded image bytes -> RGB pixels, for everything that takes pictures from outside."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TypeAlias

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from bitgear.errors import (
    ImageAnimated,
    ImageCorrupt,
    ImageEmpty,
    ImageError,
    ImageFormatUnsupported,
    ImageTooLarge,
    InputError,
    SystemRefused,
    quoted,
)

DEFAULT_LIMIT_PIXELS = 50_000_000
LIMIT_SIDE_PX = 32_767
"""Rows and columns cost time of their own: a line of a million pixels takes 20 times as long as a square of them."""

_UPRIGHT = 1
"""Of EXIF's orientations."""


@dataclass(frozen=True, eq=False)
class Picture:
    """``pixels``: uint8 (height, width, 3) RGB, upright (EXIF orientation applied), at least one of them.

    Raises :class:`~bitgear.errors.InputError` for anything else.
    """

    pixels: NDArray[np.uint8]

    def __post_init__(self) -> None:
        shape, dtype = self.pixels.shape, self.pixels.dtype
        if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
            raise InputError(
                f"a picture is an array of uint8 (H, W, 3), or grey (H, W), with H and W at least 1; got {dtype} of "
                f"shape {shape}"
            )

    @property
    def width_px(self) -> int:
        """Width in pixels."""
        return int(self.pixels.shape[1])

    @property
    def height_px(self) -> int:
        """Height in pixels."""
        return int(self.pixels.shape[0])


ImageInput: TypeAlias = "str | PathLike[str] | bytes | NDArray[np.uint8] | Image.Image | Picture"
"""What a program has: a path, the bytes of a file, an array (H, W, 3) or grey (H, W), a Pillow image, or a picture."""

_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK")
"""Of Pillow images: those that become RGB in one way alone."""


def as_picture(image: ImageInput) -> Picture:
    """Return the picture in what a program has. Files, and Pillow images that have an orientation, are turned upright.

    Raises what :func:`decode_picture` raises for files and for pictures that are too large,
    :class:`~bitgear.errors.SystemRefused` for a file that cannot be read, and :class:`~bitgear.errors.InputError` for
    an array or a Pillow image of another kind and for anything that is no picture.
    """
    if isinstance(image, Picture):
        return image
    if isinstance(image, bytes | bytearray | memoryview):
        return decode_picture(bytes(image))
    if isinstance(image, str | PathLike):
        return decode_picture(_read(image))
    if isinstance(image, np.ndarray):
        # Of grey no copy: what is refused need not fit into memory three times.
        picture = Picture(np.broadcast_to(image[:, :, None], (*image.shape, 3)) if image.ndim == 2 else image)
        check_size(picture.width_px, picture.height_px, DEFAULT_LIMIT_PIXELS)
        return picture
    if isinstance(image, Image.Image):
        if image.mode not in _MODES:
            raise InputError(f"a Pillow image of mode {image.mode!r} has no one RGB; try image.convert('RGB')")
        check_size(*image.size, DEFAULT_LIMIT_PIXELS)
        with _corrupt("the Pillow image cannot be read: its file is closed, truncated or damaged"):
            pixels = _to_rgb(ImageOps.exif_transpose(image))
        return Picture(pixels)
    raise InputError(
        f"a picture is a path, the bytes of a file, a uint8 array or a Pillow image, not {type(image).__name__}"
    )


def _read(path: "str | PathLike[str]") -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SystemRefused(error) from error
    except ValueError as error:  # a NUL, or what the file system cannot spell
        raise InputError(f"{quoted(path)} is no path: {error}") from error


def decode_picture(
    data: bytes, limit_pixels: int = DEFAULT_LIMIT_PIXELS, begin: Callable[[int], None] = lambda _: None
) -> Picture:
    """Return the picture in JPEG, PNG or WebP bytes; the format is told from the bytes.

    Grey, palette, 16-bit, CMYK and transparent images become 8-bit RGB: 16-bit values lose their low byte,
    transparent pixels are laid over black. The size is checked in the header, before anything is decoded; ``begin`` is
    then told how many pixels there are.

    Raises :class:`ImageEmpty`, :class:`ImageFormatUnsupported`, :class:`ImageTooLarge`, :class:`ImageAnimated` or
    :class:`ImageCorrupt`.
    """
    if not data:
        raise ImageEmpty("no image bytes were given; send a JPEG, PNG or WebP file")
    with _corrupt("the image header is damaged; send the file again"):
        image = _open(data)
    with image:
        check_size(*image.size, limit_pixels)
        if getattr(image, "n_frames", 1) != 1:
            raise ImageAnimated("the image has several frames; send one frame as a still image")
        begin(image.width * image.height)
        with _corrupt("the image is truncated or damaged; send the whole file"):
            pixels = _plain_jpeg(image, data)
            if pixels is None:
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                pixels = _to_rgb(image)
        return Picture(pixels)


@contextmanager
def _corrupt(said: str) -> Iterator[None]:
    """Make :class:`ImageCorrupt` of what codecs raise on damaged files: many types, and none that is theirs alone."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        raise ImageCorrupt(said) from error


def check_size(width_px: int, height_px: int, limit_pixels: int) -> None:
    """Raise :class:`ImageTooLarge` for more pixels than ``limit_pixels``, or ``LIMIT_SIDE_PX`` along a side."""
    if width_px * height_px > limit_pixels or max(width_px, height_px) > LIMIT_SIDE_PX:
        raise ImageTooLarge(width_px, height_px, limit_pixels, LIMIT_SIDE_PX)


def _open(data: bytes) -> ImageFile:
    """Return the image with its header read and its pixels not.

    The codecs are called by name. ``Image.open`` would try them in turn, and warn about large images: to silence
    a warning is not safe while other threads run. A camera's JPEG with further pictures behind it (MPO) is read as
    its first picture.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return JpegImageFile(io.BytesIO(data))
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImageFile(io.BytesIO(data))
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return WebPImageFile(io.BytesIO(data))
    raise ImageFormatUnsupported(
        f"the {len(data)} bytes given are not a JPEG, PNG or WebP image; convert the file to one of these"
    )


def _plain_jpeg(image: ImageFile, data: bytes) -> NDArray[np.uint8] | None:
    """Return the pixels of an upright colour JPEG without a flaw; None of any other image, which Pillow judges.

    Pillow has the same decoder, and the pixels are equal; but it takes them through a picture of four bytes a pixel and
    copies that, in nearly twice the time.
    """
    if not isinstance(image, JpegImageFile) or image.mode != "RGB":
        return None
    if image.getexif().get(ExifTags.Base.Orientation, _UPRIGHT) != _UPRIGHT:
        return None
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data)
    except ValueError:  # what the decoder warns of, too
        return None
    return pixels


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode == "RGB" and "transparency" not in image.info:
        return np.asarray(image)
    if image.mode in ("1", "L", "RGB", "P"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.mode.startswith("I"):  # 16-bit grey: Pillow would clip to 255 instead of scaling
        grey = (np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        rgba = image.convert("RGBA")
        black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, rgba)
    return np.asarray(image.convert("RGB"))
