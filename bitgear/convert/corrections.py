"""Gain and bias of each channel that bring a quantised layer close to the float one.

Two aims pull apart where few bits leave much noise. The least squared error is reached by a gain that is too small: it
makes the noise smaller along with the signal. The next layer averages noise away and misses the signal. Keeping mean
and standard deviation leaves both as large as they were. The middle between the two is better than either (measured:
docs/importing.md).

Both aims are about values behind ReLU and clip: what an activation cuts off on both sides is no error.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

_STEPS = 8
_FRACTIONS = (1.0, 0.5, 0.25)
LARGEST_CHANGE = 3.0
"""How far keeping the deviation may take a gain from the one of least error."""
_TINY = float(np.finfo(np.float32).tiny)


def fit_gain_bias(
    made: Array, rest: Array | None, wanted: Array, *, upper: float | None, rectified: bool
) -> tuple[Array, Array]:
    """Return gain and bias, float32 (O,) each, that float16 holds; what leaves its range is infinite or NaN.

    ``made``: float32 (O, R), what the layer's integers amount to at R places. ``rest``: the residual added there.
    ``wanted``: what ``gain * made + bias + rest`` should be, before the activation. ``rectified`` and ``upper`` say how
    the activation bounds it.
    """
    channels = _Channels(made, rest, wanted, rectified, upper)
    least = _least_squares(made, wanted if rest is None else wanted - rest)
    if rectified:
        least = _descend(channels, least, channels.error_step, channels.error, 1e6)
    kept = _descend(channels, least, channels.moment_step, channels.moment_difference, LARGEST_CHANGE)
    gain, bias = (least[0] + kept[0]) / 2, (least[1] + kept[1]) / 2
    rounded = gain.astype(np.float16).astype(np.float32)
    bias = bias + (gain - rounded) * made.mean(axis=1)
    return rounded, bias.astype(np.float16).astype(np.float32)


@dataclass(frozen=True)
class _State:
    """Values before and after the activation, and where it has a slope."""

    before: Array
    after: Array
    slope: Array


class _Channels:
    """What a layer makes and should make; errors of gain and bias, and steps that lessen them."""

    def __init__(self, made: Array, rest: Array | None, wanted: Array, rectified: bool, upper: float | None) -> None:
        self.made, self.rest, self.rectified = made, rest, rectified
        self.upper = np.float32(np.inf if upper is None else upper)
        self.goal = self._activate(wanted)
        self.mean, self.deviation = self.goal.mean(axis=1), self.goal.std(axis=1)

    def _activate(self, value: Array) -> Array:
        return np.clip(value, np.float32(0), self.upper) if self.rectified else value

    def state(self, gain: Array, bias: Array) -> _State:
        before = self.made * gain[:, None] + bias[:, None]
        if self.rest is not None:
            before += self.rest
        slope = (before > 0) & (before < self.upper) if self.rectified else np.ones(before.shape, bool)
        return _State(before, self._activate(before), slope.astype(np.float32))

    def error(self, state: _State) -> Array:
        difference = state.after - self.goal
        squares: Array = np.einsum("or,or->o", difference, difference)
        return squares

    def error_step(self, state: _State) -> tuple[Array, Array]:
        """Return the Gauss-Newton step towards the least squared error."""
        lacking = (self.goal - state.before) * state.slope
        masked = self.made * state.slope
        count, first, second = state.slope.sum(axis=1), masked.sum(axis=1), np.einsum("or,or->o", masked, masked)
        return _solve(second, first, first, count, np.einsum("or,or->o", lacking, self.made), lacking.sum(axis=1))

    def moment_difference(self, state: _State) -> Array:
        """Return how far mean and deviation are from the goal's: the sum of the squares."""
        distance: Array = (self.mean - state.after.mean(axis=1)) ** 2 + (self.deviation - state.after.std(axis=1)) ** 2
        return distance

    def moment_step(self, state: _State) -> tuple[Array, Array]:
        """Return Newton's step towards the goal's mean and deviation."""
        mean, deviation = state.after.mean(axis=1), np.maximum(state.after.std(axis=1), _TINY**0.5)
        masked = self.made * state.slope
        mean_by_gain, mean_by_bias = masked.mean(axis=1), state.slope.mean(axis=1)
        count = self.made.shape[1]
        deviation_by_gain = (np.einsum("or,or->o", state.after, masked) / count - mean * mean_by_gain) / deviation
        deviation_by_bias = (np.einsum("or,or->o", state.after, state.slope) / count - mean * mean_by_bias) / deviation
        return _solve(
            mean_by_gain, mean_by_bias, deviation_by_gain, deviation_by_bias,
            self.mean - mean, self.deviation - deviation,
        )  # fmt: skip


_Step = Callable[[_State], tuple[Array, Array]]
_Measure = Callable[[_State], Array]


def _descend(
    channels: _Channels, start: tuple[Array, Array], step: _Step, measure: _Measure, largest_change: float
) -> tuple[Array, Array]:
    """Return gain and bias after some steps, each channel taking only those that lessen its measure.

    No gain changes its sign, or by more than the factor ``largest_change``.
    """
    gain, bias = start
    lowest, highest = np.sort([gain / largest_change, gain * largest_change], axis=0)
    state = channels.state(gain, bias)
    least = measure(state)
    for _ in range(_STEPS):
        change = step(state)
        for fraction in _FRACTIONS:
            tried = gain + fraction * change[0], bias + fraction * change[1]
            found = measure(channels.state(*tried))
            better = (found < least) & (tried[0] >= lowest) & (tried[0] <= highest)
            gain, bias = np.where(better, tried[0], gain), np.where(better, tried[1], bias)
            least = np.where(better, found, least)
        state = channels.state(gain, bias)
    return gain, bias


def _solve(a: Array, b: Array, c: Array, d: Array, first: Array, second: Array) -> tuple[Array, Array]:
    """Return x, y of ``a x + b y = first, c x + d y = second``, and 0 where they are not to be told apart."""
    determinant = a * d - b * c
    solvable = np.abs(determinant) > 1e-5 * (np.abs(a * d) + np.abs(b * c))
    safe = np.where(solvable, determinant, 1)
    x = np.where(solvable, (d * first - b * second) / safe, 0)
    y = np.where(solvable, (a * second - c * first) / safe, 0)
    return x.astype(np.float32), y.astype(np.float32)


def _least_squares(made: Array, wanted: Array) -> tuple[Array, Array]:
    """Return gain and bias of least squared error; a channel that makes a constant keeps gain 1."""
    mean_made, mean_wanted = made.mean(axis=1), wanted.mean(axis=1)
    centred = made - mean_made[:, None]
    square = np.einsum("or,or->o", centred, centred)
    product = np.einsum("or,or->o", centred, wanted - mean_wanted[:, None])
    useful = square > _TINY**0.5
    gain = np.where(useful, product / np.where(useful, square, 1), 1).astype(np.float32)
    return gain, mean_wanted - gain * mean_made
