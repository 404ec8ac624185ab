"""Data sets with boxes and label maps: what is read of them, and what is said about broken ones."""

import io
import json
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bitgear.errors import DataError
from bitgear.inputs import InputRecord
from bitgear.tasks.annotations import IGNORE, read_boxed_pictures, read_label_maps
from bitgear.tasks.letterbox import place_picture
from bitgear.tasks.pictures import decode_picture

WIDTH, HEIGHT = 40, 30
COCO = {
    "images": [
        {"id": 7, "file_name": "a.png", "width": WIDTH, "height": HEIGHT},
        {"id": 3, "file_name": "b.png", "width": WIDTH, "height": HEIGHT},
    ],
    "categories": [{"id": 5, "name": "dog"}, {"id": 2, "name": "cat"}],
    "annotations": [
        {"image_id": 7, "category_id": 5, "bbox": [1, 2, 10, 20]},
        {"image_id": 7, "category_id": 2, "bbox": [30.5, 20.5, 10, 9.5], "iscrowd": None},
        {"image_id": 7, "category_id": 2, "bbox": [0, 0, 5, 5], "iscrowd": 1},
    ],
}
VOC_OBJECT = (
    "<object><name>{name}</name><bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox>"
    "</object>"
)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


@pytest.fixture
def coco(tmp_path: Path) -> Callable[..., Path]:
    def make(**changes: Any) -> Path:
        folder = tmp_path / "coco"
        for name in ("a.png", "b.png"):
            save(folder / "train" / name, picture())
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / "train.json").write_text(json.dumps(COCO | changes))
        return folder

    return make


def voc_xml(*objects: tuple[str, tuple[int, int, int, int]]) -> str:
    listed = "".join(VOC_OBJECT.format(*box, name=name) for name, box in objects)
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
    return f"<annotation>{size}{listed}</annotation>"


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    folder = tmp_path / "voc"
    for name in ("x", "y"):
        save(folder / "JPEGImages" / f"{name}.png", picture())
    (folder / "Annotations").mkdir()
    (folder / "Annotations" / "x.xml").write_text(voc_xml(("dog", (1, 1, 10, 10)), ("cat", (5, 6, 40, 30))))
    (folder / "Annotations" / "y.xml").write_text(voc_xml())
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "train.txt").write_text("x\n\ny\n")
    return folder


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    folder = tmp_path / "maps"
    for i, name in enumerate(("m", "n")):
        save(folder / "val" / f"{name}.png", picture())
        ids = np.full((HEIGHT, WIDTH), i, np.uint8)
        ids[0, 0] = 2
        save(folder / "valannot" / f"{name}.png", ids)
    (folder / "classes.json").write_text('["sky", "road", "void"]')
    return folder


