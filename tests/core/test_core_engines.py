"""Engines give the reference's logits, bit for bit, whatever the weights, shapes and batch."""

import dataclasses
import os
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgear import reference
from bitgear.bits import WIDTHS, LayerBits, Plan, Precision
from bitgear.checkpoint import Master
from bitgear.engines import ENGINE_NAMES, create_engine
from bitgear.engines.onnxruntime import EXACT_FLOAT_LIMIT, OnnxRuntimeEngine, build_onnx, float_convolution_is_exact
from bitgear.engines.registry import most_threads, native_failure
from bitgear.errors import EngineUnavailable, GraphError, InputError, PrecisionError, PrecisionNotOffered
from bitgear.graph import IMAGE, MAX_WINDOW, AvgPool, Concat, Conv, Graph, Linear, MaxPool, Pool, Shortcut, sums
from tests.graphs import NODES, random_graph, random_plan
from tests.masters import LABELS, random_codes, random_master, tiny_graph, tiny_master

HEAD = (Pool("pool", "last"), Linear("head", "pool", len(LABELS)))
ENGINE = OnnxRuntimeEngine()
USABLE = [name for name in ENGINE_NAMES if name != "native" or native_failure() is None]
needs_native = pytest.mark.skipif("native" not in USABLE, reason="the extension is not built")
SERVING = [create_engine(name, threads=2) for name in USABLE if name != "reference"]


def lively_master(seed: int = 0, **options: Any) -> Master:
    """A tiny master with smaller scales, so that activations use all of their codes."""
    master = tiny_master(seed, **options)
    for name, scale in master.tensors.items():
        if name.endswith("act_scale"):
            scale *= np.float32(0.3)
    return master


def assert_equal_to_reference(master: Master, q_images: np.ndarray, widths: tuple[int, ...] = WIDTHS) -> None:
    for bits in widths:
        expected = reference.run(master, q_images, bits)
        for engine in SERVING:
            logits = engine.derive(master, bits).run(q_images)
            assert logits.dtype == np.float32
            np.testing.assert_array_equal(logits, expected, err_msg=f"{engine.name} at {bits} bits")


def set_weights(master: Master, value: int) -> Master:
    for name, tensor in master.tensors.items():
        if name.endswith(".weight"):
            tensor[...] = value
    return master


def operators(master: Master, bits: int) -> set[str]:
    return {node.op_type for node in build_onnx(master, bits).graph.node}


