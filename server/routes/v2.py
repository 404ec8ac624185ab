"""The Open Inference Protocol v2 over REST: what the server and its models are, and inference on tensors."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray

from bitgear import __version__
from server import answers, errors
from server.body import JSON, OCTETS, receive_body
from server.controls import Controls, add_controls, whole
from server.errors import BadParameter, BadRequest, UnknownVersion, shown
from server.exchange import Exchange
from server.metrics import UNKNOWN, Metrics
from server.middleware import Endpoint
from server.negotiation import preferred_type
from server.openapi import BINARY, infer_request, model_request
from server.pixels import Room
from server.precision import MAX_DEADLINE_MS, Wish, to_wish
from server.problems import documented
from server.registry import ServedModel
from server.requests import Inference, Work
from server.routes.inference import REFUSALS, answer_headers, begin, serve, timing_ms
from server.runtime import Runtime
from server.signature import INPUT, describe_tensors, make_outputs, resolve_outputs, to_network
from server.tasks import TASKS
from server.tensors import HEADER_LENGTH, header_length, open_request, word_outputs

EXTENSIONS = ("binary_tensor_data", "classification", "model_repository", "bit_width")
"""The last one is bitgear's own: parameters that choose a precision."""
PLATFORM = "bitgear_safetensors"
VERSION_PATH = "/versions/{version}"
INFER_ENDS = ("/v2/models/", "infer")
"""The two ends of the path of inference, the model between them."""

_microseconds = whole(0, MAX_DEADLINE_MS * 1000)


def v2_routes(runtime: Runtime, infer: Endpoint) -> APIRouter:
    """Return the protocol's routes but those of health and of the repository, ``infer`` being that of inference."""
    router = APIRouter()

    @router.get("/v2", response_model=answers.ServerMetadata, responses=documented())
    async def describe_server() -> Response:
        """Describe the server: its name, its version and the protocol's extensions that it has."""
        return answers.json_response({"name": "bitgear", "version": __version__, "extensions": EXTENSIONS})

    @router.get("/v2/models", response_model=answers.ModelNames, responses=documented())
    async def list_model_names() -> Response:
        """List the names of the served models."""
        return answers.json_response({"models": runtime.models.names})

    for suffix in ("", VERSION_PATH):
        _add_model_routes(router, "/v2/models/{model}" + suffix, runtime, infer)
    return router


def _add_model_routes(router: APIRouter, path: str, runtime: Runtime, infer: Endpoint) -> None:
    versioned = path.endswith(VERSION_PATH)
    named = "_version" if versioned else ""

    @router.get(
        path,
        name=f"model{named}_metadata",
        response_model=answers.ModelMetadata,
        responses=documented(errors.UnknownModel),
        openapi_extra=model_request(versioned=versioned),
    )
    async def describe_model(request: Request) -> Response:
        """Describe the tensors of a model."""
        return answers.json_response(_metadata(_served(runtime, request)))

    @router.get(
        path + "/ready",
        name=f"model{named}_ready",
        response_model=answers.ModelReady,
        responses=documented(errors.UnknownModel, errors.NotReady, errors.Draining),
        openapi_extra=model_request(versioned=versioned),
    )
    async def ready(request: Request) -> Response:
        """Answer 200 while a model can be asked."""
        model = _served(runtime, request)
        runtime.check_ready()
        return answers.json_response({"name": model.name, "ready": True})

    router.add_api_route(
        path + "/infer",
        infer,
        methods=["POST"],
        name=f"model{named}_infer",
        response_model=answers.InferAnswer,
        responses={
            200: {"content": {OCTETS: {"schema": BINARY}}},
            **documented(*REFUSALS, errors.BadTensor),
        },
        openapi_extra=infer_request(
            {name: control for task in TASKS.values() for name, control in task.controls.items()}, versioned=versioned
        ),
    )


