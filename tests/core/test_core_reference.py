"""The reference executor, held against loops over single numbers and against numbers worked by hand."""

import dataclasses
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgear import reference
from bitgear.bits import WIDTHS, LayerBits, Plan, as_plan
from bitgear.checkpoint import Master, tensor_specs
from bitgear.errors import GraphError, InputError, PrecisionNotOffered
from bitgear.fold import check_plan, derive_weight, fold
from bitgear.graph import IMAGE, AvgPool, Concat, Conv, Graph, Linear, MaxPool, Pool, Resize, Shortcut, sums
from bitgear.inputs import InputRecord
from bitgear.rounding import derive
from tests.graphs import NODES
from tests.masters import LABELS, random_codes, random_master, tiny_graph, tiny_master

F = np.float32


def round_and_clip(value: np.float32, low: int, high: int) -> int:
    """Python's round is half to even; the quotient was made in float32."""
    return max(low, min(high, round(float(value))))


def naive_run(master: Master, q_image: np.ndarray, widths: Callable[[str], tuple[int, int]]) -> np.ndarray:
    """The forward pass as docs/format.md tells it, in loops, without any of bitgear's arithmetic.

    ``widths`` gives the widths of weights and activations that are asked of a node.
    """
    tensors = master.tensors
    nodes = {node.name: node for node in master.graph.nodes}
    values: dict[str, np.ndarray] = {}

    def signed(value: str) -> bool:
        node = nodes.get(value)
        if isinstance(node, Concat):
            return any(signed(each) for each in node.inputs)
        if isinstance(node, Conv):
            return not node.relu
        return True if node is None or isinstance(node, Linear) else signed(node.input)

    def quantised(value: str, scale: np.float32, at: int) -> np.ndarray:
        low, high = (-(2 ** (at - 1)), 2 ** (at - 1) - 1) if signed(value) else (0, 2**at - 1)
        flat = [round_and_clip(v / scale, low, high) for v in values[value].reshape(-1)]
        return np.asarray(flat, np.int64).reshape(values[value].shape)

    def seen(v: np.ndarray, n: int, c: int, i: int, j: int, node: Any) -> Iterator[tuple[int, int, Any]]:
        """Place in the window and value of what it sees of a channel; nothing where it reaches over the border."""
        step = getattr(node, "dilation", 1)
        for y, x in np.ndindex(node.kernel, node.kernel):
            row_px = i * node.stride + y * step - node.padding
            column_px = j * node.stride + x * step - node.padding
            if 0 <= row_px < v.shape[2] and 0 <= column_px < v.shape[3]:
                yield y, x, v[n, c, row_px, column_px]

    def positions(v: np.ndarray, channels: int, node: Any) -> np.ndarray:
        """An empty value: one pixel for every place where the whole window fits."""
        end = getattr(node, "padding_end", None)
        reach = getattr(node, "dilation", 1) * (node.kernel - 1)
        sides = []
        for size in v.shape[2:]:
            last = size - 1 + (node.padding if end is None else end)
            sides.append(len([p for p in range(-node.padding, last + 1, node.stride) if p + reach <= last]))
        return np.zeros((len(v), channels, *sides), F)

    def bilinear(size: int, out_size: int) -> list[dict[int, int]]:
        """The weight of every source pixel, for each output pixel of an axis."""
        result = []
        for i in range(out_size):
            source = Fraction((2 * i + 1) * size, 2 * out_size) - Fraction(1, 2)
            source = max(Fraction(0), min(source, Fraction(size - 1)))
            first = source.numerator // source.denominator
            weight = round((source - first) * 128)
            weights = {first: 128 - weight}
            second = min(first + 1, size - 1)
            weights[second] = weights.get(second, 0) + weight
            result.append(weights)
        return result

    for node in master.graph.nodes:
        if isinstance(node, Shortcut):
            v = values[node.input][:, :, :: node.stride, :: node.stride]
            out = np.zeros((v.shape[0], node.channels, *v.shape[2:]), F)
            first = (node.channels - v.shape[1]) // 2
            out[:, first : first + v.shape[1]] = v
        elif isinstance(node, Concat):
            out = np.stack([channel for name in node.inputs for channel in values[name].swapaxes(0, 1)], axis=1)
        elif isinstance(node, MaxPool):
            v = values[node.input]
            out = positions(v, v.shape[1], node)
            for n, c, i, j in np.ndindex(out.shape):
                out[n, c, i, j] = max(each for _, _, each in seen(v, n, c, i, j, node))
        elif isinstance(node, Resize) and node.mode == "nearest":
            v = values[node.input]
            out = np.zeros((*v.shape[:2], node.height, node.width), F)
            for n, c, i, j in np.ndindex(out.shape):
                out[n, c, i, j] = v[n, c, i * v.shape[2] // node.height, j * v.shape[3] // node.width]
        else:
            weight_bits, act_bits = widths(node.name)
            weight_row, act_row = master.widths.index(weight_bits), master.widths.index(act_bits)
            if not isinstance(node, Conv):
                weight_bits = act_bits = 8
            elif node.bits is not None:
                weight_bits = act_bits = node.bits
            if node.input == IMAGE:
                act_scale, q_x = F(master.input.scale), q_image.astype(np.int64)
            else:
                act_scale = tensors[f"{node.name}.act_scale"][act_row]
                q_x = quantised(node.input, act_scale, act_bits)
            scale = float(act_scale)
            if isinstance(node, Pool):
                area = q_x.shape[2] * q_x.shape[3]
                values[node.name] = q_x.sum((2, 3)).astype(F) * F(scale / area)
                continue
            if isinstance(node, AvgPool):
                out = positions(q_x, q_x.shape[1], node)
                for n, c, i, j in np.ndindex(out.shape):
                    acc = sum(int(each) for _, _, each in seen(q_x, n, c, i, j, node))
                    out[n, c, i, j] = F(acc) * F(scale / node.kernel**2)
                values[node.name] = out
                continue
            if isinstance(node, Resize):
                out = np.zeros((*q_x.shape[:2], node.height, node.width), F)
                rows, columns = bilinear(q_x.shape[2], node.height), bilinear(q_x.shape[3], node.width)
                for n, c, i, j in np.ndindex(out.shape):
                    acc = sum(
                        wy * wx * int(q_x[n, c, y, x]) for y, wy in rows[i].items() for x, wx in columns[j].items()
                    )
                    out[n, c, i, j] = F(acc) * F(scale / 16384)
                values[node.name] = out
                continue
            q8 = tensors[f"{node.name}.weight"]
            step = 2 ** (8 - weight_bits)
            low, high = -(2 ** (weight_bits - 1)), 2 ** (weight_bits - 1) - 1
            q_w = np.clip(np.rint(q8.astype(np.float64) / step), low, high).astype(np.int64)
            weight_scale = np.broadcast_to(tensors[f"{node.name}.weight_scale"], q8.shape[:1])
            if isinstance(node, Linear):
                out = np.zeros((q_x.shape[0], node.channels), F)
                for n, o in np.ndindex(out.shape):
                    acc = sum(int(a) * int(b) for a, b in zip(q_x[n], q_w[o], strict=True))
                    out[n, o] = F(acc) * F(scale * float(weight_scale[o])) + tensors[f"{node.name}.bias"][o]
                values[node.name] = out
                continue
            out = positions(q_x, node.channels, node)
            if node.residual is not None:
                residual_scale = tensors[f"{node.name}.residual_scale"][act_row]
                q_r = quantised(node.residual, residual_scale, 8)
            per_group = q_x.shape[1] // node.groups
            for n, o, i, j in np.ndindex(out.shape):
                first = o // (node.channels // node.groups) * per_group
                acc = 0
                for c in range(per_group):
                    acc += sum(int(each) * int(q_w[o, c, y, x]) for y, x, each in seen(q_x, n, first + c, i, j, node))
                gain = float(tensors[f"{node.name}.gain"][weight_row, o])
                y = F(acc) * F(scale * float(weight_scale[o]) * gain * step)
                y = y + F(tensors[f"{node.name}.bias"][weight_row, o])
                if node.residual is not None:
                    y = y + F(q_r[n, o, i, j]) * residual_scale
                y = max(y, F(0)) if node.relu else y
                out[n, o, i, j] = y if node.clip is None else min(y, F(node.clip))
        values[node.name] = out
    return values[master.graph.nodes[-1].name]


MIXED = Graph(
    (
        Conv("stem", IMAGE, 2, 3, stride=2, padding=2),
        Conv("signed", "stem", 4, 2, relu=False),
        Shortcut("wider", "signed", 6, 2),
        Conv("body", "signed", 6, 3, stride=2, padding=1, residual="wider", relu=False, bits=5),
        Conv("last", "body", 3, 1),
        Pool("pool", "last"),
        Linear("head", "pool", len(LABELS)),
    )
)


@pytest.mark.parametrize("bits", [8, 5, 4, 2])
@pytest.mark.parametrize(
    ("graph", "side_px"), [(tiny_graph(2), 5), (MIXED, 7), (MIXED, 6)], ids=["relu", "signed", "even"]
)
def test_the_reference_equals_loops_over_single_numbers(graph: Graph, side_px: int, bits: int) -> None:
    for seed, per_channel in ((0, True), (1, False)):
        master = tiny_master(seed, graph=graph, side_px=side_px, per_channel=per_channel)
        q_image = random_codes(master, 2, seed)
        logits = reference.run(master, q_image, bits)
        assert logits.dtype == np.float32
        np.testing.assert_array_equal(logits, naive_run(master, q_image, lambda _: (bits, bits)))


@pytest.mark.parametrize("extreme", [False, True], ids=["random", "extreme"])
@pytest.mark.parametrize("kind", NODES)
def test_every_node_equals_loops_over_single_numbers(kind: str, extreme: bool) -> None:
    master = random_master(NODES[kind], 7, 0, extreme=extreme)
    q_image = random_codes(master, 2)
    for bits in (8, 3):
        expected = naive_run(master, q_image, lambda _, bits=bits: (bits, bits))  # type: ignore[misc]
        assert len(np.unique(expected)) > 5
        np.testing.assert_array_equal(reference.run(master, q_image, bits), expected)


PLANS = {
    "w8a7": lambda _: (8, 7),
    "w4a8": lambda _: (4, 8),
    "w2a5": lambda _: (2, 5),
    "w4a4+3": lambda name: {"signed": (8, 2), "body": (2, 7), "stem": (3, 8)}.get(name, (4, 4)),
}


@pytest.mark.parametrize("name", PLANS)
def test_plans_give_weights_and_activations_their_widths(name: str) -> None:
    widths = PLANS[name]
    layers = tuple((node, LayerBits(*widths(node))) for node in ("stem", "signed", "body"))
    plan = Plan(LayerBits(*widths("any")), layers) if "+" in name else Plan.parse(name)
    assert str(plan) == name
    master = random_master(MIXED, 7, 1)
    q_image = random_codes(master, 2)
    np.testing.assert_array_equal(reference.run(master, q_image, plan), naive_run(master, q_image, widths))


def test_rows_come_from_the_plan_even_where_a_node_is_pinned() -> None:
    """``body`` is pinned to 5 bits: its rows are those of the widths asked for, of no other."""
    body = Conv("body", "stem", 6, 1, residual="stem", bits=5)
    master = random_master(Graph((Conv("stem", IMAGE, 6, 3), body)), 7, 2)
    q_image = random_codes(master, 1)
    before = reference.run(master, q_image, Plan.parse("w6a3"))
    read = {("gain", 6), ("bias", 6), ("act_scale", 3), ("residual_scale", 3)}
    for part in ("gain", "bias", "act_scale", "residual_scale"):
        for row, bits in enumerate(WIDTHS):
            tensors = {**master.tensors, f"body.{part}": master.tensors[f"body.{part}"].copy()}
            tensors[f"body.{part}"][row] *= 0.2
            after = reference.run(dataclasses.replace(master, tensors=tensors), q_image, Plan.parse("w6a3"))
            assert np.array_equal(before, after) is ((part, bits) not in read), (part, bits)


def test_a_plan_of_an_unknown_layer_is_refused() -> None:
    master = tiny_master()
    for name in ("nowhere", "head", "b.shortcut", "image"):
        plan = Plan(LayerBits(4, 4), ((name, LayerBits(8, 8)),))
        with pytest.raises(GraphError, match=f"'{name}', which is no convolution of model 'tiny'"):
            reference.run(master, random_codes(master, 1), plan)
    assert check_plan(master, 4) == Plan.uniform(4)


# -- against torch ----------------------------------------------------------------------------------------------------


@settings(deadline=None, database=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31), groups=st.integers(1, 4), per_group=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    kernel=st.integers(1, 4), stride=st.integers(1, 3), dilation=st.integers(1, 3), padding=st.integers(0, 4),
    padding_end=st.none() | st.integers(0, 4), side_px=st.integers(10, 14),
)  # fmt: skip
def test_convolutions_equal_torch(
    seed: int, groups: int, per_group: tuple[int, int], kernel: int, stride: int, dilation: int, padding: int,
    padding_end: int | None, side_px: int,
) -> None:  # fmt: skip
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    q_x = rng.integers(-128, 256, (2, groups * per_group[0], side_px, side_px + 1)).astype(np.int32)
    q_w = rng.integers(-128, 128, (groups * per_group[1], per_group[0], kernel, kernel)).astype(np.int8)
    node = Conv("c", "v", len(q_w), kernel, stride, padding, groups=groups, dilation=dilation, padding_end=padding_end)
    end = padding if padding_end is None else padding_end
    padded = torch.nn.functional.pad(torch.from_numpy(q_x).double(), (padding, end, padding, end))
    expected = torch.nn.functional.conv2d(padded, torch.from_numpy(q_w).double(), None, stride, 0, dilation, groups)
    acc = reference.convolve(q_x, q_w, node)
    assert acc.dtype == np.int32
    np.testing.assert_array_equal(acc, expected.numpy())


