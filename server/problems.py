"""Errors -> status codes and ``application/problem+json`` bodies (RFC 9457). Their status codes stand here alone."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from starlette.exceptions import HTTPException
from starlette.responses import Response

from bitgear.errors import BitgearError, ImageEmpty, ImageError, ImageTooLarge
from server import errors
from server.answers import PrecisionName
from server.exchange import Exchange

MEDIA_TYPE = "application/problem+json"
URN = "urn:bitgear:problem:"


@dataclass(frozen=True)
class Problem:
    """One row: what an error becomes. ``extra`` names the members that this problem adds."""

    status: int
    name: str
    title: str
    extra: tuple[str, ...] = ()


INTERNAL = Problem(500, "internal", "The server failed")

_REFUSALS: Mapping[type[errors.RequestError], tuple[int, str, *tuple[str, ...]]] = {
    errors.BadRequest: (400, "The request is malformed"),
    errors.BadParameter: (400, "A parameter is unknown or out of range", "parameter"),
    errors.ConflictingControls: (400, "A control was given two values", "parameter"),
    errors.BadTensor: (400, "A tensor does not agree with itself or with the model", "tensor"),
    errors.UnknownModel: (404, "No such model", "models"),
    errors.UnknownPath: (404, "Nothing at this path"),
    errors.MethodNotAllowed: (405, "Method not allowed", "allowed"),
    errors.NotAcceptable: (406, "No answer of the kind that is accepted", "allowed"),
    errors.BodyTimeout: (408, "The body did not end in time", "timeout_s"),
    errors.BodyTooLarge: (413, "The body is too large", "limit_bytes"),
    errors.MediaTypeNotAccepted: (415, "Content type or encoding not accepted", "allowed"),
    errors.HeadTooLarge: (431, "The head of the request is too large", "limit_bytes"),
    errors.WidthNotOffered: (422, "The precision is not offered", "offered_precisions"),
    errors.ModelUnusable: (422, "The model cannot be loaded", "reason"),
    errors.TaskMismatch: (422, "The model does another task", "task", "route"),
    errors.Unauthorised: (401, "A key is needed"),
    errors.Forbidden: (403, "The key may not do this"),
    errors.Overloaded: (429, "The server is at its limit", "retry_after_s", "queue_depth"),
    errors.RateLimited: (429, "The key is at its limit", "retry_after_s"),
    errors.NotReady: (503, "The server is starting", "retry_after_s"),
    errors.Draining: (503, "The server is stopping", "retry_after_s"),
    errors.DeadlineExceeded: (504, "The deadline passed", "stage"),
}
"""Status, title and further members; the name is the error's code."""

_OWN: Mapping[type[Exception], Problem] = {
    cls: Problem(status, cls.code, title, tuple(extra)) for cls, (status, title, *extra) in _REFUSALS.items()
}

TABLE: Mapping[type[Exception], Problem] = {
    **_OWN,
    ImageEmpty: _OWN[errors.BadRequest],
    ImageTooLarge: Problem(413, errors.BodyTooLarge.code, "The image is too large", ("limit_pixels",)),
    ImageError: Problem(422, "undecodable-image", "The image cannot be decoded", ("reason",)),
    Exception: INTERNAL,
}


def problem_of(error: Exception) -> Problem:
    """Return the row of an error: that of its class or of its nearest base."""
    return next(TABLE[cls] for cls in type(error).__mro__ if cls in TABLE)


def translate(error: Exception, method: str, allowed: Callable[[], Iterable[str]]) -> Exception:
    """Return our own error for one that the router raised; any other error unchanged.

    ``allowed`` tells what methods the path has: the router names those of the first route alone.
    """
    if isinstance(error, HTTPException) and error.status_code == 405:
        return errors.MethodNotAllowed(method, sorted(allowed()))
    if isinstance(error, HTTPException) and error.status_code == 404:
        return errors.UnknownPath("nothing is served at this path; GET /openapi.json lists the paths")
    return error


