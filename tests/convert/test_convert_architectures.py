"""Architectures: customary names and shapes, recognised and checked."""

import numpy as np
import pytest

from bitgear.convert.architectures import (
    ARCHITECTURES,
    ArchitectureUnknown,
    architecture_for,
    customary_architecture,
    recognise,
)
from bitgear.errors import GraphError, TensorMissing, TensorShape, TensorUnexpected
from bitgear.graph import Linear, Shape, Shortcut

NAMES = {
    "resnet18": ["conv1.weight", "bn1.running_mean", "layer2.0.downsample.0.weight", "layer2.0.downsample.1.bias"],
    "resnet34": ["layer3.5.conv2.weight", "layer3.5.bn2.weight", "fc.bias"],
    "resnet50": ["layer1.0.downsample.0.weight", "layer1.0.downsample.1.running_var", "layer4.2.bn3.bias"],
    "resnet20": ["layer1.0.conv1.weight", "layer3.2.bn2.running_var", "linear.weight"],
    "resnet56": ["layer2.8.conv2.weight", "linear.bias"],
    "mobilenet_v1": ["conv1_bn.weight", "dw1.weight", "dw13_bn.running_mean", "pw13.weight", "fc.weight"],
    "mobilenet_v2": [
        "features.0.0.weight", "features.0.1.running_mean", "features.1.conv.0.0.weight", "features.1.conv.0.1.bias",
        "features.1.conv.1.weight", "features.1.conv.2.running_var", "features.2.conv.0.0.weight",
        "features.2.conv.1.0.weight", "features.2.conv.1.1.weight", "features.17.conv.2.weight",
        "features.17.conv.3.bias", "features.18.0.weight", "features.18.1.weight", "classifier.1.bias",
    ],
}  # fmt: skip

PARAMETERS = {  # as their authors and torchvision state them, statistics of batch norm left out
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet20": 269_722,
    "mobilenet_v1": 4_231_976,
    "mobilenet_v2": 3_504_872,
}


def shapes_of(name: str, multiplier: float = 1.0) -> dict[str, Shape]:
    return customary_architecture(name, multiplier=multiplier).shapes()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_weights_have_their_customary_names(name: str) -> None:
    assert set(NAMES[name]) <= shapes_of(name).keys()


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_there_are_as_many_parameters_as_published(name: str, count: int) -> None:
    learned = {key: shape for key, shape in shapes_of(name).items() if ".running_" not in key}
    assert sum(int(np.prod(shape)) for shape in learned.values()) == count


@pytest.mark.parametrize("multiplier", [0.25, 1.0])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_weights_of_any_width_are_recognised(name: str, multiplier: float) -> None:
    shapes = shapes_of(name, multiplier) | {"bn1.num_batches_tracked": ()}
    found = architecture_for(None, shapes)
    assert found == customary_architecture(name, multiplier=multiplier)
    assert recognise(list(shapes)) == name


def test_the_number_of_classes_is_the_heads() -> None:
    shapes = shapes_of("mobilenet_v1") | {"fc.weight": (7, 1024), "fc.bias": (7,)}
    head = architecture_for("mobilenet_v1", shapes).graph.nodes[-1]
    assert isinstance(head, Linear)
    assert head.channels == 7


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_stem_and_depthwise_convolutions_stay_at_8_bits(name: str) -> None:
    convs = customary_architecture(name).graph.convs
    assert [conv.name for conv in convs if conv.bits == 8] == [
        conv.name for conv in convs if conv is convs[0] or conv.groups > 1
    ]
    assert all(conv.groups in (1, conv.channels) for conv in convs)


def test_residual_networks_add_what_they_should() -> None:
    by_name = {conv.name: conv for conv in customary_architecture("resnet50").graph.convs}
    assert by_name["layer1.0.conv3"].residual == "layer1.0.downsample.0"
    assert by_name["layer1.1.conv3"].residual == "layer1.0.conv3"
    assert not by_name["layer2.0.downsample.0"].relu
    assert by_name["layer2.0.downsample.0"].stride == by_name["layer2.0.conv2"].stride == 2
    assert by_name["layer2.0.conv1"].stride == 1
    cifar = customary_architecture("resnet20").graph
    assert [node.name for node in cifar.nodes if isinstance(node, Shortcut)] == [
        "layer2.0.shortcut",
        "layer3.0.shortcut",
    ]
    mobile = {conv.name: conv for conv in customary_architecture("mobilenet_v2").graph.convs}
    assert mobile["features.3.conv.2"].residual == "features.2.conv.2"
    assert mobile["features.2.conv.2"].residual is None
    assert not mobile["features.3.conv.2"].relu


