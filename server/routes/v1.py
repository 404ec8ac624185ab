"""Images in, JSON out; and what is known about the models."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from bitgear.checkpoint import Master
from bitgear.errors import ImageError, ImageTooLarge
from server import answers, errors
from server.body import JSON, receive_upload
from server.controls import read_controls
from server.exchange import Exchange, exchange_of
from server.metrics import Metrics
from server.openapi import image_request, model_request
from server.precision import PRECISION_HEADER, SOURCE_HEADER, VARY, to_wish
from server.problems import documented
from server.runtime import MODEL_VERSION, Inference, Runtime
from server.tasks import TASKS, Task

_PATH = "/v1/models/{model}/{task}"


def v1_routes(runtime: Runtime, metrics: Metrics) -> APIRouter:
    """Return the routes under ``/v1``."""
    router = APIRouter()

    for task in TASKS.values():
        _add_inference(router, task, runtime, metrics)

    @router.get("/v1/models", response_model=answers.ModelList, responses=documented())
    async def list_models() -> Response:
        """List the served models."""
        return _json({"models": [_summary(master) for master in runtime.models.values()]})

    @router.get(
        "/v1/models/{model}",
        response_model=answers.ModelDetail,
        responses=documented(errors.UnknownModel),
        openapi_extra=model_request(),
    )
    async def describe_model(request: Request) -> Response:
        """Describe one model."""
        master = runtime.model(request.path_params["model"])
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
        master = runtime.model(request.path_params["model"])
        resident_bytes = runtime.resident_bytes(master)
        return _json(
            {
                "model": master.name,
                "engine": runtime.cache.engine.name,
                "profile": runtime.profile.name,
                "rungs": [_rung(runtime, master, bits, resident_bytes) for bits in master.widths],
            }
        )

    return router


def _add_inference(router: APIRouter, task: Task[Any, Any], runtime: Runtime, metrics: Metrics) -> None:
    async def infer(request: Request) -> Response:
        exchange = exchange_of(request.scope)
        name = request.path_params["model"]
        metrics.begin(exchange, task.name, name if name in runtime.models else None)
        runtime.check_warm()
        master = runtime.model(name)
        if master.task != task.name:
            raise errors.TaskMismatch(task.name, master.task, _PATH.format(model=name, task=master.task))
        headers = request.scope["headers"]
        controls = read_controls(task.controls, headers, request.scope["query_string"])
        exchange.asked = to_wish(controls).asked
        task.options(controls, master.labels)  # what is wrong in headers and query is refused before the body is read
        settings = runtime.settings
        upload = await receive_upload(headers, request.receive, settings.max_body_bytes, settings.body_timeout_s)
        result = await runtime.infer(task, master, upload, controls, exchange)
        return _answer(master, result, exchange)

    router.add_api_route(
        _PATH.format(model="{model}", task=task.name),
        infer,
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
            errors.NotReady,
            errors.Draining,
        ),
        openapi_extra=image_request(task.controls),
    )


def _answer(master: Master, result: Inference, exchange: Exchange) -> Response:
    decision = result.decision
    timing_ms = {name: round(duration, 3) for name, duration in exchange.phases_ms.items()}
    timing_ms["total"] = round(exchange.elapsed_ms(), 3)
    first = {
        "id": exchange.request_id,
        "model": master.name,
        "version": MODEL_VERSION,
        "image": {"width": result.width_px, "height": result.height_px},
    }
    last = {
        "precision": {
            "requested": result.asked,
            "served": decision.bits,
            "source": decision.source,
            "reason": decision.reason,
        },
        "timing_ms": timing_ms,
    }
    # A mask can take megabytes: a worker has written that part already, and the event loop only puts it between.
    parts = (answers.to_json(first), result.members, answers.to_json(last))
    content = "{" + ",".join(part[1:-1] for part in parts) + "}"
    headers = {
        PRECISION_HEADER: str(decision.bits),
        SOURCE_HEADER: decision.source,
        "Server-Timing": ", ".join(f"{name};dur={duration}" for name, duration in timing_ms.items()),
        "Cache-Control": "no-store",
        "Vary": VARY,
    }
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


def _rung(runtime: Runtime, master: Master, bits: int, resident_bytes: Mapping[int, int]) -> dict[str, Any]:
    latency = runtime.latency(master, bits)
    measured = master.accuracy.get(bits, {})
    reason = runtime.profile.excludes(bits)
    return {
        "precision": bits,
        "offered": reason is None,
        "reason": reason,
        "accuracy": {name: measured[name] for name in TASKS[master.task].metrics if name in measured},
        "top1": measured.get("top1"),
        "resident": bits in resident_bytes,
        "resident_bytes": resident_bytes.get(bits, 0),
        "latency_ms": None
        if latency is None
        else {"p50": round(latency.p50_ms, 3), "p99": round(latency.p99_ms, 3), "count": latency.count},
    }


def _json(content: object) -> Response:
    return Response(answers.to_json(content), media_type=JSON)