def packed(folder: Path) -> Path:
    path = folder.with_suffix(".tar")
    with tarfile.open(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.add(file, file.relative_to(folder).as_posix(), recursive=False)
    return path


@pytest.mark.parametrize("form", [lambda folder: folder, packed])
def test_coco_boxes_become_corners_and_categories_ids_in_order(
    coco: Callable[..., Path], form: Callable[[Path], Path]
) -> None:
    data = read_boxed_pictures(form(coco()), "train")
    assert data.classes == ("cat", "dog")
    first, second = data.items
    assert first.boxes_xyxy.tolist() == [[1, 2, 11, 22], [30.5, 20.5, 40, 30]]  # a box over the edge is cut
    assert first.class_ids.tolist() == [1, 0]
    assert first.ignored_xyxy.tolist() == [[0, 0, 5, 5]]
    assert first.ignored_ids.tolist() == [0]
    assert second.boxes_xyxy.shape == second.ignored_xyxy.shape == (0, 4)
    assert np.array_equal(data.read(first).pixels, picture())
    assert len(data) == 2


@pytest.mark.parametrize("form", [lambda folder: folder, packed])
def test_voc_boxes_hold_their_last_pixel(voc: Path, form: Callable[[Path], Path]) -> None:
    data = read_boxed_pictures(form(voc), "train")
    assert data.classes == ("cat", "dog")
    assert data.items[0].boxes_xyxy.tolist() == [[0, 0, 10, 10], [4, 5, 40, 30]]
    assert data.items[0].class_ids.tolist() == [1, 0]
    assert data.read(data.items[1]).width_px == WIDTH


@pytest.mark.parametrize("form", [lambda folder: folder, packed])
def test_label_maps_are_ids_and_void_is_none(maps: Path, form: Callable[[Path], Path]) -> None:
    data = read_label_maps(form(maps), "val", HEIGHT, WIDTH)
    assert (data.names, data.classes) == (("m", "n"), ("sky", "road"))
    assert data.maps[0, 0, 0] == data.maps[1, 0, 0] == IGNORE
    assert (data.maps[1].ravel()[1:] == 1).all()
    assert np.array_equal(data.images[0], picture())


def test_the_working_directory_is_a_folder_too(voc: Path, maps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(voc)
    boxed = read_boxed_pictures(Path(), "train")
    assert [item.name for item in boxed.items] == ["JPEGImages/x.png", "JPEGImages/y.png"]
    assert np.array_equal(boxed.read(boxed.items[0]).pixels, picture())
    monkeypatch.chdir(maps)
    assert read_label_maps(Path(), "val", HEIGHT, WIDTH).names == ("m", "n")


def test_label_maps_of_another_size_keep_their_ids(maps: Path) -> None:
    data = read_label_maps(maps, "val", 15, 20)
    assert data.images.shape == (2, 15, 20, 3)
    assert np.array_equal(data.images[0], Image.fromarray(picture()).resize((20, 15), Image.Resampling.BILINEAR))
    assert set(np.unique(data.maps)) == {0, 1}


def test_label_maps_of_another_shape_lie_where_serving_places_their_pictures(maps: Path) -> None:
    record = InputRecord(15, 80, (0.1, 0.2, 0.3), (0.5, 0.5, 0.5), 1 / 64)
    data = read_label_maps(maps, "val", 15, 80, mean=record.mean)
    codes, _ = place_picture(decode_picture((maps / "val" / "m.png").read_bytes()), record)
    assert np.array_equal(record.encode(data.images[:1]), codes)
    assert (data.maps[1, :, 30:50] == 1).all()
    assert (data.maps[:, :, :30] == IGNORE).all()
    assert (data.maps[:, :, 50:] == IGNORE).all()


def annotation(**changes: Any) -> dict[str, Any]:
    return {"annotations": [COCO["annotations"][0] | changes]}  # type: ignore[dict-item, operator]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (annotation(bbox=[1, 2, 0, 5]), "annotation 0 has the box (1, 2) to (1, 7), which is empty"),
        (annotation(bbox=[9, 9, -3, 5]), "empty or inverted"),
        (annotation(bbox=[30, 2, 20, 5]), "leaves its picture of 40 x 30"),
        (annotation(bbox=[-9, 2, 12, 5]), "leaves its picture"),
        (annotation(bbox=[1, 2, float("nan"), 5]), "finite"),
        (annotation(bbox=[1, 2, 3]), "four numbers"),
        (annotation(bbox=[1, 2, "3", 4]), "four numbers"),
        (annotation(category_id=9), "category 9"),
        (annotation(image_id=9), "image 9"),
        ({"annotations": [{"image_id": 7}]}, "entry 0 of 'annotations' has no 'category_id'"),
        ({"annotations": {}}, "no list 'annotations'"),
        ({"images": []}, "annotation 0 is of image 7"),
        ({"images": [COCO["images"][0]] * 2}, "two images have the id 7"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, "two categories have the id 1"),
        ({"images": [COCO["images"][0] | {"file_name": "../a.png"}]}, "'../a.png', which is not there"),  # type: ignore[operator]
        ({"images": [COCO["images"][0] | {"width": 0}], "annotations": []}, "0 x 30 pixels"),  # type: ignore[operator]
        ({"images": [], "annotations": []}, "lists no images"),
    ],
)
def test_broken_coco_is_named(coco: Callable[..., Path], changes: dict[str, Any], said: str) -> None:
    folder = coco(**changes)
    with pytest.raises(DataError) as raised:
        read_boxed_pictures(folder, "train")
    assert said in str(raised.value)
    assert "train.json" in str(raised.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("key", "index", "change", "said"),
    [
        ("annotations", 1, {"bbox": [9, 9, -3, 5]}, "annotation 1 (id 71) has the box"),
        ("annotations", 2, {"category_id": 9}, "annotation 2 has category 9"),
        ("annotations", 1, {"bbox": None}, "entry 1 (id 71) of 'annotations' has no 'bbox'"),
        ("images", 1, {"id": 7}, "two images have the id 7"),
        ("images", 0, {"height": 0}, "image 7 has 40 x 0 pixels"),
        ("categories", 0, {"id": None}, "entry 0 of 'categories' has no 'id'"),
        ("categories", 1, {"id": 5}, "two categories have the id 5"),
        ("categories", 1, {"name": "dog"}, "category 2 has the name 'dog'; expected a name of its own"),
        ("categories", 0, {"name": ""}, "category 5 has the name ''"),
    ],
)
def test_broken_coco_is_named_with_its_line(
    coco: Callable[..., Path], key: str, index: int, change: dict[str, Any], said: str, ends: str, encoding: str
) -> None:
    document = json.loads(json.dumps(COCO))
    document["annotations"][1]["id"] = 71
    document[key][index] = {"here": True, **document[key][index], **change}
    members = ",\n".join(f'"{name}" :\n{json.dumps(entries, indent=1)}' for name, entries in document.items())
    # Of two members of one name the last counts; those of another object do not.
    text = f'\n{{"info": {{"{key}": [1]}}, "{key}": [2],\n{members} }}'
    begins = next(number for number, line in enumerate(text.split("\n")) if '"here"' in line)  # the bracket before it
    folder = coco()
    (folder / "annotations" / "train.json").write_bytes(text.replace("\n", ends).encode(encoding))
    with pytest.raises(DataError) as raised:
        read_boxed_pictures(folder, "train")
    assert f"train.json, line {begins}: {said}" in str(raised.value)


