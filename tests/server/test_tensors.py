"""Requests and answers of the Open Inference Protocol on the wire, without a server."""

import base64
import contextlib
import json
import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from server.errors import BadParameter, BadRequest, BadTensor, RequestError
from server.tensors import (
    BYTES,
    DTYPES,
    OutputTensor,
    RequestedOutput,
    Tensor,
    header_length,
    open_request,
    word_outputs,
)

STEADY = settings(derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow])
PIXELS = {"name": "image", "datatype": "UINT8", "shape": [1, 1, 2, 3], "data": [1, 2, 3, 4, 5, 255]}


def in_json(**changes: Any) -> bytes:
    return json.dumps({"inputs": [PIXELS], **changes}).encode()


def in_binary(binary: bytes, **changes: Any) -> tuple[bytes, int]:
    tensor = {**PIXELS, "parameters": {"binary_data_size": len(binary)}, **changes}
    del tensor["data"]
    head = json.dumps({"inputs": [tensor]}).encode()
    return head + binary, len(head)


def numbers(datatype: str) -> st.SearchStrategy[np.ndarray[Any, Any]]:
    finite = {"allow_nan": False, "allow_infinity": False} if datatype == "FP32" else {}
    shapes = arrays.array_shapes(min_dims=1, max_dims=4, max_side=5)
    return arrays.arrays(DTYPES[datatype], shapes, elements=arrays.from_dtype(DTYPES[datatype], **finite))


def check_same(tensor: Tensor, array: np.ndarray[Any, Any]) -> None:
    assert tensor.shape == array.shape
    assert isinstance(tensor.data, np.ndarray)
    assert tensor.data.dtype == array.dtype
    np.testing.assert_array_equal(tensor.data, array)


@STEADY
@given(st.sampled_from(sorted(DTYPES)).flatmap(lambda name: st.tuples(st.just(name), numbers(name))), st.booleans())
def test_numbers_come_back_from_json_nested_or_flat(given_: tuple[str, np.ndarray[Any, Any]], nested: bool) -> None:
    datatype, array = given_
    data = array.tolist() if nested else array.ravel().tolist()
    tensor = {"name": "image", "datatype": datatype, "shape": list(array.shape), "data": data}
    check_same(open_request(json.dumps({"inputs": [tensor]}).encode(), None, "image").input, array)


@STEADY
@given(st.sampled_from(sorted(DTYPES)).flatmap(lambda name: st.tuples(st.just(name), numbers(name))))
def test_numbers_come_back_from_bytes(given_: tuple[str, np.ndarray[Any, Any]]) -> None:
    datatype, array = given_
    body, json_bytes = in_binary(array.tobytes(), datatype=datatype, shape=list(array.shape))
    check_same(open_request(body, json_bytes, "image").input, array)


@STEADY
@given(st.lists(st.binary(max_size=20), min_size=1, max_size=6), st.booleans())
def test_elements_come_back_from_bytes(elements: list[bytes], column: bool) -> None:
    shape = [len(elements), 1] if column else [len(elements)]
    binary = b"".join(struct.pack("<I", len(element)) + element for element in elements)
    body, json_bytes = in_binary(binary, datatype=BYTES, shape=shape)
    tensor = open_request(body, json_bytes, "image").input
    assert tensor.shape == tuple(shape)
    assert tensor.data == elements


@STEADY
@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=6))
def test_elements_come_back_from_base64(elements: list[bytes]) -> None:
    data = [base64.b64encode(element).decode() for element in elements]
    tensor = {"name": "image", "datatype": BYTES, "shape": [len(elements)], "data": data}
    assert open_request(json.dumps({"inputs": [tensor]}).encode(), None, "image").input.data == elements


def test_a_raw_body_is_one_element_and_all_outputs_are_binary() -> None:
    request = open_request(b'{"inputs": []}', 0, "image")
    assert (request.input.name, request.input.datatype, request.input.shape) == ("image", BYTES, (1,))
    assert request.input.data == [b'{"inputs": []}']
    assert request.binary_outputs
    assert request.outputs == ()


def test_everything_that_a_request_can_say() -> None:
    request = open_request(
        in_json(
            id="a b",
            model_name="m",
            model_version="1",
            parameters={"binary_data_output": True, "precision": 4, "lenient": True},
            outputs=[
                {"name": "a", "parameters": {"binary_data": False, "classification": 3}},
                {"name": "b", "parameters": None},
                {"name": "c"},
            ],
        ),
        None,
        "image",
    )
    assert (request.id, request.model_name, request.model_version) == ("a b", "m", "1")
    assert request.binary_outputs
    assert request.parameters == [("precision", 4), ("lenient", True)]
    assert request.outputs == (RequestedOutput("a", False, 3), RequestedOutput("b"), RequestedOutput("c"))


