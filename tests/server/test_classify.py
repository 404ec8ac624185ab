import base64
import re
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from bitgear import reference
from bitgear.engines import create_engine
from bitgear.tasks.classify import predictions
from server.precision import VARY
from tests.serving import PATH, Running, encode, pixels, png

PNG = {"Content-Type": "image/png"}


def expected(
    server: Running, bits: int, rgb: np.ndarray[Any, np.dtype[np.uint8]], top_k: int = 5
) -> list[dict[str, Any]]:
    logits = reference.run(server.master, server.master.input.encode(rgb[None]), bits)
    best = predictions(logits[0], server.master.labels, top_k)
    return [{"class": p.class_name, "class_id": p.class_id, "confidence": p.confidence} for p in best]


@pytest.mark.parametrize("bits", [8, 7, 6, 5, 4, 3, 2])
def test_a_pinned_width_gives_the_reference_of_that_width(server: Running, bits: int) -> None:
    answer = server.client.post(PATH, content=png(bits), headers={**PNG, "Precision": str(bits)})
    body = answer.json()
    assert body["predictions"] == expected(server, bits, pixels(bits))
    assert body["precision"] == {"requested": str(bits), "served": bits, "source": "request", "reason": "asked"}
    assert (answer.headers["precision"], answer.headers["precision-source"]) == (str(bits), "request")


def test_the_whole_answer(server: Running) -> None:
    answer = server.client.post(PATH, content=png(), headers={**PNG, "X-Request-Id": "a.B:1_2-3"})
    body = answer.json()
    assert set(body) == {"id", "model", "version", "image", "predictions", "precision", "timing_ms"}
    assert (body["id"], body["model"], body["version"]) == ("a.B:1_2-3", "tiny", server.version)
    assert body["image"] == {"width": 16, "height": 16}
    assert body["precision"] == {"requested": "auto", "served": 8, "source": "default", "reason": "default"}
    assert list(body["timing_ms"]) == ["queue", "decode", "switch", "infer", "post", "total"]
    phases = [body["timing_ms"][name] for name in ("queue", "decode", "switch", "infer", "post")]
    assert all(duration >= 0 for duration in phases)
    assert sum(phases) <= body["timing_ms"]["total"] + 0.01
    assert answer.headers["x-request-id"] == "a.B:1_2-3"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["vary"] == VARY
    assert re.fullmatch(r"(\w+;dur=[\d.e-]+(, )?){6}", answer.headers["server-timing"])


def test_the_three_forms_give_the_same(server: Running) -> None:
    image = png(3)
    encoded = base64.b64encode(image).decode()
    client = server.client
    answers = [
        client.post(PATH, content=image, headers={**PNG, "Precision": "4"}),
        client.post(PATH, content=image, headers={"Content-Type": "application/octet-stream"}, params={"precision": 4}),
        client.post(PATH, content=image, headers={"Content-Type": "IMAGE/PNG; x=y"}, params={"precision": 4}),
        client.post(PATH, files={"image": ("x.txt", image)}, data={"precision": "4"}),
        client.post(PATH, files={"image": (None, image)}, data={"precision": "4"}),
        client.post(PATH, json={"image": encoded, "precision": 4}),
        client.post(PATH, json={"image": f"data:image/png;base64,{encoded}", "precision": "4"}),
    ]
    assert [answer.status_code for answer in answers] == [200] * len(answers)
    assert all(answer.json()["predictions"] == expected(server, 4, pixels(3)) for answer in answers)


def test_top_k(server: Running) -> None:
    def count(**params: object) -> int:
        return len(server.client.post(PATH, content=png(), headers=PNG, params=params).json()["predictions"])

    assert [count(), count(top_k=1), count(top_k=10), count(top_k=1000)] == [5, 1, 10, 10]


def test_auto_within_bounds_and_profiles(server: Running) -> None:
    def precision(**params: object) -> dict[str, Any]:
        return server.client.post(PATH, content=png(), headers=PNG, params=params).json()["precision"]

    assert precision(precision_max=5) == {"requested": "auto", "served": 5, "source": "request", "reason": "ceiling"}
    assert precision(device_profile="edge-small")["served"] == 4
    assert precision(device_profile="edge-small")["source"] == "profile"
    assert precision(device_profile="edge-small", precision_max=3)["served"] == 3
    assert precision(device_profile="edge", precision_min=7) == {
        "requested": "auto", "served": 7, "source": "request", "reason": "floor",
    }  # fmt: skip


