"""Models listed, loaded and unloaded by holders of the admin key: the protocol's repository extension."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from server import answers, errors
from server.answers import json_response
from server.errors import BadParameter, BadRequest, shown
from server.openapi import WITH_KEY, json_request, model_request, object_schema
from server.problems import documented
from server.registry import ServedModel
from server.repository import Entry
from server.routes.admin import BODY_ERRORS, read_body
from server.runtime import Runtime
from server.strict_json import parse_json

_MODEL_ERRORS = (*BODY_ERRORS, errors.UnknownModel, errors.NotReady, errors.Draining)


def repository_routes(runtime: Runtime) -> APIRouter:
    """Return the routes under ``/v2/repository``."""
    router = APIRouter(prefix="/v2/repository")

    async def read(request: Request) -> dict[str, Any]:
        """Return the JSON object in the body of a request of whoever may do this; nothing counts as an empty one."""
        body = await read_body(request, runtime)
        document = parse_json(body) if body.strip() else {}
        if not isinstance(document, dict):
            raise BadRequest("the body must be a JSON object, or nothing")
        return document

    @router.post(
        "/index",
        response_model=list[answers.RepositoryEntry],
        responses=documented(*BODY_ERRORS),
        openapi_extra={
            **json_request(object_schema({"ready": {"type": "boolean"}}), required=False),
            "security": WITH_KEY,
        },
    )
    async def repository_index(request: Request) -> Response:
        """List the models that are served, and those that could be."""
        document = await read(request)
        ready = document.pop("ready", False)
        _nothing_else(document, "ready")
        if not isinstance(ready, bool):
            raise BadRequest(f"ready is {shown(ready)}; expected true or false")
        entries = [] if ready else await runtime.repository_entries()
        return json_response(_listed(list(runtime.models), entries))

    @router.post(
        "/models/{model}/load",
        response_model=answers.LoadedModel,
        responses=documented(*_MODEL_ERRORS, errors.ModelUnusable, errors.WidthNotOffered),
        openapi_extra={**model_request(), **_parameters_request(), "security": WITH_KEY},
    )
    async def load_model(request: Request) -> Response:
        """Serve a model as its file is now, in place of the one of its name; that one serves until then."""
        _take_parameters(await read(request), ())
        model = await runtime.load(request.path_params["model"])
        return json_response({"name": model.name, "version": model.version})

    @router.post(
        "/models/{model}/unload",
        response_model=answers.UnloadedModel,
        responses=documented(*_MODEL_ERRORS),
        openapi_extra={
            **model_request(),
            **_parameters_request(unload_dependents={"type": "boolean"}),
            "security": WITH_KEY,
        },
    )
    async def unload_model(request: Request) -> Response:
        """Serve a model no more; requests that began with it are finished."""
        parameters = _take_parameters(await read(request), ("unload_dependents",))
        if not isinstance(parameters.get("unload_dependents", False), bool):  # models here have none
            raise BadParameter("unload_dependents must be true or false", "unload_dependents")
        name = request.path_params["model"]
        await runtime.unload(name)
        return json_response({"name": name})

    return router


def _parameters_request(**known: Any) -> dict[str, Any]:
    return json_request(object_schema({"parameters": object_schema(known)}), required=False)


def _listed(served: Sequence[ServedModel], entries: Sequence[Entry]) -> list[dict[str, str]]:
    names = {model.name for model in served}
    rows = [{"name": model.name, "version": model.version, "state": "READY", "reason": ""} for model in served]
    rows += [
        {"name": entry.listed, "state": "UNAVAILABLE", "reason": entry.reason or "unloaded"}
        for entry in entries
        if entry.name not in names
    ]
    return sorted(rows, key=lambda row: row["name"])


def _take_parameters(document: dict[str, Any], known: tuple[str, ...]) -> dict[str, Any]:
    parameters = document.pop("parameters", None)
    if parameters is None:
        parameters = {}
    _nothing_else(document, "parameters")
    if not isinstance(parameters, dict):
        raise BadRequest("'parameters' must be a JSON object")
    for name in parameters:
        if name not in known:
            raise BadParameter(f"parameter {shown(name)} is not taken: models are served as their files are", name[:40])
    return parameters


def _nothing_else(document: dict[str, Any], known: str) -> None:
    for name in document:
        raise BadRequest(f"the body has the key {shown(name)}; known is {known!r}")
