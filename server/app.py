"""The ASGI application: everything it needs hangs on the object that :func:`create_app` returns.

FastAPI is here for the OpenAPI document: it describes all paths. Of its routing only requests that are not inference
make use (:class:`~server.middleware.Shortcut`), and bodies, parameters, errors and answers are this package's own.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import Match

from bitgear import __version__
from bitgear.engines import Engine, create_engine
from bitgear.errors import BitgearError
from server.conduct import first_conduct
from server.exchange import exchange_of
from server.layout import plan_layout
from server.metrics import Metrics
from server.middleware import Shortcut, Surround
from server.openapi import SECURITY_SCHEMES, WITH_KEY
from server.problems import note, problem_schemas, respond, translate
from server.profiles import active_profile, load_profiles
from server.repository import Repository
from server.routes.operations import operations_routes
from server.routes.policy import policy_routes
from server.routes.repository import repository_routes
from server.routes.v1 import inference_endpoints, v1_routes
from server.routes.v2 import INFER_ENDS, infer_endpoint, v2_routes
from server.rules import Rules
from server.runtime import Runtime
from server.settings import Settings
from server.traces import Traces


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
    layout, learn_layout = plan_layout(settings, profile, masters, measure=engine is None)
    engine = engine or create_engine(settings.engine, layout.threads)
    metrics = Metrics(engine.name)
    rules = Rules(first_conduct(settings, profile), profiles)
    runtime = Runtime(settings, repository, masters, rules, engine, layout, metrics)
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
        generate_unique_id_function=lambda route: route.name,
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
        """Return the document, with the problems, and the keys: requests take one where the server was given keys."""
        document = super().openapi()
        components = document.setdefault("components", {})
        for schema in components["schemas"].values():
            schema.pop("additionalProperties", None)  # answers of later servers may have more members
        components["schemas"] |= problem_schemas()
        components["securitySchemes"] = SECURITY_SCHEMES
        document["security"] = [*WITH_KEY, {}]
        return document


async def _answer_error(request: Request, error: Exception) -> Response:
    exchange = exchange_of(request.scope)
    error = translate(error, request.method, lambda: _methods(request))
    note(error, exchange)
    return respond(error, exchange.request_id)
