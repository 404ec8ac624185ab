"""Thresholds, counts, class filters and mask formats that are none, and controls of another task."""

import base64
from typing import Any

import httpx
import pytest

from tests.serving import PATH, Running, png

DETECT = "/v1/models/boxes/detect"
SEGMENT = "/v1/models/areas/segment"
PATHS = {"classify": PATH, "detect": DETECT, "segment": SEGMENT}
BASE64 = base64.b64encode(png()).decode()


def send(server: Running, path: str, place: str, **controls: object) -> httpx.Response:
    if place == "query":
        return server.client.post(path, content=png(), params=controls)
    if place == "multipart":
        return server.client.post(path, files={"image": png()}, data=controls)
    return server.client.post(path, json={"image": BASE64, **controls})


@pytest.mark.parametrize("place", ["query", "multipart", "json"])
@pytest.mark.parametrize("name", ["confidence", "iou"])
@pytest.mark.parametrize(
    "value",
    [
        "nan", "NaN", "inf", "-inf", "Infinity", "-0.1", "1.1", "1.0000000000000000001", "2", "1e-1", "1E0", "5e-324",
        "0x0", "0,5", ".5", "0.", "+0.5", "--0", "0_1", "٠", "½", "", " ", "true", "null", "0.5.5", "0." + "1" * 500,
    ],
)  # fmt: skip
def test_thresholds_that_are_none(every_task: Running, place: str, name: str, value: str) -> None:
    every_task.refused(send(every_task, DETECT, place, **{name: value}), 400, "bad-parameter", parameter=name)


@pytest.mark.parametrize("name", ["confidence", "iou"])
@pytest.mark.parametrize("value", [-1, 2, 10**30, -0.1, 1.5, True, False, None, [0.5], {}, [[[[]]]]])
def test_json_thresholds_that_are_none(every_task: Running, name: str, value: object) -> None:
    every_task.refused(send(every_task, DETECT, "json", **{name: value}), 400, "bad-parameter", parameter=name)


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity"])
def test_numbers_that_json_does_not_have(every_task: Running, number: bytes) -> None:
    body = b'{"image": "' + BASE64.encode() + b'", "confidence": ' + number + b"}"
    answer = every_task.client.post(DETECT, content=body, headers={"Content-Type": "application/json"})
    every_task.refused(answer, 400, "bad-request")


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"1e1"])
def test_json_numbers_beyond_one(every_task: Running, number: bytes) -> None:
    body = b'{"image": "' + BASE64.encode() + b'", "iou": ' + number + b"}"
    answer = every_task.client.post(DETECT, content=body, headers={"Content-Type": "application/json"})
    every_task.refused(answer, 400, "bad-parameter", parameter="iou")


@pytest.mark.parametrize("value", [0, 1, 0.0, 1.0, 0.25, -0.0, 1e-9, "0", "1", "0.0", "1.000", " 0.5 "])
def test_json_thresholds_that_are_some(every_task: Running, value: object) -> None:
    assert send(every_task, DETECT, "json", confidence=value, iou=value).status_code == 200


def test_one_threshold_in_two_places(every_task: Running) -> None:
    def both(query: str, field: object) -> httpx.Response:
        body = {"image": BASE64, "confidence": field}
        return every_task.client.post(DETECT, json=body, params={"confidence": query})

    for query, field in (("0.5", 0.5), ("0.50", "0.5"), ("1", 1.0)):
        assert both(query, field).status_code == 200
    every_task.refused(both("0.5", 0.6), 400, "conflicting-controls", parameter="confidence")


def test_two_lists_of_classes_are_told_as_lists(every_task: Running) -> None:
    answer = every_task.client.post(DETECT + "?classes=bag,hat&classes=hat", content=png())
    document = every_task.refused(answer, 400, "conflicting-controls", parameter="classes")
    assert "'bag, hat' and 'hat'" in document["detail"]


@pytest.mark.parametrize("place", ["query", "multipart", "json"])
@pytest.mark.parametrize("value", ["0", "1001", "-1", "5.0", "x", "", "1e3", "²", "9" * 30])
def test_max_detections_out_of_range(every_task: Running, place: str, value: str) -> None:
    answer = send(every_task, DETECT, place, max_detections=value)
    every_task.refused(answer, 400, "bad-parameter", parameter="max_detections")


@pytest.mark.parametrize("place", ["query", "multipart", "json"])
@pytest.mark.parametrize(
    "value", ["dog", "bag,dog", "BAG", "9", "-1", "1.0", "01", "", ",", "bag,", "bag,,hat", "x" * 900, "red", "\x00"]
)
def test_classes_that_are_none(every_task: Running, place: str, value: str) -> None:
    document = every_task.refused(
        send(every_task, DETECT, place, classes=value), 400, "bad-parameter", parameter="classes"
    )
    assert "x" * 200 not in document["detail"]


def test_an_unknown_class_is_told_the_known_ones(every_task: Running) -> None:
    document = every_task.refused(send(every_task, DETECT, "query", classes="dog"), 400, "bad-parameter")
    assert "red, round, 7, bag, hat" in document["detail"]


@pytest.mark.parametrize("value", [[], [None], [True], [1.0], [["bag"]], {"bag": 1}, None, True, 1.5, ["bag"] * 1001])
def test_json_classes_that_are_none(every_task: Running, value: object) -> None:
    answer = send(every_task, DETECT, "json", classes=value)
    every_task.refused(answer, 400, "bad-parameter", parameter="classes")


@pytest.mark.parametrize("place", ["query", "multipart", "json"])
@pytest.mark.parametrize("value", ["PNG", "jpeg", "", "png,rle", "polygons", "null"])
def test_mask_formats_that_are_none(every_task: Running, place: str, value: str) -> None:
    answer = send(every_task, SEGMENT, place, mask_format=value)
    document = every_task.refused(answer, 400, "bad-parameter", parameter="mask_format")
    assert "png, rle or polygon" in document["detail"]


OWN: dict[str, dict[str, Any]] = {
    "classify": {"top_k": "3"},
    "detect": {"confidence": "0.5", "iou": "0.5", "max_detections": "5", "classes": "bag"},
    "segment": {"mask_format": "png"},
}


@pytest.mark.parametrize("place", ["query", "multipart", "json"])
@pytest.mark.parametrize("task", OWN)
@pytest.mark.parametrize("other", OWN)
def test_a_control_of_another_task_is_unknown(every_task: Running, place: str, task: str, other: str) -> None:
    for name, value in OWN[other].items():
        answer = send(every_task, PATHS[task], place, **{name: value})
        if other == task:
            assert answer.status_code == 200, answer.text
        else:
            document = every_task.refused(answer, 400, "bad-parameter", parameter=name)
            assert "unknown" in document["detail"]
            assert all(known in document["detail"] for known in OWN[task])


def test_a_deeply_nested_value_is_refused(every_task: Running) -> None:
    for depth in (10, 100, 500, 900, 2000):
        body = b'{"image": "' + BASE64.encode() + b'", "classes": ' + b"[" * depth + b"]" * depth + b"}"
        answer = every_task.client.post(DETECT, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400, answer.text
    every_task.good()


def test_a_bad_control_is_refused_before_the_body_is_read(every_task: Running) -> None:
    head = f"POST {DETECT}?classes=dog HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    status, _, _ = every_task.raw(head.encode())
    assert status == 400
    every_task.good()


def test_truncated_pictures_of_every_task(every_task: Running) -> None:
    for path in PATHS.values():
        answer = every_task.client.post(path, content=png(0, 64)[:-200])
        every_task.refused(answer, 422, "undecodable-image", reason="image-corrupt")
