"""A graph as a torch module that runs at any trained width: fake quantization in training, integers in evaluation.

The evaluation form obeys docs/format.md operation by operation, so its activation codes equal those of the engines.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitgear.bits import MASTER_BITS, Plan, Precision, activation_range, as_plan
from bitgear.errors import GraphError
from bitgear.graph import IMAGE, Conv, Graph, Linear, Pool, Resize, Shortcut
from bitgear.reference import nearest
from trainer.quantizers import (
    BatchNormReLU,
    Kernels,
    QuantizeActivation,
    QuantizeWeight,
    initial_weight_scale,
    search_activation_scale,
)

T = TypeVar("T")
TrainableNode = Conv | Shortcut | Resize | Pool | Linear
QuantisingNode = Conv | Pool | Linear
"""Nodes that hold scales; the others, shortcuts and resizes to the nearest pixel, move values."""

EPS = 1e-5
FP32 = "fp32"
"""Key of the batch norm that belongs to the unquantised network."""

TOWARDS_LOWER = 1 / 3
"""How far, in logarithms, the clipping ranges of a width that was not trained are from those of the next higher trained
one towards those of the next lower one. docs/training.md says what it is worth."""

OWN: Final = "own"
"""Key of the batch norm that was calibrated for one plan: see :meth:`QuantNet.calibrate_plan`."""

Norms = Literal["width", "pair", "own"]
"""Which batch norm a layer takes: that of the width of its weights; that of this width and the width of the weights of
the layer before, "transitional"; or that of the plan whose own the network holds."""


def key(bits: int | None) -> str:
    """Return the name of a width in parameter dictionaries: torch does not allow bare digits everywhere."""
    return FP32 if bits is None else f"w{bits}"


def pair_key(before: int, bits: int) -> str:
    """Return the name of the transitional batch norm of two widths; of equal ones it is that of the width."""
    return key(bits) if before == bits else f"w{before}w{bits}"


class BatchNorm(nn.Module):
    """Parameters and running statistics of one batch norm at one width."""

    mean: Tensor
    var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("var", torch.ones(channels))

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return (gain, bias), float16 of shape (C,), such that the output is ``gain * y + bias``.

        The bias is computed from the gain as rounded, so that the rounding of the gain does not shift the mean.
        """
        gain = (self.gamma.double() / (self.var.double() + EPS).sqrt()).half()
        return gain, (self.beta.double() - self.mean.double() * gain.double()).half()


class Layer(nn.Module):
    """State of a convolution, pool or linear node: weight, its scale, and per width scales and batch norm."""

    def __init__(self, weight: Tensor | None, per_channel: bool) -> None:
        super().__init__()
        self.per_channel = per_channel
        self.act_log_scale = nn.ParameterDict()
        self.residual_log_scale = nn.ParameterDict()
        self.bn = nn.ModuleDict()
        self.weight = None if weight is None else nn.Parameter(weight)
        self.bias: nn.Parameter | None = None
        rows = 1 if weight is None or not per_channel else weight.shape[0]
        self.weight_log_scale = None if weight is None else nn.Parameter(torch.zeros(rows))

    def batch_norm(self, bits: int | None) -> BatchNorm:
        """Return the batch norm of a width; None is the FP32 network's."""
        return self.norm(key(bits))

    def norm(self, name: str) -> BatchNorm:
        """Return the batch norm of a key."""
        bn = self.bn[name]
        if not isinstance(bn, BatchNorm):  # pragma: no cover - nothing else is put there
            raise TypeError(name)
        return bn

    def scales_of(self, bits: int, norms: Norms) -> str:
        """Return the key of the scales that a pass takes: the plan's own, if it has any, or those of a width."""
        return OWN if norms == OWN and self.own_scales else key(bits)

    @property
    def read_scales(self) -> Mapping[str, nn.ParameterDict]:
        """The scales of what the layer reads, its input and its residual, by their names in a master."""
        return {"act_scale": self.act_log_scale, "residual_scale": self.residual_log_scale}

    @property
    def own_scales(self) -> bool:
        """Whether there are scales of one plan; :meth:`own` makes them."""
        return any(OWN in scales for scales in self.read_scales.values())

    def own(self, bits: int) -> None:
        """Make the scales of a plan, or replace them, by copies of those of a width."""
        for scales in self.read_scales.values():
            if key(bits) in scales:
                scales[OWN] = nn.Parameter(scales[key(bits)].detach().clone())

    def copy_norm(self, source: str, name: str) -> None:
        """Make or replace the batch norm ``name`` by a copy of another."""
        held = self.norm(source)
        bn = BatchNorm(len(held.gamma)).to(held.gamma.device)
        bn.load_state_dict(held.state_dict())
        self.bn[name] = bn


