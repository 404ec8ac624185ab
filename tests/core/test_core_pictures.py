"""Picture bytes in every mode and condition."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps

from bitgear import errors
from bitgear.errors import ImageError
from bitgear.tasks.pictures import DEFAULT_LIMIT_PIXELS, LIMIT_SIDE_PX, Picture, as_picture, decode_picture

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (11, 7, 3)).astype(np.uint8)
GREY = RNG.integers(0, 256, (11, 7)).astype(np.uint8)
ALPHA = RNG.integers(0, 256, (11, 7)).astype(np.uint8)


def encode(image: Image.Image | np.ndarray, form: str = "PNG", **options: Any) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def as_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[:, :, None], 3, axis=2)


def png(width: int, height: int, *chunks: tuple[bytes, bytes], depth: int = 8, colour: int = 2) -> bytes:
    """A PNG from its parts: whatever size the header declares, with the chunks given."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), *chunks, (b"IEND", b""))
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def rows(values: np.ndarray) -> tuple[bytes, bytes]:
    """The IDAT chunk of big-endian rows without a filter."""
    raw = b"".join(b"\x00" + row.tobytes() for row in values)
    return b"IDAT", zlib.compress(raw)


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_lossless_pictures_come_back_exactly(form: str, options: dict[str, Any]) -> None:
    picture = decode_picture(encode(RGB, form, **options))
    np.testing.assert_array_equal(picture.pixels, RGB)
    assert picture.pixels.dtype == np.uint8
    assert (picture.width_px, picture.height_px) == (7, 11)


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 90},
        {"quality": 5},
        {"quality": 100, "subsampling": "4:4:4"},
        {"subsampling": "4:2:2"},
        {"subsampling": "4:2:0", "progressive": True},
        {"optimize": True, "restart_marker_blocks": 2},
        {"keep_rgb": True},
        {"exif": b"Exif\x00\x00nonsense", "comment": b"a" * 300},
        {"icc_profile": b"b" * 70_000},
    ],
)
@pytest.mark.parametrize("size", [(640, 480), (17, 33), (1, 1), (8, 1), (1, 99)])
def test_a_jpeg_has_pillows_pixels(size: tuple[int, int], options: dict[str, Any]) -> None:
    rough = Image.fromarray(RGB).resize(size, Image.Resampling.BICUBIC)
    content = encode(rough, "JPEG", **options)
    with Image.open(io.BytesIO(content)) as image:
        np.testing.assert_array_equal(decode_picture(content).pixels, np.asarray(image))


def test_a_flaw_that_pillow_bears_does_not_cost_the_picture() -> None:
    content = encode(RGB, "JPEG")
    for flawed in (content + b"behind the end", content[:2] + b"\xff\xff" + content[2:]):
        np.testing.assert_array_equal(decode_picture(flawed).pixels, decode_picture(content).pixels)


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
def test_lossy_pictures_come_back_as_pillow_reads_them(form: str) -> None:
    data = encode(RGB, form)
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(decode_picture(data).pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)])
def test_the_smallest_pictures(form: str, size: tuple[int, int]) -> None:
    picture = decode_picture(encode(Image.new("RGB", size, (255, 255, 255)), form))
    assert (picture.width_px, picture.height_px) == size
    assert picture.pixels.min() > 250


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_grey_becomes_three_equal_channels(form: str) -> None:
    pixels = decode_picture(encode(GREY, form)).pixels
    assert (pixels == pixels[:, :, :1]).all()
    if form == "PNG":
        np.testing.assert_array_equal(pixels, as_rgb(GREY))


def test_black_and_white() -> None:
    bits = GREY > 127
    pixels = decode_picture(encode(Image.fromarray(bits))).pixels
    np.testing.assert_array_equal(pixels, as_rgb(bits * np.uint8(255)))


def test_16_bit_grey_loses_its_low_byte_exactly() -> None:
    values = np.asarray([[0, 1, 255, 256, 257], [32767, 32768, 65279, 65280, 65535]], np.uint16)
    pixels = decode_picture(encode(values)).pixels
    np.testing.assert_array_equal(pixels, as_rgb((values >> 8).astype(np.uint8)))