@settings(deadline=None, database=None, max_examples=40)
@given(
    seed=st.integers(0, 2**31), kernel=st.integers(1, 5), stride=st.integers(1, 3), data=st.data(),
    side_px=st.integers(5, 9),
)  # fmt: skip
def test_pools_equal_torch(seed: int, kernel: int, stride: int, data: st.DataObject, side_px: int) -> None:
    torch = pytest.importorskip("torch")
    padding, end = (data.draw(st.integers(0, kernel - 1)) for _ in range(2))
    rng = np.random.default_rng(seed)
    v = rng.normal(-5, 1, (2, 3, side_px, side_px + 2)).astype(F)
    q_v = rng.integers(-128, 256, v.shape).astype(np.int32)
    largest = reference.windows(v, MaxPool("m", "v", kernel, stride, padding, end), -np.inf).max((4, 5))
    padded = torch.nn.functional.pad(torch.from_numpy(v), (padding, end, padding, end), value=-np.inf)
    np.testing.assert_array_equal(largest, torch.nn.functional.max_pool2d(padded, kernel, stride).numpy())
    total = reference.windows(q_v, AvgPool("a", "v", kernel, stride, padding)).sum((4, 5))
    padded = torch.nn.functional.pad(torch.from_numpy(q_v).double(), (padding,) * 4)
    expected = torch.nn.functional.avg_pool2d(padded, kernel, stride, divisor_override=1)
    np.testing.assert_array_equal(total, expected.numpy())


