"""Detection and segmentation over HTTP: what is answered is what the core makes of the reference's output."""

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bitgear import reference
from bitgear.checkpoint import Master
from bitgear.tasks import detect, segment
from bitgear.tasks.detect import DetectOptions
from bitgear.tasks.letterbox import place_picture
from bitgear.tasks.pictures import Picture, decode_picture
from tests.serving import Running, encode, running
from tests.task_masters import AREA_LABELS, BOX_LABELS, areas_master, boxes_master

DETECT = "/v1/models/boxes/detect"
SEGMENT = "/v1/models/areas/segment"
LOOSE = DetectOptions(confidence=0.05, iou=0.5)


def photo(width_px: int = 90, height_px: int = 50, seed: int = 0) -> bytes:
    """A PNG of soft random colours."""
    rough = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return encode(Image.fromarray(rough).resize((width_px, height_px), Image.Resampling.BICUBIC))


def outputs(master: Master, content: bytes, bits: int) -> tuple[NDArray[np.float32], Any, Picture]:
    picture = decode_picture(content)
    q_image, place = place_picture(picture, master.input)
    return reference.run(master, q_image, bits)[0], place, picture


def expected_detections(content: bytes, bits: int, options: DetectOptions) -> list[dict[str, Any]]:
    master = boxes_master()
    output, place, _ = outputs(master, content, bits)
    return [
        {
            "class": found.class_name,
            "class_id": found.class_id,
            "confidence": found.confidence,
            "box": [round(side, 3) for side in found.box_xyxy],
        }
        for found in detect.detections(output, place, master.labels, master.input, options)
    ]


def expected_mask(content: bytes, bits: int) -> NDArray[np.uint8]:
    master = areas_master()
    output, place, _ = outputs(master, content, bits)
    return segment.segmentation(output, place, master.labels).mask


def ask(server: Running, path: str, content: bytes, **params: object) -> dict[str, Any]:
    answer = server.client.post(path, content=content, params=params)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def decoded(mask: dict[str, Any]) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(base64.b64decode(mask["data"]))) as image:
        assert image.mode == "L"
        return np.asarray(image)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_detections_are_those_of_the_reference(every_task: Running, bits: int) -> None:
    content = photo(seed=bits)
    body = ask(every_task, DETECT, content, precision=bits, confidence="0.05", iou="0.5")
    assert body["detections"] == expected_detections(content, bits, LOOSE)
    assert body["precision"]["served"] == bits
    assert len(body["detections"]) > 1


def test_the_whole_answer_of_detection(every_task: Running) -> None:
    body = ask(every_task, DETECT, photo(), confidence="0.05")
    assert list(body) == ["id", "model", "version", "image", "detections", "precision", "timing_ms"]
    assert body["model"] == "boxes"
    assert body["image"] == {"width": 90, "height": 50}
    confidences = [found["confidence"] for found in body["detections"]]
    assert confidences == sorted(confidences, reverse=True)
    for found in body["detections"]:
        left, top, right, bottom = found["box"]
        assert 0 <= left <= right <= 90
        assert 0 <= top <= bottom <= 50
        assert found["class"] == BOX_LABELS[found["class_id"]]


def test_defaults_are_those_of_the_core(every_task: Running) -> None:
    assert ask(every_task, DETECT, photo())["detections"] == expected_detections(photo(), 8, DetectOptions())


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_a_mask_is_that_of_the_reference(every_task: Running, bits: int) -> None:
    content = photo(seed=bits)
    body = ask(every_task, SEGMENT, content, precision=bits)
    mask = expected_mask(content, bits)
    assert np.array_equal(decoded(body["mask"]), mask)
    ids, pixels = np.unique(mask, return_counts=True)
    told = [(found["class_id"], found["class"], found["pixels"], found["share"]) for found in body["classes"]]
    assert told == [(i, AREA_LABELS[i], n, n / mask.size) for i, n in zip(ids.tolist(), pixels.tolist(), strict=True)]


def test_the_whole_answer_of_segmentation(every_task: Running) -> None:
    body = ask(every_task, SEGMENT, photo())
    assert list(body) == ["id", "model", "version", "image", "mask", "classes", "precision", "timing_ms"]
    assert {name: body["mask"][name] for name in ("format", "width", "height")} == {
        "format": "png", "width": 90, "height": 50,
    }  # fmt: skip
    assert sum(found["pixels"] for found in body["classes"]) == 90 * 50


