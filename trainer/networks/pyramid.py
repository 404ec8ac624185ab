"""A residual encoder with a feature pyramid, for an output in every cell of a grid: segmentation and detection.

Basic blocks (He et al. 2015) with projection shortcuts halve the picture stage by stage; the pyramid (Lin et al. 2017)
comes back up: at each level a 1x1 convolution of the encoder's value plus the coarser level enlarged to the nearest
pixel, then a 3x3 convolution. A 1x1 convolution without ReLU predicts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bitgear.graph import IMAGE, Conv, Graph, Node, Resize

Part = Literal["stem", "shortcut", "lateral", "head", "predict"]
"""Parts of the network that may stay at 8 bits whatever the width; blocks and the pyramid's 3x3 always follow it."""

STEM_STRIDE = 2
PREDICT = "predict"


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
        nodes: list[Node] = [self._conv("conv1", IMAGE, self.stem, 3, "stem", stride=STEM_STRIDE)]
        value, stages = "conv1", []
        for stage, (channels, blocks) in enumerate(zip(self.channels, self.blocks, strict=True), start=1):
            for block in range(blocks):
                name = f"layer{stage}.{block}"
                residual, stride = value, 2 if block == 0 else 1
                if stride == 2:
                    residual = f"{name}.shortcut"
                    nodes.append(self._conv(residual, value, channels, 1, "shortcut", stride=2, relu=False))
                nodes.append(Conv(f"{name}.conv1", value, channels, 3, stride=stride, padding=1))
                nodes.append(Conv(f"{name}.conv2", f"{name}.conv1", channels, 3, padding=1, residual=residual))
                value = f"{name}.conv2"
            stages.append((STEM_STRIDE * 2**stage, value))
        shapes = Graph(tuple(nodes)).shapes((3, height_px, width_px))
        above: str | None = None
        for stride, source in reversed([level for level in stages if level[0] >= self.stride]):
            if above is not None:
                _, height, width = shapes[source]
                nodes.append(Resize(f"up{stride}", above, height, width))
                above = f"up{stride}"
            nodes.append(self._conv(f"lateral{stride}", source, self.pyramid, 1, "lateral", residual=above))
            nodes.append(Conv(f"fuse{stride}", f"lateral{stride}", self.pyramid, 3, padding=1))
            above = value = f"fuse{stride}"
        for i in range(self.head):
            nodes.append(self._conv(f"head{i}", value, self.pyramid, 3, "head"))
            value = f"head{i}"
        nodes.append(self._conv(PREDICT, value, outputs, 1, "predict", relu=False))
        return Graph(tuple(nodes))

    def _conv(
        self, name: str, source: str, channels: int, kernel: int, part: Part, *,
        stride: int = 1, relu: bool = True, residual: str | None = None,
    ) -> Conv:  # fmt: skip
        bits = 8 if part in self.eight_bits else None
        return Conv(name, source, channels, kernel, stride, kernel // 2, relu=relu, residual=residual, bits=bits)
