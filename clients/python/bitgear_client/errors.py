"""Every error that the client raises on purpose.

::

    BitgearClientError
    ├── InputError                  an argument that cannot be sent (also a ValueError)
    │   └── ImageInputError         a missing file, a wrong dtype or shape, Pillow not installed
    ├── ClientUnusable              closed, or of another event loop or process (also a RuntimeError)
    ├── TransportError              no answer arrived
    │   ├── Timeout
    │   └── ConnectionFailed        refused, reset, or closed before the answer was complete
    ├── ProtocolError               an answer arrived that cannot be understood
    └── ServerProblem               the server refused; unknown kinds of refusal are this class itself
        ├── BadRequest
        ├── BadParameter            .parameter
        ├── ConflictingControls     .parameter
        ├── BadTensor               .tensor
        ├── ModelNotFound           .models
        ├── ModelUnusable           .reason
        ├── PathNotFound            base_url leads to something else
        ├── MethodNotAllowed
        ├── NotAcceptable           .allowed
        ├── HeadTooLarge            .limit_bytes
        ├── BodyTimeout
        ├── TooLarge                .limit_bytes or .limit_pixels
        ├── UnsupportedMediaType    .allowed
        ├── UndecodableImage        .reason
        ├── PrecisionNotOffered     .offered_precisions
        ├── TaskMismatch            .task, .route
        ├── InternalError
        ├── Unauthorised
        ├── Forbidden
        ├── DeadlineExceeded        .stage
        ├── Overloaded              .retry_after_s
        │   └── RateLimited
        └── NotReady                .retry_after_s
            └── Draining
"""

from collections.abc import Mapping

PROBLEM_PREFIX = "urn:bitgear:problem:"


class BitgearClientError(Exception):
    """Base of all errors raised on purpose."""


class InputError(BitgearClientError, ValueError):
    """An argument, or what the environment says of proxies and certificates, that cannot be used; nothing was sent."""


class ImageInputError(InputError):
    """An image that cannot be read or encoded here; nothing was sent."""


class ClientUnusable(BitgearClientError, RuntimeError):
    """The client was closed, or is of another event loop or process; nothing was sent."""


class TransportError(BitgearClientError):
    """No answer arrived; the exception of httpx is the ``__cause__``."""


class Timeout(TransportError):
    """No answer arrived within ``timeout_s``; never retried, the wait is already spent."""


class ConnectionFailed(TransportError):
    """The connection was refused, reset, or closed before the answer was complete; retried within the budget."""


class ProtocolError(BitgearClientError):
    """An answer that does not follow the contract."""


