"""HTTP/1.1 as uvicorn speaks it, but head and body of an answer in one piece, and nothing that has no end.

The receipt of requests is noted. What a client may take its time with has limits: the head of a request in bytes, and
in time like its body; and an answer, once nothing of it is taken any more.
"""

import asyncio
import time
from collections.abc import Iterable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.errors import HeadTooLarge
from server.exchange import FOLLOWED, RECEIVED, REQUEST_ID_HEADER, made_up_id
from server.problems import respond

Bytes = bytes | bytearray | memoryview

HEAD_LIMIT_BYTES = 64 << 10
LINGER_S = 2.0
"""How long is read, and thrown away, what follows a head that was refused: closed at once, the answer might be lost."""

PARTING_S = 0.5
"""How long an idle connection stays open once the server stops: a request may be on its way, and would be lost."""

_OF_UPGRADES = (b"upgrade", b"http2-settings")


class Protocol(HttpToolsProtocol):
    """Uvicorn's protocol, writing through a :class:`PairingTransport`, and stricter.

    ``patience_s``: for the head of a request, from its first byte or the connection on, and for a client to take any
    more of an answer. Offers to upgrade the connection are ignored, as RFC 9110, section 7.8, allows: the parser stops
    at them, and uvicorn would take the body of such a request for the next one.
    """

    def __init__(self, *args: Any, patience_s: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._patience_s = patience_s
        self._late: asyncio.TimerHandle | None = None
        self._in_head = self._moved = self._too_large = self._deaf = False
        self._head_bytes = self._unfinished_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(PairingTransport(transport, self.loop, self._patience_s))
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Have the connection closed: after the answer that is being worked on, or else if none is in a moment."""
        if self._idle:
            self.loop.call_later(PARTING_S, super().shutdown)
        else:
            super().shutdown()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        # The last one is read next. More than one are what a head was written anew for, and what followed it.
        pieces: list[Bytes] = [data]
        while pieces and not self._deaf:
            piece = memoryview(pieces.pop())
            self._moved = False
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as upgrade:
                pieces += [piece[upgrade.args[0] :], *self._without_upgrade()]
                continue
            except httptools.HttpParserError:
                self._refuse_garbage()
                return
            self._unfinished_bytes = 0 if self._moved else self._unfinished_bytes + len(piece)
            if self._too_large or self._unfinished_bytes > HEAD_LIMIT_BYTES:
                self._refuse_head()
        if not self._deaf and self._idle:
            self._await_head()

    def on_message_begin(self) -> None:
        # In a burst all requests are read before the first one is looked at, which for the last is a while later.
        super().on_message_begin()
        self.scope["state"] |= {RECEIVED: time.monotonic(), FOLLOWED: self._is_followed}
        self._in_head = self._moved = True
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._head_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer, which RFC 9110, section 6.5.1, forbids to take for a header
        super().on_header(name, value)
        self._head_bytes += len(name) + len(value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._moved = True
        self._head_came()
        self._too_large = self._too_large or self._head_bytes > HEAD_LIMIT_BYTES
        if self._offers_upgrade or self._too_large:
            return
        version, hosts = self.parser.get_http_version(), sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (version == "1.1" and hosts == 0):
            raise ValueError("RFC 9112, section 3.2, wants one Host")  # the parser makes its own error of it
        if version == "1.0":
            self.expect_100_continue = False  # RFC 9110, section 10.1.1
        super().on_headers_complete()
        if self.parser.should_upgrade():  # CONNECT: what follows its head would be no HTTP
            self.cycle.keep_alive = False

    def on_chunk_header(self) -> None:
        self._moved = True

    def on_message_complete(self) -> None:
        self._moved = True
        if not self._offers_upgrade and not self._too_large:
            super().on_message_complete()

    def on_body(self, body: bytes) -> None:
        self._moved = True
        if not self._too_large:
            super().on_body(body)

    def _is_followed(self) -> bool:
        """Return whether requests have been read that wait for the answer to the one before them."""
        return bool(self.pipeline)

    @property
    def _offers_upgrade(self) -> bool:
        return bool(self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT")

    @property
    def _idle(self) -> bool:
        """Whether no request is being worked on."""
        return self.cycle is None or self.cycle.response_complete

    def _without_upgrade(self) -> list[Bytes]:
        """Begin anew, and return the head that was read without its offer of an upgrade; none if nothing may follow."""
        if not self._offers_upgrade:
            self._deaf = True
            return []
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                options = [option.strip() for option in value.split(b",")]
                value = b", ".join(option for option in options if option.lower() not in _OF_UPGRADES)
            if name not in _OF_UPGRADES:
                lines.append(name + b": " + value)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        return [b"\r\n".join([*lines, b"", b""])]

    def _refuse_garbage(self) -> None:
        """Refuse what is no HTTP. What came whole before it is answered first."""
        self.logger.info("Invalid HTTP request received.")
        if self._idle or (self.cycle.more_body and not self.pipeline):
            self.send_400_response("Invalid HTTP request received.")
            return
        self._deaf = True
        self._head_came()
        self.cycle.keep_alive = False

    def _refuse_head(self) -> None:
        """Read no more of what has no end: a head, or what lies between the pieces of a body."""
        self._deaf = True
        self._head_came()
        if self._idle and (self._in_head or self._too_large):
            request_id = made_up_id()
            answer = respond(HeadTooLarge(HEAD_LIMIT_BYTES), request_id)
            answer.headers[REQUEST_ID_HEADER] = request_id
            headers = b"".join(b"%s: %s\r\n" % header for header in answer.raw_headers)
            first = b"HTTP/1.1 %d Request Header Fields Too Large\r\n" % answer.status_code
            self.transport.write(first + headers + b"connection: close\r\n\r\n" + bytes(answer.body))
        self.loop.call_later(LINGER_S, self.transport.close)

    def _await_head(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(self._patience_s, self.timeout_keep_alive_handler)

    def _head_came(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class PairingTransport(asyncio.Transport):
    """Writes two pieces that follow one another as one.

    Uvicorn writes the head of an answer, and then the body. Sent one by one, each is a system call of the event loop, a
    packet, and a client that wakes up; the second call alone takes longer than it takes to write an answer. The first
    piece waits for the second, until the event loop comes round at the latest.

    A client that takes nothing of what it was sent for ``patience_s`` loses the connection: until then the rest of the
    answer stands in memory, and a transport that was closed waits for it without end.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, patience_s: float) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._patience_s = patience_s
        self._held: Bytes = b""
        self._written_bytes = 0
        self._watched = False

    def write(self, data: Bytes) -> None:
        if self._held:
            first, self._held = self._held, b""
            self._transport.writelines((first, data))
            self._wrote(len(first) + len(data))
        elif data:
            self._held = data
            self._loop.call_soon(self._flush)

    def writelines(self, list_of_data: Iterable[Bytes]) -> None:
        self.write(b"".join(list_of_data))

    def _flush(self) -> None:
        if self._held:
            first, self._held = self._held, b""
            self._transport.write(first)
            self._wrote(len(first))

    def _wrote(self, size_bytes: int) -> None:
        self._written_bytes += size_bytes
        left_bytes = self._transport.get_write_buffer_size()
        if left_bytes and not self._watched:
            self._watched = True
            self._loop.call_later(self._patience_s, self._check, self._written_bytes - left_bytes)

    def _check(self, taken_bytes: int) -> None:
        """Go on watching if more was taken than when this was last looked at; else give up."""
        left_bytes = self._transport.get_write_buffer_size()
        if left_bytes and self._written_bytes - left_bytes <= taken_bytes:
            self._transport.abort()
        elif left_bytes:
            self._loop.call_later(self._patience_s, self._check, self._written_bytes - left_bytes)
        else:
            self._watched = False

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
