"""Request bodies, read to their end within limits of bytes and time."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from python_multipart.multipart import parse_options_header
from starlette.types import Receive

from server.errors import BadRequest, BodyTimeout, BodyTooLarge, MediaTypeNotAccepted

MULTIPART = "multipart/form-data"
JSON = "application/json"
RAW_TYPES = ("image/jpeg", "image/png", "image/webp", "application/octet-stream")
MEDIA_TYPES = (*RAW_TYPES, MULTIPART, JSON)


class ClientGone(Exception):
    """The client closed the connection before its body ended."""


@dataclass(frozen=True)
class Upload:
    """A body as received, with its media type in lower case and, for multipart, its boundary."""

    media_type: str
    boundary: bytes
    data: bytes


async def receive_upload(
    headers: Iterable[tuple[bytes, bytes]], receive: Receive, limit_bytes: int, timeout_s: float
) -> Upload:
    """Return the body of an ASGI request, read to its end.

    The content type, the encoding and the declared length are judged before anything is read. Raises
    :class:`~server.errors.MediaTypeNotAccepted`, :class:`~server.errors.BodyTooLarge`,
    :class:`~server.errors.BodyTimeout` or :class:`~server.errors.BadRequest`, and :class:`ClientGone`.
    """
    media_type, boundary = _judge_headers(headers, limit_bytes)
    try:
        async with asyncio.timeout(timeout_s):
            data = await _read(receive, limit_bytes)
    except TimeoutError as error:
        raise BodyTimeout(timeout_s) from error
    if not data:
        raise BadRequest("the body is empty; send an image")
    return Upload(media_type, boundary, data)


def _judge_headers(headers: Iterable[tuple[bytes, bytes]], limit_bytes: int) -> tuple[str, bytes]:
    content_type = b"application/octet-stream"  # what RFC 9110, section 8.3, allows to assume of a body without a type
    for name, value in headers:
        if name == b"content-type":
            content_type = value
        elif name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise MediaTypeNotAccepted("content encoding", value.decode("latin-1"), ["identity"])
        elif name == b"content-length" and value.isdigit() and int(value[:20]) > limit_bytes:
            raise BodyTooLarge(limit_bytes)
    essence, options = parse_options_header(content_type)
    media_type = essence.decode("latin-1")
    if media_type not in MEDIA_TYPES:
        raise MediaTypeNotAccepted("content type", media_type, list(MEDIA_TYPES))
    boundary = options.get(b"boundary", b"")
    if media_type == MULTIPART and not boundary:
        raise BadRequest("multipart/form-data without a boundary; let the HTTP library set the content type")
    return media_type, boundary


async def _read(receive: Receive, limit_bytes: int) -> bytes:
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
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)
