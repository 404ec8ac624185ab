"""A float32 network with batch norm folded into its convolutions: what calibration starts from and compares with."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from bitgear.convert.architectures import (
    Architecture,
    ArchitectureUnknown,
    architecture_for,
    customary_architecture,
)
from bitgear.errors import (
    CheckpointError,
    CheckpointNotFound,
    HeaderInvalid,
    TensorDtype,
    TensorUnexpected,
    ValueInvalid,
)
from bitgear.files import open_regular
from bitgear.graph import IMAGE, AvgPool, Concat, Conv, Graph, Linear, MaxPool, Node, Pool, Resize, Shortcut, borders
from bitgear.inputs import MAX_SCALE, InputRecord
from bitgear.reference import nearest

OPSET = 18
IR_VERSION = 8
FLOATS = (np.float16, np.float32, np.float64)
LARGEST_WEIGHT = 127 * MAX_SCALE
"""What the largest code of weights stands for at the largest scale."""
_TORCH_BEFORE_1_6 = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""What ``torch.save`` began its files with before they were zips: a number of its own, pickled."""
_PREFIX = re.compile(r"\A((module|model|state_dict)\.)+")
"""What wrappers and trainers of networks put before every name."""
Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class FloatModel:
    """A network in float32.

    ``input`` says how pixels are normalised: ``((p / 255 - mean) / std)``; its ``scale`` is of no meaning here.
    ``weights`` by node: float32 (O, I/groups, k, k) of a convolution, (O, I) of a linear layer; ``biases``: (O,).
    """

    name: str
    graph: Graph
    input: InputRecord
    weights: Mapping[str, Floats]
    biases: Mapping[str, Floats]

    def normalise(self, pixels: NDArray[np.uint8]) -> Floats:
        """Return the network's input, float32 (N, 3, H, W), of uint8 RGB pixels (N, H, W, 3)."""
        mean, std = (np.asarray(values)[:, None] for values in (self.input.mean, self.input.std))
        table = ((np.arange(256) / 255 - mean) / std).astype(np.float32)
        return np.stack([table[channel][pixels[..., channel]] for channel in range(3)], axis=1)

    def to_onnx(self, outputs: Literal["last", "all"] = "last") -> onnx.ModelProto:
        """Return the network as an ONNX model.

        Input ``image``: float32 (N, 3, H, W), normalised. Outputs: the last node's value, or every node's under the
        node's name.
        """
        builder = _Builder(self)
        for node in self.graph.nodes:
            builder.add(node)
        shapes = self.graph.shapes((3, self.input.height_px, self.input.width_px))
        nodes = self.graph.nodes if outputs == "all" else self.graph.nodes[-1:]
        graph = helper.make_graph(
            builder.nodes,
            self.name,
            [helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, ["N", *shapes[IMAGE]])],
            [helper.make_tensor_value_info(node.name, TensorProto.FLOAT, ["N", *shapes[node.name]]) for node in nodes],
            builder.constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)

    def node_to_onnx(self, node: Node) -> onnx.ModelProto:
        """Return one node as an ONNX model; its inputs and output have the names of the graph's values."""
        builder = _Builder(self)
        builder.add(node)
        shapes = self.graph.shapes((3, self.input.height_px, self.input.width_px))
        values: dict[str, list[str | int | None]] = {
            name: ["N", *shapes[name]] for name in dict.fromkeys((*self.graph.inputs(node), node.name))
        }
        described = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values.items()]
        graph = helper.make_graph(builder.nodes, node.name, described[:-1], described[-1:], builder.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)

    def session(self, threads: int = 1, outputs: Literal["last", "all"] = "last") -> ort.InferenceSession:
        """Return an ONNX Runtime session of :meth:`to_onnx` on the CPU."""
        return cpu_session(self.to_onnx(outputs), threads)


def read_float_model(path: Path, architecture: str | None = None, side_px: int | None = None) -> FloatModel:
    """Return the network of a state dict in a safetensors file, named after the file.

    ``architecture``: a name of :data:`~bitgear.convert.architectures.ARCHITECTURES`; None recognises it. Raises
    :class:`~bitgear.convert.architectures.ArchitectureUnknown` or a subclass of
    :class:`~bitgear.errors.CheckpointError` that names file and tensors.
    """
    state = read_state(path)
    try:
        found = architecture_for(architecture, {key: tensor.shape for key, tensor in state.items()}, side_px)
        return fold_batch_norm(found, state)
    except (ArchitectureUnknown, CheckpointError) as error:
        raise type(error)(f"{path}: {error}") from error


