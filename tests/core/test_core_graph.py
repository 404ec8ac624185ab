"""Network descriptions: what is accepted, and the error of everything else."""

import json
import math
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgear.errors import GraphError, UnknownNode
from bitgear.graph import (
    IMAGE,
    MAX_ELEMENTS,
    MAX_NODES,
    MAX_TERMS,
    MAX_WINDOW,
    NODE_TYPES,
    AvgPool,
    Concat,
    Conv,
    Graph,
    Linear,
    MaxPool,
    Pool,
    Resize,
    Shortcut,
    borders,
    sums,
)
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


EVERY = (
    Conv("c", IMAGE, 4, 3, 2, 1, clip=6.0, groups=1, dilation=2, padding_end=0),
    MaxPool("m", "c", 3, 2, 1, 0),
    AvgPool("a", "m", 2, 2, 1),
    Resize("r", "a", 5, 7, "bilinear"),
    Resize("n", "c", 5, 7),
    Concat("k", ("r", "n", "r")),
    Shortcut("s", "k", 14),
    Conv("d", "s", 14, 1, groups=7, relu=False, residual="s", bits=3),
    Pool("p", "d"),
    Linear("l", "p", 2),
)


def test_every_node_goes_through_json() -> None:
    graph = Graph(EVERY)
    items = graph.to_json()
    assert {item["op"] for item in items} == set(NODE_TYPES)
    assert items[0] == {
        "op": "conv", "name": "c", "input": IMAGE, "channels": 4, "kernel": 3, "stride": 2, "padding": 1,
        "dilation": 2, "padding_end": 0, "clip": 6.0,
    }  # fmt: skip
    assert items[1] == {
        "op": "maxpool", "name": "m", "input": "c", "kernel": 3, "stride": 2, "padding": 1, "padding_end": 0
    }  # fmt: skip
    assert items[3] == {"op": "resize", "name": "r", "input": "a", "height": 5, "width": 7, "mode": "bilinear"}
    assert items[4] == {"op": "resize", "name": "n", "input": "c", "height": 5, "width": 7}
    assert items[5] == {"op": "concat", "name": "k", "inputs": ["r", "n", "r"]}
    read = Graph.from_json(json.loads(json.dumps(items)))
    assert read == graph
    assert hash(read) == hash(graph)


def test_shapes_of_every_node() -> None:
    shapes = Graph(EVERY).shapes((3, 24, 17))
    assert {name: shapes[name] for name in "cmarnksd"} == {
        "c": (4, 11, 7), "m": (4, 5, 3), "a": (4, 3, 2), "r": (4, 5, 7), "n": (4, 5, 7), "k": (12, 5, 7),
        "s": (14, 5, 7), "d": (14, 5, 7),
    }  # fmt: skip


@settings(deadline=None, database=None, max_examples=300)
@given(data=st.data())
def test_damaged_json_gives_a_named_error_or_a_graph(data: st.DataObject) -> None:
    items = Graph(EVERY).to_json()
    item = data.draw(st.sampled_from(items))
    names = sorted({f.name for node in NODE_TYPES.values() for f in fields(node)} | {"op"})
    values = st.sampled_from([*NODE_TYPES, *(node.name for node in EVERY), IMAGE, "bilinear", []]) | st.lists(
        st.sampled_from([*"cmarnk", 3, None]), max_size=4
    )
    values |= st.none() | st.booleans() | st.integers() | st.floats()
    item[data.draw(st.sampled_from(names))] = data.draw(values)
    try:
        graph = Graph.from_json(items)
        graph.shapes((3, 24, 17))
    except GraphError:
        return
    assert Graph.from_json(graph.to_json()) == graph


def test_selections_move_and_the_others_sum() -> None:
    assert [node.name for node in EVERY if not sums(node)] == ["m", "n", "k", "s"]


