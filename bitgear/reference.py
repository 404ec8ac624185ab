"""The plain numpy executor: THE definition of a forward pass. Slow and obvious; every engine is held against it."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitgear.bits import MASTER_BITS, Plan, Precision, activation_range
from bitgear.checkpoint import Master
from bitgear.errors import InputError
from bitgear.fold import INTERPOLATION_ONE, check_plan, derive_weight, fold
from bitgear.graph import (
    AvgPool,
    Conv,
    Linear,
    MaxPool,
    Node,
    Pool,
    Resize,
    Shortcut,
    SummingNode,
    borders,
    sums,
)

Observer = Callable[[str, str, NDArray[np.int32]], None]
"""Called with node name, what ("input", "residual" or "accumulator") and the integers, to compare layer by layer."""

MAX_IMAGES = 1 << 30
"""Of a call: the native engine counts them in 32 bits, and a little beyond."""

_CODES = np.dtype(np.int8)

Values = Mapping[str, NDArray[np.float32]]
"""Values made so far, by name."""


def run(
    master: Master, q_image: NDArray[np.int8], precision: Precision, observe: Observer | None = None
) -> NDArray[np.float32]:
    """Return the output of the last node (logits, float32 (N, classes)) at a width or plan.

    ``q_image``: int8 codes (N, 3, H, W), see :meth:`bitgear.inputs.InputRecord.encode`. Raises what
    :func:`~bitgear.fold.check_plan` and :func:`check_image` raise.
    """
    plan = check_plan(master, precision)
    check_image(master, q_image)
    values: dict[str, NDArray[np.float32]] = {}
    for node in master.graph.nodes:
        values[node.name] = run_node(master, node, values, q_image, plan, observe)
    return values[master.graph.nodes[-1].name]


def check_image(master: Master, q_image: NDArray[np.int8]) -> None:
    """Raise :class:`InputError` unless ``q_image`` is int8 (N, 3, H, W) of the master's input size, N 1..MAX_IMAGES."""
    expected = (3, master.input.height_px, master.input.width_px)
    if not isinstance(q_image, np.ndarray):
        raise InputError(f"expected a numpy array of int8 codes, got {type(q_image).__name__}")
    if q_image.dtype != _CODES or q_image.shape[1:] != expected or q_image.shape[0] < 1:
        raise InputError(
            f"expected int8 codes of shape (N, {', '.join(map(str, expected))}), got {q_image.dtype} {q_image.shape}"
        )
    if q_image.shape[0] > MAX_IMAGES:
        raise InputError(f"got {q_image.shape[0]:,} images at once; a call takes at most {MAX_IMAGES:,}")


def quantize(v: NDArray[np.float32], scale: np.float32, bits: int, signed: bool) -> NDArray[np.int32]:
    """Return ``clip(round_half_even(v / scale))``: one float32 division, never a multiplication by the reciprocal."""
    low, high = activation_range(bits, signed)
    codes: NDArray[np.int32] = np.clip(np.rint(v / scale), low, high).astype(np.int32)
    return codes


def run_node(
    master: Master,
    node: Node,
    values: Values,
    q_image: NDArray[np.int8],
    plan: Plan,
    observe: Observer | None = None,
) -> NDArray[np.float32]:
    """Return the value of one node, given those that it reads."""
    if not sums(node):
        return _select(node, [values[name] for name in master.graph.inputs(node)])
    folded = fold(master, node, plan)
    if folded.act_scale is None:
        q_x = q_image.astype(np.int32)
    else:
        q_x = quantize(values[node.input], folded.act_scale, folded.act_bits, master.graph.signed(node.input))
    acc = _accumulate(master, node, q_x, plan)
    if observe is not None:
        observe(node.name, "input", q_x)
        observe(node.name, "accumulator", acc)

    channels = (-1,) if isinstance(node, Pool | Linear) else (-1, 1, 1)
    y: NDArray[np.float32] = acc.astype(np.float32) * folded.multiplier.reshape(channels)
    if folded.bias is not None:
        y = y + folded.bias.reshape(channels)
    if not isinstance(node, Conv):
        return y
    if node.residual is not None and folded.residual_scale is not None:
        q_r = quantize(values[node.residual], folded.residual_scale, MASTER_BITS, master.graph.signed(node.residual))
        if observe is not None:
            observe(node.name, "residual", q_r)
        y = y + q_r.astype(np.float32) * folded.residual_scale
    if node.relu:
        y = np.maximum(y, np.float32(0))
    if node.clip is not None:
        y = np.minimum(y, np.float32(node.clip))
    return y


