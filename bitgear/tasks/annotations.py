"""Data sets for detection and segmentation, in folders or tar archives: COCO json, Pascal VOC xml, maps of labels.

Whatever is wrong with one is a :class:`~bitgear.errors.DataError` that names the file and the entry or line.
"""

import io
import json
import math
import xml.etree.ElementTree as ElementTree
import xml.parsers.expat as expat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from bitgear.errors import DataError, ImageError
from bitgear.inputs import InputRecord
from bitgear.tasks.datasets import CLASSES_FILE, IMAGE_SUFFIXES, open_files, picture_reader
from bitgear.tasks.letterbox import Letterbox
from bitgear.tasks.pictures import Picture, decode_picture

IGNORE = 255
"""In a map of class ids: a pixel that nobody labelled."""
VOID = "void"
"""Name of the class of a label map that means: not labelled."""
FARTHEST = 1e9
"""No number of a box is larger, in pixels."""

MAX_XML_BYTES = 4 << 20
PNG_DEPTH_BYTE = 24
"""Where a PNG says how many bits a sample has."""
EDGE_TOLERANCE_PX = 1.0
"""How far a box may reach over its picture: annotators round. It is cut."""


@dataclass(frozen=True, eq=False)
class BoxedPicture:
    """A picture and the objects in it. ``boxes_xyxy``: float32 (K, 4) in pixels; ``class_ids``: int64 (K,).

    ``ignored_xyxy`` and ``ignored_ids`` are those that need not be found and are not wrong to find: crowds in COCO,
    difficult objects in Pascal VOC. ``annotation``: the file that says so, and ``line_in`` finds the line in its bytes
    that gives the picture's size.
    """

    name: str
    width_px: int
    height_px: int
    boxes_xyxy: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    ignored_xyxy: NDArray[np.float32]
    ignored_ids: NDArray[np.int64]
    annotation: str
    line_in: Callable[[bytes], int]


@dataclass(frozen=True)
class _Object:
    """An object of a picture: its checked box, an index into the classes, and whether it is ignored."""

    box: tuple[float, ...]
    class_id: int
    ignored: bool


@dataclass(frozen=True, eq=False)
class BoxedPictures:
    """Pictures with boxes. ``read`` decodes one of ``items``; a class id is an index into ``classes``.

    ``source`` and ``split``: where they are from, for errors.
    """

    items: list[BoxedPicture]
    classes: tuple[str, ...]
    read: Callable[[BoxedPicture], Picture]
    source: Path
    split: str

    def __len__(self) -> int:
        return len(self.items)

    def check_measurable(self) -> None:
        """Raise :class:`~bitgear.errors.DataError` if there is no object to be found: precision is of nothing then."""
        if not any(len(item.class_ids) for item in self.items):
            raise DataError(
                f"{self.source}: none of the {len(self)} pictures of split {self.split} has an object that counts "
                "(crowds and difficult ones do not); give a split that is annotated"
            )

    def check_pictures(self) -> None:
        """Raise :class:`~bitgear.errors.DataError` as :attr:`read` does for any picture; keep nothing of them."""
        for item in self.items:
            self.read(item)


