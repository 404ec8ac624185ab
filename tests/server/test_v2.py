"""The Open Inference Protocol over HTTP: metadata, inference in every form, controls, refusals."""

import base64
import json
import struct
from collections.abc import Mapping
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from bitgear import __version__, reference
from server.tensors import HEADER_LENGTH
from tests.serving import Running, encode, pixels, png

MODEL = "/v2/models/tiny"
INFER = f"{MODEL}/infer"


def images(*files: bytes, **changes: Any) -> dict[str, Any]:
    """A request with encoded images, in JSON."""
    data = [base64.b64encode(file).decode() for file in files]
    return {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [len(files)], "data": data}], **changes}


def ask(server: Running, *files: bytes, path: str = INFER, **changes: Any) -> dict[str, Any]:
    answer = server.client.post(path, json=images(*files, **changes))
    assert answer.status_code == 200, answer.text
    return answer.json()


def output(answer: Mapping[str, Any], name: str) -> Any:
    """The values of an output in JSON, in its shape; those of the task as objects."""
    (found,) = [each for each in answer["outputs"] if each["name"] == name]
    if found["datatype"] == "BYTES":
        return [json.loads(text) for text in found["data"]]
    return np.array(found["data"], np.float32).reshape(found["shape"])


def logits(server: Running, bits: int, *seeds: int) -> Any:
    rgb = np.stack([pixels(seed) for seed in seeds])
    return reference.run(server.master, server.master.input.encode(rgb), bits)


def test_the_server_describes_itself(server: Running) -> None:
    described = server.client.get("/v2").json()
    assert (described["name"], described["version"]) == ("bitgear", __version__)
    assert {"binary_tensor_data", "classification"} <= set(described["extensions"])
    assert server.client.get("/v2/models").json() == {"models": ["tiny"]}


@pytest.mark.parametrize("versioned", [False, True])
def test_a_model_describes_itself(server: Running, versioned: bool) -> None:
    path = f"{MODEL}/versions/{server.version}" if versioned else MODEL
    described = server.client.get(path).json()
    assert (described["name"], described["versions"]) == ("tiny", [server.version])
    assert described["platform"] == "bitgear_safetensors"
    assert [(each["name"], each["datatype"], each["shape"]) for each in described["inputs"]] == [
        ("image", "BYTES", [-1])
    ]
    assert [(each["name"], each["datatype"], each["shape"]) for each in described["outputs"]] == [
        ("output", "FP32", [-1, 10]), ("result", "BYTES", [-1]),
    ]  # fmt: skip
    assert described["parameters"] == {"task": "classify", "precisions": "8,7,6,5,4,3,2", "max_images": 16}
    assert server.client.get(f"{path}/ready").status_code == 200


@pytest.mark.parametrize("path", ["", "/ready", "/versions/{}", "/versions/{}/ready"])
def test_unknown_models(server: Running, path: str) -> None:
    answer = server.client.get("/v2/models/nope" + path.format(server.version))
    server.refused(answer, 404, "model-not-found", models=["tiny"])


@pytest.mark.parametrize("version", ["1", "0", "-1", "latest", "x" * 500, "%00", "%2e%2e", "%F0%9F%90%88"])
@pytest.mark.parametrize("path", ["", "/ready", "/infer"])
def test_unknown_versions(server: Running, version: str, path: str) -> None:
    url = f"{MODEL}/versions/{version}{path}"
    answer = server.client.post(url, json=images(png())) if path == "/infer" else server.client.get(url)
    server.refused(answer, 404, "model-not-found", models=["tiny"])


@pytest.mark.parametrize("bits", [8, 5, 2])
def test_a_batch_of_images_gives_the_reference_of_each(server: Running, bits: int) -> None:
    answer = ask(server, *(png(seed) for seed in range(5)), parameters={"precision": bits})
    np.testing.assert_array_equal(output(answer, "output"), logits(server, bits, *range(5)))
    for seed, result in enumerate(output(answer, "result")):
        single = ask(server, png(seed), parameters={"precision": str(bits)})
        assert result == output(single, "result")[0]
        v1 = server.client.post("/v1/models/tiny/classify", content=png(seed), params={"precision": bits}).json()
        assert result == {"image": v1["image"], "predictions": v1["predictions"]}