def test_null_counts_as_absent() -> None:
    request = open_request(in_json(id=None, parameters=None, outputs=None, model_name=None), None, "image")
    assert (request.id, request.outputs, request.binary_outputs, list(request.parameters)) == (None, (), False, [])


@pytest.mark.parametrize("value", [b"12", b" 12 ", b"0012"])
def test_a_header_length(value: bytes) -> None:
    assert header_length([(b"host", b"x"), (b"inference-header-content-length", value)]) == 12


def test_no_header_length() -> None:
    assert header_length([(b"content-length", b"12")]) is None


@pytest.mark.parametrize("value", [b"", b"-1", b"+1", b"1.0", b"0x1", b"1e2", b"1 2", b"\xb2", b"9" * 20, b"x"])
def test_header_lengths_that_are_none(value: bytes) -> None:
    with pytest.raises(BadRequest, match="Inference-Header-Content-Length"):
        header_length([(b"inference-header-content-length", value)])


def test_two_header_lengths() -> None:
    with pytest.raises(BadRequest):
        header_length([(b"inference-header-content-length", b"1")] * 2)


@pytest.mark.parametrize("json_bytes", [10**6, 10**18])
def test_a_header_length_beyond_the_body(json_bytes: int) -> None:
    with pytest.raises(BadRequest, match="but the body has"):
        open_request(in_json(), json_bytes, "image")


@pytest.mark.parametrize(
    "document",
    [
        [], "x", 4, None, {}, {"inputs": None}, {"inputs": []}, {"inputs": {}}, {"inputs": "image"},
        {"inputs": [PIXELS, PIXELS]}, {"inputs": [4]}, {"inputs": [[PIXELS]]}, {"inputs": [{**PIXELS, "name": ""}]},
        {"inputs": [{**PIXELS, "name": 4}]}, {"inputs": [{**PIXELS, "more": 4}]}, {"inputs": [PIXELS], "more": 4},
        {"inputs": [PIXELS], "id": 4}, {"inputs": [PIXELS], "id": "x" * 129}, {"inputs": [PIXELS], "model_name": 4},
        {"inputs": [PIXELS], "parameters": []}, {"inputs": [{**PIXELS, "parameters": 4}]},
        {"inputs": [PIXELS], "outputs": {}}, {"inputs": [PIXELS], "outputs": ["a"]},
        {"inputs": [PIXELS], "outputs": [{}]}, {"inputs": [PIXELS], "outputs": [{"name": "a", "data": []}]},
        {"inputs": [PIXELS], "outputs": [{"name": "a"}, {"name": "b"}, {"name": "a"}]},
    ],
)  # fmt: skip
def test_requests_that_are_none(document: object) -> None:
    with pytest.raises(BadRequest):
        open_request(json.dumps(document).encode(), None, "image")


@pytest.mark.parametrize(
    ("where", "parameters"),
    [
        ("request", {"x": [4]}), ("request", {"x": {"y": 4}}), ("request", {"x": None}),
        ("request", {"binary_data_output": 1}), ("request", {"binary_data_output": "true"}),
        ("input", {"binary_data_size": -1}), ("input", {"binary_data_size": "6"}), ("input", {"binary_data_size": 6.0}),
        ("input", {"binary_data_size": True}), ("input", {"content_type": "np"}), ("input", {"binary_data_size": [6]}),
        ("output", {"binary_data": 1}), ("output", {"classification": 0}), ("output", {"classification": -3}),
        ("output", {"classification": True}), ("output", {"classification": "3"}), ("output", {"shared_memory": "x"}),
    ],
)  # fmt: skip
def test_parameters_that_are_none(where: str, parameters: dict[str, object]) -> None:
    document = {
        "request": {"inputs": [PIXELS], "parameters": parameters},
        "input": {"inputs": [{**PIXELS, "parameters": parameters}]},
        "output": {"inputs": [PIXELS], "outputs": [{"name": "a", "parameters": parameters}]},
    }[where]
    with pytest.raises(BadParameter) as caught:
        open_request(json.dumps(document).encode(), None, "image")
    assert caught.value.members == {"parameter": next(iter(parameters))}


