"""The master file: what is written is read back equal, and every way to be wrong has its own error."""

import dataclasses
import hashlib
import json
import math
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save

from bitgear import errors, reference
from bitgear.bits import WIDTHS, Plan
from bitgear.checkpoint import MAX_HEADER_BYTES, Master, is_model_name, read_master, read_name, write_master
from bitgear.engines import create_engine
from bitgear.errors import BitgearError, CheckpointError, GraphError
from bitgear.graph import IMAGE, AvgPool, Concat, Conv, Graph, Linear, MaxPool, Pool, Resize, Shortcut
from bitgear.models import find_master
from tests.masters import LABELS, random_codes, random_master, tiny_master

SMALL = Graph(
    (
        Conv("stem", IMAGE, 2, 3, padding=1, bits=8),
        Conv("body", "stem", 2, 1, residual="stem"),
        Pool("pool", "body"),
        Linear("head", "pool", len(LABELS)),
    )
)


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A valid master file of the smallest useful network."""
    path = tmp_path_factory.mktemp("small") / "small.safetensors"
    write_master(tiny_master(graph=SMALL, side_px=4), path)
    return path.read_bytes()


def split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and data of a safetensors file."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def join(header: Any, data: bytes) -> bytes:
    """The safetensors file of a header, given as an object or as raw text, and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def with_tensors(content: bytes, change: Callable[[dict[str, np.ndarray]], None]) -> bytes:
    """The file with its tensors changed, laid out anew by the safetensors library."""
    header, data = split(with_metadata(content, data_sha256=None))
    dtypes = {"I8": np.int8, "F16": np.float16, "F32": np.float32}
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            tensors[name] = np.frombuffer(data[begin:end], dtypes[entry["dtype"]]).reshape(entry["shape"]).copy()
    change(tensors)
    return save(tensors, header["__metadata__"])


def with_metadata(content: bytes, **entries: Any) -> bytes:
    """The file with metadata entries replaced; None removes one."""
    header, data = split(content)
    metadata = header["__metadata__"] | entries
    header["__metadata__"] = {name: value for name, value in metadata.items() if value is not None}
    return join(header, data)


