"""An engine whose calls wait until they are let go, and requests that need no network."""

import asyncio
import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray
from starlette.types import Message, Scope

from bitgear.bits import Plan
from bitgear.engines import DerivedModel, Engine, create_engine
from tests.serving import DEADLINE_S, PATH, png

_image = functools.cache(png)


@dataclass(eq=False)
class Gate:
    """An engine behind a gate. ``calls``: width and number of images of each call that began."""

    name: str = "gate"
    engine: Engine = field(default_factory=create_engine)
    open: threading.Event = field(default_factory=threading.Event)
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    calls: list[tuple[int, int]] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)
    """Raised by the next calls, one each."""

    def __post_init__(self) -> None:
        self.open.set()  # for the warm-up

    def derive(self, master: Any, precision: Any) -> DerivedModel:
        return _Gated(self, self.engine.derive(master, precision))

    def close(self) -> None:
        """Let no further call through, and forget those before."""
        self.open.clear()
        self.calls.clear()
        while self.begun.acquire(blocking=False):
            pass

    def wait_for_a_call(self) -> None:
        """Return once a further call has begun."""
        assert self.begun.acquire(timeout=DEADLINE_S)


@dataclass(eq=False)
class _Gated:
    gate: Gate
    model: DerivedModel

    @property
    def plan(self) -> Plan:
        return self.model.plan

    @property
    def nbytes(self) -> int:
        return self.model.nbytes

    def run(self, q_image: NDArray[np.int8]) -> NDArray[np.float32]:
        self.gate.calls.append((self.plan.default.weight_bits, len(q_image)))
        self.gate.begun.release()
        assert self.gate.open.wait(DEADLINE_S)
        if self.gate.errors:
            raise self.gate.errors.pop(0)
        return self.model.run(q_image)


@dataclass
class Exchanged:
    """A request as an ASGI server would pass it on, and what came back. ``status`` None: nothing."""

    body: bytes = field(default_factory=_image)
    path: str = PATH
    query: str = ""
    headers: Sequence[tuple[str, str]] = ()
    leaves: asyncio.Event | None = None
    """Set once the client has gone; None: it stays."""

    status: int | None = None
    answer: bytes = b""
    answer_headers: dict[str, str] = field(default_factory=dict)
    _sent: bool = False

    async def run(self, app: FastAPI) -> "Exchanged":
        scope: Scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
            "path": self.path, "raw_path": self.path.encode(), "query_string": self.query.encode(), "root_path": "",
            "headers": [(b"content-type", b"image/png"), (b"content-length", str(len(self.body)).encode())]
            + [(name.lower().encode(), value.encode()) for name, value in self.headers],
            "client": ("test", 1), "server": ("test", 2),
        }  # fmt: skip
        await app(scope, self._receive, self._send)
        return self

    async def _receive(self) -> Message:
        if not self._sent:
            self._sent = True
            return {"type": "http.request", "body": self.body, "more_body": False}
        await (self.leaves or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.answer_headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.answer += message.get("body", b"")
