"""The native engine as its callers meet it: choosing, deriving, running, and every mistake one can make."""

import dataclasses
import itertools
import resource
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitgear import reference
from bitgear.bits import WIDTHS, LayerBits, Plan
from bitgear.checkpoint import read_master
from bitgear.engines import create_engine
from bitgear.engines.registry import KERNEL_VARIABLE, native_instruction_set
from bitgear.errors import EngineUnavailable, GraphError, InputError, PrecisionNotOffered
from bitgear.fold import INTERPOLATION_ONE
from bitgear.graph import IMAGE, MAX_SIDE, MAX_TERMS, MAX_WINDOW, Concat, Conv, Graph, MaxPool, Pool, Resize, Shortcut
from bitgear.inputs import InputRecord
from bitgear.models import find_master
from tests.masters import random_codes, random_master, tiny_master
from tests.native.paths import (
    FORMS,
    MULTIPLICATIONS,
    OFFERED,
    NativeModel,
    _native,
    derived,
    measured,
    stride_of,
    taken,
)
from tests.native.steps import (
    add_bilinear,
    add_buffer,
    add_conv,
    add_copy,
    add_maximum,
    add_sum,
    interpolation,
    output,
    pooling,
    residual,
)

from bitgear.engines.native import NativeEngine  # isort: skip - not before the extension is known to be there

BEST = next(iter(OFFERED))


@pytest.fixture(autouse=True)
def _no_instruction_set_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KERNEL_VARIABLE, raising=False)


# -- choosing ---------------------------------------------------------------------------------------------------------


def test_instruction_sets_come_best_first_and_portable_last() -> None:
    rows = _native.instruction_sets()
    assert [name for name, *_ in rows] == ["avx512-amx", "avx512-vnni", "avx2-vnni", "avx2", "neon-dotprod", "portable"]
    name, compiled, offered, paths = rows[-1]
    assert (name, compiled, offered, paths) == ("portable", True, True, ["scalar", "scalar-16"])
    assert all(paths == [] for _, compiled, _, paths in rows if not compiled)
    assert _native.choose() == _native.choose("") == BEST
    for name in OFFERED:
        assert _native.choose(name) == name


def test_bounds_are_those_of_the_definition() -> None:
    assert _native.MAX_SIDE == MAX_SIDE
    assert _native.MAX_WINDOW == MAX_WINDOW
    assert {"conv": _native.MAX_TERMS, "linear": _native.MAX_TERMS, "pool": _native.MAX_SUMMED} == MAX_TERMS
    assert _native.MAX_IMAGES == reference.MAX_IMAGES
    assert _native.INTERPOLATION_ONE == INTERPOLATION_ONE


def test_room_for_patches_is_that_of_the_forms_that_may_compute_a_convolution() -> None:
    sides = {stride: {side for form in FORMS if stride_of(form) == stride for side in FORMS[form]} for stride in (1, 2)}
    for stride, size in itertools.product(sides, range(1, 14)):
        most = stride * max(-size % side for side in sides[stride])
        assert _native.winograd_spare(3, stride, 1, size, size + 12) == (most, most)
    for kernel, stride, dilation in ((1, 1, 1), (5, 1, 1), (3, 3, 1), (3, 1, 2)):
        assert _native.winograd_spare(kernel, stride, dilation, 5, 7) == (0, 0)
    with pytest.raises(ValueError, match="at least one pixel"):
        _native.winograd_spare(3, 1, 1, 0, 5)


def test_the_default_engine_is_the_native_one() -> None:
    engine = create_engine()
    assert engine.name == "native"
    model = engine.derive(tiny_master(), 4)
    assert isinstance(model, NativeModel)
    assert model.plan == Plan.uniform(4)
    assert model.threads == 1


@pytest.mark.parametrize("name", OFFERED)
def test_an_environment_variable_forces_an_instruction_set(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KERNEL_VARIABLE, name)
    master = tiny_master()
    for engine in (create_engine(), create_engine("native")):
        model = engine.derive(master, 8)
        assert isinstance(model, NativeModel)
        assert isinstance(engine, NativeEngine)
        assert engine.instruction_set == name
        assert {path.split()[-1] for path in taken(model, "a.conv1")} <= set(MULTIPLICATIONS[name])
        q_images = random_codes(master, 2)
        np.testing.assert_array_equal(model.run(q_images), reference.run(master, q_images, 8))