def test_an_unfit_request_id_is_replaced(server: Running) -> None:
    for unfit in ("", "a b", "x" * 129, 'a"b'):
        answer = server.client.post(PATH, content=png(), headers={**PNG, "X-Request-Id": unfit})
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
        assert answer.json()["id"] == answer.headers["x-request-id"]


def _formats() -> dict[str, tuple[bytes, tuple[int, int]]]:
    rgb = Image.fromarray(pixels(0, 20)).resize((24, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    grey16 = Image.fromarray(np.arange(24 * 20, dtype=np.uint16).reshape(20, 24) * 100)
    return {
        "jpeg": (encode(rgb, "JPEG"), (24, 20)),
        "webp": (encode(rgb, "WEBP"), (24, 20)),
        "grey": (encode(rgb.convert("L")), (24, 20)),
        "bilevel": (encode(rgb.convert("1")), (24, 20)),
        "palette": (encode(rgb.convert("P")), (24, 20)),
        "palette with transparency": (encode(rgb.convert("P"), transparency=0), (24, 20)),
        "alpha": (encode(rgb.convert("RGBA")), (24, 20)),
        "grey with alpha": (encode(rgb.convert("LA")), (24, 20)),
        "16-bit": (encode(grey16), (24, 20)),
        "CMYK": (encode(rgb.convert("CMYK"), "JPEG"), (24, 20)),
        "EXIF-rotated": (encode(rgb, "JPEG", exif=exif), (20, 24)),
        "1 x 1": (encode(rgb.resize((1, 1))), (1, 1)),
        "1 x 300": (encode(rgb.resize((1, 300))), (1, 300)),
        "bytes after the end": (encode(rgb) + b"PK\x03\x04rest", (24, 20)),
    }


@pytest.mark.parametrize("name", _formats())
def test_kinds_of_images_that_are_served(server: Running, name: str) -> None:
    content, (width, height) = _formats()[name]
    answer = server.client.post(PATH, content=content, headers={"Content-Type": "application/octet-stream"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["image"] == {"width": width, "height": height}


def test_models_and_ladder(server: Running) -> None:
    server.client.post(PATH, content=png(), headers={**PNG, "Precision": "3"})
    client = server.client
    (summary,) = client.get("/v1/models").json()["models"]
    assert summary == {
        "name": "tiny", "version": server.version, "task": "classify", "precisions": [8, 7, 6, 5, 4, 3, 2],
        "default_precision": 8, "classes": 10, "input": {"height": 16, "width": 16},
    }  # fmt: skip
    detail = client.get("/v1/models/tiny").json()
    assert detail["labels"] == list(server.master.labels)
    assert detail["accuracy"]["8"] == {"top1": 0.58, "images": 100}
    assert detail["provenance"] == server.master.provenance
    assert {name: detail[name] for name in summary} == summary
    ladder = client.get("/v1/models/tiny/ladder").json()
    assert (ladder["model"], ladder["engine"], ladder["profile"]) == ("tiny", create_engine().name, "default")
    assert [rung["precision"] for rung in ladder["rungs"]] == [8, 7, 6, 5, 4, 3, 2]
    rung = ladder["rungs"][5]
    assert rung["offered"]
    assert rung["resident"]
    assert rung["reason"] is None
    assert rung["top1"] == pytest.approx(0.53)
    assert rung["resident_bytes"] > 0
    assert rung["latency_ms"]["count"] >= 1
    assert 0 < rung["latency_ms"]["p50"] <= rung["latency_ms"]["p99"]


def test_keep_alive_serves_many_on_one_connection(server: Running) -> None:
    with httpx.Client(base_url=server.client.base_url, limits=httpx.Limits(max_connections=1)) as client:
        for seed in range(20):
            assert client.post(PATH, content=png(seed), headers=PNG).status_code == 200