class ServerProblem(BitgearClientError):
    """A refusal by the server, or by something in front of it.

    ``status`` is the HTTP status, 400..599; ``type`` the problem type as sent (``about:blank`` if there was none);
    ``detail`` the explanation; ``request_id`` what to quote when asking about it; ``members`` the extra members;
    ``retry_after_s`` the seconds to wait that the server asked for, at least 0.
    """

    def __init__(
        self,
        status: int,
        type: str,
        detail: str,
        request_id: str | None = None,
        members: Mapping[str, object] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(status, type, detail, request_id, members, retry_after_s)  # args, so that it pickles
        self.status = status
        self.type = type
        self.detail = detail
        self.request_id = request_id
        self.members = dict(members or {})
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        request = f" (request {self.request_id})" if self.request_id else ""
        return f"{self.status} {self.type.removeprefix(PROBLEM_PREFIX)}: {self.detail}{request}"

    def _text(self, member: str) -> str | None:
        value = self.members.get(member)
        return value if isinstance(value, str) else None

    def _integer(self, member: str) -> int | None:
        value = self.members.get(member)
        return value if isinstance(value, int) else None

    def _list(self, member: str) -> list[object]:
        value = self.members.get(member)
        return value if isinstance(value, list) else []


class BadRequest(ServerProblem):
    """400: the body is malformed or empty."""


class BadParameter(ServerProblem):
    """400: a parameter is unknown, or its value outside its range."""

    @property
    def parameter(self) -> str | None:
        """Name of the parameter, if the server gave it."""
        return self._text("parameter")


class ConflictingControls(ServerProblem):
    """400: one control was given two values."""

    @property
    def parameter(self) -> str | None:
        """Name of the control, if the server gave it."""
        return self._text("parameter")


class BadTensor(ServerProblem):
    """400: a tensor contradicts itself, or the model does not have it."""

    @property
    def tensor(self) -> str | None:
        """Name of the tensor, if the server gave it."""
        return self._text("tensor")


class ModelNotFound(ServerProblem):
    """404: the server has no model of that name."""

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models there are; empty if the server gave none."""
        return tuple(name for name in self._list("models") if isinstance(name, str))


class PathNotFound(ServerProblem):
    """404: the server has no such path; ``base_url`` probably leads to something else."""


class MethodNotAllowed(ServerProblem):
    """405: the path exists, but not for this method."""


class NotAcceptable(ServerProblem):
    """406: the request accepts no answer of the kind that there is."""

    @property
    def allowed(self) -> tuple[str, ...]:
        """Types that there are; empty if the server gave none."""
        return tuple(name for name in self._list("allowed") if isinstance(name, str))


class BodyTimeout(ServerProblem):
    """408: the request's body did not reach the server in time."""


class TooLarge(ServerProblem):
    """413: the body has too many bytes, or the image too many pixels."""

    @property
    def limit_bytes(self) -> int | None:
        """Most bytes that the server accepts, if that was the limit."""
        return self._integer("limit_bytes")

    @property
    def limit_pixels(self) -> int | None:
        """Most pixels (width times height) that the server accepts, if that was the limit."""
        return self._integer("limit_pixels")


class UnsupportedMediaType(ServerProblem):
    """415: the content type is not accepted."""

    @property
    def allowed(self) -> tuple[str, ...]:
        """Types that are accepted; empty if the server gave none."""
        return tuple(name for name in self._list("allowed") if isinstance(name, str))


class UndecodableImage(ServerProblem):
    """422: the bytes are not an image, truncated, or animated."""

    @property
    def reason(self) -> str | None:
        """Stable code of the decoder's error, if the server gave it."""
        return self._text("reason")


class PrecisionNotOffered(ServerProblem):
    """422: the pinned precision is not one that this model offers under this profile."""

    @property
    def offered_precisions(self) -> tuple[int | str, ...]:
        """Widths in bits, 2..8, and names of plans that are offered; empty if the server gave none."""
        return tuple(each for each in self._list("offered_precisions") if isinstance(each, int | str))


class TaskMismatch(ServerProblem):
    """422: the model does another task."""

    @property
    def task(self) -> str | None:
        """The task that the model does, if the server gave it."""
        return self._text("task")

    @property
    def route(self) -> str | None:
        """The path at which the model is served, if the server gave it."""
        return self._text("route")


class ModelUnusable(ServerProblem):
    """422: a model cannot be loaded; one that was served under its name still is."""

    @property
    def reason(self) -> str | None:
        """Stable code of what is wrong with it, if the server gave it."""
        return self._text("reason")


class HeadTooLarge(ServerProblem):
    """431: the request line and headers have too many bytes."""

    @property
    def limit_bytes(self) -> int | None:
        """Most bytes that the server accepts, if it told."""
        return self._integer("limit_bytes")


class InternalError(ServerProblem):
    """500: a fault of the server."""


class Overloaded(ServerProblem):
    """429: more requests than the server takes at once; retried within the budget."""


class RateLimited(Overloaded):
    """429: this key sends more requests than it may; retried within the budget."""


class Unauthorised(ServerProblem):
    """401: the server takes requests with a key only, and the key was missing or unknown."""


class Forbidden(ServerProblem):
    """403: the key may not do this."""


class DeadlineExceeded(ServerProblem):
    """504: the request's deadline passed; never retried, it is late already."""

    @property
    def stage(self) -> str | None:
        """How far the request had come, ``queue`` or ``infer``, if the server told."""
        return self._text("stage")


class NotReady(ServerProblem):
    """503: the server is starting, or otherwise unable to serve for now; retried within the budget."""


class Draining(NotReady):
    """503: the server is stopping; retried within the budget."""


PROBLEM_BY_TYPE: Mapping[str, type[ServerProblem]] = {
    "bad-request": BadRequest,
    "bad-parameter": BadParameter,
    "conflicting-controls": ConflictingControls,
    "model-not-found": ModelNotFound,
    "model-unusable": ModelUnusable,
    "not-found": PathNotFound,
    "method": MethodNotAllowed,
    "not-acceptable": NotAcceptable,
    "head-too-large": HeadTooLarge,
    "body-timeout": BodyTimeout,
    "too-large": TooLarge,
    "media-type": UnsupportedMediaType,
    "undecodable-image": UndecodableImage,
    "width-not-offered": PrecisionNotOffered,
    "task-mismatch": TaskMismatch,
    "internal": InternalError,
    "bad-tensor": BadTensor,
    "unauthorised": Unauthorised,
    "forbidden": Forbidden,
    "overloaded": Overloaded,
    "rate-limited": RateLimited,
    "deadline-exceeded": DeadlineExceeded,
    "not-ready": NotReady,
    "draining": Draining,
}

PROBLEM_BY_STATUS: Mapping[int, type[ServerProblem]] = {
    400: BadRequest,
    401: Unauthorised,
    403: Forbidden,
    404: PathNotFound,
    405: MethodNotAllowed,
    406: NotAcceptable,
    408: BodyTimeout,
    413: TooLarge,
    415: UnsupportedMediaType,
    429: Overloaded,
    500: InternalError,
    503: NotReady,
}


def problem_class(type: str, status: int) -> type[ServerProblem]:
    """Return the class for a problem type, for the HTTP status where the type is unknown, else ``ServerProblem``.

    >>> problem_class("urn:bitgear:problem:width-not-offered", 422).__name__
    'PrecisionNotOffered'
    >>> problem_class("about:blank", 503).__name__
    'NotReady'
    """
    by_status = PROBLEM_BY_STATUS.get(status, ServerProblem)
    return PROBLEM_BY_TYPE.get(type.removeprefix(PROBLEM_PREFIX), by_status)
