"""Graphs of every node: one for each kind, and random ones."""

from typing import Any

import numpy as np

from bitgear.bits import WIDTHS, LayerBits, Plan
from bitgear.errors import GraphError
from bitgear.graph import IMAGE, AvgPool, Concat, Conv, Graph, Linear, MaxPool, Node, Pool, Resize, Shape, Shortcut


def ends(*nodes: Any) -> Graph:
    """A graph of these nodes behind an unsigned ``u`` and a signed ``s`` of six channels."""
    return Graph((Conv("u", IMAGE, 6, 3, padding=1), Conv("s", "u", 6, 1, relu=False), *nodes))


NODES = {
    "grouped": ends(Conv("c", "u", 9, 3, groups=3, padding=1)),
    "depthwise": ends(Conv("c", "s", 6, 3, groups=6, stride=2, padding=1, relu=False)),
    "channel multiplier": ends(Conv("c", "s", 18, 2, groups=6)),
    "dilated": ends(Conv("c", "u", 4, 3, dilation=2, padding=2, stride=2)),
    "dilated and grouped": ends(Conv("c", "s", 4, 2, dilation=3, groups=2, padding=1, padding_end=2)),
    "padded at the end": ends(Conv("c", "u", 4, 3, stride=2, padding_end=1)),
    "padded at the start": ends(Conv("c", "s", 4, 3, stride=2, padding=2, padding_end=0)),
    "relu6": ends(Conv("c", "s", 8, 1, clip=6.0)),
    "relu of a residual sum, clipped": ends(Conv("c", "u", 6, 3, padding=1, residual="s", clip=0.7)),
    "largest": ends(MaxPool("c", "u", 3, stride=2, padding=1)),
    "largest of signed": ends(MaxPool("c", "s", 3, stride=2, padding=2, padding_end=1)),
    "largest, ragged": ends(MaxPool("c", "s", 2, padding_end=1)),
    "average": ends(AvgPool("c", "u", 3, stride=2, padding=1)),
    "average of signed": ends(AvgPool("c", "s", 2, padding=3)),
    "nearest up": ends(Resize("c", "s", 11, 16)),
    "nearest down": ends(Resize("c", "u", 3, 5)),
    "bilinear up": ends(Resize("c", "u", 11, 16, "bilinear")),
    "bilinear down": ends(Resize("c", "s", 3, 5, "bilinear")),
    "bilinear of one row": ends(Conv("row", "s", 24, 7, relu=False), Resize("c", "row", 2, 3, "bilinear")),
    "joined": ends(Concat("c", ("u", "u"))),
    "joined, signed": ends(Concat("k", ("u", "s", "u")), Conv("c", "k", 3, 1, relu=False)),
    "joined, signed, read at 8 bits": ends(Concat("k", ("s", "u")), AvgPool("c", "k", 2)),
    "selections of selections": ends(
        MaxPool("m", "u", 3, stride=2), Resize("n", "m", 7, 9), Resize("w", "s", 7, 9), Concat("k", ("n", "w", "n")),
        Shortcut("c", "k", 22, 3),
    ),
}  # fmt: skip
"""Small graphs that end in what they are called by; for pictures of 7 pixels and more."""


def random_graph(seed: int, side_px: int = 17, count: int = 8) -> Graph:
    """A valid graph of about ``count`` random nodes for pictures of this size; some values may have no reader.

    It ends in a pool and a linear layer or, one time in three, in a convolution, average pool or bilinear resize.
    """
    rng = np.random.default_rng(seed)
    stem = Conv(
        "stem", IMAGE, _pick(rng, 5, 8, 16), _pick(rng, 1, 3, 7), _pick(rng, 1, 1, 2), _pick(rng, 0, 1, 3),
        relu=rng.random() < 0.7, bits=_pick(rng, 8, 8, None),
    )  # fmt: skip
    nodes: list[Node] = [stem]
    shapes = Graph(tuple(nodes)).shapes((3, side_px, side_px))
    while len(nodes) < count:
        nodes, shapes = _extended(nodes, _random_node(rng, f"n{len(nodes)}", nodes, shapes), shapes, side_px)
    if rng.random() < 2 / 3:
        return Graph((*nodes, Pool("pool", nodes[-1].name), Linear("head", "pool", 10)))
    last: list[Node] = nodes
    while len(last) == len(nodes):
        node = _random_node(rng, "last", nodes, shapes)
        if isinstance(node, Conv | AvgPool) or (isinstance(node, Resize) and node.mode == "bilinear"):
            last, _ = _extended(nodes, node, shapes, side_px)
    return Graph(tuple(last))