Observer = Callable[[str, str, Tensor], None]
"""Called with node name, what ("input", "residual" or "accumulator") and the integers, as bitgear.reference does."""


@dataclass(frozen=True)
class Pass:
    """How one forward pass treats its layers.

    ``precision`` None runs the FP32 network. ``momentum`` None leaves running statistics alone. ``calibrate`` sets
    activation scales on the way. ``exact`` sums in float64 what the engines sum in integers; evaluation only.
    ``norms``: which batch norm each layer takes. ``fast``: the FP32 network convolves in the element type of the
    kernels; all else of it is float32 all the same.
    """

    precision: Precision | None
    training: bool
    momentum: float | None = None
    calibrate: bool = False
    exact: bool = False
    norms: Norms = "width"
    observe: Observer | None = None
    fast: bool = False

    @property
    def plan(self) -> Plan:
        """The widths of every layer; raise ``ValueError`` for the FP32 network, which has none."""
        if self.precision is None:
            raise ValueError("the FP32 network has no widths")
        return as_plan(self.precision)

    def show(self, name: str, what: str, integers: Tensor) -> None:
        """Tell the observer, if there is one."""
        if self.observe is not None:
            self.observe(name, what, integers)


class QuantNet(nn.Module):
    """The network of a :class:`~bitgear.graph.Graph`.

    ``image_scale`` is the scale of the integer input (the input record's); the FP32 network takes ``code * scale``.
    """

    def __init__(
        self, graph: Graph, image: tuple[int, int, int], image_scale: float, *, per_channel: bool, kernels: Kernels
    ) -> None:
        super().__init__()
        self.graph = graph
        self.nodes = trainable_nodes(graph)
        self.image = image
        self.other_sizes: dict[tuple[int, int], tuple[TrainableNode, ...]] = {}
        self.image_scale = image_scale
        self.kernels = kernels
        self.before = convolutions_before(graph)
        shapes = graph.shapes(image)
        self.layers = nn.ModuleDict()
        for node in self.nodes:
            if not isinstance(node, QuantisingNode):
                continue
            weight = None
            if isinstance(node, Conv):
                inputs = shapes[node.input][0] // node.groups
                weight = torch.randn(node.channels, inputs, node.kernel, node.kernel)
                weight *= math.sqrt(2.0 / (inputs * node.kernel**2))
            elif isinstance(node, Linear):
                weight = torch.randn(node.channels, shapes[node.input][0]) / math.sqrt(shapes[node.input][0])
            layer = Layer(weight, per_channel)
            if isinstance(node, Conv):
                layer.bn[key(None)] = BatchNorm(node.channels)
            if isinstance(node, Linear):
                layer.bias = nn.Parameter(torch.zeros(node.channels))
            self.layers[slug(node.name)] = layer
        for parameter in self.parameters():  # convolutions run on NHWC tensors
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        for bits in range(2, 9):  # constants of the quantizers; not part of the state
            for signed in (False, True):
                low, high = activation_range(bits, signed)
                self.register_buffer(f"_low_{bits}_{signed}", torch.tensor(float(low)), persistent=False)
                self.register_buffer(f"_high_{bits}_{signed}", torch.tensor(float(high)), persistent=False)

    def add_size(self, graph: Graph, height_px: int, width_px: int) -> None:
        """Let images of another size in: ``graph`` is this network's but for the sizes of its resizes.

        Raises :class:`~bitgear.errors.GraphError` if it is another network.
        """
        nodes = trainable_nodes(graph)
        same = [replace(n, height=1, width=1) if isinstance(n, Resize) else n for n in nodes]
        if same != [replace(n, height=1, width=1) if isinstance(n, Resize) else n for n in self.nodes]:
            raise GraphError(f"the graph for images of {width_px} x {height_px} pixels is that of another network")
        graph.shapes((3, height_px, width_px))
        self.other_sizes[height_px, width_px] = nodes

    def _nodes_for(self, q_image: Tensor) -> tuple[TrainableNode, ...]:
        return self.other_sizes.get((q_image.shape[2], q_image.shape[3]), self.nodes)

    # -- widths ---------------------------------------------------------------------------------------------------

    def layer(self, name: str) -> Layer:
        """Return the state of the node ``name``."""
        layer = self.layers[slug(name)]
        if not isinstance(layer, Layer):  # pragma: no cover - by construction
            raise TypeError(name)
        return layer

    def quantised(self) -> Iterator[tuple[QuantisingNode, Layer]]:
        """Yield every node that holds scales, with its layer."""
        for node in self.nodes:
            if isinstance(node, QuantisingNode):
                yield node, self.layer(node.name)

    def own_tensors(self) -> dict[str, Tensor]:
        """Return what the network holds for one plan, batch norm and scales, by place: the tensors themselves."""
        held: dict[str, Tensor] = {}
        for node, layer in self.quantised():
            for part, scales in layer.read_scales.items():
                if OWN in scales:
                    held[f"{node.name}.{part}"] = scales[OWN]
            if isinstance(node, Conv):
                state = layer.norm(OWN).state_dict(keep_vars=True)
                held |= {f"{node.name}.{part}": tensor for part, tensor in state.items()}
        return held

    def disown(self) -> None:
        """Drop what the network holds for one plan, so that another finds nothing of it."""
        for _, layer in self.quantised():
            for scales in layer.read_scales.values():
                if OWN in scales:
                    del scales[OWN]
            if OWN in layer.bn:
                del layer.bn[OWN]

    def add_width(self, bits: int, source: int | None, lower: int | None = None) -> None:
        """Give every layer scales and a batch norm for a width.

        They come from the width ``source``: its batch norm, and scales that keep its clipping range, so that only the
        steps between change; with a width ``lower``, that range moved by :data:`TOWARDS_LOWER` towards the one there.
        From the FP32 network (None) come the batch norm and scales of 1, to be calibrated.
        """
        device = next(self.parameters()).device

        def start(scales: nn.ParameterDict, pinned: bool) -> nn.Parameter:
            if source is None:
                return nn.Parameter(torch.zeros((), device=device))

            def log_range(width: int) -> Tensor:
                return scales[key(width)].detach() + (0.0 if pinned else math.log(2**width - 1))

            own = log_range(source)
            if lower is not None:
                own = torch.lerp(own, log_range(lower), TOWARDS_LOWER)
            return nn.Parameter(own - (0.0 if pinned else math.log(2**bits - 1)))

        for node, layer in self.quantised():
            if node.input != IMAGE:
                pinned = not isinstance(node, Conv) or node.bits is not None
                layer.act_log_scale[key(bits)] = start(layer.act_log_scale, pinned)
            if isinstance(node, Conv):
                layer.copy_norm(key(source), key(bits))
                if node.residual is not None:
                    layer.residual_log_scale[key(bits)] = start(layer.residual_log_scale, pinned=True)

    def add_transitions(self, widths: Sequence[int]) -> None:
        """Give every convolution a batch norm for each pair of different widths, a copy of that of its own width."""
        for conv in self.graph.convs:
            layer = self.layer(conv.name)
            for before in widths:
                for bits in widths:
                    if before != bits:
                        layer.copy_norm(key(bits), pair_key(before, bits))

    def norm(self, conv: Conv, how: Pass) -> BatchNorm:
        """Return the batch norm that a convolution takes in a pass of widths.

        A pair with a width that was not trained has none: the one of the layer's own width takes its place.
        """
        layer, bits = self.layer(conv.name), how.plan.of(conv.name).weight_bits
        match how.norms:
            case "width":
                name = key(bits)
            case "pair":
                before = self.before.get(conv.name)
                name = pair_key(bits if before is None else how.plan.of(before).weight_bits, bits)
                name = name if name in layer.bn else key(bits)
            case "own":
                name = OWN
        return layer.norm(name)

    @torch.no_grad()
    def start_weight_scales(self, bits: Sequence[int]) -> None:
        """Set the master scale of every weight from its FP32 values; stem and head aim at 8 bits alone."""
        for node, layer in self.quantised():
            if layer.weight is None or layer.weight_log_scale is None:
                continue
            pinned = isinstance(node, Linear) or (isinstance(node, Conv) and node.bits is not None)
            scale = initial_weight_scale(layer.weight.cpu(), (MASTER_BITS,) if pinned else bits, layer.per_channel)
            layer.weight_log_scale.copy_(scale.log())

    @torch.no_grad()
    def calibrate_width(self, bits: int, batches: Sequence[Tensor], *, scales: bool) -> None:
        """Set a width's activation scales from the first batch (if ``scales``) and its statistics from all batches.

        Each batch (int8 codes, (N, 3, H, W)) runs with its own batch statistics; their plain average is kept.
        """
        if scales:
            self.forward(batches[0], Pass(bits, training=True, calibrate=True))
        self._calibrate(Pass(bits, training=True), batches)

    @torch.no_grad()
    def calibrate_plan(self, plan: Plan, batches: Sequence[Tensor], norms: Norms = "width") -> None:
        """Give every convolution a batch norm of the plan's own, in place of that of the plan before.

        It begins as the one that ``norms`` says, and takes its statistics from the batches as in
        :meth:`calibrate_width`.
        """
        for conv in self.graph.convs:
            chosen = self.norm(conv, Pass(plan, training=False, norms=norms)).state_dict()
            self.layer(conv.name).bn[OWN] = bn = BatchNorm(conv.channels).to(batches[0].device)
            bn.load_state_dict(chosen)
        self.calibrate_own(plan, batches)

    @torch.no_grad()
    def calibrate_own(self, plan: Plan, batches: Sequence[Tensor]) -> None:
        """Give the plan's own batch norm the statistics of batches, as :meth:`calibrate_width` does for a width."""
        self._calibrate(Pass(plan, training=True, norms=OWN), batches)

    def _calibrate(self, how: Pass, batches: Sequence[Tensor]) -> None:
        for i, batch in enumerate(batches):
            self.forward(batch, replace(how, momentum=1.0 / (i + 1)))

    # -- forward --------------------------------------------------------------------------------------------------

    def forward(self, q_image: Tensor, how: Pass) -> Tensor:
        """Return the output of the last node, float32 (N, classes) or (N, C, H', W'), of int8 codes (N, 3, H, W)."""
        if how.precision is None:
            return self._forward_fp32(q_image, how)
        values: dict[str, Tensor] = {IMAGE: q_image}
        for node in self._nodes_for(q_image):
            match node:
                case Shortcut():
                    values[node.name] = shortcut(values[node.input], node)
                case Resize():
                    values[node.name] = resize(values[node.input], node)
                case Conv():
                    values[node.name] = self._conv(node, values, how)
                case Pool():
                    values[node.name] = self._pool(node, values[node.input], how)
                case Linear():
                    values[node.name] = self._linear(node, values[node.input], how)
        return values[self.graph.nodes[-1].name]

    def _bounds(self, bits: int, signed: bool) -> tuple[Tensor, Tensor]:
        return self.get_buffer(f"_low_{bits}_{signed}"), self.get_buffer(f"_high_{bits}_{signed}")

    def _codes(self, v: Tensor, value: str, log_scale: nn.Parameter, bits: int, how: Pass) -> Tensor:
        low, high = self._bounds(bits, self.graph.signed(value))
        if how.calibrate:
            log_scale.data.copy_(search_activation_scale(v, int(low.item()), int(high.item())).log())
        if how.exact:
            return torch.clamp(torch.round(v / log_scale.exp()), low, high)
        codes: Tensor = QuantizeActivation.apply(v, log_scale, low, high, self.kernels)
        return codes

    def _conv(self, node: Conv, values: Mapping[str, Tensor], how: Pass) -> Tensor:
        layer = self.layer(node.name)
        asked = how.plan.of(node.name)  # rows of the master are those of the widths asked for, fixed nodes included
        bits, act_bits = node.bits or asked.weight_bits, node.bits or asked.act_bits
        weight, log_scale = require(layer.weight), require(layer.weight_log_scale)
        if node.input == IMAGE:
            q_x, act_scale = values[IMAGE].to(self.kernels.dtype), torch.tensor(self.image_scale)
        else:
            act_log_scale = layer.act_log_scale[layer.scales_of(asked.act_bits, how.norms)]
            q_x = self._codes(values[node.input], node.input, act_log_scale, act_bits, how)
            act_scale = act_log_scale.detach().exp()
        q_w: Tensor = QuantizeWeight.apply(weight, log_scale, bits)
        dtype = torch.float64 if how.exact else self.kernels.dtype  # float64 makes the sums exact for evaluation
        q_w = q_w.to(dtype, memory_format=torch.channels_last)
        acc = F.conv2d(q_x.to(dtype), q_w, None, node.stride, node.padding, groups=node.groups)
        how.show(node.name, "input", q_x)
        how.show(node.name, "accumulator", acc)
        q_residual, residual_scale = None, None
        if node.residual is not None:
            residual_log_scale = layer.residual_log_scale[layer.scales_of(asked.act_bits, how.norms)]
            q_residual = self._codes(values[node.residual], node.residual, residual_log_scale, MASTER_BITS, how)
            residual_scale = residual_log_scale.detach().exp()
            how.show(node.name, "residual", q_residual)
        bn = self.norm(node, how)
        if not how.training:
            gain, bias = bn.folded()
            multiplier = epilogue_multiplier(act_scale, log_scale.detach().exp(), bits, gain)
            y = acc.float() * multiplier.view(1, -1, 1, 1) + bias.float().view(1, -1, 1, 1)
            if q_residual is not None and residual_scale is not None:
                y = y + q_residual.float() * residual_scale
            return activate(y, node)
        multiplier = self.unit(node, how.plan, how.norms)
        if not node.relu:  # few and small: torch's own operators will do
            y = normalise(acc.float() * multiplier.view(1, -1, 1, 1), bn, how)
            if q_residual is None or residual_scale is None:
                return y
            return y + q_residual.float() * residual_scale
        v, mean, var = BatchNormReLU.apply(
            acc, multiplier, bn.gamma, bn.beta, EPS, q_residual, residual_scale, self.kernels
        )
        if how.momentum is not None:
            count = acc.numel() // acc.shape[1]
            bn.mean.lerp_(mean, how.momentum)
            bn.var.lerp_(var * (count / (count - 1)), how.momentum)
        return clipped(v, node)

    def unit(self, node: Conv, precision: Precision, norms: Norms) -> Tensor:
        """Return what one in the accumulators of a convolution amounts to, float32 (C,); no gradient goes through."""
        layer, asked = self.layer(node.name), as_plan(precision).of(node.name)
        weight_scale = require(layer.weight_log_scale).detach().exp()
        if node.input == IMAGE:
            act_scale = torch.tensor(self.image_scale)
        else:
            act_scale = layer.act_log_scale[layer.scales_of(asked.act_bits, norms)].detach().exp()
        steps = 2.0 ** (MASTER_BITS - (node.bits or asked.weight_bits))
        return (act_scale * weight_scale * steps).expand(node.channels)

    def _pool(self, node: Pool, v: Tensor, how: Pass) -> Tensor:
        layer = self.layer(node.name)
        log_scale = layer.act_log_scale[layer.scales_of(how.plan.of(node.name).act_bits, how.norms)]
        codes = self._codes(v, node.input, log_scale, MASTER_BITS, how)
        how.show(node.name, "input", codes)
        area = v.shape[2] * v.shape[3]
        if how.exact:
            scale = (log_scale.exp().double() / area).float()
            return codes.double().sum((2, 3)).float() * scale
        return codes.float().sum((2, 3)) * (log_scale.detach().exp() / area)

    def _linear(self, node: Linear, v: Tensor, how: Pass) -> Tensor:
        layer = self.layer(node.name)
        weight, log_scale, bias = require(layer.weight), require(layer.weight_log_scale), require(layer.bias)
        act_log_scale = layer.act_log_scale[layer.scales_of(how.plan.of(node.name).act_bits, how.norms)]
        codes = self._codes(v, node.input, act_log_scale, MASTER_BITS, how)
        how.show(node.name, "input", codes)
        q_w: Tensor = QuantizeWeight.apply(weight, log_scale, MASTER_BITS)
        act_scale, weight_scale = act_log_scale.detach().exp(), log_scale.detach().exp()
        if how.exact:
            acc = F.linear(codes.double(), q_w.double()).float()
            return acc * epilogue_multiplier(act_scale, weight_scale, MASTER_BITS, None) + bias
        return F.linear(codes.float(), q_w) * (act_scale * weight_scale) + bias

    def _forward_fp32(self, q_image: Tensor, how: Pass) -> Tensor:
        values: dict[str, Tensor] = {IMAGE: q_image.float() * self.image_scale}
        for node in self._nodes_for(q_image):
            x = values[node.input]
            match node:
                case Shortcut():
                    y = shortcut(x, node)
                case Resize():
                    y = resize(x, node)
                case Conv():
                    layer = self.layer(node.name)
                    bn = layer.batch_norm(None)
                    dtype = self.kernels.dtype if how.fast else torch.float32
                    weight = require(layer.weight).to(dtype)
                    y = F.conv2d(x.to(dtype), weight, None, node.stride, node.padding, groups=node.groups)
                    y = normalise(y.float(), bn, how)
                    if node.residual is not None:
                        y = y + values[node.residual]
                    y = activate(y, node)
                case Pool():
                    y = x.mean((2, 3))
                case Linear():
                    layer = self.layer(node.name)
                    y = F.linear(x, require(layer.weight), layer.bias)
            values[node.name] = y
        return values[self.graph.nodes[-1].name]