SIZES = [(7, 14), (7, 13), (14, 7), (9, 4), (5, 17), (1, 5), (6, 1), (8, 8), (3, 224), (100, 3)]


@pytest.mark.parametrize(("size", "out_size"), SIZES)
def test_nearest_positions_equal_torch(size: int, out_size: int) -> None:
    torch = pytest.importorskip("torch")
    line = torch.arange(size).double().view(1, 1, size, 1)
    picked = torch.nn.functional.interpolate(line, (out_size, 1), mode="nearest").flatten()
    np.testing.assert_array_equal(reference.nearest(size, out_size), picked.numpy())


@pytest.mark.parametrize(("size", "out_size"), SIZES)
def test_bilinear_weights_are_those_of_torch_rounded(size: int, out_size: int) -> None:
    """By the response to single pixels: what torch multiplies each with differs by at most half of 1/128."""
    torch = pytest.importorskip("torch")
    pixels = torch.eye(size, dtype=torch.float64).view(size, 1, size, 1)
    expected = torch.nn.functional.interpolate(pixels, (out_size, 1), mode="bilinear", align_corners=False)
    first, second, weight = reference.interpolation(size, out_size)
    ours = np.zeros((size, out_size))
    np.add.at(ours, (first, np.arange(out_size)), 128 - weight)
    np.add.at(ours, (second, np.arange(out_size)), weight)
    assert np.abs(ours - 128 * expected.numpy()[:, 0, :, 0]).max() <= 0.5 + 1e-9


