"""How the server behaves under load, seen and changed by whoever has the admin key."""

from fastapi import APIRouter, Request, Response

from server import errors
from server.admission import check_admin
from server.answers import to_json
from server.body import JSON, receive_body
from server.conduct import Conduct, conduct_schema
from server.openapi import WITH_KEY, json_request
from server.problems import documented
from server.runtime import Runtime
from server.strict_json import parse_json

MAX_BODY_BYTES = 1 << 16


def policy_routes(runtime: Runtime) -> APIRouter:
    """Return the routes of ``/v1/policy``."""
    router = APIRouter()
    secret = runtime.settings.admin_key
    admin_key = None if secret is None else secret.get_secret_value()

    @router.get(
        "/v1/policy",
        response_model=Conduct,
        responses=documented(errors.Unauthorised, errors.Forbidden),
        openapi_extra={"security": WITH_KEY},
    )
    async def get_policy(request: Request) -> Response:
        """Tell the policy, the active profile and the limits. Takes the admin key."""
        check_admin(admin_key, request.scope["headers"])
        return Response(to_json(runtime.conduct.model_dump()), media_type=JSON)

    @router.put(
        "/v1/policy",
        response_model=Conduct,
        responses=documented(
            errors.Unauthorised,
            errors.Forbidden,
            errors.BadRequest,
            errors.BadParameter,
            errors.BodyTimeout,
            errors.BodyTooLarge,
            errors.MediaTypeNotAccepted,
            errors.WidthNotOffered,
        ),
        openapi_extra={**json_request(conduct_schema()), "security": WITH_KEY},
    )
    async def put_policy(request: Request) -> Response:
        """Change what is given, for all requests from now on, and tell the result. Takes the admin key."""
        headers = request.scope["headers"]
        check_admin(admin_key, headers)
        body = await receive_body(headers, request.receive, MAX_BODY_BYTES, runtime.settings.body_timeout_s)
        conduct = runtime.conduct.changed(parse_json(body))
        await runtime.adopt(conduct)
        return Response(to_json(conduct.model_dump()), media_type=JSON)  # whatever another one has changed meanwhile

    return router