def test_json_that_is_none_is_named_with_its_line(coco: Callable[..., Path]) -> None:
    folder = coco()
    (folder / "annotations" / "train.json").write_text('{\n"images": [}')
    with pytest.raises(DataError, match=r"train.json is not JSON: line 2"):
        read_boxed_pictures(folder, "train")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (voc_xml(("dog", (9, 1, 3, 10))), "object 0 has the box (8, 0) to (3, 10), which is empty or inverted"),
        (voc_xml(("dog", (1, 1, 90, 10))), "leaves its picture"),
        (voc_xml(("", (1, 1, 9, 10))), "object 0 has no <name>"),
        ("<annotation>\n<size><width>x</width></size></annotation>", "x.xml, line 2: <size/width> is 'x'"),
        ("\n<annotation><object/></annotation>", "x.xml, line 2: <size/width> is ''"),
        (voc_xml().replace(f"{WIDTH}", "0").replace("<size>", "\n<size>"), "x.xml, line 2: <size> is 0 x"),
        ("<annotation>\n<size>", "is not XML: line 2"),
        ('<!DOCTYPE a [<!ENTITY b "bb">]><annotation/>', "declares a document type"),
    ],
)
def test_broken_voc_is_named(voc: Path, content: str, said: str) -> None:
    (voc / "Annotations" / "x.xml").write_text(content)
    with pytest.raises(DataError) as raised:
        read_boxed_pictures(voc, "train")
    assert said in str(raised.value)
    assert "x.xml" in str(raised.value)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (VOC_OBJECT.format(9, 1, 3, 10, name="dog"), "object 1 has the box (8, 0) to (3, 10)"),
        (VOC_OBJECT.format(1, 1, 3, 10, name=""), "object 1 has no <name>"),
        (VOC_OBJECT.format(1, "x", 3, 10, name="dog"), "object 1: <bndbox/ymin> is 'x'"),
    ],
)
def test_a_broken_voc_object_is_named_with_its_line(voc: Path, broken: str, said: str) -> None:
    good = VOC_OBJECT.format(1, 1, 10, 10, name="dog")
    xml = voc_xml().replace("</annotation>", f"{good}\n\n{broken}\n{good}</annotation>").replace("><", ">\n<")
    line = 1 + xml.split("\n").index("<object>", xml.split("\n").index("<object>") + 1)
    (voc / "Annotations" / "x.xml").write_text(f'<?xml version="1.0" encoding="utf-16"?>{xml}')
    with pytest.raises(DataError) as raised:
        read_boxed_pictures(voc, "train")
    assert f"x.xml, line {line}: {said}" in str(raised.value)


