"""Run the server in this process until it is told to stop."""

import asyncio
import contextlib
import errno
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any

import uvicorn

from bitgear import __version__
from bitgear.engines import Engine
from server.app import create_app
from server.logs import configure_logging
from server.memory import return_large_blocks
from server.protocol import Protocol
from server.runtime import Runtime
from server.settings import Settings, SettingsError, unknown_variables

_logger = logging.getLogger(__name__)

BACKLOG = 2048
"""Connections that may wait to be accepted, if the system allows so many."""

SILENCE_S = 60.0
"""How long a server that cannot accept connections says nothing more of it."""

_HANG_UP: int | None = getattr(signal, "SIGHUP", None)  # not on every platform

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def run(settings: Settings, *, engine: Engine | None = None) -> int:
    """Serve until SIGTERM, SIGINT or SIGHUP, unless that is ignored; return the exit status, 0 after an orderly stop.

    The first signal drains: not ready at once, accepting for ``drain_delay_s`` more, then finishing what is in flight
    within ``drain_timeout_s``. The second ends the process on the spot, with status 1.

    Raises a :class:`~bitgear.errors.BitgearError` if the server cannot start.
    """
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):  # until the server's own handlers are in place
            signal.signal(number, lambda *_: sys.exit(0))
    return_large_blocks()
    configure_logging(settings.log_level)
    for name, meant in unknown_variables(os.environ).items():
        _logger.warning("%s is no setting and changes nothing%s", name, f"; did you mean {meant}?" if meant else "")
    app = create_app(settings, engine=engine)
    runtime: Runtime = app.state.runtime
    # What is there now is there to stay: to walk through all of it, the collector would stop every thread for 30 ms.
    gc.freeze()
    config = uvicorn.Config(
        app,
        http=partial(Protocol, patience_s=settings.body_timeout_s),  # type: ignore[arg-type]  # as good as a class
        lifespan="on",
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=1,  # how often asyncio tries to accept at once, and goes on trying when it is out of descriptors
        timeout_graceful_shutdown=settings.drain_timeout_s,
    )
    listener = bind(settings.host, settings.port)
    _Server(config, runtime, _url(settings.host, listener)).run([listener])
    if runtime.failure is not None:
        raise runtime.failure
    return 0


class _Server(uvicorn.Server):
    """Uvicorn's server with our way of stopping, and a line for humans when it is ready."""

    def __init__(self, config: uvicorn.Config, runtime: Runtime, url: str) -> None:
        super().__init__(config)
        self._runtime = runtime
        self._url = url
        self._announced = False
        self._drained_at_s: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of a handler
        if self._drained_at_s is not None:
            if sig == _HANG_UP:  # a shell and its terminal may both send one
                return
            os._exit(1)
        self._runtime.drain()
        self._drained_at_s = time.monotonic() + self._runtime.settings.drain_delay_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        in_main = threading.current_thread() is threading.main_thread()
        if _HANG_UP is not None and in_main and signal.getsignal(_HANG_UP) is signal.SIG_DFL:  # nohup has it ignored
            signal.signal(_HANG_UP, self.handle_exit)
        asyncio.get_running_loop().set_exception_handler(_Handler())
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)

    async def on_tick(self, counter: int) -> bool:
        if self._runtime.failure is not None:
            return True
        if self._drained_at_s is not None and time.monotonic() >= self._drained_at_s:
            return True
        if self._runtime.ready and not self._announced:
            self._announced = True
            models = ", ".join(self._runtime.models.names)
            _say(f"bitgear {__version__} serves {models} at {self._url}\n")
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop, but take on first what has connected already: closing the listeners would reset it."""
        waiting: list[socket.socket] = []
        for listener in sockets or ():
            waiting += _accepted(listener)
        for server in self.servers:
            server.close()
        for _ in range(2):  # what asyncio has just accepted: a task makes the transport, which tells the protocol later
            await asyncio.sleep(0)
        for connection in waiting:
            with contextlib.suppress(OSError):  # it has gone
                await asyncio.get_running_loop().connect_accepted_socket(self._create_protocol, connection)
        await super().shutdown(sockets)

    def _create_protocol(self) -> asyncio.Protocol:
        protocol: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return protocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


def _say(line: str) -> None:
    """Write a line to standard output, if there is one and somebody takes it."""
    # Past its buffer: what that could not get rid of, the interpreter would try again at exit, and end with a failure.
    with contextlib.suppress(OSError):
        if sys.stdout is not None:
            os.write(sys.stdout.fileno(), line.encode())


class _Handler:
    """Handles what goes wrong in an event loop: as asyncio does, but for what it would say each second."""

    def __init__(self) -> None:
        self._silent_until_s = 0.0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in _EXHAUSTED and "socket" in context):
            loop.default_exception_handler(context)
        elif loop.time() >= self._silent_until_s:
            self._silent_until_s = loop.time() + SILENCE_S
            _logger.warning("connections wait to be accepted: %s", error.strerror)


def _accepted(listener: socket.socket) -> Iterator[socket.socket]:
    """Accept what waits at a listener that does not block."""
    while True:
        try:
            yield listener.accept()[0]
        except ConnectionAbortedError:
            continue  # this one has gone
        except OSError:  # none waits any more, or there are no descriptors left
            return


def bind(host: str, port: int) -> socket.socket:
    """Return a TCP socket bound to an address; raise :class:`~server.settings.SettingsError` if it cannot be."""
    # The protocol is spelled out because asyncio switches Nagle's algorithm off only where it sees TCP; with it on, an
    # answer on a kept-alive connection waits 40 ms for the client's delayed acknowledgement.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise SettingsError(f"cannot listen on {host} port {port}: {error.strerror}; choose another") from error
    return listener


def _url(host: str, listener: socket.socket) -> str:
    port = listener.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
