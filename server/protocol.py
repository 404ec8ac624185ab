"""HTTP/1.1 as uvicorn speaks it, but head and body of an answer in one piece, and the receipt of requests noted."""

import asyncio
import time
from collections.abc import Iterable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.exchange import RECEIVED

Bytes = bytes | bytearray | memoryview


class Protocol(HttpToolsProtocol):
    """Uvicorn's protocol, writing through a :class:`PairingTransport`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(PairingTransport(transport, self.loop))

    def on_message_begin(self) -> None:
        # In a burst all requests are read before the first one is looked at, which for the last is a while later.
        super().on_message_begin()
        self.scope["state"][RECEIVED] = time.monotonic()


class PairingTransport(asyncio.Transport):
    """Writes two pieces that follow one another as one.

    Uvicorn writes the head of an answer, and then the body. Sent one by one, each is a system call of the event loop, a
    packet, and a client that wakes up; the second call alone takes longer than it takes to write an answer. The first
    piece waits for the second, until the event loop comes round at the latest.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._held: Bytes = b""

    def write(self, data: Bytes) -> None:
        if self._held:
            first, self._held = self._held, b""
            self._transport.writelines((first, data))
        elif data:
            self._held = data
            self._loop.call_soon(self._flush)

    def writelines(self, list_of_data: Iterable[Bytes]) -> None:
        self.write(b"".join(list_of_data))

    def _flush(self) -> None:
        if self._held:
            first, self._held = self._held, b""
            self._transport.write(first)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        self._held = b""
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()