def test_bilinear_weights_by_hand() -> None:
    for size, out_size, positions in (
        (2, 4, [(0, 1, 0), (0, 1, 32), (0, 1, 96), (1, 1, 0)]),
        (4, 2, [(0, 1, 64), (2, 3, 64)]),
        (3, 2, [(0, 1, 32), (1, 2, 96)]),
        (1, 3, [(0, 0, 0)] * 3),
        (3, 1, [(1, 2, 0)]),
        # 1/512, 3/512 .. of a pixel, times 128: quarters, three quarters; then halves, which go to the even number
        (2, 512, [(0, 1, 0)] * 128 + [(0, 1, n) for n in np.rint((2 * np.arange(256) + 1) / 4)] + [(1, 1, 0)] * 128),
        (2, 256, [(0, 1, 0)] * 64 + [(0, 1, n) for n in np.rint(np.arange(128) + 0.5)] + [(1, 1, 0)] * 64),
    ):
        assert list(zip(*reference.interpolation(size, out_size), strict=True)) == positions, (size, out_size)


@pytest.mark.parametrize(("height", "width", "exact"), [(20, 40, True), (5, 10, True), (13, 5, False), (3, 71, False)])
def test_a_bilinear_resize_is_close_to_torch(height: int, width: int, exact: bool) -> None:
    torch = pytest.importorskip("torch")
    graph = Graph((Conv("u", IMAGE, 4, 1), Resize("r", "u", height, width, "bilinear")))
    master = random_master(graph, 10, 3)
    seen: dict[str, np.ndarray] = {}
    reference.run(master, random_codes(master, 2), 8, lambda name, what, q: seen.update({f"{name} {what}": q}))
    codes = torch.from_numpy(seen["r input"]).double()
    expected = torch.nn.functional.interpolate(codes, (height, width), mode="bilinear", align_corners=False).numpy()
    error = np.abs(seen["r accumulator"] / 16384 - expected).max()
    assert error <= (1e-9 if exact else 2)


