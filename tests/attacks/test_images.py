"""Bytes that are not a usable picture: refused by name, before any harm, and the server goes on."""

import io
import struct
import zlib
from unittest.mock import Mock

import pytest
from PIL import Image, ImageFile

from tests.serving import PATH, Running, encode, pixels, png

LIMIT_PIXELS = 1_000_000


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes that declares this many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\x00" * 100_000, 9)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def animated(form: str) -> bytes:
    frames = [Image.fromarray(pixels(seed)) for seed in range(3)]
    stream = io.BytesIO()
    frames[0].save(stream, form, save_all=True, append_images=frames[1:], duration=100)
    return stream.getvalue()


RGB = Image.fromarray(pixels(0, 64))
JPEG, WEBP = encode(RGB, "JPEG"), encode(RGB, "WEBP")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("text", b"this is not an image", "image-format-unsupported"),
        ("zeros", b"\x00" * 1000, "image-format-unsupported"),
        ("one byte", b"\x89", "image-format-unsupported"),
        ("GIF", encode(RGB, "GIF"), "image-format-unsupported"),
        ("BMP", encode(RGB, "BMP"), "image-format-unsupported"),
        ("TIFF", encode(RGB, "TIFF"), "image-format-unsupported"),
        ("animated GIF", animated("GIF"), "image-format-unsupported"),
        ("SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image-format-unsupported"),
        ("truncated PNG", png(0, 64)[:-200], "image-corrupt"),
        ("truncated JPEG", JPEG[: len(JPEG) // 2], "image-corrupt"),
        ("truncated WebP", WEBP[: len(WEBP) // 2], "image-corrupt"),
        ("PNG with damaged pixels", png(0, 64)[:100] + b"\xff" * 50 + png(0, 64)[150:], "image-corrupt"),
        ("animated PNG", animated("PNG"), "image-animated"),
        ("animated WebP", animated("WEBP"), "image-animated"),
    ],
)
def test_bytes_that_are_no_usable_picture(server: Running, name: str, content: bytes, reason: str) -> None:
    answer = server.client.post(PATH, content=content, headers={"Content-Type": "image/png"})
    server.refused(answer, 422, "undecodable-image", reason=reason)


def test_the_signature_alone(server: Running) -> None:
    for content in (b"\x89PNG\r\n\x1a\n", JPEG[:4], WEBP[:16]):
        answer = server.client.post(PATH, content=content)
        server.refused(answer, 422, "undecodable-image")


@pytest.mark.parametrize(
    ("width", "height"),
    [(1001, 1000), (50_000, 50_000), (2**31 - 1, 1), (2**31 - 1, 2**31 - 1), (1, 1_000_001), (1, 32_768)],
)
def test_a_decompression_bomb_is_refused_by_its_header(
    server: Running, monkeypatch: pytest.MonkeyPatch, width: int, height: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ImageFile.ImageFile, "load", Mock(side_effect=AssertionError("its pixels were read")))
        answer = server.client.post(PATH, content=bomb(width, height))
    server.refused(answer, 413, "too-large", limit_pixels=LIMIT_PIXELS)


def test_pixels_up_to_the_limit_are_served(server: Running) -> None:
    content = encode(Image.new("RGB", (1000, 1000)))
    answer = server.client.post(PATH, content=content)
    assert answer.status_code == 200
    assert answer.json()["image"] == {"width": 1000, "height": 1000}


@pytest.mark.parametrize(("width", "height"), [(0, 0), (0, 10), (10, 0)])
def test_no_pixels(server: Running, width: int, height: int) -> None:
    server.refused(server.client.post(PATH, content=bomb(width, height)), 422, "undecodable-image")


def test_the_declared_type_does_not_matter(server: Running) -> None:
    answer = server.client.post(PATH, content=JPEG, headers={"Content-Type": "image/webp"})
    assert answer.status_code == 200


def test_every_prefix_of_a_picture_is_served_or_refused(server: Running) -> None:
    for content in (png(), encode(Image.fromarray(pixels()), "JPEG"), encode(Image.fromarray(pixels()), "WEBP")):
        for end in range(1, len(content), max(1, len(content) // 40)):
            answer = server.client.post(PATH, content=content[:end])
            assert answer.status_code in (200, 422), (end, answer.text)
    server.good()
