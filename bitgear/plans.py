"""Named plans: a width for every layer under a name, what it reaches, and the batch norm and scales found for it.

The statistics behind a batch norm depend on the widths of all layers before it, so the rows of a master, one for each
uniform width, are an approximation for a plan of many. ``docs/format.md`` says how plans are stored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitgear.bits import LayerBits, Plan, is_plan_name
from bitgear.errors import PlanInvalid, PrecisionError, TensorDtype, TensorMissing, TensorShape, ValueInvalid
from bitgear.graph import IMAGE, LARGEST_FLOAT32, Graph, sums
from bitgear.inputs import MAX_SCALE, MIN_SCALE

MAX_PLANS = 32
"""Of one master: each is a rung that a server measures, and a label of its metrics."""


@dataclass(frozen=True, eq=False)
class BatchNorm:
    """The folded batch norm of one convolution: ``gain`` and ``bias``, float16 (O,)."""

    gain: NDArray[np.float16]
    bias: NDArray[np.float16]


@dataclass(frozen=True, eq=False)
class NamedPlan:
    """A plan that a master offers under a name.

    ``accuracy``: metrics such as ``{"top1": 0.9, "images": 10000}``, empty if not measured. ``batch_norm``: by name, of
    every convolution of the graph; None: each convolution takes the row of the width that its weights have. ``scales``:
    all of :func:`scale_names`, by name, in place of the rows of the widths of activations; None: those.
    """

    name: str
    plan: Plan
    accuracy: Mapping[str, float] = field(default_factory=dict)
    batch_norm: Mapping[str, BatchNorm] | None = None
    scales: Mapping[str, np.float32] | None = None

    @property
    def tensors(self) -> dict[str, NDArray[Any]]:
        """What a file holds of it beside the metadata, by tensor name."""
        held: dict[str, NDArray[Any]] = {
            tensor_name(self.name, node, part): value
            for node, norm in (self.batch_norm or {}).items()
            for part, value in (("gain", norm.gain), ("bias", norm.bias))
        }
        if self.scales is not None:
            held[scales_name(self.name)] = np.array([self.scales[name] for name in sorted(self.scales)], np.float32)
        return held


def scale_names(graph: Graph) -> list[str]:
    """Return the names of the scales that a plan may have of its own, sorted: of activations and residuals."""
    return sorted(
        [f"{node.name}.act_scale" for node in graph.nodes if sums(node) and node.input != IMAGE]
        + [f"{conv.name}.residual_scale" for conv in graph.convs if conv.residual is not None]
    )


def scales_name(plan: str) -> str:
    """Return the name of the one tensor that holds a plan's own scales, float32, in the order of their names."""
    return f"plans/{plan}/scales"


def tensor_name(plan: str, node: str, part: str) -> str:
    """Return the name of a plan's tensor in a file; the slash is in no name of a plan or node."""
    return f"plans/{plan}/{node}.{part}"


def tensor_shapes(plan: str, graph: Graph) -> dict[str, tuple[int]]:
    """Return the shapes of the float16 tensors that a file holds of a plan with a batch norm of its own, by name."""
    return {tensor_name(plan, conv.name, part): (conv.channels,) for conv in graph.convs for part in ("gain", "bias")}


def mean_bits(graph: Graph, plan: Plan) -> float:
    """Return the mean width of the layers that the graph leaves open, weights and activations counting alike.

    The image is read exactly whatever a plan says, and does not count. Of a graph that leaves no layer open: of the
    plan's default.
    """
    weights = [plan.of(conv.name).weight_bits for conv in graph.searchable]
    activations = [plan.of(conv.name).act_bits for conv in graph.searchable if conv.input != IMAGE]
    widths = weights + activations or [plan.default.weight_bits, plan.default.act_bits]
    return sum(widths) / len(widths)


def finite_metrics(value: Any) -> bool:
    """Return whether a JSON value is an object of numbers that float32 can hold: a hundred times one is one still."""
    return isinstance(value, Mapping) and all(
        type(number) in (int, float) and abs(number) <= LARGEST_FLOAT32 for number in value.values()
    )


def check_plans(plans: Sequence[NamedPlan], graph: Graph, widths: Sequence[int]) -> None:
    """Raise :class:`~bitgear.errors.PlanInvalid` unless a master with this graph and these widths can hold the plans.

    Says nothing of what they have of their own: see :func:`check_own`.
    """
    if len(plans) > MAX_PLANS:
        raise PlanInvalid(f"there are {len(plans)} plans; a master holds up to {MAX_PLANS}")
    searchable = {conv.name for conv in graph.searchable}
    named: dict[str, Plan] = {}
    for each in plans:
        if not is_plan_name(each.name):
            raise PlanInvalid(
                f"{each.name[:40]!r} cannot name a plan; expected 1 to 32 of a-z 0-9 . -, first a letter, and neither a"
                " precision like w8a7 nor auto nor none"
            )
        if each.name in named:
            raise PlanInvalid(f"two plans are named {each.name!r}; give each a name of its own")
        where = f"plan {each.name!r}"
        for layer, _ in each.plan.layers:
            if layer not in searchable:
                raise PlanInvalid(
                    f"{where} gives widths of {layer[:128]!r}, no convolution whose width the graph leaves open"
                )
        if not each.plan.layers:
            raise PlanInvalid(f"{where} is {each.plan} everywhere; a plan gives at least one layer widths of its own")
        if not each.plan.widths <= set(widths):
            missing = ", ".join(map(str, sorted(each.plan.widths - set(widths), reverse=True)))
            raise PlanInvalid(f"{where} uses {missing} bits; the master has {', '.join(map(str, widths))}")
        for other, plan in named.items():
            if plan == each.plan:
                raise PlanInvalid(f"plans {other!r} and {each.name!r} give the same widths; keep one of them")
        if not finite_metrics(each.accuracy):
            raise PlanInvalid(f"the accuracy of {where} is not an object of finite numbers")
        named[each.name] = each.plan