def by_hand() -> Master:
    """A 1x1 convolution of two channels with powers of two everywhere, and a head of two classes."""
    graph = Graph((Conv("conv", IMAGE, 2, 1), Pool("pool", "conv"), Linear("head", "pool", 2)))
    record = InputRecord(2, 2, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 0.5)
    tensors = {
        "conv.weight": np.asarray([[64, 33, 0], [-128, 0, 96]], np.int8).reshape(2, 3, 1, 1),
        "conv.weight_scale": F([0.25, 0.125]),
        "conv.gain": np.asarray([[2, 1], [4, 1]], np.float16),
        "conv.bias": np.asarray([[1, 0], [0, 0.5]], np.float16),
        "pool.act_scale": F([4, 8]),
        "head.act_scale": F([2, 2]),
        "head.weight": np.asarray([[1, -1], [100, 3]], np.int8),
        "head.weight_scale": F([0.5]),
        "head.bias": F([0.25, -1]),
    }
    return Master("hand", "classify", graph, record, ("a", "b"), (8, 2), tensors)


def test_a_forward_pass_worked_by_hand() -> None:
    q_image = np.zeros((1, 3, 2, 2), np.int8)
    q_image[0, :, 0, 0] = 2, -1, 3  # the other three pixels are code 0
    # 8 bit: sums 64*2 - 33 = 95 and -256 + 288 = 32; values 95 * 0.5*0.25*2 + 1 = 24.75 and 32 * 0.5*0.125 = 2;
    # elsewhere 1 and 0. Pool reads /4: rint(6.1875) = 6 and 3 * rint(0.25) = 0, rint(0.5) = 0 (half to even); so the
    # sums are 6 and 0, the means 6 * 4 / 4 = 6 and 0. The head reads /2: 3 and 0. Logits 3*1*2*0.5 + 0.25, 300 - 1.
    np.testing.assert_array_equal(reference.run(by_hand(), q_image, 8), F([[3.25, 299]]))
    # 2 bit: codes [1, 1, 0] (33/64 rounds up) and [-2, 0, 1] (96/64 = 1.5 rounds to 2, clipped): sums 1 and -1;
    # times 64: 1 * 0.5*0.25*4*64 = 32 and -1 * 0.5*0.125*64 + 0.5 = -3.5 -> 0; elsewhere 0 and 0.5.
    # Pool reads /8: 4, and rint(0.0625) = 0; means 4 * 8 / 4 = 8 and 0; the head reads 4 and 0.
    np.testing.assert_array_equal(reference.run(by_hand(), q_image, 2), F([[4.25, 399]]))


