"""What a caller has (a path, bytes, an array, a Pillow image) to the bytes that are sent."""

import io
import sys
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from bitgear_client.errors import ImageInputError

if TYPE_CHECKING:
    import numpy
    import PIL.Image


class OpenFile(Protocol):
    """A file that is open for reading bytes."""

    def read(self) -> bytes:
        """Return what is left of it."""
        ...


ImageInput: TypeAlias = (
    "str | PathLike[str] | bytes | bytearray | memoryview | OpenFile"
    " | numpy.ndarray[Any, numpy.dtype[numpy.uint8]] | PIL.Image.Image"
)
"""What is accepted: a path, the bytes of an image file, an open file, an array (H, W, 3) or (H, W), a Pillow image."""

_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")  # what PNG stores without loss


def image_bytes(image: ImageInput) -> bytes:
    """Return the bytes of an image file: a file's or bytes' own, an array's or Pillow image's pixels as PNG.

    An open file is read from where it stands, and not closed.
    Arrays: uint8, 0..255, shape (H, W, 3) in RGB order or (H, W) grey. A Pillow image is turned upright by its EXIF
    orientation, as the server does with files.

    Raises ``ImageInputError`` for a file that cannot be read, another dtype or shape, a mode that PNG cannot store,
    a missing Pillow, or anything else that is not an image.

    >>> image_bytes(b"the bytes of a file")
    b'the bytes of a file'
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | PathLike):
        try:
            return Path(image).read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise ImageInputError(f"cannot read the image file {str(image)!r}: {error}") from error
    # Whoever has an array or a Pillow image has loaded the library already: neither is imported to find out.
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(image, numpy.ndarray):
        return _array_png(image)
    pillow = sys.modules.get("PIL.Image")
    if pillow is not None and isinstance(image, pillow.Image):
        return _pillow_png(image)
    if hasattr(image, "read"):
        return _rest_of(image)
    raise ImageInputError(
        f"an image is a path, bytes, an open file, a numpy uint8 array or a Pillow image, not {type(image).__name__}"
    )


def _rest_of(file: OpenFile) -> bytes:
    try:
        data = file.read()
    except (OSError, ValueError) as error:  # ValueError: it is closed, or text that does not decode
        raise ImageInputError(f"cannot read the image file: {error}") from error
    if not isinstance(data, bytes):
        raise ImageInputError(f"an image file is open for reading bytes; this one gives {type(data).__name__}")
    return data


def _array_png(array: "numpy.ndarray[Any, Any]") -> bytes:
    shape_fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    if array.dtype != "uint8" or not shape_fits or array.size == 0:
        raise ImageInputError(
            f"an image array is uint8 of shape (H, W, 3) or (H, W) with H and W at least 1, "
            f"not {array.dtype} of shape {array.shape}"
        )
    try:
        from PIL import Image
    except ImportError as error:
        raise ImageInputError("sending an array needs Pillow: pip install pillow") from error
    return _pillow_png(Image.fromarray(array))


def _pillow_png(image: "PIL.Image.Image") -> bytes:
    from PIL import ImageOps

    if image.mode not in _PNG_MODES:
        raise ImageInputError(f"a Pillow image of mode {image.mode!r} has no lossless PNG; try image.convert('RGB')")
    png = io.BytesIO()
    try:
        ImageOps.exif_transpose(image).save(png, format="PNG")
    except MemoryError:
        raise
    except Exception as error:  # pixels are read here: of files that are damaged or closed, codecs raise many types
        raise ImageInputError(f"cannot encode the Pillow image: {error}") from error
    return png.getvalue()
