"""Small masters with random weights, for unit tests alone."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitgear import reference
from bitgear.bits import MASTER_BITS, WIDTHS, LayerBits, Plan, activation_range
from bitgear.checkpoint import Master, TensorSpec, tensor_specs
from bitgear.graph import IMAGE, Conv, Graph, Linear, Pool, Shortcut, SummingNode, sums
from bitgear.inputs import InputRecord
from bitgear.plans import BatchNorm, NamedPlan, scale_names

LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def tiny_graph(channels: int = 8) -> Graph:
    """A stem, an identity block, a strided block with a parameter-free shortcut, pool and head."""
    return Graph(
        (
            Conv("stem", IMAGE, channels, 3, padding=1, bits=8),
            Conv("a.conv1", "stem", channels, 3, padding=1),
            Conv("a.conv2", "a.conv1", channels, 3, padding=1, residual="stem"),
            Conv("b.conv1", "a.conv2", 2 * channels, 3, stride=2, padding=1),
            Shortcut("b.shortcut", "a.conv2", 2 * channels, 2),
            Conv("b.conv2", "b.conv1", 2 * channels, 1, residual="b.shortcut"),
            Pool("pool", "b.conv2"),
            Linear("head", "pool", len(LABELS)),
        )
    )


def tiny_master(
    seed: int = 0,
    *,
    graph: Graph | None = None,
    side_px: int = 16,
    per_channel: bool = True,
    extreme: bool = False,
    name: str = "tiny",
) -> Master:
    """A valid master with plausible scales; ``extreme`` weights, -128 and 127 alone, saturate careless sums."""
    rng = np.random.default_rng(seed)
    graph = graph or tiny_graph()
    record = InputRecord.centred(side_px, 128)
    tensors: dict[str, NDArray[Any]] = {}
    bits = np.asarray(WIDTHS)
    specs = tensor_specs(graph, record, len(WIDTHS))
    for key, spec in sorted(specs.items(), key=lambda item: item[0].replace("_scale", "~")):
        kind = key.rsplit(".", 1)[1]
        if kind == "weight":
            choices = np.asarray([-128, 127]) if extreme else np.arange(-128, 128)
            tensors[key] = rng.choice(choices, spec.shape).astype(np.int8)
        elif kind == "weight_scale":
            rows = tensors[key.removesuffix("_scale")].shape[0] if per_channel else 1
            tensors[key] = rng.uniform(0.001, 0.002, rows).astype(np.float32)
        elif kind == "act_scale":
            pinned = key in ("pool.act_scale", "head.act_scale")
            levels = 255 if pinned else 2.0**bits - 1
            tensors[key] = (rng.uniform(2, 4, len(WIDTHS)) / levels).astype(np.float32)
        elif kind == "residual_scale":
            tensors[key] = rng.uniform(0.01, 0.02, len(WIDTHS)).astype(np.float32)
        elif kind == "gain":
            tensors[key] = rng.uniform(0.5, 2, spec.shape).astype(np.float16)
        else:
            tensors[key] = rng.normal(0, 0.5, spec.shape).astype({"F16": np.float16, "F32": np.float32}[spec.dtype])
    return Master(
        name=name,
        task="classify",
        graph=graph,
        input=record,
        labels=LABELS,
        widths=WIDTHS,
        tensors=tensors,
        accuracy={b: {"top1": 0.5 + b / 100, "images": 100} for b in WIDTHS},
        provenance={"data": "none: random weights for tests"},
    )


def named_plan(
    master: Master, name: str = "mixed-3.2", seed: int = 0, *, default: int = 8, own: bool = True
) -> NamedPlan:
    """A plan of random widths for every layer that the graph leaves open, and a batch norm near to the rows' own."""
    rng = np.random.default_rng([seed, *name.encode()])
    widths = [bits for bits in master.widths if bits != default]
    layers = tuple((conv.name, LayerBits(*map(int, rng.choice(widths, 2)))) for conv in master.graph.searchable)
    plan = Plan(LayerBits(default, default), layers)
    if not own:
        return NamedPlan(name, plan)
    norms = {}
    for conv in master.graph.convs:
        row = master.row(plan.of(conv.name).weight_bits)
        gain, bias = (master.tensors[f"{conv.name}.{part}"][row] for part in ("gain", "bias"))
        factor = rng.uniform(0.5, 1.5, gain.shape).astype(np.float16)
        norms[conv.name] = BatchNorm(gain * factor, bias + rng.normal(0, 0.2, bias.shape).astype(np.float16))
    return NamedPlan(name, plan, {"top1": 0.6, "images": 100}, norms)


def with_own_scales(master: Master, named: NamedPlan, seed: int = 0) -> NamedPlan:
    """The plan with scales of its own, near to those of its widths."""
    rng = np.random.default_rng([seed, 1])
    scales = {}
    for name in scale_names(master.graph):
        scale = master.scale(name, named.plan.of(name.rpartition(".")[0]).act_bits, named.plan)
        scales[name] = np.float32(scale * rng.uniform(0.5, 1.5))
    return dataclasses.replace(named, scales=scales)


