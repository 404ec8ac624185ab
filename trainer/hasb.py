"""Hessian-aware stochastic bit switching (HASB): which width each layer of a super-network step has.

arXiv 2502.01199, Algorithms 1 and A.3. A layer is sensitive if its Hessian trace is no less than the mean over layers;
it then draws a width with a probability in proportion to the width, any other layer draws all widths alike.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from bitgear.bits import LayerBits, Plan


def sensitive_layers(traces: Mapping[str, float]) -> dict[str, bool]:
    """Return by layer whether its trace is at least the mean of all; negative traces, mere noise, count as zero."""
    positive = {name: max(trace, 0.0) for name, trace in traces.items()}
    mean = sum(positive.values()) / len(positive)
    return {name: trace >= mean for name, trace in positive.items()}


def roulette(widths: Sequence[int], sensitive: bool, rng: np.random.Generator) -> int:
    """Return a width drawn by a layer (Algorithm 1): 8, 6, 4, 2 with 40, 30, 20, 10 % if it is sensitive, else 25 %."""
    shares = np.asarray(widths if sensitive else np.ones(len(widths)), np.float64)
    return widths[int(np.searchsorted(np.cumsum(shares / shares.sum())[:-1], rng.random(), side="right"))]


def switching_probability(switch: float, epoch: int, epochs: int) -> float:
    """Return the probability that a layer redraws its width in an epoch (from 0): ``switch`` in the last.

    The paper prints the rule as an update of sigma by itself, which would shrink it; this is the even growth it means.
    """
    return switch * (epoch + 1) / epochs


def draw_plan(
    base: int, layers: Mapping[str, bool], widths: Sequence[int], switch: float, rng: np.random.Generator
) -> Plan:  # fmt: skip
    """Return the plan of a step: ``base`` everywhere, but for the layers that redraw (Algorithm A.3).

    ``layers``: by name of a searchable convolution, whether it is sensitive. ``switch``: the probability of a redraw.
    """
    drawn = {
        name: roulette(widths, sensitive, rng) for name, sensitive in layers.items() if rng.random() < switch
    }  # fmt: skip
    return Plan(LayerBits(base, base), tuple((name, LayerBits(bits, bits)) for name, bits in drawn.items()))