def trainable_nodes(graph: Graph) -> tuple[TrainableNode, ...]:
    """Return the nodes of a graph; raise :class:`~bitgear.errors.GraphError` for one that cannot be trained."""
    nodes: list[TrainableNode] = []
    for node in graph.nodes:
        if not isinstance(node, TrainableNode):
            raise GraphError(f"node {node.name!r} is a {node.op}, which cannot be trained yet; import trained weights")
        if isinstance(node, Conv) and (node.dilation, node.padding_end) != (1, None):
            raise GraphError(
                f"node {node.name!r} has a dilation or uneven padding, which cannot be trained yet; "
                "import trained weights"
            )
        if isinstance(node, Resize) and node.mode != "nearest":
            raise GraphError(
                f"node {node.name!r} resizes in mode {node.mode!r}, which cannot be trained yet; "
                "use 'nearest' or import trained weights"
            )
        nodes.append(node)
    return tuple(nodes)


def convolutions_before(graph: Graph) -> dict[str, str]:
    """Return by convolution the one whose output it reads, maybe through selections; the first reads no other."""
    made_by: dict[str, str] = {}
    before: dict[str, str] = {}
    for node in graph.nodes:
        source = made_by.get(graph.inputs(node)[0])
        if isinstance(node, Conv):
            if source is not None:
                before[node.name] = source
            made_by[node.name] = node.name
        elif source is not None:
            made_by[node.name] = source
    return before


