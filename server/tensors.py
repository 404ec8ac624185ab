"""The Open Inference Protocol v2 on the wire: requests and answers in JSON, tensors in JSON or as bytes behind it.

Sources: the protocol's REST part, and Triton's extensions ``binary_tensor_data`` and ``classification``. Nothing here
knows what a model takes and gives: that is :mod:`server.signature`.

::

    Inference-Header-Content-Length: J        absent: the body is JSON alone; 0: the body is one BYTES element alone

    |<------- J bytes ------->|<- binary_data_size ->|
    {"inputs": [{"name": ...}]}  tensor, little endian    BYTES: each element its length in 4 bytes, then itself
"""

import itertools
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.answers import to_json
from server.errors import BadParameter, BadRequest, BadTensor, shown
from server.forms import decode_base64
from server.strict_json import parse_json

HEADER_LENGTH = "Inference-Header-Content-Length"
BYTES = "BYTES"
DTYPES: Mapping[str, np.dtype[Any]] = {
    "UINT8": np.dtype(np.uint8),
    "INT8": np.dtype(np.int8),
    "FP32": np.dtype("<f4"),
}
"""Datatypes of numbers that some model here takes or gives."""

MAX_ID_CHARACTERS = 128
MAX_LENGTH_DIGITS = 19
MAX_DIMENSIONS = 4
MAX_EXTENT = 2**31 - 1

_REQUEST_KEYS = ("id", "model_name", "model_version", "parameters", "inputs", "outputs")
_INPUT_KEYS = ("name", "shape", "datatype", "parameters", "data")
_OUTPUT_KEYS = ("name", "parameters")
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor as sent. ``data``: of BYTES its elements, row by row; of numbers an array of ``shape``, all finite."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: NDArray[Any] | list[bytes]


@dataclass(frozen=True)
class RequestedOutput:
    """An output that a request names. ``binary`` None: as the request says. ``classification``: how many classes."""

    name: str
    binary: bool | None = None
    classification: int | None = None


@dataclass(frozen=True, eq=False)
class InferRequest:
    """A request: its one input; the outputs it names, none for all; its parameters but those of the protocol itself."""

    input: Tensor
    outputs: tuple[RequestedOutput, ...] = ()
    binary_outputs: bool = False
    id: str | None = None
    model_name: str | None = None
    model_version: str | None = None
    parameters: Sequence[tuple[str, object]] = ()


@dataclass(frozen=True, eq=False)
class OutputTensor:
    """An output to be sent. ``data``: float32 numbers, all finite, or the texts of a BYTES tensor, row by row."""

    name: str
    shape: tuple[int, ...]
    data: NDArray[np.float32] | Sequence[str]
    binary: bool


def header_length(headers: Iterable[tuple[bytes, bytes]]) -> int | None:
    """Return the bytes of JSON that an ASGI request (lower-case header names) announces before its binary tensors.

    None: it has no such header. Raises :class:`~server.errors.BadRequest` for what is no length, and for two headers.
    """
    key = HEADER_LENGTH.lower().encode()
    given = [value.strip() for name, value in headers if name == key]
    if not given:
        return None
    if len(given) > 1 or not given[0].isdigit() or len(given[0]) > MAX_LENGTH_DIGITS:
        listed = shown(b", ".join(given).decode("latin-1"))
        raise BadRequest(f"{HEADER_LENGTH} is {listed}; expected one number of bytes, 0 or more")
    return int(given[0])


def open_request(data: bytes, json_bytes: int | None, raw_input: str, *, binary_outputs: bool = False) -> InferRequest:
    """Return the request in a body of which the first ``json_bytes`` are JSON; None: all of it.

    0: the body is one element of the BYTES tensor ``raw_input``, and all outputs are wanted in binary.
    ``binary_outputs``: how outputs are wanted that the request says nothing about.

    Raises :class:`~server.errors.BadRequest`, :class:`~server.errors.BadParameter` or
    :class:`~server.errors.BadTensor`.
    """
    if json_bytes == 0:
        return InferRequest(Tensor(raw_input, BYTES, (1,), [data]), binary_outputs=True)
    if json_bytes is not None and json_bytes > len(data):
        raise BadRequest(f"{HEADER_LENGTH} is {json_bytes}, but the body has {len(data)} bytes")
    document = _members(parse_json(data[:json_bytes]), "the request", _REQUEST_KEYS)
    parameters = _parameters(document, "the request")
    inputs = _list(document, "inputs")
    if len(inputs) != 1:
        raise BadRequest(f"the request has {len(inputs)} inputs; models here take one")
    outputs = tuple(_requested(value) for value in _list(document, "outputs")) if "outputs" in document else ()
    if len({output.name for output in outputs}) != len(outputs):
        raise BadRequest("an output is requested twice; name it once")
    binary = data[json_bytes:] if json_bytes is not None else b""
    return InferRequest(
        _input(inputs[0], binary),
        outputs,
        binary_outputs if (flag := _flag(parameters, "binary_data_output")) is None else flag,
        _text(document, "id", MAX_ID_CHARACTERS),
        _text(document, "model_name"),
        _text(document, "model_version"),
        list(parameters.items()),
    )


