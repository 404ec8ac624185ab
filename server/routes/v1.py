"""Images in, JSON out; and what is known about the models."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray

from bitgear.checkpoint import Master
from server import answers, errors
from server.body import JSON, Upload, receive_upload
from server.controls import Controls, add_controls
from server.exchange import Exchange
from server.forms import open_upload
from server.ladder import Rung
from server.metrics import Metrics
from server.middleware import Endpoint
from server.negotiation import preferred_type
from server.openapi import image_request, model_request
from server.pixels import Room
from server.precision import Wish, to_wish
from server.problems import documented
from server.registry import ServedModel
from server.requests import Inference, Work
from server.routes.inference import REFUSALS, answer_headers, begin, serve, timing_ms
from server.runtime import Runtime
from server.tasks import TASKS, Task

_PATH = "/v1/models/{model}/{task}"


def v1_routes(runtime: Runtime, endpoints: Mapping[tuple[str, str], Endpoint]) -> APIRouter:
    """Return the routes under ``/v1``, those of inference being ``endpoints``."""
    router = APIRouter()

    for (_, name), endpoint in endpoints.items():
        _add_inference(router, TASKS[name], endpoint)

    @router.get("/v1/models", response_model=answers.ModelList, responses=documented())
    async def list_models() -> Response:
        """List the served models."""
        return answers.json_response({"models": [_summary(model) for model in runtime.models]})

    @router.get(
        "/v1/models/{model}",
        response_model=answers.ModelDetail,
        responses=documented(errors.UnknownModel),
        openapi_extra=model_request(),
    )
    async def describe_model(request: Request) -> Response:
        """Describe one model."""
        model = runtime.models.get(request.path_params["model"])
        master = model.master
        return answers.json_response(
            {
                **_summary(model),
                "labels": list(master.labels),
                "accuracy": {name: dict(found) for name in master.precisions if (found := master.metrics(name))},
                "provenance": dict(master.provenance),
            }
        )

    @router.get(
        "/v1/models/{model}/ladder",
        response_model=answers.Ladder,
        responses=documented(errors.UnknownModel),
        openapi_extra=model_request(),
    )
    async def describe_ladder(request: Request) -> Response:
        """Describe the precisions of one model on this device: accuracy, memory and latency as measured."""
        return answers.json_response(_ladder(runtime, runtime.models.get(request.path_params["model"])))

    return router


def inference_endpoints(runtime: Runtime, metrics: Metrics) -> Mapping[tuple[str, str], Endpoint]:
    """Return what answers inference requests, by the two ends of its path."""
    return {("/v1/models/", task.name): _inference(task, runtime, metrics) for task in TASKS.values()}


def _inference(task: Task[Any, Any], runtime: Runtime, metrics: Metrics) -> Endpoint:
    async def infer(request: Request) -> Response:
        exchange = begin(request, runtime, metrics, task.name)
        preferred_type(request.scope["headers"], (JSON,))
        model = runtime.models.get(request.path_params["model"])
        if model.master.task != task.name:
            raise errors.TaskMismatch(
                task.name, model.master.task, _PATH.format(model=model.name, task=model.master.task)
            )
        settings = runtime.settings

        async def receive(note: Callable[[int], None]) -> Upload:
            return await receive_upload(
                request.scope["headers"], request.receive, settings.max_body_bytes, settings.body_timeout_s, note
            )

        def prepare(upload: Upload, controls: Controls, known: Callable[[Wish], None], room: Room) -> Work[_Finding]:
            return _open(task, model.master, upload, controls, known, room)

        return _answer(model, await serve(request, runtime, model, task, receive, prepare), exchange)

    return infer


def _add_inference(router: APIRouter, task: Task[Any, Any], endpoint: Endpoint) -> None:
    router.add_api_route(
        _PATH.format(model="{model}", task=task.name),
        endpoint,
        methods=["POST"],
        name=task.name,
        summary=task.summary,
        response_model=task.answer,
        responses=documented(*REFUSALS, errors.TaskMismatch),
        openapi_extra=image_request(task.controls),
    )


@dataclass(frozen=True)
class _Finding:
    """What was found in one image: its size in pixels as seen upright, and what its task answers, as a JSON object."""

    width_px: int
    height_px: int
    members: bytes


def _open(
    task: Task[Any, Any],
    master: Master,
    upload: Upload,
    controls: Controls,
    known: Callable[[Wish], None],
    room: Room,
) -> Work[_Finding]:
    """Make an upload ready for the engine. Decodes the image, once ``known`` was told: not for the event loop."""
    form = open_upload(upload)
    controls = add_controls(task.controls, controls, form.fields)
    wish = to_wish(controls)
    options = task.options(controls, master.labels)
    known(wish)
    picture = room.decode(form.image)
    q_image, place = task.preprocess(picture, master.input)
    width_px, height_px = picture.width_px, picture.height_px
    del picture  # must not wait in the queue

    def finish(output: NDArray[np.float32]) -> _Finding:
        members = task.postprocess(output[0], place, master.labels, master.input, options)
        return _Finding(width_px, height_px, answers.to_json(members))

    return Work(wish, q_image, finish)


def _answer(model: ServedModel, inference: Inference[_Finding], exchange: Exchange) -> Response:
    finding, served = inference.answer, inference.served
    timing = timing_ms(exchange)
    first = {
        "id": exchange.request_id,
        "model": model.name,
        "version": model.version,
        "image": {"width": finding.width_px, "height": finding.height_px},
    }
    last = {
        "precision": {
            "requested": inference.asked,
            "served": served.precision,
            "source": served.source,
            "reason": served.reason,
        },
        "timing_ms": timing,
    }
    # A mask can take megabytes: a worker has written that part already, and the event loop only puts it between.
    parts = (answers.to_json(first), finding.members, answers.to_json(last))
    content = b"{" + b",".join(part[1:-1] for part in parts) + b"}"
    return Response(content, 200, answer_headers(served, timing), JSON)


def _summary(model: ServedModel) -> dict[str, Any]:
    master = model.master
    return {
        "name": model.name,
        "version": model.version,
        "task": master.task,
        "precisions": errors.listed(rung.said for rung in model.ladder.rungs),
        "default_precision": max(master.widths),
        "classes": len(master.labels),
        "input": {"height": master.input.height_px, "width": master.input.width_px},
    }


def _ladder(runtime: Runtime, model: ServedModel) -> dict[str, Any]:
    resident_bytes = runtime.resident_bytes(model)
    return {
        "model": model.name,
        "engine": runtime.cache.engine.name,
        "profile": runtime.rules.profile.name,
        "times": model.times,
        "rungs": [_rung(runtime, model, rung, resident_bytes.get(rung.plan)) for rung in model.ladder.rungs],
    }


def _rung(runtime: Runtime, model: ServedModel, rung: Rung, resident_bytes: int | None) -> dict[str, Any]:
    measured = model.master.metrics(rung.precision)
    latency = runtime.latencies.of(model.name, rung.precision)
    reason = runtime.rules.profile.of(model.name).excludes(rung.mean_bits)
    return {
        "precision": rung.said,
        "mean_bits": round(rung.mean_bits, 4),
        "offered": reason is None,
        "reason": reason,
        "pruned": rung.reason,
        "batch_ms": {"fixed": round(rung.fixed_ms, 4), "per_image": round(rung.per_image_ms, 4)},
        "accuracy": {name: measured[name] for name in TASKS[model.master.task].metrics if name in measured},
        "top1": measured.get("top1"),
        "resident": resident_bytes is not None,
        "resident_bytes": resident_bytes or 0,
        "latency_ms": None
        if latency is None
        else {"p50": round(latency.p50_ms, 3), "p99": round(latency.p99_ms, 3), "count": latency.count},
    }
