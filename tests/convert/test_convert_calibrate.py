"""Calibration: what it computes is what the reference computes, and close to the float network."""

from dataclasses import replace

import numpy as np
import pytest

from bitgear import reference
from bitgear.bits import WIDTHS
from bitgear.checkpoint import read_master, tensor_specs, write_master
from bitgear.convert import calibrate as calibration
from bitgear.convert.architectures import ARCHITECTURES
from bitgear.convert.calibrate import Calibrated, calibrate
from bitgear.convert.float_model import FloatModel, Floats, fold_batch_norm
from bitgear.engines import create_engine
from bitgear.errors import ValueInvalid
from bitgear.graph import IMAGE, AvgPool, Concat, Conv, Graph, Linear, MaxPool, Pool, Resize
from bitgear.inputs import InputRecord
from tests.convert.networks import CLASSES, architecture_of, pictures, tiny_model, tiny_state

LABELS = [f"class{i}" for i in range(CLASSES)]


def calibrated(model: FloatModel, count: int = 20, widths: tuple[int, ...] = WIDTHS) -> Calibrated:
    return calibrate(model, pictures(count, model.input.height_px), widths, name="tiny", labels=LABELS)


def float_logits(model: FloatModel, count: int, seed: int = 0) -> Floats:
    pixels = pictures(count, model.input.height_px, seed)
    logits: Floats = model.session().run(None, {IMAGE: model.normalise(pixels)})[0]
    return logits


def likeness(ours: Floats, theirs: Floats) -> float:
    return float(np.corrcoef(ours.reshape(-1), theirs.reshape(-1))[0, 1])


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet20", "mobilenet_v1", "mobilenet_v2"])
def test_calibration_computes_what_the_reference_computes(name: str) -> None:
    model = tiny_model(name)
    found = calibrated(model, 10)
    q_images = found.master.input.encode(pictures(10, 33))
    for bits in WIDTHS:
        np.testing.assert_array_equal(reference.run(found.master, q_images, bits), found.outputs[bits])


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("bn1.bias", 1e6, "'conv1' at 8 bits needs a gain or a bias beyond 65504.*; check its batch norm$"),
        ("layer1.0.bn1.weight", 4e4, r"at 2 bits .*; check its batch norm, or leave that width out: --widths 8$"),
        ("layer1.0.bn1.weight", 1e5, r"'layer1\.0\.conv1' at . bits needs a gain or a bias beyond 65504"),
        ("layer1.0.bn1.weight", 1e11, r"'layer1\.0\.conv1' makes values beyond 1\.1e\+12"),
    ],
)
def test_a_node_that_no_master_can_hold_is_named(key: str, value: float, said: str) -> None:
    state = tiny_state("resnet20")
    state[key] = np.full_like(state[key], value)
    model = fold_batch_norm(architecture_of(state, 16), state)
    with pytest.raises(ValueInvalid, match=said):
        calibrated(model, 6, (8, 2))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_8_bits_are_close_to_the_float_network_on_other_pictures(name: str) -> None:
    model = tiny_model(name)
    found = calibrated(model, 30, (8,))
    q_images = found.master.input.encode(pictures(30, 33, seed=1))
    assert likeness(reference.run(found.master, q_images, 8), float_logits(model, 30, seed=1)) > 0.95


def test_fewer_bits_are_less_close_but_not_lost() -> None:
    model = tiny_model("resnet20", 0.5)
    found = calibrated(model, 40)
    theirs = float_logits(model, 40)
    by_width = [likeness(found.outputs[bits], theirs) for bits in WIDTHS]
    assert by_width[0] > 0.999
    assert by_width[WIDTHS.index(4)] > 0.98
    assert min(by_width) == by_width[-1]


