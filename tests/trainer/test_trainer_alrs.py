"""Adaptive learning-rate scaling: Eq. 6 and 7 of the paper."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitgear.bits import WIDTHS
from trainer.alrs import eta, mean_clipped_gradient, scale_lr

MODES = ["off", "eta", "mult", "literal"]


@pytest.mark.parametrize(("bits", "value"), [(8, 1), (7, 0.5), (6, 0.1), (5, 0.05), (4, 0.01), (3, 0.005), (2, 0.001)])
def test_width_factors_are_those_of_the_paper(bits: int, value: float) -> None:
    assert eta(bits) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(("bits", "value"), [(4, 1), (3, 0.5), (2, 0.1)])
def test_width_factors_count_from_the_masters_width(bits: int, value: float) -> None:
    assert eta(bits, 4) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("grads", "mean"),
    [
        ([], 0.0),
        ([[0.5]], 0.5),
        ([[-0.5, 0.25]], 0.5),
        ([[3.0], [0.0]], 0.5),
        ([[-7.0], [100.0, 0.0]], 1.0),
        ([[0.1], [0.2], [0.6]], 0.3),
        ([0.25, [[0.75], [-0.1]]], 0.5),
    ],
)
def test_gradients_are_clipped_by_layer_and_then_averaged(grads: list[object], mean: float) -> None:
    assert mean_clipped_gradient([np.asarray(g) for g in grads]) == pytest.approx(mean)


@pytest.mark.parametrize(
    ("mode", "bits", "gradient", "value"),
    [
        ("off", 2, 0.5, 5e-4),
        ("eta", 8, 0.5, 5e-4),
        ("eta", 4, 0.5, 5e-6),
        ("mult", 8, 0.0, 5e-4),
        ("mult", 8, 0.5, 2.5e-4),
        ("mult", 2, 0.2, 4e-7),
        ("mult", 8, 1.0, 0.0),
        ("literal", 8, 1e-4, 4e-4),
        ("literal", 6, 1e-4, 4e-5),
        ("literal", 8, 0.1, 0.0),  # as printed it would be negative: a step in the wrong direction
    ],
)
def test_rates_of_each_mode(mode: str, bits: int, gradient: float, value: float) -> None:
    assert scale_lr(5e-4, gradient, bits, mode) == pytest.approx(value, rel=1e-9, abs=1e-15)  # type: ignore[arg-type]


@given(lr=st.floats(0, 1), gradient=st.floats(0, 1), bits=st.sampled_from(WIDTHS), mode=st.sampled_from(MODES))
def test_no_rate_is_negative_or_above_the_scheduled_one(lr: float, gradient: float, bits: int, mode: str) -> None:
    rate = scale_lr(lr, gradient, bits, mode)  # type: ignore[arg-type]
    assert 0 <= rate <= lr


@given(lr=st.floats(1e-6, 1), gradient=st.floats(0, 0.99), mode=st.sampled_from(["eta", "mult"]))
def test_lower_widths_move_their_scales_less(lr: float, gradient: float, mode: str) -> None:
    rates = [scale_lr(lr, gradient, bits, mode) for bits in WIDTHS]  # type: ignore[arg-type]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > rates[-1]
