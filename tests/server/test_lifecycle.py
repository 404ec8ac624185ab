"""The server as a process: how it starts and how it stops."""

import asyncio
import contextlib
import errno
import functools
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from unittest.mock import Mock

import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from bitgear.checkpoint import write_master
from server.main import _accepted, _Handler, _Server, bind
from server.protocol import Protocol
from tests.masters import tiny_master
from tests.serving import DEADLINE_S, PATH, check_problem, png, read_answer, wait_until

ROOT = Path(__file__).parents[2]

PROGRAM = """
import signal, sys, time
from bitgear.engines import create_engine
from bitgear.errors import BitgearError
from server.main import run
from server.settings import load_settings

derive_s, run_s = map(float, sys.argv[1:])
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup ignores, if it runs the tests

class Slow:
    name = "slow"
    def derive(self, master, bits):
        time.sleep(derive_s)
        model = create_engine("reference").derive(master, bits)
        return SlowModel(model) if run_s else model

class SlowModel:
    def __init__(self, model):
        self.model, self.plan, self.nbytes = model, model.plan, model.nbytes
    def run(self, q_image):
        time.sleep(run_s)
        return self.model.run(q_image)

try:
    sys.exit(run(load_settings(port=0), engine=Slow() if derive_s or run_s else None))
except BitgearError as error:
    print(error.code, error, file=sys.stderr)
    sys.exit(2)
"""


@dataclass(frozen=True)
class Process:
    popen: subprocess.Popen[str]
    out: IO[str]
    log: Path

    def port(self) -> int:
        line = self.out.readline()
        assert line.startswith("bitgear 0."), line + self.log.read_text()
        assert " serves tiny at http://127.0.0.1:" in line
        return int(line.rsplit(":", 1)[1])

    def signal(self, number: int) -> None:
        os.kill(self.popen.pid, number)

    def status(self) -> int:
        return self.popen.wait(DEADLINE_S)


@contextlib.contextmanager
def process(
    folder: Path, derive_s: float = 0, run_s: float = 0, shell: str = "", **settings: object
) -> Iterator[Process]:
    """A server of its own; ``shell``: what else a shell is told of its start, as redirections."""
    path = folder / "tiny.safetensors"
    write_master(tiny_master(), path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BITGEAR_MODELS": str(path)}
    environment |= {f"BITGEAR_{name.upper()}": str(value) for name, value in settings.items()}
    log = folder / "log"
    with log.open("w") as stream:
        popen = subprocess.Popen(
            ["sh", "-c", f'exec "$@" {shell}', "sh", sys.executable, "-c", PROGRAM, str(derive_s), str(run_s)],
            cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=stream, text=True,
        )  # fmt: skip
    assert popen.stdout is not None
    with popen.stdout as out:
        try:
            yield Process(popen, out, log)
        finally:
            popen.kill()
            popen.wait()


def head(length: int) -> bytes:
    return f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {length}\r\n\r\n".encode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_finishes_what_is_in_flight_and_ends_with_0(tmp_path: Path, number: int) -> None:
    image = png()
    with process(tmp_path, drain_delay_s=1) as server:
        port = server.port()
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S, trust_env=False)
        with client, socket.create_connection(("127.0.0.1", port), DEADLINE_S) as slow:
            slow.sendall(head(len(image)) + image[:10])  # in flight: its body has not ended
            wait_until(lambda: 'bitgear_in_flight{model="tiny"} 1.0' in client.get("/metrics").text, "in flight")
            server.signal(number)
            wait_until(lambda: client.get("/v2/health/ready").status_code == 503, "not ready")
            if number == signal.SIGHUP:
                server.signal(number)  # a shell and its terminal may both send one
            assert client.get("/v2/health/ready").json()["type"] == "urn:bitgear:problem:draining"
            answer = client.post(PATH, content=image)  # still serves during the delay
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
            wait_until(lambda: not _accepts(port), "no longer accepting")
            slow.sendall(image[10:])
            status, _, body = read_answer(slow)
            assert status == 200
            assert json.loads(body)["model"] == "tiny"
        assert server.status() == 0
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert sum(line["status"] == 200 for line in lines if line["message"] == "request") == 2


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1):
            return True
    except ConnectionRefusedError:
        return False


