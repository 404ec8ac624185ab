"""What the native engine offers here, and which paths a derived model took. Skips where the engine is not built."""

from functools import cache

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
    "amx": ("8", "7", "6", "5", "4", "3", "2", "w8a7", "w2a8"),
    "amx-4": ("4", "3", "2", "w4a8", "w3a7"),
    "amx-2": ("2", "w2a8", "w2a5"),
    "vnni": ("8", "7", "6", "5", "4", "3", "2", "w8a7", "w2a8"),
    "sdot": ("8", "7", "6", "5", "4", "3", "2", "w8a7", "w2a8"),
    "words": ("8", "7", "6", "5", "4", "3", "2", "w8a7", "w2a8"),
    "pairs": ("w8a7", "w7a8", "7", "6", "5", "4", "3", "2", "w2a8"),
    "vpermb-64": ("2",),
    "vpermb-pixels": ("2",),
    "pshufb": ("2",),
    "winograd-2x2": ("6", "w4a6", "w6a2", "3"),
    "winograd-2x3": ("w6a4", "4", "w3a4", "w4a2"),
    "winograd-2x4": ("w6a3", "w4a3", "3", "w2a3"),
    "winograd-3x3": ("w4a3", "3", "w2a3", "2"),
    "winograd-3x4": ("w3a2", "w4a2", "2"),
    "winograd-4x4": ("8", "7", "w8a7", "w2a8", "3", "w7a8"),
    "winograd-strided": ("6", "w6a2", "w2a6", "4", "w3a5", "2"),
}
"""Paths, and the widths at which each can be had."""
MOST_TERMS = {"vpermb-pixels": 0xFFFF // (2 * 3)}
"""The longest sums of a path, where it does not take all."""

WORDS = "-16"
"""Ends the names of multiplications of 16-bit numbers, which serve Winograd's transforms alone."""
OFFERED = {
    name: tuple(path for path in paths if not path.endswith(WORDS))
    for name, compiled, offered, paths in _native.instruction_sets()
    if compiled and offered
}
"""Instruction sets that can be used here, best first, and their paths."""
MULTIPLICATIONS = {name: tuple(paths) for name, _, _, paths in _native.instruction_sets() if name in OFFERED}
"""The same, with those of 16-bit numbers."""

STRIDED = "winograd-strided"
FORMS = {f"winograd-{n}x{m}": (n, m) for n, m in ((2, 2), (2, 3), (2, 4), (3, 3), (3, 4), (4, 4))} | {STRIDED: (2, 2)}
IN_WORDS = ("winograd-4x4",)
EVERY_FORM = [
    (name, form)
    for name in OFFERED
    for form in FORMS
    if form not in IN_WORDS or any(path.endswith(WORDS) for path in MULTIPLICATIONS[name])
]
EVERY_PATH = [*((name, path) for name, paths in OFFERED.items() for path in paths), *EVERY_FORM]


POOLED = ", pooled"
"""Behind the path of a convolution that does the max pooling behind it."""


def taken(model: NativeModel, node: str) -> set[str]:
    """The paths that the steps of a node took."""
    return {path for name, path in model.core.paths if name == node}


@cache
def measured(instruction_set: str) -> dict[str, float]:
    """The rates of this machine: paths are chosen as they are in use."""
    return _native.measure_rates(instruction_set)


def derived(
    master: Master,
    precision: Precision,
    instruction_set: str,
    path: str = "",
    threads: int = 1,
    rates: dict[str, float] | None = None,
) -> NativeModel:
    plan = as_plan(precision)
    core = lower(master, plan, instruction_set, measured(instruction_set) if rates is None else rates, path)
    return NativeModel(master, plan, threads, core)


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
            forms = [f"{form} {path}" for form in FORMS for path in MULTIPLICATIONS[name]]
            allowed = {"depthwise", *paths, *forms, *(path + POOLED for path in paths)}
            assert taken(model, node.name) <= allowed, name


# -- Winograd: when weights allow it ----------------------------------------------------------------------------------

_LINE = {
    2: np.array([[1, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 1]]),
    3: np.array([[1, 0, 0], [1, 1, 1], [1, -1, 1], [1, 2, 4], [0, 0, 1]]),
    4: np.array([[1, 0, 0], [1, 1, 1], [1, -1, 1], [1, 2, 4], [1, -2, 4], [0, 0, 1]]),
}
_STRIDED_LINE = np.array([[1, 0, 0], [1, 0, 1], [0, 0, 1], [0, 1, 0], [0, 1, 0]])
_SPAN = {2: 2, 3: 6, 4: 10}


def stride_of(path: str) -> int:
    """The stride of 3x3 convolutions that a form of Winograd's computes."""
    return 2 if path == STRIDED else 1


def outlier_share(q_weight: NDArray[np.int8], path: str) -> float:
    """Share of the transformed weights (O, I, 3, 3) that exceed 127, which are multiplied one by one.

    Input channels count in fours, as they are stored.
    """
    down, across = (_STRIDED_LINE if path == STRIDED else _LINE[side] for side in FORMS[path])
    wide = np.einsum("yi,ocij,xj->ocyx", down, q_weight.astype(int), across)
    stored = -(-q_weight.shape[1] // 4) * 4
    return float((np.abs(wide) > 127).sum()) / (q_weight.shape[0] * stored * wide.shape[2] * wide.shape[3])


def has_winograd(master: Master, node: Conv, plan: Plan, path: str) -> bool:
    """Whether a 3x3 convolution of a form's stride can take this form of Winograd's."""
    form = FORMS[path]
    folded = fold(master, node, plan)
    low, high = activation_range(8 if node.input == IMAGE else folded.act_bits, master.graph.signed(node.input))
    q_weight = derive_weight(master, node, plan)
    if master.shapes[node.input][0] > 4096:
        return False
    if path in IN_WORDS:  # a result and 2^6 must fit 32 bits together
        flat = q_weight.reshape(len(q_weight), -1).astype(int)
        sums = np.maximum(np.where(flat > 0, flat, 0).sum(1), np.where(flat < 0, -flat, 0).sum(1))
        return bool(sums.max() * (high - low) < 2**25)
    fits = (high - low) * _SPAN[form[0]] * _SPAN[form[1]] <= 255 and folded.weight_bits <= 6
    return fits and outlier_share(q_weight, path) <= 1 / 256