def test_padding_at_the_end_is_that_at_the_start_unless_given() -> None:
    assert [borders(node) for node in EVERY if isinstance(node, Conv | MaxPool | AvgPool)] == [
        (1, 0), (1, 0), (1, 1), (0, 0),
    ]  # fmt: skip
    assert borders(Conv("c", IMAGE, 1, 1, padding=2)) == borders(MaxPool("m", "c", 3, padding=2)) == (2, 2)
    assert borders(Conv("c", IMAGE, 1, 1, padding_end=2)) == (0, 2)


def test_inputs_are_the_values_that_a_node_reads() -> None:
    assert [Graph.inputs(node) for node in EVERY[4:8]] == [("c",), ("r", "n", "r"), ("k",), ("s", "s")]


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
        (Conv("c", IMAGE, 6, 3, groups=3), (3, 8, 8), (6, 6, 6)),
        (Conv("c", IMAGE, 5, 3, dilation=3), (3, 8, 7), (5, 2, 1)),
        (Conv("c", IMAGE, 5, 3, dilation=2, padding=2, stride=2), (3, 8, 7), (5, 4, 4)),
        (Conv("c", IMAGE, 5, 3, stride=2, padding_end=1), (3, 8, 7), (5, 4, 3)),
        (Conv("c", IMAGE, 5, 3, padding=2, padding_end=0), (3, 8, 7), (5, 8, 7)),
        (Conv("c", IMAGE, 5, 1, dilation=255), (3, 8, 8), (5, 8, 8)),
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
        ((MaxPool("m", IMAGE, 2),), "'m' reads the image"),
        ((AvgPool("a", IMAGE, 2),), "'a' reads the image"),
        ((Resize("r", IMAGE, 2, 2),), "'r' reads the image"),
        ((Resize("r", IMAGE, 2, 2, "bilinear"),), "'r' reads the image"),
        ((Conv("c", IMAGE, 3, 1), Concat("k", ("c", IMAGE))), "'k' reads the image"),
        ((Conv("c", IMAGE, 3, 1), Concat("k", ("c", "d"))), "'k' reads 'd'"),
        ((Conv("c", IMAGE, 3, 1), Concat("k", ("c", "k"))), "'k' reads 'k'"),
        ((Conv("c", IMAGE, 3, 1), Concat("k", ("c",))), "'k' joins 1 values"),
        ((Concat("k", ()),), "'k' joins 0 values"),
        ((Conv("c", IMAGE, 3, 1, relu=False, clip=6.0),), "'c' has a clip but no ReLU"),
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
        ((STEM, Conv("d", "c", 4, 1, groups=3)), "'d' splits 4 input and 4 output channels into 3 groups"),
        ((STEM, Conv("d", "c", 6, 1, groups=4)), "'d' splits 4 input and 6 output channels into 4 groups"),
        ((Conv("c", IMAGE, 4, 1, groups=2),), "'c' splits 3 input"),
        ((Conv("c", IMAGE, 4, 3, dilation=4),), "'c' would make"),
        ((STEM, MaxPool("m", "c", 9)), "'m' would make"),
        ((STEM, MaxPool("m", "c", 2, padding=2)), "'m' pads 2 pixels for a window of 2"),
        ((STEM, MaxPool("m", "c", 2, padding_end=2)), "'m' pads 2 pixels for a window of 2"),
        ((STEM, AvgPool("a", "c", 9)), "'a' would make"),
        ((STEM, Pool("p", "c"), MaxPool("m", "p", 1)), r"'m' needs a \(C, H, W\) input"),
        ((STEM, Pool("p", "c"), AvgPool("a", "p", 1)), r"'a' needs a \(C, H, W\) input"),
        ((STEM, Pool("p", "c"), Resize("r", "p", 1, 1)), r"'r' needs a \(C, H, W\) input"),
        ((STEM, Pool("p", "c"), Concat("k", ("c", "p"))), r"'k' needs a \(C, H, W\) input, got \(4,\)"),
        ((STEM, Pool("p", "c"), Concat("k", ("p", "p"))), r"'k' needs a \(C, H, W\) input"),
        ((STEM, Resize("r", "c", 8, 7), Concat("k", ("c", "r"))), "'k' joins values of shapes"),
        ((STEM, Resize("r", "c", 9, 8), Concat("k", ("c", "c", "r"))), "'k' joins values of shapes"),
        ((STEM, Conv("d", "c", 4, 1, stride=2, residual="c")), "'d' adds 'c'"),
        ((STEM, Conv("d", "c", 4, 1, stride=0)), "'d' has stride 0; the least is 1"),
        ((STEM, Conv("d", "c", 4, 1, groups=0)), "'d' has groups 0"),
        ((STEM, Conv("d", "c", 4, 3, padding=1, padding_end=-1)), "'d' has padding_end -1; the least is 0"),
        ((STEM, Shortcut("s", "c", 4, stride=0)), "'s' has stride 0"),
    ],
)
def test_geometry_names_the_node_that_does_not_fit(nodes: tuple[Any, ...], complaint: str) -> None:
    with pytest.raises(GraphError, match=complaint):
        Graph(nodes).shapes((3, 8, 8))