@pytest.mark.parametrize(
    "name", ["sse2", "AVX2", "portable ", "\udcff", *({name for name, *_ in _native.instruction_sets()} - set(OFFERED))]
)
def test_an_instruction_set_that_cannot_be_used_is_unavailable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KERNEL_VARIABLE, name)
    for engine in ("auto", "native"):
        with pytest.raises(EngineUnavailable) as caught:
            create_engine(engine)
        for part in (f"{name!r}", *OFFERED):
            assert part in str(caught.value)
    create_engine("reference")
    assert native_instruction_set() is None
    if name == "\udcff":  # a byte that is no UTF-8: the extension takes text alone
        return
    with pytest.raises(ValueError, match="unknown, not compiled in or not offered"):
        _native.Model(name, {})
    with pytest.raises(ValueError, match="unknown, not compiled in or not offered"):
        _native.derive(name, np.zeros(4, np.int8), 4, np.zeros(4, np.int8))


def test_without_the_extension_onnxruntime_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitgear._native", None)
    assert create_engine().name == "onnxruntime"
    with pytest.raises(EngineUnavailable, match=r"'native' cannot be loaded: .*_native.*onnxruntime") as caught:
        create_engine("native")
    assert isinstance(caught.value.__cause__, ImportError)


# -- deriving ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "last", [Shortcut("z", "u", 8), MaxPool("z", "u", 2), Resize("z", "u", 3, 3), Concat("z", ("u", "u"))]
)
def test_a_graph_that_ends_in_a_selection_is_refused(last: Any) -> None:
    master = random_master(Graph((Conv("u", IMAGE, 4, 1), last)), 6, 0)
    with pytest.raises(GraphError, match=r"'z' ends the graph with a selection.*; choose the engine onnxruntime$"):
        create_engine("native").derive(master, 8)
    q_images = random_codes(master, 2)
    found = create_engine("onnxruntime").derive(master, 8).run(q_images)
    np.testing.assert_array_equal(found, reference.run(master, q_images, 8))


def test_a_value_may_have_so_many_readers_and_no_more() -> None:
    for readers in (_native.MAX_OUTPUTS, _native.MAX_OUTPUTS + 1):
        nodes = [Conv("u", IMAGE, 3, 1)]
        nodes += [Conv(f"y{i}", "u", 3, 1, relu=False) for i in range(readers)]
        graph = Graph((*nodes, Concat("k", tuple(node.name for node in nodes[1:])), Conv("z", "k", 5, 1)))
        master = random_master(graph, 5, readers)
        if readers > _native.MAX_OUTPUTS:
            with pytest.raises(GraphError, match=f"reads 'u' needs {readers} .* {_native.MAX_OUTPUTS} at most"):
                create_engine("native").derive(master, 8)
        else:
            q_images = random_codes(master, 2)
            for name in OFFERED:
                np.testing.assert_array_equal(
                    derived(master, 8, name).run(q_images), reference.run(master, q_images, 8)
                )


def test_buffers_of_one_reader_add_up_through_selections() -> None:
    """One node reads the value, and says so nine times; what reads that node needs twice as many buffers."""
    convs = (Conv("d", "k", 4, 1, relu=False), Conv("e", "k", 4, 1, relu=False))
    graph = Graph((Conv("u", IMAGE, 5, 1), Concat("k", ("u",) * 9), *convs, Concat("j", ("d", "e")), Pool("p", "j")))
    master = random_master(graph, 5, 0)
    with pytest.raises(GraphError, match=r"what reads 'u' needs 18 buffers of its codes.*engine onnxruntime"):
        create_engine("native").derive(master, 8)
    q_images = random_codes(master, 2)
    found = create_engine("onnxruntime").derive(master, 8).run(q_images)
    np.testing.assert_array_equal(found, reference.run(master, q_images, 8))


def test_a_picture_takes_2_gib_of_codes_and_no_more() -> None:
    """A buffer for each reader adds up to any memory, of a file of any size; nothing of it is allocated here."""
    side_px = 8192
    for readers in (7, 8):
        names = [f"y{i}" for i in range(readers)]
        ends = (Concat("k", tuple(names)), Pool("z", "k"))
        few = random_master(Graph((*(Conv(name, IMAGE, 1, 1) for name in names), *ends)), 5, 0)
        large = Graph((*(Conv(name, IMAGE, 1, 1, stride=side_px) for name in names), *ends))
        master = dataclasses.replace(few, graph=large, input=InputRecord.centred(side_px, 128))
        if readers == 8:
            with pytest.raises(GraphError, match=r"^the graph is not .* more than 2 GiB .* the engine onnxruntime$"):
                create_engine("native").derive(master, 8)
        else:
            core = derived(master, 8, "portable").core
            assert readers * side_px * side_px * 4 <= core.arena_bytes <= 2**31


