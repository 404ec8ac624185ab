"""The native engine gives the reference's floats, bit for bit: every node, width, path, instruction set and batch."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bitgear import reference
from bitgear.bits import WIDTHS, LayerBits, Plan, activation_range
from bitgear.checkpoint import Master, read_master
from bitgear.engines import create_engine
from bitgear.graph import (
    IMAGE,
    AvgPool,
    Concat,
    Conv,
    Graph,
    Linear,
    MaxPool,
    Node,
    Pool,
    Resize,
    Shortcut,
    sums,
)
from bitgear.models import find_master
from bitgear.rounding import derive
from bitgear.tasks.pictures import decode_picture
from tests.graphs import NODES, random_graph, random_plan
from tests.masters import random_codes, random_master
from tests.native.paths import (
    EVERY_FORM,
    EVERY_PATH,
    FORMS,
    MOST_TERMS,
    OFFERED,
    PLANS,
    POOLED,
    STRIDED,
    WORDS,
    NativeModel,
    _native,
    assert_every_set_exact,
    assert_exact,
    derived,
    has_winograd,
    outlier_share,
    stride_of,
    taken,
)

CHANNELS = (1, 2, 3, 5, 8, 16, 17, 31, 33, 64, 65, 130)
BATCHES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 17)
MIXED = tuple(map(Plan.parse, ("w8a7", "w4a8", "w8a4", "w2a4", "w6a3")))


def extreme_codes(master: Master, count: int, seed: int = 0) -> NDArray[np.int8]:
    """Images of the extreme codes alone: the first all low, the second all high, the others of both."""
    q_images = np.where(random_codes(master, count, seed) < 0, -128, 127).astype(np.int8)
    for image, code in zip(q_images, (-128, 127), strict=False):
        image[...] = code
    return q_images


def saturated(master: Master) -> Master:
    """The master with scales so small that nearly every activation takes its lowest or highest code."""
    for name, tensor in master.tensors.items():
        if name.endswith(("act_scale", "residual_scale")):
            tensor *= np.float32(2**-11)
    return master


# -- the dispatcher ---------------------------------------------------------------------------------------------------


def test_every_path_has_plans_to_be_tested_with() -> None:
    for _, _, _, paths in _native.instruction_sets():
        assert {path for path in paths if not path.endswith(WORDS)} <= set(PLANS)
    assert "portable" in OFFERED


def target_graph(node: Conv, in_channels: int, signed: bool, readers: int) -> Graph:
    """A graph that feeds ``node`` with ``in_channels`` channels; 0 readers: its value is the output."""
    nodes: list[Node] = [Conv("x", IMAGE, in_channels, 1, relu=not signed)]
    if node.residual is not None:
        nodes.append(Conv(node.residual, "x", node.channels, 1, relu=not signed))
    nodes.append(node)
    nodes += [Conv(f"y{i}", "t", 4, 1, residual=f"y{i - 1}" if i else None, relu=False) for i in range(readers)]
    return Graph(tuple(nodes))


def bell(master: Master, node: str, seed: int, deviation: float, rare: int) -> None:
    """Give a node weights around zero, as training leaves them, and ``rare`` kernels that are all -128 or all 127."""
    rng = np.random.default_rng(seed)
    weight = master.tensors[f"{node}.weight"]
    weight[...] = np.clip(np.rint(rng.normal(0, deviation, weight.shape)), -128, 127)
    for _ in range(rare):
        weight[rng.integers(weight.shape[0]), rng.integers(weight.shape[1])] = rng.choice([-128, 127])
    gain = master.tensors[f"{node}.gain"]
    gain[...] = np.clip(gain * (74 / deviation), -60000, 60000)  # 74: the deviation before


def check_path(
    master: Master, q_images: NDArray[np.int8], plan: Plan, instruction_set: str, path: str, threads: int = 1
) -> NativeModel:
    """Hold a path against the reference, having seen that the node ``t`` went through it."""
    model = derived(master, plan, instruction_set, path, threads)
    node = next(node for node in master.graph.convs if node.name == "t")
    if path not in FORMS:
        assert taken(model, "t") == {path}
    elif has_winograd(master, node, plan, path):
        assert {name.split()[0] for name in taken(model, "t")} == {path}
    else:
        assert taken(model, "t") <= set(OFFERED[instruction_set])
    assert_exact(model, q_images, reference.run(master, q_images, plan))
    return model


@pytest.mark.parametrize(("instruction_set", "path"), EVERY_PATH)
@settings(deadline=None, database=None, max_examples=50)
@given(data=st.data())
def test_any_geometry_on_every_path(instruction_set: str, path: str, data: st.DataObject) -> None:
    draw = data.draw
    in_channels, channels = draw(st.sampled_from(CHANNELS)), draw(st.sampled_from(CHANNELS))
    side_px = draw(st.integers(1, 19 if in_channels * channels < 1000 else 7))
    kernel, stride, dilation = 3, stride_of(path), 1
    residual = draw(st.booleans()) and stride == 1
    if path not in FORMS:
        kernel = draw(st.sampled_from((1, 2, 3, 5, 7) if not residual else (1, 3, 5)))
        stride = 1 if residual else draw(st.sampled_from((1, 1, 2, 3)))
        dilation = draw(st.sampled_from((1, 1, 2)))
    reach = dilation * (kernel - 1)
    if residual:
        start = end = reach // 2
    else:
        start, end = draw(st.integers(0, 3)), draw(st.integers(0, 3))
        side_px = max(side_px, reach + 1 - start - end)
    relu = draw(st.booleans())
    node = Conv(
        "t", "x", channels, kernel, stride=stride, dilation=dilation, padding=start, padding_end=end, relu=relu,
        clip=draw(st.sampled_from((None, 1.5))) if relu else None, residual="r" if residual else None,
    )  # fmt: skip
    graph = target_graph(node, in_channels, draw(st.booleans()), draw(st.integers(0, 3)))
    seed = draw(st.integers(0, 999))
    master = random_master(graph, side_px, seed, extreme=draw(st.booleans()))
    if draw(st.booleans()):
        bell(master, "t", seed, 15, draw(st.sampled_from((0, 0, 1))))
    plan = Plan.parse(draw(st.sampled_from(PLANS[path])))
    q_images = random_codes(master, draw(st.sampled_from(BATCHES[:4])), seed)
    check_path(master, q_images, plan, instruction_set, path, draw(st.integers(1, 4)))


def at_the_ends(master: Master) -> Master:
    """The master with all channels of ``x`` alike and saturated, and in ``t`` channels of all -128 and of all 127."""
    tensors = saturated(master).tensors
    tensors["x.weight"][...], tensors["x.gain"][...], tensors["x.bias"][...] = 127, 1, 0
    half = len(tensors["t.weight"]) // 3
    tensors["t.weight"][:half], tensors["t.weight"][half : 2 * half] = -128, 127
    return master


def assert_at_the_ends(master: Master, q_images: NDArray[np.int8], plan: Plan) -> None:
    """Assert that ``t`` reads codes at both ends of their range alone."""
    seen: dict[tuple[str, str], NDArray[np.int32]] = {}
    reference.run(master, q_images, plan, lambda name, what, q: seen.update({(name, what): q}))
    ends = activation_range(plan.of("t").act_bits, master.graph.signed("x"))
    assert set(np.unique(seen["t", "input"])) == set(ends)


@pytest.mark.parametrize(("instruction_set", "path"), EVERY_PATH)
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_saturated_tensors_on_every_path(instruction_set: str, path: str, signed: bool) -> None:
    """All weights of a channel at one end, all activations at theirs: the largest sums that there are."""
    node = Conv("t", "x", 33, 3, stride=stride_of(path), padding=1, relu=False)
    graph = target_graph(node, 65, signed, 0)
    master = at_the_ends(random_master(graph, 7, 1, extreme=True))
    q_images = extreme_codes(master, 4)
    for text in PLANS[path]:
        assert_at_the_ends(master, q_images, Plan.parse(text))
        check_path(master, q_images, Plan.parse(text), instruction_set, path)


@pytest.mark.parametrize(("instruction_set", "path"), EVERY_FORM)
@pytest.mark.parametrize(
    ("text", "rare"), [("w6a2", 0), ("w6a2", 5), ("w6a2", 500), ("w5a3", 9), ("w4a3", 20), ("w4a3", 4000)]
)
def test_weights_that_winograd_cannot_hold(instruction_set: str, path: str, text: str, rare: int) -> None:
    """Few are multiplied one by one; where there are many, the path is not taken."""
    node = Conv("t", "x", 70, 3, stride=stride_of(path), padding=1, relu=False)
    graph = target_graph(node, 66, False, 1)
    master = saturated(random_master(graph, 7, 2))
    bell(master, "t", 3, 12, rare)
    plan = Plan.parse(text)
    share = outlier_share(derive(master.tensors["t.weight"], plan.default.weight_bits), path)
    model = check_path(master, extreme_codes(master, 5), plan, instruction_set, path)
    went = {name.split()[0] for name in taken(model, "t")} == {path}
    if FORMS[path][0] > 2 or path == STRIDED:  # larger in many places or in few, or in 16 bits
        assert went is has_winograd(master, graph.convs[1], plan, path)
    elif rare == 0 or (path == "winograd-2x2" and plan.default.weight_bits == 4):
        assert share == 0
        assert went
    elif rare < 100:
        assert 0 < share < 1 / 256
        assert went
    else:
        assert share > 1 / 256
        assert not went


@pytest.mark.parametrize("instruction_set", OFFERED)
@pytest.mark.parametrize("text", ["2", "w4a4", "w8a7", "8"])
def test_long_sums(instruction_set: str, text: str) -> None:
    """Sums of one sign that neither 16 bits nor a float32 could hold, up to the longest that a graph may have."""
    plan = Plan.parse(text)
    for terms, signed in itertools.product(((1300, 5), (65_536, 1)), (False, True)):
        in_channels, kernel = terms
        node = Conv("t", "x", 18, kernel, padding=kernel // 2, relu=False)
        side_px = 3 if kernel > 1 else 1
        master = at_the_ends(random_master(target_graph(node, in_channels, signed, 0), side_px, 4))
        q_images = extreme_codes(master, 3)
        assert_at_the_ends(master, q_images, plan)
        expected = reference.run(master, q_images, plan)
        for path in ("", *(path for path in OFFERED[instruction_set] if text in PLANS[path])):
            model = derived(master, plan, instruction_set, path)
            assert (path in {"", *taken(model, "t")}) is (in_channels * kernel**2 <= MOST_TERMS.get(path, 1 << 16))
            assert_exact(model, q_images, expected)


@pytest.mark.parametrize(("instruction_set", "path"), EVERY_PATH)
@pytest.mark.parametrize("in_channels", [260, 700])
def test_layers_that_are_worked_on_in_strips(instruction_set: str, path: str, in_channels: int) -> None:
    """Layers whose look-up tables or patches do not fit the cache, and whose columns threads share."""
    plan = Plan.parse(PLANS[path][-1])
    for stride, side_px in ((1, 13), (2, 13), (1, 3)):
        if path not in FORMS or stride == stride_of(path):
            node = Conv("t", "x", 70, 3, stride=stride, padding=1)
            master = random_master(target_graph(node, in_channels, False, 1), side_px, 1)
            check_path(master, random_codes(master, 2), plan, instruction_set, path, threads=2)


@pytest.mark.parametrize("in_channels", [4096, 4097])
def test_the_most_channels_that_winograd_takes(in_channels: int) -> None:
    for name, path in EVERY_FORM:
        node = Conv("t", "x", 6, 3, stride=stride_of(path), padding=1)
        master = at_the_ends(random_master(target_graph(node, in_channels, False, 0), 3, 1))
        plan = Plan.parse("2" if FORMS[path][0] == 3 else "w3a3")
        model = check_path(master, extreme_codes(master, 3), plan, name, path)
        assert (taken(model, "t") <= set(OFFERED[name])) is (in_channels > 4096)


# -- from sums to codes -----------------------------------------------------------------------------------------------


@settings(deadline=None, database=None, max_examples=120)
@given(
    seed=st.integers(0, 2**31), exponent=st.integers(-8, 4), bias=st.sampled_from((0, 1, 60, 380, 1000)),
    residual=st.booleans(), relu=st.booleans(), readers=st.integers(1, 3), bits=st.sampled_from(WIDTHS),
)  # fmt: skip
def test_values_on_and_beside_the_boundaries_of_rounding(
    seed: int, exponent: int, bias: int, residual: bool, relu: bool, readers: int, bits: int
) -> None:
    """Every term within a few ulps of multiples of half a reader's scale: quotients at and beside k + 1/2."""
    rng = np.random.default_rng(seed)
    u = Conv("u", IMAGE, 40, 1, relu=relu, bits=8, residual="v" if residual else None)
    ys = tuple(Conv(f"y{i}", "u", 5, 1, relu=False) for i in range(readers))
    join = Concat("k", (*(y.name for y in ys), "v"))
    nodes = (Conv("v", IMAGE, 40, 1, relu=False, bits=8), u, *ys, join, Conv("end", "k", 4, 1, relu=False))
    master = random_master(Graph(nodes), 9, seed)
    tensors, scale = master.tensors, np.float32(2.0**exponent)

    def beside(value: float, count: int) -> NDArray[np.float32]:
        bits_of = np.float32(value).view(np.int32) + rng.integers(-3, 4, count)
        return bits_of.astype(np.int32).view(np.float32)

    tensors["u.weight"][...] = rng.integers(-2, 3, tensors["u.weight"].shape)
    tensors["u.gain"][...] = 1
    tensors["u.bias"][...] = rng.integers(-2 * bias, 2 * bias + 1, 40) * scale / 2
    tensors["u.weight_scale"] = beside(scale / 2 / np.float32(master.input.scale), 40)
    if residual:
        tensors["u.residual_scale"][...] = beside(scale / 2, len(WIDTHS))
    for y in ys:
        tensors[f"{y.name}.act_scale"][...] = beside(scale, len(WIDTHS)) if rng.random() < 0.5 else scale
    q_images = random_codes(master, 4, seed)
    values: dict[str, NDArray[np.float32]] = {}
    for node in nodes[:2]:
        values[node.name] = reference.run_node(master, node, values, q_images, Plan.uniform(bits))
    quotients = values["u"] / scale
    near = np.abs(np.abs(quotients - np.rint(quotients)) - 0.5) < 1e-3
    assert near[quotients != 0].mean() > 0.2
    assert_every_set_exact(master, q_images, bits)


