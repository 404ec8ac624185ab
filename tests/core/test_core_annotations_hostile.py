"""Annotations that are made to break their reader, or that say one thing twice."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bitgear.errors import DataError
from bitgear.tasks.annotations import read_boxed_pictures, read_label_maps

XML = (
    "<annotation><size><width>64</width><height>48</height></size><object><name>dog</name><bndbox><xmin>1</xmin>"
    "<ymin>1</ymin><xmax>64</xmax><ymax>48</ymax></bndbox></object></annotation>"
)
BOMB = '<!DOCTYPE b [<!ENTITY a "aaaaaaaa"><!ENTITY c "&a;&a;&a;&a;">]>' + XML.replace("dog", "&c;")


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48)).save(path)


@pytest.mark.parametrize(
    "xml",
    [
        BOMB.encode(),
        BOMB.encode("utf-16"),
        BOMB.replace("DOCTYPE", "doctype").encode(),
        b'<?xml version="1.0" encoding="utf-16"?>' + BOMB.encode("utf-16"),
        b"\xff" + XML.encode(),
        XML.replace("dog", "d\0g").encode(),
        b"",
    ],
)
def test_xml_that_could_expand_or_is_no_text_is_refused(tmp_path: Path, xml: bytes) -> None:
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "test.txt").write_text("a\n")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "a.xml").write_bytes(xml)
    picture(tmp_path / "JPEGImages" / "a.jpg")
    with pytest.raises(DataError, match=r"a\.xml"):
        read_boxed_pictures(tmp_path, "test")


@pytest.mark.parametrize("encoding", ["nonsense", "shift_jis", "latin-1"])
def test_text_is_utf_8_whatever_it_says_of_itself(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "test.txt").write_text("a\n")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "a.xml").write_text(f'<?xml version="1.0" encoding="{encoding}"?>{XML}')
    picture(tmp_path / "JPEGImages" / "a.jpg")
    assert read_boxed_pictures(tmp_path, "test").classes == ("dog",)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["annotations"][1].update(id=1), r"annotation 1 \(id 1\) has an id"),
        (lambda d: d["annotations"][1].update(id=[1]), r"annotation 1 \(id \[1\]\) has an id"),
        (
            lambda d: d["annotations"][1].update(iscrowd="0"),
            r"annotation 1 \(id 2\) has the iscrowd '0'; expected 0 or 1",
        ),
        (lambda d: d["annotations"][1].update(iscrowd=[]), r"has the iscrowd \[\]"),
        (lambda d: d["images"].append({**d["images"][0], "id": 2}), r"line 1 lists the picture '1\.png' a second"),
        (lambda d: d["categories"].append({"id": 2, "name": "a"}), "name of its own"),
        (lambda d: d["categories"][0].update(name=""), "name of its own"),
        (lambda d: d.update(categories=[], annotations=[]), "name of its own"),
        (lambda d: d["annotations"][0].update(bbox=[1, 1, 10**400, 5]), "annotation 0"),
        (lambda d: d["annotations"][0].update(bbox=[1, 1, float("nan"), 5]), "annotation 0.*finite"),
    ],
)
def test_coco_that_contradicts_itself_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    document: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "1.png", "width": 64, "height": 48}],
        "annotations": [{"id": i, "image_id": 1, "category_id": 1, "bbox": [i, 1, 5, 5]} for i in (1, 2)],
        "categories": [{"id": 1, "name": "a"}],
    }
    change(document)
    picture(tmp_path / "1.png")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "test.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=rf"test\.json.*{said}"):
        read_boxed_pictures(tmp_path, "test")


def test_annotations_need_no_id_and_pictures_of_a_list_are_there_once(tmp_path: Path) -> None:
    boxes = [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}, {"image_id": 1, "category_id": 1, "id": 0}]
    boxes[1]["bbox"] = [2, 2, 5, 5]
    images = [{"id": 1, "file_name": "1.png", "width": 64, "height": 48}]
    document = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "a"}]}
    picture(tmp_path / "1.png")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "test.json").write_text(json.dumps(document))
    assert len(read_boxed_pictures(tmp_path, "test").items[0].class_ids) == 2
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("a\na\n")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "a.xml").write_text(XML)
    picture(tmp_path / "JPEGImages" / "a.jpg")
    with pytest.raises(DataError, match=r"val\.txt, line 2 names the picture 'JPEGImages/a\.jpg' a second time"):
        read_boxed_pictures(tmp_path, "val")


@pytest.mark.parametrize(("names", "second", "said"), [(["a", "a"], False, "twice"), (["a", "b"], True, "test/p")])
def test_label_maps_of_two_meanings_are_refused(tmp_path: Path, names: list[str], second: bool, said: str) -> None:
    (tmp_path / "classes.json").write_text(json.dumps(names))
    picture(tmp_path / "test" / "p.png")
    if second:
        picture(tmp_path / "test" / "p.jpg")
    (tmp_path / "testannot").mkdir()
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(tmp_path / "testannot" / "p.png")
    with pytest.raises(DataError, match=said):
        read_label_maps(tmp_path, "test", 48, 64)
