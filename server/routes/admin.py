"""What the routes for holders of the admin key have in common."""

from fastapi import Request

from server import errors
from server.admission import check_admin
from server.body import receive_body
from server.runtime import Runtime

MAX_BODY_BYTES = 1 << 16

KEY_ERRORS = (errors.Unauthorised, errors.Forbidden)
BODY_ERRORS = (
    *KEY_ERRORS,
    errors.BadRequest,
    errors.BadParameter,
    errors.BodyTimeout,
    errors.BodyTooLarge,
    errors.MediaTypeNotAccepted,
)


def check_key(request: Request, runtime: Runtime) -> None:
    """Raise what :func:`~server.admission.check_admin` does."""
    secret = runtime.settings.admin_key
    check_admin(None if secret is None else secret.get_secret_value(), request.scope["headers"])


async def read_body(request: Request, runtime: Runtime) -> bytes:
    """Return the body of a request of whoever may do this; raise what the check of the key and reading raise."""
    check_key(request, runtime)
    timeout_s = runtime.settings.body_timeout_s
    return await receive_body(request.scope["headers"], request.receive, MAX_BODY_BYTES, timeout_s)
