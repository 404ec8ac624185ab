"""NVIDIA's client of the Open Inference Protocol, used as its own documentation uses it, against this server."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from bitgear import __version__, reference
from tests.serving import Running, pixels, png, running
from tests.task_masters import areas_master, boxes_master

KEY = "the admin key"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("triton"), further=(boxes_master(), areas_master()), admin_key=KEY) as server:
        yield server


@pytest.fixture
def client(server: Running) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        yield client


def files(*seeds: int, column: bool = False) -> InferInput:
    elements = [png(seed) for seed in seeds]
    array = np.array([[each] for each in elements] if column else elements, dtype=np.object_)
    tensor = InferInput("image", list(array.shape), "BYTES")
    tensor.set_data_from_numpy(array)
    return tensor


def array_input(array: np.ndarray[Any, Any], datatype: str, binary: bool) -> InferInput:
    tensor = InferInput("image", list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def logits(server: Running, bits: int, *seeds: int) -> Any:
    rgb = np.stack([pixels(seed) for seed in seeds])
    return reference.run(server.master, server.master.input.encode(rgb), bits)


@pytest.mark.parametrize(
    ("path", "member"), [("health/live", "live"), ("health/ready", "ready"), ("models/tiny/ready", "ready")]
)
def test_health_says_what_clients_of_the_protocol_read(server: Running, path: str, member: str) -> None:
    """KServe's client looks at the body alone."""
    assert server.client.get(f"/v2/{path}").json()[member] is True


def test_health_and_metadata(server: Running, client: InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", server.version)
    assert not client.is_model_ready("nope")
    assert not client.is_model_ready("tiny", "1")
    described = client.get_server_metadata()
    assert (described["name"], described["version"]) == ("bitgear", __version__)
    assert client.get_model_metadata("boxes")["outputs"][0]["shape"] == [-1, 8, 6, 8]
    assert client.get_model_metadata("tiny", server.version)["versions"] == [server.version]


@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("binary", [False, True])
def test_images(server: Running, client: InferenceServerClient, column: bool, binary: bool) -> None:
    wanted = [InferRequestedOutput("output", binary_data=binary), InferRequestedOutput("result", binary_data=binary)]
    parameters = {"precision": "4", "top_k": 3}
    result = client.infer("tiny", [files(1, 2, column=column)], outputs=wanted, request_id="7", parameters=parameters)
    np.testing.assert_array_equal(result.as_numpy("output"), logits(server, 4, 1, 2))
    found = [json.loads(text) for text in result.as_numpy("result")]
    assert [len(each["predictions"]) for each in found] == [3, 3]
    answer = result.get_response()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("7", "tiny", server.version)
    assert answer["parameters"]["precision"] == "4"
    assert answer["parameters"]["precision_source"] == "request"


def test_without_outputs_all_come_back_in_binary(server: Running, client: InferenceServerClient) -> None:
    result = client.infer("tiny", [files(5)], model_version=server.version, headers={"Precision": "2"})
    np.testing.assert_array_equal(result.as_numpy("output"), logits(server, 2, 5))
    assert json.loads(result.as_numpy("result")[0])["image"] == {"width": 16, "height": 16}


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("datatype", ["UINT8", "INT8", "FP32"])
def test_tensors(server: Running, client: InferenceServerClient, datatype: str, binary: bool) -> None:
    rgb = np.stack([pixels(seed) for seed in (3, 4)])
    record = server.master.input
    real = ((rgb / 255 - np.array(record.mean)) / np.array(record.std)).transpose(0, 3, 1, 2).astype(np.float32)
    array = {"UINT8": rgb, "INT8": record.encode(rgb), "FP32": np.ascontiguousarray(real)}[datatype]
    result = client.infer("tiny", [array_input(array, datatype, binary)], query_params={"precision": "6"})
    np.testing.assert_array_equal(result.as_numpy("output"), logits(server, 6, 3, 4))


def test_classification(server: Running, client: InferenceServerClient) -> None:
    wanted = [InferRequestedOutput("output", class_count=3)]
    classes = client.infer("tiny", [files(1, 2)], outputs=wanted).as_numpy("output")
    assert classes.shape == (2, 3)
    value, index, label = classes[0, 0].decode().split(":")
    best = logits(server, 8, 1, 2)[0]
    assert int(index) == best.argmax()
    assert float(value) == pytest.approx(best.max(), abs=1e-6)
    assert label == server.master.labels[int(index)]


@pytest.mark.parametrize(("model", "member"), [("boxes", "detections"), ("areas", "mask")])
def test_other_tasks(server: Running, client: InferenceServerClient, model: str, member: str) -> None:
    result = client.infer(model, [files(1, 2, 3)], outputs=[InferRequestedOutput("result")])
    assert all(member in json.loads(text) for text in result.as_numpy("result"))
    assert result.as_numpy("output") is None


def test_deadline_and_priority(server: Running, client: InferenceServerClient) -> None:
    assert client.infer("tiny", [files(1)], timeout=10_000_000, priority=1)
    with pytest.raises(InferenceServerException) as caught:
        client.infer("tiny", [files(1)], timeout=1)
    assert caught.value.status() == "504"


def test_refusals_reach_the_caller_as_messages(server: Running, client: InferenceServerClient) -> None:
    for call, status, said in (
        (lambda: client.infer("nope", [files(1)]), "404", "no model is named 'nope'"),
        (lambda: client.infer("tiny", [files(1)], parameters={"precision": 9}), "400", "precision '9'"),
        (lambda: client.infer("tiny", [files(1)], sequence_id=5), "400", "'sequence_id' is unknown"),
        (lambda: client.infer("tiny", [files(1)], outputs=[InferRequestedOutput("x")]), "400", "no output 'x'"),
        (
            lambda: client.infer("tiny", [array_input(np.zeros((1, 3, 8, 8), np.float32), "FP32", True)]),
            "400",
            "is no form of 'image'",
        ),
    ):
        with pytest.raises(InferenceServerException) as caught:
            call()
        assert caught.value.status() == status
        assert said in caught.value.message()
    server.good()


def test_models_come_and_go(server: Running, client: InferenceServerClient) -> None:
    admin = {"X-Api-Key": KEY}
    client.unload_model("areas", headers=admin)
    assert not client.is_model_ready("areas")
    states = {row["name"]: row["state"] for row in client.get_model_repository_index(headers=admin)}
    assert states == {"tiny": "READY", "boxes": "READY", "areas": "UNAVAILABLE"}
    client.load_model("areas", headers=admin)
    assert client.is_model_ready("areas")
    with pytest.raises(InferenceServerException) as caught:
        client.load_model("areas", headers=admin, config="{}")
    assert caught.value.status() == "400"
    with pytest.raises(InferenceServerException) as caught:
        client.unload_model("areas")
    assert caught.value.status() == "401"


def test_many_at_once_each_get_their_own_answer(server: Running) -> None:
    with InferenceServerClient(f"127.0.0.1:{server.port}", concurrency=4) as client:
        waiting = [
            (bits, seed, client.async_infer("tiny", [files(seed)], parameters={"precision": bits}))
            for seed in range(4)
            for bits in (8, 6, 4, 2)
        ]
        for bits, seed, request in waiting:
            np.testing.assert_array_equal(request.get_result().as_numpy("output"), logits(server, bits, seed))