def test_the_whole_answer(server: Running) -> None:
    response = server.client.post(INFER, json=images(png(), id="my id ü", parameters={"precision": 4}))
    answer = response.json()
    assert list(answer) == ["model_name", "model_version", "id", "parameters", "outputs"]
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("tiny", server.version, "my id ü")
    parameters = answer["parameters"]
    timing = [f"{phase}_ms" for phase in ("queue", "decode", "switch", "infer", "post", "total")]
    assert list(parameters) == [
        "precision", "precision_requested", "precision_source", "precision_reason", *timing,
    ]  # fmt: skip
    assert [parameters[key] for key in list(parameters)[:4]] == ["4", "4", "request", "asked"]
    assert all(parameters[name] >= 0 for name in timing)
    assert (response.headers["precision"], response.headers["precision-source"]) == ("4", "request")
    assert response.headers["content-type"] == "application/json"
    assert "server-timing" in response.headers
    assert "precision" in response.headers["vary"].lower()


def test_without_an_id_it_is_the_request_s(server: Running) -> None:
    response = server.client.post(INFER, json=images(png()), headers={"X-Request-Id": "mine"})
    assert response.json()["id"] == response.headers["x-request-id"] == "mine"


@pytest.mark.parametrize("task", ["boxes", "areas"])
def test_other_tasks_give_what_their_own_route_gives(every_task: Running, task: str) -> None:
    files = [encode_photo(seed) for seed in range(3)]
    parameters: dict[str, Any] = {"precision": 6}
    if task == "boxes":
        parameters |= {"confidence": 0.5, "max_detections": 3, "classes": "bag,hat"}
    else:
        parameters |= {"mask_format": "rle"}
    answer = ask(every_task, *files, path=f"/v2/models/{task}/infer", parameters=parameters)
    route = {"boxes": "detect", "areas": "segment"}[task]
    for file, result in zip(files, output(answer, "result"), strict=True):
        v1 = every_task.client.post(f"/v1/models/{task}/{route}", content=file, params=parameters).json()
        assert result == {name: v1[name] for name in v1 if name in ("image", "detections", "mask", "classes")}
    assert len(output(answer, "output")) == 3


def encode_photo(seed: int) -> bytes:
    rgb = np.random.default_rng(seed).integers(0, 256, (12, 18, 3), dtype=np.uint8)
    return encode(Image.fromarray(rgb).resize((90 + seed, 70)), "JPEG")


@pytest.mark.parametrize("datatype", ["UINT8", "INT8", "FP32"])
def test_tensors_in_json(server: Running, datatype: str) -> None:
    rgb = np.stack([pixels(seed) for seed in range(2)])
    record = server.master.input
    real = ((rgb / 255 - np.array(record.mean)) / np.array(record.std)).astype(np.float32).transpose(0, 3, 1, 2)
    array = {"UINT8": rgb, "INT8": record.encode(rgb), "FP32": real}[datatype]
    tensor = {"name": "image", "datatype": datatype, "shape": list(array.shape), "data": array.tolist()}
    answer = server.client.post(INFER, json={"inputs": [tensor], "parameters": {"precision": 3}}).json()
    np.testing.assert_array_equal(output(answer, "output"), logits(server, 3, 0, 1))


def in_binary(server: Running, binary: bytes, **changes: Any) -> httpx.Response:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(binary)}}
    head = json.dumps({"inputs": [tensor], **changes}).encode()
    headers = {HEADER_LENGTH: str(len(head)), "Content-Type": "application/octet-stream"}
    return server.client.post(INFER, content=head + binary, headers=headers)