def test_a_listed_picture_that_is_missing_is_named_with_its_line(voc: Path) -> None:
    (voc / "ImageSets" / "Main" / "train.txt").write_text("x\nz\n")
    with pytest.raises(DataError, match=r"train.txt, line 2 names 'z'"):
        read_boxed_pictures(voc, "train")


@pytest.mark.parametrize(("line", "read"), [("x 1", "x 1"), ("x", "x"), ("x -1", "x"), ("y  1", "y"), ("y\t0", "y")])
def test_a_line_of_a_list_names_a_picture_whole_or_before_a_flag(voc: Path, line: str, read: str) -> None:
    save(voc / "JPEGImages" / "x 1.png", picture())
    (voc / "Annotations" / "x 1.xml").write_text(voc_xml())
    (voc / "ImageSets" / "Main" / "train.txt").write_text(f"{line}\n", encoding="utf-8-sig")
    assert [item.name for item in read_boxed_pictures(voc, "train").items] == [f"JPEGImages/{read}.png"]


@pytest.mark.parametrize("form", [lambda folder: folder, packed])
def test_voc_names_of_one_stem_in_two_folders_are_two_pictures(voc: Path, form: Callable[[Path], Path]) -> None:
    save(voc / "JPEGImages" / "night" / "x.png", picture())
    (voc / "Annotations" / "night").mkdir()
    (voc / "Annotations" / "night" / "x.xml").write_text(voc_xml(("owl", (2, 2, 9, 9))))
    (voc / "ImageSets" / "Main" / "train.txt").write_text("x\nnight/x\n")
    data = read_boxed_pictures(form(voc), "train")
    assert [item.name for item in data.items] == ["JPEGImages/x.png", "JPEGImages/night/x.png"]
    assert [[data.classes[i] for i in item.class_ids] for item in data.items] == [["dog", "cat"], ["owl"]]


def test_a_voc_list_without_the_folders_of_its_names_is_told_them(voc: Path) -> None:
    save(voc / "JPEGImages" / "night" / "z.png", picture())
    (voc / "Annotations" / "night").mkdir()
    (voc / "Annotations" / "night" / "z.xml").write_text(voc_xml(("owl", (2, 2, 9, 9))))
    (voc / "ImageSets" / "Main" / "train.txt").write_text("z\n")
    with pytest.raises(DataError, match=r"names .z., but .* is not there; there is .night/z., which"):
        read_boxed_pictures(voc, "train")


def test_two_pictures_of_one_voc_annotation_are_refused(voc: Path) -> None:
    save(voc / "JPEGImages" / "x.jpg", picture())
    with pytest.raises(DataError, match=r"the pictures JPEGImages/x\.jpg and JPEGImages/x\.png, which would share"):
        read_boxed_pictures(voc, "train")


def test_difficult_objects_are_ignored(voc: Path) -> None:
    xml = voc_xml(("dog", (1, 1, 10, 10)), ("cat", (5, 6, 40, 30)))
    (voc / "Annotations" / "x.xml").write_text(xml.replace("</object>", "<difficult>1</difficult></object>", 1))
    item = read_boxed_pictures(voc, "train").items[0]
    assert (item.class_ids.tolist(), item.ignored_ids.tolist()) == ([0], [1])
    assert item.ignored_xyxy.tolist() == [[0, 0, 10, 10]]