def test_the_longest_sums_fit_32_bits() -> None:
    assert max(MAX_TERMS["conv"], MAX_TERMS["linear"]) * 255 * 128 < 2**31
    assert max(MAX_TERMS["pool"], MAX_WINDOW**2) * 255 < 2**31
    depthwise = Graph((Conv("c", IMAGE, 64, 1), Conv("d", "c", 64, 255, padding=128, groups=64)))
    assert depthwise.shapes((3, 8, 8))["d"] == (64, 10, 10)
    assert Graph((STEM, AvgPool("a", "c", 255, padding=200))).shapes((3, 8, 8))["a"] == (4, 154, 154)
    assert Graph((Conv("c", IMAGE, 65536, 1), Conv("d", "c", 1, 1))).shapes((3, 8, 8))["d"] == (1, 8, 8)


@pytest.mark.parametrize(
    ("nodes", "complaint"),
    [
        ((STEM, AvgPool("a", "c", 256, padding=200)), "'a' has a kernel of 256 and a dilation of 1; both are 255"),
        ((STEM, MaxPool("m", "c", 256, padding=255)), "'m' has a kernel of 256"),
        ((Conv("k", IMAGE, 1, 256, padding=200),), "'k' has a kernel of 256"),
        ((Conv("d", IMAGE, 1, 1, dilation=256),), "'d' has a kernel of 1 and a dilation of 256"),
        ((STEM, Resize("r", "c", 65536, 65536)), "'r' would make a value of shape .* 17179869184 elements"),
        ((STEM, Resize("r", "c", 8192, 8193)), "'r' would make .* 268435456 at most"),
        ((Conv("p", IMAGE, 1, 1, padding=65536),), "'p' pads its input to a value of shape"),
        ((STEM, AvgPool("p", "c", 2, stride=65536, padding=8192)), "'p' pads its input"),
        ((STEM, MaxPool("w", "c", 1), Resize("r", "w", 1, 65536), Conv("p", "r", 1, 1, padding=1)), "'p' would make"),
        (
            (Conv("c", IMAGE, 40000, 1), Concat("k", ("c", "c"))),
            r"'k' would make .* \(80000, 8, 8\); an axis has 65536",
        ),
        ((STEM, *(Resize(f"r{i}", "c", 8192, 8192) for i in range(9))), "up to that of node 'r7' have 2147483904"),
    ],
)
def test_a_network_that_asks_for_too_much_is_refused(nodes: tuple[Any, ...], complaint: str) -> None:
    with pytest.raises(GraphError, match=complaint):
        Graph(nodes).shapes((3, 8, 8))


def test_the_largest_picture_and_the_largest_values_are_allowed() -> None:
    assert Graph((Conv("c", IMAGE, 4, 7, 4, 3), Pool("p", "c"))).shapes((3, 8192, 8192))["c"] == (4, 2048, 2048)
    largest = (STEM, *(Resize(f"r{i}", "c", 8192, 8192) for i in range(7)), MaxPool("m", "r6", 255, 255))
    assert math.prod(Graph(largest).shapes((3, 8, 8))["r6"]) == MAX_ELEMENTS