def element(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def test_binary_both_ways(server: Running) -> None:
    response = in_binary(server, element(png(3)), parameters={"binary_data_output": True, "precision": 2})
    assert response.headers["content-type"] == "application/octet-stream"
    length = int(response.headers[HEADER_LENGTH])
    answer, tail = json.loads(response.content[:length]), response.content[length:]
    first, second = answer["outputs"]
    sizes = [each["parameters"]["binary_data_size"] for each in (first, second)]
    assert sum(sizes) == len(tail)
    np.testing.assert_array_equal(np.frombuffer(tail[: sizes[0]], "<f4").reshape(first["shape"]), logits(server, 2, 3))
    (size,) = struct.unpack_from("<I", tail, sizes[0])
    assert size == sizes[1] - 4
    assert json.loads(tail[sizes[0] + 4 :])["image"] == {"width": 16, "height": 16}


def test_an_output_s_own_form_wins(server: Running) -> None:
    outputs = [{"name": "result", "parameters": {"binary_data": False}}, {"name": "output"}]
    response = in_binary(server, element(png()), outputs=outputs, parameters={"binary_data_output": True})
    length = int(response.headers[HEADER_LENGTH])
    answer = json.loads(response.content[:length])
    assert [each["name"] for each in answer["outputs"]] == ["result", "output"]
    assert "data" in answer["outputs"][0]
    assert len(response.content) - length == answer["outputs"][1]["parameters"]["binary_data_size"] == 40


def test_binary_in_and_json_out(server: Running) -> None:
    response = in_binary(server, element(png()))
    assert response.headers["content-type"] == "application/json"
    assert HEADER_LENGTH not in response.headers
    np.testing.assert_array_equal(output(response.json(), "output"), logits(server, 8, 0))


@pytest.mark.parametrize("content_type", ["image/png", "application/octet-stream", "application/x-www-form-urlencoded"])
def test_a_raw_body_is_one_image(server: Running, content_type: str) -> None:
    headers = {HEADER_LENGTH: "0", "Content-Type": content_type, "Precision": "5"}
    response = server.client.post(INFER, content=png(4), headers=headers)
    assert response.status_code == 200, response.text
    length = int(response.headers[HEADER_LENGTH])
    first = json.loads(response.content[:length])["outputs"][0]
    tail = response.content[length : length + first["parameters"]["binary_data_size"]]
    np.testing.assert_array_equal(np.frombuffer(tail, "<f4").reshape(1, 10), logits(server, 5, 4))


def test_classification(server: Running) -> None:
    outputs = [{"name": "output", "parameters": {"classification": 2}}]
    (made,) = ask(server, png(), png(1), outputs=outputs)["outputs"]
    assert (made["datatype"], made["shape"]) == ("BYTES", [2, 2])
    best = logits(server, 8, 0, 1).argsort(axis=1)[:, ::-1][:, :2].ravel().tolist()
    assert [int(text.split(":")[1]) for text in made["data"]] == best
    assert [text.split(":")[2] for text in made["data"]] == [server.master.labels[i] for i in best]


def test_controls_in_headers_query_and_parameters_are_one(server: Running) -> None:
    for headers, query, parameters in (
        ({"Precision": "3"}, {}, {}), ({}, {"precision": "3"}, {}), ({}, {}, {"precision": 3}),
        ({"Precision": "3"}, {"precision": "3"}, {"precision": "3"}),
    ):  # fmt: skip
        body = images(png(), parameters=parameters)
        answer = server.client.post(INFER, json=body, headers=headers, params=query).json()
        assert answer["parameters"]["precision"] == "3"
    body = images(png(), parameters={"precision": 4})
    answer = server.client.post(INFER, json=body, headers={"Precision": "3"})
    server.refused(answer, 400, "conflicting-controls", parameter="precision")
    body = images(png(), parameters={"device_profile": "edge-small", "precision_max": 3, "top_k": 2})
    answer = server.client.post(INFER, json=body).json()
    assert answer["parameters"]["precision"] == "3"
    assert len(output(answer, "result")[0]["predictions"]) == 2


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"precision": 9}, "precision"), ({"precision": 4.0}, "precision"), ({"precision": True}, "precision"),
        ({"precision_min": 5, "precision_max": 4}, "precision_min"), ({"more": 1}, "more"),
        ({"mask_format": "png"}, "mask_format"), ({"sequence_id": 1}, "sequence_id"), ({"timeout": -1}, "timeout"),
        ({"timeout": 1.5}, "timeout"), ({"timeout": True}, "timeout"), ({"timeout": 10**12}, "timeout"),
        ({"timeout": "soon"}, "timeout"), ({"priority": 2}, "priority"), ({"deadline_ms": 0}, "deadline_ms"),
        ({"lenient": "perhaps"}, "lenient"), ({"device_profile": "none"}, "device_profile"),
    ],
)  # fmt: skip
def test_parameters_that_are_refused(server: Running, parameters: dict[str, Any], name: str) -> None:
    answer = server.client.post(INFER, json=images(png(), parameters=parameters))
    server.refused(answer, 400, "bad-parameter", parameter=name)


