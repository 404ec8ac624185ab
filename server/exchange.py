"""What is known about one request and its answer, filled in while it is worked on."""

import functools
import itertools
import re
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from starlette.types import Scope

from server.ladder import Rung
from server.policy import Reason, Source

REQUEST_ID_HEADER = "X-Request-Id"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_TRACEPARENT = re.compile(rb"00-((?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_START = secrets.token_hex(8)
_numbers = itertools.count(1)
"""Made up: a random start of the process, and a number. Chance for each one would be a system call for each."""

_SCOPE_KEY = "bitgear.exchange"

RECEIVED = "bitgear.received_s"
"""In the state of an ASGI request: when its first bytes were read, on the monotonic clock, if the protocol tells."""

UNANSWERED = "unanswered"
"""Why a request failed that has no answer: the client went away, or the server stopped."""

PHASES = ("queue", "decode", "switch", "infer", "post")

FOLLOWED = "bitgear.is_followed"
"""There too: a function that tells whether pipelined requests wait for the answer."""


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
        return self.rung.said


class Step(NamedTuple):
    """A part of the work on a request, one of :data:`PHASES`, and when it was."""

    phase: str
    started_s: float
    duration_s: float


@dataclass
class Exchange:
    """One request, from receipt to the answer.

    ``trace_id``: of the trace it is part of, 32 hexadecimal digits. ``task`` None: not an inference request. ``model``:
    a served name, or ``unknown``. ``asked``: a digit, the name of a plan, ``auto``, or None before it was read.
    ``target_s``: in what time after receipt it should be answered; None: never known. ``served`` and ``steps`` stand
    once there is a result. ``status`` None: nothing was answered. ``problem``: the name of the problem that was
    answered; ``stage``: how far the request had come, where its deadline was that. ``started_s``, ``answered_s``: on
    the monotonic clock.
    """

    request_id: str
    trace_id: str | None = None
    started_s: float = field(default_factory=time.monotonic)
    task: str | None = None
    model: str | None = None
    asked: str | None = None
    target_s: float | None = None
    served: ServedAt | None = None
    steps: Sequence[Step] = ()
    status: int | None = None
    problem: str | None = None
    stage: str | None = None
    answered_s: float | None = None

    @functools.cached_property
    def phases_ms(self) -> Mapping[str, float]:
        """Milliseconds by phase of what was done. To be read once there is a result."""
        sums: dict[str, float] = {}
        for phase, _, duration_s in self.steps:
            sums[phase] = sums.get(phase, 0.0) + duration_s * 1000
        return sums

    @property
    def failure(self) -> str | None:
        """The name of the problem that was answered, or :data:`UNANSWERED`; None: it was answered as asked."""
        return UNANSWERED if self.status is None else self.problem

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
    request_id, trace_id = _ids(scope["headers"])
    received_s = scope.get("state", {}).get(RECEIVED)
    exchange = Exchange(request_id, trace_id, time.monotonic() if received_s is None else received_s)
    scope[_SCOPE_KEY] = exchange
    return exchange


def exchange_of(scope: Scope) -> Exchange:
    """Return the exchange attached to an ASGI request."""
    exchange: Exchange = scope[_SCOPE_KEY]
    return exchange


def _ids(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str, str | None]:
    request_id = trace_id = None
    for name, value in headers:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            request_id = value.decode("ascii")
        elif name == b"traceparent" and (found := _TRACEPARENT.fullmatch(value)):
            trace_id = found[1].decode("ascii")
    return request_id or made_up_id(), trace_id


def made_up_id() -> str:
    """Return an id for a request that has none."""
    return f"{_START}{next(_numbers):016x}"