@pytest.mark.parametrize("end", [2.0**-32, 2.0**32])
def test_scales_at_the_ends_of_their_range(end: float) -> None:
    nodes = (
        Conv("u", IMAGE, 20, 3, padding=1), Conv("s", "u", 20, 3, relu=False, padding=1, residual="u"),
        Conv("t", "s", 20, 1, clip=6.0), AvgPool("a", "t", 2), Pool("p", "a"), Linear("z", "p", 5),
    )  # fmt: skip
    master = random_master(Graph(nodes), 6, 1)
    scales = [name for name in master.tensors if name.endswith("scale")]
    with np.errstate(over="ignore"):  # quotients far beyond the codes become infinite, and are clipped
        for names in (scales, *([name] for name in scales)):
            kept = {name: master.tensors[name].copy() for name in names}
            for name in names:
                master.tensors[name][...] = end
            for bits in (8, 2):
                assert_every_set_exact(master, extreme_codes(master, 3), bits)
            master.tensors.update(kept)  # type: ignore[attr-defined]


# -- every node -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extreme", [False, True], ids=["random", "extreme"])
@pytest.mark.parametrize("kind", NODES)
def test_every_node_at_every_width(kind: str, extreme: bool) -> None:
    graph = NODES[kind]
    if not sums(graph.nodes[-1]):
        graph = Graph((*graph.nodes, Conv("end", "c", 5, 1, relu=False)))
    master = random_master(graph, 11, 1, extreme=extreme)
    for plan in (*map(Plan.uniform, WIDTHS), *MIXED):
        assert_every_set_exact(master, extreme_codes(master, 5) if extreme else random_codes(master, 5), plan, 2)


