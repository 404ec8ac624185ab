"""What is known about one request and its answer, filled in while it is worked on."""

import re
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field

from starlette.types import Scope

from server.policy import Decision

REQUEST_ID_HEADER = "X-Request-Id"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_SCOPE_KEY = "bitgear.exchange"


@dataclass
class Exchange:
    """One request, from receipt to the answer. One thread at a time writes to it.

    ``task`` None: not an inference request. ``model``: a served name, or ``unknown``. ``asked``: a digit, ``auto``, or
    None before it was read. ``phases_ms``: durations of what was done. ``status`` None: nothing was answered.
    ``problem``: the name of the problem that was answered. ``started_s``, ``answered_s``: on the monotonic clock.
    """

    request_id: str
    started_s: float = field(default_factory=time.perf_counter)
    task: str | None = None
    model: str | None = None
    asked: str | None = None
    decision: Decision | None = None
    phases_ms: dict[str, float] = field(default_factory=dict)
    status: int | None = None
    problem: str | None = None
    answered_s: float | None = None

    def elapsed_ms(self) -> float:
        """Return milliseconds from receipt to the answer, or to now if there is none yet."""
        end_s = time.perf_counter() if self.answered_s is None else self.answered_s
        return (end_s - self.started_s) * 1000

    def answer(self, status: int) -> None:
        """Note that the answer begins to be sent."""
        self.status = status
        self.answered_s = time.perf_counter()


def begin(scope: Scope) -> Exchange:
    """Return the exchange of an ASGI request, now attached to it."""
    exchange = Exchange(_request_id(scope["headers"]))
    scope[_SCOPE_KEY] = exchange
    return exchange


def exchange_of(scope: Scope) -> Exchange:
    """Return the exchange attached to an ASGI request."""
    exchange: Exchange = scope[_SCOPE_KEY]
    return exchange


def _request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    for name, value in headers:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return value.decode("ascii")
    return uuid.uuid4().hex
