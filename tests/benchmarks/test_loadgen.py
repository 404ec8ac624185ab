"""The load generator against a server that does as it is told."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.loadgen import Plan, Record, closed, run, throughput

REQUEST = b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Reply = Callable[[socket.socket, int], bool]


@contextlib.contextmanager
def serving(reply: Reply) -> Iterator[int]:
    """Serve on a port; ``reply`` gets the connection and the number of the request on it, and says whether to go on."""
    listener = socket.create_server(("127.0.0.1", 0))

    def talk(connection: socket.socket) -> None:
        with connection:
            count = 0
            received = b""
            while content := connection.recv(1 << 16):
                received += content
                while received.endswith(b"abc"):
                    received = received[: -len(REQUEST)]
                    if not reply(connection, count):
                        return
                    count += 1

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=talk, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def plan(port: int, at_s: list[float], **options: float) -> Plan:
    return Plan(port, [REQUEST], np.zeros(len(at_s), np.int64), np.array(at_s), **{"stop_s": 10, **options})  # type: ignore[arg-type]


def ok(connection: socket.socket, _: int) -> bool:
    connection.sendall(ANSWER)
    return True


def test_every_request_is_sent_at_its_time_and_answered() -> None:
    with serving(ok) as port:
        record = run(plan(port, [0.0, 0.0, 0.01, 0.02]))
    assert record.status.tolist() == [200] * 4
    assert record.answers == [ANSWER] * 4
    assert (record.lag_ms >= 0).all()
    assert (record.latency_ms >= record.lag_ms).all()
    assert record.cpu_s <= record.wall_s


def test_connections_are_used_again() -> None:
    with serving(ok) as port:
        record = run(plan(port, [0.0] * 20, connections=2))
    assert record.status.tolist() == [200] * 20
    assert record.opened == 2


def test_an_answer_may_come_in_pieces() -> None:
    def reply(connection: socket.socket, _: int) -> bool:
        for byte in ANSWER:
            connection.sendall(bytes([byte]))
        return True

    with serving(reply) as port:
        assert run(plan(port, [0.0, 0.0])).answers == [ANSWER, ANSWER]


def test_a_server_that_hangs_up_costs_that_request_alone() -> None:
    def reply(connection: socket.socket, count: int) -> bool:
        if count == 1:
            return False
        connection.sendall(ANSWER)
        return True

    with serving(reply) as port:
        record = run(plan(port, [0.0] * 4, connections=1))
    assert record.status.tolist() == [200, 0, 200, 0]
    assert np.isnan(record.latency_ms[record.status == 0]).all()


def test_a_connection_that_closes_after_its_answer_is_replaced() -> None:
    def reply(connection: socket.socket, _: int) -> bool:
        connection.sendall(b"HTTP/1.1 429 Too Many\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        return False

    with serving(reply) as port:
        record = run(plan(port, [0.0] * 3, connections=1))
    assert record.status.tolist() == [429] * 3
    assert record.opened == 3


def test_without_an_answer_it_ends_after_the_grace() -> None:
    with serving(lambda *_: True) as port:
        record = run(plan(port, [0.0], stop_s=0.01, grace_s=0.01))
    assert record.status.tolist() == [0]


def test_what_finds_no_free_connection_is_sent_late() -> None:
    entered, release = threading.Event(), threading.Event()

    def reply(connection: socket.socket, count: int) -> bool:
        if count == 0:
            entered.set()
            release.wait(10)
        connection.sendall(ANSWER)
        return True

    with serving(reply) as port:
        threading.Thread(target=lambda: (entered.wait(10), release.set()), daemon=True).start()
        record = run(plan(port, [0.0, 0.0], connections=1))
    assert record.sent_s[1] >= record.done_s[0]
    assert record.lag_ms[1] >= record.latency_ms[0]


def test_closed_loop_sends_as_fast_as_it_is_answered_until_the_end() -> None:
    with serving(ok) as port:
        record = run(closed(port, [REQUEST], callers=2, seconds=0.05, rate_max=1e6))
    assert 0 < len(record.status) < 50_000
    assert record.sent_s.max() <= 0.05
    assert throughput(record, skip_s=0) > 0


def test_an_answer_of_unknown_length_is_named() -> None:
    def reply(connection: socket.socket, _: int) -> bool:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        return True

    with serving(reply) as port, pytest.raises(SystemExit, match="Content-Length"):
        run(plan(port, [0.0]))


def test_plan_and_record_survive_a_file(tmp_path: Path) -> None:
    original = Plan(80, [b"a", b"", b"bc"], np.array([2, 0]), np.array([0.5, 1.0]), 2.0, 7, 3, 4.0)
    original.save(tmp_path / "plan.npz")
    loaded = Plan.load(tmp_path / "plan.npz")
    assert (loaded.requests, loaded.port, loaded.connections, loaded.grace_s) == ([b"a", b"", b"bc"], 80, 7, 4.0)
    assert loaded.at_s.tolist() == [0.5, 1.0]
    with serving(ok) as port:
        record = run(plan(port, [0.0]))
    record.save(tmp_path / "record.npz")
    again = Record.load(tmp_path / "record.npz")
    assert (again.answers, again.opened, again.cpu_s) == (list(record.answers), record.opened, record.cpu_s)


def test_requests_that_found_no_connection_are_misses() -> None:
    with serving(lambda *_: True) as port:  # which never answers
        asked = plan(port, [0.0, 0.01, 0.02], connections=1, warm_connections=1, stop_s=0.1, grace_s=0.1)
        record = run(asked)
    assert len(record.status) == 1
    whole = record.whole(asked)
    assert whole.status.tolist() == [0, 0, 0]
    assert np.isnan(whole.latency_ms).all()
    assert whole.lag_ms[1:] == pytest.approx([90, 80])
    assert len(whole.answers) == len(whole.which) == 3
