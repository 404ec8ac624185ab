"""How the server behaves under load, seen and changed by whoever has the admin key."""

from fastapi import APIRouter, Request, Response

from server import errors
from server.answers import json_response
from server.conduct import Conduct, conduct_schema
from server.openapi import WITH_KEY, json_request
from server.problems import documented
from server.routes.admin import BODY_ERRORS, KEY_ERRORS, check_key, read_body
from server.runtime import Runtime
from server.strict_json import parse_json


def policy_routes(runtime: Runtime) -> APIRouter:
    """Return the routes of ``/v1/policy``."""
    router = APIRouter()

    @router.get(
        "/v1/policy",
        response_model=Conduct,
        responses=documented(*KEY_ERRORS),
        openapi_extra={"security": WITH_KEY},
    )
    async def get_policy(request: Request) -> Response:
        """Tell the policy, the active profile and the limits. Takes the admin key."""
        check_key(request, runtime)
        return json_response(runtime.rules.conduct.model_dump())

    @router.put(
        "/v1/policy",
        response_model=Conduct,
        responses=documented(*BODY_ERRORS, errors.WidthNotOffered),
        openapi_extra={**json_request(conduct_schema()), "security": WITH_KEY},
    )
    async def put_policy(request: Request) -> Response:
        """Change what is given, for all requests from now on, and tell the result. Takes the admin key."""
        document = parse_json(await read_body(request, runtime))
        conduct = runtime.rules.conduct.changed(document)
        await runtime.adopt(conduct)
        return json_response(conduct.model_dump())  # whatever another one has changed meanwhile

    return router