def test_a_graph_has_so_many_nodes_and_no_more() -> None:
    chain = [MaxPool(f"m{i}", f"m{i - 1}" if i else "c", 1) for i in range(MAX_NODES - 1)]
    assert len(Graph((STEM, *chain)).shapes((3, 8, 8))) == MAX_NODES + 1
    with pytest.raises(GraphError, match="has 4097 nodes; a master has 4096 at most"):
        Graph((STEM, *chain, Pool("p", "c")))


@pytest.mark.parametrize(
    "text", ["\ud800" * 5000, "\x1b[31m", [[["x"] * 5000] * 5000] * 5, {"y" * 5000: None}, 10**4000]
)
def test_what_stands_in_a_hostile_file_is_quoted_in_short(text: Any) -> None:
    """Whatever the field: messages stay short and printable, and go through UTF-8."""
    items = [[CONV | {name: text}] for name in ("op", "name", "input", "kernel")]
    if isinstance(text, str):
        items += [[CONV | {text: 1}], [CONV, {"op": "concat", "name": "k", "inputs": ["c", text]}]]
    for item in items:
        with pytest.raises(GraphError) as caught:
            Graph.from_json(item)
        message = str(caught.value)
        assert message.encode()
        assert message.isprintable()
        assert len(message) < 500


def test_a_concat_of_many_shapes_is_quoted_in_short() -> None:
    graph = Graph((STEM, Resize("r", "c", 2, 2), Concat("k", ("c", "r") * 5000)))
    with pytest.raises(GraphError, match="'k' joins values") as caught:
        graph.shapes((3, 8, 8))
    assert len(str(caught.value)) < 500


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
    with pytest.raises(
        UnknownNode, match="this version knows conv, shortcut, maxpool, avgpool, pool, resize, concat, linear"
    ):
        Graph.from_json([CONV | {"op": op}])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", None), ("name", 3), ("input", None), ("input", ["image"]),
        ("channels", 0), ("channels", -1), ("channels", 4.0), ("channels", True), ("channels", "4"),
        ("channels", 65537),
        ("channels", None), ("kernel", 0), ("kernel", 65537), ("kernel", None), ("stride", 0), ("stride", "1"),
        ("padding", -1), ("padding", None), ("relu", 1), ("relu", None), ("residual", 3), ("bits", 1), ("bits", 9),
        ("bits", 8.0), ("bits", True), ("bits", "8"), ("groups", 0), ("groups", None), ("groups", 1.0),
        ("dilation", 0), ("dilation", 65537), ("padding_end", -1), ("padding_end", True), ("clip", 0), ("clip", -6.0),
        ("clip", "6"), ("clip", True), ("clip", 1e-40), ("clip", 1e39), ("clip", 10**400), ("clip", math.inf),
        ("clip", math.nan),
    ],
)  # fmt: skip
def test_each_field_is_checked(name: str, value: Any) -> None:
    with pytest.raises(GraphError, match=f"conv node .*: field '{name}' is missing or invalid"):
        Graph.from_json([CONV | {name: value}])


RESIZE = {"op": "resize", "name": "r", "input": "c", "height": 2, "width": 3}