def _members(value: Any, what: str, known: Sequence[str]) -> dict[str, Any]:
    """Return the members of an object; null counts as absent, as clients with typed models write it."""
    if not isinstance(value, dict):
        raise BadRequest(f"{what} must be a JSON object")
    for name in value:
        if name not in known:
            raise BadRequest(f"{what} has the key {shown(name)}; known are {', '.join(known)}")
    return {name: member for name, member in value.items() if member is not None}


def _list(document: Mapping[str, Any], name: str) -> list[Any]:
    value = document.get(name)
    if not isinstance(value, list):
        raise BadRequest(f"{name!r} must be a list")
    return value


def _text(document: Mapping[str, Any], name: str, limit: int | None = None) -> str | None:
    value = document.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or (limit is not None and len(value) > limit):
        raise BadRequest(f"{name!r} must be a string" + ("" if limit is None else f" of up to {limit} characters"))
    return value


def _name(document: Mapping[str, Any], what: str) -> str:
    name = document.get("name")
    if not isinstance(name, str) or not name:
        raise BadRequest(f"{what} needs a 'name', a string")
    return name


def _parameters(document: Mapping[str, Any], what: str) -> dict[str, Any]:
    parameters = document.get("parameters", {})
    if not isinstance(parameters, dict):
        raise BadRequest(f"'parameters' of {what} must be a JSON object")
    for name, value in parameters.items():
        if not isinstance(value, str | int | float):
            raise BadParameter(f"{shown(name)} of {what} must be a string, a number, true or false", name[:40])
    return dict(parameters)


def _flag(parameters: dict[str, Any], name: str) -> bool | None:
    """Take a parameter that is true or false; None: it is not there."""
    value = parameters.pop(name, None)
    if value is not None and not isinstance(value, bool):
        raise BadParameter(f"{name} is {shown(value)}; expected true or false", name)
    return value


def _whole(parameters: dict[str, Any], name: str, least: int) -> int | None:
    """Take a parameter that is a whole number; None: it is not there."""
    value = parameters.pop(name, None)
    if value is not None and (type(value) is not int or value < least):
        raise BadParameter(f"{name} is {shown(value)}; expected a whole number, {least} or more", name)
    return value


def _nothing_else(parameters: Mapping[str, Any], what: str, known: str) -> None:
    for name in parameters:
        raise BadParameter(f"{what} has the parameter {shown(name)}; known are {known}", name[:40])


def _requested(value: Any) -> RequestedOutput:
    members = _members(value, "an output", _OUTPUT_KEYS)
    name = _name(members, "an output")
    parameters = _parameters(members, f"output {shown(name)}")
    output = RequestedOutput(name, _flag(parameters, "binary_data"), _whole(parameters, "classification", 1))
    _nothing_else(parameters, f"output {shown(name)}", "binary_data, classification")
    return output


def _input(value: Any, binary: bytes) -> Tensor:
    members = _members(value, "an input", _INPUT_KEYS)
    name = _name(members, "an input")
    parameters = _parameters(members, f"input {shown(name)}")
    size = _whole(parameters, "binary_data_size", 0)
    _nothing_else(parameters, f"input {shown(name)}", "binary_data_size")
    datatype, shape = _datatype(members.get("datatype"), name), _shape(members.get("shape"), name)
    if size is None and binary:
        raise BadTensor(f"{len(binary)} bytes follow the JSON, and no input has binary_data_size", name[:40])
    if size is not None and "data" in members:
        raise BadTensor(f"input {shown(name)} has both data and binary_data_size; give one of them", name[:40])
    if size is not None and size != len(binary):
        raise BadTensor(
            f"input {shown(name)} has binary_data_size {shown(size)}, but {len(binary)} bytes follow the JSON; "
            f"{HEADER_LENGTH} tells where it ends",
            name[:40],
        )
    data: NDArray[Any] | list[bytes]
    if size is None:
        items = _flatten(members.get("data"), shape, name)
        data = _elements(items, name) if datatype == BYTES else _numbers(items, datatype, name).reshape(shape)
    elif datatype == BYTES:
        data = _binary_elements(binary, math.prod(shape), name)
    else:
        data = _binary_numbers(binary, datatype, shape, name)
    return Tensor(name, datatype, shape, data)


