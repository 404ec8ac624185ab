"""What a search may choose: the layers whose width the graph leaves open, and what a choice takes beside time."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bitgear.bits import MASTER_BITS, LayerBits, Plan, descending
from bitgear.checkpoint import Master
from bitgear.errors import PrecisionNotOffered, SearchError
from bitgear.graph import IMAGE, Conv, Graph, Linear

Choice = tuple[int, ...]
"""A width for each unit of a space, in order."""

Table = NDArray[np.float64]
"""A number for each unit and width, float64 (units, widths)."""


@dataclass(frozen=True)
class Unit:
    """Convolutions that share one choice: a layer, and a projection of its input that is tied to it.

    ``weights`` and ``macs`` (multiply-accumulates for one picture) are sums over them, ``image_macs`` over those that
    read the image.
    """

    names: tuple[str, ...]
    weights: int
    macs: int
    image_macs: int


class Space:
    """The units of a master, in order of the graph, and the widths: all of the master's, highest first.

    ``open``: those that units choose from, highest first. Raises :class:`~bitgear.errors.PrecisionNotOffered` for a
    width that the master lacks and :class:`~bitgear.errors.SearchError` where there is nothing to choose.
    """

    def __init__(self, master: Master, widths: Sequence[int]) -> None:
        for bits in widths:
            if bits not in master.widths:
                raise PrecisionNotOffered(str(bits), master.precisions, master.name)
        self.master = master
        self.widths = master.widths
        self.open = descending(widths)
        self.units = tuple(self._unit(names) for names in tied(master.graph))
        if not self.units:
            raise SearchError(
                f"the graph of model {master.name!r} fixes the width of every layer; nothing is to choose"
            )
        if len(self.open) < 2:
            raise SearchError(f"a search needs two widths or more to choose from, got {list(self.open)}")

    def _unit(self, names: tuple[str, ...]) -> Unit:
        weights = sum(self.master.tensors[f"{name}.weight"].size for name in names)
        reads_image = {conv.name for conv in self.master.graph.convs if conv.input == IMAGE}
        macs = {name: self._macs(name) for name in names}
        return Unit(names, weights, sum(macs.values()), sum(macs[name] for name in names if name in reads_image))

    def _macs(self, name: str) -> int:
        """Return the multiply-accumulates of a node with weights, for one picture."""
        _, *size = self.master.shapes[name]
        return int(self.master.tensors[f"{name}.weight"].size * np.prod(size, dtype=np.int64))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Every convolution whose width is chosen."""
        return tuple(name for unit in self.units for name in unit.names)

    def plan(self, choice: Choice) -> Plan:
        """Return the plan of a choice.

        What has no width of its own, such as scales of poolings, takes the rows of the width nearest to the mean.
        """
        if len(set(choice)) == 1:
            return Plan.uniform(choice[0])
        nearest = min(self.open, key=lambda bits: abs(bits - self.mean_width(choice)))
        layers = tuple(
            (name, LayerBits(bits, bits)) for unit, bits in zip(self.units, choice, strict=True) for name in unit.names
        )
        return Plan(LayerBits(nearest, nearest), layers)

    def uniform(self, bits: int) -> Choice:
        """Return the choice of one width everywhere."""
        return (bits,) * len(self.units)

    def total(self, table: Table, choice: Choice) -> float:
        """Return the sum of a table's numbers over the units of a choice."""
        return float(sum(row[self.widths.index(bits)] for row, bits in zip(table, choice, strict=True)))

    def mean_width(self, choice: Choice) -> float:
        """Return the mean of the widths over all layers that are chosen, each counted once."""
        return self.total(self.mean_widths, choice)

    @cached_property
    def mean_widths(self) -> Table:
        """What a unit adds to the mean width."""
        shares = np.array([len(unit.names) for unit in self.units]) / len(self.names)
        return np.outer(shares, self.widths)

    @cached_property
    def weight_bytes(self) -> Table:
        """Bytes of packed weights."""
        return np.outer([unit.weights for unit in self.units], self.widths) / 8

    @cached_property
    def fixed_bytes(self) -> float:
        """Bytes of packed weights of nodes that are not chosen."""
        nodes = self._fixed_nodes()
        return sum(self.master.tensors[f"{node.name}.weight"].size * _weight_bits(node) for node in nodes) / 8

    @cached_property
    def bit_operations(self) -> Table:
        """Multiply-accumulates of one picture times the widths of both factors; the image has codes of 8 bits."""
        widths = np.array(self.widths)
        image = np.outer([unit.image_macs for unit in self.units], widths * MASTER_BITS)
        others = np.outer([unit.macs - unit.image_macs for unit in self.units], widths * widths)
        table: Table = (image + others).astype(np.float64)
        return table

    @cached_property
    def fixed_bit_operations(self) -> float:
        """The same of nodes that are not chosen."""
        return float(
            sum(
                self._macs(node.name)
                * _weight_bits(node)
                * (MASTER_BITS if node.input == IMAGE else _weight_bits(node))
                for node in self._fixed_nodes()
            )
        )

    def _fixed_nodes(self) -> list[Conv | Linear]:
        chosen = set(self.names)
        return [node for node in self.master.graph.nodes if isinstance(node, Conv | Linear) and node.name not in chosen]


def _weight_bits(node: Conv | Linear) -> int:
    return (node.bits if isinstance(node, Conv) else None) or MASTER_BITS


def tied(graph: Graph) -> list[tuple[str, ...]]:
    """Return the convolutions whose width the graph leaves open, those that share a choice together.

    A projection shortcut, which is read as a residual alone, shares that of the first convolution of its branch, which
    reads the same value: fewer bits in one of them make the other's in vain.
    """
    free = graph.searchable
    inputs = {value for node in graph.nodes for value in Graph.inputs(node)[: 1 if isinstance(node, Conv) else None]}
    residuals = {conv.residual for conv in graph.convs}
    projections = [conv for conv in free if conv.name in residuals and conv.name not in inputs]
    groups = {conv.name: [conv.name] for conv in free if conv not in projections}
    for projection in projections:
        branch = next((c.name for c in free if c.input == projection.input and c.name in groups), None)
        if branch is None:
            groups[projection.name] = [projection.name]
        else:
            groups[branch].append(projection.name)
    order = [conv.name for conv in free]
    return sorted((tuple(names) for names in groups.values()), key=lambda names: order.index(names[0]))
