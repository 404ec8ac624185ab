"""The network as a short list of typed nodes.

A node reads named *values* and makes one, under its own name. By definition a value is float32, (N, C, H, W) or (N, C);
every reader quantises what it reads with scales of its own, so an engine never has to store a float: it may write, in
the epilogue of a node, just the integer tensors that the readers want. ``docs/format.md`` defines the arithmetic.

The value ``image`` is the input: int8 codes of the picture (see :class:`bitgear.checkpoint.InputRecord`).
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from bitgear.errors import GraphError, UnknownNode

IMAGE = "image"
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}", re.ASCII)

Shape = tuple[int, ...]
"""Shape of a value without the batch: (C, H, W) or (C,)."""


@dataclass(frozen=True)
class Conv:
    """Convolution, folded batch norm, then an optional residual sum, then an optional ReLU.

    ``bits`` pins the node to a width whatever the request asks; None follows the request. ``residual`` names a value
    of the output's shape; it is read at 8 bits whatever the width.
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


@dataclass(frozen=True)
class Shortcut:
    """Parameter-free shortcut: every ``stride``-th pixel, zero channels on both sides up to ``channels``."""

    op: ClassVar[str] = "shortcut"
    name: str
    input: str
    channels: int
    stride: int = 1


@dataclass(frozen=True)
class Pool:
    """Global average over height and width of the input read at 8 bits."""

    op: ClassVar[str] = "pool"
    name: str
    input: str


@dataclass(frozen=True)
class Linear:
    """Fully connected layer with a bias, no batch norm; always at 8 bits."""

    op: ClassVar[str] = "linear"
    name: str
    input: str
    channels: int


Node = Conv | Shortcut | Pool | Linear
NODE_TYPES: Mapping[str, type[Node]] = {node.op: node for node in (Conv, Shortcut, Pool, Linear)}


@dataclass(frozen=True)
class Graph:
    """Nodes in order of execution; the last one makes the output.

    Construction checks that names are plain and unique and inputs exist and are of the right kind (the image's codes
    go into a convolution or a pool only); :meth:`shapes` checks the geometry. Both raise
    :class:`~bitgear.errors.GraphError` naming the node.
    """

    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        if not self.nodes:
            raise GraphError("the graph has no nodes")
        known = {IMAGE}
        for node in self.nodes:
            if not _NAME.fullmatch(node.name):
                raise GraphError(f"node name {node.name[:128]!r} is not 1 to 128 characters of A-Z a-z 0-9 . _ -")
            if node.name in known:
                raise GraphError(f"node name {node.name!r} is used twice")
            for value in self.inputs(node):
                if value not in known:
                    raise GraphError(f"node {node.name!r} reads {value!r}, which no earlier node makes")
            floats = self.inputs(node)[1:] if isinstance(node, Conv | Pool) else self.inputs(node)
            if IMAGE in floats:
                raise GraphError(f"node {node.name!r} reads the image where it needs floats; the image holds codes")
            known.add(node.name)

    @staticmethod
    def inputs(node: Node) -> tuple[str, ...]:
        """Return the names of the values that a node reads."""
        residual = node.residual if isinstance(node, Conv) else None
        return (node.input,) if residual is None else (node.input, residual)

    @property
    def convs(self) -> tuple[Conv, ...]:
        """All convolutions, in order."""
        return tuple(node for node in self.nodes if isinstance(node, Conv))

    def signed(self, value: str) -> bool:
        """Return whether a value can be negative: it then takes signed codes."""
        by_name = {node.name: node for node in self.nodes}
        while value != IMAGE:
            match by_name[value]:
                case Conv(relu=relu):
                    return not relu
                case Linear():
                    return True
                case Shortcut(input=source) | Pool(input=source):
                    value = source
        return True

    def shapes(self, image: Shape) -> dict[str, Shape]:
        """Return the shape of every value for an ``image`` of shape (3, H, W)."""
        shapes: dict[str, Shape] = {IMAGE: image}
        for node in self.nodes:
            shape = _output_shape(node, shapes[node.input])
            if _terms(node, shapes[node.input]) > MAX_TERMS[node.op]:
                raise GraphError(
                    f"node {node.name!r} sums more than {MAX_TERMS[node.op]} terms; accumulators have 32 bits"
                )
            if any(size < 1 for size in shape):
                raise GraphError(f"node {node.name!r} would make a value of shape {shape} from {shapes[node.input]}")
            if isinstance(node, Conv) and node.residual is not None and shapes[node.residual] != shape:
                raise GraphError(
                    f"node {node.name!r} adds {node.residual!r} of shape {shapes[node.residual]} to {shape}; "
                    "a residual needs the shape of the output"
                )
            shapes[node.name] = shape
        return shapes

    def to_json(self) -> list[dict[str, Any]]:
        """Return the nodes as JSON objects, defaults left out."""
        return [
            {"op": node.op} | {f.name: value for f in fields(node) if (value := asdict(node)[f.name]) != f.default}
            for node in self.nodes
        ]

    @classmethod
    def from_json(cls, items: Any) -> "Graph":
        """Return the graph of a list of JSON objects; raise :class:`GraphError` or :class:`UnknownNode`."""
        if not isinstance(items, list):
            raise GraphError(f"the graph must be a list of nodes, got {type(items).__name__}")
        return cls(tuple(_node_from_json(item) for item in items))


