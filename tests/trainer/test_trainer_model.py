"""The network as a module: folded batch norm, widths made from others, and agreement with the reference."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bitgear.errors import GraphError
from bitgear.graph import IMAGE, AvgPool, Concat, Conv, Graph, MaxPool, Node, Resize
from tests.trainer.tiny_runs import tiny_run
from trainer import model
from trainer.loop import Run
from trainer.model import EPS, BatchNorm, Pass, QuantNet, key, require, slug
from trainer.networks import resnet_cifar
from trainer.quantizers import Kernels


def test_the_fast_float_network_convolves_in_bfloat16_and_does_all_else_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    net = QuantNet(
        resnet_cifar(8, 3), (3, 8, 8), 1 / 128, per_channel=True, kernels=Kernels(torch.bfloat16)
    )  # fmt: skip
    convolved: list[torch.dtype] = []
    normalised: list[torch.dtype] = []
    conv2d, normalise = torch.nn.functional.conv2d, model.normalise

    def seen_conv(x: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
        convolved.append(x.dtype)
        return conv2d(x, *rest, **more)

    def seen_norm(y: torch.Tensor, *rest: Any) -> torch.Tensor:
        normalised.append(y.dtype)
        return normalise(y, *rest)

    monkeypatch.setattr(torch.nn.functional, "conv2d", seen_conv)
    monkeypatch.setattr(model, "normalise", seen_norm)
    codes = torch.randint(-128, 128, (4, 3, 8, 8)).to(torch.int8)
    fast, plain = (net(codes, Pass(None, training=True, fast=each)) for each in (True, False))
    assert convolved == [torch.bfloat16] * 7 + [torch.float32] * 7
    assert set(normalised) == {torch.float32}
    assert fast.dtype == torch.float32
    assert not torch.equal(fast, fast.bfloat16().float())
    torch.testing.assert_close(fast, plain, rtol=0.1, atol=0.1)
    fast.square().sum().backward()
    assert net.layer("conv1").weight.grad.dtype == torch.float32


def test_folding_rounds_the_gain_first_and_then_takes_the_bias_from_it() -> None:
    bn = BatchNorm(64)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (bn.gamma, bn.beta, bn.mean, bn.var):
            tensor.copy_(torch.rand(64, generator=generator) * 20 + 0.1)
    gain, bias = (part.detach().numpy() for part in bn.folded())
    assert gain.dtype == bias.dtype == np.float16
    gamma, beta, mean, var = (t.detach().numpy().astype(np.float64) for t in (bn.gamma, bn.beta, bn.mean, bn.var))
    exact = gamma / np.sqrt(var + EPS)
    np.testing.assert_array_equal(gain, exact.astype(np.float16))
    np.testing.assert_array_equal(bias, (beta - mean * gain.astype(np.float64)).astype(np.float16))
    assert (bias != (beta - mean * exact).astype(np.float16)).any()


@pytest.mark.parametrize(("depth", "layers"), [(8, 8), (20, 20), (56, 56)])
def test_a_resnet_has_as_many_layers_as_its_depth(depth: int, layers: int) -> None:
    graph = resnet_cifar(depth, 10)
    assert len(graph.convs) + 1 == layers
    assert graph.shapes((3, 32, 32))["linear"] == (10,)
    assert graph.convs[0].bits == 8
    assert all(conv.bits is None for conv in graph.convs[1:])


@pytest.mark.parametrize("depth", [2, 7, 9, 21])
def test_other_depths_are_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=r"6n \+ 2"):
        resnet_cifar(depth, 10)


def test_a_width_made_from_another_keeps_its_clipping_ranges(pictures: Path, finished: Run) -> None:
    run = tiny_run(pictures, finished.out)
    run.fit()
    run.model.add_width(3, 4)
    for node, layer in run.model.quantised():
        if key(4) in layer.act_log_scale:
            tied = not isinstance(node, Conv) or node.bits is not None
            levels = 1 if tied else 15 / 7
            ratio = (layer.act_log_scale[key(3)] - layer.act_log_scale[key(4)]).exp().item()
            assert ratio == pytest.approx(levels, rel=1e-5), node.name
        if key(4) in layer.residual_log_scale:
            assert torch.equal(layer.residual_log_scale[key(3)], layer.residual_log_scale[key(4)])
        if len(layer.bn):
            assert torch.equal(layer.bn[key(3)].mean, layer.bn[key(4)].mean)


def test_a_width_between_two_has_clipping_ranges_between_theirs(pictures: Path, finished: Run) -> None:
    run = tiny_run(pictures, finished.out)
    run.fit()
    run.model.add_width(3, 4, 2)
    for node, layer in run.model.quantised():
        for part, scales in layer.read_scales.items():
            if key(4) not in scales:
                continue
            tied = part == "residual_scale" or not isinstance(node, Conv) or node.bits is not None
            steps = {bits: 0.0 if tied else math.log(2**bits - 1) for bits in (4, 3, 2)}
            ranges = {bits: scales[key(bits)].item() + steps[bits] for bits in steps}
            assert ranges[3] == pytest.approx((2 * ranges[4] + ranges[2]) / 3, abs=1e-5), node.name


def test_running_statistics_are_those_of_the_calibration_batches(pictures: Path, finished: Run) -> None:
    run = tiny_run(pictures, finished.out)
    run.fit()
    batches = run.calibration_batches()
    assert [len(batch) for batch in batches] == [16, 16]
    assert all(torch.equal(a, b) for a, b in zip(batches, run.calibration_batches(), strict=True))
    parts = []
    for batch in batches:
        run.model.calibrate_width(8, [batch], scales=False)
        parts.append(run.model.layer("conv1").bn[key(8)].mean.clone())
    run.model.calibrate_width(8, batches, scales=False)
    torch.testing.assert_close(run.model.layer("conv1").bn[key(8)].mean, (parts[0] + parts[1]) / 2)


def test_widths_do_not_touch_each_other(pictures: Path, finished: Run) -> None:
    run = tiny_run(pictures, finished.out)
    run.fit()
    codes = run.task.data.test.codes[:3]
    with torch.no_grad():
        before = run.model(codes, Pass(8, training=False, exact=True))
        run.model(codes, Pass(2, training=True, momentum=0.5))
        assert torch.equal(run.model(codes, Pass(8, training=False, exact=True)), before)


@pytest.mark.parametrize(
    "node",
    [
        MaxPool("m", "c", 2), AvgPool("m", "c", 2), Resize("m", "c", 4, 4, "bilinear"), Concat("m", ("c", "c")),
        Conv("m", "c", 4, 1, dilation=2), Conv("m", "c", 4, 1, padding_end=0),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused(node: Node) -> None:
    graph = Graph((Conv("c", IMAGE, 4, 3), node))
    with pytest.raises(GraphError, match=r"'m' .* cannot be trained yet"):
        QuantNet(graph, (3, 8, 8), 1 / 128, per_channel=True, kernels=Kernels())


def test_names_and_missing_parts() -> None:
    assert slug("layer1.0.conv1") == "layer1_0_conv1"
    assert key(None) == "fp32"
    assert key(4) == "w4"
    assert require(0) == 0
    with pytest.raises(ValueError, match="lacks"):
        require(None)
