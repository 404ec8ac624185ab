"""The float32 constants between two integer layers, computed once per width. docs/format.md, "Arithmetic"."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitgear.bits import MASTER_BITS
from bitgear.checkpoint import Master
from bitgear.graph import IMAGE, Conv, Linear, Pool
from bitgear.rounding import derive


@dataclass(frozen=True, eq=False)
class Folded:
    """What a width needs of one node. Scales are float32 scalars, ``multiplier`` and ``bias`` float32 (C,) or (1,).

    ``q_weight``: int8 codes of the width. ``act_scale`` None: the input is the image's codes.
    """

    bits: int
    act_scale: np.float32 | None
    multiplier: NDArray[np.float32]
    q_weight: NDArray[np.int8] | None = None
    bias: NDArray[np.float32] | None = None
    residual_scale: np.float32 | None = None


def fold(master: Master, node: Conv | Pool | Linear, bits: int) -> Folded:
    """Return the constants of a node at a width: products in float64, in documented order, rounded once to float32."""
    row = master.row(bits)
    act_scale = None if node.input == IMAGE else np.float32(master.tensors[f"{node.name}.act_scale"][row])
    real_act_scale = np.float64(np.float32(master.input.scale) if act_scale is None else act_scale)
    if isinstance(node, Pool):
        height, width = master.graph.shapes((3, master.input.height_px, master.input.width_px))[node.input][1:]
        return Folded(MASTER_BITS, act_scale, np.asarray([real_act_scale / (height * width)]).astype(np.float32))
    product = real_act_scale * master.tensors[f"{node.name}.weight_scale"].astype(np.float64)
    q8 = master.tensors[f"{node.name}.weight"]
    if isinstance(node, Linear):
        bias = master.tensors[f"{node.name}.bias"]
        return Folded(MASTER_BITS, act_scale, product.astype(np.float32), q8, bias)
    node_bits = node.bits or bits
    product = product * master.tensors[f"{node.name}.gain"][row].astype(np.float64)
    return Folded(
        node_bits,
        act_scale,
        (product * 2.0 ** (MASTER_BITS - node_bits)).astype(np.float32),
        derive(q8, node_bits),
        master.tensors[f"{node.name}.bias"][row].astype(np.float32),
        None if node.residual is None else np.float32(master.tensors[f"{node.name}.residual_scale"][row]),
    )
