"""From a float network and pictures to a master, layer by layer, without training.

Every layer is settled before the next is looked at, at all widths at once. It reads what the *quantised* layers before
it make at that width and is fitted to what the *float* network makes there: errors do not pile up, each layer makes up
for those before it.

1. Codes of least error over all widths (:mod:`bitgear.convert.codes`).
2. Gain and bias of each width and channel (:mod:`bitgear.convert.corrections`).
3. The scales at which readers of the layer's output quantise it (:mod:`bitgear.convert.scales`).

Memory: a value exists from the node that makes it to the last one that reads it, once in float32 and at every width as
codes of one byte. With seven widths these are 11 bytes for each of its numbers and pictures, and some 12 at work.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bitgear import reference
from bitgear.bits import MASTER_BITS, Plan, activation_range, descending
from bitgear.checkpoint import Master, tensor_specs
from bitgear.convert.codes import Moments, choose_codes, round_weights
from bitgear.convert.corrections import fit_gain_bias
from bitgear.convert.float_model import FloatModel, Floats, cpu_session
from bitgear.convert.rewrite import equalisable, equalise, fit_input
from bitgear.convert.scales import least_error_scale
from bitgear.errors import ValueInvalid
from bitgear.fold import derive_weight, fold
from bitgear.graph import IMAGE, Concat, Conv, Linear, Node, sums
from bitgear.inputs import MAX_SCALE

BATCH = 16
"""Pictures that go through a layer at once."""
MOMENT_ROWS = 60_000
FIT_ROWS = 8_000
"""How many places of a layer's output, over all pictures, go into its second moments, and into gain and bias."""

NOISE = 1.0
"""Power of the noise added to second moments of D inputs, in parts of their mean power times D by the places."""

LARGEST_VALUE = 255 * MAX_SCALE
"""What the largest code of activations stands for at the largest scale."""
_LARGEST_CONSTANT = float(np.finfo(np.float16).max)

