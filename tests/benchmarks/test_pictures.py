"""Pictures as requests, and grades of answers."""

import base64
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks.pictures import VOID, Grades, Pictures, message, miou, street_scenes


def png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def answer(mask: NDArray[np.uint8]) -> dict[str, object]:
    return {"mask": {"format": "png", "data": base64.b64encode(png(mask)).decode()}}


TRUTH = np.array([[0, 0, 1, VOID]], np.uint8)
PICTURES = Pictures("four pixels", (b"",), (TRUTH,))


def test_unlabelled_pixels_do_not_count() -> None:
    grades = Grades(PICTURES)
    assert grades.grade(0, "8", answer(np.array([[0, 1, 1, 5]], np.uint8))) == pytest.approx(2 / 3)
    confusion = grades.confusion([0, 0], ["8", "8"])
    assert np.array(confusion)[:2, :2].tolist() == [[2, 2], [0, 2]]
    assert miou([confusion]) == pytest.approx((1 / 2 + 1 / 2) / 2)


def test_another_answer_at_the_same_precision_is_counted() -> None:
    grades = Grades(PICTURES)
    for values in ([0, 0, 1, 0], [0, 0, 1, 0], [1, 1, 1, 0]):
        grades.grade(0, "8", answer(np.array([values], np.uint8)))
    grades.grade(0, "2", answer(np.array([[1, 1, 1, 0]], np.uint8)))
    assert grades.different == 1


def test_without_truth_only_equality_is_looked_at() -> None:
    grades = Grades(Pictures("unknown", (b"",)))
    assert np.isnan(grades.grade(0, "8", {"predictions": [1]}))
    assert np.isnan(grades.grade(0, "8", {"predictions": [2]}))
    assert grades.different == 1
    assert grades.confusion([0], ["8"]) == []
    assert miou([[]]) is None


def test_street_scenes_pairs_pictures_with_their_maps(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "camvid.tar", "w") as tar:
        for name, value in (("b", 2), ("a", 1)):
            pixels = np.full((4, 6), value, np.uint8)
            for path in (f"test/{name}.webp", f"testannot/{name}.png", f"train/{name}.webp"):
                content = png(pixels)
                info = tarfile.TarInfo(path)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    pictures = street_scenes(tmp_path)
    assert [int(truth.max()) for truth in pictures.truths] == [1, 2]
    assert all(body.startswith(b"\xff\xd8") for body in pictures.bodies)


def test_a_message_is_whole() -> None:
    whole = message("/v1", b"\x00body", "image/jpeg", {"Precision": "4"})
    head, _, body = whole.partition(b"\r\n\r\n")
    assert head.split(b"\r\n")[0] == b"POST /v1 HTTP/1.1"
    assert b"Content-Length: 5" in head
    assert b"Precision: 4" in head
    assert body == b"\x00body"