async def _started(listener: socket.socket) -> _Server:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    protocol: Any = functools.partial(Protocol, patience_s=DEADLINE_S)
    config = uvicorn.Config(app, http=protocol, ws="none", lifespan="off", log_config=None)
    config.load()
    server = _Server(config, runtime=Mock(), url="")
    server.lifespan = config.lifespan_class(config)
    await server.startup([listener])
    return server


def test_who_has_connected_when_the_server_stops_is_answered() -> None:
    async def scenario() -> bytes:
        listener = bind("127.0.0.1", 0)
        server = await _started(listener)
        with socket.create_connection(listener.getsockname(), DEADLINE_S) as client:  # which nobody accepts meanwhile
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            await server.shutdown([listener])
            return client.recv(1000)

    assert asyncio.run(scenario()).startswith(b"HTTP/1.1 204")


def test_who_was_accepted_just_before_the_server_stops_and_asks_nothing_is_closed() -> None:
    async def scenario() -> bytes:
        listener = bind("127.0.0.1", 0)
        server = await _started(listener)
        with socket.create_connection(listener.getsockname(), DEADLINE_S) as client:
            loop = asyncio.get_running_loop()
            accepting = loop.create_task(loop.connect_accepted_socket(server._create_protocol, listener.accept()[0]))
            async with asyncio.timeout(DEADLINE_S):
                await server.shutdown([listener])
            await accepting
            return client.recv(1000)

    assert asyncio.run(scenario()) == b""


def test_a_connection_that_is_gone_before_it_is_accepted_hides_none_behind_it() -> None:
    connection = Mock()
    listener = Mock(accept=Mock(side_effect=[ConnectionAbortedError, (connection, "address"), BlockingIOError]))
    assert list(_accepted(listener)) == [connection]


def _drain(server: Process) -> int:
    """Tell a process to stop, and return its port once it says that it does."""
    port = server.port()
    server.signal(signal.SIGTERM)
    url = f"http://127.0.0.1:{port}/v2/health/ready"
    wait_until(lambda: httpx.get(url, trust_env=False).status_code == 503, "draining")
    return port


