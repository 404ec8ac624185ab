"""The plain numpy executor: THE definition of a forward pass. Slow and obvious; every engine is held against it."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bitgear.bits import MASTER_BITS, activation_range
from bitgear.checkpoint import Master
from bitgear.errors import InputError, PrecisionNotOffered
from bitgear.fold import fold
from bitgear.graph import Conv, Linear, Node, Pool, Shortcut

Observer = Callable[[str, str, NDArray[np.int32]], None]
"""Called with node name, what ("input", "residual" or "accumulator") and the integers, to compare layer by layer."""


def run(master: Master, q_image: NDArray[np.int8], bits: int, observe: Observer | None = None) -> NDArray[np.float32]:
    """Return the output of the last node (logits, float32 (N, classes)) at a width.

    ``q_image``: int8 codes (N, 3, H, W), see :meth:`bitgear.inputs.InputRecord.encode`.
    """
    if bits not in master.widths:
        raise PrecisionNotOffered(bits, master.widths, master.name)
    check_image(master, q_image)
    values: dict[str, NDArray[np.float32]] = {}
    for node in master.graph.nodes:
        values[node.name] = _run_node(master, node, values, q_image, bits, observe)
    return values[master.graph.nodes[-1].name]


def check_image(master: Master, q_image: NDArray[np.int8]) -> None:
    """Raise :class:`InputError` unless ``q_image`` is int8 (N, 3, H, W) of the master's input size, N at least 1."""
    expected = (3, master.input.height_px, master.input.width_px)
    if q_image.dtype != np.int8 or q_image.ndim != 4 or q_image.shape[1:] != expected or q_image.shape[0] < 1:
        raise InputError(
            f"expected int8 codes of shape (N, {', '.join(map(str, expected))}), got {q_image.dtype} {q_image.shape}"
        )


def quantize(v: NDArray[np.float32], scale: np.float32, bits: int, signed: bool) -> NDArray[np.int32]:
    """Return ``clip(round_half_even(v / scale))``: one float32 division, never a multiplication by the reciprocal."""
    low, high = activation_range(bits, signed)
    codes: NDArray[np.int32] = np.clip(np.rint(v / scale), low, high).astype(np.int32)
    return codes


def _run_node(
    master: Master,
    node: Node,
    values: dict[str, NDArray[np.float32]],
    q_image: NDArray[np.int8],
    bits: int,
    observe: Observer | None,
) -> NDArray[np.float32]:
    graph = master.graph
    if isinstance(node, Shortcut):
        v = values[node.input][:, :, :: node.stride, :: node.stride]
        pad = (node.channels - v.shape[1]) // 2
        return np.pad(v, ((0, 0), (pad, pad), (0, 0), (0, 0)))

    folded = fold(master, node, bits)
    if folded.act_scale is None:
        q_x = q_image.astype(np.int32)
    else:
        q_x = quantize(values[node.input], folded.act_scale, folded.bits, graph.signed(node.input))
    if isinstance(node, Pool):
        acc = q_x.sum(axis=(2, 3), dtype=np.int32)
    elif isinstance(node, Linear):
        acc = _matmul(q_x, _weight(folded.q_weight).T)
    else:
        acc = convolve(q_x, _weight(folded.q_weight), node.stride, node.padding)
    if observe is not None:
        observe(node.name, "input", q_x)
        observe(node.name, "accumulator", acc)

    channels = (-1, 1, 1) if isinstance(node, Conv) else (-1,)
    y: NDArray[np.float32] = acc.astype(np.float32) * folded.multiplier.reshape(channels)
    if folded.bias is not None:
        y = y + folded.bias.reshape(channels)
    if isinstance(node, Conv) and node.residual is not None and folded.residual_scale is not None:
        q_r = quantize(values[node.residual], folded.residual_scale, MASTER_BITS, graph.signed(node.residual))
        if observe is not None:
            observe(node.name, "residual", q_r)
        y = y + q_r.astype(np.float32) * folded.residual_scale
    if isinstance(node, Conv) and node.relu:
        y = np.maximum(y, np.float32(0))
    return y


def convolve(q_x: NDArray[np.int32], q_w: NDArray[np.int8], stride: int, padding: int) -> NDArray[np.int32]:
    """Return the accumulators, int32 (N, O, H', W'), of codes (N, C, H, W) and weights (O, C, k, k); code 0 pads."""
    kernel = q_w.shape[2]
    padded = np.pad(q_x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(2, 3))
    windows = windows[:, :, ::stride, ::stride]  # (N, C, H', W', k, k)
    n, c, h, w = windows.shape[:4]
    columns = windows.transpose(0, 2, 3, 1, 4, 5).reshape(n * h * w, c * kernel * kernel)
    acc = _matmul(columns, q_w.reshape(q_w.shape[0], -1).T)
    return acc.reshape(n, h, w, -1).transpose(0, 3, 1, 2)


def _matmul(a: NDArray[np.int32], b: NDArray[np.int8]) -> NDArray[np.int32]:
    # Through float64, which numpy multiplies quickly and which holds every sum of ours exactly (they fit 32 bits).
    product: NDArray[np.float64] = a.astype(np.float64) @ b.astype(np.float64)
    return product.astype(np.int32)


def _weight(q_weight: NDArray[np.int8] | None) -> NDArray[np.int8]:
    if q_weight is None:
        raise InputError("the node has no weight")
    return q_weight
