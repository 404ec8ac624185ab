"""A real server on a free port in a thread, and the pictures that tests send to it."""

import contextlib
import functools
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx
import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI
from PIL import Image

from bitgear.checkpoint import Master, write_master
from bitgear.engines import Engine
from server.app import create_app
from server.main import bind
from server.problems import MEDIA_TYPE, URN
from server.protocol import Protocol
from server.settings import Settings
from tests.masters import tiny_master

PATH = "/v1/models/tiny/classify"
DEADLINE_S = 20.0


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Return once the condition holds; fail after the deadline."""
    end_s = time.monotonic() + DEADLINE_S
    pause = threading.Event()
    while not condition():
        if time.monotonic() > end_s:
            raise AssertionError(f"waited {DEADLINE_S} s in vain: {what}")
        pause.wait(0.01)


def limit_threads(monkeypatch: pytest.MonkeyPatch, count: int) -> list[threading.Thread]:
    """Let so many more threads start, as a limit of the system does; return those that have started."""
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def limited(thread: threading.Thread) -> None:
        if len(started) == count:
            raise RuntimeError("can't start new thread")
        start(thread)
        started.append(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    return started


@dataclass(frozen=True)
class Running:
    """A server that is ready."""

    app: FastAPI
    port: int
    master: Master
    client: httpx.Client

    @property
    def version(self) -> str:
        """That of the tiny master."""
        return str(self.app.state.runtime.models.get("tiny").version)

    def good(self) -> dict[str, Any]:
        """The answer to a request that must succeed."""
        answer = self.client.post(PATH, content=png(), headers={"Content-Type": "image/png"})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def refused(self, answer: httpx.Response, status: int, problem: str, **members: object) -> dict[str, Any]:
        """Assert that an answer is this problem, and that the server still serves."""
        assert answer.status_code == status, answer.text
        document = check_problem(answer.headers, answer.json(), status, problem)
        assert {name: document.get(name) for name in members} == members
        self.good()
        return document

    def raw(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body that come back for bytes sent as they are."""
        with socket.create_connection(("127.0.0.1", self.port), DEADLINE_S) as connection:
            connection.sendall(data)
            return read_answer(connection)


def check_problem(headers: Any, document: dict[str, Any], status: int, problem: str) -> dict[str, Any]:
    assert headers["content-type"] == MEDIA_TYPE
    assert document["type"] == URN + problem, document
    assert document["status"] == status
    assert document["error"] == document["detail"]
    assert document["instance"] == headers["x-request-id"]
    assert "Traceback" not in json.dumps(document)
    assert "/work" not in document["detail"]
    return document


def read_answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Read one answer with a Content-Length from a connection."""
    with connection.makefile("rb") as stream:
        return next_answer(stream)


def next_answer(stream: IO[bytes]) -> tuple[int, dict[str, str], bytes]:
    """Read one answer of several."""
    status = int(stream.readline().split()[1])
    headers = {}
    while line := stream.readline().strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    return status, headers, stream.read(int(headers.get("content-length", "0")))


@contextlib.contextmanager
def running(
    folder: Path,
    engine: Engine | None = None,
    further: Iterable[Master] = (),
    files: Iterable[Path] = (),
    **settings: Any,
) -> Iterator[Running]:
    """A server of the tiny master, of further ones, and of files or folders that are there; stopped at the end."""
    master = tiny_master()
    paths = []
    for each in (master, *further):
        paths.append(folder / f"{each.name}.safetensors")
        if not paths[-1].exists():
            write_master(each, paths[-1])
    # Nothing is measured, so nothing moves the precision.
    settings = {"policy": "fixed", "measure_s": 0, "threads": 1, "watch_s": 0, **settings}
    app = create_app(Settings(models=(*paths, *files), **settings), engine=engine)
    protocol: Any = functools.partial(Protocol, patience_s=app.state.runtime.settings.body_timeout_s)
    config = uvicorn.Config(app, http=protocol, lifespan="on", ws="none", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    listener = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S, trust_env=False)
    try:
        wait_until(lambda: server.started, "listening")
        wait_until(lambda: client.get("/v2/health/ready").json().get("measuring") is False, "ready, and all measured")
        yield Running(app, port, master, client)
    finally:
        client.close()
        server.should_exit = True
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


def pixels(seed: int = 0, side_px: int = 16) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Random RGB pixels, uint8 (side_px, side_px, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (side_px, side_px, 3), dtype=np.uint8)


def encode(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """The image as a file."""
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def png(seed: int = 0, side_px: int = 16) -> bytes:
    """Random pixels as a PNG."""
    return encode(Image.fromarray(pixels(seed, side_px)))