def test_the_observer_sees_the_integers_of_every_layer() -> None:
    seen: dict[tuple[str, str], np.ndarray] = {}
    q_image = np.zeros((1, 3, 2, 2), np.int8)
    q_image[0, :, 0, 0] = 2, -1, 3
    reference.run(by_hand(), q_image, 8, lambda name, what, q: seen.update({(name, what): q}))
    assert set(seen) == {(n, w) for n in ("conv", "pool", "head") for w in ("input", "accumulator")}
    assert all(q.dtype == np.int32 for q in seen.values())
    np.testing.assert_array_equal(seen["conv", "accumulator"][0, :, 0, 0], [95, 32])
    np.testing.assert_array_equal(seen["pool", "input"].sum((2, 3)), [[6, 0]])
    np.testing.assert_array_equal(seen["head", "accumulator"], [[3, 300]])


def test_the_observer_sees_residuals_at_8_bits() -> None:
    master = tiny_master()
    seen = {}
    reference.run(master, random_codes(master, 1), 2, lambda name, what, q: seen.update({(name, what): q}))
    assert {name for name, what in seen if what == "residual"} == {"a.conv2", "b.conv2"}
    assert seen["a.conv2", "residual"].max() > 3
    assert seen["a.conv2", "input"].max() <= 3
    assert seen["pool", "input"].max() > 3


