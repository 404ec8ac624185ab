"""Labelled images on disk: CIFAR-10 in two forms, a folder per class, and files listed in ``classes.json``."""

import json
import lzma
import os
import posixpath
import tarfile
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitgear.errors import DataError, ImageError
from bitgear.files import open_regular
from bitgear.tasks.pictures import decode_picture
from bitgear.tasks.resize import resize

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
UNREAD_SUFFIXES = frozenset({".bmp", ".gif", ".tif", ".tiff", ".heic", ".avif"})
"""Of pictures that are not read: refused where they would count, since whoever has them means them to."""
CLASSES_FILE = "classes.json"
MAX_LINKS = 40
"""Of how many links in a row the end is looked for in a tar archive."""
_TAR_ERRORS = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError)


@dataclass(frozen=True)
class LabelledImages:
    """``images``: uint8 (N, H, W, 3) RGB; ``labels``: int64 (N,) indices into ``classes``."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


def read_labelled_images(folder: Path, split: str, side_px: int, central_fraction: float = 1.0) -> LabelledImages:
    """Return the ``split`` ("train" or "test") of the data set in ``folder``, images of side_px x side_px.

    Forms, recognised by what the folder holds:

    - CIFAR-10 binary version: ``data_batch_1.bin`` .. ``5`` and ``test_batch.bin`` (also in ``cifar-10-batches-bin/``).
    - CIFAR-10 sheets: ``{split}_00.webp`` .. of 25 rows of 40 images, and ``labels.npz``.
    - A folder per class: ``{split}/CLASS/*.jpg|png|webp`` (pictures elsewhere or of other kinds below it are refused),
      classes in alphabetical order, cropped to the
      square in the centre and resized bilinearly (``central_fraction``: as in :func:`resize_crop`).

    Raises :class:`~bitgear.errors.DataError` naming the file or folder that is missing, empty or unreadable.
    """
    if not folder.is_dir():
        wanted = f"give a folder that holds CIFAR-10 or {split}/CLASS/ folders"
        raise DataError(f"data folder {folder} {'is no folder' if folder.exists() else 'does not exist'}; {wanted}")
    nested = folder / "cifar-10-batches-bin"
    binary = nested if nested.is_dir() else folder
    if (binary / "test_batch.bin").is_file():
        return _cifar10_binary(binary, split)
    if (folder / "labels.npz").is_file():
        return _cifar10_sheets(folder, split)
    if (folder / split).is_dir():
        return _class_folders(folder / split, side_px, central_fraction)
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


def _class_folders(folder: Path, side_px: int, central_fraction: float) -> LabelledImages:
    classes = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not _is_hidden(path)))
    if not classes:
        raise DataError(f"{folder} holds no class folders")
    _check_class_names(folder, classes)
    _check_none_passed_over(folder, _files_below(folder))
    images, labels = [], []
    for label, name in enumerate(classes):
        paths = sorted(path for path in (folder / name).iterdir() if _is_picture(path))
        if not paths:
            raise DataError(f"class folder {folder / name} holds no JPEG, PNG or WebP image")
        images += [resize_crop(_open_rgb(path), side_px, central_fraction) for path in paths]
        labels += [label] * len(paths)
    return LabelledImages(np.stack(images), np.asarray(labels, np.int64), classes)


def _is_hidden(path: PurePath) -> bool:
    """Return whether a name begins with a dot, as those of what macOS and desktops lay beside pictures do."""
    return path.name.startswith(".")


def _is_picture(path: PurePath) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not _is_hidden(path)


def _check_none_passed_over(source: Path, names: Iterable[str]) -> None:
    """Raise :class:`~bitgear.errors.DataError` for a picture in a class folder that is not ``CLASS/*.jpg|png|webp``.

    ``names``: of files, relative to ``source``. What is hidden does not count.
    """
    for name in sorted(names):
        path = PurePosixPath(name)
        if len(path.parts) < 2 or any(part.startswith(".") for part in path.parts):
            continue
        if path.suffix.lower() in UNREAD_SUFFIXES:
            raise DataError(f"{source}: {name} is a picture of a kind that is not read; save it as JPEG, PNG or WebP")
        if len(path.parts) > 2 and path.suffix.lower() in IMAGE_SUFFIXES:
            raise DataError(f"{source}: {name} lies deeper than CLASS/PICTURE; move it into the folder of its class")


def _check_class_names(source: Path, classes: Sequence[str]) -> None:
    """Raise :class:`~bitgear.errors.DataError` for a name that no master can hold: file names may be any bytes."""
    for name in classes:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{source}: the class name {name!r} is not UTF-8; rename it") from error


def read_pictures(
    source: Path,
    side_px: int,
    classes: Sequence[str] | None = None,
    *,
    central_fraction: float = 1.0,
    limit: int | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> LabelledImages:
    """Return the labelled pictures in a folder or an uncompressed or compressed tar archive, in order.

    Forms, recognised by what ``source`` holds:

    - ``classes.json``, a list of objects ``{"class": 3, "name": "tiger shark", "file": "0003.jpg"}``, one for each
      picture. ``classes`` are by default the names it gives.
    - A folder per class, ``CLASS/*.jpg|png|webp``. ``classes`` are by default the folders in alphabetical order.

    ``classes``: names of all classes by index, where the pictures are not of all of them or the order is another.
    ``central_fraction``: as in :func:`resize_crop`. ``limit``: take only so many pictures, spread evenly.
    ``progress`` is called with 1 after every picture.

    Raises :class:`~bitgear.errors.DataError` naming the file or class that is missing or wrong.
    """
    with open_files(source) as (names, read):
        if CLASSES_FILE in names:
            files, labels, classes = _listed(source, _load_json(read(CLASSES_FILE), source), classes)
        else:
            files, labels, classes = _foldered(source, names, classes)
        _check_class_names(source, classes)
        if limit is not None and limit < len(files):
            chosen = spread(len(files), limit)
            files, labels = [files[i] for i in chosen], [labels[i] for i in chosen]
        images = np.empty((len(files), side_px, side_px, 3), np.uint8)
        for i, name in enumerate(files):
            if name not in names:
                raise DataError(f"{source} lists the picture {name!r}, which is not there")
            images[i] = resize_crop(_decode(read(name), f"{source}: {name}"), side_px, central_fraction)
            progress(1)
    return LabelledImages(images, np.asarray(labels, np.int64), tuple(classes))


def read_class_names(file: Path) -> tuple[str, ...]:
    """Return the class names in a text file, one in a line, or in a JSON file that holds a list of strings.

    Raises :class:`~bitgear.errors.DataError` if it is neither.
    """
    try:
        with open_regular(file) as stream:
            text = stream.read().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"class names {file} cannot be read: {error}") from error
    if file.suffix.lower() != ".json":
        names = [line.strip() for line in text.splitlines()]
        if not names or not all(names):
            raise DataError(f"class names {file} must hold one name in each line and no empty line")
        return tuple(names)
    listed = _load_json(text.encode(), file)
    if not isinstance(listed, list) or not listed or not all(isinstance(name, str) and name for name in listed):
        raise DataError(f"class names {file} must hold a JSON list of strings")
    return tuple(listed)


_Files = tuple[set[str], Callable[[str], bytes]]
"""Names of regular files and of links to them, with ``/`` between folders, and a function that reads one."""


@contextmanager
def open_files(source: Path) -> Iterator[_Files]:
    """Give the files below a folder, or in a tar archive, without writing any: their names, and what reads one.

    Raises :class:`~bitgear.errors.DataError` if ``source`` is neither.
    """
    if source.is_dir():
        yield set(_files_below(source)), lambda name: _read_file(source / name)
        return
    if not source.exists():
        raise DataError(f"pictures {source} do not exist; give a folder or a tar archive")
    with ExitStack() as opened:
        try:
            archive = opened.enter_context(tarfile.open(fileobj=opened.enter_context(open_regular(source))))
            members = _members(archive)
        except _TAR_ERRORS as error:
            raise DataError(f"{source} is neither a folder nor a tar archive: {error}") from error
        yield set(members), lambda name: _read_member(source, archive, members[name])


def _files_below(source: Path) -> Iterator[str]:
    """Yield the names of the files below a folder, also behind links, but not behind one that leads back up."""
    above: dict[Path, tuple[str, ...]] = {source: (os.path.realpath(source),)}
    for folder, inner, files in os.walk(source, followlinks=True):
        passed = above.pop(Path(folder))  # a path, since os.walk says ./a where a path has a
        for name in list(inner):
            path = Path(folder, name)
            real = os.path.realpath(path)
            if real in passed:
                inner.remove(name)
            else:
                above[path] = (*passed, real)
        paths = (Path(folder, name) for name in files)
        yield from (path.relative_to(source).as_posix() for path in paths if path.is_file())


def _members(archive: tarfile.TarFile) -> dict[str, tarfile.TarInfo]:
    """Return the regular files in an archive by name; by that of a link the file that it leads to."""
    entries = {member.name.removeprefix("./"): member for member in archive}
    ends = {name: _link_end(member, entries) for name, member in entries.items()}
    return {name: member for name, member in ends.items() if member is not None and member.isfile()}


def _link_end(member: tarfile.TarInfo, entries: Mapping[str, tarfile.TarInfo]) -> tarfile.TarInfo | None:
    """Return the entry that a link leads to, ``member`` itself if it is none."""
    end: tarfile.TarInfo | None = member
    for _ in range(MAX_LINKS):
        if end is None or not (end.islnk() or end.issym()):
            break
        folder = posixpath.dirname(end.name) if end.issym() else ""
        end = entries.get(posixpath.normpath(posixpath.join(folder, end.linkname)))
    return end


def picture_reader(source: Path, names: Sequence[str]) -> Callable[[str], bytes]:
    """Return a function that reads one of the files ``names`` of a folder or tar archive at any later time.

    Any number of threads may call it, and nothing stays open. Of a compressed archive, in which a file can only be
    reached by reading all that is before it, the files are held in memory.
    """
    if source.is_dir():
        return lambda name: _read_file(source / name)
    wanted = set(names)
    with open_files(source) as (_, read):
        try:
            with tarfile.open(source, "r:") as archive:
                members = _members(archive)
        except _TAR_ERRORS:
            members = {}
        places = {
            name: (member.offset_data, member.size)
            for name, member in members.items()
            if name in wanted and member.isreg() and not member.issparse()
        }
        held = {name: read(name) for name in wanted - places.keys()}

    def fetch(name: str) -> bytes:
        if name in held:
            return held[name]
        offset, size = places[name]
        try:
            with source.open("rb") as file:
                file.seek(offset)
                return file.read(size)
        except OSError as error:
            raise DataError(f"{source}: {name} cannot be read: {error}") from error

    return fetch


def _read_file(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _read_member(source: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    try:
        file = archive.extractfile(member)
        return b"" if file is None else file.read()
    except _TAR_ERRORS as error:
        raise DataError(f"{source}: {member.name} cannot be read: {error}") from error


def _load_json(content: bytes, source: Path) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source}: the list of classes is not JSON: {error}") from error


def _listed(source: Path, entries: Any, classes: Sequence[str] | None) -> tuple[list[str], list[int], Sequence[str]]:
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{source}: {CLASSES_FILE} must be a list of pictures")
    named: dict[int, str] = {}
    files: dict[str, int] = {}
    for i, entry in enumerate(entries):
        valid = (
            isinstance(entry, dict)
            and type(entry.get("class")) is int
            and entry["class"] >= 0
            and isinstance(entry.get("file"), str)
            and isinstance(entry.get("name", ""), str)
        )
        if not valid:
            raise DataError(f"{source}: entry {i} of {CLASSES_FILE} lacks a class number, a name or a file")
        if (other := files.setdefault(entry["file"], i)) != i:
            raise DataError(
                f"{source}: entry {i} of {CLASSES_FILE} lists the picture {entry['file']!r}, which entry {other} lists "
                "too; list each picture once"
            )
        if classes is None and named.setdefault(entry["class"], entry.get("name", "")) != entry.get("name", ""):
            raise DataError(f"{source}: {CLASSES_FILE} gives class {entry['class']} two names")
    labels = [entry["class"] for entry in entries]
    if classes is None:
        if sorted(named) != list(range(len(named))) or not all(named.values()):
            raise DataError(f"{source}: {CLASSES_FILE} does not name all classes; give a file of class names")
        classes = [named[label] for label in range(len(named))]
    elif max(labels) >= len(classes):
        raise DataError(f"{source}: {CLASSES_FILE} has class {max(labels)}; only {len(classes)} class names were given")
    else:
        _check_listed_names(source, entries, classes)
    return list(files), labels, classes


def _check_listed_names(source: Path, entries: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> None:
    """Raise :class:`~bitgear.errors.DataError` if a picture has the name that was given to another class."""
    for entry in entries:
        given, told = classes[entry["class"]], entry.get("name", "")
        if told != given and told in classes:
            raise DataError(
                f"{source}: {CLASSES_FILE} names class {entry['class']} {told!r}; the names given, {given!r}"
            )


def _foldered(
    source: Path, names: set[str], classes: Sequence[str] | None
) -> tuple[list[str], list[int], Sequence[str]]:
    by_class = defaultdict(list)
    for name in sorted(names):
        path = PurePosixPath(name)
        if len(path.parts) == 2 and not path.is_absolute() and _is_picture(path) and not _is_hidden(path.parent):
            by_class[path.parent.name].append(name)
    if not by_class:
        raise DataError(f"{source} holds neither {CLASSES_FILE} nor folders of JPEG, PNG or WebP pictures")
    _check_none_passed_over(source, (name for name in names if PurePosixPath(name).parts[0] in by_class))
    classes = sorted(by_class) if classes is None else classes
    files, labels = [], []
    for folder, pictures in by_class.items():
        if list(classes).count(folder) != 1:
            raise DataError(f"{source}: folder {folder!r} is not the name of exactly one class")
        files += pictures
        labels += [list(classes).index(folder)] * len(pictures)
    return files, labels, classes


def _open_rgb(path: Path) -> NDArray[np.uint8]:
    return _decode(_read_file(path), str(path))


def _decode(data: bytes, name: str) -> NDArray[np.uint8]:
    try:
        return decode_picture(data).pixels  # as serving decodes: orientation, transparency, 16 bits
    except ImageError as error:
        raise DataError(f"{name} cannot be read as an image: {error}") from error


def resize_crop(image: NDArray[np.uint8], side_px: int, central_fraction: float = 1.0) -> NDArray[np.uint8]:
    """Return uint8 (side_px, side_px, 3): the :func:`central_square`, resized by :func:`~bitgear.tasks.resize.resize`.

    An image that already has the size comes back unchanged.
    """
    return resize(central_square(image, side_px, central_fraction), side_px, side_px)


def central_square(image: NDArray[np.uint8], side_px: int, central_fraction: float = 1.0) -> NDArray[np.uint8]:
    """Return the square in the centre of an image, uint8 (S, S, 3); an image of ``side_px`` as it is.

    ``central_fraction``: side of the square as a part, 0..1, of the shorter side; ImageNet networks are customarily
    measured at 0.875. The crop comes before resizing, so that an image of one row of pixels takes no memory that its
    square does not need.
    """
    height, width = image.shape[:2]
    if (height, width) == (side_px, side_px):
        return image
    side = max(1, round(min(height, width) * central_fraction))
    left, top = (width - side) // 2, (height - side) // 2
    return image[top : top + side, left : left + side]


def spread(count: int, limit: int) -> NDArray[np.int64]:
    """Return at most ``limit`` of the indices 0..count-1, spread evenly: data sets are often in order of class."""
    wanted = min(limit, count)
    return np.arange(wanted) * count // wanted


def subset(data: LabelledImages, indices: Sequence[int] | NDArray[np.int64]) -> LabelledImages:
    """Return the images at ``indices``."""
    return LabelledImages(data.images[indices], data.labels[indices], data.classes)
