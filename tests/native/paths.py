"""What the native engine offers here, and which paths a derived model took. Skips where the engine is not built."""

import numpy as np
import pytest
from numpy.typing import NDArray

from bitgear.bits import Plan, Precision, activation_range, as_plan
from bitgear.checkpoint import Master
from bitgear.fold import derive_weight, fold
from bitgear.graph import IMAGE, Conv
from bitgear.reference import run as run_reference

_native = pytest.importorskip("bitgear._native", reason="the native engine is not built")
from bitgear.engines.native import NativeModel, lower  # noqa: E402 - not before the line above

PLANS = {
    "scalar": ("8", "7", "6", "5", "4", "3", "2", "w8a7", "w2a8"),
    "vnni": ("8", "7", "6", "5", "4", "3", "2", "w8a7", "w2a8"),
    "sdot": ("8", "7", "6", "5", "4", "3", "2", "w8a7", "w2a8"),
    "words": ("8", "7", "6", "5", "4", "3", "2", "w8a7", "w2a8"),
    "pairs": ("w8a7", "w7a8", "7", "6", "5", "4", "3", "2", "w2a8"),
    "vpermb-64": ("2",),
    "vpermb-32": ("2",),
    "pshufb": ("2",),
    "tbl": ("2",),
    "winograd-2": ("6", "w4a6", "w6a2", "3"),
    "winograd-3": ("w6a4", "4", "w3a4", "w4a2"),
    "winograd-4": ("w6a3", "w4a3", "3", "w2a3"),
}
"""Paths, and the widths at which each can be had."""

OFFERED = {name: tuple(paths) for name, compiled, offered, paths in _native.instruction_sets() if compiled and offered}
"""Instruction sets that can be used here, best first, and their paths."""

FORMS = {"winograd-2": 2, "winograd-3": 3, "winograd-4": 4}
EVERY_PATH = [(name, path) for name, paths in OFFERED.items() for path in (*paths, *FORMS)]


POOLED = ", pooled"
"""Behind the path of a convolution that does the max pooling behind it."""


def taken(model: NativeModel, node: str) -> set[str]:
    """The paths that the steps of a node took."""
    return {path for name, path in model.core.paths if name == node}


def derived(
    master: Master, precision: Precision, instruction_set: str, path: str = "", threads: int = 1
) -> NativeModel:
    plan = as_plan(precision)
    return NativeModel(master, plan, threads, lower(master, plan, instruction_set, path))


def assert_exact(model: NativeModel, q_images: NDArray[np.int8], expected: NDArray[np.float32]) -> None:
    result = model.run(q_images)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, expected, err_msg=f"{model.plan}: {model.core.paths}", strict=True)


def assert_every_set_exact(master: Master, q_images: NDArray[np.int8], precision: Precision, threads: int = 1) -> None:
    """Hold every instruction set, with the paths that it chooses, against the reference; see that it went that way."""
    expected = run_reference(master, q_images, precision)
    for name, paths in OFFERED.items():
        model = derived(master, precision, name, threads=threads)
        assert_exact(model, q_images, expected)
        for node in master.graph.convs:
            forms = (f"{form} {path}" for form in FORMS for path in paths)
            allowed = {"depthwise", *paths, *forms, *(path + POOLED for path in paths)}
            assert taken(model, node.name) <= allowed, name


# -- Winograd: when weights allow it ----------------------------------------------------------------------------------

_DOWN = np.array([[1, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 1]])
_ACROSS = {
    2: _DOWN,
    3: np.array([[1, 0, 0], [1, 1, 1], [1, -1, 1], [1, 2, 4], [0, 0, 1]]),
    4: np.array([[1, 0, 0], [1, 1, 1], [1, -1, 1], [1, 2, 4], [1, -2, 4], [0, 0, 1]]),
}


def outlier_share(q_weight: NDArray[np.int8], form: int) -> float:
    """Share of the transformed weights (O, I, 3, 3) that exceed 127, which are multiplied one by one.

    Input channels count in fours, as they are stored.
    """
    wide = np.einsum("yi,ocij,xj->ocyx", _DOWN, q_weight.astype(int), _ACROSS[form])
    stored = -(-q_weight.shape[1] // 4) * 4
    return float((np.abs(wide) > 127).sum()) / (q_weight.shape[0] * stored * wide.shape[2] * wide.shape[3])


def has_winograd(master: Master, node: Conv, plan: Plan, path: str) -> bool:
    """Whether a 3x3 convolution of stride 1 can take a form of Winograd's."""
    form = FORMS[path]
    folded = fold(master, node, plan)
    low, high = activation_range(8 if node.input == IMAGE else folded.act_bits, master.graph.signed(node.input))
    fits = high - low <= {2: 63, 3: 21, 4: 12}[form] and folded.weight_bits <= 6
    fits = fits and master.shapes[node.input][0] <= 4096
    return fits and outlier_share(derive_weight(master, node, plan), form) <= 1 / 256