@dataclass(frozen=True, eq=False)
class LabelledMaps:
    """``images``: uint8 (N, H, W, 3) RGB; ``maps``: class ids, uint8 (N, H, W), 255 where nothing is labelled.

    ``source`` and ``split``: where they are from, for errors.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    images: NDArray[np.uint8]
    maps: NDArray[np.uint8]
    source: Path
    split: str

    def __len__(self) -> int:
        return len(self.names)

    def check_measurable(self) -> None:
        """Raise :class:`~bitgear.errors.DataError` if no pixel is labelled: an overlap is of nothing then."""
        if (self.maps == IGNORE).all():
            raise _void_alone(self.source, self.split, len(self))


def _void_alone(source: Path, split: str, count: int) -> DataError:
    return DataError(
        f"{source}: none of the {count} label maps of split {split} labels a pixel: they are void alone; give maps of "
        "the classes"
    )


def read_boxed_pictures(source: Path, split: str) -> BoxedPictures:
    """Return a ``split`` of a data set with boxes, pictures not decoded yet.

    Forms, recognised by what the folder or archive holds:

    - COCO: ``annotations/{split}.json`` or ``annotations/instances_{split}.json``, whose ``file_name`` is relative to
      the data set, to ``images/`` or to ``{split}/``. Classes in the order of their category ids. Crowds are ignored.
    - Pascal VOC: ``Annotations/NAME.xml``, ``JPEGImages/NAME.jpg|png|webp`` and ``ImageSets/Main/{split}.txt``. A name
      may hold folders. Classes in alphabetical order over all annotations. Difficult objects are ignored.

    Raises :class:`~bitgear.errors.DataError`.
    """
    with open_files(source) as (names, read):
        forms = (f"annotations/{split}.json", f"annotations/instances_{split}.json")
        for name in forms:
            if name in names:
                items, classes = _coco(source, name, read(name), split, names)
                break
        else:
            listed = f"ImageSets/Main/{split}.txt"
            if listed not in names:
                hint = _lies_deeper(names, *forms, listed) or "is the split named otherwise?"
                raise DataError(
                    f"{source} holds neither annotations/{split}.json or annotations/instances_{split}.json (COCO) "
                    f"nor {listed} (Pascal VOC); {hint}"
                )
            items, classes = _voc(source, listed, names, read)
    fetch = picture_reader(source, [item.name for item in items])
    return BoxedPictures(items, classes, lambda item: _read_picture(source, item, fetch), source, split)


def _lies_deeper(names: Iterable[str], *wanted: str) -> str:
    """Return where one of the files that are ``wanted`` lies below a folder, to end an error with; empty if nowhere."""
    for name in sorted(names):
        for file in wanted:
            if name.endswith(f"/{file}"):
                return f"{name} is there: give what is in {name.removesuffix(file)}, so that {file} lies at the top"
    return ""


def _read_picture(source: Path, item: BoxedPicture, fetch: Callable[[str], bytes]) -> Picture:
    picture = _decode(source, item.name, fetch(item.name))
    if (picture.width_px, picture.height_px) != (item.width_px, item.height_px):
        with open_files(source) as (_, read):
            line = item.line_in(read(item.annotation))
        raise DataError(
            f"{source}: {item.name} has {picture.width_px} x {picture.height_px} pixels upright; {item.annotation}, "
            f"line {line} says {item.width_px} x {item.height_px}"
        )
    return picture


def _decode(source: Path, name: str, data: bytes) -> Picture:
    try:
        return decode_picture(data)
    except ImageError as error:
        raise DataError(f"{source}: {name} cannot be read as an image: {error}") from error


def _coco(
    source: Path, file: str, content: bytes, split: str, names: set[str]
) -> tuple[list[BoxedPicture], tuple[str, ...]]:
    where = f"{source}: {file}"
    document = _json(where, content)
    if not isinstance(document, dict):
        raise DataError(f"{where} must hold an object with images, annotations and categories")
    line_of = partial(_json_line, content)
    categories = _entries(where, document, "categories", {"id": int, "name": str}, line_of)
    class_of: dict[int, int] = {}
    for index, (i, category) in enumerate(sorted(enumerate(categories), key=lambda pair: int(pair[1]["id"]))):
        if category["id"] in class_of:
            raise DataError(f"{where}, line {line_of('categories', i)}: two categories have the id {category['id']}")
        class_of[category["id"]] = index
    if not categories:
        raise DataError(f"{where} must list categories, each with a name of its own")
    named = [str(entry["name"]) for entry in categories]
    if (wrong := _repeated(named) if all(named) else named.index("")) is not None:
        raise DataError(
            f"{where}, line {line_of('categories', wrong)}: category {categories[wrong]['id']} has the name "
            f"{named[wrong]!r}; expected a name of its own"
        )
    classes = tuple(str(entry["name"]) for entry in sorted(categories, key=lambda entry: int(entry["id"])))
    pictures: dict[int, dict[str, Any]] = {}
    fields = {"id": int, "file_name": str, "width": int, "height": int}
    for i, entry in enumerate(_entries(where, document, "images", fields, line_of)):
        if entry["id"] in pictures:
            raise DataError(f"{where}, line {line_of('images', i)}: two images have the id {entry['id']}")
        if entry["width"] < 1 or entry["height"] < 1:
            raise DataError(
                f"{where}, line {line_of('images', i)}: image {entry['id']} has {entry['width']} x {entry['height']} "
                "pixels"
            )
        pictures[entry["id"]] = entry
    objects: dict[int, list[_Object]] = {key: [] for key in pictures}
    numbers: set[int] = set()
    fields = {"image_id": int, "category_id": int, "bbox": list}
    for i, entry in enumerate(_entries(where, document, "annotations", fields, line_of)):
        label = partial(_annotation, where, line_of, i, entry)
        if entry["image_id"] not in pictures:
            raise DataError(f"{label()} is of image {entry['image_id']}, which is not among the images")
        if entry["category_id"] not in class_of:
            raise DataError(f"{label()} has category {entry['category_id']}, which is not among the categories")
        picture = pictures[entry["image_id"]]
        if (number := entry.get("id")) is not None:
            if type(number) is not int or number in numbers:
                raise DataError(f"{label()} has an id that is no whole number or that of another annotation")
            numbers.add(number)
        if len(entry["bbox"]) != 4 or not all(type(n) in (int, float) and not abs(n) > FARTHEST for n in entry["bbox"]):
            raise DataError(f"{label()} has the bbox {str(entry['bbox'])[:60]}; expected four numbers [x, y, w, h]")
        if entry.get("iscrowd") not in (None, 0, 1):
            raise DataError(f"{label()} has the iscrowd {entry['iscrowd']!r:.40}; expected 0 or 1")
        x, y, width, height = map(float, entry["bbox"])
        box = _checked_box(label, (x, y, x + width, y + height), picture["width"], picture["height"])
        objects[entry["image_id"]].append(_Object(box, class_of[entry["category_id"]], bool(entry.get("iscrowd"))))
    items = []
    for i, (key, entry) in enumerate(pictures.items()):
        found = next(
            (name for name in (entry["file_name"], f"images/{entry['file_name']}", f"{split}/{entry['file_name']}")
             if name in names), None,
        )  # fmt: skip
        if found is None:
            raise DataError(
                f"{where}, line {line_of('images', i)} lists the picture {entry['file_name']!r}, which is not there"
            )
        line_in = partial(_json_line, key="images", index=i)
        items.append(_boxed(found, entry["width"], entry["height"], objects[key], file, line_in))
    if not items:
        raise DataError(f"{where} lists no images")
    if (twice := _repeated(item.name for item in items)) is not None:
        line = line_of("images", twice)
        raise DataError(f"{where}, line {line} lists the picture {items[twice].name!r} a second time")
    return items, classes


def _annotation(where: str, line_of: Callable[[str, int], int], index: int, entry: Mapping[str, Any]) -> str:
    """Return an annotation in words, for an error."""
    return f"{where}, line {line_of('annotations', index)}: annotation {index}{_own_id(entry)}"


def _own_id(entry: Any) -> str:
    """Return in brackets the id of an entry that has one."""
    number = entry.get("id") if isinstance(entry, dict) else None
    return "" if number is None else f" (id {str(number)[:40]})"


def _repeated(values: Iterable[str]) -> int | None:
    """Return the index of the first value that was there before."""
    seen: set[str] = set()
    for i, value in enumerate(values):
        if value in seen:
            return i
        seen.add(value)
    return None


def _boxed(
    name: str, width_px: int, height_px: int, objects: Sequence[_Object], annotation: str,
    line_in: Callable[[bytes], int],
) -> BoxedPicture:  # fmt: skip
    xyxy = np.asarray([each.box for each in objects], np.float32).reshape(-1, 4)
    class_ids = np.asarray([each.class_id for each in objects], np.int64)
    ignored = np.asarray([each.ignored for each in objects], bool)
    return BoxedPicture(
        name, width_px, height_px, xyxy[~ignored], class_ids[~ignored], xyxy[ignored], class_ids[ignored], annotation,
        line_in,
    )  # fmt: skip


def _checked_box(
    label: Callable[[], str], box: tuple[float, float, float, float], width: int, height: int
) -> tuple[float, ...]:
    """Return a box cut to its picture. ``label`` says whose it is: a line takes time to find, so only for an error."""
    x1, y1, x2, y2 = box
    said = f"the box ({x1:g}, {y1:g}) to ({x2:g}, {y2:g})"
    if not all(map(math.isfinite, box)):
        raise DataError(f"{label()} has {said}, which is not made of finite numbers")
    if x2 <= x1 or y2 <= y1:
        raise DataError(f"{label()} has {said}, which is empty or inverted")
    if min(x1, y1) < -EDGE_TOLERANCE_PX or x2 > width + EDGE_TOLERANCE_PX or y2 > height + EDGE_TOLERANCE_PX:
        raise DataError(f"{label()} has {said}, which leaves its picture of {width} x {height} pixels")
    cut = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    if cut[2] <= cut[0] or cut[3] <= cut[1]:
        raise DataError(f"{label()} has {said}, which lies outside its picture of {width} x {height} pixels")
    return cut


def _json(where: str, content: bytes) -> Any:
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not JSON: line {error.lineno}: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON: {error}") from error


def _json_line(content: bytes, key: str, index: int) -> int:
    """Return the line, from 1 on, where an entry of a list begins that an object holds; the JSON is valid."""
    text = content.decode(json.detect_encoding(content), "surrogatepass")
    decode = json.JSONDecoder().raw_decode

    def token(at: int) -> int:
        """Return where what is not white space begins."""
        while text[at] in " \t\n\r":
            at += 1
        return at

    at = bracket = token(0)
    while text[at] != "}":
        name, at = decode(text, token(at + 1))
        value = token(token(at) + 1)
        if name == key:
            bracket = value  # of two members of one name the last counts
        _, at = decode(text, value)
        at = token(at)
    at = bracket
    for _ in range(index):
        _, at = decode(text, token(at + 1))
        at = token(at)
    return text.count("\n", 0, token(at + 1)) + 1


def _entries(
    where: str,
    document: Mapping[str, Any],
    key: str,
    fields: Mapping[str, type],
    line_of: Callable[[str, int], int],
) -> list[dict[str, Any]]:
    entries = document.get(key)
    if not isinstance(entries, list):
        raise DataError(f"{where} has no list {key!r}")
    for i, entry in enumerate(entries):
        for name, kind in fields.items():
            if not isinstance(entry, dict) or type(entry.get(name)) is not kind:
                raise DataError(
                    f"{where}, line {line_of(key, i)}: entry {i}{_own_id(entry)} of {key!r} has no {name!r} of type "
                    f"{kind.__name__}"
                )
    return entries


def _voc(
    source: Path, listed: str, names: set[str], read: Callable[[str], bytes]
) -> tuple[list[BoxedPicture], tuple[str, ...]]:
    # Classes are those of all annotations, so that every split has the same.
    annotations = {_voc_stem(name): name for name in sorted(names) if _is_voc(name)}
    parsed = {stem: _voc_objects(f"{source}: {name}", read(name)) for stem, name in annotations.items()}
    classes = tuple(sorted({label for _, objects in parsed.values() for label, *_ in objects}))
    if not classes:
        raise DataError(f"{source}: no file in Annotations/ has an object, so that there are no classes")
    pictures: dict[str, str] = {}
    for name in sorted(names):
        if name.startswith("JPEGImages/") and PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES:
            other = pictures.setdefault(_voc_stem(name), name)
            if other != name:
                raise DataError(f"{source} has the pictures {other} and {name}, which would share an annotation")
    try:
        lines = read(listed).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{source}: {listed} is not UTF-8 text") from error
    items, numbers = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        stem = _listed_stem(line, parsed)
        if stem not in parsed or stem not in pictures:
            missing = f"Annotations/{stem}.xml" if stem not in parsed else f"a picture JPEGImages/{stem}"
            deeper = min((each for each in parsed if each.endswith(f"/{stem}")), default=None)
            hint = "" if deeper is None else f"; there is {deeper[:80]!r}, which is to be listed with its folder"
            raise DataError(f"{source}: {listed}, line {number} names {stem[:80]!r}, but {missing} is not there{hint}")
        numbers.append(number)
        (width, height), objects = parsed[stem]
        numbered = [_Object(box, classes.index(label), difficult) for label, box, difficult in objects]
        items.append(_boxed(pictures[stem], width, height, numbered, annotations[stem], _voc_size_line))
    if not items:
        raise DataError(f"{source}: {listed} names no pictures")
    if (twice := _repeated(item.name for item in items)) is not None:
        where = f"{source}: {listed}, line {numbers[twice]}"
        raise DataError(f"{where} names the picture {items[twice].name!r} a second time")
    return items, classes


def _listed_stem(line: str, stems: Collection[str]) -> str:
    """Return the picture that a line names: all of it, or what precedes whether a class is there, -1, 0 or 1."""
    whole = line.strip()
    *before, last = whole.rsplit(maxsplit=1)
    return before[0] if before and whole not in stems and last in ("-1", "0", "1") else whole


def _voc_stem(name: str) -> str:
    """Return what a list calls a file in Annotations/ or JPEGImages/: with the folders in there, without its suffix."""
    return name.partition("/")[2].removesuffix(PurePosixPath(name).suffix)


def _is_voc(name: str) -> bool:
    return name.startswith("Annotations/") and name.endswith(".xml")


def _voc_objects(where: str, content: bytes) -> tuple[tuple[int, int], list[tuple[str, tuple[float, ...], bool]]]:
    """Return width and height of a picture and its objects: name, box and whether it is difficult."""
    # Entities can blow up; annotations have none.
    try:
        # As text: in bytes of another encoding, which the file itself may name, a document type would not be seen.
        text = content[: MAX_XML_BYTES + 1].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 text: {error}") from error
    if len(content) > MAX_XML_BYTES or "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise DataError(f"{where} is larger than {MAX_XML_BYTES} bytes or declares a document type; it is not read")
    try:
        root = _xml(text)
    except ElementTree.ParseError as error:
        raise DataError(f"{where} is not XML: line {error.position[0]}: {error}") from error

    def number(label: Callable[[], str], parent: ElementTree.Element, path: str) -> float:
        text = parent.findtext(path, "").strip()
        try:
            return float(text)
        except ValueError as error:
            raise DataError(f"{label()}: <{path}> is {text[:40]!r}; expected a number") from error

    def size_label() -> str:
        return f"{where}, line {_voc_size_line(content)}"

    width, height = (number(size_label, root, f"size/{side}") for side in ("width", "height"))
    if not (1 <= width <= 1 << 20 and 1 <= height <= 1 << 20):
        raise DataError(f"{size_label()}: <size> is {width:g} x {height:g} pixels")
    objects = []
    for i, entry in enumerate(root.iter("object")):
        name = entry.findtext("name", "").strip()
        label = partial(_object, where, text, root, entry, i)
        if not name:
            raise DataError(f"{label()} has no <name>")
        # Pixels are counted from 1 and a box holds its last one, so its far side is where that pixel ends.
        box = (
            number(label, entry, "bndbox/xmin") - 1, number(label, entry, "bndbox/ymin") - 1,
            number(label, entry, "bndbox/xmax"), number(label, entry, "bndbox/ymax"),
        )  # fmt: skip
        difficult = entry.findtext("difficult", "").strip() == "1"
        objects.append((name, _checked_box(label, box, int(width), int(height)), difficult))
    return (int(width), int(height)), objects


def _object(where: str, text: str, root: ElementTree.Element, entry: ElementTree.Element, index: int) -> str:
    """Return an object in words, for an error."""
    return f"{where}, line {_xml_line(text, root, entry)}: object {index}"


def _voc_size_line(content: bytes) -> int:
    """Return the line, from 1 on, of the size in an annotation of valid XML; if there is none, where all begins."""
    text = content.decode("utf-8-sig")
    root = _xml(text)
    size = root.find("size")
    return _xml_line(text, root, root if size is None else size)


def _xml(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)  # noqa: S314 - without entities, which are refused, there is nothing to expand


def _xml_line(text: str, root: ElementTree.Element, element: ElementTree.Element) -> int:
    """Return the line, from 1 on, where an element of valid XML begins."""
    lines: list[int] = []
    parser = expat.ParserCreate()
    parser.StartElementHandler = lambda *_: lines.append(parser.CurrentLineNumber)
    parser.Parse(text, True)
    return lines[next(i for i, each in enumerate(root.iter()) if each is element)]


def read_label_maps(
    source: Path,
    split: str,
    height_px: int,
    width_px: int,
    progress: Callable[[int], object] = lambda _: None,
    *,
    mean: tuple[float, float, float] = (128 / 255,) * 3,
) -> LabelledMaps:
    """Return a ``split`` of a data set of label maps: ``{split}/NAME.jpg|png|webp`` and ``{split}annot/NAME.png``.

    Suffixes may be in upper case.

    ``classes.json`` is the list of class names by id; a class named ``void``, the last, is what nobody labelled. The
    pixels of a map are class ids, or 255 for void. Pictures of another size than ``height_px`` x ``width_px`` are
    placed as serving does, in a letterbox for a network whose input has this ``mean``; their maps are resized to the
    nearest pixel and 255 in the bars. ``progress`` is called with 1 after every picture.

    Raises :class:`~bitgear.errors.DataError`.
    """
    with open_files(source) as (names, read):
        classes = _class_names(source, names, read)
        record = replace(InputRecord.centred(width_px, 128), height_px=height_px, mean=mean)
        void = _void(classes)
        pictures = _with_maps(source, split, names)
        images = np.empty((len(pictures), height_px, width_px, 3), np.uint8)
        maps = np.empty((len(pictures), height_px, width_px), np.uint8)
        for i, (pixels, ids) in enumerate(_labelled(source, pictures, read, len(classes))):
            letterbox = Letterbox.of(pixels.shape[1], pixels.shape[0], record)
            images[i] = letterbox.place(pixels)
            maps[i] = _placed_map(np.where(ids == void, IGNORE, ids), letterbox)
            progress(1)
    stems = tuple(PurePosixPath(name).stem for name in pictures)
    return LabelledMaps(stems, classes[:void], images, maps, source, split)


def check_label_maps(source: Path, split: str) -> None:
    """Raise :class:`~bitgear.errors.DataError` as :func:`read_label_maps` does, and if no pixel is labelled.

    Nothing of what was read is kept.
    """
    with open_files(source) as (names, read):
        classes = _class_names(source, names, read)
        pictures = _with_maps(source, split, names)
        known = [(ids < _void(classes)).any() for _, ids in _labelled(source, pictures, read, len(classes))]
    if not any(known):
        raise _void_alone(source, split, len(known))


def _void(classes: Sequence[str]) -> int:
    """Return the id of the class that means not labelled, or one that no class has."""
    return len(classes) - (classes[-1] == VOID)


def _labelled(
    source: Path, pictures: Mapping[str, str], read: Callable[[str], bytes], classes: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Yield the pixels of every picture, (H, W, 3), and its class ids, (H, W); ``pictures``: with their maps' names."""
    for name, map_name in pictures.items():
        pixels = _decode(source, name, read(name)).pixels
        yield pixels, _read_map(f"{source}: {map_name}", read(map_name), pixels.shape[:2], classes)