def test_who_gives_an_unknown_parameter_is_told_all_known_ones(server: Running) -> None:
    answer = server.client.post(INFER, json=images(png(), parameters={"sequence_id": 1}))
    assert answer.json()["detail"].endswith(", priority, top_k, timeout, binary_data_output")


def test_a_width_that_is_not_offered(server: Running) -> None:
    body = images(png(), parameters={"precision": 8, "device_profile": "edge-small"})
    server.refused(server.client.post(INFER, json=body), 422, "width-not-offered", offered_precisions=[4, 3, 2])


def test_timeout_is_a_deadline_in_microseconds(server: Running) -> None:
    body = images(png(), parameters={"timeout": 1})
    answer = server.client.post(INFER, json=body)
    server.refused(answer, 504, "deadline-exceeded")
    assert ask(server, png(), parameters={"timeout": 10_000_000, "deadline_ms": 10_000, "priority": 1})
    assert ask(server, png(), parameters={"timeout": 0, "deadline_ms": 10_000})
    body = images(png(), parameters={"timeout": 10_000_000, "deadline_ms": 10_001})
    server.refused(server.client.post(INFER, json=body), 400, "conflicting-controls", parameter="deadline_ms")


def test_the_body_may_name_the_model_that_the_path_names(server: Running) -> None:
    assert ask(server, png(), model_name="tiny", model_version=server.version)
    for changes in ({"model_name": "other"}, {"model_version": "1"}):
        answer = server.client.post(INFER, json=images(png(), **changes))
        server.refused(answer, 400, "bad-request")


def test_requests_as_clients_with_typed_models_write_them(server: Running) -> None:
    """KServe's and MLServer's write out what was not set."""
    data = [[base64.b64encode(png()).decode()]]
    tensor = {"name": "image", "shape": [1, 1], "datatype": "BYTES", "parameters": None, "data": data}
    body = {"id": None, "parameters": None, "inputs": [tensor], "outputs": None}
    answer = server.client.post(INFER, json=body)
    assert answer.status_code == 200, answer.text
    np.testing.assert_array_equal(output(answer.json(), "output"), logits(server, 8, 0))
    wanted = [{"name": "output", "parameters": {"binary_data": None}}]
    server.refused(server.client.post(INFER, json={**body, "outputs": wanted}), 400, "bad-parameter")


def test_refusals_have_the_member_that_the_protocol_wants(server: Running) -> None:
    answer = server.client.post(INFER, json={"inputs": []})
    document = server.refused(answer, 400, "bad-request")
    assert isinstance(document["error"], str)


def test_one_bad_image_fails_its_request_alone(server: Running) -> None:
    answer = server.client.post(INFER, json=images(png(), b"no image", png()))
    server.refused(answer, 422, "undecodable-image")


def test_as_many_images_as_the_server_takes(server: Running) -> None:
    answer = ask(server, *(png(seed) for seed in range(16)))
    np.testing.assert_array_equal(output(answer, "output"), logits(server, 8, *range(16)))
    answer = server.client.post(INFER, json=images(*(png() for _ in range(17))))
    server.refused(answer, 400, "bad-tensor", tensor="image")


def test_requests_are_counted_by_their_model_s_task(every_task: Running) -> None:
    ask(every_task, encode_photo(0), path="/v2/models/areas/infer", parameters={"precision": 7})
    every_task.client.post("/v2/models/nope/infer", json=images(png()))
    metrics = every_task.client.get("/metrics").text
    labels = 'code="200",model="areas",precision="7",source="request",task="segment"'
    assert f"bitgear_requests_total{{{labels}}} 1.0" in metrics
    labels = 'code="404",model="unknown",precision="none",source="none",task="unknown"'
    assert f"bitgear_requests_total{{{labels}}}" in metrics
