"""A server of this checkout in a process of its own, for measurements over HTTP."""

import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

READY_WITHIN_S = 30


@contextmanager
def local_server(port: int, **settings: object) -> Iterator[http.client.HTTPConnection]:
    """Give a connection to a server that is ready; ``settings``: its own, such as ``threads``."""
    given = {f"BITGEAR_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "bitgear.cli", "serve", "--port", str(port)]
    environment = {**os.environ, "BITGEAR_LOG_LEVEL": "warning", **given}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        yield connect(port)
    finally:
        server.terminate()
        server.wait(READY_WITHIN_S)


def connect(port: int) -> http.client.HTTPConnection:
    """Return a connection to a server on this machine once it is ready and has measured all, or end the program."""
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/v2/health/ready")
            response = connection.getresponse()
            content = response.read()
            if response.status == 200 and not json.loads(content)["measuring"]:
                return connection
        except OSError:
            pass
        time.sleep(0.05)
    raise SystemExit(f"the server did not become ready within {READY_WITHIN_S} s")


def ask(
    connection: http.client.HTTPConnection, path: str, body: bytes, headers: Mapping[str, str]
) -> tuple[float, dict[str, Any]]:
    """Return the round trip in milliseconds and the answer; end the program where there is none."""
    started = time.perf_counter()
    connection.request("POST", path, body, dict(headers))
    response = connection.getresponse()
    content = response.read()
    round_trip_ms = 1e3 * (time.perf_counter() - started)
    if response.status != 200:
        raise SystemExit(f"status {response.status}: {re.sub(rb'[^ -~]', b'?', content[:300]).decode()}")
    answer: dict[str, Any] = json.loads(content)
    return round_trip_ms, answer
