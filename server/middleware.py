"""What surrounds every request: its id, its end in metrics and log, and faults that nobody else caught."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bitgear.errors import BitgearError
from server.body import ClientGone
from server.errors import Draining
from server.exchange import FOLLOWED, PHASES, REQUEST_ID_HEADER, Exchange, begin, exchange_of
from server.metrics import Metrics
from server.problems import INTERNAL, note, respond
from server.traces import Traces

LINGER_S = 2.0

Endpoint = Callable[[Request], Awaitable[Response]]
AnswerError = Callable[[Request, Exception], Awaitable[Response]]

_REQUEST_ID_HEADER = REQUEST_ID_HEADER.lower().encode()
_logger = logging.getLogger(__name__)


class Surround:
    """ASGI middleware around the whole application.

    Once ``draining()`` is true every answer closes its connection, so that clients have left before the server goes; of
    pipelined requests that have arrived, the last one's does.
    An answer that is sent before the request's body has ended closes the connection, but not at once: what is still
    arriving is read and thrown away for up to :data:`LINGER_S`. Closed at once, the kernel would reset the connection
    and the client, still sending, might never see the answer.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, traces: Traces | None, draining: Callable[[], bool]) -> None:
        self._app = app
        self._metrics = metrics
        self._traces = traces
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = begin(scope)
        wire = _Wire(exchange, scope, receive, send, self._draining)
        # What answers GET answers HEAD (RFC 9110, section 9.1): the protocol leaves the body out, by its own scope.
        inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        try:
            await self._app(inner, wire.receive, wire.send)
        except ClientGone:
            pass
        except asyncio.CancelledError:
            # The server stops, and the time for what is in flight is over.
            await self._refuse(Draining(), scope, wire)
        except Exception as error:
            _logger.exception("request failed", extra={"request_id": exchange.request_id})
            await self._refuse(error, scope, wire)
        finally:
            self._metrics.finish(exchange)
            if self._traces is not None:
                self._traces.finish(exchange, scope)
            _log(exchange, scope)

    async def _refuse(self, error: Exception, scope: Scope, wire: "_Wire") -> None:
        exchange = exchange_of(scope)
        if exchange.status is None:  # otherwise an answer is on its way, and it is too late for another
            note(error, exchange)
            await respond(error, exchange.request_id)(scope, wire.receive, wire.send)


class Shortcut:
    """ASGI middleware that takes requests of the busiest paths to their endpoints, past the router.

    ``endpoints``: by the beginning and the last part of a path, between which stands one part, the model. All else
    goes on to ``app``, and so does whatever an endpoint is not for. A router that tries one pattern after another,
    resolves dependencies and stacks contexts takes longer than a small network.
    """

    def __init__(self, app: ASGIApp, endpoints: Mapping[tuple[str, str], Endpoint], answer_error: AnswerError) -> None:
        self._app = app
        self._endpoints = endpoints
        self._answer_error = answer_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            front, _, last = scope["path"].rpartition("/")
            start, slash, model = front.rpartition("/")
            endpoint = self._endpoints.get((start + slash, last))
            if endpoint is not None and model:
                scope["path_params"] = {"model": model}
                request = Request(scope, receive, send)
                try:
                    response = await endpoint(request)
                except BitgearError as error:
                    response = await self._answer_error(request, error)
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


class _Wire:
    """The ASGI channels of one request, watched."""

    def __init__(
        self, exchange: Exchange, scope: Scope, receive: Receive, send: Send, draining: Callable[[], bool]
    ) -> None:
        self._exchange = exchange
        self._receive = receive
        self._send = send
        self._draining = draining
        self._is_followed: Callable[[], bool] = scope.get("state", {}).get(FOLLOWED, lambda: False)
        headers = dict(scope["headers"])
        self._body_ended = headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers
        # A client that waits for "100 Continue", which the first receive() sends, sends nothing before.
        self._body_coming = b"expect" not in headers

    async def receive(self) -> Message:
        self._body_coming = True
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._body_ended = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._exchange.answer(message["status"])
            headers = [*message["headers"], (_REQUEST_ID_HEADER, self._exchange.request_id.encode())]
            if not self._body_ended or (self._draining() and not self._is_followed()):
                headers.append((b"connection", b"close"))
            await self._send({**message, "headers": headers})
        elif self._body_ended or not self._body_coming or message.get("more_body", False):
            await self._send(message)
        else:
            await self._send({**message, "more_body": True})
            await self._throw_away()
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _throw_away(self) -> None:
        try:
            async with asyncio.timeout(LINGER_S):
                while not self._body_ended:
                    await self.receive()
        except (TimeoutError, asyncio.CancelledError):  # cancelled: the server stops, and waits for nobody
            return


def _log(exchange: Exchange, scope: Scope) -> None:
    if exchange.problem == INTERNAL.name:
        level = logging.ERROR
    else:
        # Probes and scrapes come every few seconds and say nothing.
        level = logging.INFO if exchange.task is not None or exchange.problem is not None else logging.DEBUG
    if not _logger.isEnabledFor(level):
        return
    served = exchange.served
    _logger.log(
        level,
        "request",
        extra={
            "request_id": exchange.request_id,
            "trace_id": exchange.trace_id,
            "method": scope["method"][:16],
            "path": scope["path"][:80],
            "model": exchange.model,
            "task": exchange.task,
            "precision_asked": exchange.asked,
            "precision_served": served.precision if served is not None and exchange.failure is None else None,
            "reason": exchange.failure or (served.reason if served is not None else None),
            "stage": exchange.stage,
            "batch_images": served.batch_images if served is not None else None,
            "target_ms": _rounded(None if exchange.target_s is None else exchange.target_s * 1000),
            **{f"{phase}_ms": _rounded(exchange.phases_ms.get(phase)) for phase in PHASES},
            "total_ms": _rounded(exchange.elapsed_ms()),
            "status": exchange.status,
        },
    )


def _rounded(duration_ms: float | None) -> float | None:
    return None if duration_ms is None else round(duration_ms, 3)
