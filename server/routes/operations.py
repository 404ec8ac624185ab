"""Health probes and metrics."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from server import answers, errors
from server.metrics import Metrics
from server.problems import documented
from server.runtime import Runtime


def operations_routes(runtime: Runtime, metrics: Metrics) -> APIRouter:
    """Return the routes for those who run the server."""
    router = APIRouter()

    @router.get("/v2/health/live", response_model=answers.Health, responses=documented())
    async def server_live() -> Response:
        """Answer as long as the process can."""
        return answers.json_response({"status": "live", "live": True})

    @router.get(
        "/v2/health/ready",
        response_model=answers.Health,
        responses=documented(errors.NotReady, errors.Draining),
    )
    async def server_ready() -> Response:
        """Answer 200 once all models are loaded and warm, until the server begins to stop."""
        runtime.check_ready()
        return answers.json_response({"status": "ready", "live": True, "ready": True, "measuring": runtime.measuring})

    @router.get(
        "/metrics",
        name="metrics",
        response_class=Response,
        responses={200: {"description": "Metrics", "content": {"text/plain": {}}}, **documented()},
    )
    def scrape() -> Response:  # not async: rendering thousands of series belongs into a thread
        """Give all metrics in Prometheus' text format."""
        return Response(metrics.render(), media_type=CONTENT_TYPE_LATEST)

    return router
