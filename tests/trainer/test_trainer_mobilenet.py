"""MobileNetV2: its shape, training with depthwise convolutions and ReLU6, equal integers; what may help it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bitgear.checkpoint import read_master
from bitgear.graph import Conv
from tests.trainer.tiny_runs import tiny_config, tiny_run
from trainer.config import ConfigError
from trainer.loop import step_by_own_gradients
from trainer.networks import mobilenet_cifar
from trainer.networks.mobilenet_cifar import scaled
from trainer.pipeline import finish
from trainer.quantizers import distance_from_codes

NETWORK = {"kind": "mobilenet-v2", "width": 0.1}


def test_the_network_has_the_customary_blocks() -> None:
    graph = mobilenet_cifar(1.0, 10)
    shapes = graph.shapes((3, 32, 32))
    assert shapes["conv2"] == (1280, 4, 4)
    assert shapes["layer3.0.conv3"] == (32, 16, 16)
    convs = {conv.name: conv for conv in graph.convs}
    assert len(convs) == 1 + 2 + 16 * 3 + 1
    assert convs["layer2.1.conv2"].groups == convs["layer2.1.conv2"].channels == 144
    assert convs["layer2.1.conv3"].residual == "layer2.0.conv3"
    assert convs["layer2.0.conv3"].residual is None
    assert not convs["layer2.0.conv3"].relu
    assert [conv.name for conv in graph.convs if conv.bits] == ["conv1"]


@pytest.mark.parametrize(("channels", "width", "expected"), [(32, 1.0, 32), (32, 0.5, 16), (24, 0.35, 8), (16, 0.1, 8)])
def test_channels_are_multiples_of_8(channels: int, width: float, expected: int) -> None:
    assert scaled(channels, width) == expected


def test_it_trains_and_exports_equal_integers(pictures: Path, tmp_path: Path) -> None:
    train = {"epochs": 1, "widths": (8, 2), "dampening": 1e-4, "alrs_scope": "channel"}
    config = tiny_config(network=NETWORK, train=train, calibrate={"batches": 1})
    run = tiny_run(pictures, tmp_path, config)
    run.fit()
    loss = run.history.epochs[0]["loss"]
    assert all(np.isfinite(value) for value in loss.values())
    assert any(isinstance(node, Conv) and node.groups > 1 for node in run.model.nodes)
    master = read_master(finish(run, pictures, {}))
    assert set(master.accuracy) == set(master.widths)


def test_weights_of_other_networks_are_not_imported(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only weights of ResNets"):
        tiny_run(pictures, tmp_path, tiny_config(network=NETWORK), weights=tmp_path / "w.safetensors")


def test_the_float_network_of_another_run_is_a_start_however_its_weights_are_scaled(
    pictures: Path, tmp_path: Path
) -> None:
    floats = {"network": NETWORK, "fp32": {"epochs": 1}, "train": {"epochs": 0}}
    tiny_run(pictures, tmp_path / "a", tiny_config(**floats)).fit()
    begun = tiny_run(
        pictures, tmp_path / "b", tiny_config(network={**NETWORK, "per_channel": False}), weights=tmp_path / "a/fp32.pt"
    )
    trained = torch.load(tmp_path / "a/fp32.pt", weights_only=True)
    for name, value in begun.model.state_dict().items():
        if not name.endswith("weight_log_scale"):
            assert torch.equal(value, trained[name]), name


@pytest.mark.parametrize(("by_channel", "expected"), [(True, (0.9, 0.5, 0.0)), (False, (0.0, 0.0, 0.0))])
def test_a_scale_goes_as_far_as_its_own_gradient_lets_it(by_channel: bool, expected: tuple[float, ...]) -> None:
    log_scale = torch.nn.Parameter(torch.zeros(3))
    log_scale.grad = torch.tensor([0.1, -0.5, 7.0])
    optimizer = torch.optim.Adam([log_scale], lr=1.0)
    step_by_own_gradients(optimizer, [log_scale], by_channel=by_channel)
    np.testing.assert_allclose(log_scale.detach().abs(), expected, atol=1e-5)


def test_damping_pulls_weights_to_the_codes_they_round_to() -> None:
    weight = torch.tensor([[0.2, 0.9, -1.4, 5.0]]).requires_grad_()
    log_scale = torch.tensor([0.0]) - 6 * np.log(2.0)  # a step of 1 at 2 bits
    distance = distance_from_codes(weight, log_scale, 2)
    distance.backward()
    assert distance.item() == pytest.approx(0.2**2 + 0.1**2 + 0.4**2, abs=1e-6)
    np.testing.assert_allclose(weight.grad, [[0.4, -0.2, -0.8, 0.0]], atol=1e-6)