@settings(deadline=None, database=None, max_examples=120)
@given(
    seed=st.integers(0, 2**31), side_px=st.integers(1, 19), count=st.integers(1, 12), batch=st.sampled_from(BATCHES),
    threads=st.integers(1, 4), extreme=st.booleans(), bits=st.sampled_from((None, *WIDTHS)),
)  # fmt: skip
def test_random_graphs(
    seed: int, side_px: int, count: int, batch: int, threads: int, extreme: bool, bits: int | None
) -> None:
    graph = random_graph(seed, max(side_px, 7), count)
    master = random_master(graph, max(side_px, 7), seed, extreme=extreme)
    plan = random_plan(graph, seed) if bits is None else Plan.uniform(bits)
    codes = extreme_codes if extreme else random_codes
    assert_every_set_exact(master, codes(master, batch, seed), plan, threads)


@pytest.mark.parametrize(
    ("groups", "in_each", "out_each"),
    [
        (2, 1, 1),
        (2, 2, 4),
        (3, 5, 1),
        (2, 4, 2),
        (17, 1, 1),
        (130, 1, 1),
        (5, 1, 3),
        (6, 1, 6),
        (2, 33, 17),
        (4, 4, 16),
    ],
)
@pytest.mark.parametrize("dilation", [1, 2])
def test_groups(groups: int, in_each: int, out_each: int, dilation: int) -> None:
    node = Conv(
        "t", "x", groups * out_each, 3, stride=2, padding=1, padding_end=2, groups=groups, dilation=dilation, relu=False
    )
    for signed, readers in itertools.product((False, True), (0, 2)):
        master = random_master(target_graph(node, groups * in_each, signed, readers), 7, groups)
        for plan in map(Plan.parse, ("8", "w8a7", "5", "2")):
            assert_every_set_exact(master, random_codes(master, 3), plan)
    for name in OFFERED:
        depthwise = in_each == out_each == 1
        assert (taken(derived(master, 4, name), "t") == {"depthwise"}) is depthwise


