"""Labelled images on disk, for evaluation and training: CIFAR-10 in two forms, and a folder per class."""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bitgear.errors import DataError, ImageError
from bitgear.tasks.pictures import decode_picture

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})


@dataclass(frozen=True)
class LabelledImages:
    """``images``: uint8 (N, H, W, 3) RGB; ``labels``: int64 (N,) indices into ``classes``."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]


def read_labelled_images(folder: Path, split: str, side_px: int) -> LabelledImages:
    """Return the ``split`` ("train" or "test") of the data set in ``folder``, images of side_px x side_px.

    Forms, recognised by what the folder holds:

    - CIFAR-10 binary version: ``data_batch_1.bin`` .. ``5`` and ``test_batch.bin`` (also in ``cifar-10-batches-bin/``).
    - CIFAR-10 sheets: ``{split}_00.webp`` .. of 25 rows of 40 images, and ``labels.npz``.
    - A folder per class: ``{split}/CLASS/*.jpg|png|webp``, classes in alphabetical order, cropped to the
      square in the centre and resized bilinearly.

    Raises :class:`~bitgear.errors.DataError` naming the file or folder that is missing, empty or unreadable.
    """
    if not folder.is_dir():
        raise DataError(f"data folder {folder} does not exist")
    nested = folder / "cifar-10-batches-bin"
    binary = nested if nested.is_dir() else folder
    if (binary / "test_batch.bin").is_file():
        return _cifar10_binary(binary, split)
    if (folder / "labels.npz").is_file():
        return _cifar10_sheets(folder, split)
    if (folder / split).is_dir():
        return _class_folders(folder / split, side_px)
    raise DataError(
        f"data folder {folder} holds neither CIFAR-10 (test_batch.bin, or labels.npz with sheets) "
        f"nor {split}/CLASS/ folders"
    )


def _cifar10_binary(folder: Path, split: str) -> LabelledImages:
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] if split == "train" else ["test_batch.bin"]
    rows = []
    for name in names:
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path} is missing")
        data = np.fromfile(path, np.uint8)
        if data.size == 0 or data.size % 3073:
            raise DataError(f"{path} has {data.size} bytes, not a multiple of 3,073 (one label and 3 x 32 x 32 pixels)")
        rows.append(data.reshape(-1, 3073))
        if rows[-1][:, 0].max() > 9:
            raise DataError(f"{path} has the label {rows[-1][:, 0].max()}; CIFAR-10 has 0 to 9")
    records = np.concatenate(rows)
    images = np.ascontiguousarray(records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return LabelledImages(images, records[:, 0].astype(np.int64), CIFAR10_CLASSES)


def _cifar10_sheets(folder: Path, split: str) -> LabelledImages:
    file = folder / "labels.npz"
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            labels = archive.get(split)
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{file} is not an archive of arrays: {error}") from error
    if labels is None:
        raise DataError(f"{file} has no entry {split!r}")
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or labels.size == 0 or labels.min() < 0 or labels.max() > 9:
        raise DataError(f"{file} must hold a row of labels from 0 to 9 under {split!r}")
    paths = sorted(folder.glob(f"{split}_*.webp"))
    sheets = [_open_rgb(path) for path in paths]
    for path, sheet in zip(paths, sheets, strict=True):
        if sheet.shape != (800, 1280, 3):
            raise DataError(f"{path} is {sheet.shape[1]} x {sheet.shape[0]} pixels; a sheet has 1280 x 800")
    if len(sheets) * 1000 != len(labels):
        raise DataError(f"{folder} holds {len(sheets)} sheets of 1,000 images for {len(labels)} {split} labels")
    grids = [s.reshape(25, 32, 40, 32, 3).transpose(0, 2, 1, 3, 4).reshape(1000, 32, 32, 3) for s in sheets]
    return LabelledImages(np.concatenate(grids), labels.astype(np.int64), CIFAR10_CLASSES)


def _class_folders(folder: Path, side_px: int) -> LabelledImages:
    classes = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir()))
    if not classes:
        raise DataError(f"{folder} holds no class folders")
    images, labels = [], []
    for label, name in enumerate(classes):
        paths = sorted(path for path in (folder / name).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        if not paths:
            raise DataError(f"class folder {folder / name} holds no JPEG, PNG or WebP image")
        images += [resize_crop(_open_rgb(path), side_px) for path in paths]
        labels += [label] * len(paths)
    return LabelledImages(np.stack(images), np.asarray(labels, np.int64), classes)


def _open_rgb(path: Path) -> NDArray[np.uint8]:
    try:
        return decode_picture(path.read_bytes()).pixels  # as serving decodes: orientation, transparency, 16 bits
    except (OSError, ImageError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from error


def resize_crop(image: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    """Return uint8 (side_px, side_px, 3): the square in the centre, resized bilinearly.

    The crop comes first, so that an image of one row of pixels takes no memory that its square does not need. An
    image that already has the size comes back unchanged.
    """
    height, width = image.shape[:2]
    if (height, width) == (side_px, side_px):
        return image
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    square = Image.fromarray(image[top : top + side, left : left + side])
    return np.asarray(square.resize((side_px, side_px), Image.Resampling.BILINEAR))


def subset(data: LabelledImages, indices: Sequence[int] | NDArray[np.int64]) -> LabelledImages:
    """Return the images at ``indices``."""
    return LabelledImages(data.images[indices], data.labels[indices], data.classes)