@pytest.mark.parametrize(
    ("item", "name", "value"),
    [
        (RESIZE, "height", 0), (RESIZE, "width", None), (RESIZE, "width", 65537), (RESIZE, "mode", "cubic"),
        (RESIZE, "mode", None), (RESIZE, "mode", ["nearest"]), (RESIZE, "input", None),
        ({"op": "concat", "name": "k", "inputs": ["c", "c"]}, "inputs", "cc"),
        ({"op": "concat", "name": "k", "inputs": ["c", "c"]}, "inputs", None),
        ({"op": "concat", "name": "k", "inputs": ["c", "c"]}, "inputs", ["c", 3]),
        ({"op": "maxpool", "name": "m", "input": "c", "kernel": 3}, "kernel", 0),
        ({"op": "maxpool", "name": "m", "input": "c", "kernel": 3}, "padding_end", -1),
        ({"op": "avgpool", "name": "a", "input": "c", "kernel": 3}, "padding", None),
    ],
)  # fmt: skip
def test_each_field_of_the_other_nodes_is_checked(item: dict[str, Any], name: str, value: Any) -> None:
    Graph.from_json([CONV, item])
    with pytest.raises(GraphError, match=f"{item['op']} node .*: field '{name}' is missing or invalid"):
        Graph.from_json([CONV, item | {name: value}])


def test_a_clip_may_be_written_as_a_whole_number() -> None:
    graph = Graph.from_json([CONV | {"clip": 6}])
    assert graph == Graph.from_json(graph.to_json())


@pytest.mark.parametrize("name", ["name", "input", "channels", "kernel"])
def test_required_fields_may_not_be_left_out(name: str) -> None:
    with pytest.raises(GraphError, match=f"'{name}' is missing"):
        Graph.from_json([{k: v for k, v in CONV.items() if k != name}])


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(GraphError, match="unknown field 'dilations'"):
        Graph.from_json([CONV | {"dilations": 2}])
    with pytest.raises(GraphError, match="unknown field 'padding_end'"):
        Graph.from_json([CONV, {"op": "avgpool", "name": "p", "input": "c", "kernel": 3, "padding_end": 1}])
    with pytest.raises(GraphError, match="unknown field 'input'"):
        Graph.from_json([CONV, {"op": "concat", "name": "k", "inputs": ["c", "c"], "input": "c"}])
    with pytest.raises(GraphError, match="unknown field 'kernel'"):
        Graph.from_json([CONV, {"op": "pool", "name": "p", "input": "c", "kernel": 3}])


def test_reading_a_graph_leaves_the_json_alone() -> None:
    item = dict(CONV)
    Graph.from_json([item])
    assert item == CONV


@pytest.mark.parametrize(
    ("value", "signed"),
    [
        (IMAGE, True), ("c", False), ("d", True), ("s", True), ("t", False), ("p", True), ("l", True),
        ("ms", True), ("mu", False), ("as", True), ("au", False), ("rs", True), ("ru", False), ("bu", False),
        ("us", True), ("su", True), ("uu", False), ("uuu", False), ("last", True),
    ],
)  # fmt: skip
def test_sign_comes_from_the_last_layer_that_decides(value: str, signed: bool) -> None:
    nodes = (
        Conv("c", IMAGE, 4, 3), Conv("d", "c", 4, 1, relu=False), Shortcut("s", "d", 6), Shortcut("t", "c", 6),
        Pool("p", "s"), Linear("l", "p", 2), MaxPool("ms", "d", 2), MaxPool("mu", "c", 2), AvgPool("as", "d", 2),
        AvgPool("au", "c", 2), Resize("rs", "d", 2, 2), Resize("ru", "c", 2, 2), Resize("bu", "c", 2, 2, "bilinear"),
        Concat("us", ("c", "d")), Concat("su", ("d", "c")), Concat("uu", ("ru", "bu")), Concat("uuu", ("uu", "uu")),
        Concat("last", ("uu", "rs")),
    )  # fmt: skip
    assert Graph(nodes).signed(value) is signed


def test_a_long_chain_of_shortcuts_does_not_exhaust_the_stack() -> None:
    chain = [Shortcut(f"s{i}", f"s{i - 1}" if i else "c", 4) for i in range(3000)]
    assert Graph((STEM, *chain)).signed("s2999") is False


def test_convs_are_listed_in_order() -> None:
    assert [conv.name for conv in tiny_graph().convs] == ["stem", "a.conv1", "a.conv2", "b.conv1", "b.conv2"]
