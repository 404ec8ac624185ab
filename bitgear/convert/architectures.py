"""Networks that can be imported: graph, customary names of weights, and how their pictures are normalised.

A node that holds weights has the name of its weight without ``.weight``, so the graph of a network is also the list of
the weights it needs. Channel counts come from the tensors: a network of any width or class count is recognised.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial

from bitgear.errors import BitgearError, GraphError, TensorMissing, TensorShape, TensorUnexpected
from bitgear.graph import IMAGE, Conv, Graph, Linear, MaxPool, Node, Pool, Shape, Shortcut
from bitgear.inputs import InputRecord

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RELU6 = 6.0
BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
IGNORED_SUFFIX = ".num_batches_tracked"
_SHOWN = 5


class ArchitectureUnknown(BitgearError):
    """The name of no architecture, or weights that belong to none."""

    code = "architecture-unknown"


@dataclass(frozen=True)
class Architecture:
    """A network as it is customarily trained.

    ``batch_norms``: convolution -> prefix of its batch norm's tensors, ``epsilon`` what is added to their variances.
    ``input``: the customary normalisation of pictures; its ``scale`` makes the largest value code 127.
    """

    name: str
    graph: Graph
    batch_norms: Mapping[str, str]
    epsilon: float
    input: InputRecord

    def shapes(self) -> dict[str, Shape]:
        """Return the name and shape of every tensor that the network needs."""
        values = self.graph.shapes((3, self.input.height_px, self.input.width_px))
        expected: dict[str, Shape] = {}
        for node in self.graph.nodes:
            if isinstance(node, Conv):
                inputs = values[node.input][0] // node.groups
                expected[f"{node.name}.weight"] = (node.channels, inputs, node.kernel, node.kernel)
                expected |= {f"{self.batch_norms[node.name]}.{part}": (node.channels,) for part in BATCH_NORM}
            elif isinstance(node, Linear):
                expected[f"{node.name}.weight"] = (node.channels, values[node.input][0])
                expected[f"{node.name}.bias"] = (node.channels,)
        return expected


Channels = Callable[[str, int], int]
"""From the name of a weight and the customary count to the output channels."""


@dataclass(frozen=True)
class _Family:
    build: Callable[[Channels], tuple[list[Node], dict[str, str]]]
    side_px: int
    epsilon: float
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


def architecture_for(name: str | None, shapes: Mapping[str, Shape], side_px: int | None = None) -> Architecture:
    """Return the architecture of weights with these names and shapes; ``name`` None recognises it.

    ``side_px``: side of the square input, if not the customary one. Raises :class:`ArchitectureUnknown`, or
    :class:`TensorMissing`, :class:`TensorUnexpected` or :class:`TensorShape` naming the first few weights that do not
    fit the architecture, or :class:`GraphError` for a side that weights which do fit cannot have.
    """
    name = name or recognise(shapes)

    def channels(key: str, default: int) -> int:
        return shapes[key][0] if shapes.get(key) else default

    try:
        architecture = _architecture(name, channels, side_px)
        expected = architecture.shapes()
    except GraphError as error:
        if side_px is not None:
            customary = architecture_for(name, shapes)  # if the weights are to blame, it is they that are named
            raise GraphError(
                f"a {name} cannot have an input of {side_px} x {side_px} pixels: {error}; "
                f"{customary.input.height_px} are customary"
            ) from error
        _check_names(name, shapes, customary_architecture(name).shapes())  # channels that are missing contradict others
        raise TensorShape(f"the weights' shapes do not make a {name}: {error}") from error
    _check_names(name, shapes, expected)
    wrong = [f"{key} {shapes[key]} instead of {expected[key]}" for key in expected if shapes[key] != expected[key]]
    if wrong:
        raise TensorShape(f"{len(wrong)} weights have another shape than in a {name}: {_few(wrong)}")
    return architecture


def customary_architecture(name: str, side_px: int | None = None, multiplier: float = 1.0) -> Architecture:
    """Return an architecture with its customary channel counts times ``multiplier``, in steps of 8 channels."""

    def channels(key: str, default: int) -> int:
        is_head = key in ("fc.weight", "linear.weight", "classifier.1.weight")
        return default if is_head else max(8, round(default * multiplier / 8) * 8)

    return _architecture(name, channels, side_px)


def recognise(names: Collection[str]) -> str:
    """Return the architecture that weights of these names belong to; raise :class:`ArchitectureUnknown`."""
    if "dw1.weight" in names and "pw1.weight" in names:
        return "mobilenet_v1"
    if "features.0.0.weight" in names and "features.1.conv.0.0.weight" in names:
        return "mobilenet_v2"
    blocks = [len({m[1] for n in names if (m := re.match(rf"layer{stage}\.(\d+)\.", n))}) for stage in range(1, 5)]
    bottleneck = "layer1.0.conv3.weight" in names
    for name, (counts, is_bottleneck) in _RESNETS.items():
        if (tuple(blocks), bottleneck) == (counts, is_bottleneck):
            return name
    for name, count in _CIFAR_RESNETS.items():
        if blocks == [count, count, count, 0] and "linear.weight" in names:
            return name
    raise ArchitectureUnknown(
        f"the {len(names)} weights ({_few(sorted(names))}) belong to none of {', '.join(ARCHITECTURES)}; "
        "name the architecture to see which weights it lacks"
    )


def _architecture(name: str, channels: Channels, side_px: int | None) -> Architecture:
    if name not in _FAMILIES:
        raise ArchitectureUnknown(f"architecture {name!r} is unknown; known are {', '.join(ARCHITECTURES)}")
    family = _FAMILIES[name]
    nodes, batch_norms = family.build(channels)
    side_px = side_px or family.side_px
    largest = max(max(m, 1 - m) / s for m, s in zip(family.mean, family.std, strict=True))
    record = InputRecord(side_px, side_px, family.mean, family.std, largest / 127)
    return Architecture(name, Graph(tuple(nodes)), batch_norms, family.epsilon, record)


def _check_names(name: str, shapes: Mapping[str, Shape], expected: Mapping[str, Shape]) -> None:
    missing = [key for key in expected if key not in shapes]
    if missing:
        raise TensorMissing(f"{len(missing)} weights of a {name} are missing: {_few(missing)}")
    unexpected = [key for key in shapes if key not in expected and not key.endswith(IGNORED_SUFFIX)]
    if unexpected:
        raise TensorUnexpected(f"{len(unexpected)} weights do not belong to a {name}: {_few(unexpected)}")


def _few(items: Collection[str]) -> str:
    shown = ", ".join(list(items)[:_SHOWN])
    return shown + (", ..." if len(items) > _SHOWN else "")


def _next(name: str) -> str:
    """Return a name with the last number increased: the batch norm behind a convolution in a sequence."""
    head, number = name.rsplit(".", 1)
    return f"{head}.{int(number) + 1}"


def _resnet(counts: tuple[int, ...], bottleneck: bool, channels: Channels) -> tuple[list[Node], dict[str, str]]:
    """ResNet for ImageNet (He et al. 2015); a bottleneck strides in its 3x3 convolution, as is customary now."""
    nodes: list[Node] = [
        Conv("conv1", IMAGE, channels("conv1.weight", 64), 7, stride=2, padding=3, bits=8),
        MaxPool("maxpool", "conv1", 3, stride=2, padding=1),
    ]
    batch_norms = {"conv1": "bn1"}
    value, width = "maxpool", channels("conv1.weight", 64)
    for stage, count in enumerate(counts, start=1):
        for block in range(count):
            prefix = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            inner = 64 << (stage - 1)
            # kernel, stride, customary channels of each convolution
            if bottleneck:
                parts = [(1, 1, inner), (3, stride, inner), (1, 1, 4 * inner)]
            else:
                parts = [(3, stride, inner), (3, 1, inner)]
            made = channels(f"{prefix}.conv{len(parts)}.weight", parts[-1][2])
            residual = value
            if block == 0 and (stride > 1 or made != width):
                residual = f"{prefix}.downsample.0"
                nodes.append(Conv(residual, value, made, 1, stride=stride, relu=False))
                batch_norms[residual] = _next(residual)
            for i, (kernel, conv_stride, customary) in enumerate(parts, start=1):
                name = f"{prefix}.conv{i}"
                last = i == len(parts)
                nodes.append(
                    Conv(
                        name, value, channels(f"{name}.weight", customary), kernel, stride=conv_stride,
                        padding=kernel // 2, residual=residual if last else None,
                    )
                )  # fmt: skip
                batch_norms[name] = f"{prefix}.bn{i}"
                value = name
            width = made
    nodes += [Pool("avgpool", value), Linear("fc", "avgpool", channels("fc.weight", 1000))]
    return nodes, batch_norms


def _resnet_cifar(count: int, channels: Channels) -> tuple[list[Node], dict[str, str]]:
    """ResNet for 32x32 images (He et al. 2015, section 4.2) with parameter-free shortcuts ("option A")."""
    nodes: list[Node] = [Conv("conv1", IMAGE, channels("conv1.weight", 16), 3, padding=1, bits=8)]
    value = "conv1"
    for stage in range(1, 4):
        for block in range(count):
            prefix = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            first, last = f"{prefix}.conv1", f"{prefix}.conv2"
            made = [channels(f"{name}.weight", 16 << (stage - 1)) for name in (first, last)]
            residual = value
            nodes.append(Conv(first, value, made[0], 3, stride=stride, padding=1))
            if stride > 1:
                residual = f"{prefix}.shortcut"
                nodes.append(Shortcut(residual, value, made[1], stride))
            nodes.append(Conv(last, first, made[1], 3, padding=1, residual=residual))
            value = last
    nodes += [Pool("avgpool", value), Linear("linear", "avgpool", channels("linear.weight", 10))]
    return nodes, {node.name: node.name.replace("conv", "bn") for node in nodes if isinstance(node, Conv)}


_V1_BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
"""Channels and stride of MobileNetV1's thirteen blocks."""