def _select(node: Node, inputs: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    v = inputs[0]
    match node:
        case Shortcut():
            v = v[:, :, :: node.stride, :: node.stride]
            pad = (node.channels - v.shape[1]) // 2
            return np.pad(v, ((0, 0), (pad, pad), (0, 0), (0, 0)))
        case MaxPool():
            best: NDArray[np.float32] = windows(v, node, padding_value=-np.inf).max(axis=(4, 5))
            return best
        case Resize():
            rows, columns = nearest(v.shape[2], node.height), nearest(v.shape[3], node.width)
            return v[:, :, rows][:, :, :, columns]
        case _:
            return np.concatenate(inputs, axis=1)


def _accumulate(master: Master, node: SummingNode, q_x: NDArray[np.int32], plan: Plan) -> NDArray[np.int32]:
    match node:
        case Conv():
            return convolve(q_x, derive_weight(master, node, plan), node)
        case Linear():
            return _matmul(q_x, derive_weight(master, node, plan).T)
        case Pool():
            return _sum(q_x, (2, 3))
        case AvgPool():
            return _sum(windows(q_x, node), (4, 5))
        case Resize():
            return _interpolate(_interpolate(q_x, 2, node.height), 3, node.width)


def _sum(q_x: NDArray[np.int32], axes: tuple[int, int]) -> NDArray[np.int32]:
    total: NDArray[np.int32] = q_x.sum(axis=axes, dtype=np.int32)
    return total


def _interpolate(q_x: NDArray[np.int32], axis: int, out_size: int) -> NDArray[np.int32]:
    first, second, weight = interpolation(q_x.shape[axis], out_size)
    weight = np.expand_dims(weight, tuple(range(1, q_x.ndim - axis)))
    mixed: NDArray[np.int32] = (INTERPOLATION_ONE - weight) * q_x.take(first, axis) + weight * q_x.take(second, axis)
    return mixed


def windows(v: NDArray[Any], node: Conv | MaxPool | AvgPool, padding_value: float = 0) -> NDArray[Any]:
    """Return what a node's window sees at every position, (N, C, H', W', k, k), of a value (N, C, H, W)."""
    dilation = node.dilation if isinstance(node, Conv) else 1
    reach = dilation * (node.kernel - 1) + 1
    padded = np.pad(v, ((0, 0), (0, 0), borders(node), borders(node)), constant_values=padding_value)
    views = np.lib.stride_tricks.sliding_window_view(padded, (reach, reach), axis=(2, 3))
    return views[:, :, :: node.stride, :: node.stride, ::dilation, ::dilation]


def convolve(q_x: NDArray[np.int32], q_w: NDArray[np.int8], node: Conv) -> NDArray[np.int32]:
    """Return the accumulators, int32 (N, O, H', W'), of codes (N, C, H, W) and weights (O, C/groups, k, k)."""
    seen = windows(q_x, node)
    n, c, h, w, k, _ = seen.shape
    terms = c // node.groups * k * k
    columns = seen.reshape(n, node.groups, c // node.groups, h, w, k, k).transpose(1, 0, 3, 4, 2, 5, 6)
    weights = q_w.reshape(node.groups, -1, terms).transpose(0, 2, 1)
    acc = _matmul(columns.reshape(node.groups, n * h * w, terms), weights)
    return acc.reshape(node.groups, n, h, w, -1).transpose(1, 0, 4, 2, 3).reshape(n, -1, h, w)


def nearest(size: int, out_size: int) -> NDArray[np.int64]:
    """Return the source position, int64 (out_size,), of every position of an axis resized to the nearest pixel."""
    return np.arange(out_size) * size // out_size


def interpolation(size: int, out_size: int) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Return two source positions and the second's weight, int32 (out_size,) each, of an axis resized bilinearly.

    The weights of both sum to :data:`~bitgear.fold.INTERPOLATION_ONE`. Pixels are squares: the centre of output pixel
    i lies at ``(2 i + 1) size / (2 out_size) - 1/2`` of the source, moved to its outermost pixels beyond them. The
    arithmetic is exact; the weight is rounded half to even.
    """
    denominator = 2 * out_size
    position = np.clip((2 * np.arange(out_size, dtype=np.int64) + 1) * size - out_size, 0, (size - 1) * denominator)
    first, part = np.divmod(position, denominator)
    weight, rest = np.divmod(part * INTERPOLATION_ONE, denominator)
    weight += (2 * rest > denominator) | ((2 * rest == denominator) & (weight % 2 == 1))
    second = np.minimum(first + 1, size - 1)
    return first.astype(np.int32), second.astype(np.int32), weight.astype(np.int32)


def _matmul(a: NDArray[np.int32], b: NDArray[np.int8]) -> NDArray[np.int32]:
    # Through float64, which numpy multiplies quickly and which holds every sum of ours exactly (they fit 32 bits).
    product: NDArray[np.float64] = a.astype(np.float64) @ b.astype(np.float64)
    return product.astype(np.int32)
