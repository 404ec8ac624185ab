"""What OpenAPI says about requests. Routes read requests themselves; this documents them from the same tables."""

from typing import Any

from server.body import JSON, MULTIPART, RAW_TYPES
from server.exchange import REQUEST_ID_HEADER
from server.forms import IMAGE_FIELD
from server.precision import CONTROLS

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


def image_request() -> dict[str, Any]:
    """Return the ``openapi_extra`` of a path that takes an image and controls."""
    fields = {name: dict(control.schema) for name, control in CONTROLS.items()}
    binary = {"type": "string", "contentMediaType": "application/octet-stream", "minLength": 1}
    base64 = {"type": "string", "contentEncoding": "base64", "minLength": 1}
    content = {media_type: {"schema": binary} for media_type in RAW_TYPES}
    content[MULTIPART] = {"schema": _form(binary, fields)}
    content[JSON] = {"schema": _form(base64, fields)}
    return {
        "parameters": [MODEL_PARAMETER, *_parameters()],
        "requestBody": {"required": True, "content": content},
    }


def _form(image: dict[str, Any], fields: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {IMAGE_FIELD: image, **fields},
        "required": [IMAGE_FIELD],
        "additionalProperties": False,
    }


def _parameters() -> list[dict[str, Any]]:
    parameters = []
    for control in CONTROLS.values():
        places = [("query", control.name)] + ([("header", control.header)] if control.header else [])
        parameters += [
            {
                "name": name,
                "in": place,
                "required": False,
                "description": control.description,
                "schema": dict(control.schema),
            }
            for place, name in places
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