def _with_maps(source: Path, split: str, names: set[str]) -> dict[str, str]:
    """Return the pictures of a split, in order, each with the name of its label map; no map is left over."""
    pictures = [
        name
        for name in sorted(names)
        if PurePosixPath(name).parent.as_posix() == split and PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES
    ]
    if not pictures:
        raise DataError(f"{source} holds no JPEG, PNG or WebP pictures in {split}/; is the split named otherwise?")
    if (twice := _repeated(PurePosixPath(name).stem for name in pictures)) is not None:
        stem = PurePosixPath(pictures[twice]).stem
        raise DataError(f"{source} has two pictures {split}/{stem}, which would share a label map")
    # What is there, by its name with the suffix in lower case.
    found = {name.removesuffix(".PNG") + ".png": name for name in names if name.endswith(".PNG")}
    found |= {name: name for name in names}
    maps = {name: f"{split}annot/{PurePosixPath(name).stem}.png" for name in pictures}
    for name, map_name in maps.items():
        if map_name not in found:
            raise DataError(f"{source} has the picture {name}, but not its label map {map_name}")
    for name in sorted(found.keys() - set(maps.values())):
        if name.startswith(f"{split}annot/") and name.endswith(".png") and "/." not in name:
            raise DataError(
                f"{source} has the label map {found[name]}, but no JPEG, PNG or WebP picture "
                f"{split}/{PurePosixPath(name).stem}; pictures lie in {split}/ itself, their maps in {split}annot/"
            )
    return {name: found[map_name] for name, map_name in maps.items()}


