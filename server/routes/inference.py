"""What all inference routes have in common: who gets in, in which order, and what answers say of their precision."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from fastapi import Request

from bitgear.errors import ImageError, ImageTooLarge
from server import errors
from server.controls import Controls, read_controls
from server.exchange import Exchange, ServedAt, exchange_of
from server.metrics import Metrics
from server.pixels import Room
from server.precision import PRECISION_HEADER, SOURCE_HEADER, VARY, Wish, to_wish
from server.registry import ServedModel
from server.requests import Inference, Work
from server.runtime import Runtime
from server.tasks import Task

Body = TypeVar("Body")
T = TypeVar("T")

REFUSALS = (
    errors.BadRequest,
    errors.BadParameter,
    errors.ConflictingControls,
    errors.UnknownModel,
    errors.BodyTimeout,
    errors.BodyTooLarge,
    ImageTooLarge,
    errors.MediaTypeNotAccepted,
    errors.NotAcceptable,
    ImageError,
    errors.WidthNotOffered,
    errors.Unauthorised,
    errors.Overloaded,
    errors.RateLimited,
    errors.NotReady,
    errors.Draining,
    errors.DeadlineExceeded,
)
"""What any inference request can be refused with, beside what only its own route knows."""


def begin(request: Request, runtime: Runtime, metrics: Metrics, task: str) -> Exchange:
    """Count an inference request and return its exchange; raise what keeps it from being looked at any further."""
    exchange = exchange_of(request.scope)
    name = request.path_params["model"]
    metrics.begin(exchange, task, name if name in runtime.models else None)
    runtime.check_warm()
    runtime.keys.check(request.scope["headers"])
    return exchange


async def serve(
    request: Request,
    runtime: Runtime,
    model: ServedModel,
    task: Task[Any, Any],
    receive: Callable[[Callable[[int], None]], Awaitable[Body]],
    prepare: Callable[[Body, Controls, Callable[[Wish], None], Room], Work[T]],
) -> Inference[T]:
    """Return the answer to a request that was begun.

    What is wrong in headers and query is refused before ``receive`` reads the body, which tells its argument how many
    bytes have come. ``prepare`` makes work of the body and of the controls so far, in a thread; it passes the whole
    wish to its last argument before it decodes.
    """
    exchange = exchange_of(request.scope)
    exchange.target_s = runtime.rules.slo_s(model, runtime.rules.profile)
    with runtime.permits.one() as permit:
        controls = read_controls(task.controls, request.scope["headers"], request.scope["query_string"])
        wish = to_wish(controls)
        exchange.asked = wish.asked
        runtime.rules.profile_of(wish)
        task.options(controls, model.master.labels)
        body = await receive(permit.add)
        return await runtime.requests.infer(
            model, wish, lambda known, room: prepare(body, controls, known, room), exchange, request.receive
        )


def timing_ms(exchange: Exchange) -> Mapping[str, float]:
    """Return how long each phase of an answered request took, and all of it until now, to a thousandth."""
    phases = {name: round(duration, 3) for name, duration in exchange.phases_ms.items()}
    return {**phases, "total": round(exchange.elapsed_ms(), 3)}


def answer_headers(served: ServedAt, timing: Mapping[str, float]) -> dict[str, str]:
    """Return the headers of an answer."""
    headers = {
        PRECISION_HEADER: served.rung.precision,
        SOURCE_HEADER: served.source,
        "Server-Timing": ", ".join(f"{name};dur={duration}" for name, duration in timing.items()),
        "Cache-Control": "no-store",
        "Vary": VARY,
    }
    if served.reason == "lenient":
        headers["Preference-Applied"] = "handling=lenient"
    return headers
