"""Data sets on disk, in all their forms, and every way they can be unreadable."""

import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitgear.errors import DataError
from bitgear.tasks.datasets import (
    CIFAR10_CLASSES,
    LabelledImages,
    open_files,
    picture_reader,
    read_class_names,
    read_labelled_images,
    read_pictures,
    resize_crop,
    subset,
)

RNG = np.random.default_rng(0)


def write_binary(folder: Path, counts: dict[str, int]) -> dict[str, np.ndarray]:
    """CIFAR-10 binary files; returns the rows written."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {}
    for name, count in counts.items():
        rows[name] = RNG.integers(0, 256, (count, 3073)).astype(np.uint8)
        rows[name][:, 0] = RNG.integers(0, 10, count)
        (folder / name).write_bytes(rows[name].tobytes())
    return rows


FILES = {f"data_batch_{i}.bin": i for i in range(1, 6)} | {"test_batch.bin": 3}


@pytest.mark.parametrize("nested", ["", "cifar-10-batches-bin"])
def test_cifar_binary_files(tmp_path: Path, nested: str) -> None:
    rows = write_binary(tmp_path / nested, FILES)
    test = read_labelled_images(tmp_path, "test", 32)
    assert test.images.shape == (3, 32, 32, 3)
    assert test.classes == CIFAR10_CLASSES
    np.testing.assert_array_equal(test.labels, rows["test_batch.bin"][:, 0])
    assert test.labels.dtype == np.int64
    first = rows["test_batch.bin"][0, 1:]  # red rows, green rows, blue rows
    assert test.images[0, 0, 1].tolist() == [first[1], first[1024 + 1], first[2048 + 1]]
    assert test.images[0, 31, 0].tolist() == [first[31 * 32], first[1024 + 31 * 32], first[2048 + 31 * 32]]
    train = read_labelled_images(tmp_path, "train", 32)
    assert len(train.labels) == 15
    np.testing.assert_array_equal(train.labels[1:3], rows["data_batch_2.bin"][:, 0])


def write_sheet(folder: Path, split: str, index: int) -> np.ndarray:
    """One sheet of 1,000 images; returns them, (1000, 32, 32, 3)."""
    images = RNG.integers(0, 256, (1000, 1, 1, 3)).astype(np.uint8).repeat(32, 1).repeat(32, 2)
    sheet = images.reshape(25, 40, 32, 32, 3).transpose(0, 2, 1, 3, 4).reshape(800, 1280, 3)
    Image.fromarray(sheet).save(folder / f"{split}_{index:02d}.webp", lossless=True, method=0)
    return images


def test_cifar_sheets(tmp_path: Path) -> None:
    images = [write_sheet(tmp_path, "test", i) for i in range(2)]
    labels = RNG.integers(0, 10, 2000)
    np.savez(tmp_path / "labels.npz", test=labels.astype(np.uint8))
    data = read_labelled_images(tmp_path, "test", 32)
    np.testing.assert_array_equal(data.images, np.concatenate(images))
    np.testing.assert_array_equal(data.labels, labels)
    assert data.labels.dtype == np.int64


def write_folders(folder: Path, classes: dict[str, list[str]], size: tuple[int, int] = (12, 10)) -> None:
    for name, files in classes.items():
        (folder / name).mkdir(parents=True)
        for i, file in enumerate(files):
            Image.new("RGB", size, (10 * i, 20, 30)).save(folder / name / file)


def test_a_folder_per_class(tmp_path: Path) -> None:
    write_folders(tmp_path / "train", {"zebra": ["b.png", "a.PNG"], "ant": ["x.webp", "y.jpg", "z.jpeg"]})
    (tmp_path / "train" / "ant" / "notes.txt").write_text("no image")
    (tmp_path / "train" / "README").write_text("no class")
    data = read_labelled_images(tmp_path, "train", 8)
    assert data.classes == ("ant", "zebra")
    assert data.labels.tolist() == [0, 0, 0, 1, 1]
    assert data.images.shape == (5, 8, 8, 3)
    assert data.images[3].max(axis=(0, 1)).tolist() == [10, 20, 30]  # a.PNG comes before b.png


@pytest.mark.parametrize(
    ("name", "said"),
    [("ant/more/a.png", "lies deeper than CLASS/PICTURE"), ("ant/a.BMP", "is a picture of a kind that is not read")],
)
def test_a_picture_that_would_be_passed_over_is_refused_by_name(tmp_path: Path, name: str, said: str) -> None:
    write_folders(tmp_path / "train", {"ant": ["a.png"], "bee": ["a.png"], ".hidden": ["a.bmp"]})
    write_folders(tmp_path / "train" / "ant", {".more": ["a.png"]})
    assert len(read_labelled_images(tmp_path, "train", 8)) == len(read_pictures(tmp_path / "train", 8)) == 2
    passed_over = tmp_path / "train" / name
    passed_over.parent.mkdir(exist_ok=True)
    Image.new("RGB", (9, 9)).save(passed_over)
    with pytest.raises(DataError, match=f"{name} {said}"):
        read_labelled_images(tmp_path, "train", 8)
    with pytest.raises(DataError, match=f"{name} {said}"):
        read_pictures(tmp_path / "train", 8)


def test_class_names_that_are_not_utf8_are_refused_at_once(tmp_path: Path) -> None:
    write_folders(tmp_path / "train", {os.fsdecode(b"caf\xe9"): ["a.png"], "tea": ["a.png"]})
    with pytest.raises(DataError, match=r"'caf\\udce9' is not UTF-8; rename it"):
        read_labelled_images(tmp_path, "train", 8)
    with pytest.raises(DataError, match=r"'caf\\udce9' is not UTF-8; rename it"):
        read_pictures(tmp_path / "train", 8)
    write_listed(tmp_path / "listed", [{"class": 0, "name": "\udce9", "file": "a.png"}])
    with pytest.raises(DataError, match="is not UTF-8"):
        read_pictures(tmp_path / "listed", 8)


def test_files_are_decoded_as_serving_decodes_them(tmp_path: Path) -> None:
    folder = tmp_path / "train" / "only"
    folder.mkdir(parents=True)
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(folder / "a.png")
    Image.new("RGBA", (8, 8), (200, 100, 50, 0)).save(folder / "b.png")
    exif = Image.Exif()
    exif[0x0112] = 3
    half = np.zeros((8, 8, 3), np.uint8)
    half[:4] = 255
    Image.fromarray(half).save(folder / "c.png", exif=exif)
    grey, clear, turned = read_labelled_images(tmp_path, "train", 8).images
    assert (grey == 40_000 >> 8).all()
    assert clear.max() == 0
    np.testing.assert_array_equal(turned, half[::-1])


def sheets_with(labels: object) -> object:
    def make(folder: Path) -> None:
        write_sheet(folder, "test", 0)
        np.savez(folder / "labels.npz", test=labels)  # type: ignore[arg-type]

    return make


def a_pickle_as_labels(folder: Path) -> None:
    write_sheet(folder, "test", 0)
    np.savez(folder / "labels.npz", test=np.asarray([{}] * 1000, object))


def a_small_sheet(folder: Path) -> None:
    Image.new("RGB", (1280, 32)).save(folder / "test_00.webp")
    np.savez(folder / "labels.npz", test=np.zeros(1000, np.int64))


def a_class_with(content: bytes) -> object:
    def make(folder: Path) -> None:
        (folder / "test" / "cat").mkdir(parents=True)
        (folder / "test" / "cat" / "a.png").write_bytes(content)

    return make


def binary_with(name: str, content: bytes) -> object:
    def make(folder: Path) -> None:
        write_binary(folder, FILES)
        (folder / name).write_bytes(content)

    return make


ZEROS = np.zeros(1000, np.int64)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda folder: None, "holds neither CIFAR-10"),
        (lambda folder: folder.rmdir(), "does not exist"),
        (
            lambda folder: (folder.rmdir(), folder.write_bytes(b"tar")),
            "is no folder; give a folder that holds CIFAR-10",
        ),
        (lambda folder: (folder / "test").mkdir(), "holds no class folders"),
        (lambda folder: (folder / "test" / "cat").mkdir(parents=True), "cat holds no JPEG, PNG or WebP"),
        (a_class_with(b""), r"a\.png cannot be read as an image"),
        (a_class_with(b"not a picture"), r"a\.png cannot be read as an image"),
        (a_class_with(b"\x89PNG\r\n\x1a\n" + bytes(50)), r"a\.png cannot be read as an image"),
        (lambda folder: (folder / "test" / "cat" / "a.png").mkdir(parents=True), r"a\.png cannot be read"),
        (binary_with("test_batch.bin", b""), r"test_batch\.bin has 0 bytes"),
        (binary_with("test_batch.bin", bytes(3074)), r"test_batch\.bin has 3074 bytes"),
        (binary_with("test_batch.bin", b"\x0a" + bytes(3072)), r"test_batch\.bin has the label 10"),
        (lambda folder: (folder / "labels.npz").write_bytes(b""), r"labels\.npz is not an archive"),
        (lambda folder: (folder / "labels.npz").write_bytes(b"PK\x03\x04 torn"), r"labels\.npz is not an archive"),
        (lambda folder: (folder / "labels.npz").write_bytes(pickle.dumps([1])), r"labels\.npz is not an archive"),
        (lambda folder: np.savez(folder / "labels.npz", train=ZEROS), "no entry 'test'"),
        (a_pickle_as_labels, r"labels\.npz is not an archive"),
        (a_small_sheet, r"test_00\.webp is 1280 x 32 pixels"),
        (sheets_with(np.zeros(999, np.int64)), "1 sheets of 1,000 images for 999 test labels"),
        (sheets_with(np.zeros(2000, np.int64)), "1 sheets of 1,000 images for 2000 test labels"),
        (sheets_with(np.zeros(0, np.int64)), "labels from 0 to 9"),
        (sheets_with(np.full(1000, 10)), "labels from 0 to 9"),
        (sheets_with(np.full(1000, -1)), "labels from 0 to 9"),
        (sheets_with(np.zeros((1000, 1), np.int64)), "labels from 0 to 9"),
        (sheets_with(np.zeros(1000)), "labels from 0 to 9"),
    ],
    ids=range(25),
)
def test_what_cannot_be_read_is_named(tmp_path: Path, make: object, complaint: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    make(folder)  # type: ignore[operator]
    with pytest.raises(DataError, match=complaint):
        read_labelled_images(folder, "test", 32)


def test_a_missing_training_file_is_named(tmp_path: Path) -> None:
    write_binary(tmp_path, {name: count for name, count in FILES.items() if name != "data_batch_4.bin"})
    with pytest.raises(DataError, match=r"data_batch_4\.bin is missing"):
        read_labelled_images(tmp_path, "train", 32)
    assert len(read_labelled_images(tmp_path, "test", 32).labels) == 3


def test_an_image_of_the_right_size_is_returned_as_it_is() -> None:
    image = RNG.integers(0, 256, (8, 8, 3)).astype(np.uint8)
    assert resize_crop(image, 8) is image


@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (9, 8), (1, 1), (1, 50), (3, 2), (100, 64)])
@pytest.mark.parametrize("side_px", [1, 8, 33])
def test_any_size_becomes_the_square(shape: tuple[int, int], side_px: int) -> None:
    image = np.full((*shape, 3), (1, 128, 254), np.uint8)
    resized = resize_crop(image, side_px)
    assert resized.shape == (side_px, side_px, 3)
    assert resized.dtype == np.uint8
    assert (resized == (1, 128, 254)).all()


@pytest.mark.parametrize("transposed", [False, True])
def test_the_centre_is_kept(transposed: bool) -> None:
    image = np.zeros((8, 24, 3), np.uint8)
    image[:, 8:16] = 255
    image = image.transpose(1, 0, 2) if transposed else image
    assert resize_crop(np.ascontiguousarray(image), 8).min() == 255
    assert resize_crop(np.ascontiguousarray(image), 4).min() == 255


def test_a_single_row_of_pixels_takes_no_more_memory_than_its_square() -> None:
    strip = np.broadcast_to(np.asarray([7, 8, 9], np.uint8), (1, 40_000_000, 3))  # resized in full: 123 gigabytes
    assert resize_crop(strip, 32).shape == (32, 32, 3)


def test_a_subset_keeps_images_with_their_labels() -> None:
    data = LabelledImages(RNG.integers(0, 256, (5, 2, 2, 3)).astype(np.uint8), np.arange(5), ("a", "b"))
    picked = subset(data, [4, 0])
    assert picked.labels.tolist() == [4, 0]
    np.testing.assert_array_equal(picked.images, data.images[[4, 0]])
    assert picked.classes == ("a", "b")


def test_a_part_of_the_centre_is_kept() -> None:
    image = RNG.integers(0, 256, (256, 300, 3)).astype(np.uint8)
    np.testing.assert_array_equal(resize_crop(image, 224, 0.875), image[16:240, 38:262])
    assert resize_crop(image, 3, 1e-9).shape == (3, 3, 3)
    half = np.zeros((8, 8, 3), np.uint8)
    half[2:6, 2:6] = 255
    assert resize_crop(half, 5, 0.5).min() == 255


def write_listed(folder: Path, entries: list[dict[str, object]]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "classes.json").write_text(json.dumps(entries))
    for i, entry in enumerate(entries):
        file = folder / str(entry["file"])
        file.parent.mkdir(exist_ok=True)
        Image.new("RGB", (10, 10), (i, 0, 0)).save(file)


LISTED: list[dict[str, object]] = [
    {"class": 1, "name": "tench", "file": "b.png", "wnid": "n01440764"},
    {"class": 0, "name": "crane", "file": "a.png"},
    {"class": 2, "name": "crane", "file": "more/c.png"},
    {"class": 1, "name": "tench", "file": "a/d.png"},
]


def as_tar(folder: Path, mode: str) -> Path:
    path = folder.with_suffix(".tar")
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        archive.add(folder, arcname=".")
    return path


@pytest.mark.parametrize("mode", ["folder", "w", "w:gz"])
def test_pictures_listed_with_their_classes(tmp_path: Path, mode: str) -> None:
    source = tmp_path / "pictures"
    write_listed(source, LISTED)
    source = source if mode == "folder" else as_tar(source, mode)
    seen: list[int] = []
    data = read_pictures(source, 8, progress=seen.append)
    assert data.classes == ("crane", "tench", "crane")
    assert data.labels.tolist() == [1, 0, 2, 1]
    assert data.labels.dtype == np.int64
    assert data.images.shape == (4, 8, 8, 3)
    assert data.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert seen == [1, 1, 1, 1]
    more = read_pictures(source, 8, ["a", "b", "c", "d"])
    assert more.classes == ("a", "b", "c", "d")
    assert more.labels.tolist() == [1, 0, 2, 1]


def test_as_many_pictures_as_wanted_are_spread_evenly(tmp_path: Path) -> None:
    write_listed(tmp_path / "p", [{"class": i, "name": str(i), "file": f"{i:02d}.png"} for i in range(10)])
    assert read_pictures(tmp_path / "p", 4, limit=3).labels.tolist() == [0, 3, 6]
    assert len(read_pictures(tmp_path / "p", 4, limit=99).labels) == 10


@pytest.mark.parametrize("mode", ["folder", "w"])
def test_pictures_in_a_folder_for_each_class(tmp_path: Path, mode: str) -> None:
    source = tmp_path / "pictures"
    write_folders(source, {"zebra": ["b.png", "a.PNG"], "ant": ["x.webp", "notes.png"]})
    (source / "ant" / "notes.txt").write_text("no image")
    (source / "ant" / "deeper").mkdir()
    source = source if mode == "folder" else as_tar(source, mode)
    data = read_pictures(source, 8)
    assert data.classes == ("ant", "zebra")
    assert data.labels.tolist() == [0, 0, 1, 1]
    named = read_pictures(source, 8, ["zebra", "bee", "ant"])
    assert named.classes == ("zebra", "bee", "ant")
    assert named.labels.tolist() == [2, 2, 0, 0]


def listed_as(entries: object) -> object:
    def make(source: Path) -> None:
        source.mkdir()
        text = entries if isinstance(entries, str) else json.dumps(entries)
        (source / "classes.json").write_text(text)

    return make


def a_torn_tar(source: Path) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        member = tarfile.TarInfo("classes.json")
        member.size = 100_000
        archive.addfile(member, io.BytesIO(RNG.bytes(100_000)))
    source.write_bytes(content.getvalue()[:5000])


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda source: None, "do not exist"),
        (lambda source: source.write_bytes(b"not an archive"), "neither a folder nor a tar archive"),
        (a_torn_tar, "pictures"),
        (lambda source: source.mkdir(), "holds neither classes.json nor folders"),
        (listed_as("{"), "not JSON"),
        (listed_as("[" * 100_000), "not JSON"),
        (listed_as({}), "must be a list"),
        (listed_as([]), "must be a list"),
        (listed_as([3]), "entry 0"),
        (listed_as([{"class": -1, "file": "a.png"}]), "entry 0"),
        (listed_as([{"class": True, "file": "a.png"}]), "entry 0"),
        (listed_as([{"class": 0}]), "entry 0"),
        (listed_as([{"class": 0, "file": "a.png", "name": 3}]), "entry 0"),
        (listed_as([{"class": 0, "file": "a.png", "name": "a"}, {"class": 0, "file": "b.png"}]), "two names"),
        (listed_as([{"class": 0, "file": "a.png", "name": "a"}] * 2), "entry 1 .* 'a.png', which entry 0 lists too"),
        (listed_as([{"class": 1, "file": "a.png", "name": "a"}]), "does not name all classes"),
        (listed_as([{"class": 0, "file": "a.png"}]), "does not name all classes"),
        (listed_as([{"class": 0, "file": "a.png", "name": "a"}]), "lists the picture 'a.png', which is not there"),
        (listed_as([{"class": 0, "file": "../a.png", "name": "a"}]), "which is not there"),
    ],
    ids=range(19),
)
def test_pictures_that_cannot_be_read_are_named(tmp_path: Path, make: object, complaint: str) -> None:
    make(tmp_path / "pictures")  # type: ignore[operator]
    (tmp_path / "a.png").write_bytes(b"outside")
    with pytest.raises(DataError, match=complaint):
        read_pictures(tmp_path / "pictures", 8)


def test_classes_that_do_not_fit_are_named(tmp_path: Path) -> None:
    write_listed(tmp_path / "listed", LISTED)
    with pytest.raises(DataError, match="has class 2; only 2 class names"):
        read_pictures(tmp_path / "listed", 8, ["a", "b"])
    with pytest.raises(DataError, match="names class 1 'tench'; the names given, 'eel'"):
        read_pictures(tmp_path / "listed", 8, ["tench", "eel", "crane"])
    write_folders(tmp_path / "folders", {"ant": ["x.png"]})
    for names in (["bee"], ["ant", "ant"]):
        with pytest.raises(DataError, match="'ant' is not the name of exactly one class"):
            read_pictures(tmp_path / "folders", 8, names)


def test_a_picture_that_is_none_is_named(tmp_path: Path) -> None:
    write_folders(tmp_path / "folders", {"ant": ["x.png"]})
    (tmp_path / "folders" / "ant" / "y.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"ant/y\.jpg cannot be read as an image"):
        read_pictures(tmp_path / "folders", 8)


def test_what_lies_hidden_beside_pictures_is_none_of_them(tmp_path: Path) -> None:
    folders = {"ant": ["._x.png", "x.png"], ".trash": ["x.png"]}
    write_folders(tmp_path / "test", folders)
    for name in ("ant/._x.png", ".trash/x.png"):
        (tmp_path / "test" / name).write_bytes(b"Mac OS X")
    for found in (read_pictures(tmp_path / "test", 8), read_labelled_images(tmp_path, "test", 8)):
        assert found.classes == ("ant",)
        assert len(found) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_pipes_are_refused_and_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "test" / "ant" / "pipe.png"
    pipe.parent.mkdir(parents=True)
    os.mkfifo(pipe)
    for read in (
        lambda: read_class_names(pipe),
        lambda: read_pictures(pipe, 8),
        lambda: read_labelled_images(tmp_path, "test", 8),
    ):
        with pytest.raises(DataError, match=r"pipe\.png.*no regular file"):
            read()


def test_class_names_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("tench\n great white shark \n")
    assert read_class_names(file) == ("tench", "great white shark")
    file = tmp_path / "names.json"
    file.write_text('["a b", "c"]')
    assert read_class_names(file) == ("a b", "c")
    file.write_text('["a b", "c"]', encoding="utf-8-sig")
    assert read_class_names(file) == ("a b", "c")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("n.txt", b""), ("n.txt", b"a\n\nb\n"), ("n.txt", b"\xff\xfe"), ("n.json", b"{}"), ("n.json", b"[]"),
        ("n.json", b'["a", 3]'), ("n.json", b'[""]'), ("n.json", b"["),
    ],
)  # fmt: skip
def test_class_names_that_are_none(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        read_class_names(tmp_path / name)
    with pytest.raises(DataError, match="cannot be read"):
        read_class_names(tmp_path / "absent.txt")


def linked(tmp_path: Path) -> Path:
    """A folder of two classes, one of them elsewhere, with links that lead back up and nowhere."""
    source = tmp_path / "pictures"
    write_folders(tmp_path / "elsewhere", {"b": ["y.png"]})
    write_folders(source, {"a": ["x.png"]})
    (source / "b").symlink_to(tmp_path / "elsewhere" / "b")
    (source / "b" / "up").symlink_to(source)
    (source / "a" / "z.png").symlink_to("x.png")
    (source / "a" / "gone.png").symlink_to("nothing.png")
    return source


def test_links_to_folders_are_followed_but_not_back_up(tmp_path: Path) -> None:
    data = read_pictures(linked(tmp_path), 8)
    assert data.classes == ("a", "b")
    assert data.labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_links_in_an_archive_are_the_files_they_lead_to(tmp_path: Path, mode: str) -> None:
    source = tmp_path / "pictures"
    write_folders(source, {"a": ["x.png"], "b": ["y.png"]})
    (source / "a" / "soft.png").symlink_to("../b/y.png")
    (source / "a" / "hard.png").hardlink_to(source / "a" / "x.png")
    (source / "a" / "gone.png").symlink_to("nothing.png")
    (source / "a" / "round.png").symlink_to("round.png")
    (source / "a" / "out.png").symlink_to("/etc/hostname")
    archive = as_tar(source, mode)
    contents = {name: (source / name).read_bytes() for name in ("a/soft.png", "a/hard.png", "b/y.png")}
    with open_files(archive) as (names, read):
        assert names == {"a/x.png", *contents}
        assert {name: read(name) for name in contents} == contents
    fetch = picture_reader(archive, list(contents))
    assert {name: fetch(name) for name in contents} == contents
