"""A residual encoder with a feature pyramid, for an output in every cell of a grid: segmentation and detection.

Basic blocks (He et al. 2015) with projection shortcuts halve the picture stage by stage; the pyramid (Lin et al. 2017)
comes back up: at each level a 1x1 convolution of the encoder's value plus the coarser level enlarged to the nearest
pixel, then a 3x3 convolution. A 1x1 convolution without ReLU predicts.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import Literal

from bitgear.graph import IMAGE, Conv, Graph, Linear, Node, Pool, Resize

Part = Literal["stem", "shortcut", "lateral", "head", "predict"]
"""Parts of the network that may stay at 8 bits whatever the width; blocks and the pyramid's 3x3 always follow it."""

Level = tuple[int, str]
"""A stride and the node whose value it is that of."""

STEM_STRIDE = 2
PREDICT = "predict"
CLASSIFIER = "linear"
"""The layer behind an encoder that is pretrained."""


@dataclass(frozen=True)
class Pyramid:
    """Sizes of the network.

    ``channels`` and ``blocks`` of each stage; the first stage works at stride 4 and each further one at twice that.
    ``pyramid`` channels at every level down to ``stride``, then ``head`` further 3x3 convolutions.
    """

    stem: int
    channels: Sequence[int]
    blocks: Sequence[int]
    pyramid: int
    stride: int
    head: int
    eight_bits: frozenset[Part]

    def graph(self, height_px: int, width_px: int, outputs: int) -> Graph:
        """Return the graph for images of a size, with ``outputs`` channels at ``stride``; node names never change."""
        nodes, levels = self._encoder()
        conv = partial(_conv, eight_bits=self.eight_bits)
        shapes = Graph(tuple(nodes)).shapes((3, height_px, width_px))
        above: str | None = None
        for stride, source in reversed([level for level in levels if level[0] >= self.stride]):
            if above is not None:
                _, height, width = shapes[source]
                nodes.append(Resize(f"up{stride}", above, height, width))
                above = f"up{stride}"
            nodes.append(conv(f"lateral{stride}", source, self.pyramid, 1, "lateral", residual=above))
            nodes.append(Conv(f"fuse{stride}", f"lateral{stride}", self.pyramid, 3, padding=1))
            above = value = f"fuse{stride}"
        for i in range(self.head):
            nodes.append(conv(f"head{i}", value, self.pyramid, 3, "head"))
            value = f"head{i}"
        nodes.append(conv(PREDICT, value, outputs, 1, "predict", relu=False))
        return Graph(tuple(nodes))

    @property
    def encoder(self) -> frozenset[str]:
        """Names of the encoder's nodes."""
        return frozenset(node.name for node in self._encoder()[0])

    def _encoder(self) -> tuple[list[Node], list[Level]]:
        return encoder(self.stem, self.channels, self.blocks, self.eight_bits)


def encoder(
    stem: int, channels: Sequence[int], blocks: Sequence[int], eight_bits: Set[Part]
) -> tuple[list[Node], list[Level]]:  # fmt: skip
    """Return the nodes of a residual encoder, and the level that each stage ends at."""
    conv = partial(_conv, eight_bits=eight_bits)
    nodes: list[Node] = [conv("conv1", IMAGE, stem, 3, "stem", stride=STEM_STRIDE)]
    value, levels = "conv1", []
    for stage, (count, repeats) in enumerate(zip(channels, blocks, strict=True), start=1):
        for block in range(repeats):
            name = f"layer{stage}.{block}"
            residual, stride = value, 2 if block == 0 else 1
            if stride == 2:
                residual = f"{name}.shortcut"
                nodes.append(conv(residual, value, count, 1, "shortcut", stride=2, relu=False))
            nodes.append(Conv(f"{name}.conv1", value, count, 3, stride=stride, padding=1))
            nodes.append(Conv(f"{name}.conv2", f"{name}.conv1", count, 3, padding=1, residual=residual))
            value = f"{name}.conv2"
        levels.append((STEM_STRIDE * 2**stage, value))
    return nodes, levels


def encoder_classifier(
    stem: int, channels: Sequence[int], blocks: Sequence[int], eight_bits: Set[Part], classes: int
) -> Graph:  # fmt: skip
    """Return an encoder with a linear classifier behind it: what it is pretrained as."""
    nodes, levels = encoder(stem, channels, blocks, eight_bits)
    return Graph((*nodes, Pool("pool", levels[-1][1]), Linear(CLASSIFIER, "pool", classes)))


def _conv(
    name: str, source: str, channels: int, kernel: int, part: Part, *,
    eight_bits: Set[Part], stride: int = 1, relu: bool = True, residual: str | None = None,
) -> Conv:  # fmt: skip
    bits = 8 if part in eight_bits else None
    return Conv(name, source, channels, kernel, stride, kernel // 2, relu=relu, residual=residual, bits=bits)