@pytest.mark.parametrize("width_px", [1, 2**16])
def test_a_model_that_would_take_more_than_2_gib_never_runs(width_px: int) -> None:
    """For codes alone, or for what is computed beside them: here, two rows of sums that are pooled together."""
    core = _native.Model("portable", measured("portable"))
    add_buffer(core, 1, width_px, 3, fill=128)
    core.add_image(0)
    channels = 4096
    add_conv(
        core, q8=np.ones((channels, 3, 1, 1), np.int8), channels=channels, kernel=1, multiplier=[1.0] * channels,
        pooling=pooling(2, 1, width_px, padding=1),
    )  # fmt: skip
    if width_px == 1:
        add_buffer(core, 2**15, 2**14, 4)
    for _ in range(2):
        with pytest.raises(ValueError, match="more than 2 GiB"):
            core.finish()
    with pytest.raises(ValueError, match="not finished"):
        core.run(np.zeros((1, 3, 1, width_px), np.int8), np.zeros((1, channels, 1, width_px), np.float32), 1)


@pytest.mark.parametrize("instruction_set", OFFERED)
def test_a_pooled_convolution_of_one_pixel_reads_one_window(instruction_set: str) -> None:
    """And not what would be its neighbours', a stride away: here those lie tens of megabytes further."""
    core = _native.Model(instruction_set, measured(instruction_set))
    image, wide, pooled = (add_buffer(core, 1, 1, channels) for channels in (3, 512, 32))
    core.add_image(image)
    ones = {"kernel": 1, "bias": [], "relu": False, "clip": float("inf")}
    add_conv(
        core, q8=np.ones((512, 3, 1, 1), np.int8), channels=512, multiplier=[1.0] * 512, outputs=[output(wide)],
        result=False, **ones,
    )  # fmt: skip
    add_conv(
        core, input=wide, q8=np.ones((32, 512, 1, 1), np.int8), channels=32, stride=2**16, zero=0,
        multiplier=[1.0] * 32, outputs=[output(pooled)], result=False, pooling=pooling(1, 1, 1), **ones,
    )  # fmt: skip
    add_conv(core, input=pooled, q8=np.ones((8, 32, 1, 1), np.int8), channels=8, zero=0, multiplier=[1.0] * 8, **ones)
    core.finish()
    result = np.empty((1, 8, 1, 1), np.float32)
    core.run(np.ones((1, 3, 1, 1), np.int8), result, 1)
    assert result.ravel().tolist() == [32 * min(512 * 3, 255)] * 8


def test_what_calls_work_in_is_not_counted_and_grows_with_the_picture() -> None:
    graph = Graph((Conv("u", IMAGE, 32, 3, padding=1), Conv("v", "u", 32, 3, padding=1), Pool("p", "v")))
    masters = [random_master(graph, side_px, 0) for side_px in (8, 64)]
    small, large = (derived(master, 8, "portable", "scalar") for master in masters)
    before = large.nbytes
    large.run(random_codes(large.master, 1))
    assert small.nbytes == before == large.nbytes
    assert large.core.arena_bytes > 64 * 64 * 32 > large.nbytes > small.core.arena_bytes


def test_plans_that_a_master_cannot_serve_are_refused() -> None:
    master = dataclasses.replace(tiny_master(), widths=(8, 4))
    for plan in (2, Plan.parse("w8a2"), Plan(LayerBits(8, 8), (("a.conv1", LayerBits(3, 8)),))):
        with pytest.raises(PrecisionNotOffered):
            create_engine("native").derive(master, plan)
    with pytest.raises(GraphError, match="no convolution"):
        create_engine("native").derive(master, Plan(LayerBits(8, 8), (("head", LayerBits(4, 4)),)))


