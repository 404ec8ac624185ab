"""The network as a short list of typed nodes.

A node reads named *values* and makes one, under its own name. By definition a value is float32, (N, C, H, W) or (N, C);
every reader quantises what it reads with scales of its own, so an engine never has to store a float: it may write, in
the epilogue of a node, just the integer tensors that the readers want. ``docs/format.md`` defines the arithmetic.

The value ``image`` is the input: int8 codes of the picture (see :class:`bitgear.inputs.InputRecord`).

Nodes are of two kinds. *Selections* (shortcut, max pool, nearest resize, concat) move values and hold no tensors; since
a reader's quantisation is monotone they commute with it, so an engine may move codes. All others sum codes.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, TypeGuard

from bitgear.errors import GraphError, UnknownNode, quoted

IMAGE = "image"
MAX_NODES = 4096
MAX_WINDOW = 255
"""Largest kernel and dilation."""
MAX_SIDE = 1 << 16
"""Most channels, rows or columns of a value."""
MAX_ELEMENTS, MAX_TOTAL_ELEMENTS = 1 << 28, 1 << 31
"""Of one value of one picture, with the padding around what a window reads; and of all values of one picture together.

A file of a kilobyte could ask for any memory otherwise.
"""
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}", re.ASCII)

Shape = tuple[int, ...]
"""Shape of a value without the batch: (C, H, W) or (C,)."""


@dataclass(frozen=True)
class Conv:
    """Convolution, folded batch norm, then an optional residual sum, then an optional ReLU.

    ``padding`` is at the top and left, ``padding_end`` at the bottom and right (None: as ``padding``). ``groups`` split
    input and output channels evenly. ``clip`` bounds the ReLU from above: 6.0 makes it a ReLU6. ``bits`` pins the node
    to a width whatever the request asks; None follows the request. ``residual`` names a value of the output's shape; it
    is read at 8 bits whatever the width.
    """

    op: ClassVar[str] = "conv"
    name: str
    input: str
    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    relu: bool = True
    residual: str | None = None
    bits: int | None = None
    groups: int = 1
    dilation: int = 1
    padding_end: int | None = None
    clip: float | None = None


@dataclass(frozen=True)
class Shortcut:
    """Parameter-free shortcut: every ``stride``-th pixel, zero channels on both sides up to ``channels``."""

    op: ClassVar[str] = "shortcut"
    name: str
    input: str
    channels: int
    stride: int = 1


@dataclass(frozen=True)
class MaxPool:
    """Largest value of a window; padding, as a convolution's, never wins."""

    op: ClassVar[str] = "maxpool"
    name: str
    input: str
    kernel: int
    stride: int = 1
    padding: int = 0
    padding_end: int | None = None


@dataclass(frozen=True)
class AvgPool:
    """Average of a window of the input read at 8 bits; padding counts as zero."""

    op: ClassVar[str] = "avgpool"
    name: str
    input: str
    kernel: int
    stride: int = 1
    padding: int = 0


@dataclass(frozen=True)
class Pool:
    """Global average over height and width of the input read at 8 bits."""

    op: ClassVar[str] = "pool"
    name: str
    input: str


@dataclass(frozen=True)
class Resize:
    """The input at another size: ``nearest`` picks pixels, ``bilinear`` sums four of the input read at 8 bits."""

    op: ClassVar[str] = "resize"
    name: str
    input: str
    height: int
    width: int
    mode: str = "nearest"


@dataclass(frozen=True)
class Concat:
    """Two or more values of equal height and width, one behind the other along the channels."""

    op: ClassVar[str] = "concat"
    name: str
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Linear:
    """Fully connected layer with a bias, no batch norm; always at 8 bits."""

    op: ClassVar[str] = "linear"
    name: str
    input: str
    channels: int


Node = Conv | Shortcut | MaxPool | AvgPool | Pool | Resize | Concat | Linear
SummingNode = Conv | AvgPool | Pool | Resize | Linear
"""Nodes that sum codes; a :class:`Resize` only where it is bilinear."""