def _mobilenet_v1(channels: Channels) -> tuple[list[Node], dict[str, str]]:
    """MobileNetV1 (Howard et al. 2017) as TensorFlow pads it: at stride 2 to the right and below alone."""

    def conv(name: str, value: str, made: int, stride: int, groups: int = 1) -> Conv:
        begin, end = (0, 1) if stride == 2 else (1, None)
        return Conv(
            name, value, made, 3, stride=stride, padding=begin, padding_end=end, groups=groups, clip=RELU6, bits=8
        )  # fmt: skip

    width = channels("conv1.weight", 32)
    nodes: list[Node] = [conv("conv1", IMAGE, width, 2)]
    value = "conv1"
    for i, (customary, stride) in enumerate(_V1_BLOCKS, start=1):
        nodes.append(conv(f"dw{i}", value, width, stride, groups=width))
        width = channels(f"pw{i}.weight", customary)
        nodes.append(Conv(f"pw{i}", f"dw{i}", width, 1, clip=RELU6))
        value = f"pw{i}"
    nodes += [Pool("pool", value), Linear("fc", "pool", channels("fc.weight", 1000))]
    return nodes, {node.name: f"{node.name}_bn" for node in nodes if isinstance(node, Conv)}


_V2_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, blocks and stride of MobileNetV2's seven stages."""


