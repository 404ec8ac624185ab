"""Network descriptions: what is accepted, and the error of everything else."""

from typing import Any

import pytest

from bitgear.errors import GraphError, UnknownNode
from bitgear.graph import IMAGE, MAX_TERMS, Conv, Graph, Linear, Pool, Shortcut
from tests.masters import tiny_graph

CONV = {"op": "conv", "name": "c", "input": IMAGE, "channels": 4, "kernel": 3}


def test_json_round_trip_gives_an_equal_graph() -> None:
    graph = tiny_graph()
    assert Graph.from_json(graph.to_json()) == graph


def test_json_leaves_defaults_out_and_keeps_the_rest() -> None:
    plain, full = Conv("c", IMAGE, 4, 3), Conv("d", "c", 4, 1, 2, 3, False, "e", 8)
    assert Graph((plain,)).to_json() == [CONV]
    graph = Graph((plain, Conv("e", "c", 4, 1), full))
    assert graph.to_json()[2] == {
        "op": "conv", "name": "d", "input": "c", "channels": 4, "kernel": 1, "stride": 2, "padding": 3, "relu": False,
        "residual": "e", "bits": 8,
    }  # fmt: skip


def test_shapes_follow_the_geometry() -> None:
    assert tiny_graph(6).shapes((3, 17, 9)) == {
        "image": (3, 17, 9),
        "stem": (6, 17, 9),
        "a.conv1": (6, 17, 9),
        "a.conv2": (6, 17, 9),
        "b.conv1": (12, 9, 5),
        "b.shortcut": (12, 9, 5),
        "b.conv2": (12, 9, 5),
        "pool": (12,),
        "head": (10,),
    }


@pytest.mark.parametrize(
    ("node", "image", "shape"),
    [
        (Conv("c", IMAGE, 5, 3), (3, 8, 8), (5, 6, 6)),
        (Conv("c", IMAGE, 5, 3, stride=2), (3, 8, 8), (5, 3, 3)),
        (Conv("c", IMAGE, 5, 3, stride=3, padding=2), (3, 8, 7), (5, 4, 3)),
        (Conv("c", IMAGE, 5, 8), (3, 8, 8), (5, 1, 1)),
        (Conv("c", IMAGE, 5, 1, stride=9), (3, 8, 8), (5, 1, 1)),
        (Pool("p", IMAGE), (3, 8, 8), (3,)),
    ],
)
def test_shape_of_one_node(node: Any, image: tuple[int, ...], shape: tuple[int, ...]) -> None:
    assert Graph((node,)).shapes(image)[node.name] == shape


@pytest.mark.parametrize(
    ("nodes", "complaint"),
    [
        ((), "no nodes"),
        ((Conv("", IMAGE, 4, 3),), "''"),
        ((Conv(IMAGE, IMAGE, 4, 3),), "'image' is used twice"),
        ((Conv("c", IMAGE, 4, 3), Conv("c", "c", 4, 3)), "'c' is used twice"),
        ((Conv("c", "c", 4, 3),), "'c' reads 'c'"),
        ((Conv("c", "d", 4, 3), Conv("d", IMAGE, 4, 3)), "'c' reads 'd'"),
        ((Conv("c", IMAGE, 4, 3, residual="d"),), "reads 'd'"),
        ((Conv("c/acc", IMAGE, 4, 3),), "c/acc"),
        ((Conv("c d", IMAGE, 4, 3),), "c d"),
        ((Conv("\ud800", IMAGE, 4, 3),), "name"),
        ((Conv("c\n", IMAGE, 4, 3),), "name"),
        ((Conv("c" * 129, IMAGE, 4, 3),), "name"),
        ((Shortcut("s", IMAGE, 5, 1),), "'s' reads the image"),
        ((Linear("l", IMAGE, 5),), "'l' reads the image"),
        ((Conv("c", IMAGE, 3, 1, residual=IMAGE),), "'c' reads the image"),
    ],
)
def test_construction_names_the_node_that_contradicts(nodes: tuple[Any, ...], complaint: str) -> None:
    with pytest.raises(GraphError, match=complaint):
        Graph(nodes)


STEM = Conv("c", IMAGE, 4, 3, padding=1)


