"""A master in words and numbers, for people and for scripts."""

from typing import Any

import numpy as np

from bitgear.bits import MASTER_BITS, Plan
from bitgear.checkpoint import Master
from bitgear.graph import Conv, Linear
from bitgear.plans import NamedPlan, mean_bits
from bitgear.rounding import derive
from bitgear.tasks.metrics import SHOWN

WIDEST = 12
"""Characters of a column of precisions; a longer name moves its row."""


def describe(master: Master, file_bytes: int) -> dict[str, Any]:
    """Return what there is to know about a master as a JSON-ready object. Sizes in bytes, accuracy in 0..1.

    ``file_bytes_per_parameter`` is None of a master without weights: a graph may do without.
    """
    count = master.parameter_count
    plans = {each.name: each for each in master.plans}
    return {
        "name": master.name,
        "task": master.task,
        "input": {"height": master.input.height_px, "width": master.input.width_px},
        "labels": list(master.labels),
        "parameters": count,
        "file_bytes": file_bytes,
        "file_bytes_per_parameter": file_bytes / count if count else None,
        "precisions": {
            name: {**master.metrics(name), "packed_weight_bytes": _packed_bytes(master, plan)}
            for name, plan in master.precisions.items()
        },
        "plans": {name: _plan(master, plans[name]) for name in master.precisions if name in plans},
        "layers": [_layer(master, node) for node in master.graph.nodes if isinstance(node, Conv | Linear)],
        "provenance": dict(master.provenance),
    }


def _packed_bytes(master: Master, plan: Plan) -> int:
    """Return how many bytes the weights take if each layer's are packed at the width that they run at."""
    total = 0
    for node in master.graph.nodes:
        if isinstance(node, Conv | Linear):
            bits = MASTER_BITS if isinstance(node, Linear) else node.bits or plan.of(node.name).weight_bits
            total += -(-master.tensors[f"{node.name}.weight"].size * bits // 8)
    return total


def _plan(master: Master, named: NamedPlan) -> dict[str, Any]:
    return {
        "mean_bits": mean_bits(master.graph, named.plan),
        "own_batch_norm": named.batch_norm is not None,
        "own_scales": named.scales is not None,
        "layers": {conv.name: str(Plan(named.plan.of(conv.name))) for conv in master.graph.searchable},
    }


def _layer(master: Master, node: Conv | Linear) -> dict[str, Any]:
    weight = master.tensors[f"{node.name}.weight"]
    pinned = MASTER_BITS if isinstance(node, Linear) else node.bits
    return {
        "name": node.name,
        "op": node.op,
        "weight_shape": list(weight.shape),
        "pinned_bits": pinned,
        "sensitivity": master.sensitivities.get(node.name),
        "mean_scale": float(master.tensors[f"{node.name}.weight_scale"].mean()),
        "codes_2bit": None if pinned else code_shares(derive(weight, 2), 2),
    }


def code_shares(codes: np.ndarray[Any, np.dtype[np.int8]], bits: int) -> list[float]:
    """Return how often each code of a width occurs, as shares of 1, from the lowest code to the highest."""
    counts = np.bincount(codes.reshape(-1).astype(np.int64) + (1 << (bits - 1)), minlength=1 << bits)
    return [float(share) for share in counts / codes.size]


def as_lines(description: dict[str, Any]) -> list[str]:
    """Return the description as the lines of a page for a terminal; what the master says may hold line breaks still."""
    d = description
    per_parameter = d["file_bytes_per_parameter"]
    share = "-" if per_parameter is None else f"{per_parameter:.3f}"
    lines = [
        f"{d['name']}  ({d['task']}, {len(d['labels'])} classes, input {d['input']['width']}x{d['input']['height']})",
        f"{d['parameters']:,} parameters in {d['file_bytes']:,} bytes, {share} a parameter",
        "",
        *precision_lines(d),
    ]
    lines += _plan_lines(d["plans"])
    known = any(layer["sensitivity"] is not None for layer in d["layers"])
    trace = f" {'trace':<10}" if known else ""
    lines += ["", f"{'layer':<20} {'weight':<16} {'bits':<8} {'scale':<10}{trace} 2-bit codes -2 / -1 / 0 / 1"]
    for layer in d["layers"]:
        shape = "x".join(map(str, layer["weight_shape"]))
        bits = str(layer["pinned_bits"] or "asked")
        shares = " / ".join(f"{100 * s:.0f}" for s in layer["codes_2bit"]) + " %" if layer["codes_2bit"] else ""
        if known:
            trace = f" {'' if layer['sensitivity'] is None else format(layer['sensitivity'], '.3g'):<10}"
        lines.append(f"{layer['name']:<20} {shape:<16} {bits:<8} {layer['mean_scale']:<10.3g}{trace} {shares}".rstrip())
    if d["provenance"]:
        lines += ["", "provenance"]
        lines += [f"  {name}: {_short(value)}" for name, value in d["provenance"].items()]
    return lines


def precision_lines(description: dict[str, Any]) -> list[str]:
    """Return a table of what each precision reaches and how many bytes its weights take, with a line of heads."""
    rows = description["precisions"]
    metric = next((name for name in SHOWN if any(name in row for row in rows.values())), "top1")
    lines = [f"{'bits':<{WIDEST}} {SHOWN[metric]:<9}  images   packed weights"]
    for precision, row in rows.items():
        value = f"{100 * row[metric]:.2f} %" if metric in row else "unknown"
        images = f"{int(row['images']):,}" if "images" in row else ""
        lines.append(f"{precision:<{WIDEST}} {value:>8} {images:>8}   {row['packed_weight_bytes']:>9,} bytes")
    return lines


def _plan_lines(plans: dict[str, Any]) -> list[str]:
    """Return a line for each plan: its mean width, whose batch norm it has, and the widths of its layers in order."""
    lines = [""] if plans else []
    for name, plan in plans.items():
        norm = "its own batch norm" if plan["own_batch_norm"] else "the widths' batch norms"
        norm += " and scales" if plan["own_scales"] == plan["own_batch_norm"] else ""
        widths = " ".join(plan["layers"].values())
        lines.append(f"{name:<{WIDEST}} mean {plan['mean_bits']:.2f} bits, {norm}, layers {widths}")
    return lines


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}={v}" for k, v in value.items())
    return str(value)