def random_codes(master: Master, count: int, seed: int = 0) -> NDArray[np.int8]:
    """Random image codes, int8 (count, 3, H, W)."""
    shape = (count, 3, master.input.height_px, master.input.width_px)
    return np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)


def random_master(
    graph: Graph, side_px: int, seed: int, widths: tuple[int, ...] = WIDTHS, extreme: bool = False
) -> Master:
    """A master of any graph with random weights, and scales with which activations use, and exceed, all of their codes.

    ``extreme``: weights -128 and 127 alone, with one output channel of each. A graph whose output is (C,) gets C
    labels; another gets none, and its master cannot be written to a file.
    """
    rng = np.random.default_rng(seed)
    record = InputRecord.centred(side_px, 128)
    tensors: dict[str, NDArray[Any]] = {}
    output = graph.shapes((3, side_px, side_px))[graph.nodes[-1].name]
    labels = tuple(f"class {i}" for i in range(output[0])) if len(output) == 1 else ()
    master = Master("random", "classify", graph, record, labels, widths, tensors)
    specs = tensor_specs(graph, record, len(widths))
    q_image = random_codes(master, 2, seed)
    values: dict[str, NDArray[np.float32]] = {}
    for node in graph.nodes:
        if sums(node):
            _set_scales(master, node, values, tensors, rng)
        if isinstance(node, Conv | Linear):
            _set_weights(master, node, values, q_image, tensors, specs, rng, extreme)
        values[node.name] = reference.run_node(master, node, values, q_image, Plan.uniform(max(widths)))
    return master


def _set_scales(
    master: Master, node: SummingNode, values: reference.Values, tensors: dict[str, Any], rng: np.random.Generator
) -> None:
    pinned = node.bits if isinstance(node, Conv) else MASTER_BITS
    residual = node.residual if isinstance(node, Conv) else None
    for kind, value, fixed in (("act_scale", node.input, pinned), ("residual_scale", residual, MASTER_BITS)):
        if value not in (None, IMAGE):
            largest = max(np.abs(values[value]).max(), 0.01) * rng.uniform(0.4, 1.1, len(master.widths))
            levels = [activation_range(fixed or bits, master.graph.signed(value))[1] for bits in master.widths]
            tensors[f"{node.name}.{kind}"] = (largest / levels).astype(np.float32)


def _set_weights(
    master: Master,
    node: Conv | Linear,
    values: reference.Values,
    q_image: NDArray[np.int8],
    tensors: dict[str, Any],
    specs: dict[str, TensorSpec],
    rng: np.random.Generator,
    extreme: bool,
) -> None:
    """Give a node weights, and values of mean and deviation around 1: with a clip, around a third of it."""
    name, shape = node.name, specs[f"{node.name}.weight"].shape
    weight = rng.integers(-128, 128, shape)
    weight[rng.random(shape) < (1 if extreme else 0.05)] = -128
    weight[(weight == -128) & (rng.random(shape) < 0.5)] = 127
    if extreme and shape[0] > 2:
        weight[0], weight[-1] = -128, 127
    tensors[f"{name}.weight"] = weight.astype(np.int8)
    tensors[f"{name}.weight_scale"] = rng.uniform(0.001, 0.002, rng.choice([1, shape[0]])).astype(np.float32)
    for part in ("gain", "bias"):
        if spec := specs.get(f"{name}.{part}"):
            empty = np.ones(spec.shape) if part == "gain" else np.zeros(spec.shape)
            tensors[f"{name}.{part}"] = empty.astype({"F16": np.float16, "F32": np.float32}[spec.dtype])
    # What the node makes as it is decides what has to be done to it.
    plain = dataclasses.replace(node, relu=False, clip=None, residual=None) if isinstance(node, Conv) else node
    y = reference.run_node(master, plain, values, q_image, Plan.uniform(max(master.widths)))
    axes = (0, 2, 3)[: y.ndim - 1]
    aim = node.clip / 3 if isinstance(node, Conv) and node.clip else 1.0
    if isinstance(node, Linear):
        tensors[f"{name}.weight_scale"] *= np.float32(aim / max(y.std(), 1e-3))
        tensors[f"{name}.bias"] = rng.normal(0, 0.5, shape[0]).astype(np.float32)
        return
    gain = aim / np.maximum(y.std(axes), 1e-2) * rng.uniform(0.7, 1.3, (len(master.widths), shape[0]))
    gain *= rng.choice([1, -1], shape[0], p=[0.8, 0.2])
    tensors[f"{name}.gain"] = gain.astype(np.float16)
    tensors[f"{name}.bias"] = (rng.normal(aim, aim, gain.shape) - y.mean(axes) * gain).astype(np.float16)