def test_tensorflows_padding_is_at_the_end() -> None:
    convs = customary_architecture("mobilenet_v1").graph.convs
    strided = [conv for conv in convs if conv.stride == 2]
    assert [conv.name for conv in strided] == ["conv1", "dw2", "dw4", "dw6", "dw12"]
    assert all((conv.padding, conv.padding_end, conv.clip) == (0, 1, 6.0) for conv in strided)


def test_the_last_feature_map_has_7_by_7_pixels() -> None:
    for name in ("resnet18", "resnet34", "resnet50", "mobilenet_v1", "mobilenet_v2"):
        graph = customary_architecture(name).graph
        shapes = graph.shapes((3, 224, 224))
        assert shapes[graph.convs[-1].name][1:] == (7, 7), name


def without(shapes: dict[str, Shape], *names: str) -> dict[str, Shape]:
    return {key: shape for key, shape in shapes.items() if key not in names}


def test_weights_that_are_missing_are_named() -> None:
    shapes = without(shapes_of("mobilenet_v1"), "pw3.weight", "dw5_bn.running_var")
    with pytest.raises(TensorMissing, match=r"2 weights of a mobilenet_v1 .*pw3\.weight, dw5_bn\.running_var"):
        architecture_for("mobilenet_v1", shapes)


def test_only_the_first_few_are_named() -> None:
    with pytest.raises(TensorMissing, match=r"102 weights .*: conv1\.weight, bn1\.weight, .*\.\.\.$"):
        architecture_for("resnet18", {})


def test_weights_that_do_not_belong_are_named() -> None:
    shapes = shapes_of("resnet20") | {"layer2.0.shortcut.0.weight": (32, 16, 1, 1)}
    with pytest.raises(TensorUnexpected, match=r"1 weights .* resnet20: layer2\.0\.shortcut\.0\.weight"):
        architecture_for(None, shapes)


@pytest.mark.parametrize(
    ("key", "shape", "complaint"),
    [
        ("conv1.weight", (64, 3, 3, 3), r"conv1\.weight \(64, 3, 3, 3\) instead of \(64, 3, 7, 7\)"),
        ("layer1.0.conv2.weight", (65, 64, 3, 3), "do not make a resnet18"),
        ("layer1.0.conv1.weight", (65, 64, 3, 3), "instead of"),
        ("bn1.bias", (), r"bn1\.bias \(\) instead of \(64,\)"),
        ("fc.weight", (1000,), r"fc\.weight \(1000,\)"),
        ("conv1.weight", (), "instead of"),
    ],
)
def test_wrong_shapes_are_named(key: str, shape: Shape, complaint: str) -> None:
    with pytest.raises(TensorShape, match=complaint):
        architecture_for("resnet18", shapes_of("resnet18") | {key: shape})


def test_a_side_that_a_network_cannot_have_is_not_the_weights_fault() -> None:
    shapes = shapes_of("mobilenet_v1", 0.25)
    with pytest.raises(
        GraphError, match=r"mobilenet_v1 cannot have an input of 1 x 1 pixels: .*'conv1'.*224 are custom"
    ):
        architecture_for(None, shapes, 1)
    with pytest.raises(TensorMissing, match=r"pw3\.weight"):
        architecture_for(None, without(shapes, "pw3.weight"), 1)
    with pytest.raises(TensorShape, match=r"pw3\.weight"):
        architecture_for(None, shapes | {"pw3.weight": (32, 8, 1, 1)}, 1)


def test_names_of_no_architecture() -> None:
    with pytest.raises(ArchitectureUnknown, match="'vgg' is unknown; known are resnet18, "):
        architecture_for("vgg", {})
    with pytest.raises(ArchitectureUnknown, match=r"the 1 weights \(a\) belong to none of"):
        architecture_for(None, {"a": (1,)})
    deeper = {f"layer{stage}.{block}.conv1.weight": (8, 8, 3, 3) for stage in (1, 2, 3) for block in range(4)}
    with pytest.raises(ArchitectureUnknown):
        recognise([*deeper, "linear.weight"])
