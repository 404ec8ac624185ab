"""What surrounds a network that detects or segments: letterbox, boxes, masks, and pictures of every odd shape."""

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitgear.engines.registry import native_instruction_set
from bitgear.errors import DataError
from bitgear.inputs import InputRecord
from bitgear.tasks import detect, segment
from bitgear.tasks.datasets import picture_reader
from bitgear.tasks.detect import DetectOptions, detections, nms
from bitgear.tasks.letterbox import Letterbox, place_picture
from bitgear.tasks.pictures import Picture, decode_picture
from bitgear.tasks.segment import Confusion, class_mask, segmentation

RECORD = replace(InputRecord.centred(64, 128), height_px=48)
LABELS = ("cell", "disc", "rod")
SIZES = [(64, 48), (640, 480), (1, 1), (1, 4000), (4000, 1), (50, 50), (33, 77), (65, 48)]


@pytest.fixture(params=["native", "portable"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the native extension, and without it."""
    if request.param == "portable":
        monkeypatch.setattr(segment, "native_instruction_set", lambda: None)
    elif native_instruction_set() is None:
        pytest.skip("the native engine is not built")


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_boxes_come_back_through_the_letterbox_to_half_a_pixel(width: int, height: int) -> None:
    letterbox = Letterbox.of(width, height, RECORD)
    corners = np.random.default_rng(0).uniform(0, 1, (200, 2, 2)) * (width, height)
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)
    inside = letterbox.to_input(boxes)
    assert inside.min() >= 0
    assert (inside <= np.array([64, 48, 64, 48]) + 1e-4).all()
    np.testing.assert_allclose(letterbox.to_picture(inside), boxes, atol=0.5)


@pytest.mark.parametrize(("width", "height"), [(640, 480), (480, 640), (101, 333), (1000, 90), (30, 20)])
def test_what_is_painted_lies_where_the_letterbox_says_to_half_a_pixel(width: int, height: int) -> None:
    record = replace(InputRecord.centred(320, 128), height_px=240)
    letterbox = Letterbox.of(width, height, record)
    box = np.array([[width // 5, height // 4, width * 3 // 5, height * 4 // 5]], np.float32)
    x1, y1, x2, y2 = box[0].astype(int)
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[y1:y2, x1:x2] = 255
    seen = letterbox.place(pixels)[..., 0] / 255.0
    content = np.zeros_like(seen)
    top, left = letterbox.top_px, letterbox.left_px
    inside = np.s_[top : top + letterbox.content_height_px, left : left + letterbox.content_width_px]
    content[inside] = seen[inside]
    # Along each axis the painted share of every line, at its fullest, begins and ends where half of a line is painted.
    expected = letterbox.to_input(box)[0]
    for profile, low, high in ((content.max(axis=0), 0, 2), (content.max(axis=1), 1, 3)):
        painted = np.flatnonzero(profile >= 0.5)
        assert abs(painted[0] - expected[low]) <= 0.5
        assert abs(painted[-1] + 1 - expected[high]) <= 0.5


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_picture_fills_its_place_and_bars_have_code_zero(width: int, height: int) -> None:
    letterbox = Letterbox.of(width, height, RECORD)
    placed = letterbox.place(np.full((height, width, 3), 250, np.uint8))
    content = np.zeros((48, 64), bool)
    content[
        letterbox.top_px : letterbox.top_px + letterbox.content_height_px,
        letterbox.left_px : letterbox.left_px + letterbox.content_width_px,
    ] = True
    assert content.any()
    assert (placed[content] == 250).all()
    assert (RECORD.encode(placed[None])[0].transpose(1, 2, 0)[~content] == 0).all()


def test_a_picture_of_the_inputs_size_is_taken_as_it_is() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    codes, letterbox = place_picture(Picture(pixels), RECORD)
    np.testing.assert_array_equal(codes, RECORD.encode(pixels[None]))
    assert (letterbox.scale_x, letterbox.scale_y) == (1, 1)


def test_boxes_are_of_the_upright_picture() -> None:
    image = Image.new("RGB", (40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    stream = io.BytesIO()
    image.save(stream, "JPEG", exif=exif)
    letterbox = place_picture(decode_picture(stream.getvalue()), RECORD)[1]
    assert (letterbox.width_px, letterbox.height_px) == (20, 40)


def one_box(class_id: int, score_logit: float, box: tuple[float, ...], output: np.ndarray | None = None) -> np.ndarray:
    """An output (7, 6, 8) at stride 8 with a box in the cell of its centre, added to ``output``."""
    output = np.full((7, 6, 8), -30, np.float32) if output is None else output
    x1, y1, x2, y2 = box
    column, row = int((x1 + x2) / 16), int((y1 + y2) / 16)
    x, y = column * 8 + 4, row * 8 + 4
    output[class_id, row, column] = score_logit
    output[3:, row, column] = np.log(np.expm1(np.array([x - x1, y - y1, x2 - x, y2 - y]) / 8))
    return output


def test_a_box_is_where_the_output_says_in_pixels_of_the_picture() -> None:
    letterbox = Letterbox.of(640, 480, RECORD)
    (found,) = detections(one_box(1, 2, (10, 6, 40, 30)), letterbox, LABELS, RECORD, DetectOptions())
    assert (found.class_name, found.class_id) == ("disc", 1)
    assert found.confidence == pytest.approx(1 / (1 + np.exp(-2)))
    np.testing.assert_allclose(found.box_xyxy, (100, 60, 400, 300), atol=0.01)


def test_what_is_exactly_as_confident_as_asked_for_is_told() -> None:
    output = np.random.default_rng(3).normal(0, 12, (7, 6, 8)).astype(np.float32)
    output[0, 0, :3] = np.nan, np.inf, -np.inf
    output[0, 1, 0] = 30  # a score of 1, rounded
    letterbox = Letterbox.of(64, 48, RECORD)
    scores = detect.decode(output, RECORD)[1]
    for confidence in [0.0, 1.0, 1e-38, 0.25, 0.9995, *scores[scores > 1e-3].tolist()]:
        options = DetectOptions(confidence, iou=1.0, max_detections=1000)
        told = sorted(found.confidence for found in detections(output, letterbox, LABELS, RECORD, options))
        # Boxes of no size, as those of the least distances are, are not told.
        assert set(told) <= set(scores[scores >= np.float32(confidence)].tolist())
        everything = sorted(
            found.confidence for found in detections(output, letterbox, LABELS, RECORD, replace(options, confidence=0))
        )
        assert told == [score for score in everything if score >= np.float32(confidence)]


def test_nothing_is_found_where_nothing_is() -> None:
    assert detections(np.full((7, 6, 8), -30, np.float32), Letterbox.of(9, 9, RECORD), LABELS, RECORD,
                      DetectOptions()) == []  # fmt: skip


def test_overlapping_boxes_of_one_class_give_way_and_others_do_not() -> None:
    output = one_box(0, 3, (8, 8, 40, 40))
    output = one_box(0, 2, (20, 8, 52, 40), output)  # shares 20 of 44 columns
    output = one_box(2, 1, (8, 20, 40, 48), output)  # another class
    letterbox = Letterbox.of(64, 48, RECORD)
    found = detections(output, letterbox, LABELS, RECORD, DetectOptions(iou=0.4))
    assert [each.class_id for each in found] == [0, 2]
    assert len(detections(output, letterbox, LABELS, RECORD, DetectOptions(iou=0.5))) == 3
    only = detections(output, letterbox, LABELS, RECORD, DetectOptions(iou=0.5, classes=(2,)))
    assert [each.class_id for each in only] == [2]


@pytest.mark.parametrize("most", [1, 5, 1000])
def test_no_more_than_asked_for_and_those_are_the_best(most: int) -> None:
    output, letterbox = noise(7, 6, 8), Letterbox.of(64, 48, RECORD)
    everything = detections(output, letterbox, LABELS, RECORD, DetectOptions(0.0, 1.0, 1000))
    assert 5 < len(everything) < 1000
    found = detections(output, letterbox, LABELS, RECORD, DetectOptions(0.0, 1.0, most))
    assert found == everything[:most]
    assert [each.confidence for each in found] == sorted((each.confidence for each in found), reverse=True)


def test_equal_scores_go_by_class_then_by_cell() -> None:
    output = np.zeros((7, 6, 8), np.float32)
    found = detections(output, Letterbox.of(64, 48, RECORD), LABELS, RECORD, DetectOptions(0.5, 1.0, 1000))
    assert [each.class_id for each in found] == sorted(each.class_id for each in found)
    first = [each.box_xyxy for each in found if each.class_id == 0]
    centres = [(round(y1 + y2), round(x1 + x2)) for x1, y1, x2, y2 in first[9:15]]  # away from the edges
    assert centres == sorted(centres)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -3e38])
@pytest.mark.usefixtures("way")
def test_no_number_breaks_an_answer(value: float) -> None:
    letterbox = Letterbox.of(640, 480, RECORD)
    for channel in range(7):
        output = one_box(1, 2, (10, 6, 40, 30))
        output[channel, ::2] = value
        for found in detections(output, letterbox, LABELS, RECORD, DetectOptions(0.0, 1.0, 1000)):
            assert np.isfinite([*found.box_xyxy, found.confidence]).all()
        boxes, scores = detect.decode(output, RECORD)
        assert np.isfinite(boxes).all()
        assert ((scores >= 0) & (scores <= 1)).all()
    logits = noise(3, 12, 16)
    logits[1, 3:5] = value
    assert class_mask(logits, letterbox).max() <= 2


@pytest.mark.parametrize(("count", "side"), [(120, 50), (400, 300)])  # of one block and of several
def test_suppression_is_what_its_definition_says(count: int, side: int) -> None:
    rng = np.random.default_rng(1)
    corners = rng.uniform(0, side, (count, 2))
    boxes = np.hstack([corners, corners + rng.uniform(1, 30, (count, 2))])
    scores = rng.choice([0.1, 0.5, 0.5, 0.9], count)

    def iou(a: np.ndarray, b: np.ndarray) -> float:
        width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
        common = max(width, 0) * max(height, 0)
        return float(common / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - common))

    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if all(iou(boxes[i], boxes[j]) <= 0.4 for j in kept):
            kept.append(int(i))
    assert nms(boxes, scores, 0.4).tolist() == kept
    for limit in (3, len(kept) - 1):
        assert nms(boxes, scores, 0.4, limit).tolist() == kept[:limit]
    assert nms(boxes[:0], scores[:0], 0.4).tolist() == []


def dense_mask(logits: np.ndarray, letterbox: Letterbox) -> np.ndarray:
    """The definition: every logit interpolated at every pixel's centre, in float64."""

    def axis(pixels: int, scale: float, start: int, whole: int, cells: int) -> tuple[np.ndarray, ...]:
        place = (((np.arange(pixels) + 0.5) * scale + start) * cells / whole - 0.5).clip(0, cells - 1)
        return place.astype(int), np.minimum(place.astype(int) + 1, cells - 1), place % 1

    b = letterbox
    y0, y1, down = axis(b.height_px, b.scale_y, b.top_px, b.input_height_px, logits.shape[1])
    x0, x1, across = axis(b.width_px, b.scale_x, b.left_px, b.input_width_px, logits.shape[2])
    exact = logits.astype(np.float64)
    lines = exact[:, y0] * (1 - down)[:, None] + exact[:, y1] * down[:, None]
    mask: np.ndarray = (lines[:, :, x0] * (1 - across) + lines[:, :, x1] * across).argmax(axis=0)
    return mask


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.usefixtures("way")
def test_a_mask_is_the_argmax_of_interpolated_logits(width: int, height: int) -> None:
    letterbox = Letterbox.of(width, height, RECORD)
    for logits in (noise(5, 12, 16), np.repeat(np.repeat(noise(5, 3, 4), 4, 1), 4, 2), noise(1, 12, 16)):
        mask = class_mask(logits, letterbox)
        assert mask.shape == (height, width)
        assert mask.dtype == np.uint8
        # Ties to the last bit of float32 may go either way.
        assert (mask != dense_mask(logits, letterbox)).mean() <= 1e-4


@pytest.mark.usefixtures("way")
def test_equal_logits_take_the_lowest_id_and_all_pixels_are_counted() -> None:
    found = segmentation(np.zeros((3, 12, 16), np.float32), Letterbox.of(20, 10, RECORD), LABELS)
    assert found.present == [(0, "cell", 200)]


def test_a_large_picture_is_done_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, letterbox = noise(4, 12, 16), Letterbox.of(200, 150, RECORD)
    monkeypatch.setattr(segment, "native_instruction_set", lambda: None)
    at_once = class_mask(logits, letterbox)
    monkeypatch.setattr(segment, "_BLOCK_VALUES", 1)  # a row each
    np.testing.assert_array_equal(class_mask(logits, letterbox), at_once)


def test_confusion_counts_known_pixels_alone() -> None:
    confusion = Confusion(3)
    assert (confusion.miou(), confusion.pixel_accuracy()) == (0, 0)
    truth = np.array([[0, 0, 1, 255]], np.uint8)
    confusion.add(np.array([[0, 1, 1, 2]], np.uint8), truth, 255)
    assert confusion.class_iou()[:2].tolist() == [0.5, 0.5]
    assert np.isnan(confusion.class_iou()[2])  # predicted only where nobody knows
    assert confusion.miou() == 0.5
    assert confusion.pixel_accuracy() == pytest.approx(2 / 3)


@pytest.mark.parametrize("mode", ["folder", "w", "w:gz"])
def test_pictures_are_read_later_from_folders_and_archives(tmp_path: Path, mode: str) -> None:
    folder = tmp_path / "data"
    (folder / "a").mkdir(parents=True)
    contents = {f"a/{i}.jpg": bytes([i]) * (1000 + i) for i in range(3)}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    source = folder
    if mode != "folder":
        source = tmp_path / "data.tar"
        with tarfile.open(source, mode) as archive:  # type: ignore[call-overload]
            archive.add(folder, ".")
    read = picture_reader(source, list(contents))
    assert {name: read(name) for name in reversed(contents)} == contents


def test_a_picture_that_vanished_is_named(tmp_path: Path) -> None:
    read = picture_reader(tmp_path, ["gone.jpg"])
    with pytest.raises(DataError, match=r"gone\.jpg"):
        read("gone.jpg")