def test_what_is_pipelined_to_a_draining_server_is_answered(tmp_path: Path) -> None:
    with process(tmp_path, drain_delay_s=100) as server:
        port = _drain(server)
        with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as client:
            client.sendall(3 * b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            with client.makefile("rb") as stream:
                answers = stream.read().lower()  # to the end: the last one closes the connection
    assert answers.count(b"http/1.1 200") == 3
    assert answers.count(b"connection: close") == 1


def test_a_request_that_does_not_end_is_given_up_after_the_drain_timeout(tmp_path: Path) -> None:
    with process(tmp_path, drain_timeout_s=1, body_timeout_s=100) as server:
        port = server.port()
        with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as slow:
            slow.sendall(head(1000) + b"x")
            url = f"http://127.0.0.1:{port}/metrics"
            wait_until(lambda: 'in_flight{model="tiny"} 1.0' in httpx.get(url, trust_env=False).text, "in flight")
            server.signal(signal.SIGTERM)
            status, headers, body = read_answer(slow)
            assert status == 503
            check_problem(headers, json.loads(body), 503, "draining")
            assert server.status() == 0
    assert "Traceback" not in server.log.read_text()


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    with process(tmp_path, drain_delay_s=100) as server:
        _drain(server)
        server.signal(signal.SIGTERM)
        assert server.status() == 1


def test_a_signal_before_ready_ends_with_0(tmp_path: Path) -> None:
    with process(tmp_path, derive_s=2, log_level="debug") as server:
        port = _listening_port(server)
        wait_until(lambda: _accepts(port), "listening")
        server.signal(signal.SIGTERM)
        assert server.status() == 0
        assert server.out.read() == ""  # it never said that it serves


@pytest.mark.parametrize("shell", ["", ">&-", ">/dev/full"], ids=["nobody reads", "closed", "full"])
def test_a_server_needs_no_standard_output(tmp_path: Path, shell: str) -> None:
    with process(tmp_path, shell=shell) as server:
        server.out.close()
        with httpx.Client(base_url=f"http://127.0.0.1:{_listening_port(server)}", trust_env=False) as client:
            wait_until(lambda: _status(client) == 200, "ready")
            date = client.get("/v2").headers[
                "date"
            ]  # uvicorn sets it at its ticks, at which the server says that it serves
            wait_until(lambda: client.get("/v2").headers["date"] != date, "ticks")
            assert client.post(PATH, content=png()).status_code == 200
        server.signal(signal.SIGTERM)
        assert server.status() == 0
    assert "Traceback" not in server.log.read_text()


def _status(client: httpx.Client) -> int | None:
    with contextlib.suppress(httpx.ConnectError):
        return client.get("/v2/health/ready").status_code
    return None


def test_a_server_out_of_descriptors_says_so_once_and_goes_on(tmp_path: Path) -> None:
    with process(tmp_path) as server, contextlib.ExitStack() as stack:
        address = ("127.0.0.1", server.port())
        descriptors = Path(f"/proc/{server.popen.pid}/fd")
        open_now = len(list(descriptors.iterdir()))
        _, hard = resource.prlimit(server.popen.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.popen.pid, resource.RLIMIT_NOFILE, (open_now + 8, hard))
        for _ in range(40):
            stack.enter_context(socket.create_connection(address, DEADLINE_S))
        wait_until(lambda: "connections wait" in server.log.read_text(), "a warning")
        stack.close()
        with socket.create_connection(address, DEADLINE_S) as connection:
            connection.sendall(head(len(png())) + png())
            assert read_answer(connection)[0] == 200
        server.signal(signal.SIGTERM)
        assert server.status() == 0
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert [line["level"] for line in lines if line["level"] != "info"] == ["warning"]


def test_what_else_goes_wrong_in_the_event_loop_is_told_as_usual() -> None:
    loop = Mock()
    context = {"message": "a callback failed", "exception": OSError(errno.EMFILE, "too many")}
    _Handler()(loop, context)
    loop.default_exception_handler.assert_called_once_with(context)


def _listening_port(server: Process) -> int:
    """The port of a process that has not announced itself yet."""
    found: list[int] = []

    def look() -> bool:
        if server.popen.poll() is not None:
            raise AssertionError(server.log.read_text())
        inodes = set()
        for link in Path(f"/proc/{server.popen.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                inodes.add(str(link.readlink()))
        for line in Path(f"/proc/{server.popen.pid}/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                found.append(int(fields[1].split(":")[1], 16))
        return bool(found)

    wait_until(look, "a listening socket")
    return found[0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"profile": "none"}, "settings-invalid profile 'none' is unknown"),
        ({"threads": "many"}, "settings-invalid setting 'threads' is 'many'"),
        ({"models": "/nonexistent.safetensors"}, "model-not-found '/nonexistent.safetensors' is neither a file nor"),
        ({"engine": "magic"}, "engine-unavailable"),
    ],
)
def test_what_cannot_start_says_why_in_one_line(tmp_path: Path, settings: dict[str, str], said: str) -> None:
    with process(tmp_path, **settings) as server:
        assert server.status() == 2
        lines = server.log.read_text().splitlines()
        assert len(lines) == 1
        assert lines[0].startswith(said)


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    program = "import sys; from server.main import run; from server.settings import load_settings; run(load_settings())"
    write_master(tiny_master(), tmp_path / "tiny.safetensors")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        environment = {
            **os.environ, "PYTHONPATH": str(ROOT), "BITGEAR_MODELS": str(tmp_path),
            "BITGEAR_PORT": str(taken.getsockname()[1]),
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
    assert done.returncode != 0
    assert "cannot listen on 127.0.0.1 port" in done.stderr


def test_one_json_line_per_request_whatever_the_request_says(tmp_path: Path) -> None:
    with process(tmp_path) as server:
        port = server.port()
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S, trust_env=False) as client:
            parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            client.post(PATH, content=png(), headers={"Precision": "4", "X-Request-Id": "mine", "Traceparent": parent})
            client.post(PATH, content=png(), headers={"Precision": '9","status":200,"x":"'})
            client.get('/%0A{"level":"error"}')
            client.get("/v2/health/live")
            client.post(PATH, content=png(), headers={"Deadline-Ms": "0.01"})
        with socket.create_connection(("127.0.0.1", port)) as leaves:
            leaves.sendall(f"POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n".encode())
        wait_until(lambda: server.log.read_text().count('"message": "request"') == 5, "five lines")
        server.signal(signal.SIGTERM)
        assert server.status() == 0
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    first, second, third, late, unanswered = [line for line in lines if line["message"] == "request"]
    assert set(first) == {
        "time", "level", "message", "request_id", "trace_id", "method", "path", "model", "task", "precision_asked",
        "precision_served", "reason", "stage", "batch_images", "target_ms", "queue_ms", "decode_ms", "switch_ms",
        "infer_ms", "post_ms", "total_ms", "status",
    }  # fmt: skip
    assert (first["request_id"], first["model"], first["status"]) == ("mine", "tiny", 200)
    assert (first["precision_asked"], first["precision_served"], first["reason"]) == ("4", 4, "asked")
    assert (first["trace_id"], second["trace_id"]) == ("0af7651916cd43dd8448eb211c80319c", None)
    assert (first["task"], first["batch_images"]) == ("classify", 1)
    assert 0 < first["infer_ms"] < first["total_ms"]
    assert 0 < first["decode_ms"] < first["total_ms"]
    assert first["target_ms"] > 0
    assert (second["status"], second["reason"], second["precision_served"]) == (400, "bad-parameter", None)
    assert (late["status"], late["reason"], late["stage"], late["target_ms"]) == (
        504,
        "deadline-exceeded",
        "queue",
        0.01,
    )
    assert (unanswered["status"], unanswered["reason"], unanswered["stage"]) == (None, "unanswered", None)
    assert (third["status"], third["path"]) == (404, '/\n{"level":"error"}')