@pytest.mark.parametrize("kernel", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_depthwise_kernels(kernel: int, stride: int) -> None:
    for channels, padding in itertools.product((1, 5, 16, 33, 65), (0, kernel // 2, 3)):
        if channels > 1:
            node = Conv("t", "x", channels, kernel, stride=stride, padding=padding, groups=channels, clip=1.5)
            master = saturated(random_master(target_graph(node, channels, False, 2), 8, channels, extreme=True))
            for bits in (8, 3):
                assert_every_set_exact(master, extreme_codes(master, 3), bits)


@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("side_px", [5, 25, 38])
@pytest.mark.parametrize("pooled", [False, True])
def test_readers_of_every_second_or_third_row(stride: int, side_px: int, pooled: bool) -> None:
    """Rows that one reader alone leaves out are not written for it; another one reads them all."""
    nodes: list[Node] = [Conv("u", IMAGE, 20, 3, padding=1)]
    if pooled:
        nodes = [Conv("c", IMAGE, 20, 3, stride=2, padding=1), MaxPool("u", "c", 2, padding=1)]
    for shortcut in (Conv("a", "u", 24, 1, stride=stride, relu=False), Shortcut("a", "u", 24, stride)):
        last = Conv("b", "u", 24, 3, stride=stride, padding=1, residual="a")
        master = random_master(Graph((*nodes, shortcut, last)), side_px, stride)
        for bits in (8, 4, 2):
            assert_every_set_exact(master, random_codes(master, 3), bits, 2)


CONCATENATIONS = {
    "signed and not": (Conv("a", "u", 5, 1), Conv("b", "u", 3, 1, relu=False), Concat("k", ("a", "b"))),
    "clipped and signed": (Conv("a", "u", 5, 1, clip=1.5), Conv("b", "u", 3, 1, relu=False), Concat("k", ("b", "a"))),
    "itself": (Concat("k", ("u", "u", "u")),),
    "nested": (Conv("a", "u", 2, 1), Concat("j", ("a", "u")), Concat("k", ("j", "a", "j"))),
    "largest, resized and shortened": (
        Conv("a", "u", 3, 1), Conv("b", "u", 5, 1, relu=False), MaxPool("m", "a", 3, padding=1),
        MaxPool("n", "b", 2, stride=2, padding_end=1), Resize("o", "n", 7, 7), Shortcut("s", "b", 9),
        Concat("k", ("o", "m", "s")),
    ),
    "largest of a concatenation": (
        Conv("a", "u", 3, 1), Conv("b", "u", 5, 1, relu=False), Concat("j", ("a", "b")), MaxPool("k", "j", 3, padding=1)
    ),
    "a selection of a selection of a concatenation": (
        Conv("a", "u", 3, 1), Conv("b", "u", 1, 1, relu=False), Concat("j", ("a", "b")), Shortcut("s", "j", 8),
        MaxPool("m", "s", 2, padding=1), Resize("k", "m", 5, 11),
    ),
    "sums": (
        AvgPool("a", "u", 3, padding=1), Resize("b", "u", 7, 7, "bilinear"),
        Conv("c", "u", 9, 3, padding=1, relu=False), Concat("k", ("a", "b", "c")),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", CONCATENATIONS)
def test_concatenations_with_many_readers(kind: str) -> None:
    """Readers of different widths and scales, of the joined value and of its parts; a residual among them."""
    nodes = (Conv("u", IMAGE, 6, 3, padding=1), *CONCATENATIONS[kind])
    channels = Graph(nodes).shapes((3, 7, 7))["k"][0]
    for last in (
        Conv("z", "k", 7, 3, padding=1, relu=False),
        Conv("z", "k", channels, 1, residual="k"),
        AvgPool("z", "k", 2),
        Resize("z", "k", 3, 9, "bilinear"),
        Pool("z", "k"),
    ):
        master = random_master(Graph((*nodes, Conv("y", "k", 4, 3, bits=4), last)), 7, 5)
        for plan in map(Plan.parse, ("8", "5", "w4a3", "2")):
            assert_every_set_exact(master, random_codes(master, 3), plan)
    both = (Conv("y", "k", channels, 3, padding=1, residual="k"), Conv("z", "k", channels, 1, residual="y", relu=False))
    master = random_master(Graph((*nodes, *both)), 7, 6)
    assert_every_set_exact(master, random_codes(master, 3), Plan(LayerBits(8, 4), (("z", LayerBits(2, 7)),)))


@settings(deadline=None, database=None, max_examples=120)
@given(
    seed=st.integers(0, 999), side_px=st.integers(6, 23), channels=st.sampled_from(CHANNELS),
    kernel=st.sampled_from((1, 3, 5, 7)), stride=st.integers(2, 3), padding=st.integers(0, 3), relu=st.booleans(),
    window=st.integers(1, 5), pool_stride=st.integers(1, 4), ends=st.tuples(*[st.integers(0, 4)] * 2),
    readers=st.integers(1, 3), bits=st.sampled_from(WIDTHS), threads=st.integers(1, 3), batch=st.integers(1, 4),
)  # fmt: skip
def test_a_max_pooling_right_behind_a_convolution(
    seed: int, side_px: int, channels: int, kernel: int, stride: int, padding: int, relu: bool, window: int,
    pool_stride: int, ends: tuple[int, int], readers: int, bits: int, threads: int, batch: int,
) -> None:  # fmt: skip
    """The convolution may pool its sums itself; scales of either sign, and others reading what it makes."""
    start, end = (min(size, window - 1) for size in ends)
    nodes = (
        Conv("t", IMAGE, channels, kernel, stride=stride, padding=max(padding, kernel // 2), relu=relu),
        MaxPool("m", "t", window, pool_stride, start, end),
        *(Conv(f"y{i}", "m", 4, 1, residual=f"y{i - 1}" if i else None, relu=False) for i in range(readers)),
    )
    assume(min(Graph(nodes[:1]).shapes((3, side_px, side_px))["t"][1:]) + start + end >= window)
    master = random_master(Graph(nodes), side_px, seed)
    master.tensors["t.gain"][:, seed % channels] = 0
    assert_every_set_exact(master, random_codes(master, batch, seed), bits, threads)
    for name in OFFERED:
        assert all(path.endswith(POOLED) for path in taken(derived(master, bits, name), "t"))
    master = random_master(Graph((*nodes[:2], Conv("a", "t", 3, 1), *nodes[2:])), side_px, seed)
    assert_every_set_exact(master, random_codes(master, batch, seed), bits, threads)


@pytest.mark.parametrize("window", [1, 2, 3, 15, 16, 19])
def test_max_poolings_of_any_window(window: int) -> None:
    conv = Conv("t", IMAGE, 33, 3, stride=2, padding=8, relu=False)
    for stride, padding in itertools.product((1, 2, 20), {0, window // 2, window - 1}):
        nodes = (conv, MaxPool("m", "t", window, stride, padding), Conv("y", "m", 5, 1))
        if window <= 17 + 2 * padding:
            master = random_master(Graph(nodes), 19, 1)
            for bits in (8, 2):
                assert_every_set_exact(master, random_codes(master, 2), bits, 2)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_resizes_of_any_size(mode: str) -> None:
    for side_px, height, width in itertools.product((1, 2, 7, 13), (1, 3, 8, 26), (2, 13, 19)):
        nodes = (
            Conv("u", IMAGE, 17, 1), Conv("s", IMAGE, 5, 1, relu=False), Concat("k", ("u", "s")),
            Resize("r", "k", height, width, mode), Conv("y", "r", 3, 1, relu=False),
        )  # fmt: skip
        master = random_master(Graph(nodes), side_px, side_px)
        for bits in (8, 3):
            assert_every_set_exact(master, random_codes(master, 2), bits)


def test_a_linear_layer_of_any_size() -> None:
    for channels, classes in itertools.product(CHANNELS, (1, 10, 100)):
        nodes = (Conv("u", IMAGE, channels, 1, relu=channels % 2 == 0), Pool("p", "u"), Linear("z", "p", classes))
        master = random_master(Graph(nodes), 3, channels, extreme=classes == 1)
        assert_every_set_exact(master, random_codes(master, 9), 4, 2)
        assert_every_set_exact(master, random_codes(master, 1), 2, 2)


@pytest.mark.parametrize("kernel", [1, 8, 9, 16])
def test_averages_of_many_pixels(kernel: int) -> None:
    nodes = (Conv("u", IMAGE, 37, 1, relu=False), AvgPool("a", "u", kernel, 2, 3), Conv("z", "a", 5, 1))
    master = saturated(random_master(Graph(nodes), 17, 1))
    for bits in (8, 3):
        assert_every_set_exact(master, extreme_codes(master, 3), bits, 2)


def test_a_pool_of_the_image() -> None:
    master = random_master(Graph((Pool("p", IMAGE), Linear("z", "p", 4))), 9, 1)
    assert_every_set_exact(master, random_codes(master, 3), 2)
    master = random_master(Graph((Pool("p", IMAGE),)), 9, 1)
    assert_every_set_exact(master, extreme_codes(master, 3), 8)


# -- layer by layer ---------------------------------------------------------------------------------------------------


def residual_network() -> Graph:
    return Graph(
        (
            Conv("stem", IMAGE, 16, 3, padding=1, bits=8),
            Conv("a1", "stem", 16, 3, padding=1),
            Conv("a2", "a1", 16, 3, padding=1, residual="stem"),
            Conv("b1", "a2", 32, 3, stride=2, padding=1),
            Shortcut("bs", "a2", 32, 2),
            Conv("b2", "b1", 32, 3, padding=1, residual="bs"),
            Conv("c1", "b2", 66, 3, stride=2, padding=1),
            Conv("cs", "b2", 66, 1, stride=2, relu=False),
            Conv("c2", "c1", 66, 3, padding=1, residual="cs"),
            Conv("d1", "c2", 17, 1),
            Conv("d2", "d1", 17, 3, padding=1),
            Conv("d3", "d2", 66, 1, residual="c2"),
            Pool("pool", "d3"),
            Linear("head", "pool", 10),
        )
    )


def mobile_network() -> Graph:
    return Graph(
        (
            Conv("stem", IMAGE, 16, 3, stride=2, padding=0, padding_end=1, clip=6.0),
            Conv("a1", "stem", 16, 3, padding=1, groups=16, clip=6.0),
            Conv("a2", "a1", 8, 1, relu=False),
            Conv("b1", "a2", 48, 1, clip=6.0),
            Conv("b2", "b1", 48, 3, stride=2, padding=1, groups=48, clip=6.0),
            Conv("b3", "b2", 12, 1, relu=False),
            Conv("c1", "b3", 72, 1, clip=6.0),
            Conv("c2", "c1", 72, 5, padding=2, groups=72, clip=6.0),
            Conv("c3", "c2", 12, 1, relu=False, residual="b3"),
            Conv("d1", "c3", 130, 1, clip=6.0),
            Pool("pool", "d1"),
            Linear("head", "pool", 10),
        )
    )


def pyramid_network() -> Graph:
    return Graph(
        (
            Conv("stem", IMAGE, 8, 7, stride=2, padding=3),
            MaxPool("max", "stem", 3, stride=2, padding=1),
            Conv("c2", "max", 16, 3, padding=1),
            Conv("c3", "c2", 32, 3, stride=2, padding=1),
            Conv("c4", "c3", 48, 3, stride=2, padding=1),
            MaxPool("s1", "c4", 5, padding=2),
            MaxPool("s2", "s1", 5, padding=2),
            Concat("spp", ("c4", "s1", "s2")),
            Conv("l4", "spp", 24, 1, relu=False),
            Resize("u4", "l4", 3, 3),
            Conv("l3", "c3", 24, 1, relu=False, residual="u4"),
            Resize("u3", "l3", 5, 5, "bilinear"),
            Conv("l2", "c2", 24, 1, relu=False),
            Concat("j2", ("l2", "u3")),
            Conv("p2", "j2", 24, 3, padding=1),
            Conv("p3", "l3", 24, 3, padding=2, dilation=2),
            AvgPool("p4", "l4", 3, padding=1),
            Resize("g3", "p3", 5, 5),
            Resize("g4", "p4", 5, 5, "bilinear"),
            Concat("all", ("p2", "g3", "g4", "p2")),
            Conv("fuse", "all", 33, 3, padding=1, groups=3),
            Conv("out", "fuse", 20, 1, relu=False),
        )
    )


@pytest.mark.parametrize("text", ["8", "w8a7", "6", "4", "3", "2", "w4a8"])
@pytest.mark.parametrize("network", [residual_network, mobile_network, pyramid_network])
def test_layer_by_layer(network: type[Graph], text: str) -> None:
    """The network cut off behind each node: everything before it may now be read by nobody."""
    whole = random_master(network(), 19, 1)
    q_images = random_codes(whole, 2)
    plan = Plan.parse(text)
    compared = 0
    for end, node in enumerate(whole.graph.nodes, start=1):
        if sums(node):
            compared += 1
            master = dataclasses.replace(whole, graph=Graph(whole.graph.nodes[:end]))
            assert_every_set_exact(master, q_images, plan, 2)
    assert compared > 10


# -- the shipped master -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", WIDTHS)
def test_the_shipped_master_on_pictures(bits: int) -> None:
    """Patches of a photograph, one at a time and all at once, in another order."""
    master = read_master(find_master("resnet20-cifar10"))
    side = master.input.height_px
    photo = decode_picture((Path(__file__).parents[2] / "examples" / "cat.jpg").read_bytes()).pixels
    corners = itertools.product(range(0, photo.shape[0] - side, 60), range(0, photo.shape[1] - side, 55))
    q_images = master.input.encode(np.stack([photo[y : y + side, x : x + side] for y, x in corners]))
    assert len(q_images) > 16
    expected = reference.run(master, q_images, bits)
    for name in OFFERED:
        model = derived(master, bits, name, threads=2)
        assert_exact(model, q_images, expected)
        assert_exact(model, q_images[::-1], expected[::-1])
        assert_exact(model, q_images[3:4], expected[3:4])
    served = create_engine(threads=2).derive(master, bits)
    assert isinstance(served, NativeModel)
    np.testing.assert_array_equal(served.run(q_images), expected)


# -- batches and threads ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("instruction_set", OFFERED)
def test_every_batch_and_number_of_threads(instruction_set: str) -> None:
    master = random_master(residual_network(), 9, 3)
    q_images = random_codes(master, 35)
    for bits in (8, 4, 2):
        expected = reference.run(master, q_images, bits)
        model = derived(master, bits, instruction_set)
        for batch in (*range(1, 10), 15, 16, 17, 32, 35):
            for threads in range(1, 5):
                np.testing.assert_array_equal(model.run(q_images[:batch], threads=threads), expected[:batch])


# -- parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("instruction_set", OFFERED)
@pytest.mark.parametrize("bits", WIDTHS)
def test_codes_of_a_width(instruction_set: str, bits: int) -> None:
    q8 = np.arange(-128, 128).astype(np.int8)
    for count in (1, 5, 256):
        codes = np.empty(count, np.int8)
        _native.derive(instruction_set, q8[:count], bits, codes)
        np.testing.assert_array_equal(codes, derive(q8[:count], bits))