def check_own(plan: NamedPlan, graph: Graph) -> None:
    """Raise what is wrong with the batch norm and the scales of a plan, as far as it has its own.

    :class:`~bitgear.errors.TensorMissing`, ``TensorDtype``, ``TensorShape`` or ``ValueInvalid`` names the tensor, and
    :class:`~bitgear.errors.PlanInvalid` a node that is no convolution, or scales that are not those of the graph.
    """
    if plan.scales is not None and sorted(plan.scales) != scale_names(graph):
        wrong = min(plan.scales.keys() ^ set(scale_names(graph)))
        raise PlanInvalid(
            f"the scales of plan {plan.name!r} are not those of the graph: {wrong[:128]!r} is missing or too many"
        )
    for name, scale in (plan.scales or {}).items():
        if not MIN_SCALE <= scale <= MAX_SCALE:  # NaN neither
            raise ValueInvalid(
                f"tensor {scales_name(plan.name)!r} holds {scale} for {name!r}, a scale outside {MIN_SCALE:.3g} .. "
                f"{MAX_SCALE:.3g}"
            )
    if plan.batch_norm is None:
        return
    tensors, shapes = plan.tensors, tensor_shapes(plan.name, graph)
    for node in plan.batch_norm:
        if tensor_name(plan.name, node, "gain") not in shapes:
            raise PlanInvalid(f"plan {plan.name!r} has a batch norm of {node[:128]!r}, which is no convolution")
    for name, shape in shapes.items():
        if name not in tensors:
            raise TensorMissing(f"tensor {name!r} is missing: a plan has a batch norm of every convolution, or none")
        if tensors[name].dtype != np.float16:
            raise TensorDtype(f"tensor {name!r} has dtype {tensors[name].dtype}; expected float16")
        if tensors[name].shape != shape:
            raise TensorShape(f"tensor {name!r} has shape {tensors[name].shape}; expected {shape}")
        if not np.isfinite(tensors[name]).all():
            raise ValueInvalid(f"tensor {name!r} holds a NaN or an infinite value")


class Own(NamedTuple):
    """Which parts a plan has of its own, as the metadata of a file say."""

    batch_norm: bool
    scales: bool


def to_json(plan: NamedPlan) -> dict[str, Any]:
    """Return what the metadata of a master say of a plan, under its name."""
    return {
        "default": str(Plan(plan.plan.default)),
        "layers": {layer: str(Plan(bits)) for layer, bits in plan.plan.layers},
        "accuracy": dict(plan.accuracy),
        "own_batch_norm": plan.batch_norm is not None,
        **({} if plan.scales is None else {"own_scales": True}),
    }


def from_json(name: str, value: Any) -> tuple[NamedPlan, Own]:
    """Return the plan of a metadata entry, without what it has of its own, and what that is.

    Raises :class:`~bitgear.errors.PlanInvalid` for what is not made as :func:`to_json` makes it.
    """
    where = f"plan {name[:40]!r}"
    keys = {"default", "layers", "accuracy", "own_batch_norm"}
    if not isinstance(value, dict) or value.keys() - {"own_scales"} != keys:
        raise PlanInvalid(f"{where} is not an object of {', '.join(sorted(keys))}")
    if not isinstance(value["layers"], dict):
        raise PlanInvalid(f"{where}: 'layers' is not an object")
    own = Own(value["own_batch_norm"], value.get("own_scales", False))
    for key, told in zip(("own_batch_norm", "own_scales"), own, strict=True):
        if type(told) is not bool:
            raise PlanInvalid(f"{where}: {key!r} is neither true nor false")
    layers = tuple((layer, _layer_bits(where, text)) for layer, text in value["layers"].items())
    plan = Plan(_layer_bits(where, value["default"]), layers)
    if len(plan.layers) != len(layers):
        raise PlanInvalid(f"{where} repeats its default for a layer; leave such layers out")
    return NamedPlan(name, plan, value["accuracy"]), own


def _layer_bits(where: str, text: Any) -> LayerBits:
    try:
        return Plan.parse(text if isinstance(text, str) else "").default
    except PrecisionError as error:
        raise PlanInvalid(f"{where}: {str(text)[:40]!r} gives no layer its widths; expected 4 or w4a6") from error