def test_16_bit_colour_loses_its_low_byte_exactly() -> None:
    values = RNG.integers(0, 65536, (4, 5, 3)).astype(">u2")
    pixels = decode_picture(png(5, 4, rows(values), depth=16)).pixels
    np.testing.assert_array_equal(pixels, (values >> 8).astype(np.uint8))


def test_cmyk_jpeg_becomes_rgb() -> None:
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # no cyan, full magenta and yellow: red
    pixels = decode_picture(encode(cmyk, "JPEG", quality=100)).pixels
    assert pixels[4, 4, 0] > 240
    assert pixels[4, 4, 1:].max() < 15


def over_black(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return colour.astype(np.float64) * alpha[:, :, None] / 255


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True})])
def test_transparent_pixels_lie_over_black(form: str, options: dict[str, Any]) -> None:
    pixels = decode_picture(encode(np.dstack([RGB, ALPHA]), form, **options)).pixels
    assert np.abs(pixels - over_black(RGB, ALPHA)).max() <= 1
    opaque = decode_picture(encode(np.dstack([RGB, np.full_like(ALPHA, 255)]), form, **options)).pixels
    np.testing.assert_array_equal(opaque, RGB)
    clear = decode_picture(encode(np.dstack([RGB, np.zeros_like(ALPHA)]), form, **options)).pixels
    assert clear.max() == 0


def test_grey_with_alpha_lies_over_black() -> None:
    image = Image.merge("LA", (Image.fromarray(GREY), Image.fromarray(ALPHA)))
    assert np.abs(decode_picture(encode(image)).pixels - over_black(as_rgb(GREY), ALPHA)).max() <= 1


@pytest.mark.parametrize("transparency", [None, 1, b"\xff\x00\x80"])
def test_palettes_with_and_without_transparency(transparency: int | bytes | None) -> None:
    indices = np.asarray([[0, 1, 2], [2, 1, 0]], np.uint8)
    image = Image.fromarray(indices, "L").copy()
    image = Image.frombytes("P", (3, 2), indices.tobytes())
    palette = np.asarray([[200, 10, 20], [30, 220, 40], [50, 60, 240]])
    image.putpalette(palette.reshape(-1).tolist())
    options = {} if transparency is None else {"transparency": transparency}
    alpha = {None: [255, 255, 255], 1: [255, 0, 255], b"\xff\x00\x80": [255, 0, 128]}[transparency]
    expected = (palette * np.asarray(alpha)[:, None] / 255)[indices]
    assert np.abs(decode_picture(encode(image, **options)).pixels - expected).max() <= 1


def test_a_transparent_colour_lies_over_black_in_grey_and_rgb_too() -> None:
    grey = np.asarray([[10, 200], [200, 10]], np.uint8)
    pixels = decode_picture(encode(grey, transparency=200)).pixels
    np.testing.assert_array_equal(pixels[:, :, 0], [[10, 0], [0, 10]])
    colour = np.asarray([[[1, 2, 3], [200, 100, 50]]], np.uint8)
    pixels = decode_picture(encode(colour, transparency=(200, 100, 50))).pixels
    np.testing.assert_array_equal(pixels, [[[1, 2, 3], [0, 0, 0]]])


UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "WEBP", "JPEG"])
def test_exif_orientation_is_applied(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if form == "WEBP" else {}
    stored = decode_picture(encode(RGB, form, **options)).pixels
    turned = decode_picture(encode(RGB, form, exif=exif, **options)).pixels
    np.testing.assert_array_equal(turned, UPRIGHT[orientation](stored))


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0" + bytes(40), b"x" * 50])
def test_nonsense_in_exif_does_not_cost_the_picture(exif: bytes) -> None:
    assert decode_picture(encode(RGB, "JPEG", exif=exif)).pixels.shape == RGB.shape


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_animations_are_refused(form: str) -> None:
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    data = encode(frames[0], form, save_all=True, append_images=frames[1:])
    with pytest.raises(errors.ImageAnimated):
        decode_picture(data)


def test_the_first_picture_of_a_camera_jpeg_with_several_is_taken() -> None:
    frames = [Image.new("RGB", (16, 16), (200, 200, 200)), Image.new("RGB", (16, 16), (10, 10, 10))]
    pixels = decode_picture(encode(frames[0], "MPO", save_all=True, append_images=frames[1:])).pixels
    assert np.abs(pixels.astype(int) - 200).max() < 5


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_picture_cut_anywhere_is_an_error_or_complete(form: str) -> None:
    data = encode(RNG.integers(0, 256, (24, 24, 3)).astype(np.uint8), form)
    whole = decode_picture(data).pixels
    complete = 0
    for size in {*range(1, 40), *range(40, len(data), 13), *range(len(data) - 25, len(data))}:
        try:
            pixels = decode_picture(data[:size]).pixels
        except (errors.ImageCorrupt, errors.ImageFormatUnsupported):  # unsupported: not even the header is whole
            assert size < len(data)
        else:
            np.testing.assert_array_equal(pixels, whole)
            complete += 1
            assert size >= len(data) - 20  # only the end marker is missing
    assert complete <= 20


@settings(deadline=None, database=None, max_examples=150)
@given(data=st.data())
def test_damaged_bytes_give_an_image_error_or_a_picture(data: st.DataObject) -> None:
    form = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP"]))
    damaged = bytearray(encode(RGB, form))
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        picture = decode_picture(bytes(damaged), 10_000)
    except ImageError:
        pass
    else:
        assert picture.pixels.shape[2] == 3


@pytest.mark.parametrize("kind", [b"iCCP", b"gAMA", b"fdAT"])
def test_what_is_behind_the_pixels_may_be_damaged_too(kind: bytes) -> None:
    """Pillow reads it with the pixels, and raises what a programming error would."""
    data = png(2, 2, rows(np.zeros((2, 2, 3), np.uint8)), (kind, b""))
    with Image.open(io.BytesIO(data)) as opened:
        for image in (data, opened):
            with pytest.raises(errors.ImageCorrupt):
                as_picture(image)


@pytest.mark.parametrize("given", [encode(RGB), Image.fromarray(RGB)], ids=["bytes", "Pillow"])
def test_memory_that_is_missing_is_no_fault_of_the_picture(
    given: bytes | Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageOps, "exif_transpose", Mock(side_effect=MemoryError))
    with pytest.raises(MemoryError):
        as_picture(given)


def test_no_bytes_at_all() -> None:
    with pytest.raises(errors.ImageEmpty):
        decode_picture(b"")


@pytest.mark.parametrize("form", ["GIF", "BMP", "TIFF", "PPM", "ICO", "JPEG2000"])
def test_other_formats_are_refused(form: str) -> None:
    with pytest.raises(errors.ImageFormatUnsupported, match="JPEG, PNG or WebP"):
        decode_picture(encode(RGB, form))


@pytest.mark.parametrize("data", [b"\x00", b"hello", b"<svg/>", b"%PDF-1.7", b"PK\x03\x04", bytes(1000), b"RIFF"])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(errors.ImageFormatUnsupported):
        decode_picture(data)


@pytest.mark.parametrize(
    ("width", "height"),
    [
        (7072, 7072),
        (1, DEFAULT_LIMIT_PIXELS + 1),
        (10_000, 10_000),
        (20_000, 20_000),
        (2**31 - 1, 2**31 - 1),
        (1, LIMIT_SIDE_PX + 1),
        (LIMIT_SIDE_PX + 1, 1),
        (1, 4_000_000),
    ],
)
def test_huge_declared_sizes_are_refused_before_decoding(
    monkeypatch: pytest.MonkeyPatch, width: int, height: int
) -> None:
    def decode(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    with pytest.raises(errors.ImageTooLarge, match=str(DEFAULT_LIMIT_PIXELS)) as caught:
        decode_picture(png(width, height, (b"IDAT", zlib.compress(bytes(100)))))
    assert caught.value.limit_pixels == DEFAULT_LIMIT_PIXELS
    assert f"{LIMIT_SIDE_PX} along a side" in str(caught.value)


@pytest.mark.parametrize("shape", [(1, LIMIT_SIDE_PX), (LIMIT_SIDE_PX, 1)])
def test_the_longest_side_is_allowed(shape: tuple[int, int]) -> None:
    assert decode_picture(encode(np.zeros(shape, np.uint8))).pixels.shape == (*shape, 3)


@pytest.mark.parametrize(("limit_pixels", "allowed"), [(77, True), (76, False), (1, False)])
def test_the_limit_counts_pixels_and_is_inclusive(limit_pixels: int, allowed: bool) -> None:
    data = encode(RGB)
    if allowed:
        assert decode_picture(data, limit_pixels).pixels.shape == RGB.shape
    else:
        with pytest.raises(errors.ImageTooLarge, match=r"7 x 11 = 77 pixels"):
            decode_picture(data, limit_pixels)


def test_a_compression_bomb_in_a_text_chunk_is_an_error_not_a_crash() -> None:
    bomb = b"zTXt", b"Comment\x00\x00" + zlib.compress(bytes(100_000_000), 1)
    with pytest.raises(errors.ImageCorrupt):
        decode_picture(png(2, 2, bomb, rows(np.zeros((2, 2, 3), np.uint8))))


def test_a_program_gives_a_picture_as_it_has_it(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(encode(RGB))
    given = [file, str(file), file.read_bytes(), bytearray(file.read_bytes()), RGB, Image.fromarray(RGB), Picture(RGB)]
    for image in given:
        np.testing.assert_array_equal(as_picture(image).pixels, RGB)  # type: ignore[arg-type]
    np.testing.assert_array_equal(as_picture(GREY).pixels, as_rgb(GREY))
    assert np.shares_memory(as_picture(GREY).pixels, GREY)
    np.testing.assert_array_equal(as_picture(RGB[::-1, ::2]).pixels, RGB[::-1, ::2])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_a_pillow_image_is_what_its_png_is(mode: str) -> None:
    wide = Image.fromarray(GREY.astype(np.uint16) * 257)
    image = wide if mode == "I;16" else Image.fromarray(np.dstack([RGB, ALPHA])).convert(mode)
    assert image.mode == mode
    image.getexif()[ExifTags.Base.Orientation] = 6
    file = encode(image, exif=image.getexif())
    expected = decode_picture(file).pixels
    assert expected.shape == (7, 11, 3)
    np.testing.assert_array_equal(as_picture(image).pixels, expected)
    with Image.open(io.BytesIO(file)) as opened:
        np.testing.assert_array_equal(as_picture(opened).pixels, expected)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((0, 320, 3), np.uint8), r"got uint8 of shape \(0, 320, 3\)"),
        (np.zeros((320, 0), np.uint8), "with H and W at least 1; got uint8"),
        (np.zeros((4, 4, 3), np.float32), "got float32 of shape"),
        (np.zeros((4, 4), np.int16), "got int16 of shape"),
        (np.zeros((3, 8, 8), np.uint8), r"got uint8 of shape \(3, 8, 8\)"),
        (np.zeros((8, 8, 4), np.uint8), r"got uint8 of shape \(8, 8, 4\)"),
        (np.zeros(8, np.uint8), r"got uint8 of shape \(8,\)"),
        (Image.new("F", (4, 4)), r"mode 'F' has no one RGB; try image.convert\('RGB'\)"),
        (Image.new("RGB", (0, 4)), "got uint8 of shape"),
        ([[1, 2], [3, 4]], "not list"),
        (None, "not NoneType"),
        ("a\x00b", "is no path"),
    ],
    ids=str,
)
def test_what_is_no_picture_is_refused_by_what_it_is(image: Any, said: str) -> None:
    with pytest.raises(errors.InputError, match=said):
        as_picture(image)


def test_files_and_pictures_in_memory_have_the_same_bounds(tmp_path: Path) -> None:
    with pytest.raises(errors.SystemRefused, match=r"nothing\.png: No such file"):
        as_picture(tmp_path / "nothing.png")
    for image in (np.zeros((1, LIMIT_SIDE_PX + 1), np.uint8), Image.new("L", (LIMIT_SIDE_PX + 1, 1))):
        with pytest.raises(errors.ImageTooLarge):
            as_picture(image)
    closed = Image.open(io.BytesIO(encode(RGB)))
    closed.close()
    with pytest.raises(errors.ImageCorrupt, match="cannot be read"):
        as_picture(closed)