@pytest.mark.parametrize(
    "changes",
    [
        {"datatype": "UINT16"}, {"datatype": "uint8"}, {"datatype": None}, {"datatype": ["UINT8"]}, {"datatype": 8},
        {"shape": None}, {"shape": []}, {"shape": 6}, {"shape": "6"}, {"shape": [-6]}, {"shape": [-1, -6]},
        {"shape": [0]}, {"shape": [6.0]}, {"shape": ["6"]}, {"shape": [True, 6]}, {"shape": [[6]]}, {"shape": [None]},
        {"shape": [1, 1, 1, 1, 6]}, {"shape": [6] + [1] * 10_000}, {"shape": [2**31]},
        {"shape": [2**62, 4, 1]}, {"shape": [2**32, 2**32]}, {"shape": [10**4000]}, {"shape": [7]}, {"shape": [1, 5]},
        {"data": None}, {"data": []}, {"data": {}}, {"data": "abcdef"}, {"data": 4}, {"data": [1, 2, 3, 4, 5]},
        {"data": [1, 2, 3, 4, 5, 256]}, {"data": [1, 2, 3, 4, 5, -1]}, {"data": [1, 2, 3, 4, 5, 6.0]},
        {"data": [1, 2, 3, 4, 5, "6"]}, {"data": [1, 2, 3, 4, 5, True]}, {"data": [1, 2, 3, 4, 5, None]},
        {"data": [1, 2, 3, 4, 5, [6]]}, {"data": [[1, 2, 3], [4, 5, 6]]}, {"data": [[[[1, 2, 3], [4, 5]]]]},
        {"data": [[[[1, 2, 3], [4, 5, 6, 7]]]]}, {"data": [[[[1, 2, 3], 4]]]}, {"data": [[[[[1], [2], [3]], 4]]]},
        {"data": [1, 2, 3, 4, 5, 10**30]}, {"data": [1, 2, 3, 4, 5, 2**63]}, {"data": [1, 2, 3, 4, 5, {}]},
        {"datatype": "INT8", "data": [1, 2, 3, 4, 5, 128]}, {"datatype": "INT8", "data": [1, 2, 3, 4, 5, -129]},
        {"datatype": "FP32", "data": [1, 2, 3, 4, 5, 1e39]}, {"datatype": "FP32", "data": [1, 2, 3, 4, 5, 10**400]},
        {"datatype": "FP32", "data": [1, 2, 3, 4, 5, "NaN"]}, {"datatype": "FP32", "data": [1, 2, 3, 4, 5, False]},
        {"datatype": "BYTES", "shape": [1], "data": [4]}, {"datatype": "BYTES", "shape": [1], "data": ["QUJD", "QUJD"]},
        {"datatype": "BYTES", "shape": [1], "data": "QUJD"}, {"datatype": "BYTES", "shape": [1], "data": [["QUJD"]]},
        {"datatype": "BYTES", "shape": [2], "data": [["QUJD"], ["QUJD"]]}, {"datatype": "BYTES", "shape": [1, 1]},
        {"datatype": "BYTES", "shape": [1], "data": [{"b64": "QUJD"}]},
        {"parameters": {"binary_data_size": 6}},
    ],
)  # fmt: skip
def test_tensors_in_json_that_are_none(changes: dict[str, Any]) -> None:
    body = json.dumps({"inputs": [{**PIXELS, **changes}]}).encode()
    with pytest.raises(BadTensor) as caught:
        open_request(body, None, "image")
    assert caught.value.members == {"tensor": "image"}
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_numbers_that_json_or_fp32_do_not_have(number: str) -> None:
    body = json.dumps({"inputs": [{**PIXELS, "datatype": "FP32"}]}).replace("255", number).encode()
    with pytest.raises((BadRequest, BadTensor)):
        open_request(body, None, "image")


@pytest.mark.parametrize("depth", [5, 50, 120, 100_000])
def test_data_that_are_nested_deeper_than_their_shape(depth: int) -> None:
    body = in_json().replace(b"[1, 2, 3, 4, 5, 255]", b"[" * depth + b"1" + b"]" * depth)
    with pytest.raises((BadRequest, BadTensor)):
        open_request(body, None, "image")