def test_annotations_without_any_object_are_refused(voc: Path) -> None:
    (voc / "Annotations" / "x.xml").write_text(voc_xml())
    with pytest.raises(DataError, match=r"voc: no file in Annotations/ has an object"):
        read_boxed_pictures(voc, "train")


def test_a_picture_of_another_size_than_annotated_is_named(coco: Callable[..., Path]) -> None:
    folder = coco()
    save(folder / "train" / "a.png", picture()[:, :-1])
    data = read_boxed_pictures(folder, "train")
    with pytest.raises(
        DataError, match=r"a.png has 39 x 30 pixels upright; annotations/train.json, line 1 says 40 x 30"
    ):
        data.read(data.items[0])
    with pytest.raises(DataError, match=r"a.png has 39 x 30 pixels"):
        data.check_pictures()


@pytest.mark.parametrize("form", [lambda folder: folder, packed])
def test_the_line_that_says_a_wrong_size_is_named(
    coco: Callable[..., Path], voc: Path, form: Callable[[Path], Path]
) -> None:
    folder = coco()
    save(folder / "train" / "b.png", picture()[:, :-1])
    text = json.dumps(COCO).replace("}", "}\n")
    (folder / "annotations" / "train.json").write_text(text)
    data = read_boxed_pictures(form(folder), "train")
    with pytest.raises(DataError, match=r"b.png has .*; annotations/train.json, line 2 says 40 x 30"):
        data.check_pictures()
    save(voc / "JPEGImages" / "y.png", picture()[:-1])
    (voc / "Annotations" / "y.xml").write_text(voc_xml().replace("<size>", "<source><size/></source>\n\n<size>"))
    data = read_boxed_pictures(form(voc), "train")
    with pytest.raises(DataError, match=r"y.png has .*; Annotations/y.xml, line 3 says 40 x 30"):
        data.check_pictures()


def test_a_split_that_is_not_there_is_named(voc: Path, maps: Path) -> None:
    with pytest.raises(DataError, match="named otherwise"):
        read_boxed_pictures(voc, "test")
    with pytest.raises(DataError, match="named otherwise"):
        read_label_maps(maps, "test", HEIGHT, WIDTH)
    with pytest.raises(DataError, match=r"neither a folder nor a tar archive|do not exist"):
        read_label_maps(maps / "nowhere", "test", HEIGHT, WIDTH)


def test_a_data_set_below_a_folder_of_its_archive_is_told_as_that(
    coco: Callable[..., Path], voc: Path, maps: Path
) -> None:
    archive = packed(coco().parent)  # which holds all three
    deeper = "is there: give what is in .*, so that .* lies at the top"
    with pytest.raises(DataError, match=f"; coco/annotations/train.json {deeper}"):
        read_boxed_pictures(archive, "train")
    (voc / "ImageSets" / "Main" / "train.txt").rename(voc / "ImageSets" / "Main" / "val.txt")
    with pytest.raises(DataError, match=f"; voc/ImageSets/Main/val.txt {deeper}"):
        read_boxed_pictures(voc.parent, "val")
    with pytest.raises(DataError, match=f"; maps/classes.json {deeper}"):
        read_label_maps(archive, "val", HEIGHT, WIDTH)


def wide_map() -> np.ndarray:
    return np.zeros((HEIGHT, WIDTH + 1), np.uint8)


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (np.full((HEIGHT, WIDTH), 3, np.uint8), "class id 3; classes.json names 3 classes"),
        (wide_map(), "41 x 30 pixels; its picture has 40 x 30"),
        (np.zeros((HEIGHT, WIDTH, 3), np.uint8), "mode RGB"),
    ],
)
def test_a_broken_map_is_named(maps: Path, ids: np.ndarray, said: str) -> None:
    save(maps / "valannot" / "n.png", ids)
    with pytest.raises(DataError) as raised:
        read_label_maps(maps, "val", HEIGHT, WIDTH)
    assert said in str(raised.value)
    assert "valannot/n.png" in str(raised.value)