def test_the_formats_of_a_mask_tell_the_same(every_task: Running) -> None:
    png, rle, polygon = (ask(every_task, SEGMENT, photo(), mask_format=f)["mask"] for f in ("png", "rle", "polygon"))
    assert [mask["format"] for mask in (png, rle, polygon)] == ["png", "rle", "polygon"]
    mask = decoded(png)
    ids = np.unique(mask).tolist()
    assert len(ids) > 1
    assert [(s["class_id"], s["class"]) for s in rle["segments"]] == [(i, AREA_LABELS[i]) for i in ids]
    for found in rle["segments"]:
        counts = found["rle"]["counts"]
        pixels = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(found["rle"]["size"], order="F")
        assert np.array_equal(pixels, mask == found["class_id"])
    assert [s["class_id"] for s in polygon["segments"]] == ids
    for found in polygon["segments"]:
        for x, y in (corner for outline in found["polygons"] for corner in outline):
            assert 0 <= x <= 90
            assert 0 <= y <= 50
            assert found["class_id"] in mask[max(0, y - 1) : y + 1, max(0, x - 1) : x + 1]


@pytest.mark.parametrize("path", [DETECT, SEGMENT])
def test_the_three_forms_give_the_same(every_task: Running, path: str) -> None:
    content = photo(3)
    encoded = base64.b64encode(content).decode()
    client = every_task.client
    own = {"confidence": 0.05, "classes": "bag,7"} if path == DETECT else {"mask_format": "rle"}
    in_json = {"confidence": 0.05, "classes": ["bag", 1]} if path == DETECT else own
    answers = [
        client.post(path, content=content, params={**own, "precision": 4}),
        client.post(path, files={"image": content}, data={**{k: str(v) for k, v in own.items()}, "precision": "4"}),
        client.post(path, json={"image": encoded, "precision": 4, **in_json}),
        client.post(path, json={"image": encoded, "precision": "4", **own}, params=own),
    ]
    assert [answer.status_code for answer in answers] == [200] * len(answers), [answer.text for answer in answers]
    results = [answer.json() for answer in answers]
    for name in ("detections",) if path == DETECT else ("mask", "classes"):
        assert all(result[name] == results[0][name] for result in results)


@pytest.mark.parametrize("path", [DETECT, SEGMENT])
def test_an_answer_does_not_depend_on_what_is_asked_beside_it(every_task: Running, path: str) -> None:
    sizes = [(90, 50), (50, 90), (64, 48), (1, 40), (200, 30), (33, 33)]
    requests = [(photo(*size, seed), bits) for seed, size in enumerate(sizes) for bits in (8, 4, 2)]
    told = ("detections",) if path == DETECT else ("mask", "classes")
    own = {"confidence": 0.05} if path == DETECT else {}

    def answer(request: tuple[bytes, int]) -> list[Any]:
        body = ask(every_task, path, request[0], precision=request[1], **own)
        return [body[name] for name in told]

    alone = [answer(request) for request in requests]
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(answer, requests * 3)) == alone * 3


@pytest.mark.parametrize("path", [DETECT, SEGMENT])
def test_orientation_is_respected(every_task: Running, path: str) -> None:
    with Image.open(io.BytesIO(photo())) as image:
        exif = Image.Exif()
        exif[0x0112] = 6  # lies on its side
        lying = ask(every_task, path, encode(image, exif=exif))
        upright = ask(every_task, path, encode(image.transpose(Image.Transpose.ROTATE_270)))
    assert lying["image"] == upright["image"] == {"width": 50, "height": 90}
    for name in ("detections",) if path == DETECT else ("mask", "classes"):
        assert lying[name] == upright[name]