def test_answers_on_a_kept_connection_do_not_wait_for_acknowledgements() -> None:
    async def without_nagle() -> bool:
        """Whether a connection that asyncio accepts has Nagle's algorithm off."""
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            found.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with bind("127.0.0.1", 0) as listener:
            server = await asyncio.start_server(accept, sock=listener)
            async with server, asyncio.timeout(DEADLINE_S):
                _, writer = await asyncio.open_connection(*listener.getsockname())
                writer.close()
                return await found != 0

    assert asyncio.run(without_nagle())


def test_importing_the_server_loads_no_torch() -> None:
    program = "import sys, server.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False, timeout=60).returncode == 0


def test_the_server_runs_outside_the_main_thread(tmp_path: Path) -> None:
    program = """
import threading
from server.main import run
from server.settings import load_settings
threading.Thread(target=run, args=(load_settings(port=0),), daemon=True).start()
threading.Event().wait()
"""
    write_master(tiny_master(), tmp_path / "tiny.safetensors")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BITGEAR_MODELS": str(tmp_path)}
    popen = subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
    assert popen.stdout is not None
    guard = threading.Timer(DEADLINE_S, popen.kill)
    guard.start()
    with popen.stdout as out:
        assert out.readline().startswith("bitgear ")
        guard.cancel()
        popen.kill()
        popen.wait()


def accepted(metrics: str) -> float:
    """How many inference requests are being worked on or done."""
    counts = ("bitgear_in_flight{", "bitgear_requests_total{")
    return sum(float(line.rsplit(" ", 1)[1]) for line in metrics.splitlines() if line.startswith(counts))


def test_a_signal_under_load_loses_no_accepted_request(tmp_path: Path) -> None:
    """One is being worked on, the others are queued behind it: all are answered."""
    image = png()
    with process(tmp_path, run_s=0.2, max_batch=1, measure_s=0, policy="fixed", engine_workers=1) as server:
        port = server.port()
        request = head(len(image)).replace(b"Host: x", b"Host: x\r\nPrecision: 3") + image
        with contextlib.ExitStack() as stack:
            connections = [
                stack.enter_context(socket.create_connection(("127.0.0.1", port), DEADLINE_S)) for _ in range(40)
            ]
            for connection in connections:
                connection.sendall(request)
            url = f"http://127.0.0.1:{port}/metrics"
            wait_until(lambda: accepted(httpx.get(url, trust_env=False).text) == 40, "all requests are accepted")
            server.signal(signal.SIGTERM)
            answers = [read_answer(connection) for connection in connections]
        assert server.status() == 0
    assert [status for status, _, _ in answers] == [200] * 40
    assert {json.loads(body)["precision"]["served"] for _, _, body in answers} == {3}