def read_state(path: Path) -> dict[str, NDArray[Any]]:
    """Return the tensors of a safetensors file by name, without ``module.``, ``model.`` or ``state_dict.`` before it.

    Those of bfloat16, which float32 holds exactly, are float32. Raises a subclass of
    :class:`~bitgear.errors.CheckpointError` for what is no such file, and for two tensors that would have one name.
    """
    try:
        open_regular(path).close()  # a pipe would be waited for
        tensors = load_file(path)
    except (OSError, ValueError) as error:  # a ValueError says that no path is written like this
        reason = getattr(error, "strerror", None) or error
        raise CheckpointNotFound(f"{path}: cannot be opened: {reason}") from error
    except (SafetensorError, KeyError, TypeError, AttributeError) as error:  # the last two of what numpy lacks
        raise HeaderInvalid(f"{path}: is not a safetensors file of plain floats: {error}{torch_hint(path)}") from error
    state: dict[str, NDArray[Any]] = {}
    names: dict[str, str] = {}
    for name, tensor in tensors.items():
        bare = _PREFIX.sub("", name)
        if (other := names.setdefault(bare, name)) != name:
            raise TensorUnexpected(f"{path}: holds the tensors {other!r} and {name!r}, which would both be {bare!r}")
        state[bare] = tensor.astype(np.float32) if tensor.dtype.name == "bfloat16" else tensor
    return state


def torch_hint(path: Path) -> str:
    """Return what to do with a file that ``torch.save`` wrote, to end a message with; empty for any other file."""
    with path.open("rb") as file:
        head = file.read(1024)
    saved = (head.startswith(b"PK") and b"data.pkl" in head) or head.startswith(_TORCH_BEFORE_1_6)
    return "; torch.save wrote it: give its state dict to safetensors.torch.save_file, and then that file" * saved


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file, by name in order: customarily where its tensors come from."""
    with safe_open(path, "numpy") as file:
        return dict(sorted((file.metadata() or {}).items()))


def fold_batch_norm(architecture: Architecture, state: Mapping[str, NDArray[Any]]) -> FloatModel:
    """Return the network of a complete state dict; products and quotients in float64, rounded once to float32.

    Raises :class:`~bitgear.errors.TensorDtype` for what are no floats, and :class:`~bitgear.errors.ValueInvalid` for
    those that are not finite, or larger than any master can hold.
    """
    for name in architecture.shapes():
        if state[name].dtype not in FLOATS:
            raise TensorDtype(f"tensor {name!r} has dtype {state[name].dtype}; expected floats of 16 to 64 bits")
        if not np.isfinite(state[name]).all():
            raise ValueInvalid(f"tensor {name!r} holds a NaN or an infinite value")
    weights: dict[str, Floats] = {}
    biases: dict[str, Floats] = {}
    for node in architecture.graph.nodes:
        if isinstance(node, Conv):
            prefix = architecture.batch_norms[node.name]
            gamma, beta, mean, var = (
                state[f"{prefix}.{part}"].astype(np.float64)
                for part in ("weight", "bias", "running_mean", "running_var")
            )
            if (var + architecture.epsilon <= 0).any():
                raise ValueInvalid(f"tensor '{prefix}.running_var' holds a negative value")
            with np.errstate(over="ignore", invalid="ignore"):  # _rounded refuses what comes of it
                gain = gamma / np.sqrt(var + architecture.epsilon)
                weight = state[f"{node.name}.weight"].astype(np.float64) * gain.reshape(-1, 1, 1, 1)
                bias = beta - mean * gain
            weights[node.name], biases[node.name] = _rounded(node, weight), _rounded(node, bias)
        elif isinstance(node, Linear):
            weights[node.name] = _rounded(node, state[f"{node.name}.weight"])
            biases[node.name] = _rounded(node, state[f"{node.name}.bias"])
    return FloatModel(architecture.name, architecture.graph, architecture.input, weights, biases)


def _rounded(node: Node, values: NDArray[Any]) -> Floats:
    if not (np.abs(values, dtype=np.float64) <= LARGEST_WEIGHT).all():  # nor is NaN
        raise ValueInvalid(
            f"node {node.name!r} has a weight or a bias, its batch norm included, beyond {LARGEST_WEIGHT:.2g}, which "
            "no scale of a master reaches"
        )
    return values.astype(np.float32)


def random_state(architecture: Architecture, seed: int = 0) -> dict[str, Floats]:
    """Return weights as they begin (He et al. 2015): normal of variance 2 / terms, batch norm that changes nothing."""
    rng = np.random.default_rng(seed)
    state: dict[str, Floats] = {}
    for name, shape in architecture.shapes().items():
        if len(shape) > 1:
            deviation = np.sqrt(2 / np.prod(shape[1:]))
            state[name] = rng.normal(0, deviation, shape).astype(np.float32)
        else:
            state[name] = np.full(shape, name.endswith((".weight", ".running_var")), np.float32)
    return state


def random_float_model(
    architecture: str, seed: int = 0, *, side_px: int | None = None, multiplier: float = 1.0
) -> FloatModel:
    """Return a network with random weights, to measure speed on; ``multiplier`` scales its channel counts."""
    found = customary_architecture(architecture, side_px, multiplier)
    return fold_batch_norm(found, random_state(found, seed))


def cpu_session(model: onnx.ModelProto, threads: int = 1) -> ort.InferenceSession:
    """Return an ONNX Runtime session on the CPU with ``threads`` threads for one call."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


