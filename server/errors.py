"""What can be wrong with a request. Status codes and titles are in :mod:`server.problems`, not here.

::

    BitgearError
    ├── RequestError              ``members`` are the extra members of the problem document
    │   ├── BadRequest            malformed JSON, base64 or multipart, no image, empty body
    │   ├── BadParameter          unknown parameter, or a value outside its range
    │   ├── ConflictingControls   one control, two values
    │   ├── BadTensor             a tensor whose shape, type or data contradict each other, or do not fit the model
    │   ├── UnknownModel
    │   │   └── UnknownVersion
    │   ├── ModelUnusable         damaged, or two of one name
    │   ├── UnknownPath
    │   ├── MethodNotAllowed
    │   ├── NotAcceptable         no answer is of a kind that the client accepts
    │   ├── HeadTooLarge
    │   ├── BodyTimeout
    │   ├── BodyTooLarge
    │   ├── MediaTypeNotAccepted
    │   ├── WidthNotOffered
    │   ├── TaskMismatch
    │   ├── Unauthorised          no key, or one that is not known
    │   ├── Forbidden             a key that may not do this
    │   ├── Overloaded            as many requests as the server takes
    │   ├── RateLimited           as many requests as this key may send
    │   ├── DeadlineExceeded
    │   ├── NotReady              starting
    │   └── Draining              stopping
    ├── SettingsError             a setting, profile or model path that cannot be used (server.settings)
    └── LadderError               a ladder that cannot be (server.ladder)
"""

from collections.abc import Iterable, Sequence

from bitgear.errors import BitgearError

SHOWN_CHARACTERS = 40

RETRY_AFTER_S = 1
"""When to ask again a server that starts or stops, or another in its place."""


class RequestError(BitgearError):
    """Base of the refusals. ``str(error)`` says what was given, what was expected and what to do."""

    code = "request-invalid"

    def __init__(self, detail: str, **members: object) -> None:
        self.members = members
        super().__init__(detail)


class BadRequest(RequestError):
    """The body is not what its content type says, or holds no image."""

    code = "bad-request"


class BadParameter(RequestError):
    """A parameter that does not exist, or a value outside its range."""

    code = "bad-parameter"

    def __init__(self, detail: str, parameter: str) -> None:
        super().__init__(detail, parameter=parameter)


class ConflictingControls(RequestError):
    """One control was given twice with different values."""

    code = "conflicting-controls"

    def __init__(self, parameter: str, first: object, second: object) -> None:
        super().__init__(
            f"{parameter} was given twice with different values, {shown(first)} and {shown(second)}; give it once",
            parameter=parameter,
        )


class BadTensor(RequestError):
    """A tensor whose name, shape, type and data contradict each other, or which the model does not have."""

    code = "bad-tensor"

    def __init__(self, detail: str, tensor: str) -> None:
        super().__init__(detail, tensor=tensor)


class UnknownModel(RequestError):
    """No model of that name is served."""

    code = "model-not-found"

    def __init__(self, name: str, models: list[str]) -> None:
        super().__init__(f"no model is named {shown(name)}; there are {', '.join(models) or 'none'}", models=models)


class UnknownVersion(UnknownModel):
    """The model is not served in that version."""

    def __init__(self, name: str, asked: str, served: str) -> None:
        detail = f"{name} is served in version {served} and not {shown(asked)}; ask for that one, or for none"
        RequestError.__init__(self, detail, models=[name])


class ModelUnusable(RequestError):
    """A model cannot be loaded. ``reason``: a stable code."""

    code = "model-unusable"

    def __init__(self, name: str, reason: str, said: str) -> None:
        detail = f"model {shown(name)} cannot be loaded: {said}; whatever was served before still is"
        super().__init__(detail, reason=reason)


class UnknownPath(RequestError):
    """Nothing is served at that path."""

    code = "not-found"


class MethodNotAllowed(RequestError):
    """The path exists, but not for that method."""

    code = "method"

    def __init__(self, method: str, allowed: list[str]) -> None:
        super().__init__(f"method {shown(method)} is not allowed here; use {', '.join(allowed)}", allowed=allowed)


class BodyTimeout(RequestError):
    """The body did not end in time."""

    code = "body-timeout"

    def __init__(self, timeout_s: float) -> None:
        super().__init__(f"the body did not end within {timeout_s:g} s; send it faster", timeout_s=timeout_s)