def test_bytes_are_those_of_weights_and_constants_and_add_up() -> None:
    """A network's bytes are those of its layers; a chain of equal layers grows by the same bytes with each."""

    def chain(length: int) -> Graph:
        names = ["stem", *(f"c{i}" for i in range(length))]
        convs = (Conv(name, before, 64, 3, padding=1) for before, name in itertools.pairwise(names))
        return Graph((Conv("stem", IMAGE, 64, 1), *convs))

    masters = [random_master(chain(length), 5, 0) for length in (1, 2, 3)]
    for name in OFFERED:
        weights = 64 * 64 * 9
        for path, growth in ((OFFERED[name][0], 1), ("", 8)):  # 8: Winograd's transforms of 16 bits
            sizes = [derived(master, 8, name, path).nbytes for master in masters]
            assert sizes[1] - sizes[0] == sizes[2] - sizes[1]
            assert weights <= sizes[1] - sizes[0] <= 1.1 * growth * weights + 2000
    shipped = read_master(find_master("resnet20-cifar10"))
    for bits in WIDTHS:
        model = create_engine("native").derive(shipped, bits)
        assert isinstance(model, NativeModel)
        assert model.nbytes == model.core.resident_bytes
        assert 0.25 * shipped.parameter_count < model.nbytes < 4 * shipped.parameter_count
        assert model.core.arena_bytes > 32 * 32 * 16


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not tell a process's memory")
@pytest.mark.parametrize("instruction_set", OFFERED)
def test_what_a_model_keeps_of_a_large_picture_is_counted(instruction_set: str) -> None:
    """Tables of its tiles would take a multiple of the weights."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    measured(instruction_set)
    before = resident()
    kept = []
    for _ in range(4):
        core = _native.Model(instruction_set, measured(instruction_set))
        for channels in (3, 4):
            add_buffer(core, 4096, 4096, channels)
        core.add_image(0)
        ones: dict[str, Any] = {"kernel": 1, "act_max": 255, "zero": 0}
        add_conv(core, q8=np.ones((4, 3, 1, 1), np.int8), outputs=[output(1)], result=False, **ones)
        add_conv(core, input=1, q8=np.ones((4, 4, 1, 1), np.int8), **ones)
        core.finish()
        kept.append(core)
    assert resident() - before < sum(core.resident_bytes for core in kept) + 8 * 2**20


def test_nodes_that_nobody_reads_take_neither_memory_nor_time() -> None:
    graph = Graph((Conv("u", IMAGE, 8, 3), Conv("dead", "u", 64, 3), MaxPool("gone", "dead", 2), Pool("p", "u")))
    master = random_master(graph, 9, 0)
    lean = dataclasses.replace(master, graph=Graph((graph.nodes[0], graph.nodes[3])))
    whole, part = derived(master, 8, BEST), derived(lean, 8, BEST)
    assert whole.nbytes == part.nbytes
    assert whole.core.paths == part.core.paths
    q_images = random_codes(master, 2)
    np.testing.assert_array_equal(whole.run(q_images), reference.run(master, q_images, 8))


def test_a_derived_model_does_not_look_at_the_master_again() -> None:
    master = tiny_master(3)
    q_images = random_codes(master, 2)
    model = create_engine("native").derive(master, 4)
    before = model.run(q_images)
    for tensor in master.tensors.values():
        tensor[...] = 1
    np.testing.assert_array_equal(model.run(q_images), before)


# -- running ----------------------------------------------------------------------------------------------------------


def test_a_result_is_new_contiguous_and_of_the_references_shape() -> None:
    for nodes in ((Conv("u", IMAGE, 5, 3),), (Conv("u", IMAGE, 5, 9),), (Conv("u", IMAGE, 5, 3), Pool("p", "u"))):
        master = random_master(Graph(nodes), 9, 1)
        model = create_engine("native").derive(master, 8)
        q_images = random_codes(master, 3)
        expected = reference.run(master, q_images, 8)
        first = model.run(q_images)
        assert (first.shape, first.dtype) == (expected.shape, np.float32)
        assert first.flags.c_contiguous
        assert first.flags.writeable
        first[...] = 0
        np.testing.assert_array_equal(model.run(q_images), expected)


def test_images_of_any_memory_layout() -> None:
    master = tiny_master(4)
    q_images = random_codes(master, 4)
    expected = reference.run(master, q_images, 8)
    model = create_engine("native").derive(master, 8)
    padded = np.zeros((4, 3, 16, 19), np.int8)
    padded[..., 2:18] = q_images
    channels_last = np.ascontiguousarray(q_images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    unaligned = np.frombuffer(b"x" + q_images.tobytes(), np.int8, offset=1).reshape(q_images.shape)
    for images in (channels_last, padded[..., 2:18], np.repeat(q_images, 2, 0)[::2], q_images[::-1][::-1], unaligned):
        np.testing.assert_array_equal(model.run(images), expected)
    assert not unaligned.flags.writeable


@pytest.mark.parametrize("shape", [(3, 16, 16), (0, 3, 16, 16), (1, 3, 8, 16), (1, 16, 16, 3), (1, 4, 16, 16), ()])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    model = create_engine("native").derive(tiny_master(), 4)
    with pytest.raises(InputError, match=r"expected int8 codes of shape \(N, 3, 16, 16\)"):
        model.run(np.zeros(shape, np.int8))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, bool])
def test_images_of_another_type_are_refused(dtype: type) -> None:
    model = create_engine("native").derive(tiny_master(), 4)
    with pytest.raises(InputError, match="expected int8"):
        model.run(np.zeros((1, 3, 16, 16), dtype))


@pytest.mark.parametrize("threads", [0, -1, -(2**31)])
def test_a_call_without_a_thread_is_refused(threads: int) -> None:
    model = create_engine("native").derive(tiny_master(), 4)
    assert isinstance(model, NativeModel)
    with pytest.raises(ValueError, match="thread"):
        model.run(random_codes(model.master, 1), threads=threads)


def test_a_profile_has_a_row_for_every_step() -> None:
    master = tiny_master()
    model = create_engine("native", threads=2).derive(master, 4)
    assert isinstance(model, NativeModel)
    q_images = random_codes(master, 3)
    for threads in (1, 2):
        rows = model.core.profile(q_images, threads, 3)
        assert [(name, path) for name, path, _, _ in rows] == model.core.paths
        assert all(seconds > 0 for *_, seconds in rows)
        macs = {name: count for name, _, count, _ in rows}
        assert macs["stem"] == 3 * 16 * 16 * 8 * 3 * 9
        assert macs["head"] == 3 * 16 * 10
        assert macs["pool"] == 0
    np.testing.assert_array_equal(model.run(q_images), reference.run(master, q_images, 4))


# -- mistakes of a caller below the engine ----------------------------------------------------------------------------


BORDER = dict.fromkeys(("top", "left", "bottom", "right"), 1)


def begun(instruction_set: str = "portable") -> Any:
    """A model of a 5x5 image in buffer 0, with a border of a pixel; buffer 1 has 4 channels, buffer 2 another size."""
    core = _native.Model(instruction_set, measured(instruction_set))
    assert add_buffer(core, 5, 5, 3, **BORDER, spare_bottom=1, spare_right=3, fill=128) == 0
    assert add_buffer(core, 5, 5, 4) == 1
    assert add_buffer(core, 4, 5, 4) == 2
    core.add_image(0)
    return core


HUGE = 2**31 - 1
MISTAKES: dict[str, Callable[[Any], None]] = {
    "buffer without size": lambda core: add_buffer(core, 0, 5, 3),
    "buffer too large": lambda core: add_buffer(core, 5, HUGE, 3),
    "negative border": lambda core: add_buffer(core, 5, 5, 3, top=-1),
    "no such image buffer": lambda core: core.add_image(3),
    "negative image buffer": lambda core: core.add_image(-1),
    "image of four channels": lambda core: core.add_image(1),
    "no such input": lambda core: add_conv(core, input=3),
    "negative input": lambda core: add_conv(core, input=-1),
    "too few weights": lambda core: add_conv(core, q8=np.ones((4, 3, 3, 2), np.int8)),
    "too many weights": lambda core: add_conv(core, q8=np.ones((5, 3, 3, 3), np.int8)),
    "no weights": lambda core: add_conv(core, q8=np.ones(0, np.int8)),
    "no channels": lambda core: add_conv(core, channels=0, q8=np.ones(0, np.int8), multiplier=[]),
    "no kernel": lambda core: add_conv(core, kernel=0, q8=np.ones(0, np.int8)),
    "huge kernel": lambda core: add_conv(core, kernel=HUGE),
    "no stride": lambda core: add_conv(core, stride=0),
    "negative stride": lambda core: add_conv(core, stride=-1),
    "no dilation": lambda core: add_conv(core, dilation=0),
    "huge dilation": lambda core: add_conv(core, dilation=HUGE),
    "no groups": lambda core: add_conv(core, groups=0),
    "groups that do not divide": lambda core: add_conv(core, groups=2),
    "window larger than the input": lambda core: add_conv(core, kernel=9, q8=np.ones((4, 3, 9, 9), np.int8)),
    "window larger than the input, strided": lambda core: add_conv(
        core, kernel=9, stride=4, q8=np.ones((4, 3, 9, 9), np.int8)
    ),
    "one bit": lambda core: add_conv(core, weight_bits=1),
    "nine bits": lambda core: add_conv(core, weight_bits=9),
    "activations beyond a byte": lambda core: add_conv(core, act_max=256),
    "no activations": lambda core: add_conv(core, act_max=0),
    "zero beyond the codes": lambda core: add_conv(core, zero=256),
    "too few multipliers": lambda core: add_conv(core, multiplier=[1.0] * 3),
    "too few biases": lambda core: add_conv(core, bias=[1.0] * 3),
    "no such residual": lambda core: add_conv(core, residual=residual(7)),
    "residual of another size": lambda core: add_conv(core, residual=residual(2)),
    "residual whose zero is no power of two": lambda core: add_conv(core, residual=residual(1, zero=3)),
    "residual whose zero is beyond a byte": lambda core: add_conv(core, residual=residual(1, zero=256)),
    "residual of fewer channels": lambda core: add_conv(core, residual=residual(0)),
    "no such reader": lambda core: add_conv(core, outputs=[output(9)]),
    "negative reader": lambda core: add_conv(core, outputs=[output(-1)]),
    "reader of another size": lambda core: add_conv(core, outputs=[output(2)]),
    "reader of fewer channels": lambda core: add_conv(core, outputs=[output(1, 1)]),
    "reader of a negative channel": lambda core: add_conv(core, outputs=[output(1, -1)]),
    "reader of a huge channel": lambda core: add_conv(core, outputs=[output(1, HUGE)]),
    "reader of fewer channels than all groups have": lambda core: add_conv(
        core, input=1, q8=np.ones((4, 2, 1, 1), np.int8), kernel=1, groups=2, outputs=[output(1, 1)]
    ),
    "codes beyond a byte": lambda core: add_conv(core, outputs=[output(high=256)]),
    "codes below a byte": lambda core: add_conv(core, outputs=[output(low=-1)]),
    "too many readers": lambda core: add_conv(core, outputs=[output()] * (_native.MAX_OUTPUTS + 1)),
    "pooling with a residual": lambda core: add_conv(core, pooling=pooling(2, 4, 4), residual=residual(1)),
    "pooling beyond the value": lambda core: add_conv(core, pooling=pooling(2, 9, 4)),
    "pooling without a pixel": lambda core: add_conv(core, pooling=pooling(2, 4, 4, padding=2)),
    "pooling of a huge window": lambda core: add_conv(core, pooling=pooling(HUGE, 1, 1)),
    "pooling to nothing": lambda core: add_conv(core, pooling=pooling(2, 0, 4)),
    "sum of no such buffer": lambda core: add_sum(core, input=5),
    "sum of a negative window": lambda core: add_sum(core, kernel=-1),
    "sum of a huge window": lambda core: add_sum(core, kernel=HUGE),
    "sum of a window larger than the input": lambda core: add_sum(core, kernel=11, stride=4),
    "sum without stride": lambda core: add_sum(core, kernel=2, stride=0),
    "sum without multipliers": lambda core: add_sum(core, multiplier=[1.0]),
    "sum to another size": lambda core: add_sum(core, kernel=3, outputs=[output(2)], result=False),
    "resize of no such buffer": lambda core: add_bilinear(core, input=5),
    "resize from outside": lambda core: add_bilinear(core, columns=[interpolation(4, 5)]),
    "resize from before": lambda core: add_bilinear(core, rows=[interpolation(-1, 0)]),
    "resize to nothing": lambda core: add_bilinear(core, rows=[]),
    "resize without multipliers": lambda core: add_bilinear(core, multiplier=[]),
    "resize to another size": lambda core: add_bilinear(core, outputs=[output(2)]),
    "maximum of no such buffer": lambda core: add_maximum(core, input=5),
    "maximum to no such buffer": lambda core: add_maximum(core, output=5),
    "maximum without window": lambda core: add_maximum(core, kernel=0),
    "maximum without stride": lambda core: add_maximum(core, stride=0),
    "maximum of a window larger than the input": lambda core: add_maximum(core, kernel=12, stride=16),
    "maximum to another size": lambda core: add_maximum(core, output=2),
    "maximum beyond the channels": lambda core: add_maximum(core, channel=2),
    "copy of no such buffer": lambda core: add_copy(core, input=5),
    "copy to no such buffer": lambda core: add_copy(core, output=-1),
    "copy from outside": lambda core: add_copy(core, source_y=[5] * 5),
    "copy from before": lambda core: add_copy(core, source_x=[-1] * 5),
    "copy to another size": lambda core: add_copy(core, source_y=[0] * 6),
    "copy beyond the channels": lambda core: add_copy(core, pad_channels=1),
    "copy with negative padding": lambda core: add_copy(core, channel=1, pad_channels=-1),
    "copy with huge padding": lambda core: add_copy(core, pad_channels=HUGE),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_building_raises_and_harms_nothing(mistake: str) -> None:
    """The model goes on as if nothing had happened."""
    core = begun()
    with pytest.raises(ValueError, match=r"\w"):
        MISTAKES[mistake](core)
    add_conv(core, clip=float("inf"))
    core.finish()
    q_image = np.arange(-37, 38).astype(np.int8).reshape(1, 3, 5, 5)
    result = np.zeros((1, 4, 5, 5), np.float32)
    core.run(q_image, result, 2)
    padded = np.pad(q_image.astype(int), ((0, 0), (0, 0), (1, 1), (1, 1)))
    sums = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3)).sum((1, 4, 5))
    np.testing.assert_array_equal(result, np.repeat(np.maximum(sums, 0)[:, None], 4, 1))


def test_numbers_that_could_take_each_others_place_are_given_by_name() -> None:
    core = begun()
    for call in (
        lambda: core.add_buffer(5, 5, 3, 1, 1, 1, 1, 1, 3, 128),
        lambda: core.add_window_sum("s", 0, 0, 1, 0, [1.0] * 3, [], True),
        lambda: core.add_maximum("m", 0, 1, 0, 3, 1),
        lambda: add_conv(core, residual=(1, 1.0, 0)),
        lambda: add_conv(core, pooling=(2, 1, 0, 4, 4)),
        lambda: add_conv(core, outputs=[(1, 0, 1.0, 0, 255, 0)]),
        lambda: add_bilinear(core, rows=[(0, 1, 0)] * 5),
        lambda: _native.Residual(1, 1.0, 0),
        lambda: _native.Pooling(2, 1, 0, 4, 4),
        lambda: _native.Output(1, 0, 1.0, 0, 255, 0),
        lambda: _native.Interpolation(0, 1, 0),
    ):
        with pytest.raises(TypeError):
            call()
    assert core.paths == [("image", "")]


@pytest.mark.parametrize("instruction_set", OFFERED)
@pytest.mark.parametrize("path", FORMS)
def test_a_buffer_without_room_for_patches_is_no_danger(instruction_set: str, path: str) -> None:
    """Patches reach over odd sizes; without the spare pixels another path is taken or the step refused."""
    core = _native.Model(instruction_set, measured(instruction_set))
    add_buffer(core, 5, 5, 3, **BORDER)
    core.add_image(0)
    try:
        add_conv(core, stride=stride_of(path), weight_bits=3, act_max=7, zero=4, path=path)
    except ValueError:
        return
    assert not any("winograd" in taken for _, taken in core.paths)


# -- sizes that 32 bits do not hold: nothing is allocated before a model runs ------------------------------------------

SPREAD = 128
"""A dilation: the last row of a window of 3 lies 256 rows below its first one."""
MOST_ROW_PX, ROW_CHANNELS = 8190, 1024
"""Of a row that many of which take a little less than 2 GiB: 256 of them, 256 pixels and one more."""


def spread(instruction_set: str, row_px: int) -> Any:
    core = _native.Model(instruction_set, measured(instruction_set))
    add_buffer(core, 2 * SPREAD + 1, row_px, ROW_CHANNELS)
    return core


def add_spread(core: Any, groups: int = 1, **changes: Any) -> None:
    channels = ROW_CHANNELS if groups == ROW_CHANNELS else 4
    q8 = np.ones((channels, ROW_CHANNELS // groups, 3, 3), np.int8)
    sizes: dict[str, Any] = {"q8": q8, "channels": channels, "multiplier": [1.0] * channels, "groups": groups}
    add_conv(core, **sizes, dilation=SPREAD, **changes)


@pytest.mark.parametrize("instruction_set", OFFERED)
@pytest.mark.parametrize("groups", [1, 2, ROW_CHANNELS])
def test_a_window_may_span_2_gib_of_its_input_and_no_more(instruction_set: str, groups: int) -> None:
    assert 256 * MOST_ROW_PX + 257 <= 2**31 / ROW_CHANNELS < 256 * (MOST_ROW_PX + 1) + 257
    core = spread(instruction_set, MOST_ROW_PX)
    add_spread(core, groups)
    assert core.paths
    core = spread(instruction_set, MOST_ROW_PX + 1)
    with pytest.raises(ValueError, match="spans more than 2 GiB"):
        add_spread(core, groups)
    assert core.paths == []


@pytest.mark.parametrize(
    ("instruction_set", "path"),
    [(name, path) for name, paths in OFFERED.items() for path in paths if path in ("pshufb", "vpermb-64")],
)
def test_tables_whose_window_spans_more_than_2_gib_are_not_made(instruction_set: str, path: str) -> None:
    """They take several times as much as the input that they are made of: another path is taken."""
    for row_px, possible in ((300, True), (MOST_ROW_PX, False)):
        core = spread(instruction_set, row_px)
        add_spread(core, weight_bits=2, act_max=3, zero=0, path=path)
        assert (core.paths == [("c", path)]) == possible


SIDE = 2**15 + 1
"""Of a square of more than 2^30 pixels."""
EVERY, EVERY_ROW = list(range(SIDE)), [interpolation(i, i) for i in range(SIDE)]
ONES = np.ones((4, 4, 1, 1), np.int8)
TOO_LARGE: dict[str, Callable[[Any], None]] = {
    "convolution": lambda core: add_conv(core, q8=ONES, kernel=1),
    "pooled convolution": lambda core: add_conv(
        core, q8=ONES, kernel=1, pooling=pooling(2, SIDE // 2, SIDE // 2, stride=2)
    ),
    "depthwise convolution": lambda core: add_conv(core, q8=ONES[:, :1], kernel=1, groups=4),
    "sums": lambda core: add_sum(core, kernel=1, multiplier=[1.0] * 4),
    "one sum": lambda core: add_sum(core, multiplier=[1.0] * 4),
    "resize": lambda core: add_bilinear(core, rows=EVERY_ROW, columns=EVERY_ROW, multiplier=[1.0] * 4),
    "maximum": lambda core: add_maximum(core, kernel=1),
    "copy": lambda core: add_copy(core, source_y=EVERY, source_x=EVERY),
    "image": lambda core: core.add_image(2),
    "sum of many terms": lambda core: add_conv(
        core, q8=np.ones((1, 4, 129, 129), np.int8), channels=1, kernel=129, multiplier=[1.0], stride=1000
    ),
}


@pytest.mark.parametrize("step", TOO_LARGE)
def test_what_32_bits_do_not_count_is_refused(step: str) -> None:
    core = _native.Model("portable", measured("portable"))
    for channels in (4, 4, 3):
        add_buffer(core, SIDE, SIDE, channels)
    with pytest.raises(ValueError, match=r"more pixels|more terms"):
        TOO_LARGE[step](core)
    assert core.paths == []


RESULTS: dict[str, Callable[[Any], None]] = {
    "convolution": add_conv,
    "grouped convolution": lambda core: add_conv(
        core, input=1, q8=np.ones((4, 2, 1, 1), np.int8), kernel=1, groups=2, multiplier=[1.0] * 4
    ),
    "sums": add_sum,
    "resize": add_bilinear,
}


@pytest.mark.parametrize("second", RESULTS)
@pytest.mark.parametrize("first", RESULTS)
def test_a_second_result_is_refused(first: str, second: str) -> None:
    """Each writes as many values as it has, into memory that has room for the last one's."""
    core = begun()
    RESULTS[first](core)
    steps, shape = core.paths, core.result_shape
    with pytest.raises(ValueError, match="one result"):
        RESULTS[second](core)
    assert (core.paths, core.result_shape) == (steps, shape)
    core.finish()
    core.run(np.zeros((1, 3, 5, 5), np.int8), np.zeros((1, *shape), np.float32), 1)