NODE_TYPES: Mapping[str, type[Node]] = {
    node.op: node for node in (Conv, Shortcut, MaxPool, AvgPool, Pool, Resize, Concat, Linear)
}
RESIZE_MODES = ("nearest", "bilinear")


def sums(node: Node) -> TypeGuard[SummingNode]:
    """Return whether a node sums codes; otherwise it is a selection."""
    return not isinstance(node, Shortcut | MaxPool | Concat) and not (
        isinstance(node, Resize) and node.mode == "nearest"
    )


def borders(node: Conv | MaxPool | AvgPool) -> tuple[int, int]:
    """Return the padding of a window: at the top and left, and at the bottom and right."""
    end = None if isinstance(node, AvgPool) else node.padding_end
    return node.padding, node.padding if end is None else end


@dataclass(frozen=True)
class Graph:
    """Nodes in order of execution; the last one makes the output.

    Construction checks that there are not too many nodes, names are plain and unique and inputs exist and are of the
    right kind (the image's codes go into a convolution or a pool only); :meth:`shapes` checks the geometry, and that it
    asks for no more memory than the format allows. Both raise :class:`~bitgear.errors.GraphError` naming the node.
    """

    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        if not self.nodes:
            raise GraphError("the graph has no nodes")
        if len(self.nodes) > MAX_NODES:
            raise GraphError(f"the graph has {len(self.nodes)} nodes; a master has {MAX_NODES} at most")
        known = {IMAGE}
        for node in self.nodes:
            if not _NAME.fullmatch(node.name):
                raise GraphError(f"node name {quoted(node.name)} is not 1 to 128 characters of A-Z a-z 0-9 . _ -")
            if node.name in known:
                raise GraphError(f"node name {node.name!r} is used twice")
            for value in self.inputs(node):
                if value not in known:
                    raise GraphError(f"node {node.name!r} reads {quoted(value)}, which no earlier node makes")
            floats = self.inputs(node)[1:] if isinstance(node, Conv | Pool) else self.inputs(node)
            if IMAGE in floats:
                raise GraphError(f"node {node.name!r} reads the image where it needs floats; the image holds codes")
            if isinstance(node, Conv) and node.clip is not None and not node.relu:
                raise GraphError(f"node {node.name!r} has a clip but no ReLU; a clip bounds a ReLU from above")
            if isinstance(node, Concat) and len(node.inputs) < 2:
                raise GraphError(f"node {node.name!r} joins {len(node.inputs)} values; a concat needs two or more")
            known.add(node.name)

    @staticmethod
    def inputs(node: Node) -> tuple[str, ...]:
        """Return the names of the values that a node reads."""
        if isinstance(node, Concat):
            return node.inputs
        residual = node.residual if isinstance(node, Conv) else None
        return (node.input,) if residual is None else (node.input, residual)

    @property
    def convs(self) -> tuple[Conv, ...]:
        """All convolutions, in order."""
        return tuple(node for node in self.nodes if isinstance(node, Conv))

    @property
    def searchable(self) -> tuple[Conv, ...]:
        """The convolutions whose width the graph leaves open, in order."""
        return tuple(conv for conv in self.convs if conv.bits is None)

    def signed(self, value: str) -> bool:
        """Return whether a value can be negative: it then takes signed codes."""
        return self._signed[value]

    @cached_property
    def _signed(self) -> dict[str, bool]:
        signed = {IMAGE: True}
        for node in self.nodes:
            match node:
                case Conv(relu=relu):
                    signed[node.name] = not relu
                case Linear():
                    signed[node.name] = True
                case _:
                    signed[node.name] = any(signed[value] for value in self.inputs(node))
        return signed

    def shapes(self, image: Shape) -> dict[str, Shape]:
        """Return the shape of every value for an ``image`` of shape (3, H, W).

        Raises :class:`~bitgear.errors.GraphError` naming the first node that does not fit or makes too much.
        """
        shapes: dict[str, Shape] = {IMAGE: image}
        total = 0
        for node in self.nodes:
            _check_numbers(node)
            sources = [shapes[value] for value in self.inputs(node)]
            shape = _output_shape(node, sources)
            if _terms(node, sources[0]) > MAX_TERMS.get(node.op, 0):
                raise GraphError(
                    f"node {node.name!r} sums more than {MAX_TERMS[node.op]} terms; accumulators have 32 bits"
                )
            if any(size < 1 for size in shape):
                raise GraphError(f"node {node.name!r} would make a value of shape {shape} from {sources[0]}")
            if max(shape) > MAX_SIDE:
                raise GraphError(
                    f"node {node.name!r} would make a value of shape {shape}; an axis has {MAX_SIDE} positions at most"
                )
            _check_elements(node, "would make a value", shape)
            total += math.prod(shape)
            if total > MAX_TOTAL_ELEMENTS:
                raise GraphError(
                    f"the values up to that of node {node.name!r} have {total} elements; those of one picture have "
                    f"{MAX_TOTAL_ELEMENTS} at most; give a smaller picture or fewer channels"
                )
            if isinstance(node, Conv) and node.residual is not None and shapes[node.residual] != shape:
                raise GraphError(
                    f"node {node.name!r} adds {node.residual!r} of shape {shapes[node.residual]} to {shape}; "
                    "a residual needs the shape of the output"
                )
            shapes[node.name] = shape
        return shapes

    def to_json(self) -> list[dict[str, Any]]:
        """Return the nodes as JSON objects, defaults left out."""
        return [_node_to_json(node) for node in self.nodes]

    @classmethod
    def from_json(cls, items: Any) -> "Graph":
        """Return the graph of a list of JSON objects; raise :class:`GraphError` or :class:`UnknownNode`."""
        if not isinstance(items, list):
            raise GraphError(f"the graph must be a list of nodes, got {type(items).__name__}")
        return cls(tuple(_node_from_json(item) for item in items))


MAX_TERMS: Mapping[str, int] = {"conv": 1 << 16, "linear": 1 << 16, "pool": 1 << 23}
"""How many terms an accumulator may sum: that many of 255 * -128, or of 255, fit an int32.

A bilinear resize always sums four, with weights of 2**14 together, and an average pool a window of :data:`MAX_WINDOW`
squared at most.
"""


def _terms(node: Node, source: Shape) -> int:
    match node:
        case Conv():
            return source[0] // node.groups * node.kernel**2
        case Linear():
            return source[0]
        case Pool():
            return source[1] * source[2]
        case _:
            return 0


def _check_numbers(node: Node) -> None:
    for name, least in _MINIMUM.items():
        value = getattr(node, name, None)
        if value is not None and value < least:
            raise GraphError(f"node {node.name!r} has {name} {value}; the least is {least}")


def _output_shape(node: Node, sources: list[Shape]) -> Shape:
    source = sources[0]
    if isinstance(node, Linear):
        if len(source) != 1:
            raise GraphError(f"node {node.name!r} needs a (C,) input, got {source}")
        return (node.channels,)
    for shape in sources if isinstance(node, Concat) else (source,):
        if len(shape) != 3:
            raise GraphError(f"node {node.name!r} needs a (C, H, W) input, got {shape}")
    match node:
        case Conv():
            if source[0] % node.groups or node.channels % node.groups:
                raise GraphError(
                    f"node {node.name!r} splits {source[0]} input and {node.channels} output channels into "
                    f"{node.groups} groups; both must be multiples"
                )
            return (node.channels, *_window_positions(node, source))
        case MaxPool():
            if max(borders(node)) >= node.kernel:
                raise GraphError(
                    f"node {node.name!r} pads {max(borders(node))} pixels for a window of {node.kernel}; "
                    "a window without a pixel has no largest value"
                )
            return (source[0], *_window_positions(node, source))
        case AvgPool():
            return (source[0], *_window_positions(node, source))
        case Shortcut():
            if node.channels < source[0] or (node.channels - source[0]) % 2:
                raise GraphError(f"node {node.name!r} cannot pad {source[0]} channels equally to {node.channels}")
            return (node.channels, *((size - 1) // node.stride + 1 for size in source[1:]))
        case Pool():
            return (source[0],)
        case Resize():
            return (source[0], node.height, node.width)
        case Concat():
            if any(shape[1:] != source[1:] for shape in sources):
                raise GraphError(
                    f"node {node.name!r} joins values of shapes {quoted(sources)}; height and width must be equal"
                )
            return (sum(shape[0] for shape in sources), *source[1:])


def _window_positions(node: Conv | MaxPool | AvgPool, source: Shape) -> list[int]:
    dilation = node.dilation if isinstance(node, Conv) else 1
    if max(node.kernel, dilation) > MAX_WINDOW:
        raise GraphError(
            f"node {node.name!r} has a kernel of {node.kernel} and a dilation of {dilation}; "
            f"both are {MAX_WINDOW} at most"
        )
    padded = [size + sum(borders(node)) for size in source[1:]]
    _check_elements(node, "pads its input to a value", (source[0], *padded))
    return [(size - dilation * (node.kernel - 1) - 1) // node.stride + 1 for size in padded]


def _check_elements(node: Node, makes: str, shape: Shape) -> None:
    if math.prod(shape) > MAX_ELEMENTS:
        raise GraphError(
            f"node {node.name!r} {makes} of shape {shape}, {math.prod(shape)} elements; a value of one picture has "
            f"{MAX_ELEMENTS} at most; give a smaller picture, fewer channels or less padding"
        )


def _node_to_json(node: Node) -> dict[str, Any]:
    item: dict[str, Any] = {"op": node.op}
    for f in fields(node):
        value = getattr(node, f.name)
        if value != f.default:
            item[f.name] = list(value) if isinstance(value, tuple) else value
    return item


_MINIMUM = {
    "channels": 1, "kernel": 1, "stride": 1, "padding": 0, "padding_end": 0, "groups": 1, "dilation": 1, "height": 1,
    "width": 1,
}  # fmt: skip
LARGEST_FLOAT32 = (2 - 2.0**-23) * 2.0**127


def _node_from_json(item: Any) -> Node:
    if not isinstance(item, dict):
        raise GraphError(f"a node must be an object, got {type(item).__name__}")
    item = dict(item)
    op = item.pop("op", None)
    node_type = NODE_TYPES.get(op) if isinstance(op, str) else None
    if node_type is None:
        raise UnknownNode(f"node type {quoted(op)} is unknown; this version knows {', '.join(NODE_TYPES)}")
    label = f"{op} node {quoted(item.get('name'))}"
    for f in fields(node_type):
        value = item.get(f.name, f.default)
        if not (value is None and f.default is None) and not _valid(f.name, value):
            raise GraphError(f"{label}: field {f.name!r} is missing or invalid")
    unknown = item.keys() - {f.name for f in fields(node_type)}
    if unknown:
        raise GraphError(f"{label}: unknown field {quoted(min(unknown))}")
    if "inputs" in item:
        item["inputs"] = tuple(item["inputs"])
    return node_type(**item)


def _valid(field: str, value: Any) -> bool:
    match field:
        case "name" | "input" | "residual":
            return isinstance(value, str)
        case "inputs":
            return isinstance(value, list) and all(isinstance(name, str) for name in value)
        case "relu":
            return isinstance(value, bool)
        case "mode":
            return value in RESIZE_MODES
        case "bits":
            return type(value) is int and 2 <= value <= 8
        case "clip":
            return type(value) in (int, float) and 2.0**-126 <= value <= LARGEST_FLOAT32
        case _:
            return type(value) is int and _MINIMUM[field] <= value <= MAX_SIDE