class BodyTooLarge(RequestError):
    """The body has more bytes than allowed."""

    code = "too-large"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the body exceeds the limit of {limit_bytes} bytes; send less", limit_bytes=limit_bytes)


class MediaTypeNotAccepted(RequestError):
    """The content type, content encoding or transfer encoding is not accepted."""

    code = "media-type"

    def __init__(self, what: str, given: str, allowed: list[str]) -> None:
        super().__init__(f"{what} {shown(given)} is not accepted; use {', '.join(allowed)}", allowed=allowed)


class NotAcceptable(RequestError):
    """The client accepts nothing that the path answers with."""

    code = "not-acceptable"

    def __init__(self, given: str, allowed: list[str]) -> None:
        super().__init__(f"Accept {shown(given)} leaves nothing; answers are {' or '.join(allowed)}", allowed=allowed)


class HeadTooLarge(RequestError):
    """Request line and headers take more bytes than the server reads of them."""

    code = "head-too-large"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the head of a request may have up to {limit_bytes} bytes", limit_bytes=limit_bytes)


class WidthNotOffered(RequestError):
    """No width that the model offers within the profile's bounds is the one asked for."""

    code = "width-not-offered"

    def __init__(self, asked: str, offered: Sequence[int | str]) -> None:
        names = listed(offered)
        told = ", ".join(map(str, names)) or "none"
        super().__init__(f"{asked} is not offered; offered within the profile: {told}", offered_precisions=names)


class TaskMismatch(RequestError):
    """The model does another task than the path names."""

    code = "task-mismatch"

    def __init__(self, asked: str, task: str, route: str) -> None:
        super().__init__(f"the model does not {asked}; its task is {task}: POST {route}", task=task, route=route)


class Unauthorised(RequestError):
    """No key was given, or none that is known."""

    code = "unauthorised"

    def __init__(self, said: str) -> None:
        super().__init__(f"{said}; send your key in X-Api-Key, or as a Bearer token in Authorization")


class Forbidden(RequestError):
    """The key that was given may not do this."""

    code = "forbidden"


class Overloaded(RequestError):
    """As many requests are being worked on, or bytes of bodies held, as the server takes."""

    code = "overloaded"

    def __init__(self, said: str, retry_after_s: int, queue_depth: int) -> None:
        super().__init__(
            f"{said}; try again in {retry_after_s} s", retry_after_s=retry_after_s, queue_depth=queue_depth
        )


class RateLimited(RequestError):
    """A key sends more requests than it may."""

    code = "rate-limited"

    def __init__(self, retry_after_s: int, requests_per_s: float) -> None:
        super().__init__(
            f"this key may send {requests_per_s:g} requests a second; try again in {retry_after_s} s",
            retry_after_s=retry_after_s,
        )


class DeadlineExceeded(RequestError):
    """The request's deadline passed or cannot be met. ``stage``: how far it had come, ``queue`` or ``infer``."""

    code = "deadline-exceeded"

    def __init__(self, stage: str) -> None:
        done = "was not begun" if stage == "queue" else "was not done"
        super().__init__(f"the work {done} before the deadline; allow more time, or fewer bits", stage=stage)


class NotReady(RequestError):
    """The server is still loading."""

    code = "not-ready"

    def __init__(self) -> None:
        super().__init__("the server is starting; try again", retry_after_s=RETRY_AFTER_S)


class Draining(RequestError):
    """The server is stopping."""

    code = "draining"

    def __init__(self) -> None:
        super().__init__("the server is stopping; try another", retry_after_s=RETRY_AFTER_S)


def listed(precisions: Iterable[int | str]) -> list[int | str]:
    """Return precisions as clients are told of them, in an order that no measurement changes: widths, then plans.

    >>> listed([8, "mixed-3.0", 2, "mixed-2.5", 4])
    [8, 4, 2, 'mixed-2.5', 'mixed-3.0']
    """
    given = list(precisions)
    widths = sorted((each for each in given if isinstance(each, int)), reverse=True)
    return [*widths, *sorted(each for each in given if isinstance(each, str))]


def shown(value: object) -> str:
    """Return what a client gave, cut to 40 characters and quoted, fit to be part of a message.

    >>> shown("cat")
    "'cat'"
    >>> shown(("cat", "dog"))
    "'cat, dog'"
    """
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return repr(text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…")