PICTURES = {
    "1 x 1": Image.new("RGB", (1, 1)),
    "1 x 4000": Image.new("RGB", (1, 4000), "red"),
    "4000 x 1": Image.new("RGB", (4000, 1), "blue"),
    "black": Image.new("RGB", (64, 48)),
    "white": Image.new("RGB", (200, 300), "white"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_with_little_in_them(every_task: Running, name: str) -> None:
    width, height = PICTURES[name].size
    content = encode(PICTURES[name])
    body = ask(every_task, DETECT, content, confidence=0, max_detections=1000)
    assert body["image"] == {"width": width, "height": height}
    for found in body["detections"]:
        left, top, right, bottom = found["box"]
        assert 0 <= left <= right <= width
        assert 0 <= top <= bottom <= height
    for mask_format in ("png", "rle", "polygon"):
        body = ask(every_task, SEGMENT, content, mask_format=mask_format)
        assert (body["mask"]["width"], body["mask"]["height"]) == (width, height)
        assert sum(found["pixels"] for found in body["classes"]) == width * height


def test_no_objects_are_an_empty_list(every_task: Running) -> None:
    body = ask(every_task, DETECT, photo(), confidence=1)
    assert body["detections"] == []
    assert body["image"] == {"width": 90, "height": 50}


def test_no_more_than_max_detections(every_task: Running) -> None:
    content = photo(64, 48)
    everything = ask(every_task, DETECT, content, confidence=0, iou=1, max_detections=1000)["detections"]
    assert len(everything) == 6 * 8 * len(BOX_LABELS)
    for count in (1, 7, 100):
        few = ask(every_task, DETECT, content, confidence=0, iou=1, max_detections=count)["detections"]
        assert few == everything[:count]
    assert ask(every_task, DETECT, content, confidence=0, iou=1)["detections"] == everything[:100]


def test_overlaps_are_left_out_by_class(every_task: Running) -> None:
    counts = [len(ask(every_task, DETECT, photo(), confidence=0, iou=iou)["detections"]) for iou in (0, 0.5, 1)]
    assert counts == sorted(counts)
    assert len(BOX_LABELS) <= counts[0] < counts[2]


@pytest.mark.parametrize(
    ("given", "ids"),
    [
        ("bag", {2}), ("2", {2}), (" bag , hat", {2, 3}), ("0,bag,0", {0, 2}), ("7", {1}), (["red, round"], {0}),
        ([3], {3}),
    ],
)  # fmt: skip
def test_classes_are_filtered_by_name_and_by_id(every_task: Running, given: Any, ids: set[int]) -> None:
    everything = ask(every_task, DETECT, photo(), confidence=0, max_detections=1000)["detections"]
    body = {"image": base64.b64encode(photo()).decode(), "confidence": 0, "max_detections": 1000, "classes": given}
    answer = every_task.client.post(DETECT, json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["detections"] == [found for found in everything if found["class_id"] in ids]


@pytest.mark.parametrize(
    ("model", "asked", "task"),
    [
        ("tiny", "detect", "classify"),
        ("tiny", "segment", "classify"),
        ("boxes", "classify", "detect"),
        ("boxes", "segment", "detect"),
        ("areas", "detect", "segment"),
    ],
)
def test_the_wrong_task_is_told_the_right_route(every_task: Running, model: str, asked: str, task: str) -> None:
    answer = every_task.client.post(f"/v1/models/{model}/{asked}", content=photo())
    route = f"/v1/models/{model}/{task}"
    document = every_task.refused(answer, 422, "task-mismatch", task=task, route=route)
    assert route in document["detail"]
    ask(every_task, route, photo())


def test_ladders_tell_the_accuracy_of_their_task(every_task: Running) -> None:
    def rung(model: str) -> dict[str, Any]:
        document: dict[str, Any] = every_task.client.get(f"/v1/models/{model}/ladder").json()["rungs"][0]
        return document

    assert rung("tiny")["accuracy"] == {"top1": 0.58}
    assert rung("tiny")["top1"] == 0.58
    assert rung("boxes")["accuracy"] == pytest.approx({"map50_95": 0.28, "map50": 0.48})
    assert rung("areas")["accuracy"] == pytest.approx({"miou": 0.58, "pixel_accuracy": 0.88})
    assert rung("boxes")["top1"] is None


def test_models_tell_their_task_and_input(every_task: Running) -> None:
    models = {model["name"]: model for model in every_task.client.get("/v1/models").json()["models"]}
    assert {name: model["task"] for name, model in models.items()} == {
        "tiny": "classify", "boxes": "detect", "areas": "segment",
    }  # fmt: skip
    assert models["boxes"]["classes"] == len(BOX_LABELS)
    assert models["areas"]["input"] == {"height": 48, "width": 64}


def test_models_of_every_task_are_warm_before_the_first_request(tmp_path: Path) -> None:
    with running(tmp_path, further=(boxes_master(), areas_master())) as server:
        for model in ("tiny", "boxes", "areas"):
            rungs = server.client.get(f"/v1/models/{model}/ladder").json()["rungs"]
            assert [rung["precision"] for rung in rungs if rung["resident"]] == [8]
            assert all(rung["latency_ms"] is None for rung in rungs)


def test_metrics_tell_tasks_apart(every_task: Running) -> None:
    ask(every_task, DETECT, photo(), precision=3)
    ask(every_task, SEGMENT, photo(), precision=3)
    every_task.client.post(SEGMENT, content=photo(), params={"top_k": 3})
    metrics = every_task.client.get("/metrics").text
    for model, task in (("boxes", "detect"), ("areas", "segment")):
        labels = f'code="200",model="{model}",precision="3",source="request",task="{task}"'
        assert f"bitgear_requests_total{{{labels}}}" in metrics
    assert 'bitgear_requests_total{code="400",model="areas",precision="none",source="none",task="segment"}' in metrics
    version = every_task.app.state.runtime.models.get("boxes").version
    assert f'bitgear_model_info{{model="boxes",task="detect",version="{version}"}} 1.0' in metrics
