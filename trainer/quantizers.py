"""Fake quantization for training: Double Rounding for weights, learned scales for activations.

Both quantizers return integer *codes*, not de-quantized values: a convolution of codes has exact inputs in bfloat16 as
in float32 (codes stay within -128..255), and the scales are applied after it, in the order the engines use
(docs/format.md).
The backward passes are those of a de-quantized tensor ``scale * code`` (LSQ and its chain rule through the second
rounding), so the scale applied later takes no gradient of its own.

Scales are parameters in the log domain: an Adam step changes a scale by a fixed fraction, whatever its size. Adam
divides by the gradient's own magnitude, so the constant gradient factors of LSQ would change nothing and are left out.
(ALRS reads these gradients as they are, which is no small matter: see docs/training.md.)

Everything else here is float32: bfloat16 cannot hold ``w / s`` with enough fraction bits to round it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def derive_codes(u: Tensor, bits: int) -> Tensor:
    """Return the codes of a width from ``u = weight / scale`` (float32): round, clip to 8 bits, round again, clip.

    Equal to ``bitgear.rounding.derive`` of the 8-bit codes: multiplying by a power of two is exact.
    """
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    q8 = torch.clamp(torch.round(u), -128, 127)
    return torch.clamp(torch.round(q8 * 2.0 ** (bits - 8)), low, high)


class QuantizeWeight(torch.autograd.Function):
    """Codes of a weight at a width; backward of ``w_hat = scale * 2**(8 - bits) * code``."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, log_scale: Tensor, bits: int) -> Tensor:
        scale = log_scale.exp().reshape(-1, *[1] * (weight.dim() - 1))
        u = weight / scale
        codes = derive_codes(u, bits)
        ctx.save_for_backward(u, codes, scale)
        ctx.bits = bits
        return codes

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        u, codes, scale = ctx.saved_tensors
        step = 2.0 ** (8 - ctx.bits)
        low, high = -(1 << (ctx.bits - 1)), (1 << (ctx.bits - 1)) - 1
        q8 = torch.round(u)
        inside = (u >= -128) & (u <= 127) & (q8 >= low * step) & (q8 <= high * step)
        grad_hat = grads[0] / (scale * step)  # d loss / d w_hat
        grad_log = grad_hat * (codes * step - inside * u) * scale
        dims = tuple(range(1, grad_log.dim()))
        per_scale = grad_log.sum(dims) if scale.numel() > 1 else grad_log.sum().reshape(1)
        return grad_hat * inside, per_scale, None


def distance_from_codes(weight: Tensor, log_scale: Tensor, bits: int) -> Tensor:
    """Return the sum of squared distances, in steps, of the weights from what they round to, but for clipped ones.

    Gradients go to the weights alone.
    """
    step = log_scale.detach().exp().reshape(-1, *[1] * (weight.dim() - 1)) * 2.0 ** (8 - bits)
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    codes = derive_codes(weight.detach() / step * 2.0 ** (8 - bits), bits)
    return (torch.clamp(weight / step, low, high) - codes).square().sum()