@pytest.mark.parametrize("per_channel", [True, False], ids=["per-channel", "per-tensor"])
@pytest.mark.parametrize("extreme", [False, True], ids=["random", "extreme"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_logits_equal_the_reference_at_every_width(seed: int, extreme: bool, per_channel: bool) -> None:
    master = lively_master(seed, extreme=extreme, per_channel=per_channel)
    assert_equal_to_reference(master, random_codes(master, 4, seed))


@pytest.mark.parametrize("channels", [1, 3, 5, 17, 33])
@pytest.mark.parametrize("side_px", [9, 15, 17])
def test_ragged_channels_and_odd_sides(channels: int, side_px: int) -> None:
    if channels % 2:  # the shortcut pads equally: from an odd number to an odd multiple
        nodes = tuple(
            type(node)(**{**vars(node), "channels": 3 * channels}) if node.name.startswith("b.") else node
            for node in tiny_graph(channels).nodes
        )
    master = lively_master(channels, graph=Graph(nodes), side_px=side_px)
    assert_equal_to_reference(master, random_codes(master, 2), (8, 5, 4, 2))


@pytest.mark.parametrize("count", range(1, 10))
def test_every_batch_size(count: int) -> None:
    master = lively_master(7)
    assert_equal_to_reference(master, random_codes(master, count, count), (8, 3))


@pytest.mark.parametrize("code", [-128, 127, 0, -1])
@pytest.mark.parametrize("weight", [-128, 127, 0, None])
def test_constant_images_and_weights(code: int, weight: int | None) -> None:
    master = lively_master(3)
    if weight is not None:
        set_weights(master, weight)
    q_images = np.full((2, 3, 16, 16), code, np.int8)
    assert_equal_to_reference(master, q_images, (8, 4, 2))


SIGNED = Graph(
    (
        Conv("stem", IMAGE, 6, 3, padding=1, relu=False),
        Conv("a", "stem", 6, 3, padding=1, relu=False, residual="stem", bits=3),
        Shortcut("wider", "a", 8, 2),
        Conv("last", "a", 8, 2, stride=2, padding=1, relu=False),
        Conv("last2", "wider", 8, 1, residual="wider", relu=False),
        Pool("pool", "last2"),
        Linear("head", "pool", len(LABELS)),
    )
)


@pytest.mark.parametrize("side_px", [8, 11])
def test_signed_activations(side_px: int) -> None:
    master = lively_master(5, graph=SIGNED, side_px=side_px)
    assert_equal_to_reference(master, random_codes(master, 3))


@settings(deadline=None, database=None, max_examples=25)
@given(
    seed=st.integers(0, 2**31), channels=st.integers(1, 9), kernel=st.integers(1, 5), stride=st.integers(1, 3),
    padding=st.integers(0, 3), relu=st.booleans(), side_px=st.integers(5, 12), bits=st.sampled_from(WIDTHS),
)  # fmt: skip
def test_any_convolution_geometry(
    seed: int, channels: int, kernel: int, stride: int, padding: int, relu: bool, side_px: int, bits: int
) -> None:
    graph = Graph(
        (
            Conv("stem", IMAGE, channels, 1, relu=relu),
            Conv("last", "stem", 4, kernel, stride=stride, padding=padding, relu=relu),
            *HEAD,
        )
    )
    master = lively_master(seed, graph=graph, side_px=side_px)
    assert_equal_to_reference(master, random_codes(master, 2, seed), (bits,))


@pytest.mark.parametrize("name", USABLE)
def test_a_row_does_not_depend_on_the_rest_of_the_batch(name: str) -> None:
    master = lively_master(8)
    q_images = random_codes(master, 9)
    model = create_engine(name).derive(master, 4)
    together = model.run(q_images)
    for i in range(9):
        np.testing.assert_array_equal(model.run(q_images[i : i + 1])[0], together[i])
    np.testing.assert_array_equal(model.run(q_images[::-1].copy()), together[::-1])


@pytest.mark.parametrize("name", USABLE)
def test_images_of_any_memory_layout_give_the_same_logits(name: str) -> None:
    master = lively_master(9)
    q_images = random_codes(master, 3)
    model = create_engine(name).derive(master, 8)
    expected = model.run(q_images)
    channels_last = np.ascontiguousarray(q_images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert not channels_last.flags.c_contiguous
    np.testing.assert_array_equal(model.run(channels_last), expected)


# -- every node -------------------------------------------------------------------------------------------------------


def hard_codes(master: Master, seed: int) -> np.ndarray:
    """A random image, the two extreme ones, and one of extremes side by side."""
    q_images = random_codes(master, 4, seed)
    q_images[1], q_images[2] = -128, 127
    q_images[3] = np.where(np.random.default_rng(seed).random(q_images.shape[1:]) < 0.5, -128, 127)
    return q_images


def assert_plans_equal_reference(master: Master, plans: tuple[Precision, ...], seed: int) -> None:
    q_images = hard_codes(master, seed)
    for plan in plans:
        expected = reference.run(master, q_images, plan)
        for engine in SERVING:
            if engine.name == "native" and not sums(master.graph.nodes[-1]):
                continue  # it returns sums only
            result = engine.derive(master, plan).run(q_images)
            assert result.dtype == np.float32
            np.testing.assert_array_equal(result, expected, err_msg=f"{engine.name}, plan {plan} of {master.graph}")


@pytest.mark.parametrize("extreme", [False, True], ids=["random", "extreme"])
@pytest.mark.parametrize("kind", NODES)
def test_every_node_equals_the_reference_at_every_width(kind: str, extreme: bool) -> None:
    master = random_master(NODES[kind], 11, 1, extreme=extreme)
    assert_plans_equal_reference(master, (*WIDTHS, Plan.parse("w8a7"), Plan.parse("w4a8")), 1)


@pytest.mark.parametrize("seed", range(40))
def test_random_graphs_equal_the_reference(seed: int) -> None:
    graph = random_graph(seed)
    master = random_master(graph, 17, seed, extreme=seed % 2 == 1)
    widths = WIDTHS if seed % 5 == 0 else (WIDTHS[seed % 7],)
    assert_plans_equal_reference(master, (*widths, Plan.parse("w8a7"), random_plan(graph, seed)), seed)


@pytest.mark.parametrize(("bits", "wide"), [(8, True), (7, True), (4, False)])
@pytest.mark.parametrize("groups", [1, 2])
def test_grouped_and_dilated_sums_beyond_float32_run_as_integers(groups: int, bits: int, wide: bool) -> None:
    conv = Conv("last", "stem", 4, 3, padding=3, padding_end=0, dilation=2, stride=2, groups=groups, relu=False)
    graph = Graph((Conv("stem", IMAGE, 330 * groups, 1), conv, *HEAD))
    master = random_master(graph, 9, 2, extreme=True)
    master.tensors["last.weight"][0] = -128
    master.tensors["last.weight"][0, 0, 0, 0] = -127  # odd sums, which float32 would round
    assert ("ConvInteger" in operators(master, bits)) is wide
    assert_plans_equal_reference(master, (bits,), 2)


@pytest.mark.parametrize("relu", [True, False])
def test_the_largest_average_is_one_that_float32_can_sum(relu: bool) -> None:
    graph = Graph((Conv("u", IMAGE, 2, 1, relu=relu), AvgPool("a", "u", MAX_WINDOW, stride=5, padding=3)))
    master = random_master(graph, MAX_WINDOW, 3)
    master.tensors["a.act_scale"][:] /= 8  # most codes saturate
    assert "ConvInteger" not in operators(master, 8)
    q_images = hard_codes(master, 3)[1:3]
    seen = {}
    expected = reference.run(master, q_images, 8, lambda name, what, q: seen.update({(name, what): q}))
    assert EXACT_FLOAT_LIMIT / 3 < np.abs(seen["a", "accumulator"]).max() <= EXACT_FLOAT_LIMIT
    for engine in SERVING:
        np.testing.assert_array_equal(engine.derive(master, 8).run(q_images), expected)


def test_small_averages_and_resizes_run_as_floats() -> None:
    for kind in ("average of signed", "bilinear up", "nearest down", "depthwise"):
        assert "ConvInteger" not in operators(random_master(NODES[kind], 9, 0), 8)


def test_a_clip_stands_behind_the_relu_alone() -> None:
    """ReLU6 reaches 6 exactly, and no value passes it."""
    master = random_master(NODES["relu6"], 9, 4)
    master.tensors["c.bias"][...] = 5.5
    result = ENGINE.derive(master, 8).run(hard_codes(master, 4))
    assert result.max() == 6
    assert result.min() == 0
    assert_plans_equal_reference(master, (8, 2), 4)


@pytest.mark.parametrize(
    "node",
    [
        Conv("c", "u", 2, MAX_WINDOW, stride=2, padding=125, groups=2, relu=False),
        Conv("c", "u", 4, MAX_WINDOW, padding=125, groups=2),
        Conv("c", "u", 2, 2, dilation=MAX_WINDOW, padding=128),
        Conv("c", "u", 2, 1, stride=65536, padding=300),
        MaxPool("c", "u", MAX_WINDOW, stride=9, padding=130),
        MaxPool("c", "u", 1, stride=65536),
    ],
)
def test_the_largest_windows_equal_the_reference(node: Any) -> None:
    end = Pool("pool", "c")
    master = random_master(Graph((Conv("u", IMAGE, 2, 1), node, end, Linear("head", "pool", 3))), 7, 5)
    assert_plans_equal_reference(master, (8, 3), 5)


def test_a_pool_behind_a_convolution_may_leap() -> None:
    """By more than the native engine's convolutions can pool their sums with."""
    conv = Conv("c", IMAGE, 4, 1, stride=2, padding=300, relu=False)
    for stride in (255, 256, 300):
        graph = Graph((conv, MaxPool("last", "c", 2, stride=stride), Conv("d", "last", 3, 1), Pool("p", "d")))
        assert_plans_equal_reference(random_master(graph, 5, stride), (8, 4), 1)


@needs_native
def test_what_the_extension_refuses_names_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitgear.graph.MAX_WINDOW", 400)
    for node in (AvgPool("a", "u", 260), Conv("a", "u", 1, 1, dilation=300), MaxPool("a", "u", 256, stride=5)):
        master = random_master(Graph((Conv("u", IMAGE, 1, 1, padding=130), node, Pool("p", "a"))), 3, 0, (8,))
        with pytest.raises(GraphError, match=r"node 'a' is not what the native engine can run: .*out of range"):
            create_engine("native").derive(master, 8)


@needs_native
def test_a_chain_of_pools_is_lowered_in_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = [MaxPool(f"m{i}", f"m{i - 1}" if i else "u", 1) for i in range(1000)]
    master = random_master(Graph((Conv("u", IMAGE, 1, 1), *chain, Pool("p", "m999"))), 3, 0, (8,))
    looked_at = []
    inputs = Graph.inputs

    def counting(node: Any) -> tuple[str, ...]:
        looked_at.append(node.name)
        return inputs(node)

    monkeypatch.setattr(Graph, "inputs", staticmethod(counting))
    create_engine("native").derive(master, 8)
    assert len(looked_at) < 10 * len(chain)


@needs_native
def test_selections_of_selections_do_not_double_without_end() -> None:
    joined = [Concat(f"k{i}", (f"k{i - 1}" if i else "u",) * 2) for i in range(16)]
    master = random_master(Graph((Conv("u", IMAGE, 1, 1), *joined, Pool("p", "k15"))), 1, 0, (8,))
    with pytest.raises(GraphError, match="what reads 'k10' needs 32 buffers"):
        create_engine("native").derive(master, 8)


# -- memory -----------------------------------------------------------------------------------------------------------


def exhausted(*_: Any, **__: Any) -> Any:
    raise MemoryError


@pytest.mark.parametrize("name", USABLE)
def test_a_call_without_memory_is_an_error_of_the_engine(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = create_engine(name).derive(lively_master(), 4)
    part = {"native": "core", "onnxruntime": "session"}.get(name)
    if part is not None:
        fake = SimpleNamespace(run=exhausted, result_shape=(10, 1, 1))
        model = dataclasses.replace(model, **{part: fake})
    else:
        monkeypatch.setattr(reference, "run", exhausted)
    with pytest.raises(EngineUnavailable, match=f"'{name}' finds no memory for model 'tiny' at precision 4"):
        model.run(random_codes(lively_master(), 1))


def test_a_copy_of_pictures_without_memory_is_an_error_of_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ENGINE.derive(lively_master(), 4)
    monkeypatch.setattr(np, "ascontiguousarray", Mock(side_effect=MemoryError))
    with pytest.raises(EngineUnavailable, match="finds no memory"):
        model.run(random_codes(lively_master(), 1))


@pytest.mark.parametrize("name", USABLE)
@pytest.mark.parametrize("threads", [0, -1, most_threads() + 1, 2**31, 1.5, "2"])
def test_threads_that_no_engine_takes_are_refused(name: str, threads: Any) -> None:
    with pytest.raises(EngineUnavailable, match=f"takes 1 to {most_threads()} threads, not {threads!r}"):
        create_engine(name, threads)


def test_numbers_of_threads_may_be_those_of_numpy() -> None:
    model = create_engine("onnxruntime", np.int64(2)).derive(lively_master(), 4)
    assert model.run(random_codes(lively_master(), 1)).shape == (1, 10)


@pytest.mark.parametrize("name", USABLE)
def test_what_is_no_array_is_refused(name: str) -> None:
    model = create_engine(name).derive(lively_master(), 4)
    for codes in (None, random_codes(lively_master(), 1).tolist()):
        with pytest.raises(InputError, match="expected a numpy array"):
            model.run(codes)


@pytest.mark.parametrize("name", USABLE)
def test_more_images_than_are_counted_are_refused(name: str) -> None:
    codes = random_codes(lively_master(), 1)
    with pytest.raises(InputError, match="got 2,147,483,648 images at once; a call takes at most 1,073,741,824"):
        create_engine(name).derive(lively_master(), 4).run(np.broadcast_to(codes, (2**31, *codes.shape[1:])))


def test_onnx_runtime_has_words_of_its_own_for_it() -> None:
    messages = ["[FAIL] Failed to allocate memory for requested buffer of size 1", "[FAIL] another reason"]

    def run(*_: Any) -> Any:
        raise RuntimeError(messages.pop(0))

    model = dataclasses.replace(ENGINE.derive(lively_master(), 4), session=SimpleNamespace(run=run))
    for expected in (EngineUnavailable, RuntimeError):
        with pytest.raises(expected):
            model.run(random_codes(lively_master(), 1))


@pytest.mark.parametrize(
    ("name", "part"),
    [("native", "bitgear.engines.native.lower"), ("onnxruntime", "bitgear.engines.onnxruntime.build_onnx")],
)
def test_a_derivation_without_memory_is_an_error_of_the_engine(
    name: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name not in USABLE:
        pytest.skip("the extension is not built")
    engine = create_engine(name)
    monkeypatch.setattr(part, exhausted)
    with pytest.raises(EngineUnavailable, match=f"'{name}' finds no memory for model 'tiny' at precision w8a7"):
        engine.derive(lively_master(), Plan.parse("w8a7"))


# -- sums that float32 cannot hold ------------------------------------------------------------------------------------


def wide(channels: int, kernel: int, relu: bool, padding: int = 1) -> Master:
    """All weights -128 in a layer whose sums exceed 2**24 at 8 bits."""
    graph = Graph(
        (
            Conv("stem", IMAGE, channels, 1, relu=relu),
            Conv("last", "stem", 4, kernel, padding=padding, relu=False),
            *HEAD,
        )
    )
    return lively_master(11, graph=graph, side_px=5)


@pytest.mark.parametrize("weights", ["-128", "127", "extreme"])
@pytest.mark.parametrize(
    ("channels", "kernel", "relu"), [(64, 3, True), (129, 3, False), (600, 1, True)], ids=["3x3", "signed", "1x1"]
)
def test_sums_beyond_float32_run_as_integers(channels: int, kernel: int, relu: bool, weights: str) -> None:
    master = wide(channels, kernel, relu)
    weight = master.tensors["last.weight"]
    if weights == "extreme":  # per output channel, so that each passes the limit in one direction
        weight[...] = np.where(np.arange(4) % 2, 127, -128).reshape(4, 1, 1, 1)
    else:
        weight[...] = int(weights)
    weight[:, 0] += np.int8(1) if weights == "-128" else np.int8(-1)  # odd sums, which float32 would round
    assert "ConvInteger" in operators(master, 8)
    assert "ConvInteger" not in operators(master, 4)
    assert_equal_to_reference(master, random_codes(master, 2), (8, 7, 4))
    for code in (-128, 127):
        assert_equal_to_reference(master, np.full((1, 3, 5, 5), code, np.int8), (8,))


@pytest.mark.parametrize("relu", [True, False])
def test_a_linear_layer_beyond_float32_runs_as_integers(relu: bool) -> None:
    graph = Graph((Conv("last", IMAGE, 1100, 1, relu=relu), Pool("pool", "last"), Linear("head", "pool", len(LABELS))))
    master = lively_master(12, graph=graph, side_px=3)
    master.tensors["head.weight"][...] = -128
    master.tensors["head.weight"][:, ::3] = -127
    assert "MatMulInteger" in operators(master, 8)
    assert_equal_to_reference(master, random_codes(master, 3), (8, 2))
    for code in (-128, 127):
        assert_equal_to_reference(master, np.full((1, 3, 3, 3), code, np.int8), (8,))


@pytest.mark.parametrize("bits", [8, 7])
def test_an_unpinned_stem_reads_8_bit_codes_whatever_its_width(bits: int) -> None:
    graph = Graph((Conv("last", IMAGE, 3, 33, relu=False), *HEAD))
    master = lively_master(13, graph=graph, side_px=33)
    master.tensors["last.weight"][...] = -126  # -63 at 7 bits: 3267 products of up to 63 * 128 exceed 2**24
    assert "ConvInteger" in operators(master, bits)
    for code in (-127, 127, -128):
        assert_equal_to_reference(master, np.full((1, 3, 33, 33), code, np.int8), (bits,))
    assert_equal_to_reference(master, random_codes(master, 1), (bits,))


def test_a_pool_over_more_pixels_than_float32_can_sum() -> None:
    graph = Graph((Conv("last", IMAGE, 10, 1), Pool("pool", "last")))
    master = lively_master(14, graph=graph, side_px=259)
    master.tensors["last.weight"][...] = 1
    master.tensors["last.gain"][...] = np.linspace(1, 2, 10)
    master.tensors["pool.act_scale"][...] = 0.01  # most codes saturate: 259 * 259 * 255 exceeds 2**24
    master.tensors["last.weight_scale"][...] = 1
    q_images = np.random.default_rng(0).integers(100, 128, (1, 3, 259, 259)).astype(np.int8)
    seen = {}
    expected = reference.run(master, q_images, 8, lambda name, what, q: seen.update({(name, what): q}))
    assert seen["pool", "accumulator"].max() > EXACT_FLOAT_LIMIT
    np.testing.assert_array_equal(ENGINE.derive(master, 8).run(q_images), expected)


def test_small_layers_run_as_floats() -> None:
    for bits in WIDTHS:
        assert {"Conv", "MatMul"} <= operators(lively_master(), bits)
        assert not {"ConvInteger", "MatMulInteger"} & operators(lively_master(), bits)


@settings(deadline=None, database=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31), count=st.integers(1, 2500), level=st.sampled_from([1, 60, 120, 127, 128]),
    signed=st.booleans(),
)  # fmt: skip
def test_the_float_bound_is_the_largest_sum_that_can_occur(seed: int, count: int, level: int, signed: bool) -> None:
    rng = np.random.default_rng(seed)
    q_weight = rng.choice([-level, min(level, 127), 0], (2, count), p=[0.5, 0.45, 0.05]).astype(np.int8)
    q_weight[1] = np.abs(q_weight[1].astype(np.int16)).clip(0, 127)
    low, high = (-128, 127) if signed else (0, 255)
    worst = 0
    for row in q_weight.astype(np.int64):
        positive = np.where(row > 0, high, low)  # the activations that make the largest sum, and the smallest
        negative = np.where(row > 0, low, high)
        worst = max(worst, abs(int((row * positive).sum())), abs(int((row * negative).sum())))
    assert float_convolution_is_exact(q_weight, low, high) == (worst <= EXACT_FLOAT_LIMIT)


@pytest.mark.parametrize(
    ("count", "weight", "low", "high", "exact"),
    [
        (514, -128, 0, 255, True), (515, -128, 0, 255, False), (1024, -128, -128, 127, True),
        (1025, -128, -128, 127, False), (518, 127, 0, 255, True), (519, 127, 0, 255, False), (10**6, 0, 0, 255, True),
        (10**6, -2, 0, 3, True),
    ],
)  # fmt: skip
def test_the_float_bound_at_its_edge(count: int, weight: int, low: int, high: int, exact: bool) -> None:
    assert float_convolution_is_exact(np.full((1, count), weight, np.int8), low, high) is exact


def test_sums_below_the_bound_are_exact_in_any_order() -> None:
    rng = np.random.default_rng(0)
    products = rng.choice([-128 * 255, 127 * 255, 127 * 254], 514).astype(np.float32)
    for _ in range(50):
        rng.shuffle(products)
        assert np.cumsum(products, dtype=np.float32)[-1] == products.astype(np.int64).sum()


# -- engines by name --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", USABLE)
def test_engines_come_by_name_and_agree(name: str) -> None:
    engine = create_engine(name)
    assert engine.name == name
    master = lively_master(20)
    q_images = random_codes(master, 2)
    own = Plan(LayerBits(4, 8), (("a.conv1", LayerBits(2, 3)),))
    for precision in (8, 2, Plan.uniform(4), Plan.parse("w8a7"), own):
        model = engine.derive(master, precision)
        assert model.plan == (Plan.uniform(precision) if isinstance(precision, int) else precision)
        assert model.nbytes >= 0
        np.testing.assert_array_equal(model.run(q_images), reference.run(master, q_images, precision))


@pytest.mark.parametrize("name", ["", "tensorrt", "ONNXRuntime"])
def test_unknown_engines_are_unavailable(name: str) -> None:
    with pytest.raises(EngineUnavailable, match="known are auto, native, onnxruntime, reference"):
        create_engine(name)


def test_an_engine_whose_library_is_missing_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "bitgear.engines.onnxruntime")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineUnavailable, match=r"onnxruntime.*install onnx and onnxruntime") as caught:
        create_engine("onnxruntime")
    assert isinstance(caught.value.__cause__, ImportError)


@pytest.mark.parametrize("name", USABLE)
@pytest.mark.parametrize("precision", [3, Plan.uniform(3), Plan.parse("w8a3"), Plan.parse("w3a8")])
def test_a_width_not_offered_is_refused_by_every_engine(name: str, precision: Precision) -> None:
    master = lively_master()
    object.__setattr__(master, "widths", (8, 4))
    with pytest.raises(PrecisionNotOffered, match="does not offer precision 3"):
        create_engine(name).derive(master, precision)


@pytest.mark.parametrize("name", USABLE)
def test_what_no_master_can_serve_is_refused_by_every_engine(name: str) -> None:
    engine = create_engine(name)
    for bits in (1, 9):
        with pytest.raises(PrecisionError, match="from 2 to 8"):
            engine.derive(lively_master(), bits)
    with pytest.raises(GraphError, match="'pool', which is no convolution"):
        engine.derive(lively_master(), Plan(LayerBits(4, 4), (("pool", LayerBits(8, 8)),)))


@pytest.mark.parametrize("name", USABLE)
@pytest.mark.parametrize("shape", [(3, 16, 16), (0, 3, 16, 16), (1, 3, 8, 16), (1, 16, 16, 3)])
def test_inputs_of_another_shape_are_refused_by_every_engine(name: str, shape: tuple[int, ...]) -> None:
    model = create_engine(name).derive(lively_master(), 4)
    with pytest.raises(InputError):
        model.run(np.zeros(shape, np.int8))


def test_a_derived_model_counts_its_bytes() -> None:
    master = lively_master()
    weights = sum(t.size for name, t in master.tensors.items() if name.endswith(".weight"))
    assert 4 * weights < ENGINE.derive(master, 4).nbytes < 4 * weights + 20_000


@pytest.mark.parametrize("name", USABLE)
def test_threads_at_different_widths_do_not_touch_each_other(name: str) -> None:
    master = lively_master(21)
    q_images = random_codes(master, 2)
    models = {bits: create_engine(name).derive(master, bits) for bits in (8, 5, 2)}
    expected = {bits: reference.run(master, q_images, bits) for bits in models}
    barrier = threading.Barrier(len(models) * 2)
    wrong: list[int] = []

    def work(bits: int) -> None:
        barrier.wait()
        results = [models[bits].run(q_images) for _ in range(5)]
        wrong.extend(bits for logits in results if not np.array_equal(logits, expected[bits]))

    threads = [threading.Thread(target=work, args=(bits,)) for bits in models for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_onnx_model_states_its_interface() -> None:
    model = build_onnx(lively_master(), 3)
    (image,), (output,) = model.graph.input, model.graph.output
    assert image.name == IMAGE
    assert [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim] == ["N", 3, 16, 16]
    assert output.name == "head"
    assert model.graph.name == "tiny-3"
    (output,) = build_onnx(random_master(NODES["nearest up"], 9, 0), Plan.parse("w8a7")).graph.output
    assert [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim] == ["N", 6, 11, 16]


@pytest.mark.parametrize(("said", "expected"), [(None, "1"), ("0", "0")])
def test_the_telemetry_of_onnxruntime_is_off_unless_it_is_asked_for(said: str | None, expected: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {} if said is None else {"ORT_DISABLE_TELEMETRY": said}
    code = "import os, bitgear.engines.onnxruntime; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected
