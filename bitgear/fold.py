"""The float32 constants between two integer layers, computed once per plan. docs/format.md, "Arithmetic"."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitgear.bits import MASTER_BITS, Plan, Precision, as_plan
from bitgear.checkpoint import Master
from bitgear.errors import GraphError, PrecisionNotOffered
from bitgear.graph import IMAGE, AvgPool, Conv, Linear, Pool, Resize, SummingNode
from bitgear.plans import BatchNorm
from bitgear.rounding import derive

INTERPOLATION_ONE = 128
"""What the two weights of an axis sum to in a bilinear resize."""


@dataclass(frozen=True, eq=False)
class Folded:
    """What a plan makes of one node, but for its weights (:func:`derive_weight`).

    ``weight_bits``: width of the weights. ``act_bits``: width of the codes read, 8 for the image. ``act_scale``,
    ``residual_scale``: float32 scalars; ``act_scale`` None: the input is the image. ``multiplier`` and ``bias``:
    float32 (C,) or (1,).
    """

    weight_bits: int
    act_bits: int
    act_scale: np.float32 | None
    multiplier: NDArray[np.float32]
    bias: NDArray[np.float32] | None = None
    residual_scale: np.float32 | None = None


def check_plan(master: Master, precision: Precision) -> Plan:
    """Return the plan if a master can serve it.

    Raises :class:`~bitgear.errors.PrecisionNotOffered` for a width that the master lacks and
    :class:`~bitgear.errors.GraphError` for widths of a layer that is no convolution of the graph.
    """
    plan = as_plan(precision)
    for bits in sorted(plan.widths):
        if bits not in master.widths:
            raise PrecisionNotOffered(str(bits), master.precisions, master.name)
    convs = {conv.name for conv in master.graph.convs} if plan.layers else set()
    for name, _ in plan.layers:
        if name not in convs:
            raise GraphError(
                f"the plan gives widths of {name[:128]!r}, which is no convolution of model {master.name!r}; "
                "name convolutions of its graph"
            )
    return plan


def fold(master: Master, node: SummingNode, precision: Precision) -> Folded:
    """Return the constants of a node at a plan: products in float64, in documented order, rounded once to float32.

    Where a named plan of the master has the same widths and a batch norm or scales of its own, those are the ones.
    """
    plan = as_plan(precision)
    layer = plan.of(node.name)
    act_scale = None if node.input == IMAGE else master.scale(f"{node.name}.act_scale", layer.act_bits, plan)
    real_act_scale = np.float64(np.float32(master.input.scale) if act_scale is None else act_scale)
    if not isinstance(node, Conv | Linear):
        multiplier = np.asarray([real_act_scale / _divisor(master, node)]).astype(np.float32)
        return Folded(MASTER_BITS, MASTER_BITS, act_scale, multiplier)
    product = real_act_scale * master.tensors[f"{node.name}.weight_scale"].astype(np.float64)
    if isinstance(node, Linear):
        bias = master.tensors[f"{node.name}.bias"]
        return Folded(MASTER_BITS, MASTER_BITS, act_scale, product.astype(np.float32), bias)
    weight_bits = node.bits or layer.weight_bits
    norm = batch_norm(master, node, plan)
    product = product * norm.gain.astype(np.float64)
    return Folded(
        weight_bits,
        MASTER_BITS if act_scale is None else node.bits or layer.act_bits,
        act_scale,
        (product * 2.0 ** (MASTER_BITS - weight_bits)).astype(np.float32),
        norm.bias.astype(np.float32),
        None if node.residual is None else master.scale(f"{node.name}.residual_scale", layer.act_bits, plan),
    )


def batch_norm(master: Master, node: Conv, plan: Plan) -> BatchNorm:
    """Return the folded batch norm of a convolution at a plan: the plan's own, or the row of the weights' width."""
    own = master.batch_norm(plan)
    if own is not None:
        return own[node.name]
    row = master.row(plan.of(node.name).weight_bits)
    return BatchNorm(master.tensors[f"{node.name}.gain"][row], master.tensors[f"{node.name}.bias"][row])


def derive_weight(master: Master, node: Conv | Linear, precision: Precision) -> NDArray[np.int8]:
    """Return a node's weights at a plan: int8 codes (O, I/groups, k, k) or (O, I)."""
    q8 = master.tensors[f"{node.name}.weight"]
    if isinstance(node, Linear):
        return q8
    return derive(q8, node.bits or as_plan(precision).of(node.name).weight_bits)


def _divisor(master: Master, node: Pool | AvgPool | Resize) -> int:
    """Return what one in a sum of a node without weights amounts to."""
    if isinstance(node, Pool):
        _, height, width = master.shapes[node.input]
        return height * width
    return node.kernel**2 if isinstance(node, AvgPool) else INTERPOLATION_ONE**2
