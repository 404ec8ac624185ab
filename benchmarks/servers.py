"""Servers of a benchmark's own: started on a free port of this machine, waited for, stopped."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

START_SECONDS = 120
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


@contextlib.contextmanager
def bitgear(models: Sequence[Path], log: Path, settings: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Serve masters for the duration of a block, with an admin key and else the settings that a user gets.

    ``settings``: others than those, by name.
    """
    environment = {
        "BITGEAR_LOG_LEVEL": "error",
        "BITGEAR_MODELS": os.pathsep.join(str(path) for path in models),
        "BITGEAR_ADMIN_KEY": ADMIN_KEY,
        **{f"BITGEAR_{name.upper()}": value for name, value in (settings or {}).items()},
    }
    port = free_port()
    command = [sys.executable, "-m", "bitgear.cli", "serve", "--port", str(port)]
    ready = "/v2/health/ready"
    with run(command, port, ready, log, environment) as server:
        while httpx.get(f"http://127.0.0.1:{port}{ready}").json()["measuring"]:
            time.sleep(0.1)
        yield server


@contextlib.contextmanager
def run(
    command: Sequence[str], port: int, ready: str, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Run a server for the duration of a block, which begins once the path ``ready`` is answered with 200.

    What it writes goes to the file ``log``. Raises :class:`RuntimeError` if it ends before, or is not ready in time.
    """
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            env={**os.environ, **(environment or {})},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _await(process, f"http://127.0.0.1:{port}{ready}", log)
            yield Server(process, port)
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # workers that a server left behind
            process.wait()


def _await(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    until_s = time.monotonic() + START_SECONDS
    while time.monotonic() < until_s:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r:.200} ended with {process.returncode}:\n{log.read_text()[-2000:]}")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url).status_code == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(f"{process.args!r:.200} is not ready after {START_SECONDS} s:\n{log.read_text()[-2000:]}")
