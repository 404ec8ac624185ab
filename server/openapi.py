"""What OpenAPI says about requests. Routes read requests themselves; this documents them from the same tables."""

from collections.abc import Iterable, Mapping
from typing import Any

from server.body import JSON, MULTIPART, RAW_TYPES
from server.controls import Control
from server.exchange import REQUEST_ID_HEADER
from server.forms import IMAGE_FIELD

MODEL_PARAMETER: dict[str, Any] = {
    "name": "model",
    "in": "path",
    "required": True,
    "description": "Name of a served model.",
    "schema": {"type": "string"},
}


def model_request() -> dict[str, Any]:
    """Return the ``openapi_extra`` of a path that names a model."""
    return {"parameters": [MODEL_PARAMETER]}


def image_request(controls: Mapping[str, Control]) -> dict[str, Any]:
    """Return the ``openapi_extra`` of a path that takes an image and these controls."""
    parts = {name: dict(control.schema) for name, control in controls.items()}
    keys = {name: _json_schema(control) for name, control in controls.items()}
    binary = {"type": "string", "contentMediaType": "application/octet-stream", "minLength": 1}
    base64 = {"type": "string", "contentEncoding": "base64", "minLength": 1}
    content = {media_type: {"schema": binary} for media_type in RAW_TYPES}
    content[MULTIPART] = {"schema": _form(binary, parts)}
    content[JSON] = {"schema": _form(base64, keys)}
    return {
        "parameters": [MODEL_PARAMETER, *_parameters(controls.values())],
        "requestBody": {"required": True, "content": content},
    }


def _form(image: dict[str, Any], fields: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {IMAGE_FIELD: image, **fields},
        "required": [IMAGE_FIELD],
        "additionalProperties": False,
    }


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
    parameters.append(
        {
            "name": REQUEST_ID_HEADER,
            "in": "header",
            "required": False,
            "description": "Echoed; made up if absent or unfit.",
            "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"},
        }
    )
    return parameters
