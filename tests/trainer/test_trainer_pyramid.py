"""The pyramid network: shapes, what stays at 8 bits, training without ReLU, other image sizes, and an exact export."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bitgear import reference
from bitgear.bits import WIDTHS
from bitgear.engines import create_engine
from bitgear.errors import GraphError
from bitgear.graph import IMAGE, Conv, Graph, Resize
from bitgear.inputs import InputRecord
from trainer.export import ExportMismatch, build_master, compare
from trainer.model import EPS, Pass, QuantNet, resize
from trainer.networks import Pyramid
from trainer.networks.pyramid import Part
from trainer.quantizers import Kernels

EIGHT: frozenset[Part] = frozenset({"stem", "shortcut", "lateral", "predict"})
HEIGHT, WIDTH = 36, 52
RECORD = replace(InputRecord.centred(WIDTH, 128), height_px=HEIGHT)


def small(eight_bits: frozenset[Part] = EIGHT, head: int = 1) -> Pyramid:
    return Pyramid(8, (8, 16, 24), (1, 2, 1), 16, 4, head, eight_bits)


def network(pyramid: Pyramid) -> QuantNet:
    torch.manual_seed(0)
    graph = pyramid.graph(HEIGHT, WIDTH, 5)
    return QuantNet(graph, (3, HEIGHT, WIDTH), RECORD.scale, per_channel=True, kernels=Kernels(torch.float32))


def codes(count: int, height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-128, 128, (count, 3, height, width), generator=generator, dtype=torch.int8)


def trained(eight_bits: frozenset[Part] = EIGHT) -> QuantNet:
    """A network with statistics and scales at every width, as after calibration."""
    model = network(small(eight_bits))
    with torch.no_grad():
        for step in range(3):
            model(codes(2, seed=step), Pass(None, training=True, momentum=0.3))
    for bits in WIDTHS:
        model.add_width(bits, None)
    model.start_weight_scales((4, 2))
    for bits in WIDTHS:
        model.calibrate_width(bits, [codes(2, seed=9)], scales=True)
    return model.eval()


def test_shapes_follow_pictures_whose_sides_do_not_halve_evenly() -> None:
    graph = Pyramid(32, (32, 64, 128, 256), (2, 2, 2, 2), 64, 4, 0, EIGHT).graph(360, 480, 11)
    shapes = graph.shapes((3, 360, 480))
    assert shapes["layer4.1.conv2"] == (256, 12, 15)
    assert shapes["layer3.1.conv2"] == (128, 23, 30)
    assert shapes["up16"] == shapes["lateral16"] == (64, 23, 30)
    assert shapes["predict"] == (11, 90, 120)
    assert [node.name for node in graph.nodes if isinstance(node, Resize)] == ["up16", "up8", "up4"]


def test_a_detector_stops_at_its_stride_and_has_a_head() -> None:
    graph = Pyramid(32, (32, 64, 128, 192), (2, 2, 2, 2), 64, 8, 2, EIGHT).graph(320, 416, 7)
    assert graph.shapes((3, 320, 416))["predict"] == (7, 40, 52)
    names = [conv.name for conv in graph.convs]
    assert names[-3:] == ["head0", "head1", "predict"]
    assert "lateral4" not in names


@pytest.mark.parametrize("eight", [EIGHT, frozenset(), frozenset({"predict", "head"})])
def test_the_named_parts_stay_at_8_bits(eight: frozenset[Part]) -> None:
    kinds = {
        "conv1": "stem",
        "layer2.0.shortcut": "shortcut",
        "lateral8": "lateral",
        "head0": "head",
        "predict": "predict",
    }
    convs = {conv.name: conv for conv in small(eight).graph(HEIGHT, WIDTH, 5).convs}
    for name, part in kinds.items():
        assert convs[name].bits == (8 if part in eight else None)
    assert convs["layer2.0.conv1"].bits is convs["fuse4"].bits is None
    assert not convs["predict"].relu
    assert not convs["layer2.0.shortcut"].relu


@pytest.mark.parametrize("eight", [EIGHT, frozenset()])
@pytest.mark.parametrize("engine", ["native", "onnxruntime"])
def test_the_master_computes_what_the_network_computes(eight: frozenset[Part], engine: str) -> None:
    model = trained(eight)
    master = build_master(
        model, RECORD, "p", tuple("abcde"), task="segment", accuracy={}, provenance={}, sensitivities={}
    )
    for bits in WIDTHS:
        assert compare(master, model, codes(2).numpy(), bits, create_engine(engine)) > 10_000


def test_a_change_after_a_resize_is_found() -> None:
    model = trained()
    master = build_master(
        model, RECORD, "p", tuple("abcde"), task="segment", accuracy={}, provenance={}, sensitivities={}
    )
    with torch.no_grad():
        model.layer("lateral4").residual_log_scale["w4"].add_(0.1)
    with pytest.raises(ExportMismatch, match="at precision 4 in the residual of node 'lateral4'"):
        compare(master, model, codes(2).numpy(), 4, create_engine())


def test_resizing_picks_the_references_pixels() -> None:
    v = torch.randn(2, 3, 5, 7)
    rows, columns = reference.nearest(5, 9), reference.nearest(7, 13)
    np.testing.assert_array_equal(resize(v, Resize("r", "v", 9, 13)).numpy(), v.numpy()[:, :, rows][:, :, :, columns])


@pytest.mark.parametrize("bits", [8, 2])
def test_every_parameter_of_a_width_gets_a_gradient(bits: int) -> None:
    model = trained()
    model(codes(2), Pass(bits, training=True)).square().mean().backward()
    for name, parameter in model.named_parameters():
        if f"w{bits}" in name or name.endswith("weight"):
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


def test_a_convolution_without_relu_is_batch_norm_of_the_codes() -> None:
    graph = Graph((Conv("a", IMAGE, 4, 3), Conv("b", "a", 4, 3, padding=1, relu=False, residual="a")))
    torch.manual_seed(0)
    model = QuantNet(graph, (3, 8, 8), 1 / 128, per_channel=True, kernels=Kernels(torch.float32))
    model.add_width(4, None)
    model.start_weight_scales((4,))
    model.calibrate_width(4, [codes(4, 8, 8)], scales=True)
    seen: dict[tuple[str, str], torch.Tensor] = {}
    how = Pass(4, training=True, momentum=1.0, observe=lambda name, what, v: seen.update({(name, what): v.detach()}))
    out = model(codes(4, 8, 8), how)
    layer = model.layer("b")
    scale = (layer.act_log_scale["w4"].exp() * layer.weight_log_scale.exp() * 16).detach()
    y = seen["b", "accumulator"] * scale.view(1, -1, 1, 1)
    expected = F.batch_norm(y, None, None, training=True, eps=EPS)
    expected = expected + seen["b", "residual"] * layer.residual_log_scale["w4"].exp()
    torch.testing.assert_close(out, expected.detach(), rtol=1e-4, atol=1e-4)
    assert out.min() < 0
    torch.testing.assert_close(layer.bn["w4"].mean, y.mean((0, 2, 3)), rtol=1e-4, atol=1e-4)


def test_images_of_another_size_run_once_their_graph_is_known() -> None:
    pyramid = small()
    model = network(pyramid)
    model.add_size(pyramid.graph(24, 32, 5), 24, 32)
    assert model(codes(2, 24, 32), Pass(None, training=True)).shape == (2, 5, 6, 8)
    assert model(codes(2), Pass(None, training=True)).shape == (2, 5, 9, 13)


def test_the_graph_of_another_network_is_no_other_size() -> None:
    with pytest.raises(GraphError, match="another network"):
        network(small()).add_size(small(head=0).graph(24, 32, 5), 24, 32)