def code_dtype(device: torch.device) -> torch.dtype:
    """Return the element type of convolutions: bfloat16 where the device multiplies it natively, else float32.

    A CPU without such instructions emulates bfloat16 at a third of the speed of float32.
    """
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        if not (capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")):
            return torch.float32
    return torch.bfloat16


def _quantize(v: Tensor, scale: Tensor, low: Tensor, high: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.clamp(torch.round(v / scale), low, high).to(dtype)


def _quantize_backward(v: Tensor, scale: Tensor, low: Tensor, high: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    u = v / scale
    g = grad.float()
    inside = (u >= low) & (u <= high)
    codes = torch.clamp(torch.round(u), low, high)
    return torch.where(inside, g / scale, 0.0), (g * (codes - torch.where(inside, u, 0.0))).sum()


def _moments(y: Tensor, multiplier: Tensor) -> tuple[Tensor, Tensor]:
    y = y.float() * multiplier
    return y.mean((0, 2, 3)), (y * y).mean((0, 2, 3))


def _normalize_relu(y: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    return torch.relu(y.float() * gain + bias)


def _normalize_add_relu(y: Tensor, gain: Tensor, bias: Tensor, q_residual: Tensor, residual_scale: Tensor) -> Tensor:
    return torch.relu(y.float() * gain + bias + q_residual.float() * residual_scale)


def _backward_sums(
    v: Tensor, y: Tensor, mean: Tensor, rstd: Tensor, mult: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    g = torch.where(v > 0, grad, 0.0)
    return g.sum((0, 2, 3)), (g * ((y.float() * mult - mean) * rstd)).sum((0, 2, 3))


def _backward_y(
    v: Tensor, y: Tensor, mean: Tensor, rstd: Tensor, mult: Tensor, gamma: Tensor, a: Tensor, b: Tensor, grad: Tensor
) -> Tensor:
    g = torch.where(v > 0, grad, 0.0)
    x_hat = (y.float() * mult - mean) * rstd
    return (mult * gamma * rstd * (g - a - x_hat * b)).to(y.dtype)


def _masked(v: Tensor, grad: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return (torch.where(v > 0, grad, 0.0) * scale).to(dtype)


@dataclass(frozen=True)
class Kernels:
    """The element-wise functions of a training step, eager or each compiled into one fused loop.

    ``dtype`` is the element type of the codes that they make, and so of the convolutions.
    """

    dtype: torch.dtype = torch.bfloat16
    quantize: Callable[..., Tensor] = _quantize
    quantize_backward: Callable[..., tuple[Tensor, Tensor]] = _quantize_backward
    moments: Callable[..., tuple[Tensor, Tensor]] = _moments
    normalize_relu: Callable[..., Tensor] = _normalize_relu
    normalize_add_relu: Callable[..., Tensor] = _normalize_add_relu
    backward_sums: Callable[..., tuple[Tensor, Tensor]] = _backward_sums
    backward_y: Callable[..., Tensor] = _backward_y
    masked: Callable[..., Tensor] = _masked

    @classmethod
    def compiled(cls, dtype: torch.dtype = torch.bfloat16) -> "Kernels":
        """Return the same functions compiled: about twice the training speed of the eager ones on a CPU."""
        torch._dynamo.config.recompile_limit = 256  # one graph for each layer shape, not one for each layer
        functions = [value for name, value in vars(cls()).items() if name != "dtype"]
        return cls(dtype, *(torch.compile(f, dynamic=False) for f in functions))


class QuantizeActivation(torch.autograd.Function):
    """Codes (``kernels.dtype``) of a float32 activation at ``scale = exp(log_scale)``, clipped to low..high."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, log_scale: Tensor, low: Tensor, high: Tensor, kernels: Kernels) -> Tensor:
        scale = log_scale.exp()
        ctx.save_for_backward(v, scale, low, high)
        ctx.kernels = kernels
        codes: Tensor = kernels.quantize(v, scale, low, high, kernels.dtype)
        return codes

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        v, scale, low, high = ctx.saved_tensors
        grad_v, grad_log = ctx.kernels.quantize_backward(v, scale, low, high, grads[0])
        return grad_v, grad_log, None, None, None


class BatchNormReLU(torch.autograd.Function):
    """``relu(batch_norm(multiplier * y) + residual_scale * q_residual)`` with batch statistics.

    ``y`` holds the convolution of codes; ``multiplier`` (float32, shape C) turns it into real units and takes no
    gradient. Returns the float32 output with batch mean and (biased) variance, shape C each.
    """

    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        multiplier: Tensor,
        gamma: Tensor,
        beta: Tensor,
        eps: float,
        q_residual: Tensor | None,
        residual_scale: Tensor | None,
        kernels: Kernels,
    ) -> tuple[Tensor, Tensor, Tensor]:
        mult, gam = multiplier.view(1, -1, 1, 1), gamma.view(1, -1, 1, 1)
        mean, square = kernels.moments(y, mult)
        var = (square - mean * mean).clamp_min(0.0)
        m, rstd = mean.view(1, -1, 1, 1), torch.rsqrt(var + eps).view(1, -1, 1, 1)
        gain, bias = mult * rstd * gam, beta.view(1, -1, 1, 1) - m * rstd * gam
        if q_residual is None:
            v = kernels.normalize_relu(y, gain, bias)
        else:
            v = kernels.normalize_add_relu(y, gain, bias, q_residual, residual_scale)
        ctx.save_for_backward(v, y, m, rstd, mult, gam, residual_scale)
        ctx.kernels = kernels
        ctx.mark_non_differentiable(mean, var)
        return v, mean, var

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        v, y, m, rstd, mult, gam, residual_scale = ctx.saved_tensors
        grad = grads[0]
        sum_g, sum_gx = ctx.kernels.backward_sums(v, y, m, rstd, mult, grad)
        count = v.numel() // v.shape[1]
        a, b = (sum_g / count).view(1, -1, 1, 1), (sum_gx / count).view(1, -1, 1, 1)
        grad_y = ctx.kernels.backward_y(v, y, m, rstd, mult, gam, a, b, grad)
        grad_residual = None
        if residual_scale is not None:
            grad_residual = ctx.kernels.masked(v, grad, residual_scale, ctx.kernels.dtype)
        return grad_y, None, sum_gx, sum_g, None, grad_residual, None, None


def initial_weight_scale(weight: Tensor, bits: Sequence[int], per_channel: bool) -> Tensor:
    """Return the starting scale (float32, shape 1 or O) that minimises the sum over ``bits`` of log mean squared error.

    The tie ``scale_b = scale * 2**(8 - b)`` makes this the choice that decides the low widths: a scale that is right
    for 8 bits alone zeroes most 2-bit weights. The search runs from 0.005 to 0.06 times the root of the mean square,
    or to where the largest weight has the outermost code of 2 bits, if that is further: rows that are far from zero, or
    have few large weights, need that.
    """
    rows = weight.flatten(1) if per_channel else weight.reshape(1, -1)
    size = rows.square().mean(1, keepdim=True).sqrt().clamp_min(1e-8)
    most = torch.maximum(size * 0.06, rows.abs().amax(1, keepdim=True) / 64)
    best = torch.full((rows.shape[0],), float("inf"))
    chosen = torch.zeros(rows.shape[0])
    for share in torch.linspace(0, 1, 80).tolist():
        scale = (size * 0.005) ** (1 - share) * most**share
        score = torch.zeros(rows.shape[0])
        for b in bits:
            error = rows - derive_codes(rows / scale, b) * scale * 2.0 ** (8 - b)
            score += torch.log((error * error).mean(1) + 1e-20)
        better = score < best
        best = torch.where(better, score, best)
        chosen = torch.where(better, scale[:, 0], chosen)
    return chosen


SAMPLED = 1 << 16
"""A scale is searched on so many values of a map, drawn; the largest of all values is where the search ends."""


def search_activation_scale(v: Tensor, low: int, high: int) -> Tensor:
    """Return the scale (float32, shape ()) in 0.05..1 times ``max|v| / high`` with the least mean |v - v_hat|**2.4."""
    sample = v.detach().flatten()
    top = sample.abs().max().clamp_min(1e-6) / max(high, 1)
    if sample.numel() > SAMPLED:
        # Drawn, but always the same: a stride would share factors with the sides of maps and see their borders alone.
        drawn = torch.randint(sample.numel(), (SAMPLED,), generator=torch.Generator().manual_seed(0))
        sample = sample[drawn.to(sample.device)]
    best, chosen = float("inf"), top
    for factor in torch.logspace(-1.3, 0, 60).tolist():
        scale = top * factor
        error = sample - torch.clamp(torch.round(sample / scale), low, high) * scale
        score = error.abs().pow(2.4).mean().item()
        if score < best:
            best, chosen = score, scale
    return chosen
