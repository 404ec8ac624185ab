"""Bodies taken apart: the image and the parameters in JSON, multipart and plain uploads."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from server.body import JSON, MULTIPART, Upload
from server.errors import BadParameter, BadRequest, shown
from server.strict_json import parse_json

IMAGE_FIELD = "image"
MAX_PARTS = 32
MAX_TEXT_BYTES = 1024


@dataclass(frozen=True)
class Form:
    """What a body holds: the encoded image, and the other fields by name as strings or JSON values."""

    image: bytes
    fields: list[tuple[str, object]]


def open_upload(upload: Upload) -> Form:
    """Return the image and fields of a body. Works on up to all of its bytes: not for the event loop.

    Raises :class:`~server.errors.BadRequest` for malformed JSON, base64 or multipart, and where the image is missing.
    """
    if upload.media_type == MULTIPART:
        return _open_multipart(upload)
    if upload.media_type == JSON:
        return _open_json(upload.data)
    return Form(upload.data, [])


def _open_json(data: bytes) -> Form:
    document = parse_json(data)
    if not isinstance(document, dict):
        raise BadRequest("the JSON body must be an object with the key 'image'")
    image = document.pop(IMAGE_FIELD, None)
    if not isinstance(image, str):
        raise BadRequest("the JSON body needs the key 'image' with a base64 string")
    return Form(decode_base64(image), list(document.items()))


def decode_base64(text: str) -> bytes:
    """Return the bytes of an image in base64, with or without the preamble of a data URL.

    Raises :class:`~server.errors.BadRequest` for anything else, and for no bytes at all.
    """
    if text.startswith("data:"):
        preamble, comma, text = text.partition(",")
        if not comma or not preamble.endswith(";base64"):
            raise BadRequest("'image' begins as a data URL, but not one in base64")
    try:
        image = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise BadRequest("'image' is not base64 (RFC 4648, with padding and without line breaks)") from error
    if not image:
        raise BadRequest("'image' is empty; send an image")
    return image


def _open_multipart(upload: Upload) -> Form:
    # The parser that Starlette uses, without Starlette around it: that spools files to disk and needs the event loop.
    parts = _Parts()
    try:
        parser = MultipartParser(upload.boundary, parts.callbacks())  # type: ignore[arg-type]
        parser.write(upload.data)
        parser.finalize()
    except FormParserError as error:
        raise BadRequest("the multipart body is malformed") from error
    if not parts.ended:
        raise BadRequest("the multipart body has no closing boundary")
    images = [content for name, content in parts.done if name == IMAGE_FIELD]
    if len(images) != 1 or not images[0]:
        raise BadRequest(f"the multipart body has {len(images)} parts 'image' with content expected in exactly one")
    return Form(images[0], [(name, _text(name, content)) for name, content in parts.done if name != IMAGE_FIELD])


def _text(name: str, content: bytes) -> str:
    if len(content) > MAX_TEXT_BYTES:
        raise BadParameter(f"part {shown(name)} has {len(content)} bytes; no parameter is that long", name[:40])
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadParameter(f"part {shown(name)} is not UTF-8 text", name[:40]) from error


class _Parts:
    """Collects (name, content) of parts while the parser runs."""

    def __init__(self) -> None:
        self.done: list[tuple[str, bytes]] = []
        self.ended = False
        self._header_name = b""
        self._header_value = b""
        self._name: str | None = None
        self._content: list[bytes] = []

    def callbacks(self) -> Mapping[str, Any]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._take_header_name,
            "on_header_value": self._take_header_value,
            "on_header_end": self._end_header,
            "on_part_data": self._take_content,
            "on_part_end": self._end,
            "on_end": self._end_all,
        }

    def _begin(self) -> None:
        if len(self.done) == MAX_PARTS:
            raise BadRequest(f"the multipart body has more than {MAX_PARTS} parts")
        self._name = None
        self._content = []

    def _take_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _take_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            name = parse_options_header(self._header_value)[1].get(b"name")
            self._name = None if name is None else name.decode("utf-8", "replace")
        self._header_name = self._header_value = b""

    def _take_content(self, data: bytes, start: int, end: int) -> None:
        self._content.append(data[start:end])

    def _end(self) -> None:
        if self._name is None:
            raise BadRequest("a part of the multipart body has no name")
        self.done.append((self._name, b"".join(self._content)))

    def _end_all(self) -> None:
        self.ended = True