@pytest.mark.parametrize(
    ("nodes", "complaint"),
    [
        ((Conv("big", IMAGE, 4, 9),), "'big' would make"),
        ((STEM, Pool("p", "c"), Conv("d", "p", 4, 1)), r"'d' needs a \(C, H, W\) input"),
        ((STEM, Pool("p", "c"), Pool("q", "p")), r"'q' needs a \(C, H, W\) input"),
        ((STEM, Pool("p", "c"), Shortcut("s", "p", 6)), r"'s' needs a \(C, H, W\) input"),
        ((STEM, Linear("l", "c", 3)), r"'l' needs a \(C,\) input"),
        ((STEM, Shortcut("s", "c", 5)), "'s' cannot pad 4 channels equally to 5"),
        ((STEM, Shortcut("s", "c", 2)), "'s' cannot pad 4 channels equally to 2"),
        ((Conv("c", IMAGE, 1, 1), Pool("p", "c"), Conv("d", "p", 4, 1)), "'d' needs"),
        ((Conv("c", IMAGE, 1, 148, padding=148),), "'c' sums more than 65536 terms"),
        ((Conv("c", IMAGE, 65536, 1), Conv("d", "c", 1, 2)), "'d' sums more than 65536 terms"),
        ((Conv("c", IMAGE, 1, 1, padding=1500), Pool("p", "c")), "'p' sums more than 8388608 terms"),
        ((STEM, Conv("d", "c", 8, 1, residual="c")), "'d' adds 'c'"),
        ((STEM, Conv("d", "c", 4, 1, stride=2, residual="c")), "'d' adds 'c'"),
    ],
)
def test_geometry_names_the_node_that_does_not_fit(nodes: tuple[Any, ...], complaint: str) -> None:
    with pytest.raises(GraphError, match=complaint):
        Graph(nodes).shapes((3, 8, 8))


def test_the_longest_sums_fit_32_bits() -> None:
    assert max(MAX_TERMS["conv"], MAX_TERMS["linear"]) * 255 * 128 < 2**31
    assert MAX_TERMS["pool"] * 255 < 2**31
    assert Graph((Conv("c", IMAGE, 65536, 1), Conv("d", "c", 1, 1))).shapes((3, 8, 8))["d"] == (1, 8, 8)


@pytest.mark.parametrize("items", [None, {}, "conv", 3, {"op": "conv"}])
def test_a_graph_is_a_list(items: Any) -> None:
    with pytest.raises(GraphError, match="must be a list"):
        Graph.from_json(items)


@pytest.mark.parametrize("item", [None, [], "conv", 3, True])
def test_a_node_is_an_object(item: Any) -> None:
    with pytest.raises(GraphError, match="must be an object"):
        Graph.from_json([item])


@pytest.mark.parametrize("op", [None, "", "Conv", "attention", 3, ["conv"], {"conv": 1}])
def test_unknown_node_types_have_an_error_of_their_own(op: Any) -> None:
    with pytest.raises(UnknownNode, match="this version knows conv, shortcut, pool, linear"):
        Graph.from_json([CONV | {"op": op}])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", None), ("name", 3), ("input", None), ("input", ["image"]),
        ("channels", 0), ("channels", -1), ("channels", 4.0), ("channels", True), ("channels", "4"),
        ("channels", 65537),
        ("channels", None), ("kernel", 0), ("kernel", 65537), ("kernel", None), ("stride", 0), ("stride", "1"),
        ("padding", -1), ("padding", None), ("relu", 1), ("relu", None), ("residual", 3), ("bits", 1), ("bits", 9),
        ("bits", 8.0), ("bits", True), ("bits", "8"),
    ],
)  # fmt: skip
def test_each_field_is_checked(name: str, value: Any) -> None:
    with pytest.raises(GraphError, match=f"conv node .*: field '{name}' is missing or invalid"):
        Graph.from_json([CONV | {name: value}])


@pytest.mark.parametrize("name", ["name", "input", "channels", "kernel"])
def test_required_fields_may_not_be_left_out(name: str) -> None:
    with pytest.raises(GraphError, match=f"'{name}' is missing"):
        Graph.from_json([{k: v for k, v in CONV.items() if k != name}])


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(GraphError, match="unknown field 'dilation'"):
        Graph.from_json([CONV | {"dilation": 2}])
    with pytest.raises(GraphError, match="unknown field 'kernel'"):
        Graph.from_json([CONV, {"op": "pool", "name": "p", "input": "c", "kernel": 3}])


def test_reading_a_graph_leaves_the_json_alone() -> None:
    item = dict(CONV)
    Graph.from_json([item])
    assert item == CONV


@pytest.mark.parametrize(
    ("value", "signed"), [(IMAGE, True), ("c", False), ("d", True), ("s", True), ("t", False), ("p", True), ("l", True)]
)
def test_sign_comes_from_the_last_layer_that_decides(value: str, signed: bool) -> None:
    nodes = (
        Conv("c", IMAGE, 4, 3), Conv("d", "c", 4, 1, relu=False), Shortcut("s", "d", 6), Shortcut("t", "c", 6),
        Pool("p", "s"), Linear("l", "p", 2),
    )  # fmt: skip
    assert Graph(nodes).signed(value) is signed


def test_a_long_chain_of_shortcuts_does_not_exhaust_the_stack() -> None:
    chain = [Shortcut(f"s{i}", f"s{i - 1}" if i else "c", 4) for i in range(3000)]
    assert Graph((STEM, *chain)).signed("s2999") is False


def test_convs_are_listed_in_order() -> None:
    assert [conv.name for conv in tiny_graph().convs] == ["stem", "a.conv1", "a.conv2", "b.conv1", "b.conv2"]
