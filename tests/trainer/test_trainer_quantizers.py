"""Fake quantization: the same codes as at serving, and the gradients of method and paper."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitgear.bits import WIDTHS, activation_range, weight_range
from bitgear.rounding import derive
from trainer.quantizers import (
    BatchNormReLU,
    Kernels,
    QuantizeActivation,
    QuantizeWeight,
    code_dtype,
    derive_codes,
    initial_weight_scale,
    search_activation_scale,
)

KERNELS = Kernels()


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -- codes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", WIDTHS)
def test_codes_of_every_master_code_are_those_of_serving(bits: int) -> None:
    q8 = np.arange(-128, 128).astype(np.int8)
    codes = derive_codes(torch.arange(-128, 128).float(), bits)
    np.testing.assert_array_equal(codes.numpy(), derive(q8, bits))


@pytest.mark.parametrize("bits", WIDTHS)
def test_codes_of_any_real_value_are_those_of_its_8_bit_code(bits: int) -> None:
    ties = torch.arange(-300, 300) / 2
    u = torch.cat([ties, randn(4000) * 60, torch.tensor([1e30, -1e30, 127.49, 127.5, -128.5, -128.51])]).float()
    q8 = np.clip(np.rint(u.numpy().astype(np.float64)), -128, 127).astype(np.int8)
    np.testing.assert_array_equal(derive_codes(u, bits).numpy(), derive(q8, bits))


@settings(deadline=None, database=None, max_examples=60)
@given(values=st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=50), bits=st.sampled_from(WIDTHS))
def test_codes_agree_whatever_the_values(values: list[float], bits: int) -> None:
    u = np.asarray(values, np.float32)
    q8 = np.clip(np.rint(u), -128, 127).astype(np.int8)
    np.testing.assert_array_equal(derive_codes(torch.from_numpy(u), bits).numpy(), derive(q8, bits))


# -- weights ----------------------------------------------------------------------------------------------------------


def by_the_formula(weight: np.ndarray, scale: np.ndarray, bits: int, grad_hat: np.ndarray) -> tuple[np.ndarray, ...]:
    """Codes and the gradients of method section 4.2 in float64, for d loss / d w_hat = grad_hat."""
    step = 2.0 ** (8 - bits)
    low, high = weight_range(bits)
    u = (weight / scale).astype(np.float64)
    q8 = np.clip(np.rint(u), -128, 127)
    codes = np.clip(np.rint(q8 / step), low, high)
    inside = (u >= -128) & (u <= 127) & (q8 >= low * step) & (q8 <= high * step)
    by_scale = grad_hat * (codes * step - inside * u)
    return codes, grad_hat * inside, by_scale * scale  # the last one for log(scale)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("per_channel", [True, False])
def test_weight_gradients_follow_the_formula(bits: int, per_channel: bool) -> None:
    weight = (randn(4, 3, 3, 3) * 2).requires_grad_()
    log_scale = torch.log(torch.tensor([0.02, 0.03, 0.01, 0.05] if per_channel else [0.02])).requires_grad_()
    scale = log_scale.detach().exp().view(-1, 1, 1, 1).numpy()
    grad_hat = randn(4, 3, 3, 3, seed=1)
    codes = QuantizeWeight.apply(weight, log_scale, bits)
    # what follows multiplies the codes by the scale of w_hat, so their gradient is grad_hat times that scale
    (codes * (grad_hat * torch.from_numpy(scale) * 2.0 ** (8 - bits))).sum().backward()
    expected = by_the_formula(weight.detach().numpy(), scale, bits, grad_hat.numpy().astype(np.float64))
    np.testing.assert_array_equal(codes.detach().numpy(), expected[0])
    np.testing.assert_allclose(weight.grad.numpy(), expected[1], rtol=1e-4, atol=1e-5)
    axes = (1, 2, 3) if per_channel else (0, 1, 2, 3)
    np.testing.assert_allclose(log_scale.grad.numpy(), expected[2].sum(axes).reshape(-1), rtol=1e-3, atol=1e-3)
    clipped = (expected[1] == 0).mean()
    assert 0 < clipped < 1  # both branches occur


@pytest.mark.parametrize("bits", WIDTHS)
def test_weight_gradients_are_those_of_straight_through_rounding(bits: int) -> None:
    """Autograd through both roundings, each replaced by the identity, and both clips."""

    def through(x: Tensor, rounded: Tensor) -> Tensor:
        return x + (rounded - x).detach()

    weight, log_scale = (randn(2, 5) * 2).requires_grad_(), torch.tensor([-3.9]).requires_grad_()
    ours = QuantizeWeight.apply(weight, log_scale, bits) * (log_scale.detach().exp() * 2.0 ** (8 - bits))
    grad = randn(2, 5, seed=2)
    (ours * grad).sum().backward()
    found = weight.grad.clone(), log_scale.grad.clone()
    weight.grad = log_scale.grad = None
    scale, (low, high) = log_scale.exp(), weight_range(bits)
    u = weight / scale
    q8 = torch.clamp(u, -128, 127)
    q8 = through(q8, torch.round(u).clamp(-128, 127))
    v = q8 * 2.0 ** (bits - 8)
    outside = (torch.round(v.detach() * 2.0 ** (8 - bits)) < low * 2 ** (8 - bits)) | (v.detach() > high)
    codes = torch.where(outside, torch.clamp(v, low, high), v)
    codes = through(codes, derive_codes(u, bits))
    ((codes * scale * 2.0 ** (8 - bits)) * grad).sum().backward()
    torch.testing.assert_close(found[0], weight.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1], log_scale.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("per_channel", [True, False])
def test_starting_scales_keep_most_2_bit_weights_away_from_zero(per_channel: bool) -> None:
    weight = randn(16, 64, 3, 3) * torch.linspace(0.01, 0.1, 16).view(-1, 1, 1, 1)
    scale = initial_weight_scale(weight, (4, 2), per_channel)
    assert scale.shape == ((16,) if per_channel else (1,))
    assert (scale > 0).all()
    codes = derive_codes(weight / scale.view(-1, 1, 1, 1), 2)
    zeros = (codes == 0).float().mean((1, 2, 3)) if per_channel else (codes == 0).float().mean()
    assert zeros.max() < (0.6 if per_channel else 0.75)
    assert set(codes.unique().tolist()) == {-2, -1, 0, 1}
    deviation = weight.flatten(1).std(1) if per_channel else weight.std()
    assert ((scale / deviation > 0.005) & (scale / deviation < 0.061)).all()


def test_a_scale_for_8_bits_alone_is_finer_and_zeroes_more_at_2_bits() -> None:
    weight = randn(1, 4000)
    both, fine = initial_weight_scale(weight, (4, 2), False), initial_weight_scale(weight, (8,), False)
    assert 0.015 < both.item() < 0.06
    assert 0.02 < fine.item() < 0.04
    error = {s.item(): (weight - derive_codes(weight / s, 2) * s * 64).square().mean().item() for s in (both, fine)}
    assert error[both.item()] < error[fine.item()] or both.item() == fine.item()


@pytest.mark.parametrize("value", [0.0, 1e-12, 3.0])
def test_constant_weights_still_get_a_positive_scale(value: float) -> None:
    scale = initial_weight_scale(torch.full((2, 8), value), (4, 2), True)
    assert torch.isfinite(scale).all()
    assert (scale > 0).all()


@pytest.mark.parametrize("value", [0.25, -3.0])
@pytest.mark.parametrize("per_channel", [True, False])
def test_a_weight_that_is_alone_is_kept(value: float, per_channel: bool) -> None:
    weight = torch.full((4 if per_channel else 1, 1, 1, 1), value)
    scale = initial_weight_scale(weight, (4, 2), per_channel)
    for bits, error in ((8, 0.02), (4, 0.1)):
        found = derive_codes(weight / scale.view(-1, 1, 1, 1), bits) * scale.view(-1, 1, 1, 1) * 2.0 ** (8 - bits)
        torch.testing.assert_close(found, weight, rtol=error, atol=0)


@pytest.mark.parametrize(
    "row", [torch.full((9,), 0.5), torch.tensor([0.01, -0.01] * 16 + [2.0]), 3 + 0.01 * torch.arange(9)]
)
def test_rows_far_from_zero_or_with_few_large_weights_are_kept(row: Tensor) -> None:
    scale = initial_weight_scale(row[None], (4, 2), True)
    for bits, most in ((8, 0.03), (4, 0.1)):
        error = row - derive_codes(row / scale, bits) * scale * 2.0 ** (8 - bits)
        assert error.square().mean().sqrt() < most * row.square().mean().sqrt()


# -- activations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 5, 4, 2])
@pytest.mark.parametrize("signed", [False, True])
def test_activation_codes_and_gradients_follow_the_formula(bits: int, signed: bool) -> None:
    low, high = activation_range(bits, signed)
    values = torch.cat([randn(60), torch.tensor([0.0, 1e4, -1e4])])
    v = values.requires_grad_()
    log_scale = torch.tensor(np.log(1.2 / high)).float().requires_grad_()
    codes = QuantizeActivation.apply(v, log_scale, torch.tensor(float(low)), torch.tensor(float(high)), KERNELS)
    assert codes.dtype == torch.bfloat16
    scale = log_scale.detach().exp()
    u = (v.detach() / scale).numpy()
    expected = np.clip(np.rint(u), low, high)
    np.testing.assert_array_equal(codes.detach().float().numpy(), expected)
    grad_hat = randn(63, seed=3)
    (codes.float() * (grad_hat * scale).bfloat16().float()).sum().backward()
    g = (grad_hat * scale).bfloat16().float().numpy() / scale.numpy()
    inside = (u >= low) & (u <= high)
    np.testing.assert_allclose(v.grad.numpy(), g * inside, rtol=1e-4, atol=1e-6)
    by_log = (g * (expected - np.where(inside, u, 0))).sum() * scale.numpy()
    np.testing.assert_allclose(log_scale.grad.numpy(), by_log, rtol=1e-3, atol=1e-4)
    assert not inside.all()


@pytest.mark.parametrize(
    ("device", "capabilities", "expected"),
    [
        ("cuda", {}, torch.bfloat16),
        ("cpu", {"avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ("cpu", {}, torch.float32),
        ("cpu", {"avx512_bf16": True}, torch.bfloat16),
        ("cpu", {"amx_bf16": True}, torch.bfloat16),
    ],
)
def test_convolutions_are_in_bfloat16_only_where_it_is_native(
    monkeypatch: pytest.MonkeyPatch, device: str, capabilities: dict[str, bool], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert code_dtype(torch.device(device)) == expected


def test_codes_take_the_element_type_of_their_kernels() -> None:
    low, high = torch.tensor(0.0), torch.tensor(15.0)
    for dtype in (torch.float32, torch.bfloat16):
        codes = QuantizeActivation.apply(randn(9), torch.zeros(()), low, high, Kernels(dtype))
        assert codes.dtype == dtype


def test_every_code_is_exact_in_bfloat16() -> None:
    codes = torch.arange(-128, 256).float()
    torch.testing.assert_close(codes.bfloat16().float(), codes, rtol=0, atol=0)


def error_at(v: Tensor, scale: Tensor, low: int, high: int) -> float:
    return float((v - torch.clamp(torch.round(v / scale), low, high) * scale).abs().pow(2.4).mean())


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_the_searched_scale_beats_the_range(bits: int) -> None:
    v = torch.relu(randn(5000))
    low, high = activation_range(bits, signed=False)
    scale = search_activation_scale(v, low, high)
    top = v.max() / high
    assert scale.dim() == 0
    assert 0.05 * top * 0.99 <= scale <= top * 1.01
    assert error_at(v, scale, low, high) <= error_at(v, top, low, high)
    assert error_at(v, scale, low, high) <= error_at(v, scale * 1.3, low, high)
    assert error_at(v, scale, low, high) <= error_at(v, scale / 1.3, low, high)


def test_the_borders_of_large_maps_do_not_tell_the_scale() -> None:
    v = torch.relu(randn(64, 32, 32, 32))
    expected = search_activation_scale(v.flatten()[:60_000], 0, 15)
    v[..., 0] *= 0.1  # beside the padding
    assert search_activation_scale(v, 0, 15) == pytest.approx(expected.item(), rel=0.15)
    v[5, 5, 5, 5] = 100.0  # which no sample need meet
    assert search_activation_scale(v, 0, 15) >= 0.05 * 100 / 15 * 0.99


@pytest.mark.parametrize("v", [torch.zeros(5), torch.full((3,), 1e-9), torch.full((4,), 7.0)])
def test_dead_and_constant_activations_still_get_a_positive_scale(v: Tensor) -> None:
    scale = search_activation_scale(v, 0, 3)
    assert torch.isfinite(scale)
    assert scale > 0


# -- batch norm -------------------------------------------------------------------------------------------------------


def plain(y: Tensor, mult: Tensor, gamma: Tensor, beta: Tensor, q_r: Tensor | None, s_r: Tensor | None) -> Tensor:
    """The same in torch's own operators."""
    z = F.batch_norm(y * mult.view(1, -1, 1, 1), None, None, gamma, beta, training=True, eps=1e-5)
    return torch.relu(z if q_r is None else z + q_r * s_r)


