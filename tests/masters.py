"""Small masters with random weights, for unit tests alone."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitgear.bits import WIDTHS
from bitgear.checkpoint import Master, tensor_specs
from bitgear.graph import IMAGE, Conv, Graph, Linear, Pool, Shortcut
from bitgear.inputs import InputRecord

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


def random_codes(master: Master, count: int, seed: int = 0) -> NDArray[np.int8]:
    """Random image codes, int8 (count, 3, H, W)."""
    shape = (count, 3, master.input.height_px, master.input.width_px)
    return np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)
