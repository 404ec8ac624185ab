"""Request bodies, read to their end within limits of bytes and time."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from python_multipart.multipart import parse_options_header
from starlette.types import Receive

from server.errors import BadRequest, BodyTimeout, BodyTooLarge, MediaTypeNotAccepted

MULTIPART = "multipart/form-data"
JSON = "application/json"
OCTETS = "application/octet-stream"
RAW_TYPES = ("image/jpeg", "image/png", "image/webp", OCTETS)
_CURL = "application/x-www-form-urlencoded"
"""What curl says of any body unless it is told otherwise. No route has a use for such a form."""

MEDIA_TYPES = (*RAW_TYPES, MULTIPART, JSON)


class ClientGone(Exception):
    """The client closed the connection before its answer was sent."""


@dataclass(frozen=True)
class Upload:
    """A body as received, with its media type in lower case and, for multipart, its boundary."""

    media_type: str
    boundary: bytes
    data: bytes


async def receive_upload(
    headers: Iterable[tuple[bytes, bytes]],
    receive: Receive,
    limit_bytes: int,
    timeout_s: float,
    note: Callable[[int], None] = lambda _: None,
) -> Upload:
    """Return the body of an ASGI request that holds an image, read to its end.

    Raises :class:`~server.errors.MediaTypeNotAccepted` for another content type, judged before anything is read,
    :class:`~server.errors.BadRequest` for no body, and what :func:`receive_body` raises.
    """
    media_type, boundary = _judge_type(headers)
    data = await receive_body(headers, receive, limit_bytes, timeout_s, note)
    if not data:
        raise BadRequest("the body is empty; send an image")
    return Upload(media_type, boundary, data)


async def receive_body(
    headers: Iterable[tuple[bytes, bytes]],
    receive: Receive,
    limit_bytes: int,
    timeout_s: float,
    note: Callable[[int], None] = lambda _: None,
) -> bytes:
    """Return the body of an ASGI request, read to its end, whatever its content type.

    ``note`` is told of bytes as they come, and may raise. The encoding and the declared length are judged before
    anything is read. Raises :class:`~server.errors.MediaTypeNotAccepted`, :class:`~server.errors.BodyTooLarge` or
    :class:`~server.errors.BodyTimeout`, and :class:`ClientGone`.
    """
    for name, value in headers:
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise MediaTypeNotAccepted("content encoding", value.decode("latin-1"), ["identity"])
        if name == b"transfer-encoding" and value.strip().lower() != b"chunked":
            raise MediaTypeNotAccepted("transfer encoding", value.decode("latin-1"), ["chunked"])
        if name == b"content-length" and value.isdigit() and int(value[:20]) > limit_bytes:
            raise BodyTooLarge(limit_bytes)
    try:
        async with asyncio.timeout(timeout_s):
            return await _read(receive, limit_bytes, note)
    except TimeoutError as error:
        raise BodyTimeout(timeout_s) from error


def _judge_type(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str, bytes]:
    content_type = OCTETS.encode()  # what RFC 9110, section 8.3, allows to assume of a body without a type
    for name, value in headers:
        if name == b"content-type":
            content_type = value
    essence, options = parse_options_header(content_type)
    media_type = essence.decode("latin-1")
    if media_type == _CURL:
        media_type = OCTETS
    if media_type not in MEDIA_TYPES:
        raise MediaTypeNotAccepted("content type", media_type, list(MEDIA_TYPES))
    boundary = options.get(b"boundary", b"")
    if media_type == MULTIPART and not boundary:
        raise BadRequest("multipart/form-data without a boundary; let the HTTP library set the content type")
    return media_type, boundary


async def _read(receive: Receive, limit_bytes: int, note: Callable[[int], None]) -> bytes:
    chunks: list[bytes] = []
    size_bytes = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        size_bytes += len(chunk)
        if size_bytes > limit_bytes:
            raise BodyTooLarge(limit_bytes)
        note(len(chunk))
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)
