"""What goes out on a connection, and when."""

import asyncio
import itertools
import json
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import uvicorn
from uvicorn.server import ServerState

from server import protocol as server_protocol
from server.exchange import RECEIVED, begin
from server.protocol import HEAD_LIMIT_BYTES, PairingTransport, Protocol
from tests.serving import PATH, Running, check_problem, next_answer, png, read_answer, running


class Wire(asyncio.Transport):
    """What was written to it, piece by piece."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []
        self.closed = self.aborted = False
        self.unsent_bytes = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed
        self.pieces.append(bytes(data))

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def get_write_buffer_size(self) -> int:
        return self.unsent_bytes

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


def written(*steps: str | None) -> tuple[Wire, list[int]]:
    """The wire after these pieces, None being a turn of the event loop, and how many were out after each step."""

    async def write() -> tuple[Wire, list[int]]:
        wire = Wire()
        transport = PairingTransport(wire, asyncio.get_running_loop(), 10.0)
        counts = []
        for step in steps:
            if step is None:
                await asyncio.sleep(0)
            elif step == "close":
                transport.close()
            else:
                transport.write(step.encode())
            counts.append(len(wire.pieces))
        return wire, counts

    return asyncio.run(write())


def test_two_pieces_go_out_as_one() -> None:
    wire, counts = written("head", "body", None)
    assert (wire.pieces, counts) == ([b"headbody"], [0, 1, 1])


def test_a_piece_that_stays_alone_goes_out_when_the_loop_comes_round() -> None:
    wire, counts = written("head", None, "later", None)
    assert (wire.pieces, counts) == ([b"head", b"later"], [0, 1, 1, 2])


def test_order_is_kept_whatever_the_number_of_pieces() -> None:
    wire, _ = written("a", "b", "c", None, "d", "e", None)
    assert b"".join(wire.pieces) == b"abcde"


def test_nothing_is_lost_when_the_connection_closes() -> None:
    wire, _ = written("head", "close", None)
    assert (wire.pieces, wire.closed) == ([b"head"], True)


@pytest.mark.parametrize("head", [b"GET /v2/health/live", b"HEAD /v2/health/live", b"POST /v2/health/live"])
def test_answers_are_whole_whether_or_not_they_have_a_body(server: Running, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(head + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    first, _, body = answer.partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 ")
    length = next(int(line.split(b":")[1]) for line in first.split(b"\r\n") if line.startswith(b"content-length:"))
    assert len(body) == (0 if head.startswith(b"HEAD") else length)


class Turns:
    """An event loop whose timers are set off by hand."""

    def __init__(self) -> None:
        self.timers: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        callback()

    def call_later(self, _: float, callback: Callable[[int], None], taken_bytes: int) -> None:
        self.timers.append(lambda: callback(taken_bytes))

    def turn(self) -> None:
        timers, self.timers = self.timers, []
        for timer in timers:
            timer()


def test_a_client_that_takes_nothing_of_its_answer_loses_the_connection() -> None:
    wire, loop = Wire(), Turns()
    transport = PairingTransport(wire, loop, 1.0)  # type: ignore[arg-type]
    wire.unsent_bytes = 1000
    transport.write(b"x" * 1000)
    for left_bytes in (900, 500, 499):
        wire.unsent_bytes = left_bytes
        loop.turn()
    transport.write(b"y" * 100)
    wire.unsent_bytes = 598  # more than before, but something was taken
    loop.turn()
    assert not wire.aborted
    loop.turn()
    assert wire.aborted


def test_a_client_that_takes_all_of_its_answer_is_not_watched() -> None:
    wire, loop = Wire(), Turns()
    transport = PairingTransport(wire, loop, 1.0)  # type: ignore[arg-type]
    transport.write(b"x")
    assert not loop.timers
    wire.unsent_bytes = 10
    transport.write(b"x")
    wire.unsent_bytes = 0
    loop.turn()
    assert not loop.timers
    assert not wire.aborted


async def connected(app: Callable[..., Any]) -> tuple[Protocol, Wire]:
    """A connection to a server of this ASGI application."""
    wire = Wire()
    config = uvicorn.Config(app, ws="none", log_config=None)
    config.load()
    protocol = Protocol(config, ServerState(), {}, patience_s=10.0)
    protocol.connection_made(wire)
    return protocol, wire


@dataclass(frozen=True)
class Heard:
    """A request as an application heard it."""

    path: str
    headers: dict[bytes, bytes]
    body: bytes
    received_s: float


def heard(*pieces: bytes) -> tuple[list[Heard], Wire]:
    """What an application hears of bytes that are read piece by piece, and its answers: 204 to each request."""
    requests = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        requests.append(Heard(scope["path"], dict(scope["headers"]), body, scope["state"][RECEIVED]))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def scenario() -> Wire:
        protocol, wire = await connected(app)
        for piece in pieces:
            assert not wire.closed
            protocol.data_received(piece)
            await turns()
        return wire

    return requests, asyncio.run(scenario())


def test_a_request_is_received_when_its_first_bytes_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    times_s = itertools.count(5.0)
    monkeypatch.setattr(server_protocol, "time", Mock(monotonic=lambda: next(times_s)))
    requests, _ = heard(b"GET / HT", b"TP/1.1\r\nHost: x\r\n", b"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert [request.received_s for request in requests] == [5.0, 6.0]
    assert begin({"headers": [], "state": {RECEIVED: 5.0}}).started_s == 5.0


def test_a_request_that_comes_as_the_server_stops_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_protocol, "PARTING_S", 0.0)

    async def scenario() -> None:
        go = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await go.wait()
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})

        protocol, wire = await connected(app)
        protocol.shutdown()
        protocol.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await turns()
        assert not wire.closed
        go.set()
        await turns()
        assert wire.closed
        assert b"HTTP/1.1 204" in b"".join(wire.pieces)
        assert b"connection: close" in b"".join(wire.pieces)

    asyncio.run(scenario())


def test_an_idle_connection_is_closed_as_the_server_stops_but_not_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_protocol, "PARTING_S", 0.0)

    async def scenario() -> None:
        protocol, wire = await connected(lambda *_: None)
        protocol.shutdown()
        assert not wire.closed
        await turns()
        assert (wire.closed, wire.pieces) == (True, [])

    asyncio.run(scenario())


async def turns() -> None:
    """Let the event loop do what is due."""
    for _ in range(10):
        await asyncio.sleep(0)


def classify(image: bytes, *headers: str) -> bytes:
    lines = [f"POST {PATH} HTTP/1.1", "Host: x", "Content-Type: image/png", f"Content-Length: {len(image)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.parametrize("offer", [("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"),
                                   ("Connection: keep-alive, upgrade", "Upgrade: websocket")])  # fmt: skip
@pytest.mark.parametrize("pieces", [1, 2])
def test_an_upgrade_that_nobody_offers_is_ignored(offer: tuple[str, ...], pieces: int) -> None:
    head = classify(b"body", *offer)
    requests, wire = heard(*([head + b"body"] if pieces == 1 else [head, b"body"]), classify(b"other") + b"other")
    assert [(request.path, request.body) for request in requests] == [(PATH, b"body"), (PATH, b"other")]
    assert b"".join(wire.pieces).count(b"HTTP/1.1 204") == 2


def test_a_body_is_never_taken_for_a_request() -> None:
    body = b"GET /v2/models HTTP/1.1\r\nHost: x\r\n\r\n"
    requests, _ = heard(classify(body, "Connection: Upgrade", "Upgrade: h2c"), body)
    assert [(request.path, request.body) for request in requests] == [(PATH, body)]


def test_nothing_follows_connect(server: Running) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\nGET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 40")
    assert answer.count(b"HTTP/1.1") == 1
    server.good()


@pytest.mark.parametrize("pieces", [1, 2, 50])
@pytest.mark.parametrize("ended", [True, False])
def test_a_head_without_measure_is_refused(server: Running, pieces: int, ended: bool) -> None:
    head = f"GET /v2 HTTP/1.1\r\nHost: x\r\nX-Long: {'x' * 5 * HEAD_LIMIT_BYTES}".encode()
    head += b"\r\n\r\nGET /v2/models HTTP/1.1\r\nHost: x\r\n\r\n" if ended else b""
    size = -(-len(head) // pieces)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        for start in range(0, len(head), size):
            connection.sendall(head[start : start + size])
        _, headers, body = read_answer(connection)
        document = check_problem(headers, json.loads(body), 431, "head-too-large")
        assert (document["limit_bytes"], headers["connection"]) == (HEAD_LIMIT_BYTES, "close")
        assert connection.recv(1) == b""
    server.good()


def test_a_long_head_is_served(server: Running) -> None:
    headers = {f"X-{number}": "x" * 1000 for number in range(60)}
    assert server.client.get("/v2", headers=headers).status_code == 200


@pytest.mark.parametrize("sent", [b"", b"GET /v2 HTT", b"\r\n", classify(b"x") + b"x" + b"GET"])
def test_a_head_that_does_not_end_loses_the_connection(tmp_path: Path, sent: bytes) -> None:
    with running(tmp_path, body_timeout_s=0.3) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(sent)
            begun_s = time.monotonic()
            while connection.recv(65536):
                pass
            assert time.monotonic() - begun_s < 8
        server.good()


def chunked(image: bytes, *headers: str) -> bytes:
    lines = [f"POST {PATH} HTTP/1.1", "Host: x", "Content-Type: image/png", "Transfer-Encoding: chunked", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + b"%x\r\n%s\r\n0\r\n" % (len(image), image)


@pytest.mark.parametrize("pieces", [1, 2])
def test_trailers_are_no_headers(pieces: int) -> None:
    trailers = b"Precision: 2\r\nX-Request-Id: trailing\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\n\r\n"
    sent = chunked(b"body", "Precision: 4")
    ((request,), _) = heard(*([sent + trailers] if pieces == 1 else [sent, trailers]))
    assert (request.headers[b"precision"], request.headers[b"content-type"]) == (b"4", b"image/png")
    assert not {b"x-request-id", b"content-encoding"} & set(request.headers)
    assert request.body == b"body"


@pytest.mark.parametrize("endless", [b"ab:\r\n", b"x" * 100, b"\r\n"], ids=["trailers", "one trailer", "blank lines"])
def test_what_lies_between_requests_has_a_limit(monkeypatch: pytest.MonkeyPatch, endless: bytes) -> None:
    monkeypatch.setattr(server_protocol, "LINGER_S", 0.0)
    start = b"" if endless == b"\r\n" else chunked(b"body")

    async def scenario() -> int:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.Event().wait()

        protocol, wire = await connected(app)
        protocol.data_received(start)
        read_bytes = 0
        while not wire.closed and read_bytes < 64 * HEAD_LIMIT_BYTES:
            protocol.data_received(endless)
            read_bytes += len(endless)
            await asyncio.sleep(0)
        return read_bytes

    assert HEAD_LIMIT_BYTES < asyncio.run(scenario()) < 1.1 * HEAD_LIMIT_BYTES


def test_a_body_of_many_small_chunks_is_read(server: Running) -> None:
    image = png(400, 400)
    lines = [f"POST {PATH} HTTP/1.1", "Host: x", "Content-Type: image/png", "Transfer-Encoding: chunked", "", ""]
    body = b"".join(b"1;%s\r\n%c\r\n" % (b"e" * 200, byte) for byte in image) + b"0\r\n\r\n"
    assert len(body) > 2 * HEAD_LIMIT_BYTES
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall("\r\n".join(lines).encode())
        for start in range(0, len(body), 300):  # so that most begin and end in the middle of something
            connection.sendall(body[start : start + 300])
        assert read_answer(connection)[0] == 200


def test_many_offers_of_an_upgrade_are_ignored_one_by_one(server: Running) -> None:
    count = 3000
    offer = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: a\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(offer * count)
        with connection.makefile("rb") as stream:
            assert all(next_answer(stream)[0] == 200 for _ in range(count))


def test_what_is_no_http_does_not_take_the_place_of_an_answer(server: Running) -> None:
    image = png()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(classify(image) + image + b"garbage\r\n\r\n")
        with connection.makefile("rb") as stream:
            assert next_answer(stream)[0] == 200
            assert stream.read() == b""


def test_a_broken_body_is_refused(server: Running) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(chunked(png()).removesuffix(b"0\r\n") + b"zz\r\n")
        assert b"".join(iter(lambda: connection.recv(65536), b"")).startswith(b"HTTP/1.1 400 ")


def test_a_transfer_coding_that_is_not_understood_is_refused(server: Running) -> None:
    request = chunked(png()).replace(b": chunked", b": gzip, chunked") + b"\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(request)
        _, headers, body = read_answer(connection)
    assert check_problem(headers, json.loads(body), 415, "media-type")["allowed"] == ["chunked"]


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v2/health/live HTTP/1.1\r\n\r\n",
        b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
        b"GET /v2/health/live HTTP/1.0\r\nHost: x\r\nHost: x\r\n\r\n",
    ],
)
def test_a_request_names_one_host(server: Running, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(head)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(("version", "interim"), [(b"1.0", False), (b"1.1", True)])
def test_a_client_of_http_1_0_gets_no_interim_answer(server: Running, version: bytes, interim: bool) -> None:
    head = (
        b"POST /v1/models/tiny/classify HTTP/%s\r\nHost: x\r\nExpect: 100-continue\r\nConnection: close\r\n" % version
    )
    image = png()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(image))
        connection.sendall(image)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 100 ") == interim
    assert b"HTTP/1.1 200 " in answer


def test_http_1_0_needs_no_host(server: Running) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(b"GET /v2/health/live HTTP/1.0\r\n\r\n")
        assert read_answer(connection)[0] == 200