def random_plan(graph: Graph, seed: int, widths: tuple[int, ...] = WIDTHS) -> Plan:
    """Random widths everywhere, and others for a third of the convolutions."""
    rng = np.random.default_rng(seed)

    def layer() -> LayerBits:
        return LayerBits(int(rng.choice(widths)), int(rng.choice(widths)))

    return Plan(layer(), tuple((conv.name, layer()) for conv in graph.convs if rng.random() < 1 / 3))


def _pick(rng: np.random.Generator, *choices: Any) -> Any:
    return choices[rng.integers(len(choices))]


def _extended(
    nodes: list[Node], node: Node, shapes: dict[str, Shape], side_px: int
) -> tuple[list[Node], dict[str, Shape]]:
    """The graph with one node more, or as it is if the node does not fit or makes too much."""
    try:
        longer = Graph((*nodes, node)).shapes((3, side_px, side_px))
    except GraphError:
        return nodes, shapes
    fits = np.prod(longer[node.name]) <= 20_000 and longer[node.name][0] <= 100
    return ([*nodes, node], longer) if fits else (nodes, shapes)


def _random_node(rng: np.random.Generator, name: str, nodes: list[Node], shapes: dict[str, Shape]) -> Node:
    """A node that reads the newest value or, now and then, another; it may not fit."""
    source = nodes[-1].name if rng.random() < 0.7 else _pick(rng, *nodes).name
    channels, height, width = shapes[source]
    alike = [node.name for node in nodes if shapes[node.name][1:] == (height, width)]
    kernel = _pick(rng, 1, 2, 3, 3, 5)
    window = {"kernel": kernel, "stride": _pick(rng, 1, 1, 2, 3), "padding": int(rng.integers(0, kernel))}
    end = _pick(rng, None, int(rng.integers(0, kernel)))
    match _pick(
        rng, "conv", "residual", "groups", "depthwise", "max", "avg", "nearest", "bilinear", "concat", "shortcut"
    ):
        case "max":
            return MaxPool(name, source, **window, padding_end=end)
        case "avg":
            return AvgPool(name, source, **window)
        case "nearest" | "bilinear" as mode:
            sides = [int(rng.integers(1, 2 * side + 2)) for side in (height, width)]
            return Resize(name, source, *sides, mode)
        case "concat":
            return Concat(name, (source, *(_pick(rng, *alike) for _ in range(rng.integers(1, 3)))))
        case "shortcut":
            return Shortcut(name, source, channels + 2 * int(rng.integers(0, 4)), window["stride"])
        case "residual":
            other = _pick(rng, *alike)
            made, geometry = shapes[other][0], {"kernel": 3, "padding": 1, "residual": other}
        case "groups":
            groups = _pick(rng, 2, 3, 4)
            made, geometry = groups * int(rng.integers(1, 6)), {**window, "groups": groups}
        case "depthwise":
            made, geometry = channels * _pick(rng, 1, 1, 2), {**window, "groups": channels}
        case _:
            made, geometry = int(rng.integers(1, 40)), {**window, "padding_end": end}
    relu = rng.random() < 0.7
    return Conv(
        name, source, made, **geometry, dilation=1 if "residual" in geometry else _pick(rng, 1, 1, 1, 2), relu=relu,
        clip=_pick(rng, None, 6.0, 1.5) if relu else None, bits=_pick(rng, None, None, None, None, 8, 3),
    )  # fmt: skip