def test_a_model_runs_after_the_end_of_building_and_not_before() -> None:
    core = begun()
    q_image, result = np.zeros((1, 3, 5, 5), np.int8), np.zeros((1, 4, 5, 5), np.float32)
    add_conv(core)
    for model in (core, _native.Model("portable", measured("portable"))):
        for call in (partial(model.run, q_image, result, 1), partial(model.profile, q_image, 1, 1)):
            with pytest.raises(ValueError, match="not finished"):
                call()
    core.finish()
    core.run(q_image, result, 1)
    for more in (
        lambda: add_conv(core),
        lambda: add_buffer(core, 5, 5, 3),
        lambda: core.add_image(0),
        lambda: core.finish(),
    ):
        with pytest.raises(ValueError, match="finished"):
            more()


@pytest.mark.parametrize("shape", [(1, 3, 5, 4), (1, 3, 4, 5), (1, 4, 5, 5), (1, 1, 5, 5), (0, 3, 5, 5), (2, 3, 5, 5)])
def test_arrays_that_do_not_fit_a_model_are_refused(shape: tuple[int, ...]) -> None:
    core = begun()
    add_conv(core)
    core.finish()
    with pytest.raises(ValueError, match="another shape"):
        core.run(np.zeros(shape, np.int8), np.zeros((1, 4, 5, 5), np.float32), 1)
    if shape[1:] != (3, 5, 5) or shape[0] == 0:
        with pytest.raises(ValueError, match=r"shape|needs"):
            core.profile(np.zeros(shape, np.int8), 1, 1)