@pytest.mark.parametrize("residual", [False, True])
def test_batch_norm_with_relu_equals_torchs_forward_and_backward(residual: bool) -> None:
    y = torch.round(randn(6, 3, 5, 4) * 50).requires_grad_()
    mult = torch.tensor([0.01, 0.02, 0.005])
    gamma, beta = torch.tensor([1.0, 0.5, 2.0]).requires_grad_(), torch.tensor([0.1, -0.2, 0.0]).requires_grad_()
    q_r = torch.round(randn(6, 3, 5, 4, seed=1).abs() * 20).requires_grad_() if residual else None
    s_r = torch.tensor(0.05) if residual else None
    grad = randn(6, 3, 5, 4, seed=2)
    leaves = [t for t in (y, gamma, beta, q_r) if t is not None]

    def gradients(function: Callable[[], Tensor]) -> tuple[Tensor, list[Tensor]]:
        out = function()
        return out.detach(), list(torch.autograd.grad((out * grad).sum(), leaves))

    mean, var = torch.zeros(0), torch.zeros(0)

    def ours() -> Tensor:
        nonlocal mean, var
        v, mean, var = BatchNormReLU.apply(y, mult, gamma, beta, 1e-5, q_r, s_r, KERNELS)
        return v

    out, found = gradients(ours)
    expected_out, expected = gradients(lambda: plain(y, mult, gamma, beta, q_r, s_r))
    torch.testing.assert_close(out, expected_out, rtol=1e-4, atol=1e-5)
    for ours_grad, theirs in zip(found[:3], expected[:3], strict=True):
        torch.testing.assert_close(ours_grad, theirs, rtol=2e-3, atol=1e-4)
    if residual:
        torch.testing.assert_close(found[3].float(), expected[3], rtol=1e-2, atol=1e-4)  # kept in bfloat16
    real = (y.detach() * mult.view(1, -1, 1, 1)).transpose(0, 1).reshape(3, -1)
    torch.testing.assert_close(mean, real.mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(var, real.var(1, unbiased=False), rtol=1e-3, atol=1e-5)


def test_gradients_of_batch_norm_match_finite_differences() -> None:
    y, mult = randn(4, 2, 3, 3) * 3, torch.tensor([0.3, 0.7])
    gamma, beta = torch.tensor([1.5, 0.7]), torch.tensor([0.3, 0.6])
    q_r, s_r = torch.round(randn(4, 2, 3, 3, seed=1).abs() * 9), torch.tensor(0.1)
    grad = randn(4, 2, 3, 3, seed=2)
    y = y.requires_grad_()
    v, _, _ = BatchNormReLU.apply(y, mult, gamma, beta, 1e-5, q_r, s_r, KERNELS)
    (v * grad).sum().backward()
    doubles = [t.detach().double() for t in (y, mult, gamma, beta, q_r, s_r)]

    def loss(moved: Tensor) -> float:
        return float((plain(moved, *doubles[1:]) * grad).sum())

    for place in [(0, 0, 0, 0), (1, 1, 2, 1), (3, 0, 1, 2), (2, 1, 0, 0)]:
        up, down = doubles[0].clone(), doubles[0].clone()
        up[place] += 1e-5
        down[place] -= 1e-5
        assert y.grad[place].item() == pytest.approx((loss(up) - loss(down)) / 2e-5, rel=1e-2, abs=1e-4)


def test_weight_gradients_stop_exactly_at_the_ends_of_the_8_bit_range() -> None:
    weight = torch.tensor([[127.0, 127.3, 127.6, 126.9, -128.0, -128.3, -128.6, -127.9]]).requires_grad_()
    log_scale = torch.zeros(1).requires_grad_()
    QuantizeWeight.apply(weight, log_scale, 8).sum().backward()
    assert weight.grad[0].tolist() == [1, 0, 0, 1, 1, 0, 0, 1]
    assert log_scale.grad.item() == pytest.approx(2 * 127 - 2 * 128 + (127 - 126.9) + (-128 + 127.9), abs=1e-4)
