"""A master is measured on data whose classes are its own, by name."""

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitgear.checkpoint import read_master, write_master
from bitgear.engines import create_engine
from bitgear.errors import DataError, EngineUnavailable, MetadataInvalid
from bitgear.evaluate import MEASURED, evaluate_master, measure_detector, read_data
from bitgear.inputs import InputRecord
from bitgear.tasks.annotations import BoxedPictures
from bitgear.tasks.classify import preprocess
from bitgear.tasks.datasets import LabelledImages, spread
from bitgear.tasks.detect import detections
from bitgear.tasks.letterbox import place_picture
from bitgear.tasks.pictures import Picture, decode_picture
from tests.masters import tiny_master
from tests.task_masters import AREA_LABELS, BOX_LABELS, areas_master, boxes_master


def write_folders(folder: Path, names: list[str], each: int = 2) -> Path:
    rng = np.random.default_rng(0)
    for name in names:
        (folder / "test" / name).mkdir(parents=True)
        for i in range(each):
            pixels = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "test" / name / f"{i}.png")
    return folder


def test_folders_of_some_classes_count_as_these(tmp_path: Path) -> None:
    master = replace(tiny_master(), labels=tuple("jihgfedcba"))
    data = read_data(master, write_folders(tmp_path, ["a", "d", "j"]), "test")
    assert isinstance(data, LabelledImages)
    assert data.labels.tolist() == [9, 9, 6, 6, 0, 0]
    assert data.classes == master.labels


@pytest.mark.parametrize(
    ("labels", "name", "told"),
    [("jihgfedcba", "z", "give the data set that it was made for"), ("aabcdefghi", "a", "'a' is 2 classes of model")],
)
def test_a_class_that_a_master_does_not_have_once_is_refused(
    labels: str, name: str, told: str, tmp_path: Path
) -> None:  # fmt: skip
    master = replace(tiny_master(), labels=tuple(labels))
    with pytest.raises(DataError, match=told):
        read_data(master, write_folders(tmp_path, ["b", name]), "test")


def test_a_detector_is_not_measured_without_the_evaluator_of_coco(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    read = partial(pytest.fail, "read before it is known that it can be measured")
    data = BoxedPictures([], BOX_LABELS, read, Path("set"), "test")
    with pytest.raises(EngineUnavailable, match=r"needs bitgear's extra 'evaluate': pip install -e '\.\[evaluate\]'"):
        measure_detector(np.float32, boxes_master().input, BOX_LABELS, data)


def test_images_of_other_classes_are_not_measured() -> None:
    images = LabelledImages(np.zeros((2, 16, 16, 3), np.uint8), np.zeros(2, np.int64), ("a", "b"))
    with pytest.raises(DataError, match="has the classes a, b"):
        evaluate_master(tiny_master(), create_engine("reference"), images, [8])


def test_a_limit_spreads_over_the_classes(tmp_path: Path) -> None:
    master = replace(tiny_master(), labels=tuple("abcdefghij"))
    data = read_data(master, write_folders(tmp_path, ["a", "b", "c"], 4), "test", limit=3)
    assert isinstance(data, LabelledImages)
    assert data.labels.tolist() == [0, 1, 2]
    assert spread(3, 10).tolist() == [0, 1, 2]


def test_boxes_of_classes_in_another_order_are_those_of_the_master(tmp_path: Path) -> None:
    names = list(reversed(BOX_LABELS))
    (tmp_path / "annotations").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "p.png")
    document = {
        "images": [{"id": 1, "file_name": "p.png", "width": 40, "height": 30}],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
        "annotations": [{"image_id": 1, "category_id": i, "bbox": [1, 2, 5, 6]} for i in range(len(names))],
    }
    (tmp_path / "annotations" / "test.json").write_text(json.dumps(document))
    data = read_data(boxes_master(), tmp_path, "test")
    assert isinstance(data, BoxedPictures)
    assert data.classes == BOX_LABELS
    assert [BOX_LABELS[number] for number in data.items[0].class_ids] == names


