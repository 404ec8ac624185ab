"""Precisions that are none, in every place where one can be given."""

import base64
from typing import Any

import pytest

from tests.serving import PATH, Running, png

PNG = {"Content-Type": "image/png"}


@pytest.mark.parametrize("place", ["header", "query", "multipart", "json"])
@pytest.mark.parametrize("value", ["0", "1", "9", "-4", "4.0", "0x4", "", "8 bits", "4;8", "w8a7", "none", "True"])
def test_precisions_that_are_none(server: Running, place: str, value: str) -> None:
    server.refused(_send(server, place, {"precision": value}), 400, "bad-parameter", parameter="precision")


@pytest.mark.parametrize("place", ["header", "query", "multipart", "json"])
@pytest.mark.parametrize("value", ["int4", "null", "mixed-3.2", "x" * 32])
def test_plans_that_the_model_does_not_have(server: Running, place: str, value: str) -> None:
    answer = _send(server, place, {"precision": value})
    document = server.refused(answer, 422, "width-not-offered", offered_precisions=[8, 7, 6, 5, 4, 3, 2])
    assert f"precision {value} is not offered" in document["detail"]


@pytest.mark.parametrize("place", ["header", "query", "multipart", "json"])
def test_auto_with_the_floor_above_the_ceiling(server: Running, place: str) -> None:
    controls = {"precision": "auto", "precision_min": "6", "precision_max": "4"}
    server.refused(_send(server, place, controls), 400, "bad-parameter", parameter="precision_min")


@pytest.mark.parametrize("place", ["query", "multipart", "json"])  # around headers HTTP itself removes them
def test_blanks_around_a_digit_are_allowed(server: Running, place: str) -> None:
    answer = _send(server, place, {"precision": " 4 "})
    assert answer.json()["precision"]["served"] == 4


@pytest.mark.parametrize("value", [0, 1, 9, -4, 4.0, 4.5, True, False, None, [4], {}, 10**30])
def test_json_precisions_that_are_none(server: Running, value: object) -> None:
    _, image = _json_image()
    answer = server.client.post(PATH, json={"image": image, "precision": value})
    server.refused(answer, 400, "bad-parameter", parameter="precision")


def test_a_repeated_header(server: Running) -> None:
    def post(*values: str) -> Any:
        return server.client.post(PATH, content=png(), headers=[("Precision", value) for value in values])

    server.refused(post("4", "8"), 400, "conflicting-controls", parameter="precision")
    server.refused(post("4", "auto"), 400, "conflicting-controls", parameter="precision")
    assert post("4", "4").json()["precision"]["served"] == 4


def test_a_repeated_query_parameter(server: Running) -> None:
    answer = server.client.post(f"{PATH}?precision=4&precision=8", content=png())
    server.refused(answer, 400, "conflicting-controls", parameter="precision")
    assert server.client.post(f"{PATH}?precision=4&precision=4", content=png()).status_code == 200


def test_a_repeated_multipart_field(server: Running) -> None:
    answer = server.client.post(PATH, files={"image": png()}, data={"precision": ["4", "8"]})
    server.refused(answer, 400, "conflicting-controls", parameter="precision")


@pytest.mark.parametrize("place", ["query", "multipart", "json"])
@pytest.mark.parametrize("name", ["precision", "precision_min", "precision_max", "device_profile"])
def test_a_header_and_another_place_that_disagree(server: Running, place: str, name: str) -> None:
    header = "-".join(word.capitalize() for word in name.split("_"))
    first, second = ("edge", "cloud-cpu") if name == "device_profile" else ("4", "5")
    answer = _send(server, place, {name: first}, {header: second})
    server.refused(answer, 400, "conflicting-controls", parameter=name)
    assert _send(server, place, {name: first}, {header: first}).status_code == 200


@pytest.mark.parametrize("place", ["query", "multipart", "json"])
@pytest.mark.parametrize("name", ["bits", "Precision", "precision ", "leniency", "image_url"])
def test_unknown_parameters(server: Running, place: str, name: str) -> None:
    document = server.refused(_send(server, place, {name: "4"}), 400, "bad-parameter", parameter=name)
    assert "unknown" in document["detail"]


def test_an_image_in_the_query_is_an_unknown_parameter(server: Running) -> None:
    server.refused(_send(server, "query", {"image": "http://x/"}), 400, "bad-parameter", parameter="image")


@pytest.mark.parametrize("name", ["nope", "../default", "EDGE", "", "x" * 5000])
def test_unknown_profiles(server: Running, name: str) -> None:
    document = server.refused(_send(server, "query", {"device_profile": name}), 400, "bad-parameter")
    assert document["parameter"] == "device_profile"
    assert len(document["detail"]) < 300


def test_a_pinned_width_outside_the_profile(server: Running) -> None:
    answer = _send(server, "header", {"precision": "8", "device_profile": "edge-small"})
    server.refused(answer, 422, "width-not-offered", offered_precisions=[4, 3, 2])


def test_bounds_outside_the_profile(server: Running) -> None:
    answer = _send(server, "header", {"precision_min": "6", "device_profile": "edge-small"})
    server.refused(answer, 422, "width-not-offered", offered_precisions=[4, 3, 2])


@pytest.mark.parametrize("value", ["0", "1001", "-1", "5.0", "x", "", "1e3"])
def test_top_k_out_of_range(server: Running, value: str) -> None:
    server.refused(_send(server, "query", {"top_k": value}), 400, "bad-parameter", parameter="top_k")


def _json_image() -> tuple[bytes, str]:
    image = png()
    return image, base64.b64encode(image).decode()


def _send(server: Running, place: str, controls: dict[str, str], headers: dict[str, str] | None = None) -> Any:
    image, encoded = _json_image()
    headers = dict(headers or {})
    if place == "header":
        headers |= {"-".join(w.capitalize() for w in name.split("_")): value for name, value in controls.items()}
        return server.client.post(PATH, content=image, headers={**PNG, **headers})
    if place == "query":
        return server.client.post(PATH, content=image, params=controls, headers={**PNG, **headers})
    if place == "multipart":
        return server.client.post(PATH, files={"image": image}, data=controls, headers=headers)
    return server.client.post(PATH, json={"image": encoded, **controls}, headers=headers)
