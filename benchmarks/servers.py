"""Servers of a benchmark's own: started on a free port of this machine, waited for, stopped."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

LOGS = Path("build/benchmarks")
START_SECONDS = 120
ANSWER_SECONDS = 60
STOP_SECONDS = 20
ADMIN_KEY = "benchmark"


def free_port() -> int:
    """Return a port that nobody listens on at the moment."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def end_in_order() -> None:
    """Have SIGTERM end this process like an exception, so that no server outlives it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


@dataclass(frozen=True)
class Server:
    """A server that answers on ``port``; ``process`` leads the group of all its processes."""

    process: "subprocess.Popen[bytes]"
    port: int

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Give it no processor time for the duration of a block."""
        os.killpg(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.process.pid, signal.SIGCONT)

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection that is kept alive."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS)


def ask(
    connection: http.client.HTTPConnection, path: str, body: bytes, headers: Mapping[str, str]
) -> tuple[float, dict[str, Any]]:
    """Return the round trip in milliseconds and the answer; end the program where there is none."""
    started_s = time.perf_counter()
    connection.request("POST", path, body, dict(headers))
    response = connection.getresponse()
    content = response.read()
    round_trip_ms = 1e3 * (time.perf_counter() - started_s)
    if response.status != 200:
        raise SystemExit(f"status {response.status}: {re.sub(rb'[^ -~]', b'?', content[:300]).decode()}")
    answer: dict[str, Any] = json.loads(content)
    return round_trip_ms, answer


@contextlib.contextmanager
def bitgear(log: Path, settings: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Serve for the duration of a block, which begins once all is measured.

    As :func:`started`.
    """
    ready = "/v2/health/ready"
    with started(log, settings) as server:
        _await(server, ready, log)
        while httpx.get(f"http://127.0.0.1:{server.port}{ready}").json()["measuring"]:
            time.sleep(0.1)
        yield server


@contextlib.contextmanager
def started(log: Path, settings: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Start bitgear for the duration of a block, which begins at once.

    With an admin key and else the settings that a user gets, but for ``settings``, by name. What it writes goes to the
    file ``log``.
    """
    environment = {
        "BITGEAR_LOG_LEVEL": "error",
        "BITGEAR_ADMIN_KEY": ADMIN_KEY,
        **{f"BITGEAR_{name.upper()}": value for name, value in (settings or {}).items()},
    }
    port = free_port()
    with _process([sys.executable, "-m", "bitgear.cli", "serve", "--port", str(port)], log, environment) as process:
        yield Server(process, port)


@contextlib.contextmanager
def run(
    command: Sequence[str], port: int, ready: str, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Run another server for the duration of a block, which begins once the path ``ready`` is answered with 200.

    What it writes goes to the file ``log``. Raises :class:`RuntimeError` if it ends before, or is not ready in time.
    """
    with _process(command, log, environment or {}) as process:
        server = Server(process, port)
        _await(server, ready, log)
        yield server


@contextlib.contextmanager
def _process(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # workers that a server left behind
            process.wait()


def _await(server: Server, path: str, log: Path) -> None:
    process, url = server.process, f"http://127.0.0.1:{server.port}{path}"
    until_s = time.monotonic() + START_SECONDS
    while time.monotonic() < until_s:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r:.200} ended with {process.returncode}:\n{log.read_text()[-2000:]}")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url).status_code == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(f"{process.args!r:.200} is not ready after {START_SECONDS} s:\n{log.read_text()[-2000:]}")
