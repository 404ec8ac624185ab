"""Labelled images on disk, for evaluation and training: CIFAR-10 in two forms, and a folder per class."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from bitgear.errors import DataError

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
    - A folder per class: ``{split}/CLASS/*.jpg|png|webp``, classes in alphabetical order, images resized bilinearly
      on the shorter side and cropped at the centre.

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
    records = np.concatenate(rows)
    images = np.ascontiguousarray(records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return LabelledImages(images, records[:, 0].astype(np.int64), CIFAR10_CLASSES)


def _cifar10_sheets(folder: Path, split: str) -> LabelledImages:
    with np.load(folder / "labels.npz", allow_pickle=False) as archive:
        if split not in archive:
            raise DataError(f"{folder / 'labels.npz'} has no entry {split!r}")
        labels = archive[split].astype(np.int64)
    paths = sorted(folder.glob(f"{split}_*.webp"))
    sheets = [_open_rgb(path) for path in paths]
    for path, sheet in zip(paths, sheets, strict=True):
        if sheet.shape != (800, 1280, 3):
            raise DataError(f"{path} is {sheet.shape[1]} x {sheet.shape[0]} pixels; a sheet has 1280 x 800")
    if len(sheets) * 1000 != len(labels):
        raise DataError(f"{folder} holds {len(sheets)} sheets of 1,000 images for {len(labels)} {split} labels")
    grids = [s.reshape(25, 32, 40, 32, 3).transpose(0, 2, 1, 3, 4).reshape(1000, 32, 32, 3) for s in sheets]
    return LabelledImages(np.concatenate(grids), labels, CIFAR10_CLASSES)


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
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from error


def resize_crop(image: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    """Return uint8 (side_px, side_px, 3): shorter side resized bilinearly to ``side_px``, then the centre cropped.

    An image that already has the size comes back unchanged.
    """
    height, width = image.shape[:2]
    if (height, width) == (side_px, side_px):
        return image
    scale = side_px / min(height, width)
    size = (max(side_px, round(width * scale)), max(side_px, round(height * scale)))
    resized = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    top, left = (resized.shape[0] - side_px) // 2, (resized.shape[1] - side_px) // 2
    return np.ascontiguousarray(resized[top : top + side_px, left : left + side_px])


def subset(data: LabelledImages, indices: Sequence[int] | NDArray[np.int64]) -> LabelledImages:
    """Return the images at ``indices``."""
    return LabelledImages(data.images[indices], data.labels[indices], data.classes)