def note(error: Exception, exchange: Exchange) -> None:
    """Note what is answered to an error."""
    exchange.problem = problem_of(error).name
    exchange.stage = _members(error).get("stage")


def respond(error: Exception, request_id: str) -> Response:
    """Return the answer to an error. Faults of the server say nothing about themselves."""
    problem = problem_of(error)
    detail = "the server failed; its log has the reason under this request id" if problem is INTERNAL else str(error)
    members = _members(error)
    document = {
        "type": URN + problem.name,
        "title": problem.title,
        "status": problem.status,
        "detail": detail,
        "instance": request_id,
        "error": detail,
        **members,
    }
    headers = {"Cache-Control": "no-store"}
    if "retry_after_s" in members:
        headers["Retry-After"] = str(members["retry_after_s"])
    if isinstance(error, errors.Unauthorised):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, errors.MethodNotAllowed):
        headers["Allow"] = ", ".join(error.members["allowed"])  # type: ignore[arg-type]
    return Response(json.dumps(document), problem.status, headers, MEDIA_TYPE)


def _members(error: Exception) -> Mapping[str, Any]:
    if isinstance(error, errors.RequestError):
        return error.members
    if isinstance(error, ImageTooLarge):
        return {"limit_pixels": error.limit_pixels}
    if isinstance(error, ImageError) and not isinstance(error, ImageEmpty):
        return {"reason": error.code}
    return {}


_MEMBER_SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "parameter": {"type": "string"},
    "tensor": {"type": "string"},
    "models": {"type": "array", "items": {"type": "string"}},
    "allowed": {"type": "array", "items": {"type": "string"}},
    "timeout_s": {"type": "number"},
    "limit_bytes": {"type": "integer"},
    "limit_pixels": {"type": "integer"},
    "reason": {"type": "string"},
    "offered_precisions": {"type": "array", "items": TypeAdapter(PrecisionName).json_schema()},
    "task": {"type": "string"},
    "route": {"type": "string"},
    "retry_after_s": {"type": "integer"},
    "queue_depth": {"type": "integer"},
    "stage": {"enum": ["queue", "infer"]},
}


def documented(*classes: type[BitgearError]) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI responses of a path that can answer with these errors, and with a fault of the server.

    They refer to the components that :func:`problem_schemas` returns.
    """
    by_status: dict[int, list[Problem]] = {}
    for problem in dict.fromkeys([*(TABLE[cls] for cls in classes), INTERNAL]):
        by_status.setdefault(problem.status, []).append(problem)
    return {
        status: {
            "description": "; ".join(f"`{problem.name}`: {problem.title}" for problem in problems),
            "content": {MEDIA_TYPE: {"schema": _one_of(dict.fromkeys(problem.name for problem in problems))}},
        }
        for status, problems in by_status.items()
    }


def problem_schemas() -> dict[str, Any]:
    """Return the OpenAPI components of all problems: one for each ``type``, called for instance ``NotReadyProblem``."""
    by_name: dict[str, list[Problem]] = {}
    for problem in dict.fromkeys(TABLE.values()):
        by_name.setdefault(problem.name, []).append(problem)
    return {_component(name): _schema(name, problems) for name, problems in by_name.items()}


def _component(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("-")) + "Problem"


def _one_of(names: Iterable[str]) -> dict[str, Any]:
    references = [{"$ref": f"#/components/schemas/{_component(name)}"} for name in names]
    return references[0] if len(references) == 1 else {"oneOf": references}


def _schema(name: str, problems: Sequence[Problem]) -> dict[str, Any]:
    """Return the schema of one ``type``; members that not all of its ``problems`` have may be absent."""
    text = {"type": "string"}
    properties: dict[str, Any] = {
        "type": {"const": URN + name},
        "title": text,
        "status": {"const": problems[0].status},
        "detail": text,
        "instance": text,
        "error": text,
    }
    further = {extra: dict(_MEMBER_SCHEMAS[extra]) for problem in problems for extra in problem.extra}
    required = [*properties, *(extra for extra in further if all(extra in problem.extra for problem in problems))]
    return {"type": "object", "properties": {**properties, **further}, "required": required}