def rejected(tmp_path: Path, content: bytes) -> BitgearError:
    """The error that reading this content gives; its message must begin with the path."""
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises((CheckpointError, GraphError)) as caught:
        read_master(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 2000
    return caught.value


# -- writing and reading ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_channel", [True, False])
def test_what_is_written_is_read_back_equal(tmp_path: Path, per_channel: bool) -> None:
    master = tiny_master(3, per_channel=per_channel)
    path = tmp_path / "tiny.safetensors"
    write_master(master, path)
    stored = read_master(path)
    for field in dataclasses.fields(Master):
        if field.name not in ("tensors", "digest"):
            assert getattr(stored, field.name) == getattr(master, field.name), field.name
    assert stored.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert stored.tensors.keys() == master.tensors.keys()
    for name, tensor in master.tensors.items():
        assert stored.tensors[name].dtype == tensor.dtype
        np.testing.assert_array_equal(stored.tensors[name], tensor)


EVERY = Graph(
    (
        Conv("stem", IMAGE, 4, 3, stride=2, padding_end=1, clip=6.0),
        MaxPool("largest", "stem", 2),
        Conv("grouped", "largest", 6, 2, groups=2, dilation=2, padding=1, relu=False),
        AvgPool("average", "grouped", 2),
        Resize("larger", "average", 7, 7, "bilinear"),
        Resize("equal", "stem", 7, 7),
        Concat("joined", ("larger", "equal")),
        Shortcut("wider", "joined", 12, 2),
        Pool("pool", "wider"),
        Linear("head", "pool", 5),
    )
)


@pytest.mark.parametrize("widths", [WIDTHS, (8, 4, 2), (8,)])
def test_every_node_is_stored(tmp_path: Path, widths: tuple[int, ...]) -> None:
    master = random_master(EVERY, 12, 0, widths)
    assert master.labels == tuple(f"class {i}" for i in range(5))
    path = tmp_path / "m.safetensors"
    write_master(master, path)
    stored = read_master(path)
    assert stored.graph == EVERY
    assert stored.shapes == master.shapes
    q_images = random_codes(master, 2)
    for precision in (*widths, Plan.parse(f"w8a{widths[-1]}")):
        np.testing.assert_array_equal(
            reference.run(stored, q_images, precision), reference.run(master, q_images, precision)
        )


@pytest.mark.parametrize("name", ["average", "larger"])
def test_a_sum_without_weights_needs_its_scales(tmp_path: Path, name: str) -> None:
    path = tmp_path / "m.safetensors"
    write_master(random_master(EVERY, 12, 0), path)
    content = path.read_bytes()
    error = rejected(tmp_path, with_tensors(content, lambda tensors: tensors.__delitem__(f"{name}.act_scale")))
    assert type(error) is errors.TensorMissing
    assert repr(f"{name}.act_scale") in str(error)


@pytest.mark.parametrize("name", ["largest", "equal", "joined", "wider"])
def test_selections_hold_no_tensors(tmp_path: Path, name: str) -> None:
    path = tmp_path / "m.safetensors"
    write_master(random_master(EVERY, 12, 0), path)
    extra = {f"{name}.act_scale": np.ones(len(WIDTHS), np.float32)}
    error = rejected(tmp_path, with_tensors(path.read_bytes(), lambda tensors: tensors.update(extra)))
    assert type(error) is errors.TensorUnexpected


def test_a_grouped_convolution_holds_the_weights_of_its_groups_alone(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    write_master(random_master(EVERY, 12, 0), path)
    assert read_master(path).tensors["grouped.weight"].shape == (6, 2, 2, 2)

    def ungrouped(tensors: dict[str, np.ndarray]) -> None:
        tensors["grouped.weight"] = np.zeros((6, 4, 2, 2), np.int8)

    assert type(rejected(tmp_path, with_tensors(path.read_bytes(), ungrouped))) is errors.TensorShape


def test_stored_tensors_cannot_be_written_to(tmp_path: Path) -> None:
    write_master(tiny_master(), tmp_path / "m.safetensors")
    for tensor in read_master(tmp_path / "m.safetensors").tensors.values():
        assert not tensor.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            tensor[...] = 0


def test_the_same_master_gives_the_same_bytes(tmp_path: Path) -> None:
    contents = set()
    for i in range(4):
        write_master(tiny_master(5), tmp_path / f"{i}.safetensors")
        contents.add((tmp_path / f"{i}.safetensors").read_bytes())
    write_master(read_master(tmp_path / "0.safetensors"), tmp_path / "again.safetensors")
    contents.add((tmp_path / "again.safetensors").read_bytes())
    assert len(contents) == 1
    write_master(tiny_master(6), tmp_path / "other.safetensors")
    assert (tmp_path / "other.safetensors").read_bytes() not in contents


def test_the_order_of_tensors_and_metadata_does_not_matter(tmp_path: Path) -> None:
    master = tiny_master()
    turned = dataclasses.replace(
        master,
        tensors=dict(reversed(master.tensors.items())),
        accuracy=dict(reversed(master.accuracy.items())),
        provenance=dict(reversed(master.provenance.items())),
    )
    write_master(master, tmp_path / "a")
    write_master(turned, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_file_is_a_safetensors_file_to_the_library_too(tmp_path: Path) -> None:
    master = tiny_master()
    write_master(master, tmp_path / "m.safetensors")
    tensors = load_file(tmp_path / "m.safetensors")
    assert tensors.keys() == master.tensors.keys()
    np.testing.assert_array_equal(tensors["stem.weight"], master.tensors["stem.weight"])


def test_a_master_may_offer_a_few_widths_and_know_nothing_of_accuracy(tmp_path: Path) -> None:
    full = tiny_master()
    rows = [WIDTHS.index(bits) for bits in (8, 4)]
    tensors = {
        name: t[rows]
        if name.endswith(("act_scale", "residual_scale", "gain")) or (t.ndim == 2 and "bias" in name)
        else t
        for name, t in full.tensors.items()
    }
    master = dataclasses.replace(full, widths=(8, 4), tensors=tensors, accuracy={}, provenance={})
    write_master(master, tmp_path / "m.safetensors")
    stored = read_master(tmp_path / "m.safetensors")
    assert stored.widths == (8, 4)
    assert stored.accuracy == {}
    assert (stored.row(8), stored.row(4)) == (0, 1)


def test_text_beyond_ascii_survives(tmp_path: Path) -> None:
    labels = ("Flugzeug", "бык", "猫", "🐸", "", *LABELS[5:])
    master = dataclasses.replace(tiny_master(), labels=labels, provenance={"données": "naïve"})
    write_master(master, tmp_path / "m.safetensors")
    stored = read_master(tmp_path / "m.safetensors")
    assert stored.labels == labels
    assert stored.provenance == {"données": "naïve"}


def test_parameters_and_bytes_are_counted() -> None:
    master = tiny_master(graph=SMALL, side_px=4)
    assert master.parameter_count == (2 * 3 * 9 + 4) + (2 * 2 + 4) + (10 * 2 + 10)
    assert master.nbytes == sum(t.nbytes for t in master.tensors.values())


def test_masters_are_equal_only_to_themselves() -> None:
    a, b = tiny_master(), tiny_master()
    assert a == a
    assert a != b
    assert len({a, b}) == 2


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace", "bitgear.checkpoint._read"])
@pytest.mark.parametrize("existing", [True, False])
def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, existing: bool
) -> None:
    path = tmp_path / "m.safetensors"
    if existing:
        write_master(tiny_master(1), path)
    before = path.read_bytes() if existing else None

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(call, fail)
    with pytest.raises(OSError, match="disk full"):
        write_master(tiny_master(2), path)
    assert list(tmp_path.iterdir()) == ([path] if existing else [])
    assert (path.read_bytes() if existing else None) == before


def changed_tensor(name: str, value: Any) -> Callable[[Master], Master]:
    return lambda master: dataclasses.replace(master, tensors=dict(master.tensors) | {name: value})


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda m: dataclasses.replace(m, name="No Good"), errors.MetadataInvalid),
        (lambda m: dataclasses.replace(m, labels=m.labels[:9]), errors.MetadataInvalid),
        (lambda m: dataclasses.replace(m, widths=(8, 4)), errors.MetadataInvalid),  # accuracy of widths not offered
        (lambda m: dataclasses.replace(m, widths=(8, 4), accuracy={}), errors.PrecisionMissing),
        (lambda m: dataclasses.replace(m, widths=(4, 2), accuracy={}), errors.PrecisionMissing),
        (lambda m: dataclasses.replace(m, accuracy={8: {"top1": math.nan}}), errors.MetadataInvalid),
        (lambda m: dataclasses.replace(m, provenance={"when": object()}), errors.MetadataInvalid),
        (lambda m: dataclasses.replace(m, provenance={"loss": math.inf}), errors.MetadataInvalid),
        (lambda m: dataclasses.replace(m, input=dataclasses.replace(m.input, scale=0.0)), errors.MetadataInvalid),
        (lambda m: dataclasses.replace(m, graph=SMALL), errors.TensorShape),
        (lambda m: dataclasses.replace(m, tensors={}), errors.TensorMissing),
        (changed_tensor("extra", np.zeros(3, np.float32)), errors.TensorUnexpected),
        (changed_tensor("stem.weight", np.zeros((8, 3, 3, 3), np.int16)), errors.TensorDtype),
        (changed_tensor("stem.weight", np.zeros((8, 3, 3, 2), np.int8)), errors.TensorShape),
        (changed_tensor("head.weight_scale", np.float32([math.nan])), errors.ValueInvalid),
    ],
)
def test_what_could_not_be_read_back_is_not_written(
    tmp_path: Path, change: Callable[[Master], Master], error: type[BitgearError]
) -> None:
    with pytest.raises(error):
        write_master(change(tiny_master()), tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


def test_what_is_not_written_is_told_under_the_name_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(errors.MetadataInvalid) as caught:
        write_master(dataclasses.replace(tiny_master(), labels=("a",)), path)
    assert str(caught.value).startswith(f"{path}: metadata entry 'labels'")


def test_a_file_that_fits_no_memory_is_named(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing_left(_: int) -> bytearray:
        raise MemoryError

    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    monkeypatch.setattr("bitgear.checkpoint.bytearray", nothing_left, raising=False)
    with pytest.raises(errors.CheckpointError, match=f"m.safetensors: finds no memory for its {len(content)} bytes"):
        read_master(path)


# -- files that are not there, or not files ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["missing.safetensors", ".", "file/inside", "n" * 300])
def test_what_cannot_be_opened_is_not_found(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(errors.CheckpointNotFound, match="cannot be opened"):
        read_master(tmp_path / path)


@pytest.mark.parametrize("path", ["a\0b", "half \ud800 of a pair", "bytes \udcff that are no text"])
def test_what_is_no_path_is_not_found(tmp_path: Path, path: str) -> None:
    for read in (read_master, read_name):
        with pytest.raises(errors.CheckpointNotFound, match="cannot be opened") as caught:
            read(tmp_path / path)
        assert str(caught.value).encode()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    for read in (read_master, read_name):
        with pytest.raises(errors.CheckpointNotFound, match="no regular file"):
            read(path)
    if Path("/dev/zero").exists():
        with pytest.raises(errors.CheckpointNotFound, match="no regular file"):
            read_master("/dev/zero")


def test_the_name_is_read_from_the_header_alone(tmp_path: Path, content: bytes) -> None:
    header, data = split(content)
    path = tmp_path / "some.safetensors"
    path.write_bytes(join(header, data[: len(data) // 2]))
    assert read_name(path) == "tiny"
    for broken in (content[:4], content[:100], join(b"{}", b""), with_metadata(content, name="../tiny")):
        path.write_bytes(broken)
        with pytest.raises(CheckpointError) as caught:
            read_name(path)
        assert str(caught.value).startswith(f"{path}: ")
    with pytest.raises(errors.CheckpointNotFound):
        read_name(tmp_path / "missing.safetensors")


def test_a_file_whose_tensors_are_not_what_was_written_is_refused(tmp_path: Path, content: bytes) -> None:
    header, data = split(content)
    assert header["__metadata__"]["data_sha256"] == hashlib.sha256(data).hexdigest()
    start = len(content) - len(data)
    for place in (start, len(content) - 1):
        flipped = bytearray(content)
        flipped[place] ^= 1
        assert type(rejected(tmp_path, bytes(flipped))) is errors.CheckpointCorrupt
        path = tmp_path / "without.safetensors"
        path.write_bytes(with_metadata(bytes(flipped), data_sha256=None))
        read_master(path)  # as of writers that know nothing of it
    for other in ("", "0" * 64, header["__metadata__"]["data_sha256"].upper()):
        assert type(rejected(tmp_path, with_metadata(content, data_sha256=other))) is errors.CheckpointCorrupt


@pytest.mark.parametrize("size", range(8))
def test_files_shorter_than_a_header_length_are_truncated(tmp_path: Path, content: bytes, size: int) -> None:
    assert type(rejected(tmp_path, content[:size])) is errors.CheckpointTruncated


def test_every_truncation_is_called_a_truncation(tmp_path: Path, content: bytes) -> None:
    (length,) = struct.unpack("<Q", content[:8])
    start = 8 + length
    sampled = {*range(8, len(content), 61), start - 1, start, start + 1, len(content) - 1}
    for size in sampled:
        assert type(rejected(tmp_path, content[:size])) is errors.CheckpointTruncated, size


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (pickle.dumps({"weights": [1, 2, 3]} | {str(i): i for i in range(50)}), errors.HeaderTooLarge),
        (b"PK\x03\x04" + bytes(60), errors.HeaderTooLarge),
        (b"\x89PNG\r\n\x1a\n" + bytes(60), errors.HeaderTooLarge),
        (bytes(8), errors.HeaderInvalid),
        (bytes(64), errors.HeaderInvalid),
        (struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{}", errors.HeaderTooLarge),
        (struct.pack("<Q", 2**64 - 1) + b"{}", errors.HeaderTooLarge),
        (struct.pack("<Q", MAX_HEADER_BYTES) + b"{}", errors.CheckpointTruncated),
        (join(b"{", b""), errors.HeaderInvalid),
        (join(b"[]", b""), errors.HeaderInvalid),
        (join(b"3", b""), errors.HeaderInvalid),
        (join(b"null", b""), errors.HeaderInvalid),
        (join(b"\xff\xfe{}", b""), errors.HeaderInvalid),
        (join(b"[" * 200_000, b""), errors.HeaderInvalid),
        (join(b"9" * 10_000, b""), errors.HeaderInvalid),
        (join(b'{"__length__": 3}', b""), errors.NotAMaster),
        (join(b" {}", b""), errors.HeaderInvalid),
        (join(b'{"\xed\xa0\x80": 3}', b""), errors.HeaderInvalid),
        (join(b"{}", b""), errors.NotAMaster),
        (join({"__metadata__": None}, b""), errors.NotAMaster),
        (join({"__metadata__": "bitgear-master"}, b""), errors.NotAMaster),
        (join({"__metadata__": {"format": "pt"}}, b""), errors.NotAMaster),
        (save({"w": np.zeros(3, np.float32)}), errors.NotAMaster),
        (save({"w": np.zeros(3, np.float32)}, {"format": "pt"}), errors.NotAMaster),
    ],
    ids=range(24),
)
def test_foreign_files_have_their_own_errors(tmp_path: Path, data: bytes, error: type[BitgearError]) -> None:
    assert type(rejected(tmp_path, data)) is error


# -- the header -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
def test_a_header_in_another_encoding_is_refused(tmp_path: Path, content: bytes, encoding: str) -> None:
    header, data = split(content)
    error = rejected(tmp_path, join(json.dumps(header).encode(encoding), data))
    assert type(error) is errors.HeaderInvalid


HOSTILE = "\ud800\x1b[2J" * 5000


def test_what_stands_in_a_hostile_header_is_quoted_in_short(tmp_path: Path, content: bytes) -> None:
    header, data = split(content)
    entry, metadata = header["head.bias"], header["__metadata__"]
    bad: list[tuple[dict[str, Any], type[BitgearError]]] = [
        ({HOSTILE: entry}, errors.TensorUnexpected),
        ({HOSTILE: None}, errors.HeaderInvalid),
        ({"head.bias": entry | {"dtype": HOSTILE}}, errors.TensorDtype),
        ({"head.bias": entry | {"shape": [10] * 50_000}}, errors.TensorShape),
        ({"head.weight_scale": entry | {"shape": [10] * 50_000}}, errors.TensorShape),
    ]
    bad += [
        ({"__metadata__": metadata | {name: value}}, errors.MetadataInvalid)
        for name, value in (
            ("version", HOSTILE), ("name", HOSTILE), ("task", HOSTILE), ("accuracy", json.dumps({"x" * 50_000: {}})),
            ("sensitivities", json.dumps({"x" * 50_000: 1.0})), ("provenance", json.dumps(HOSTILE)),
        )
    ]  # fmt: skip
    bad.append(({"__metadata__": metadata | {"widths": json.dumps([8] * 50_000)}}, errors.PrecisionMissing))
    for changes, expected in bad:
        error = rejected(tmp_path, join(header | changes, data))
        assert type(error) is expected
        message = str(error).removeprefix(str(tmp_path))
        assert message.isprintable()
        assert len(message) < 500


def test_duplicate_keys_are_refused_at_every_level(tmp_path: Path, content: bytes) -> None:
    header, data = split(content)
    text = json.dumps(header)
    entry = json.dumps(header["head.bias"])
    doubled = [
        text[:-1] + f', "head.bias": {entry}}}',
        text.replace('"version": "1"', '"version": "1", "version": "1"'),
        text.replace('"dtype": "I8"', '"dtype": "I8", "dtype": "I8"', 1),
    ]
    for bad in doubled:
        assert bad != text
        error = rejected(tmp_path, join(bad.encode(), data))
        assert type(error) is errors.HeaderInvalid
        assert "twice" in str(error)


@pytest.mark.parametrize(
    "entry",
    [
        None, [], "F32", {}, {"dtype": "F32"}, {"dtype": "F32", "shape": [10]},
        {"dtype": 3, "shape": [10], "data_offsets": [0, 40]},
        {"dtype": "F32", "shape": "10", "data_offsets": [0, 40]},
        {"dtype": "F32", "shape": [10.0], "data_offsets": [0, 40]},
        {"dtype": "F32", "shape": [-10], "data_offsets": [0, 40]},
        {"dtype": "F32", "shape": [True], "data_offsets": [0, 40]},
        {"dtype": "F32", "shape": [10], "data_offsets": [0]},
        {"dtype": "F32", "shape": [10], "data_offsets": [0, 40, 80]},
        {"dtype": "F32", "shape": [10], "data_offsets": [-40, 0]},
        {"dtype": "F32", "shape": [10], "data_offsets": [0, 2**60]},
        {"dtype": "F32", "shape": [10], "data_offsets": None},
    ],
)  # fmt: skip
def test_malformed_tensor_entries_are_refused(tmp_path: Path, content: bytes, entry: Any) -> None:
    header, data = split(content)
    header["head.bias"] = entry
    error = rejected(tmp_path, join(header, data))
    assert type(error) is errors.HeaderInvalid
    assert "'head.bias'" in str(error)


def test_overlapping_and_gapped_and_reversed_offsets_are_refused(tmp_path: Path, content: bytes) -> None:
    header, data = split(content)
    names = sorted((n for n in header if n != "__metadata__"), key=lambda n: header[n]["data_offsets"])
    same_size = [n for n in names if header[n]["dtype"] == "F32" and header[n]["shape"] == [len(WIDTHS)]]
    moves = [
        (same_size[1], header[same_size[0]]["data_offsets"]),  # two tensors in one place, a gap in the other
        (names[-1], [o + 8 for o in header[names[-1]]["data_offsets"]]),  # a gap before the last
        (names[-1], [o - 8 for o in header[names[-1]]["data_offsets"]]),  # an overlap
        (names[0], header[names[0]]["data_offsets"][::-1]),
        (names[0], [0, 0]),
    ]
    for name, offsets in moves:
        bad = header | {name: header[name] | {"data_offsets": offsets}}
        assert type(rejected(tmp_path, join(bad, data + bytes(8)))) is errors.HeaderInvalid, (name, offsets)


@pytest.mark.parametrize("extra", [1, 8, 5000])
def test_trailing_bytes_are_refused(tmp_path: Path, content: bytes, extra: int) -> None:
    error = rejected(tmp_path, content + bytes(extra))
    assert type(error) is errors.HeaderInvalid
    assert f"{extra} bytes follow" in str(error)


def test_a_shape_whose_product_matches_is_still_the_wrong_shape(tmp_path: Path, content: bytes) -> None:
    header, data = split(content)
    header["head.weight"]["shape"].reverse()
    assert type(rejected(tmp_path, join(header, data))) is errors.TensorShape


# -- tensors ----------------------------------------------------------------------------------------------------------


def names_of(graph: Graph) -> list[str]:
    return sorted(tiny_master(graph=graph, side_px=4).tensors)


@pytest.mark.parametrize("name", names_of(SMALL))
def test_each_tensor_must_be_there_in_its_type_and_shape(tmp_path: Path, content: bytes, name: str) -> None:
    def other_type(tensors: dict[str, np.ndarray]) -> None:
        tensors[name] = tensors[name].astype(np.int8 if tensors[name].dtype != np.int8 else np.uint8)

    def double(tensors: dict[str, np.ndarray]) -> None:
        tensors[name] = tensors[name].astype(np.float64)

    def missing(tensors: dict[str, np.ndarray]) -> None:
        del tensors[name]

    def one_axis_more(tensors: dict[str, np.ndarray]) -> None:
        tensors[name] = tensors[name][None]

    def last_axis_longer(tensors: dict[str, np.ndarray]) -> None:
        tensors[name] = np.concatenate([tensors[name], tensors[name][..., :1]], axis=-1)

    for change, error in (
        (missing, errors.TensorMissing), (other_type, errors.TensorDtype), (double, errors.TensorDtype),
        (one_axis_more, errors.TensorShape),
    ):  # fmt: skip
        found = rejected(tmp_path, with_tensors(content, change))
        assert type(found) is error
        assert repr(name) in str(found)
    longer = errors.PrecisionMissing if name.endswith(("act_scale", "residual_scale")) else errors.TensorShape
    assert type(rejected(tmp_path, with_tensors(content, last_axis_longer))) is longer


@pytest.mark.parametrize("name", ["body.act_scale", "body.gain", "body.bias", "body.residual_scale", "pool.act_scale"])
@pytest.mark.parametrize("rows", [0, 1, 6, 8])
def test_a_width_without_its_row_is_a_missing_precision(tmp_path: Path, content: bytes, name: str, rows: int) -> None:
    def cut(tensors: dict[str, np.ndarray]) -> None:
        tensors[name] = np.resize(tensors[name], (rows, *tensors[name].shape[1:]))

    assert type(rejected(tmp_path, with_tensors(content, cut))) is errors.PrecisionMissing


def test_a_tensor_that_the_graph_does_not_use_is_refused(tmp_path: Path, content: bytes) -> None:
    for name in ("extra", "stem.act_scale", "stem.residual_scale", "pool.weight", ""):
        error = rejected(
            tmp_path, with_tensors(content, lambda t, name=name: t.update({name: np.zeros(7, np.float32)}))
        )
        assert type(error) is errors.TensorUnexpected
        assert repr(name) in str(error)


@pytest.mark.parametrize("name", [n for n in names_of(SMALL) if not n.endswith(".weight")])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0, -0.0, -1.0])
def test_values_without_meaning_are_refused(tmp_path: Path, content: bytes, name: str, value: float) -> None:
    def poison(tensors: dict[str, np.ndarray]) -> None:
        tensors[name].reshape(-1)[-1] = value

    bad = with_tensors(content, poison)
    if name.endswith("_scale") or not math.isfinite(value):
        error = rejected(tmp_path, bad)
        assert type(error) is errors.ValueInvalid
        assert repr(name) in str(error)
    else:
        (tmp_path / "good").write_bytes(bad)
        assert read_master(tmp_path / "good").tensors[name].reshape(-1)[-1] == value


# -- metadata ---------------------------------------------------------------------------------------------------------


def replaced(items: str, **changes: Any) -> str:
    """A JSON object with entries replaced."""
    return json.dumps(json.loads(items) | changes)


@pytest.mark.parametrize("entry", ["graph", "input", "labels", "widths", "accuracy", "provenance"])
@pytest.mark.parametrize("text", [None, "", "{", "\x00", "[" * 100_000, "9" * 10_000, '"\\ud800"', "NaN"])
def test_entries_that_are_not_json_are_named(tmp_path: Path, content: bytes, entry: str, text: str | None) -> None:
    error = rejected(tmp_path, with_metadata(content, **{entry: text}))
    assert type(error) is errors.MetadataInvalid
    assert repr(entry) in str(error)


@pytest.mark.parametrize("entry", ["input", "labels", "widths", "accuracy", "provenance"])
@pytest.mark.parametrize("text", ["null", "3", '"x"', "true", "[[]]", "[{}]", "[null]"])
def test_entries_of_another_kind_are_named(tmp_path: Path, content: bytes, entry: str, text: str) -> None:
    error = rejected(tmp_path, with_metadata(content, **{entry: text}))
    assert type(error) is errors.MetadataInvalid
    assert repr(entry) in str(error)


@pytest.mark.parametrize(
    ("entries", "error"),
    [
        ({"version": None}, errors.MetadataInvalid),
        ({"version": ""}, errors.MetadataInvalid),
        ({"version": "one"}, errors.MetadataInvalid),
        ({"version": "0"}, errors.MetadataInvalid),
        ({"version": "01"}, errors.MetadataInvalid),
        ({"version": "-1"}, errors.MetadataInvalid),
        ({"version": "1.0"}, errors.MetadataInvalid),
        ({"version": "١"}, errors.MetadataInvalid),
        ({"version": "9" * 5000}, errors.MetadataInvalid),
        ({"version": "5"}, errors.VersionUnsupported),
        ({"version": "999999999"}, errors.VersionUnsupported),
        ({"name": None}, errors.MetadataInvalid),
        ({"name": "../etc/passwd"}, errors.MetadataInvalid),
        ({"name": "x" * 65}, errors.MetadataInvalid),
        ({"task": None}, errors.MetadataInvalid),
        ({"task": "detect"}, errors.MetadataInvalid),
        ({"labels": json.dumps(LABELS[:9])}, errors.MetadataInvalid),
        ({"labels": json.dumps([*LABELS, "unicorn"])}, errors.MetadataInvalid),
        ({"labels": json.dumps([*LABELS[:9], 3])}, errors.MetadataInvalid),
        ({"labels": json.dumps([*LABELS[:9], "\ud800"])}, errors.MetadataInvalid),
        ({"labels": "{}"}, errors.MetadataInvalid),
        ({"widths": "[8, 16]"}, errors.MetadataInvalid),
        ({"widths": "[8, 1]"}, errors.MetadataInvalid),
        ({"widths": "[8.0, 4]"}, errors.MetadataInvalid),
        ({"widths": "[]"}, errors.PrecisionMissing),
        ({"widths": "[4, 2]", "accuracy": "{}"}, errors.PrecisionMissing),
        ({"widths": "[2, 4, 8]"}, errors.PrecisionMissing),
        ({"widths": "[8, 8, 7, 6, 5, 4, 3, 2]"}, errors.PrecisionMissing),
        ({"widths": "[8, 7, 6, 5, 4, 3]", "accuracy": "{}"}, errors.PrecisionMissing),
        ({"accuracy": '{"9": {}}'}, errors.MetadataInvalid),
        ({"accuracy": '{"": {}}'}, errors.MetadataInvalid),
        ({"accuracy": '{"8": 0.9}'}, errors.MetadataInvalid),
        ({"accuracy": '{"8": {"top1": "0.9"}}'}, errors.MetadataInvalid),
        ({"accuracy": '{"8": {"top1": true}}'}, errors.MetadataInvalid),
        ({"accuracy": '{"8": {"top1": NaN}}'}, errors.MetadataInvalid),
        ({"accuracy": '{"8": {"top1": 1e999}}'}, errors.MetadataInvalid),
        ({"accuracy": '{"8": {"top1": ' + "9" * 400 + "}}"}, errors.MetadataInvalid),
        ({"provenance": '{"loss": NaN}'}, errors.MetadataInvalid),
        ({"provenance": '{"by": "\\ud800"}'}, errors.MetadataInvalid),
        ({"version": 1}, errors.HeaderInvalid),
        ({"extra": {}}, errors.HeaderInvalid),
    ],
    ids=range(41),
)
def test_each_metadata_entry_is_checked(
    tmp_path: Path, content: bytes, entries: dict[str, Any], error: type[BitgearError]
) -> None:
    assert type(rejected(tmp_path, with_metadata(content, **entries))) is error


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("height_px", 0),
        ("width_px", 9000),
        ("mean", [0, 0]),
        ("std", [0, 1, 1]),
        ("scale", -1.0),
        ("scale", 10**400),
        ("scale", 1e38),
    ],
)
def test_the_input_record_is_checked(tmp_path: Path, content: bytes, name: str, value: Any) -> None:
    text = replaced(split(content)[0]["__metadata__"]["input"], **{name: value})
    error = rejected(tmp_path, with_metadata(content, input=text))
    assert type(error) is errors.MetadataInvalid
    assert name in str(error)


@pytest.mark.parametrize(
    ("index", "changes", "error"),
    [
        (0, {"op": "attention"}, errors.UnknownNode),
        (0, {"channels": 0}, errors.GraphError),
        (1, {"input": "nowhere"}, errors.GraphError),
        (1, {"kernel": 60}, errors.GraphError),
        (1, {"name": "stem"}, errors.GraphError),
        (1, {"residual": "image"}, errors.GraphError),
        (3, {"input": "body"}, errors.GraphError),
        (1, {"channels": 4, "residual": None}, errors.TensorShape),
        (1, {"residual": None}, errors.TensorUnexpected),
        (0, {"name": "other"}, errors.GraphError),
        (3, {"name": "other"}, errors.TensorMissing),
        (3, {"channels": 9}, errors.MetadataInvalid),
        (0, {"groups": 2}, errors.GraphError),
        (1, {"groups": 2}, errors.TensorShape),
        (1, {"clip": 0}, errors.GraphError),
        (1, {"clip": 6.0, "relu": False}, errors.GraphError),
        (1, {"padding_end": 1}, errors.GraphError),
        (1, {"op": "concat"}, errors.GraphError),
    ],
)
def test_the_graph_is_checked(
    tmp_path: Path, content: bytes, index: int, changes: dict[str, Any], error: type[BitgearError]
) -> None:
    nodes = json.loads(split(content)[0]["__metadata__"]["graph"])
    nodes[index] = {k: v for k, v in (nodes[index] | changes).items() if v is not None}
    assert type(rejected(tmp_path, with_metadata(content, graph=json.dumps(nodes)))) is error


def test_a_graph_that_ends_in_a_picture_has_no_labels(tmp_path: Path, content: bytes) -> None:
    nodes = json.loads(split(content)[0]["__metadata__"]["graph"])[:2]
    error = rejected(tmp_path, with_metadata(content, graph=json.dumps(nodes)))
    assert type(error) is errors.MetadataInvalid
    assert "(2, 4, 4)" in str(error)


def test_unknown_metadata_entries_are_ignored(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m").write_bytes(with_metadata(content, note="from a later 1.x"))
    assert read_master(tmp_path / "m").name == "tiny"


@pytest.mark.parametrize("name", ["a", "0", "resnet20-cifar10", "a.b_c-d", "a" * 64])
def test_model_names(name: str) -> None:
    assert is_model_name(name)


@pytest.mark.parametrize("name", ["", "A", "-a", ".a", "_a", "a..b", "a/b", "a b", "a\n", "ä", "a" * 65, "a\x00"])
def test_what_is_no_model_name(name: str) -> None:
    assert not is_model_name(name)


# -- anything ---------------------------------------------------------------------------------------------------------


@settings(deadline=None, database=None, max_examples=250)
@given(data=st.data())
def test_damaged_bytes_give_a_named_error_or_a_valid_master(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, data: st.DataObject
) -> None:
    damaged = bytearray(content)
    header_end = 8 + struct.unpack("<Q", content[:8])[0]
    for _ in range(data.draw(st.integers(1, 4))):
        inside = data.draw(st.sampled_from([8, header_end, len(content)]))
        damaged[data.draw(st.integers(0, inside - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.one_of(st.just(len(damaged)), st.integers(0, len(damaged))))]
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(damaged)
    try:
        master = read_master(path)
    except (CheckpointError, GraphError) as error:
        str(error).encode()
    else:
        assert len(master.labels) == 10
        assert 8 in master.widths
    path.unlink()


@settings(deadline=None, database=None, max_examples=150)
@given(data=st.data())
def test_damaged_metadata_text_gives_a_named_error_or_a_valid_master(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, data: st.DataObject
) -> None:
    header, _ = split(content)
    values = st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
        max_leaves=5,
    )
    entry = data.draw(st.sampled_from(["graph", "input", "labels", "widths", "accuracy", "provenance"]))
    value = json.loads(header["__metadata__"][entry])
    target, step = value, data.draw(st.integers(0, 2))
    while step and isinstance(target, dict | list) and target:
        keys = list(target) if isinstance(target, dict) else list(range(len(target)))
        place = data.draw(st.sampled_from(keys))
        if step == 1 or not isinstance(target[place], dict | list):
            target[place] = data.draw(values)
            break
        target, step = target[place], step - 1
    else:
        value = data.draw(values)
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(with_metadata(content, **{entry: json.dumps(value)}))
    try:
        read_master(path)
    except (CheckpointError, GraphError) as error:
        str(error).encode()
    path.unlink()


@pytest.mark.parametrize("scale", [2.0**-33, 2.0**33, 1e-45, 3e38])
def test_scales_whose_products_could_leave_float32_are_refused(scale: float, tmp_path: Path) -> None:
    master = tiny_master()
    tensors = {**master.tensors, "pool.act_scale": np.full(7, scale, np.float32)}
    with pytest.raises(errors.ValueInvalid, match=r"pool\.act_scale"):
        write_master(dataclasses.replace(master, tensors=tensors), tmp_path / "m.safetensors")


def test_a_classifier_needs_a_square_input(tmp_path: Path) -> None:
    master = tiny_master()
    oblong = dataclasses.replace(master, input=dataclasses.replace(master.input, width_px=20))
    with pytest.raises(errors.MetadataInvalid, match="square"):
        write_master(oblong, tmp_path / "m.safetensors")


def test_a_master_and_its_derived_models_are_shown_in_a_line() -> None:
    master = read_master(find_master("resnet20-cifar10"))
    assert repr(master).startswith("Master(name='resnet20-cifar10', task='classify', ")
    assert len(repr(master)) < 500
    assert len(repr(create_engine().derive(master, 4))) < 1000