def slug(name: str) -> str:
    """Return a node name as torch accepts it in a module dictionary."""
    return name.replace(".", "_")


def shortcut(v: Tensor, node: Shortcut) -> Tensor:
    """Return every ``stride``-th pixel with zero channels on both sides."""
    pad = (node.channels - v.shape[1]) // 2
    return F.pad(v[:, :, :: node.stride, :: node.stride], (0, 0, 0, 0, pad, pad))


def resize(v: Tensor, node: Resize) -> Tensor:
    """Return the value at the node's size, every pixel picked as ``bitgear.reference.nearest`` does."""
    rows, columns = (
        torch.from_numpy(nearest(size, out_size)).to(v.device)
        for size, out_size in ((v.shape[2], node.height), (v.shape[3], node.width))
    )
    return v.index_select(2, rows).index_select(3, columns)


def activate(y: Tensor, node: Conv) -> Tensor:
    """Return a convolution's ReLU of ``y``, bounded by its clip; without a ReLU ``y`` itself."""
    return clipped(torch.relu(y), node) if node.relu else y


def clipped(y: Tensor, node: Conv) -> Tensor:
    """Return ``y`` bounded from above by a convolution's clip, if it has one."""
    return y if node.clip is None else y.clamp(max=node.clip)


def normalise(y: Tensor, bn: BatchNorm, how: Pass) -> Tensor:
    """Return the batch norm of ``y`` (float32, (N, C, H, W)): by batch in training, else by running statistics."""
    return F.batch_norm(y, bn.mean, bn.var, bn.gamma, bn.beta, how.training, how.momentum or 0.0, EPS)


def epilogue_multiplier(act_scale: Tensor, weight_scale: Tensor, bits: int, gain: Tensor | None) -> Tensor:
    """Return the float32 factor of the accumulators, (C,) or (1,), multiplied in float64 as docs/format.md says."""
    product = act_scale.double() * weight_scale.double()
    if gain is not None:
        product = product * gain.double()
    return (product * 2.0 ** (MASTER_BITS - bits)).float()


def require(value: T | None) -> T:
    """Return ``value``; raise ``ValueError`` if a node lacks what its type always has."""
    if value is None:
        raise ValueError("the layer lacks a parameter of its node type")
    return value