@pytest.mark.parametrize(
    ("v", "signed", "expected"),
    [
        ([0.5, 1.5, 2.5, -0.5, -1.5], False, [0, 2, 2, 0, 0]),
        ([0.5, 1.5, 2.5, -0.5, -1.5, -2.5], True, [0, 2, 2, 0, -2, -2]),
        ([15.4, 15.5, 16, 1e30, np.inf], False, [15, 15, 15, 15, 15]),
        ([7.4, 8, -8, -9, -1e30], True, [7, 7, -8, -8, -8]),
    ],
)
def test_activations_round_half_to_even_and_saturate(v: list[float], signed: bool, expected: list[int]) -> None:
    np.testing.assert_array_equal(reference.quantize(F(v), F(1), 4, signed), expected)


def test_activations_are_divided_not_multiplied_by_the_reciprocal() -> None:
    differing = 0
    for scale in np.linspace(0.01, 0.1, 200).astype(F):
        v = (np.arange(255, dtype=F) + F(0.5)) * scale
        divided = reference.quantize(v, scale, 8, signed=False)
        np.testing.assert_array_equal(divided, np.clip(np.rint(v / scale), 0, 255))
        differing += int((divided != np.clip(np.rint(v * (F(1) / scale)), 0, 255)).sum())
    assert differing > 0


@pytest.mark.parametrize("bits", WIDTHS)
def test_the_output_of_an_image_does_not_depend_on_its_batch(bits: int) -> None:
    master = tiny_master(2)
    q_images = random_codes(master, 5)
    together = reference.run(master, q_images, bits)
    for i in range(5):
        np.testing.assert_array_equal(reference.run(master, q_images[i : i + 1], bits)[0], together[i])


def test_constants_are_multiplied_in_float64_and_rounded_once() -> None:
    master = tiny_master(4)
    node = master.graph.nodes[1]
    assert isinstance(node, Conv)
    for bits in WIDTHS:
        folded = fold(master, node, bits)
        row = WIDTHS.index(bits)
        exact = (
            float(master.tensors["a.conv1.act_scale"][row])
            * master.tensors["a.conv1.weight_scale"].astype(np.float64)
            * master.tensors["a.conv1.gain"][row].astype(np.float64)
            * 2 ** (8 - bits)
        )
        np.testing.assert_array_equal(folded.multiplier, exact.astype(F))
        assert folded.multiplier.dtype == folded.bias.dtype == np.float32
        assert folded.weight_bits == folded.act_bits == bits


@pytest.mark.parametrize(
    ("node", "divisor"),
    [(AvgPool("n", "c", 3), 9), (Resize("n", "c", 5, 5, "bilinear"), 16384), (Pool("n", "c"), 64)],
)
def test_a_sum_without_weights_is_divided_in_float64(node: Any, divisor: int) -> None:
    master = random_master(Graph((Conv("c", IMAGE, 4, 1), node)), 8, 0)
    for plan in (*WIDTHS, Plan.parse("w2a5")):
        folded = fold(master, node, plan)
        act_scale = master.tensors["n.act_scale"][WIDTHS.index(as_plan(plan).default.act_bits)]
        np.testing.assert_array_equal(folded.multiplier, [F(float(act_scale) / divisor)])
        assert (folded.weight_bits, folded.act_bits, folded.act_scale) == (8, 8, act_scale)
        assert folded.bias is folded.residual_scale is None


def test_constants_of_a_plan_follow_its_widths() -> None:
    master = tiny_master(4)
    node = master.graph.nodes[2]
    assert isinstance(node, Conv)
    folded = fold(master, node, Plan.parse("w3a6"))
    t = {part: master.tensors[f"a.conv2.{part}"] for part in ("act_scale", "weight_scale", "gain", "residual_scale")}
    weights, activations = WIDTHS.index(3), WIDTHS.index(6)
    exact = float(t["act_scale"][activations]) * t["weight_scale"].astype(float) * t["gain"][weights].astype(float) * 32
    np.testing.assert_array_equal(folded.multiplier, exact.astype(F))
    np.testing.assert_array_equal(folded.bias, master.tensors["a.conv2.bias"][weights].astype(F))
    assert (folded.weight_bits, folded.act_bits) == (3, 6)
    assert (folded.act_scale, folded.residual_scale) == (t["act_scale"][activations], t["residual_scale"][activations])
    np.testing.assert_array_equal(
        derive_weight(master, node, Plan.parse("w3a6")), derive(master.tensors["a.conv2.weight"], 3)
    )


