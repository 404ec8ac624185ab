"""Images in, JSON out; and what is known about the models."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray

from bitgear.checkpoint import Master
from bitgear.errors import ImageError, ImageTooLarge
from bitgear.tasks.pictures import decode_picture
from server import answers, errors
from server.body import JSON, Upload, receive_upload
from server.controls import Controls, add_controls, read_controls
from server.exchange import Exchange, exchange_of
from server.forms import open_upload
from server.ladder import Rung
from server.metrics import Metrics
from server.middleware import Endpoint
from server.openapi import image_request, model_request
from server.precision import PRECISION_HEADER, SOURCE_HEADER, VARY, to_wish
from server.problems import documented
from server.registry import MODEL_VERSION, ServedModel
from server.runtime import Inference, Runtime, Work
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
        return _json({"models": [_summary(model.master) for model in runtime.models]})

    @router.get(
        "/v1/models/{model}",
        response_model=answers.ModelDetail,
        responses=documented(errors.UnknownModel),
        openapi_extra=model_request(),
    )
    async def describe_model(request: Request) -> Response:
        """Describe one model."""
        master = runtime.models.get(request.path_params["model"]).master
        return _json(
            {
                **_summary(master),
                "labels": list(master.labels),
                "accuracy": {str(bits): dict(metrics) for bits, metrics in master.accuracy.items()},
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
        """Describe the widths of one model on this device: accuracy, memory and latency as measured."""
        return _json(_ladder(runtime, runtime.models.get(request.path_params["model"])))

    return router


def inference_endpoints(runtime: Runtime, metrics: Metrics) -> Mapping[tuple[str, str], Endpoint]:
    """Return what answers inference requests, by the two ends of its path."""
    return {("/v1/models/", task.name): _inference(task, runtime, metrics) for task in TASKS.values()}


def _inference(task: Task[Any, Any], runtime: Runtime, metrics: Metrics) -> Endpoint:
    async def infer(request: Request) -> Response:
        exchange = exchange_of(request.scope)
        name = request.path_params["model"]
        metrics.begin(exchange, task.name, name if name in runtime.models else None)
        runtime.check_warm()
        headers = request.scope["headers"]
        runtime.keys.check(headers)
        model = runtime.models.get(name)
        if model.master.task != task.name:
            raise errors.TaskMismatch(task.name, model.master.task, _PATH.format(model=name, task=model.master.task))
        exchange.target_s = runtime.slo_s(model, runtime.profile)
        with runtime.permits.one():
            controls = read_controls(task.controls, headers, request.scope["query_string"])
            wish = to_wish(controls)
            exchange.asked = wish.asked
            task.options(controls, model.master.labels)  # what is wrong so far is refused before the body is read
            settings = runtime.settings
            upload = await receive_upload(headers, request.receive, settings.max_body_bytes, settings.body_timeout_s)
            prepare = functools.partial(_open, task, model.master, upload, controls, settings.max_pixels)
            inference = await runtime.infer(model, wish, prepare, exchange, request.receive)
        return _answer(model, inference, exchange)

    return infer


def _add_inference(router: APIRouter, task: Task[Any, Any], endpoint: Endpoint) -> None:
    router.add_api_route(
        _PATH.format(model="{model}", task=task.name),
        endpoint,
        methods=["POST"],
        name=task.name,
        summary=task.summary,
        response_model=task.answer,
        responses=documented(
            errors.BadRequest,
            errors.BadParameter,
            errors.ConflictingControls,
            errors.UnknownModel,
            errors.BodyTimeout,
            errors.BodyTooLarge,
            ImageTooLarge,
            errors.MediaTypeNotAccepted,
            ImageError,
            errors.WidthNotOffered,
            errors.TaskMismatch,
            errors.Unauthorised,
            errors.Overloaded,
            errors.RateLimited,
            errors.NotReady,
            errors.Draining,
            errors.DeadlineExceeded,
        ),
        openapi_extra=image_request(task.controls),
    )


@dataclass(frozen=True)
class _Finding:
    """What was found in one image: its size in pixels as seen upright, and what its task answers, as a JSON object."""

    width_px: int
    height_px: int
    members: str


def _open(
    task: Task[Any, Any], master: Master, upload: Upload, controls: Controls, limit_pixels: int
) -> Work[_Finding]:
    """Make an upload ready for the engine. Decodes the image: not for the event loop."""
    form = open_upload(upload)
    controls = add_controls(task.controls, controls, form.fields)
    wish = to_wish(controls)
    options = task.options(controls, master.labels)
    picture = decode_picture(form.image, limit_pixels)
    q_image, place = task.preprocess(picture, master.input)

    def finish(output: NDArray[np.float32]) -> _Finding:
        members = task.postprocess(output[0], place, master.labels, master.input, options)
        return _Finding(picture.width_px, picture.height_px, answers.to_json(members))

    return Work(wish, q_image, finish)


def _answer(model: ServedModel, inference: Inference[_Finding], exchange: Exchange) -> Response:
    finding, served = inference.answer, inference.served
    timing_ms = {name: round(duration, 3) for name, duration in exchange.phases_ms.items()}
    timing_ms["total"] = round(exchange.elapsed_ms(), 3)
    first = {
        "id": exchange.request_id,
        "model": model.name,
        "version": MODEL_VERSION,
        "image": {"width": finding.width_px, "height": finding.height_px},
    }
    last = {
        "precision": {
            "requested": inference.asked,
            "served": served.precision,
            "source": served.source,
            "reason": served.reason,
        },
        "timing_ms": timing_ms,
    }
    # A mask can take megabytes: a worker has written that part already, and the event loop only puts it between.
    parts = (answers.to_json(first), finding.members, answers.to_json(last))
    content = "{" + ",".join(part[1:-1] for part in parts) + "}"
    headers = {
        PRECISION_HEADER: served.rung.precision,
        SOURCE_HEADER: served.source,
        "Server-Timing": ", ".join(f"{name};dur={duration}" for name, duration in timing_ms.items()),
        "Cache-Control": "no-store",
        "Vary": VARY,
    }
    if served.reason == "lenient":
        headers["Preference-Applied"] = "handling=lenient"
    return Response(content, 200, headers, JSON)


def _summary(master: Master) -> dict[str, Any]:
    return {
        "name": master.name,
        "version": MODEL_VERSION,
        "task": master.task,
        "precisions": list(master.widths),
        "default_precision": max(master.widths),
        "classes": len(master.labels),
        "input": {"height": master.input.height_px, "width": master.input.width_px},
    }


def _ladder(runtime: Runtime, model: ServedModel) -> dict[str, Any]:
    resident_bytes = runtime.resident_bytes(model)
    return {
        "model": model.name,
        "engine": runtime.cache.engine.name,
        "profile": runtime.profile.name,
        "rungs": [_rung(runtime, model, rung, resident_bytes.get(rung.plan)) for rung in model.ladder.rungs],
    }


def _rung(runtime: Runtime, model: ServedModel, rung: Rung, resident_bytes: int | None) -> dict[str, Any]:
    precision = int(rung.precision) if rung.precision.isdigit() else rung.precision
    measured = model.master.accuracy.get(rung.plan.default.weight_bits, {})
    latency = runtime.latencies.of(model.name, rung.precision).get(1)
    reason = runtime.profile.excludes(rung.plan.default.weight_bits)
    return {
        "precision": precision,
        "offered": reason is None,
        "reason": reason,
        "accuracy": {name: measured[name] for name in TASKS[model.master.task].metrics if name in measured},
        "top1": measured.get("top1"),
        "resident": resident_bytes is not None,
        "resident_bytes": resident_bytes or 0,
        "latency_ms": None
        if latency is None
        else {"p50": round(latency.p50_ms, 3), "p99": round(latency.p99_ms, 3), "count": latency.count},
    }


def _json(content: object) -> Response:
    return Response(answers.to_json(content), media_type=JSON)