def _class_names(source: Path, names: set[str], read: Callable[[str], bytes]) -> tuple[str, ...]:
    if CLASSES_FILE not in names:
        deeper = _lies_deeper(names, CLASSES_FILE)
        raise DataError(f"{source} has no {CLASSES_FILE}, the list of class names by id" + (deeper and f"; {deeper}"))
    listed = _json(f"{source}: {CLASSES_FILE}", read(CLASSES_FILE))
    valid = isinstance(listed, list) and 2 <= len(listed) <= IGNORE and all(isinstance(n, str) and n for n in listed)
    if not valid:
        raise DataError(f"{source}: {CLASSES_FILE} must be a list of 2 to {IGNORE} class names")
    if (twice := _repeated(listed)) is not None:
        raise DataError(f"{source}: {CLASSES_FILE} names the class {listed[twice]!r} twice")
    return tuple(listed)


def _read_map(where: str, content: bytes, shape: tuple[int, int], classes: int) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            if image.mode not in ("L", "P"):
                raise DataError(
                    f"{where} has mode {image.mode}; a label map is an 8-bit PNG of one channel, of class ids"
                )
            ids = np.array(image)  # of a palette image the indices
            if image.mode == "L" and (bits := content[PNG_DEPTH_BYTE]) < 8:
                ids //= 255 // ((1 << bits) - 1)  # few bits of grey come spread over 0..255
    except (DataError, MemoryError):
        raise
    except UnidentifiedImageError as error:  # says which Python object it is of
        raise DataError(f"{where} cannot be read as a PNG: it is none, or its beginning is damaged") from error
    except Exception as error:  # the codec raises many types on damaged files
        raise DataError(f"{where} cannot be read as a PNG: {error}") from error
    if ids.shape != shape:
        raise DataError(f"{where} has {ids.shape[1]} x {ids.shape[0]} pixels; its picture has {shape[1]} x {shape[0]}")
    unknown = np.setdiff1d(ids, [*range(classes), IGNORE])
    if len(unknown):
        raise DataError(f"{where} has the class id {unknown[0]}; {CLASSES_FILE} names {classes} classes from 0 on")
    return ids


def _placed_map(ids: NDArray[np.uint8], letterbox: Letterbox) -> NDArray[np.uint8]:
    """Return the map of a network's input, uint8 (H, W), of that of a picture."""
    size = (letterbox.content_width_px, letterbox.content_height_px)
    bottom, right = letterbox.top_px + size[1], letterbox.left_px + size[0]
    placed = np.full((letterbox.input_height_px, letterbox.input_width_px), IGNORE, np.uint8)
    content = np.asarray(Image.fromarray(ids).resize(size, Image.Resampling.NEAREST))
    placed[letterbox.top_px : bottom, letterbox.left_px : right] = content
    return placed