def test_a_missing_or_damaged_map_is_named(maps: Path) -> None:
    file = maps / "valannot" / "n.png"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"valannot/n.png cannot be read"):
        read_label_maps(maps, "val", HEIGHT, WIDTH)
    end_bytes, profile = 12, b"iCCP"  # an empty one, of which Pillow raises an IndexError
    damage = bytes(4) + profile + struct.pack(">I", zlib.crc32(profile))
    file.write_bytes(content[:-end_bytes] + damage + content[-end_bytes:])
    with pytest.raises(DataError, match=r"valannot/n.png cannot be read"):
        read_label_maps(maps, "val", HEIGHT, WIDTH)
    file.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"valannot/n.png cannot be read as a PNG: it is none, or its beginning"):
        read_label_maps(maps, "val", HEIGHT, WIDTH)
    file.unlink()
    with pytest.raises(DataError, match=r"not its label map valannot/n.png"):
        read_label_maps(maps, "val", HEIGHT, WIDTH)


@pytest.mark.parametrize("name", ["sub/k", "k"])
def test_a_map_whose_picture_is_not_read_is_named(maps: Path, name: str) -> None:
    save(maps / "val" / f"{name}.{'png' if '/' in name else 'bmp'}", picture())
    save(maps / "valannot" / f"{name}.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    with pytest.raises(DataError, match=rf"has the label map valannot/{name}\.png, but no .* picture val/k; pictures"):
        read_label_maps(maps, "val", HEIGHT, WIDTH)


def test_what_a_desktop_lays_beside_maps_is_none(maps: Path) -> None:
    (maps / "valannot" / "._m.png").write_bytes(b"of macOS")
    assert read_label_maps(maps, "val", HEIGHT, WIDTH).names == ("m", "n")


@pytest.mark.parametrize("listed", ["[]", '["one"]', '{"0": "sky"}', '["sky", 5]', "["])
def test_class_names_that_are_none_are_refused(maps: Path, listed: str) -> None:
    (maps / "classes.json").write_text(listed)
    with pytest.raises(DataError, match=r"classes.json"):
        read_label_maps(maps, "val", HEIGHT, WIDTH)


def test_the_suffix_of_a_map_may_be_in_upper_case(maps: Path) -> None:
    before = read_label_maps(maps, "val", 16, 24).maps
    (maps / "valannot" / "n.png").rename(maps / "valannot" / "n.PNG")
    assert np.array_equal(read_label_maps(maps, "val", 16, 24).maps, before)


def test_a_palette_map_is_read_by_its_indices(maps: Path) -> None:
    image = Image.fromarray(np.ones((HEIGHT, WIDTH), np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 255, 0, 0])
    stream = io.BytesIO()
    image.save(stream, "PNG")
    (maps / "valannot" / "n.png").write_bytes(stream.getvalue())
    with Image.open(io.BytesIO(stream.getvalue())) as stored:
        expected = np.array(stored)
    assert np.array_equal(read_label_maps(maps, "val", HEIGHT, WIDTH).maps[1], expected)


def grey_png(rows: np.ndarray, bits: int) -> bytes:
    """Return a greyscale PNG of so many bits; a row fills whole bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    places = np.unpackbits(rows[..., None], axis=-1)[..., -bits:]
    packed_rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in places)
    header = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], bits, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(packed_rows)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_grey_map_of_few_bits_holds_the_ids_that_were_written(maps: Path, bits: int) -> None:
    ids = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH).astype(np.uint8) % min(1 << bits, 16)
    (maps / "classes.json").write_text(json.dumps([f"c{i}" for i in range(16)]))
    (maps / "valannot" / "n.png").write_bytes(grey_png(ids, bits))
    assert np.array_equal(read_label_maps(maps, "val", HEIGHT, WIDTH).maps[1], ids)