def test_the_master_is_complete_and_runs_in_the_engine(tmp_path: object) -> None:
    from pathlib import Path

    found = calibrated(tiny_model("mobilenet_v2"), 6, (4, 8, 6))
    assert found.master.widths == (8, 6, 4)
    assert found.master.labels == tuple(LABELS)
    assert found.master.tensors.keys() == tensor_specs(found.master.graph, found.master.input, 3).keys()
    path = Path(str(tmp_path)) / "tiny.safetensors"
    write_master(found.master, path)
    stored = read_master(path)
    q_images = stored.input.encode(pictures(6, 33))
    for bits in stored.widths:
        derived = create_engine("onnxruntime").derive(stored, bits)
        np.testing.assert_array_equal(derived.run(q_images), found.outputs[bits])


def test_the_same_pictures_give_the_same_master() -> None:
    model = tiny_model("mobilenet_v1")
    first, again = calibrated(model, 5, (8, 4)), calibrated(model, 5, (8, 4))
    for name, tensor in first.master.tensors.items():
        np.testing.assert_array_equal(tensor, again.master.tensors[name])


def test_dead_channels_and_layers_do_no_harm() -> None:
    model = tiny_model("mobilenet_v1", 0.25)
    weights, biases = dict(model.weights), dict(model.biases)
    weights["dw3"][::2], biases["dw3"][::2] = 0, -1  # never speak
    weights["pw5"][0], biases["pw5"][0] = 0, 2  # always say the same
    weights["pw9"] *= 1e-12
    biases["pw9"][:] = 0
    found = calibrated(replace(model, weights=weights, biases=biases), 5)
    for name, tensor in found.master.tensors.items():
        assert np.isfinite(tensor).all(), name
    for bits in WIDTHS:
        assert np.isfinite(found.outputs[bits]).all()


def test_every_node_is_passed_and_counted() -> None:
    graph = Graph(
        (
            Conv("a", IMAGE, 8, 3, stride=2, padding=1),
            MaxPool("max", "a", 3, stride=2, padding=1),
            AvgPool("avg", "a", 3, stride=2, padding=1),
            Conv("b", "avg", 8, 1, groups=2, relu=False),
            Resize("near", "max", 7, 5),
            Resize("smooth", "b", 7, 5, mode="bilinear"),
            Concat("both", ("smooth", "near", "smooth")),
            Conv("c", "both", 16, 3, padding=2, dilation=2, clip=2.5),
            Conv("d", "c", 16, 1, residual="c", relu=False),
            Pool("pool", "d"),
            Linear("fc", "pool", CLASSES),
        )
    )
    rng = np.random.default_rng(0)
    record = InputRecord(16, 16, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), 1 / 64)
    shapes = graph.shapes((3, 16, 16))
    weights = {
        node.name: rng.normal(0, 0.3, (node.channels, shapes[node.input][0] // node.groups, node.kernel, node.kernel))
        for node in graph.convs
    }
    weights["fc"] = rng.normal(0, 1, (CLASSES, 16))
    model = FloatModel(
        "every", graph, record,
        {name: weight.astype(np.float32) for name, weight in weights.items()},
        {name: rng.normal(0, 0.1, len(weight)).astype(np.float32) for name, weight in weights.items()},
    )  # fmt: skip
    steps: list[int] = []
    found = calibrate(model, pictures(20, 16), WIDTHS, name="every", labels=LABELS, progress=steps.append)
    assert sum(steps) == len(graph.nodes) * len(WIDTHS)
    q_images = found.master.input.encode(pictures(20, 16))
    for bits in WIDTHS:
        np.testing.assert_array_equal(reference.run(found.master, q_images, bits), found.outputs[bits])
    assert likeness(found.outputs[8], float_logits(model, 20)) > 0.995


def test_large_layers_are_looked_at_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "MOMENT_ROWS", 1000)
    monkeypatch.setattr(calibration, "FIT_ROWS", 500)
    monkeypatch.setattr(calibration, "BATCH", 3)
    model = tiny_model("resnet20")
    found = calibrated(model, 20, (8, 4))
    assert likeness(found.outputs[8], float_logits(model, 20)) > 0.99
