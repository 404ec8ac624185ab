"""What OpenAPI says about requests. Routes read requests themselves; this documents them from the same tables."""

from collections.abc import Iterable, Mapping
from typing import Any

from server.body import JSON, MULTIPART, OCTETS, RAW_TYPES
from server.controls import Control
from server.exchange import REQUEST_ID_HEADER
from server.forms import IMAGE_FIELD
from server.tensors import BYTES, DTYPES, HEADER_LENGTH, MAX_DIMENSIONS, MAX_EXTENT, MAX_ID_CHARACTERS

MODEL_PARAMETER: dict[str, Any] = {
    "name": "model",
    "in": "path",
    "required": True,
    "description": "Name of a served model.",
    "schema": {"type": "string"},
}


VERSION_PARAMETER: dict[str, Any] = {
    "name": "version",
    "in": "path",
    "required": True,
    "description": "The version that is served: no other is kept.",
    "schema": {"type": "string"},
}


SECURITY_SCHEMES: dict[str, Any] = {
    "key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
    "bearer": {"type": "http", "scheme": "bearer"},
}
BINARY: dict[str, Any] = {"type": "string", "contentMediaType": OCTETS, "format": "binary"}
"""Bytes. The format is OpenAPI 3.0's word for them, which makers of clients still go by."""

WITH_KEY: list[dict[str, list[str]]] = [{"key": []}, {"bearer": []}]
"""The security of what takes a key. Where it need not be, an empty alternative goes with these."""


def model_request(*, versioned: bool = False) -> dict[str, Any]:
    """Return the ``openapi_extra`` of a path that names a model, and maybe its version."""
    return {"parameters": _path_parameters(versioned)}


def _path_parameters(versioned: bool) -> list[dict[str, Any]]:
    return [MODEL_PARAMETER, VERSION_PARAMETER] if versioned else [MODEL_PARAMETER]


def infer_request(controls: Mapping[str, Control], *, versioned: bool) -> dict[str, Any]:
    """Return the ``openapi_extra`` of a path that takes tensors and these controls."""
    length = {
        "name": HEADER_LENGTH,
        "in": "header",
        "required": False,
        "description": "Bytes of JSON before binary tensors; 0: the body is one image and no JSON.",
        "schema": {"type": "integer", "minimum": 0},
    }
    return {
        "parameters": [*_path_parameters(versioned), *_parameters(controls.values()), length],
        "requestBody": {
            "required": True,
            "content": {
                JSON: {"schema": _infer_schema()},
                OCTETS: {"schema": BINARY},
            },
        },
    }


def _infer_schema() -> dict[str, Any]:
    parameters = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}
    flag, name = {"type": "boolean"}, {"type": "string", "minLength": 1}
    tensor = {
        "name": name,
        "datatype": {"type": "string", "enum": [BYTES, *DTYPES]},
        "shape": {
            "type": "array",
            "items": {"type": "integer", "minimum": 1, "maximum": MAX_EXTENT},
            "minItems": 1,
            "maxItems": MAX_DIMENSIONS,
        },
        "data": {"type": "array", "items": {}, "minItems": 1},
        "parameters": object_schema({"binary_data_size": {"type": "integer", "minimum": 0}}),
    }
    wanted = {"binary_data": flag, "classification": {"type": "integer", "minimum": 1}}
    output = {"name": name, "parameters": object_schema(wanted)}
    members = {
        "id": {"type": "string", "maxLength": MAX_ID_CHARACTERS},
        "model_name": name,
        "model_version": name,
        "parameters": {**parameters, "properties": {"binary_data_output": flag}},
        "inputs": {
            "type": "array",
            "items": object_schema(tensor, "name", "datatype", "shape"),
            "minItems": 1,
            "maxItems": 1,
        },
        "outputs": {"type": "array", "items": object_schema(output, "name")},
    }
    return object_schema(members, "inputs")


def object_schema(properties: Mapping[str, Any], *required: str) -> dict[str, Any]:
    """Return the JSON schema of an object with these members and no others."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def image_request(controls: Mapping[str, Control]) -> dict[str, Any]:
    """Return the ``openapi_extra`` of a path that takes an image and these controls."""
    parts = {name: dict(control.schema) for name, control in controls.items()}
    keys = {name: _json_schema(control) for name, control in controls.items()}
    binary = {**BINARY, "minLength": 1}
    base64 = {"type": "string", "contentEncoding": "base64", "minLength": 1}
    content = {media_type: {"schema": binary} for media_type in RAW_TYPES}
    content[MULTIPART] = {"schema": _form(binary, parts)}
    content[JSON] = {"schema": _form(base64, keys)}
    return {
        "parameters": [MODEL_PARAMETER, *_parameters(controls.values())],
        "requestBody": {"required": True, "content": content},
    }


def json_request(schema: Mapping[str, Any], *, required: bool = True) -> dict[str, Any]:
    """Return the ``openapi_extra`` of a path that takes JSON."""
    return {"requestBody": {"required": required, "content": {JSON: {"schema": dict(schema)}}}}


def _form(image: dict[str, Any], fields: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return object_schema({IMAGE_FIELD: image, **fields}, IMAGE_FIELD)


def _json_schema(control: Control) -> dict[str, Any]:
    schema = dict(control.schema)
    return schema if control.json_schema is None else {"anyOf": [schema, dict(control.json_schema)]}


def _parameters(controls: Iterable[Control]) -> list[dict[str, Any]]:
    parameters = []
    for control in controls:
        places = [("query", control.name, control.schema)]
        if control.header:
            places.append(("header", control.header, control.header_schema or control.schema))
        parameters += [
            {
                "name": name,
                "in": place,
                "required": False,
                "description": control.description,
                "schema": dict(schema),
            }
            for place, name, schema in places
        ]
    parameters += [
        _header(REQUEST_ID_HEADER, "Echoed; made up if absent or unfit.", "^[A-Za-z0-9._:-]{1,128}$"),
        _header("traceparent", "W3C Trace Context: of the span that this request belongs to.", None),
    ]
    return parameters


def _header(name: str, description: str, pattern: str | None) -> dict[str, Any]:
    schema = {"type": "string"} if pattern is None else {"type": "string", "pattern": pattern}
    return {"name": name, "in": "header", "required": False, "description": description, "schema": schema}
