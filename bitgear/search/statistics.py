"""Batch norm of a plan, without training and without the network that was trained.

A width's gain and bias suit the sums of a network that runs at that width everywhere. Under a plan a layer reads what
other widths made, so its sums have another mean and deviation in each channel. Measured on pictures, layer after layer,
they are moved onto those at the uniform width: the same as estimating the statistics of batch norm anew and keeping
that width's learned gain and bias.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bitgear.bits import Plan
from bitgear.checkpoint import Master
from bitgear.engines.base import Engine
from bitgear.graph import IMAGE, Conv, Graph
from bitgear.plans import BatchNorm, NamedPlan

BATCH_IMAGES = 16
LARGEST_CHANGE = 4.0
"""By how much a gain may change: a channel that is almost constant on the pictures tells nothing."""
_LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of each channel of a convolution before residual and activation: float64 (O,)."""

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]


class Statistics:
    """Fits batch norm to plans of a master on pictures, ``q_images`` int8 (N, 3, H, W).

    What a convolution makes depends on the widths up to it alone; plans that begin alike share the work.
    """

    def __init__(self, master: Master, engine: Engine, q_images: NDArray[np.int8]) -> None:
        self.master = replace(master, plans=())
        self.engine = engine
        self.q_images = q_images
        self._known: dict[tuple[str, Plan], Moments] = {}

    def fit(self, plan: Plan) -> dict[str, BatchNorm]:
        """Return the batch norm of every convolution under a plan.

        The first layers read the picture, at any width the same, and keep the rows of the width of their weights.
        """
        norms = {conv.name: self._row(conv, plan) for conv in self.master.graph.convs}
        for conv in self.master.graph.convs:
            if conv.input == IMAGE:
                continue
            wanted = self._moments(conv, Plan.uniform(plan.of(conv.name).weight_bits), None)
            made = self._moments(conv, plan, norms)
            told = made.deviation > 1e-6 * wanted.deviation
            factor = np.where(told, wanted.deviation / np.where(told, made.deviation, 1), 1)
            factor = np.clip(factor, 1 / LARGEST_CHANGE, LARGEST_CHANGE)
            norm = norms[conv.name]
            norms[conv.name] = BatchNorm(
                _float16(norm.gain.astype(np.float64) * factor),
                _float16(wanted.mean - factor * (made.mean - norm.bias)),
            )
        return norms

    def _row(self, conv: Conv, plan: Plan) -> BatchNorm:
        row = self.master.row(plan.of(conv.name).weight_bits)
        gain, bias = (self.master.tensors[f"{conv.name}.{part}"][row] for part in ("gain", "bias"))
        return BatchNorm(gain, bias)

    def _moments(self, conv: Conv, plan: Plan, norms: Mapping[str, BatchNorm] | None) -> Moments:
        """Return what a convolution makes of the pictures, by an engine that runs the network up to it."""
        graph = up_to(self.master.graph, conv)
        names = {node.name for node in graph.convs}
        plan = Plan(plan.default, tuple(layer for layer in plan.layers if layer[0] in names))
        if (conv.name, plan) not in self._known:
            plans = () if norms is None else (NamedPlan("fitted", plan, batch_norm=norms),)
            self._known[conv.name, plan] = self._run(replace(self.master, graph=graph, plans=plans), conv, plan)
        return self._known[conv.name, plan]

    def _run(self, master: Master, conv: Conv, plan: Plan) -> Moments:
        model = self.engine.derive(master, plan)
        first, second, count = np.zeros(conv.channels), np.zeros(conv.channels), 0
        for start in range(0, len(self.q_images), BATCH_IMAGES):
            value = model.run(self.q_images[start : start + BATCH_IMAGES])
            value = value.reshape(*value.shape[:2], -1)
            first += value.sum(axis=2).sum(axis=0, dtype=np.float64)
            second += np.einsum("ncp,ncp->nc", value, value).sum(axis=0, dtype=np.float64)
            count += value.shape[0] * value.shape[2]
        mean = first / count
        return Moments(mean, np.sqrt(np.maximum(second / count - mean**2, 0)))


def _float16(values: NDArray[np.float64]) -> NDArray[np.float16]:
    return np.clip(values, -_LARGEST, _LARGEST).astype(np.float16)


def up_to(graph: Graph, conv: Conv) -> Graph:
    """Return the part of a graph that a convolution needs, with that one last, without residual and activation."""
    nodes = list(graph.nodes[: graph.nodes.index(conv)])
    needed, kept = {conv.input}, [replace(conv, relu=False, clip=None, residual=None)]
    for node in reversed(nodes):
        if node.name in needed:
            kept.append(node)  # type: ignore[arg-type]
            needed.update(Graph.inputs(node))
    return Graph(tuple(reversed(kept)))