class _Builder:
    """Collects ONNX nodes and constants; ONNX values carry the names of graph values."""

    def __init__(self, model: FloatModel) -> None:
        self.model = model
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._shapes = model.graph.shapes((3, model.input.height_px, model.input.width_px))

    def add(self, node: Node) -> None:
        match node:
            case Conv():
                self._conv(node)
            case Linear():
                weight = self._constant(f"{node.name}/weight", self.model.weights[node.name])
                bias = self._constant(f"{node.name}/bias", self.model.biases[node.name])
                self._op("Gemm", [node.input, weight, bias], node.name, transB=1)
            case Pool():
                pooled = self._op("GlobalAveragePool", [node.input], f"{node.name}/pooled")
                self._op("Flatten", [pooled], node.name)
            case MaxPool():
                self._op("MaxPool", [node.input], node.name, **window(node))
            case AvgPool():
                self._op("AveragePool", [node.input], node.name, count_include_pad=1, **window(node))
            case Resize():
                self._resize(node)
            case Concat():
                self._op("Concat", node.inputs, node.name, axis=1)
            case Shortcut():
                self._shortcut(node)

    def _conv(self, node: Conv) -> None:
        weight = self._constant(f"{node.name}/weight", self.model.weights[node.name])
        bias = self._constant(f"{node.name}/bias", self.model.biases[node.name])
        steps: list[tuple[str, list[str], dict[str, Any]]] = [
            ("Conv", [weight, bias], {"group": node.groups, "dilations": [node.dilation] * 2, **window(node)})
        ]
        if node.residual is not None:
            steps.append(("Add", [node.residual], {}))
        if node.clip is not None:
            bounds = [
                self._constant(f"{node.name}/{end}", np.float32(v)) for end, v in (("low", 0), ("high", node.clip))
            ]
            steps.append(("Clip", bounds, {}))
        elif node.relu:
            steps.append(("Relu", [], {}))
        value = node.input
        for i, (operator, operands, attributes) in enumerate(steps):
            output = node.name if i == len(steps) - 1 else f"{node.name}/step{i}"
            value = self._op(operator, [value, *operands], output, **attributes)

    def _resize(self, node: Resize) -> None:
        sizes = self._constant(f"{node.name}/sizes", np.asarray([node.height, node.width], np.int64))
        if node.mode == "nearest":
            _, *source_sizes = self._shapes[node.input]
            if all(map(_floors_alike, source_sizes, (node.height, node.width))):
                how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
                self._op("Resize", [node.input, "", "", sizes], node.name, axes=[2, 3], **how)
                return
            value = node.input
            for axis, size in ((2, node.height), (3, node.width)):
                source = self._shapes[node.input][axis - 1]
                picked = self._constant(f"{node.name}/axis{axis}", nearest(source, size))
                output = node.name if axis == 3 else f"{node.name}/rows"
                value = self._op("Gather", [value, picked], output, axis=axis)
            return
        how = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        self._op("Resize", [node.input, "", "", sizes], node.name, axes=[2, 3], **how)

    def _shortcut(self, node: Shortcut) -> None:
        channels, height, width = self._shapes[node.input]
        bounds = {"starts": [0, 0], "ends": [height, width], "axes": [2, 3], "steps": [node.stride] * 2}
        indices = [self._constant(f"{node.name}/{part}", np.asarray(v, np.int64)) for part, v in bounds.items()]
        picked = self._op("Slice", [node.input, *indices], f"{node.name}/picked")
        pad = (node.channels - channels) // 2
        pads = self._constant(f"{node.name}/pads", np.asarray([0, pad, 0, 0, 0, pad, 0, 0], np.int64))
        self._op("Pad", [picked, pads], node.name)

    def _op(self, operator: str, inputs: Any, output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, list(inputs), [output], name=output, **attributes))
        return output

    def _constant(self, name: str, value: NDArray[Any] | np.generic) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name


def _floors_alike(size: int, out_size: int) -> bool:
    """Return whether a resize to the nearest pixel below, reckoned in float32, picks the pixels that ours does."""
    positions = np.arange(out_size, dtype=np.float32)
    reckoned = (positions / np.float32(out_size / size), positions * np.float32(size / out_size))
    return all(np.array_equal(np.floor(each), nearest(size, out_size)) for each in reckoned)


def window(node: Conv | MaxPool | AvgPool) -> dict[str, Any]:
    """Return the ONNX attributes of a sliding window."""
    begin, end = borders(node)
    return {
        "kernel_shape": [node.kernel] * 2,
        "strides": [node.stride] * 2,
        "pads": [begin, begin, end, end],
    }