def test_the_image_has_8_bits_whatever_the_plan() -> None:
    node = Conv("c", IMAGE, 4, 1)
    master = random_master(Graph((node,)), 4, 0)
    for plan in (*WIDTHS, Plan.parse("w3a2")):
        folded = fold(master, node, plan)
        assert (folded.weight_bits, folded.act_bits) == (as_plan(plan).default.weight_bits, 8)
        assert folded.act_scale is None


def test_pinned_nodes_keep_their_bits() -> None:
    master = tiny_master()
    for node in (master.graph.nodes[0], *master.graph.nodes[-2:]):
        assert sums(node)
        folded = [fold(master, node, plan) for plan in (*WIDTHS, Plan.parse("w3a5"))]
        assert [(f.weight_bits, f.act_bits) for f in folded] == [(8, 8)] * 8
        if not isinstance(node, Pool):
            np.testing.assert_array_equal(derive_weight(master, node, 2), master.tensors[f"{node.name}.weight"])


def test_a_width_not_offered_is_refused() -> None:
    master = dataclasses.replace(tiny_master(), widths=(8, 4))
    q_image = random_codes(master, 1)
    own = Plan(LayerBits(8, 8), (("a.conv1", LayerBits(8, 2)),))
    for precision in (2, Plan.parse("w2a8"), Plan.parse("w8a2"), own):
        with pytest.raises(PrecisionNotOffered, match="does not offer precision 2; it offers 8, 4"):
            reference.run(master, q_image, precision)
    reference.run(master, q_image, Plan.parse("w4a8"))


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((3, 16, 16), np.int8), ((0, 3, 16, 16), np.int8), ((1, 1, 16, 16), np.int8), ((1, 3, 16, 15), np.int8),
        ((1, 16, 16, 3), np.int8), ((1, 3, 16, 16), np.uint8), ((1, 3, 16, 16), np.float32),
        ((1, 1, 3, 16, 16), np.int8),
    ],
)  # fmt: skip
def test_other_inputs_are_refused(shape: tuple[int, ...], dtype: type) -> None:
    with pytest.raises(InputError, match=r"expected int8 codes of shape \(N, 3, 16, 16\)"):
        reference.run(tiny_master(), np.zeros(shape, dtype), 8)


def test_tensor_specs_name_what_each_node_needs() -> None:
    specs = tensor_specs(MIXED, InputRecord.centred(8, 128), 3)
    assert sorted(n for n in specs if n.startswith("body")) == [
        "body.act_scale", "body.bias", "body.gain", "body.residual_scale", "body.weight", "body.weight_scale",
    ]  # fmt: skip
    assert "stem.act_scale" not in specs
    assert [n for n in specs if n.startswith(("wider", "pool"))] == ["pool.act_scale"]
    assert specs["body.gain"].shape == (3, 6)
    assert specs["head.weight"].shape == (10, 3)
    specs = tensor_specs(NODES["dilated and grouped"], InputRecord.centred(8, 128), 3)
    assert specs["c.weight"].shape == (4, 3, 2, 2)
    for kind in ("average", "bilinear up"):
        assert [n for n in tensor_specs(NODES[kind], InputRecord.centred(8, 128), 3) if n[0] == "c"] == ["c.act_scale"]
    for kind in ("largest", "nearest up", "joined"):
        assert [n for n in tensor_specs(NODES[kind], InputRecord.centred(8, 128), 3) if n[0] == "c"] == []