def infer_endpoint(runtime: Runtime, metrics: Metrics) -> Endpoint:
    """Return what answers inference requests, with a version in their path or without."""

    async def infer(request: Request) -> Response:
        """Infer from tensors, as JSON or in binary, at the precision asked for."""
        name = request.path_params["model"]
        task_name = runtime.models.get(name).master.task if name in runtime.models else UNKNOWN
        exchange = begin(request, runtime, metrics, task_name)
        model = _served(runtime, request)
        task, settings = TASKS[model.master.task], runtime.settings
        json_bytes = header_length(request.scope["headers"])
        binary_outputs = preferred_type(request.scope["headers"], (JSON, OCTETS)) == OCTETS

        async def receive(note: Callable[[int], None]) -> bytes:
            return await receive_body(
                request.scope["headers"], request.receive, settings.max_body_bytes, settings.body_timeout_s, note
            )

        def prepare(body: bytes, controls: Controls, known: Callable[[Wish], None], room: Room) -> Work[_Answer]:
            return _open(model, body, json_bytes, binary_outputs, controls, known, room)

        inference = await serve(request, runtime, model, task, receive, prepare)
        return _answer(model, inference, exchange)

    return infer


def _served(runtime: Runtime, request: Request) -> ServedModel:
    model = runtime.models.get(request.path_params["model"])
    version = request.path_params.get("version", model.version)
    if version != model.version:
        raise UnknownVersion(model.name, version, model.version)
    return model


def _metadata(model: ServedModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": PLATFORM,
        **describe_tensors(model.master),
        "parameters": {
            "task": model.master.task,
            "precisions": ",".join(map(str, errors.listed(rung.said for rung in model.ladder.rungs))),
            "max_images": model.ladder.max_batch,
        },
    }


FURTHER = ("timeout", "binary_data_output")
"""Parameters of the protocol's own."""


@dataclass(frozen=True)
class _Answer:
    """What a worker made of the outputs: the request's id, and the member ``outputs`` with the tensors behind it."""

    id: str | None
    outputs: bytes
    binary: bytes


def _open(
    model: ServedModel,
    body: bytes,
    json_bytes: int | None,
    binary_outputs: bool,
    controls: Controls,
    known: Callable[[Wish], None],
    room: Room,
) -> Work[_Answer]:
    """Make a request ready for the engine. Decodes images, once ``known`` was told: not for the event loop."""
    master = model.master
    task = TASKS[master.task]
    request = open_request(body, json_bytes, INPUT, binary_outputs=binary_outputs)
    for given, own in ((request.model_name, model.name), (request.model_version, model.version)):
        if given not in (None, own):
            raise BadRequest(f"the body asks for {shown(given)}, but the path for {own}; leave it out of the body")
    controls = add_controls(task.controls, controls, _as_controls(request.parameters), FURTHER)
    wish = to_wish(controls)
    options = task.options(controls, master.labels)
    wanted = resolve_outputs(request, master)
    known(wish)
    network_input = to_network(request.input, task, master.input, room, model.ladder.max_batch)
    request_id = request.id  # what was sent must not wait in the queue

    def finish(output: NDArray[np.float32]) -> _Answer:
        return _Answer(request_id, *word_outputs(make_outputs(wanted, output, network_input, task, master, options)))

    return Work(wish, network_input.q_image, finish)


def _as_controls(parameters: Iterable[tuple[str, object]]) -> Iterator[tuple[str, object]]:
    """Give parameters as controls: ``timeout``, microseconds, is a deadline, and 0 of it is none."""
    for name, value in parameters:
        if name != "timeout":
            yield name, value
            continue
        try:
            timeout_us = _microseconds(value)
        except ValueError as error:
            raise BadParameter(f"timeout {shown(value)}: {error}, in microseconds", "timeout") from error
        if timeout_us:
            yield "deadline_ms", timeout_us / 1000


def _answer(model: ServedModel, inference: Inference[_Answer], exchange: Exchange) -> Response:
    answer, served, timing = inference.answer, inference.served, timing_ms(exchange)
    first = {
        "model_name": model.name,
        "model_version": model.version,
        "id": exchange.request_id if answer.id is None else answer.id,
        "parameters": {
            "precision": served.rung.precision,
            "precision_requested": inference.asked,
            "precision_source": served.source,
            "precision_reason": served.reason,
            **{f"{phase}_ms": duration for phase, duration in timing.items()},
        },
    }
    # Outputs can take megabytes: a worker has written them already, and the event loop only puts them behind.
    document = answers.to_json(first)[:-1] + b"," + answer.outputs[1:]
    headers = answer_headers(served, timing)
    if not answer.binary:
        return Response(document, 200, headers, JSON)
    headers[HEADER_LENGTH] = str(len(document))
    return Response(document + answer.binary, 200, headers, OCTETS)
