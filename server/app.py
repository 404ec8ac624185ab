"""The ASGI application: everything it needs hangs on the object that :func:`create_app` returns.

FastAPI is here for the OpenAPI document: it describes all paths. Of its routing only requests that are not inference
make use (:class:`~server.middleware.Shortcut`), and bodies, parameters, errors and answers are this package's own.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import Match

from bitgear import __version__
from bitgear.checkpoint import Master
from bitgear.engines import Engine, create_engine
from bitgear.errors import BitgearError
from bitgear.machine import available_cores, cache_folder
from server import ladder_cache
from server.exchange import exchange_of
from server.layout import Figures, Layout, choose_layout, first_layout, layouts, measure_layout
from server.metrics import Metrics
from server.middleware import Shortcut, Surround
from server.openapi import SECURITY_SCHEMES, WITH_KEY
from server.problems import problem_of, respond, translate
from server.profiles import Profile, active_profile, load_profiles
from server.repository import Repository
from server.routes.operations import operations_routes
from server.routes.policy import policy_routes
from server.routes.repository import repository_routes
from server.routes.v1 import inference_endpoints, v1_routes
from server.routes.v2 import INFER_ENDS, infer_endpoint, v2_routes
from server.runtime import Learn, Runtime
from server.settings import Settings
from server.traces import Traces

LAYOUT_BUDGET_S = 0.2

_logger = logging.getLogger(__name__)


def create_app(settings: Settings, *, engine: Engine | None = None, traces: Traces | None = None) -> FastAPI:
    """Return the application; its :class:`~server.runtime.Runtime` is ``app.state.runtime``.

    Masters are read here and warmed in the background once the application starts. ``engine`` replaces the one that
    the settings name, ``traces`` what they would make. Raises a :class:`~bitgear.errors.BitgearError` for settings,
    profiles, masters or an engine that cannot be used.
    """
    profiles = load_profiles(settings.profiles)
    profile = active_profile(profiles, settings.profile)
    repository = Repository(settings.models)
    masters = repository.read_all()
    layout, learn_layout = _layout(settings, profile, masters, measure=engine is None)
    engine = engine or create_engine(settings.engine, layout.threads)
    metrics = Metrics(engine.name)
    runtime = Runtime(settings, repository, masters, profiles, profile, engine, layout, metrics)
    if settings.traces and traces is None:
        traces = Traces()

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(runtime.warm(learn_layout))]
        if settings.watch_s > 0:
            tasks.append(asyncio.create_task(runtime.watch(settings.watch_s)))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            runtime.close()
            if traces is not None:
                await asyncio.to_thread(traces.close)

    app = _App(
        title="bitgear",
        version=__version__,
        summary="Inference at the precision that each request asks for.",
        lifespan=lifespan,
        docs_url=None,  # the pages that FastAPI makes load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # of FastAPI's own, where it has that
    )
    app.state.runtime = runtime
    inference = inference_endpoints(runtime, metrics)
    infer_tensors = infer_endpoint(runtime, metrics)
    shortcuts = {**inference, INFER_ENDS: infer_tensors}
    app.add_middleware(Shortcut, endpoints=shortcuts, answer_error=_answer_error)
    # The last one added is the outermost.
    app.add_middleware(Surround, metrics=metrics, traces=traces, draining=lambda: runtime.draining)
    app.add_exception_handler(BitgearError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_error)
    app.include_router(v1_routes(runtime, inference))
    app.include_router(v2_routes(runtime, infer_tensors))
    app.include_router(repository_routes(runtime))
    app.include_router(policy_routes(runtime))
    app.include_router(operations_routes(runtime, metrics))
    return app


def _methods(request: Request) -> set[str]:
    """Return the methods that the path of a request has, whichever of several routes has them."""
    routes = request.app.routes
    methods = {
        method
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH")
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    }
    return methods | {"HEAD"} if "GET" in methods else methods


class _App(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """Return the document, with the keys: requests take one where the server was given keys."""
        document = super().openapi()
        document.setdefault("components", {})["securitySchemes"] = SECURITY_SCHEMES
        document["security"] = [*WITH_KEY, {}]
        return document


def _layout(
    settings: Settings, profile: Profile, masters: Sequence[Master], measure: bool
) -> tuple[Layout, Learn | None]:
    """Return the layout that settings or the profile give, or the one that was found best on this device.

    Where that is not known yet, a likely one, and what finds the best one for the largest model, for later starts.
    """
    cores = available_cores()
    threads = profile.threads if settings.threads is None else settings.threads
    if settings.engine_workers is not None:
        return Layout(settings.engine_workers, threads or max(1, cores // settings.engine_workers)), None
    if threads is not None or not measure:
        return Layout(max(1, cores // (threads or 1)), threads or 1), None
    largest = max(masters, key=lambda master: master.nbytes * master.input.height_px * master.input.width_px)
    folder = settings.ladders or cache_folder()
    engine = create_engine(settings.engine, 1)
    key = {**ladder_cache.device_key(largest, engine, 0, 0, cores), "aim": settings.layout}
    first = first_layout(cores, settings.layout)
    kept = ladder_cache.read_layout(folder, key)
    if kept is not None or cores == 1 or settings.measure_s == 0:
        return kept or first, None

    def figures(layout: Layout) -> Figures:
        derived = create_engine(settings.engine, layout.threads).derive(largest, max(largest.widths))
        return measure_layout(derived, largest, layout, LAYOUT_BUDGET_S)

    def learn(undisturbed: Callable[[], bool]) -> None:
        best = choose_layout(layouts(cores), figures, settings.layout)
        if not undisturbed():
            return
        ladder_cache.write_layout(folder, key, best)
        if best != first:
            _logger.info("%d workers of %d threads are best here: from the next start on", best.workers, best.threads)

    return first, learn


async def _answer_error(request: Request, error: Exception) -> Response:
    exchange = exchange_of(request.scope)
    error = translate(error, request.method, lambda: _methods(request))
    exchange.problem = problem_of(error).name
    return respond(error, exchange.request_id)
