"""Every form of image that a caller may have, and what each becomes."""

import io
import sys
import zlib
from pathlib import Path

import numpy
import pytest
from bitgear_client import ImageInputError
from bitgear_client.images import image_bytes
from PIL import Image


def _decode(data):
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG"
    return image


def _pixels(shape):
    return numpy.arange(numpy.prod(shape), dtype=numpy.uint8).reshape(shape)


def test_bytes_pass_untouched():
    assert image_bytes(b"\x00anything") == b"\x00anything"


@pytest.mark.parametrize("make", [bytearray, memoryview, io.BytesIO])
def test_other_forms_of_bytes_and_open_files_give_their_bytes(make):
    sent = image_bytes(make(b"\x00anything"))
    assert (type(sent), sent) == (bytes, b"\x00anything")


def test_an_open_file_is_read_from_where_it_stands_and_left_open(tmp_path):
    (tmp_path / "image").write_bytes(b"head file")
    with (tmp_path / "image").open("rb") as file:
        file.seek(5)
        assert image_bytes(file) == b"file"
        assert not file.closed


def test_an_open_file_that_gives_no_bytes():
    with pytest.raises(ImageInputError, match="gives str"):
        image_bytes(io.StringIO("text"))
    closed = io.BytesIO(b"file")
    closed.close()
    with pytest.raises(ImageInputError, match="cannot read"):
        image_bytes(closed)


@pytest.mark.parametrize("make", [str, Path])
def test_a_path_gives_the_bytes_of_the_file(tmp_path, make):
    path = tmp_path / "kätzchen.jpg"
    path.write_bytes(b"file")
    assert image_bytes(make(path)) == b"file"


@pytest.mark.parametrize("name", ["missing.png", ".", "nul\x00.png"])
def test_a_file_that_cannot_be_read(tmp_path, name):
    with pytest.raises(ImageInputError, match="cannot read"):
        image_bytes(tmp_path / name)


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7), (1, 1, 3), (1, 1)])
def test_an_array_becomes_a_png_of_the_same_pixels(shape):
    array = _pixels(shape)
    assert numpy.array_equal(numpy.asarray(_decode(image_bytes(array))), array)


def test_an_array_need_not_be_contiguous():
    array = _pixels((6, 8, 3))[::-1, ::2, ::-1]
    assert numpy.array_equal(numpy.asarray(_decode(image_bytes(array))), array)


@pytest.mark.parametrize(
    "array",
    [
        numpy.zeros((4, 4, 3), numpy.float32),
        numpy.zeros((4, 4), numpy.int8),
        numpy.zeros((4, 4), bool),
        numpy.zeros((4, 4), object),
        numpy.zeros((3, 4, 4), numpy.uint8),
        numpy.zeros((4, 4, 4), numpy.uint8),
        numpy.zeros((4, 4, 1), numpy.uint8),
        numpy.zeros((1, 4, 4, 3), numpy.uint8),
        numpy.zeros(4, numpy.uint8),
        numpy.zeros((), numpy.uint8),
        numpy.zeros((0, 4, 3), numpy.uint8),
        numpy.zeros((4, 0), numpy.uint8),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_other_arrays_are_refused_with_what_they_are(array):
    with pytest.raises(ImageInputError) as caught:
        image_bytes(array)
    assert str(array.dtype) in str(caught.value)
    assert str(array.shape) in str(caught.value)


def test_an_array_without_pillow_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImageInputError, match="pip install pillow"):
        image_bytes(_pixels((2, 2, 3)))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_a_pillow_image_becomes_a_png_of_the_same_pixels(mode):
    image = Image.new(mode, (3, 2), 1)
    image.putpixel((2, 1), 0)
    sent = _decode(image_bytes(image))
    assert (sent.mode, sent.size, sent.tobytes()) == (mode, (3, 2), image.tobytes())


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "HSV", "F", "I"])
def test_a_mode_without_a_lossless_png_is_refused(mode):
    with pytest.raises(ImageInputError, match=mode):
        image_bytes(Image.new(mode, (2, 2)))


def test_a_pillow_image_is_turned_upright_as_a_file_would_be():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned a quarter clockwise
    file = io.BytesIO()
    Image.fromarray(_pixels((2, 3))).save(file, "PNG", exif=exif)
    sent = _decode(image_bytes(Image.open(file)))
    assert numpy.array_equal(numpy.asarray(sent), numpy.rot90(_pixels((2, 3)), -1))
    assert sent.getexif().get(0x0112, 1) == 1


def test_a_damaged_pillow_image():
    file = io.BytesIO()
    Image.fromarray(_pixels((64, 64, 3))).save(file, "JPEG")
    damaged = Image.open(io.BytesIO(file.getvalue()[:-200]))
    with pytest.raises(ImageInputError, match="cannot encode"):
        image_bytes(damaged)


def test_a_pillow_image_that_is_damaged_behind_its_pixels():
    file = io.BytesIO()
    Image.fromarray(_pixels((2, 2, 3))).save(file, "PNG")
    png, end_bytes, profile = file.getvalue(), 12, b"iCCP"  # an empty one, of which Pillow raises an IndexError
    chunk = bytes(4) + profile + zlib.crc32(profile).to_bytes(4, "big")
    with pytest.raises(ImageInputError, match="cannot encode"):
        image_bytes(Image.open(io.BytesIO(png[:-end_bytes] + chunk + png[-end_bytes:])))


@pytest.mark.parametrize("other", [None, 1, [[0]], object()])
def test_anything_else_is_refused_with_its_type(other):
    with pytest.raises(ImageInputError, match=type(other).__name__):
        image_bytes(other)


def test_anything_else_is_refused_where_no_library_is_loaded(monkeypatch):
    monkeypatch.delitem(sys.modules, "numpy")
    monkeypatch.delitem(sys.modules, "PIL.Image")
    with pytest.raises(ImageInputError, match="ndarray"):
        image_bytes(_pixels((2, 2)))