def test_arrays_that_would_have_to_be_copied_are_refused() -> None:
    core = begun()
    add_conv(core)
    core.finish()
    good, result = np.zeros((1, 3, 5, 5), np.int8), np.zeros((1, 4, 5, 5), np.float32)
    frozen = result.copy()
    frozen.flags.writeable = False
    arrays: list[tuple[Any, Any]] = [
        (good.astype(np.uint8), result), (good.astype(np.float32), result), (good[0], result),
        (np.zeros((1, 3, 5, 10), np.int8)[..., ::2], result), (good, result.astype(np.float64)),
        (good, np.zeros((1, 4, 5, 10), np.float32)[..., ::2]), (good, frozen), (good, None), (None, result),
    ]  # fmt: skip
    for q_image, out in arrays:
        with pytest.raises(TypeError):
            core.run(q_image, out, 1)
    for rounds, threads in ((0, 1), (1, 0), (-1, 1)):
        with pytest.raises(ValueError, match="needs"):
            core.profile(good, threads, rounds)
    core.run(good, result, 1)


@pytest.mark.parametrize("bits", [-1, 0, 1, 9, 33])
def test_codes_of_a_width_that_does_not_exist_are_refused(bits: int) -> None:
    for out, width in ((4, bits), (3, 4), (5, 4)):
        with pytest.raises(ValueError, match="2 to 8 bits"):
            _native.derive("portable", np.zeros(4, np.int8), width, np.zeros(out, np.int8))


def test_codes_are_written_into_the_array_given_or_nowhere() -> None:
    q8, frozen = np.arange(-4, 4, dtype=np.int8), np.zeros(8, np.int8)
    frozen.flags.writeable = False
    for out in (np.zeros(8, np.int32), np.zeros(16, np.int8)[::2], frozen):
        with pytest.raises(TypeError):
            _native.derive("portable", q8, 4, out)