MAX_TERMS: Mapping[str, int] = {"conv": 1 << 16, "linear": 1 << 16, "pool": 1 << 23, "shortcut": 0}
"""How many terms an accumulator may sum: that many of 255 * -128, or of 255, fit an int32."""


def _terms(node: Node, source: Shape) -> int:
    match node:
        case Conv():
            return source[0] * node.kernel**2
        case Linear():
            return source[0]
        case Pool():
            return source[1] * source[2]
        case Shortcut():
            return 0


def _output_shape(node: Node, source: Shape) -> Shape:
    match node:
        case Conv() | Shortcut() | Pool() if len(source) != 3:
            raise GraphError(f"node {node.name!r} needs a (C, H, W) input, got {source}")
        case Linear() if len(source) != 1:
            raise GraphError(f"node {node.name!r} needs a (C,) input, got {source}")
        case Conv():
            sides = [(size + 2 * node.padding - node.kernel) // node.stride + 1 for size in source[1:]]
            return (node.channels, *sides)
        case Shortcut():
            if node.channels < source[0] or (node.channels - source[0]) % 2:
                raise GraphError(f"node {node.name!r} cannot pad {source[0]} channels equally to {node.channels}")
            return (node.channels, *((size - 1) // node.stride + 1 for size in source[1:]))
        case Pool():
            return (source[0],)
        case Linear():
            return (node.channels,)


_MINIMUM = {"channels": 1, "kernel": 1, "stride": 1, "padding": 0}


def _node_from_json(item: Any) -> Node:
    if not isinstance(item, dict):
        raise GraphError(f"a node must be an object, got {type(item).__name__}")
    item = dict(item)
    op = item.pop("op", None)
    node_type = NODE_TYPES.get(op) if isinstance(op, str) else None
    if node_type is None:
        raise UnknownNode(f"node type {op!r} is unknown; this version knows {', '.join(NODE_TYPES)}")
    label = f"{op} node {item.get('name')!r}"
    for f in fields(node_type):
        value = item.get(f.name, f.default)
        if f.name in ("name", "input"):
            valid = isinstance(value, str)
        elif f.name == "residual":
            valid = value is None or isinstance(value, str)
        elif f.name == "relu":
            valid = isinstance(value, bool)
        elif f.name == "bits":
            valid = value is None or (type(value) is int and 2 <= value <= 8)
        else:
            valid = type(value) is int and _MINIMUM[f.name] <= value <= 65536
        if not valid:
            raise GraphError(f"{label}: field {f.name!r} is missing or invalid")
    unknown = item.keys() - {f.name for f in fields(node_type)}
    if unknown:
        raise GraphError(f"{label}: unknown field {sorted(unknown)[0]!r}")
    return node_type(**item)
