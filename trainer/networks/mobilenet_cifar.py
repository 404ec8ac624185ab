"""MobileNetV2 (Sandler et al. 2018) for 32x32 images: two strides fewer than for 224x224."""

from bitgear.graph import IMAGE, Conv, Graph, Linear, Node, Pool

RELU6 = 6.0
STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, blocks and stride of the first block."""

STEM, HEAD = 32, 1280


def mobilenet_cifar(width: float, classes: int) -> Graph:
    """Return the graph of a MobileNetV2 with ``width`` times the customary channels.

    Stem and classifier stay at 8 bits. The last convolution has no fewer than the customary channels, as in the paper.
    """
    value, channels = "conv1", scaled(STEM, width)
    nodes: list[Node] = [Conv("conv1", IMAGE, channels, 3, padding=1, clip=RELU6, bits=8)]
    for stage, (expansion, customary, blocks, first_stride) in enumerate(STAGES, start=1):
        for block in range(blocks):
            name, source, inputs = f"layer{stage}.{block}", value, channels
            stride, channels = (first_stride if block == 0 else 1), scaled(customary, width)
            hidden = expansion * inputs
            if expansion != 1:
                nodes.append(Conv(f"{name}.conv1", value, hidden, 1, clip=RELU6))
                value = f"{name}.conv1"
            nodes.append(Conv(f"{name}.conv2", value, hidden, 3, stride, 1, groups=hidden, clip=RELU6))
            residual = source if stride == 1 and inputs == channels else None
            nodes.append(Conv(f"{name}.conv3", f"{name}.conv2", channels, 1, relu=False, residual=residual))
            value = f"{name}.conv3"
    nodes.append(Conv("conv2", value, max(HEAD, scaled(HEAD, width)), 1, clip=RELU6))
    return Graph((*nodes, Pool("pool", "conv2"), Linear("linear", "pool", classes)))


def scaled(channels: int, width: float) -> int:
    """Return ``width`` times the channels as a multiple of 8, no less than 8 and nine tenths of it."""
    rounded = max(8, int(channels * width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels * width else rounded