@pytest.mark.parametrize(
    ("binary", "changes"),
    [
        (b"", {}), (b"12345", {}), (b"1234567", {}), (b"123456", {"shape": [7]}),
        (b"123456", {"shape": [2**31 - 1] * 4}),
        (b"123456", {"datatype": "FP32"}), (b"123456", {"parameters": {}}), (b"123456", {"parameters": None}),
        (b"123456", {"parameters": {"binary_data_size": 5}}), (b"123456", {"parameters": {"binary_data_size": 7}}),
        (b"123456", {"parameters": {"binary_data_size": 10**4000}}),
        (struct.pack("<6f", 1, 2, 3, 4, 5, math.nan), {"datatype": "FP32"}),
        (struct.pack("<6f", 1, 2, 3, 4, 5, -math.inf), {"datatype": "FP32"}),
        (b"", {"datatype": BYTES, "shape": [1]}), (b"\1\0\0", {"datatype": BYTES, "shape": [1]}),
        (b"\1\0\0\0", {"datatype": BYTES, "shape": [1]}), (b"\1\0\0\0xy", {"datatype": BYTES, "shape": [1]}),
        (b"\1\0\0\0x", {"datatype": BYTES, "shape": [2]}), (b"\1\0\0\0x" * 2, {"datatype": BYTES, "shape": [1]}),
        (b"\xff\xff\xff\xffx", {"datatype": BYTES, "shape": [1]}),
        (b"\xff\xff\xff\x7f" * 4, {"datatype": BYTES, "shape": [2**31 - 1]}),
    ],
)  # fmt: skip
def test_binary_tensors_that_are_none(binary: bytes, changes: dict[str, Any]) -> None:
    body, json_bytes = in_binary(binary, **changes)
    with pytest.raises(BadTensor) as caught:
        open_request(body, json_bytes, "image")
    assert len(str(caught.value)) < 300


def test_both_data_and_binary_data() -> None:
    body = json.dumps({"inputs": [{**PIXELS, "parameters": {"binary_data_size": 6}}]}).encode()
    with pytest.raises(BadTensor, match="both"):
        open_request(body + b"123456", len(body), "image")


def test_bytes_behind_json_that_no_input_has() -> None:
    with pytest.raises(BadTensor, match="6 bytes follow"):
        open_request(in_json() + b"123456", len(in_json()), "image")


def test_a_header_length_that_cuts_the_json() -> None:
    body, json_bytes = in_binary(b"123456")
    for wrong in (1, json_bytes - 1, json_bytes + 1, len(body)):
        with pytest.raises(RequestError):
            open_request(body, wrong, "image")


@STEADY
@given(st.binary(max_size=300), st.one_of(st.none(), st.integers(0, 400)))
def test_any_bytes_are_a_request_or_refused_by_name(data: bytes, json_bytes: int | None) -> None:
    with contextlib.suppress(RequestError):
        open_request(data, json_bytes, "image")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@STEADY
@given(
    st.dictionaries(st.sampled_from(["name", "shape", "datatype", "parameters", "data"]), JSON_VALUES),
    st.dictionaries(st.sampled_from(["id", "parameters", "outputs", "model_name"]), JSON_VALUES),
)
def test_any_values_are_a_request_or_refused_by_name(tensor: dict[str, Any], rest: dict[str, Any]) -> None:
    try:
        open_request(json.dumps({"inputs": [{**PIXELS, **tensor}], **rest}).encode(), None, "image")
    except RequestError as error:
        json.dumps(error.members)
        str(error).encode()


@STEADY
@given(
    arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=2, max_dims=4, max_side=4),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    ),
    st.lists(st.text(st.characters(codec="utf-8"), max_size=10), min_size=1, max_size=4),
    st.booleans(),
    st.booleans(),
)
def test_answers(array: np.ndarray[Any, Any], texts: list[str], binary_numbers: bool, binary_texts: bool) -> None:
    head, tail = word_outputs(
        [
            OutputTensor("output", array.shape, array, binary_numbers),
            OutputTensor("result", (len(texts),), texts, binary_texts),
        ]
    )
    first, second = json.loads(head)["outputs"]
    assert (first["name"], first["datatype"], first["shape"]) == ("output", "FP32", list(array.shape))
    assert (second["name"], second["datatype"], second["shape"]) == ("result", BYTES, [len(texts)])
    if binary_numbers:
        assert first["parameters"] == {"binary_data_size": array.nbytes}
        assert tail[: array.nbytes] == array.tobytes()
        tail = tail[array.nbytes :]
    else:
        assert np.array_equal(np.array(first["data"], np.float32).reshape(array.shape), array)
    encoded = b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)
    if binary_texts:
        assert second["parameters"] == {"binary_data_size": len(encoded)}
        assert tail == encoded
    else:
        assert second["data"] == texts
        assert tail == b""
