"""ResNets for 32x32 images (He et al. 2015, section 4.2) with parameter-free shortcuts ("option A")."""

from collections.abc import Mapping

from torch import Tensor

from bitgear.graph import IMAGE, Conv, Graph, Linear, Node, Pool, Shortcut

WIDTHS = (16, 32, 64)


def resnet_cifar(depth: int, classes: int) -> Graph:
    """Return the graph of a ResNet of ``depth`` = 6n + 2 layers (20, 32, 44, 56, 110); stem and head stay at 8 bits."""
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth {depth} is not 6n + 2")
    nodes: list[Node] = [Conv("conv1", IMAGE, WIDTHS[0], 3, padding=1, bits=8)]
    value = "conv1"
    for stage, channels in enumerate(WIDTHS, start=1):
        for block in range((depth - 2) // 6):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            residual = value
            nodes.append(Conv(f"{name}.conv1", value, channels, 3, stride=stride, padding=1))
            if stride > 1:
                residual = f"{name}.shortcut"
                nodes.append(Shortcut(residual, value, channels, stride))
            nodes.append(Conv(f"{name}.conv2", f"{name}.conv1", channels, 3, padding=1, residual=residual))
            value = f"{name}.conv2"
    nodes += [Pool("pool", value), Linear("linear", "pool", classes)]
    return Graph(tuple(nodes))


def batch_norm_name(conv: str) -> str:
    """Return the customary name of a convolution's batch norm: ``layer1.0.conv2`` -> ``layer1.0.bn2``."""
    return conv.replace("conv", "bn")


def strip_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict without the ``module.`` that data-parallel training leaves."""
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}