Codes = NDArray[Any]
"""int8, or uint8 where the value cannot be negative."""


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A master, not yet measured, and the last node's value, float32 (N, classes), of its pictures at each width.

    The values are those of the reference where sums of products stay below 2**24, which float32 holds exactly.
    """

    master: Master
    outputs: Mapping[int, Floats]


def calibrate(
    model: FloatModel,
    pixels: NDArray[np.uint8],
    widths: Sequence[int],
    *,
    name: str,
    labels: Sequence[str],
    threads: int = 1,
    seed: int = 0,
    progress: Callable[[int], object] = lambda _: None,
) -> Calibrated:
    """Return the master of a network, calibrated on pictures, uint8 (N, H, W, 3) of its input size.

    ``widths`` must hold 8. ``seed`` picks the places of a layer's output that are looked at. ``progress`` gets steps
    done: there is one for each node and width. Raises :class:`~bitgear.errors.ValueInvalid` naming a node whose values,
    gain or bias leave what a master can hold.
    """
    model = fit_input(model)
    model = equalise(model, largest_values(model, pixels, threads))
    tensors: dict[str, NDArray[Any]] = {}
    master = Master(
        name=name, task="classify", graph=model.graph, input=model.input, labels=tuple(labels),
        widths=descending(widths), tensors=tensors,
    )  # fmt: skip
    calibration = _Calibration(model, master, tensors, pixels, threads, np.random.default_rng(seed), progress)
    return Calibrated(master, calibration.run())


def largest_values(model: FloatModel, pixels: NDArray[np.uint8], threads: int = 1) -> dict[str, Floats]:
    """Return the largest magnitude of each channel, float32 (O,), that equalisable convolutions make of pictures."""
    largest = {name: np.zeros(len(model.biases[name]), np.float32) for name in equalisable(model)}
    if not largest:
        return {}
    session = model.session(threads, "all")
    for start in range(0, len(pixels), BATCH):
        values = session.run(list(largest), {IMAGE: model.normalise(pixels[start : start + BATCH])})
        for name, value in zip(largest, values, strict=True):
            largest[name] = np.maximum(largest[name], np.abs(value).max(axis=(0, 2, 3)))
    return largest


class _Calibration:
    """The network while it is quantised: ``tensors`` of ``master`` are filled node by node."""

    def __init__(
        self, model: FloatModel, master: Master, tensors: dict[str, NDArray[Any]], pixels: NDArray[np.uint8],
        threads: int, rng: np.random.Generator, progress: Callable[[int], object],
    ) -> None:  # fmt: skip
        self.model = model
        self.graph = model.graph
        self.master = master
        self.tensors = tensors
        self.threads = threads
        self.rng = rng
        self.progress = progress
        self.floats: dict[str, Floats] = {IMAGE: model.normalise(pixels)}
        self.q_image = model.input.encode(pixels)
        # What convolutions read at each width, by convolution and "act" or "residual".
        self.codes: dict[tuple[str, str, int], Codes] = {}
        # Inputs of concatenations that wait for the others, by concatenation and width.
        self.waiting: dict[tuple[str, int], dict[str, Floats]] = defaultdict(dict)
        self.outputs: dict[int, Floats] = {}
        for key, spec in tensor_specs(model.graph, model.input, len(master.widths)).items():
            if spec.per_width:
                tensors[key] = np.ones(spec.shape, {"F16": np.float16, "F32": np.float32}[spec.dtype])
        for node in self.graph.nodes:
            if isinstance(node, Linear):
                self._set_weight(node, *round_weights(model.weights[node.name]))
                tensors[f"{node.name}.bias"] = model.biases[node.name]

    def run(self) -> dict[int, Floats]:
        """Settle all nodes; return the last one's values."""
        uses = Counter(value for node in self.graph.nodes for value in self.graph.inputs(node))
        for node in self._readers(IMAGE):
            for bits in self.master.widths:
                if isinstance(node, Conv):
                    self.codes[node.name, "act", bits] = self.q_image
                else:
                    self._settle_other(node, bits, {})
        for node in self.graph.nodes:
            if isinstance(node, Conv):
                self._settle_conv(node)
            else:  # settled when its input was made
                self.floats[node.name] = self._run_float(self.model.node_to_onnx(node), node)
                self.progress(len(self.master.widths))
            for value in self.graph.inputs(node):
                uses[value] -= 1
                if not uses[value]:
                    self.floats.pop(value, None)
        return self.outputs

    def _readers(self, value: str) -> list[Node]:
        return [node for node in self.graph.nodes if value in self.graph.inputs(node)]

    def _set_weight(self, node: Conv | Linear, codes: NDArray[np.int8], scales: Floats) -> None:
        self.tensors[f"{node.name}.weight"] = codes.reshape(self.model.weights[node.name].shape)
        self.tensors[f"{node.name}.weight_scale"] = scales

    def _settle_conv(self, node: Conv) -> None:
        plain = replace(node, relu=False, clip=None)
        wanted = self._run_float(self.model.node_to_onnx(plain), plain)
        if not max(-wanted.min(), wanted.max()) <= LARGEST_VALUE:
            raise ValueInvalid(
                f"node {node.name!r} makes values beyond {LARGEST_VALUE:.2g}, which no scale of a master reaches; "
                "check its weights"
            )
        weight = self.model.weights[node.name]
        if node.bits is None and node.groups == 1:
            places = self._places(wanted, MOMENT_ROWS)
            moments = {bits: self._moments(node, bits, wanted, places) for bits in self.master.widths}
            self._set_weight(node, *choose_codes(weight.reshape(node.channels, -1), moments))
        else:
            self._set_weight(node, *round_weights(weight))
        places = self._places(wanted, FIT_ROWS)
        goal = _channels_first(wanted[:, :, *places])
        for bits in self.master.widths:
            sums_of_products = self._accumulate(node, bits)
            self._fit(node, bits, _channels_first(sums_of_products[:, :, *places]), places, goal)
            self._finish(node, bits, sums_of_products)
            self._deliver(node.name, bits, sums_of_products)
            for part in ("act", "residual"):
                self.codes.pop((node.name, part, bits), None)
            self.progress(1)
        self.floats[node.name] = _activate(node, wanted)

    def _places(self, value: Floats, rows: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return rows and columns of places, the same in every picture, so many that all pictures give ``rows``."""
        count, _, height, width = value.shape
        wanted = min(height * width, -(-rows // count))
        return np.divmod(np.sort(self.rng.choice(height * width, wanted, replace=False)), width)

    def _moments(
        self, node: Conv, bits: int, wanted: Floats, places: tuple[NDArray[np.intp], NDArray[np.intp]]
    ) -> Moments:
        """Return second moments at some places, of the inputs as read at a width and the outputs wanted of them."""
        codes = self.codes[node.name, "act", bits]
        scale = self._act_scale(node, bits)
        terms = self.model.weights[node.name][0].size
        inputs, cross = np.zeros((terms, terms)), np.zeros((node.channels, terms))
        first_in, first_out, second_out = np.zeros(terms), np.zeros(node.channels), np.zeros(node.channels)
        for start in range(0, len(codes), BATCH):
            seen = reference.windows(codes[start : start + BATCH], node)[:, :, *places]  # (N, C, places, k, k)
            rows = seen.transpose(0, 2, 1, 3, 4).reshape(-1, terms).astype(np.float32) * scale
            made = wanted[start : start + BATCH, :, *places]
            if node.residual is not None:
                made = made - self._residual(node, bits, slice(start, start + BATCH))[:, :, *places]
            made = _channels_first(made)
            inputs += rows.T @ rows
            cross += made @ rows
            first_in += rows.sum(axis=0, dtype=np.float64)
            first_out += made.sum(axis=1, dtype=np.float64)
            second_out += np.einsum("or,or->o", made, made, dtype=np.float64)
        count = len(codes) * len(places[0])
        mean_in, mean_out = first_in / count, first_out / count
        inputs = inputs / count - np.outer(mean_in, mean_in)
        cross = cross / count - np.outer(mean_out, mean_in)
        variance = second_out / count - mean_out**2
        # As if noise of that power were read too, and its outputs wanted: where places are few, it keeps the codes
        # close to the weights in directions that the pictures do not show.
        weight = self.model.weights[node.name].reshape(node.channels, -1)
        noise = NOISE * np.trace(inputs) / count
        inputs += noise * np.eye(terms)
        cross += noise * weight
        variance += noise * (weight**2).sum(axis=1)
        return Moments(inputs.astype(np.float32), cross.astype(np.float32), variance.astype(np.float32))

    def _act_scale(self, node: Conv, bits: int) -> np.float32:
        if node.input == IMAGE:
            return np.float32(self.master.input.scale)
        return np.float32(self.tensors[f"{node.name}.act_scale"][self.master.row(bits)])

    def _residual(self, node: Conv, bits: int, pictures: slice) -> Floats:
        scale = np.float32(self.tensors[f"{node.name}.residual_scale"][self.master.row(bits)])
        residual: Floats = self.codes[node.name, "residual", bits][pictures].astype(np.float32) * scale
        return residual

    def _accumulate(self, node: Conv, bits: int) -> Floats:
        """Return a convolution's sums of products, whole numbers, at a width: float32 (N, O, H, W)."""
        codes = derive_weight(self.master, node, bits).astype(np.float32)
        integers = replace(
            self.model, weights={node.name: codes}, biases={node.name: np.zeros(node.channels, np.float32)}
        )
        plain = replace(node, relu=False, clip=None, residual=None)
        return self._run(integers.node_to_onnx(plain), {node.input: self.codes[node.name, "act", bits]})

    def _fit(
        self, node: Conv, bits: int, sums_of_products: Floats, places: tuple[NDArray[np.intp], NDArray[np.intp]],
        goal: Floats,
    ) -> None:  # fmt: skip
        """Set gain and bias of a width from values (O, R) at some places."""
        weight_bits = node.bits or bits
        unit = (
            self._act_scale(node, bits) * self.tensors[f"{node.name}.weight_scale"] * 2 ** (MASTER_BITS - weight_bits)
        )
        rest = None
        if node.residual is not None:
            rest = _channels_first(self._residual(node, bits, slice(None))[:, :, *places])
        with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is refused
            gain, bias = fit_gain_bias(
                sums_of_products * unit.astype(np.float32)[:, None], rest, goal, upper=node.clip, rectified=node.relu
            )
        if not np.isfinite([gain, bias]).all():
            others = ",".join(str(width) for width in self.master.widths if width != bits)
            without = "" if bits == MASTER_BITS else f", or leave that width out: --widths {others}"
            raise ValueInvalid(
                f"node {node.name!r} at {bits} bits needs a gain or a bias beyond {_LARGEST_CONSTANT:.0f}, the most "
                f"that a master holds; check its batch norm{without}"
            )
        row = self.master.row(bits)
        self.tensors[f"{node.name}.gain"][row] = gain
        self.tensors[f"{node.name}.bias"][row] = bias

    def _finish(self, node: Conv, bits: int, value: Floats) -> None:
        """Make a convolution's value of its sums, in place: the epilogue of docs/format.md, operation by operation."""
        folded = fold(self.master, node, bits)
        multiplier = folded.multiplier.reshape(-1, 1, 1)
        for start in range(0, len(value), BATCH):
            part = value[start : start + BATCH]
            part *= multiplier
            if folded.bias is not None:
                part += folded.bias.reshape(-1, 1, 1)
            if node.residual is not None:
                part += self._residual(node, bits, slice(start, start + BATCH))
            _activate(node, part)

    def _deliver(self, name: str, bits: int, value: Floats) -> None:
        """Hand a value on: convolutions get its codes, all other nodes are run at once."""
        row = self.master.row(bits)
        if name == self.graph.nodes[-1].name:
            self.outputs[bits] = value
        for node in self._readers(name):
            if isinstance(node, Conv):
                if node.input == name:
                    act_bits = node.bits or bits
                    scale = self._set_scale(f"{node.name}.act_scale", row, name, act_bits, value)
                    self.codes[node.name, "act", bits] = self._quantise(name, value, scale, act_bits)
                if node.residual == name:
                    scale = self._set_scale(f"{node.name}.residual_scale", row, name, MASTER_BITS, value)
                    self.codes[node.name, "residual", bits] = self._quantise(name, value, scale, MASTER_BITS)
            elif isinstance(node, Concat):
                parts = self.waiting[node.name, bits]
                parts[name] = value
                if len(parts) == len(set(node.inputs)):
                    self._settle_other(node, bits, self.waiting.pop((node.name, bits)))
            else:
                if sums(node):
                    self._set_scale(f"{node.name}.act_scale", row, name, MASTER_BITS, value)
                self._settle_other(node, bits, {name: value})

    def _settle_other(self, node: Node, bits: int, inputs: Mapping[str, Floats]) -> None:
        plan = Plan.uniform(bits)
        parts = []
        for start in range(0, len(self.q_image), BATCH):
            pictures = slice(start, start + BATCH)
            values = {name: value[pictures] for name, value in inputs.items()}
            parts.append(reference.run_node(self.master, node, values, self.q_image[pictures], plan))
        self._deliver(node.name, bits, np.concatenate(parts))

    def _set_scale(self, key: str, row: int, value_name: str, bits: int, value: Floats) -> np.float32:
        scale = least_error_scale(value, bits, self.graph.signed(value_name))
        self.tensors[key][row] = scale
        return scale

    def _quantise(self, name: str, value: Floats, scale: np.float32, bits: int) -> Codes:
        signed = self.graph.signed(name)
        low, high = activation_range(bits, signed)
        codes = np.empty(value.shape, np.int8 if signed else np.uint8)
        for start in range(0, len(value), BATCH):
            codes[start : start + BATCH] = np.clip(np.rint(value[start : start + BATCH] / scale), low, high)
        return codes

    def _run_float(self, model: onnx.ModelProto, node: Node) -> Floats:
        return self._run(model, {name: self.floats[name] for name in self.graph.inputs(node)})

    def _run(self, model: onnx.ModelProto, inputs: Mapping[str, NDArray[Any]]) -> Floats:
        """Return a model's only output for inputs of all pictures."""
        session = cpu_session(model, self.threads)
        count = len(self.q_image)
        output: Floats | None = None
        for start in range(0, count, BATCH):
            fed = {name: np.asarray(value[start : start + BATCH], np.float32) for name, value in inputs.items()}
            part = session.run(None, fed)[0]
            if output is None:
                output = np.empty((count, *part.shape[1:]), np.float32)
            output[start : start + BATCH] = part
        if output is None:
            raise ValueError("no pictures")
        return output


def _channels_first(value: Floats) -> Floats:
    """Return (O, N * places) of (N, O, places)."""
    return value.transpose(1, 0, 2).reshape(value.shape[1], -1)


def _activate(node: Conv, value: Floats) -> Floats:
    """Return a value after ReLU and clip, changed in place."""
    if node.relu:
        np.maximum(value, np.float32(0), out=value)
    if node.clip is not None:
        np.minimum(value, np.float32(node.clip), out=value)
    return value