def _datatype(value: Any, name: str) -> str:
    if isinstance(value, str) and (value == BYTES or value in DTYPES):
        return value
    raise BadTensor(
        f"input {shown(name)} has datatype {shown(value)}; taken are {', '.join((BYTES, *DTYPES))}", name[:40]
    )


def _shape(value: Any, name: str) -> tuple[int, ...]:
    if (
        isinstance(value, list)
        and 1 <= len(value) <= MAX_DIMENSIONS
        and all(type(extent) is int and 1 <= extent <= MAX_EXTENT for extent in value)
    ):
        return tuple(value)
    raise BadTensor(
        f"input {shown(name)} needs a shape: a list of 1 to {MAX_DIMENSIONS} whole numbers, each 1 or more", name[:40]
    )


def _flatten(data: Any, shape: tuple[int, ...], name: str) -> list[Any]:
    """Return the items, row by row, of a tensor in JSON, nested as its shape says or flat."""
    nested = isinstance(data, list) and bool(data) and isinstance(data[0], list)
    items = [data]
    for extent in shape if nested else (math.prod(shape),):
        if not all(isinstance(item, list) and len(item) == extent for item in items):
            raise BadTensor(
                f"the data of input {shown(name)} do not have the shape {shown(list(shape))}, neither nested nor flat",
                name[:40],
            )
        items = list(itertools.chain.from_iterable(items))
    return items


def _numbers(items: list[Any], datatype: str, name: str) -> NDArray[Any]:
    dtype = DTYPES[datatype]
    floats = dtype.kind == "f"
    kind = "finite numbers" if floats else "whole numbers"
    wanted = BadTensor(f"the data of input {shown(name)} must be {kind} that {datatype} holds", name[:40])
    if not set(map(type, items)) <= ({int, float} if floats else {int}):
        raise wanted
    try:
        values = np.array(items, np.float64 if floats else np.int64)
    except OverflowError as error:
        raise wanted from error
    with np.errstate(over="ignore"):  # becomes infinite, which is looked for
        result = values.astype(dtype)
    if not np.isfinite(result).all() if floats else (result != values).any():
        raise wanted
    return result


def _elements(items: list[Any], name: str) -> list[bytes]:
    if not set(map(type, items)) <= {str}:
        raise BadTensor(f"the data of input {shown(name)} must be strings in base64", name[:40])
    return [decode_base64(item) for item in items]


def _binary_numbers(binary: bytes, datatype: str, shape: tuple[int, ...], name: str) -> NDArray[Any]:
    dtype = DTYPES[datatype]
    expected_bytes = math.prod(shape) * dtype.itemsize
    if len(binary) != expected_bytes:
        raise BadTensor(
            f"input {shown(name)} of shape {shown(list(shape))} and datatype {datatype} takes {shown(expected_bytes)} "
            f"bytes; there are {len(binary)}",
            name[:40],
        )
    values = np.frombuffer(binary, dtype).reshape(shape)
    if dtype.kind == "f" and not np.isfinite(values).all():
        raise BadTensor(f"the data of input {shown(name)} must be finite numbers", name[:40])
    return values


def _binary_elements(binary: bytes, count: int, name: str) -> list[bytes]:
    elements: list[bytes] = []
    position = 0
    while position + _LENGTH.size <= len(binary) and len(elements) < count:
        (length,) = _LENGTH.unpack_from(binary, position)
        position += _LENGTH.size + length
        if position <= len(binary):
            elements.append(binary[position - length : position])
    if position != len(binary) or len(elements) != count:
        raise BadTensor(
            f"the bytes of input {shown(name)} are not {shown(count)} elements, each its length in 4 bytes, "
            "little endian, and then itself",
            name[:40],
        )
    return elements


def word_outputs(outputs: Iterable[OutputTensor]) -> tuple[bytes, bytes]:
    """Return a JSON object with the member ``outputs`` of an answer, and the binary tensors to follow the answer."""
    described = []
    tails = []
    for output in outputs:
        numbers = isinstance(output.data, np.ndarray)
        member: dict[str, Any] = {
            "name": output.name,
            "datatype": "FP32" if numbers else BYTES,
            "shape": list(output.shape),
        }
        if output.binary:
            tails.append(_to_binary(output.data))
            member["parameters"] = {"binary_data_size": len(tails[-1])}
        else:
            member["data"] = output.data.ravel().tolist() if isinstance(output.data, np.ndarray) else list(output.data)
        described.append(member)
    return to_json({"outputs": described}), b"".join(tails)


def _to_binary(data: NDArray[np.float32] | Sequence[str]) -> bytes:
    if isinstance(data, np.ndarray):
        return data.astype(DTYPES["FP32"], copy=False).tobytes()
    encoded = [text.encode("utf-8") for text in data]
    return b"".join(_LENGTH.pack(len(element)) + element for element in encoded)
