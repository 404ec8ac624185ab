"""What is known about one request and its answer, filled in while it is worked on."""

import itertools
import re
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from starlette.types import Scope

from server.ladder import Rung
from server.policy import Reason, Source

REQUEST_ID_HEADER = "X-Request-Id"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_START = secrets.token_hex(8)
_numbers = itertools.count(1)
"""Made up: a random start of the process, and a number. Chance for each one would be a system call for each."""

_SCOPE_KEY = "bitgear.exchange"


@dataclass(frozen=True)
class ServedAt:
    """The rung that served a request, who decided that, and why; ``batch_images``: of the batch it was part of."""

    rung: Rung
    source: Source
    reason: Reason
    batch_images: int

    @property
    def precision(self) -> int | str:
        """The rung's name as answers write it: a number for a width, a string for a plan."""
        return int(self.rung.precision) if self.rung.precision.isdigit() else self.rung.precision


@dataclass
class Exchange:
    """One request, from receipt to the answer.

    ``task`` None: not an inference request. ``model``: a served name, or ``unknown``. ``asked``: a digit, ``auto``, or
    None before it was read. ``target_s``: in what time after receipt it should be answered; None: never known.
    ``served`` and ``phases_ms``, durations of what was done, stand once there is a result. ``status`` None: nothing
    was answered. ``problem``: the name of the problem that was answered. ``started_s``, ``answered_s``: on the
    monotonic clock.
    """

    request_id: str
    started_s: float = field(default_factory=time.monotonic)
    task: str | None = None
    model: str | None = None
    asked: str | None = None
    target_s: float | None = None
    served: ServedAt | None = None
    phases_ms: Mapping[str, float] = field(default_factory=dict)
    status: int | None = None
    problem: str | None = None
    answered_s: float | None = None

    def elapsed_ms(self) -> float:
        """Return milliseconds from receipt to the answer, or to now if there is none yet."""
        end_s = time.monotonic() if self.answered_s is None else self.answered_s
        return (end_s - self.started_s) * 1000

    def answer(self, status: int) -> None:
        """Note that the answer begins to be sent."""
        self.status = status
        self.answered_s = time.monotonic()


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
    return f"{_START}{next(_numbers):016x}"
