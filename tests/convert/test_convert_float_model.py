"""The float network: batch norm folded, every node as in numpy, and weights that cannot be used."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from bitgear import reference
from bitgear.convert.architectures import ARCHITECTURES, BATCH_NORM, Architecture
from bitgear.convert.float_model import (
    FloatModel,
    fold_batch_norm,
    random_float_model,
    read_float_model,
    read_metadata,
    read_state,
)
from bitgear.errors import (
    CheckpointNotFound,
    HeaderInvalid,
    TensorDtype,
    TensorMissing,
    TensorShape,
    TensorUnexpected,
    ValueInvalid,
)
from bitgear.graph import (
    IMAGE,
    AvgPool,
    Concat,
    Conv,
    Graph,
    Linear,
    MaxPool,
    Node,
    Pool,
    Resize,
    Shortcut,
)
from bitgear.inputs import InputRecord
from tests.convert.networks import CLASSES, architecture_of, pictures, tiny_state

RNG = np.random.default_rng(0)
Values = dict[str, NDArray[np.float64]]


def in_numpy(architecture: Architecture, state: dict[str, NDArray[np.float32]], image: NDArray[np.float32]) -> Values:
    """The network with its batch norm as it is, in float64."""
    values: Values = {IMAGE: image.astype(np.float64)}
    for node in architecture.graph.nodes:
        if isinstance(node, Conv):
            y = convolve(node, values[node.input], state[f"{node.name}.weight"].astype(np.float64))
            prefix = architecture.batch_norms[node.name]
            gamma, beta, mean, var = (state[f"{prefix}.{part}"].reshape(-1, 1, 1) for part in BATCH_NORM)
            y = (y - mean) / np.sqrt(var + architecture.epsilon) * gamma + beta
            values[node.name] = activate(node, y, values)
        else:
            values[node.name] = other(node, values, state)
    return values


def convolve(node: Conv, x: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    seen = reference.windows(x, node)
    parts = [
        np.einsum("nchwij,ocij->nohw", part, own)
        for part, own in zip(
            np.split(seen, node.groups, axis=1), np.split(weight, node.groups, axis=0), strict=True
        )
    ]  # fmt: skip
    return np.concatenate(parts, axis=1)


def activate(node: Conv, y: NDArray[np.float64], values: Values) -> NDArray[np.float64]:
    if node.residual is not None:
        y = y + values[node.residual]
    if node.relu:
        y = np.clip(y, 0, np.inf if node.clip is None else node.clip)
    return y


def other(node: Node, values: Values, state: dict[str, NDArray[np.float32]]) -> NDArray[np.float64]:
    match node:
        case Linear():
            return values[node.input] @ state[f"{node.name}.weight"].T + state[f"{node.name}.bias"]
        case Pool():
            return values[node.input].mean(axis=(2, 3))
        case MaxPool():
            return reference.windows(values[node.input], node, padding_value=-np.inf).max(axis=(4, 5))
        case AvgPool():
            return reference.windows(values[node.input], node).mean(axis=(4, 5))
        case Concat():
            return np.concatenate([values[name] for name in node.inputs], axis=1)
        case Shortcut():
            x = values[node.input][:, :, :: node.stride, :: node.stride]
            pad = (node.channels - x.shape[1]) // 2
            return np.pad(x, ((0, 0), (pad, pad), (0, 0), (0, 0)))
        case Resize():
            return resize(node, values[node.input])
        case _:
            raise AssertionError(node)


def resize(node: Resize, x: NDArray[np.float64]) -> NDArray[np.float64]:
    if node.mode == "nearest":
        rows = np.arange(node.height) * x.shape[2] // node.height
        columns = np.arange(node.width) * x.shape[3] // node.width
        return x[:, :, rows][:, :, :, columns]
    for axis, size in ((2, node.height), (3, node.width)):
        source = x.shape[axis]
        position = np.clip((np.arange(size) + 0.5) * source / size - 0.5, 0, source - 1)
        first = np.floor(position).astype(int)
        part = (position - first).reshape([-1 if i == axis else 1 for i in range(4)])
        second = np.minimum(first + 1, source - 1)
        x = (1 - part) * x.take(first, axis) + part * x.take(second, axis)
    return x


def assert_close(ours: NDArray[np.float32], theirs: NDArray[np.float64]) -> None:
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_folding_changes_nothing_that_the_network_computes(name: str) -> None:
    state = tiny_state(name)
    architecture = architecture_of(state)
    model = fold_batch_norm(architecture, state)
    image = model.normalise(pictures(2, 33))
    expected = in_numpy(architecture, state, image)
    session = model.session(outputs="all")
    names = [output.name for output in session.get_outputs()]
    assert names == [node.name for node in model.graph.nodes]
    for node, value in zip(names, session.run(None, {IMAGE: image}), strict=True):
        assert_close(value, expected[node])
    (last,) = model.session().run(None, {IMAGE: image})
    assert last.shape == (2, CLASSES)
    assert_close(last, expected[names[-1]])


def every_node() -> FloatModel:
    graph = Graph(
        (
            Conv("a", IMAGE, 4, 3, stride=2, padding=2, padding_end=1, dilation=2),
            MaxPool("max", "a", 3, stride=2, padding=1, padding_end=0),
            AvgPool("avg", "a", 3, stride=2, padding=1),
            Conv("b", "avg", 8, 1, groups=2, relu=False),
            Shortcut("wide", "b", 10),
            Resize("near", "wide", 7, 5),
            Resize("smooth", "near", 9, 11, mode="bilinear"),
            Resize("same", "near", 9, 11),
            Concat("both", ("smooth", "same", "smooth")),
            Conv("c", "both", 10, 3, padding=1, residual="smooth", clip=0.75),
            Pool("pool", "c"),
            Linear("fc", "pool", 3),
        )
    )
    record = InputRecord(17, 17, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), 1 / 64)
    shapes = graph.shapes((3, 17, 17))
    weights, biases = {}, {}
    for node in graph.nodes:
        if isinstance(node, Conv):
            weights[node.name] = RNG.normal(
                0, 0.3, (node.channels, shapes[node.input][0] // node.groups, node.kernel, node.kernel)
            ).astype(np.float32)
        elif isinstance(node, Linear):
            weights[node.name] = RNG.normal(0, 0.3, (node.channels, shapes[node.input][0])).astype(np.float32)
    for name, weight in weights.items():
        biases[name] = RNG.normal(0, 0.1, len(weight)).astype(np.float32)
    return FloatModel("every", graph, record, weights, biases)


def test_every_node_computes_what_numpy_computes() -> None:
    model = every_node()
    image = model.normalise(pictures(3, 17))
    values: Values = {IMAGE: image.astype(np.float64)}
    state = {f"{name}.weight": weight for name, weight in model.weights.items()}
    state |= {f"{name}.bias": bias for name, bias in model.biases.items()}
    results = model.session(outputs="all").run(None, {IMAGE: image})
    for node, value in zip(model.graph.nodes, results, strict=True):
        if isinstance(node, Conv):
            made = convolve(node, values[node.input], state[f"{node.name}.weight"].astype(np.float64))
            values[node.name] = activate(node, made + state[f"{node.name}.bias"].reshape(-1, 1, 1), values)
        else:
            values[node.name] = other(node, values, state)
        assert_close(value, values[node.name])


def test_pixels_are_normalised_by_mean_and_deviation() -> None:
    model = every_node()
    pixels = pictures(2, 17)
    expected = (pixels / 255 - model.input.mean) / model.input.std
    np.testing.assert_allclose(model.normalise(pixels), expected.transpose(0, 3, 1, 2), rtol=1e-6, atol=1e-6)


def test_random_weights_are_the_seeds() -> None:
    first, again, other_seed = (random_float_model("mobilenet_v1", seed, multiplier=0.25) for seed in (1, 1, 2))
    for name, weight in first.weights.items():
        np.testing.assert_array_equal(weight, again.weights[name])
        assert not np.array_equal(weight, other_seed.weights[name])
    assert first.weights["pw13"].shape == (256, 256, 1, 1)
    assert first.weights["pw13"].std() == pytest.approx(np.sqrt(2 / 256), rel=0.02)
    assert random_float_model("resnet20", side_px=16).input.height_px == 16


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "state_dict.", "state_dict.module."])
def test_a_state_dict_in_a_file(tmp_path: Path, prefix: str) -> None:
    state = tiny_state("resnet20")
    expected = fold_batch_norm(architecture_of(state, 32), state)
    stored = {f"{prefix}{key}": tensor for key, tensor in state.items()}
    stored[f"{prefix}bn1.num_batches_tracked"] = np.asarray(7, np.int64)  # type: ignore[assignment]
    path = tmp_path / "net.safetensors"
    save_file(stored, path, {"source": "made up"})
    model = read_float_model(path)
    assert (model.name, model.graph, model.input) == ("resnet20", expected.graph, expected.input)
    for name, weight in expected.weights.items():
        np.testing.assert_array_equal(model.weights[name], weight)
        np.testing.assert_array_equal(model.biases[name], expected.biases[name])
    assert read_metadata(path) == {"source": "made up"}
    save_file(stored, path)
    assert read_metadata(path) == {}


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_are_taken(tmp_path: Path, dtype: type) -> None:
    path = tmp_path / "net.safetensors"
    save_file({key: tensor.astype(dtype) for key, tensor in tiny_state("resnet20").items()}, path)
    assert all(weight.dtype == np.float32 for weight in read_float_model(path, "resnet20", 8).weights.values())


def test_bfloat16_is_taken_as_the_float32_that_it_stands_for(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    values = np.asarray([1.5, -2, 2.0**-100, 3.0e38], np.float32)
    upper = (values.view(np.uint32) >> 16).astype("<u2")
    header = json.dumps({"a": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + upper.tobytes())
    (tensor,) = read_state(path).values()
    assert tensor.dtype == np.float32
    np.testing.assert_array_equal(tensor.view(np.uint32), (upper.astype(np.uint32) << 16).reshape(2, 2))


def test_files_that_hold_no_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFound, match=r"absent\.safetensors"):
        read_state(tmp_path / "absent.safetensors")
    with pytest.raises(CheckpointNotFound):
        read_state(tmp_path)
    path = tmp_path / "net.safetensors"
    for content in (b"", b"PK\x03\x04 some zip", bytes(100)):
        path.write_bytes(content)
        with pytest.raises(HeaderInvalid, match=r"net\.safetensors") as caught:
            read_state(path)
        assert "torch.save" not in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_of_torch_save_is_told_as_that(tmp_path: Path, zipped: bool) -> None:
    import torch

    torch.save({"a": torch.zeros(2)}, tmp_path / "net.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(HeaderInvalid, match=r"torch\.save wrote it"):
        read_state(tmp_path / "net.pt")


def test_a_type_that_numpy_lacks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    header = json.dumps({"a": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(HeaderInvalid, match=r"net\.safetensors: is not a safetensors file of plain floats"):
        read_state(path)


def test_metadata_of_null_are_none(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_file({"a": np.zeros(1, np.float32)}, path)
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.dumps(json.loads(content[8 : 8 + length]) | {"__metadata__": None}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + length :])
    assert read_state(path).keys() == {"a"}
    assert read_metadata(path) == {}


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    state = tiny_state("resnet20")
    path = tmp_path / "net.safetensors"
    save_file(state | {"module.conv1.weight": state["conv1.weight"] + 1}, path)
    with pytest.raises(TensorUnexpected, match=r"net\.safetensors: .*'module\.conv1\.weight', which would both be"):
        read_float_model(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    os.mkfifo(path)
    command = [sys.executable, "-c", PIPE, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert "CheckpointNotFound" in done.stderr
    assert f"{path}: cannot be opened: it is no regular file" in done.stderr


PIPE = """
import pathlib, sys
from bitgear.convert.float_model import read_state
read_state(pathlib.Path(sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("key", "value", "node"),
    [
        ("conv1.weight", 1e200, "conv1"),
        ("bn1.bias", 1e13, "conv1"),
        ("layer1.0.bn1.weight", 1e308, "layer1.0.conv1"),
        ("linear.bias", -1e300, "linear"),
    ],
)
def test_what_no_scale_of_a_master_reaches_is_refused(tmp_path: Path, key: str, value: float, node: str) -> None:
    state = {name: tensor.astype(np.float64) for name, tensor in tiny_state("resnet20").items()}
    state[key][...] = value
    path = tmp_path / "net.safetensors"
    save_file(state, path)
    with pytest.raises(ValueInvalid, match=rf"net\.safetensors: node '{node}' .*beyond 5\.5e\+11"):
        read_float_model(path)


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("layer1.0.conv1.weight", np.zeros((8, 8, 3, 3), np.int8), TensorDtype),
        ("layer1.0.conv1.weight", np.full((8, 8, 3, 3), np.nan, np.float32), ValueInvalid),
        ("bn1.running_var", np.full(8, -1, np.float32), ValueInvalid),
        ("bn1.running_mean", np.full(8, np.inf, np.float32), ValueInvalid),
        ("bn1.running_mean", np.zeros(9, np.float32), TensorShape),
        ("bn1.running_mean", None, TensorMissing),
    ],
)
def test_weights_that_cannot_be_used_are_named(
    tmp_path: Path, key: str, value: NDArray[np.float32] | None, error: type[Exception]
) -> None:
    state = tiny_state("resnet20")
    del state[key]
    if value is not None:
        state[key] = value
    path = tmp_path / "net.safetensors"
    save_file(state, path)
    with pytest.raises(error, match=rf"net\.safetensors.*{key.replace('.', '[.]')}"):
        read_float_model(path)