def _mobilenet_v2(channels: Channels) -> tuple[list[Node], dict[str, str]]:
    """MobileNetV2 (Sandler et al. 2018): expansion, depthwise convolution, linear projection."""
    width = channels("features.0.0.weight", 32)
    nodes: list[Node] = [Conv("features.0.0", IMAGE, width, 3, stride=2, padding=1, clip=RELU6, bits=8)]
    value, index = "features.0.0", 0
    for expansion, customary, count, first_stride in _V2_STAGES:
        for block in range(count):
            index += 1
            stride = first_stride if block == 0 else 1
            source, inner, position = value, width, 0
            if expansion > 1:
                name = f"features.{index}.conv.0.0"
                inner = channels(f"{name}.weight", expansion * width)
                nodes.append(Conv(name, value, inner, 1, clip=RELU6))
                value, position = name, 1
            name = f"features.{index}.conv.{position}.0"
            nodes.append(Conv(name, value, inner, 3, stride=stride, padding=1, groups=inner, clip=RELU6, bits=8))
            project = f"features.{index}.conv.{position + 1}"
            made = channels(f"{project}.weight", customary)
            residual = source if stride == 1 and made == width else None
            nodes.append(Conv(project, name, made, 1, relu=False, residual=residual))
            value, width = project, made
    last = f"features.{index + 1}.0"
    nodes.append(Conv(last, value, channels(f"{last}.weight", 1280), 1, clip=RELU6))
    nodes += [Pool("pool", last), Linear("classifier.1", "pool", channels("classifier.1.weight", 1000))]
    return nodes, {node.name: _next(node.name) for node in nodes if isinstance(node, Conv)}


_RESNETS = {"resnet18": ((2, 2, 2, 2), False), "resnet34": ((3, 4, 6, 3), False), "resnet50": ((3, 4, 6, 3), True)}
_CIFAR_RESNETS = {"resnet20": 3, "resnet56": 9}


_HALF = (0.5, 0.5, 0.5)
_FAMILIES: dict[str, _Family] = {
    **{name: _Family(partial(_resnet, *form), 224, 1e-5) for name, form in _RESNETS.items()},
    **{name: _Family(partial(_resnet_cifar, count), 32, 1e-5) for name, count in _CIFAR_RESNETS.items()},
    "mobilenet_v1": _Family(_mobilenet_v1, 224, 1e-3, _HALF, _HALF),
    "mobilenet_v2": _Family(_mobilenet_v2, 224, 1e-5),
}
ARCHITECTURES = tuple(_FAMILIES)
"""The names that ``--architecture`` takes."""