def test_the_square_that_a_master_looks_at_is_measured_as_it_is_served(tmp_path: Path) -> None:
    record = replace(tiny_master().input, central_fraction=0.5)
    assert InputRecord.from_json(record.to_json()) == record
    assert "central_fraction" not in tiny_master().input.to_json()
    pixels = np.random.default_rng(0).integers(0, 256, (50, 80, 3)).astype(np.uint8)
    (tmp_path / "test" / "cat").mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / "test" / "cat" / "0.png")
    master = replace(tiny_master(), input=record)
    data = read_data(master, tmp_path, "test")
    assert isinstance(data, LabelledImages)
    served = preprocess(decode_picture((tmp_path / "test" / "cat" / "0.png").read_bytes()), record)
    np.testing.assert_array_equal(record.encode(data.images), served)
    middle = np.asarray(Image.fromarray(pixels[12:37, 27:52]).resize((16, 16), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(data.images[0], middle)


@pytest.mark.parametrize("fraction", [0, 1.01, -1, float("nan"), "1", True])
def test_no_square_is_refused(fraction: object) -> None:
    with pytest.raises(ValueError, match="central_fraction"):
        InputRecord.from_json({**tiny_master().input.to_json(), "central_fraction": fraction})


def test_a_central_fraction_is_a_matter_of_the_version_and_of_classification(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    master = replace(tiny_master(), input=replace(tiny_master().input, central_fraction=0.875))
    write_master(master, file)
    assert b'"version":"4"' in file.read_bytes()
    assert read_master(file).input == master.input
    boxes = replace(boxes_master(), input=replace(boxes_master().input, central_fraction=0.875))
    with pytest.raises(MetadataInvalid, match="central_fraction is for classification"):
        write_master(boxes, file)


@pytest.mark.parametrize("ignored", [False, True])
def test_crowds_are_ignored_as_the_evaluator_of_coco_does(tmp_path: Path, ignored: bool) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    master, model = boxes_master(), create_engine("reference").derive(boxes_master(), 8)
    picture = Picture(np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8))
    Image.fromarray(picture.pixels).save(tmp_path / "p.png")
    codes, letterbox = place_picture(picture, master.input)
    found = detections(model.run(codes)[0], letterbox, master.labels, master.input, MEASURED)
    told = []
    for each in found:
        x1, y1, x2, y2 = each.box_xyxy
        told.append({"image_id": 1, "category_id": each.class_id, "bbox": [x1, y1, x2 - x1, y2 - y1]})
        told[-1]["score"] = each.confidence
    entries = [
        {**each, "id": i, "area": each["bbox"][2] * each["bbox"][3], "iscrowd": int(ignored and i % 2)}
        for i, each in enumerate(told[:40:4], start=1)
    ]
    document = {
        "info": {},
        "images": [{"id": 1, "file_name": "p.png", "width": 64, "height": 48}],
        "categories": [{"id": i, "name": name} for i, name in enumerate(BOX_LABELS)],
        "annotations": entries,
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "test.json").write_text(json.dumps(document))
    data = read_data(master, tmp_path, "test")
    assert isinstance(data, BoxedPictures)
    assert len(data.items[0].ignored_ids) == (len(entries) // 2 if ignored else 0)
    truth = coco.COCO()
    truth.dataset = document
    truth.createIndex()
    expected = cocoeval.COCOeval(truth, truth.loadRes(told), "bbox")
    expected.evaluate()
    expected.accumulate()
    expected.summarize()
    measured = measure_detector(model.run, master.input, master.labels, data)
    assert [measured["map50_95"], measured["map50"]] == pytest.approx(expected.stats[:2], abs=1e-6)
    assert measured["map50"] > 0


def test_what_nothing_is_annotated_in_has_no_average_precision(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "p.png")
    crowd = {"image_id": 1, "category_id": 0, "bbox": [1, 2, 5, 6], "iscrowd": 1}
    document = {
        "images": [{"id": 1, "file_name": "p.png", "width": 40, "height": 30}],
        "categories": [{"id": i, "name": name} for i, name in enumerate(BOX_LABELS)],
        "annotations": [crowd],
    }
    (tmp_path / "annotations" / "test.json").write_text(json.dumps(document))
    data = read_data(boxes_master(), tmp_path, "test")
    with pytest.raises(DataError, match="none of the 1 pictures of split test has an object that counts"):
        evaluate_master(boxes_master(), create_engine("reference"), data, [8])


def test_what_no_pixel_is_labelled_in_has_no_mean_overlap(tmp_path: Path) -> None:
    for name, pixels in (("test", np.zeros((48, 64, 3), np.uint8)), ("testannot", np.full((48, 64), 5, np.uint8))):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "p.png")
    (tmp_path / "classes.json").write_text(json.dumps([*AREA_LABELS, "void"]))
    data = read_data(areas_master(), tmp_path, "test")
    with pytest.raises(DataError, match="none of the 1 label maps of split test labels a pixel: they are void alone"):
        evaluate_master(areas_master(), create_engine("reference"), data, [8])
