"""The reference executor, held against loops over single numbers and against numbers worked by hand."""

import dataclasses

import numpy as np
import pytest

from bitgear import reference
from bitgear.bits import WIDTHS
from bitgear.checkpoint import Master, tensor_specs
from bitgear.errors import InputError, PrecisionNotOffered
from bitgear.fold import fold
from bitgear.graph import IMAGE, Conv, Graph, Linear, Pool, Shortcut
from bitgear.inputs import InputRecord
from tests.masters import LABELS, random_codes, tiny_graph, tiny_master

F = np.float32


def round_and_clip(value: np.float32, low: int, high: int) -> int:
    """Python's round is half to even; the quotient was made in float32."""
    return max(low, min(high, round(float(value))))


def naive_run(master: Master, q_image: np.ndarray, bits: int) -> np.ndarray:
    """The forward pass as docs/format.md tells it, in loops, without any of bitgear's arithmetic."""
    row = list(master.widths).index(bits)
    tensors = master.tensors
    nodes = {node.name: node for node in master.graph.nodes}

    def signed(value: str) -> bool:
        if value == IMAGE:
            return True
        node = nodes[value]
        return signed(node.input) if isinstance(node, Shortcut | Pool) else not getattr(node, "relu", False)

    def quantised(value: str, scale: np.float32, at: int) -> np.ndarray:
        low, high = (-(2 ** (at - 1)), 2 ** (at - 1) - 1) if signed(value) else (0, 2**at - 1)
        flat = [round_and_clip(v / scale, low, high) for v in values[value].reshape(-1)]
        return np.asarray(flat, np.int64).reshape(values[value].shape)

    values: dict[str, np.ndarray] = {}
    for node in master.graph.nodes:
        if isinstance(node, Shortcut):
            v = values[node.input][:, :, :: node.stride, :: node.stride]
            out = np.zeros((v.shape[0], node.channels, *v.shape[2:]), F)
            first = (node.channels - v.shape[1]) // 2
            out[:, first : first + v.shape[1]] = v
            values[node.name] = out
            continue
        at = 8 if isinstance(node, Pool | Linear) else (node.bits or bits)
        if node.input == IMAGE:
            act_scale, q_x = F(master.input.scale), q_image.astype(np.int64)
        else:
            act_scale = tensors[f"{node.name}.act_scale"][row]
            q_x = quantised(node.input, act_scale, at)
        if isinstance(node, Pool):
            area = q_x.shape[2] * q_x.shape[3]
            values[node.name] = q_x.sum((2, 3)).astype(F) * F(float(act_scale) / area)
            continue
        q8 = tensors[f"{node.name}.weight"]
        step = 2 ** (8 - at)
        q_w = np.clip(np.rint(q8.astype(np.float64) / step), -(2 ** (at - 1)), 2 ** (at - 1) - 1).astype(np.int64)
        weight_scale = np.broadcast_to(tensors[f"{node.name}.weight_scale"], q8.shape[:1])
        if isinstance(node, Linear):
            out = np.zeros((q_x.shape[0], node.channels), F)
            for n, o in np.ndindex(out.shape):
                acc = sum(int(a) * int(b) for a, b in zip(q_x[n], q_w[o], strict=True))
                out[n, o] = F(acc) * F(float(act_scale) * float(weight_scale[o])) + tensors[f"{node.name}.bias"][o]
            values[node.name] = out
            continue
        count, channels, height, width = q_x.shape
        out_h = (height + 2 * node.padding - node.kernel) // node.stride + 1
        out_w = (width + 2 * node.padding - node.kernel) // node.stride + 1
        out = np.zeros((count, node.channels, out_h, out_w), F)
        if node.residual is not None:
            residual_scale = tensors[f"{node.name}.residual_scale"][row]
            q_r = quantised(node.residual, residual_scale, 8)
        for n, o, i, j in np.ndindex(out.shape):
            acc = 0
            for c, y, x in np.ndindex(channels, node.kernel, node.kernel):
                row_px, column_px = i * node.stride + y - node.padding, j * node.stride + x - node.padding
                if 0 <= row_px < height and 0 <= column_px < width:
                    acc += int(q_x[n, c, row_px, column_px]) * int(q_w[o, c, y, x])
            gain = float(tensors[f"{node.name}.gain"][row, o])
            v = F(acc) * F(float(act_scale) * float(weight_scale[o]) * gain * step)
            v = v + F(tensors[f"{node.name}.bias"][row, o])
            if node.residual is not None:
                v = v + F(q_r[n, o, i, j]) * residual_scale
            out[n, o, i, j] = max(v, F(0)) if node.relu else v
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
        np.testing.assert_array_equal(logits, naive_run(master, q_image, bits))


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
        assert folded.bits == bits


def test_pinned_nodes_keep_their_bits() -> None:
    master = tiny_master()
    for node in (master.graph.nodes[0], *master.graph.nodes[-2:]):
        assert not isinstance(node, Shortcut)
        assert [fold(master, node, bits).bits for bits in WIDTHS] == [8] * 7
    stem = master.graph.nodes[0]
    np.testing.assert_array_equal(fold(master, stem, 2).q_weight, master.tensors["stem.weight"])


def test_a_width_not_offered_is_refused() -> None:
    master = dataclasses.replace(tiny_master(), widths=(8, 4))
    with pytest.raises(PrecisionNotOffered, match="it offers 8, 4"):
        reference.run(master, random_codes(master, 1), 2)


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
