"""What goes out on a connection, and when."""

import asyncio
import json
import socket
import time
from collections.abc import Iterable
from typing import Any

import pytest

from server.protocol import PairingTransport
from tests.serving import PATH, Running, png, read_answer


class Wire(asyncio.Transport):
    """What was written to it, piece by piece."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed
        self.pieces.append(bytes(data))

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        self.closed = True


def written(*steps: str | None) -> tuple[Wire, list[int]]:
    """The wire after these pieces, None being a turn of the event loop, and how many were out after each step."""

    async def write() -> tuple[Wire, list[int]]:
        wire = Wire()
        transport = PairingTransport(wire, asyncio.get_running_loop())
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


def test_a_request_is_received_when_its_first_bytes_are_read(server: Running) -> None:
    image = png()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\n".encode())
        time.sleep(0.5)  # far more than what is asserted: reading may be late on a busy machine
        connection.sendall(f"Content-Type: image/png\r\nContent-Length: {len(image)}\r\n\r\n".encode() + image)
        status, _, body = read_answer(connection)
    assert status == 200
    assert json.loads(body)["timing_ms"]["total"] >= 50
