"""A master at a plan as an ONNX model, built in memory and run by ONNX Runtime. Exact, portable, not the fastest.

**Integers.** A convolution of codes runs as a float32 convolution where that is *proven* exact: every partial sum, in
any order, lies between -m and m with ``m = max over channels of max(sum of positive products, sum of negative
products)`` at the extreme activations, and float32 holds all integers up to 2**24. The bound is computed from the very
weights. Where it does not hold, ``ConvInteger`` takes over, with unsigned weights (zero point 128): ONNX Runtime's
kernel for signed ones saturates 16-bit sums on processors without VNNI. An average pool is a depthwise convolution with
weights of 1. A bilinear resize picks pixels and adds them in float32: its sums are at most 255 * 2**14.

**Floats.** Between two integer layers stand single operators, Mul, Add, Div, Round (half to even), Clip, in the order
of docs/format.md. The graph optimisations that would fold a Mul or Add into a convolution's weights are switched off:
they would move values across rounding boundaries.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bitgear.bits import MASTER_BITS, Plan, Precision, activation_range
from bitgear.checkpoint import Master
from bitgear.engines.base import out_of_memory
from bitgear.fold import INTERPOLATION_ONE, Folded, check_plan, derive_weight, fold
from bitgear.graph import (
    IMAGE,
    AvgPool,
    Concat,
    Conv,
    Linear,
    MaxPool,
    Node,
    Pool,
    Resize,
    Shortcut,
    SummingNode,
    borders,
    sums,
)
from bitgear.reference import check_image, interpolation, nearest

OPSET = 17
IR_VERSION = 8
EXACT_FLOAT_LIMIT = 1 << 24
_INEXACT_OPTIMIZERS = (
    "ConvMulFusion", "ConvAddFusion", "ConvBNFusion", "ConvAddActivationFusion", "MatMulScaleFusion",
    "MatMulAddFusion", "NchwcTransformer",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class OnnxRuntimeModel:
    """A plan as a session; ``nbytes`` counts its weights and constants."""

    master: Master
    plan: Plan
    nbytes: int
    session: ort.InferenceSession

    def run(self, q_image: NDArray[np.int8]) -> NDArray[np.float32]:
        check_image(self.master, q_image)
        try:
            # Of another array it makes a copy itself, and says that it is not contiguous where no memory is left.
            output: NDArray[np.float32] = self.session.run(None, {IMAGE: np.ascontiguousarray(q_image)})[0]
        except Exception as error:
            if isinstance(error, MemoryError) or "allocate memory" in str(error):  # one class for all that fails there
                raise out_of_memory(OnnxRuntimeEngine.name, self.master, self.plan) from error
            raise
        return output


class OnnxRuntimeEngine:
    """Builds sessions on the CPU with ``threads`` threads for one call."""

    name = "onnxruntime"

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads

    def derive(self, master: Master, precision: Precision) -> OnnxRuntimeModel:
        plan = check_plan(master, precision)
        try:
            return self._derive(master, plan)
        except MemoryError as error:
            raise out_of_memory(self.name, master, plan) from error

    def _derive(self, master: Master, plan: Plan) -> OnnxRuntimeModel:
        model = build_onnx(master, plan)
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # No spinning: idle threads of a session would take the cores from the other widths' sessions.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = ort.InferenceSession(
            model.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=list(_INEXACT_OPTIMIZERS),
        )
        nbytes = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
        return OnnxRuntimeModel(master, plan, nbytes, session)


def build_onnx(master: Master, precision: Precision) -> onnx.ModelProto:
    """Return a width or plan as an ONNX model: input ``image`` int8 (N, 3, H, W), output the last node's value."""
    plan = check_plan(master, precision)
    builder = _Builder(master, plan)
    for node in master.graph.nodes:
        builder.add(node)
    last = master.graph.nodes[-1].name
    graph = helper.make_graph(
        builder.nodes,
        f"{master.name}-{plan}",
        [helper.make_tensor_value_info(IMAGE, TensorProto.INT8, ["N", *master.shapes[IMAGE]])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["N", *master.shapes[last]])],
        builder.constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def float_convolution_is_exact(q_weight: NDArray[np.int8], low: int, high: int) -> bool:
    """Return whether sums of weights (O, ...) times activations in low..high stay within 2**24 in any order."""
    rows = q_weight.reshape(q_weight.shape[0], -1).astype(np.int64)
    extremes = np.maximum(rows * low, rows * high), np.minimum(rows * low, rows * high)
    bound = max(int(extremes[0].sum(1).max()), int(-extremes[1].sum(1).min()))
    return bound <= EXACT_FLOAT_LIMIT


class _Builder:
    """Collects ONNX nodes and constants; ONNX values carry the names of graph values."""

    def __init__(self, master: Master, plan: Plan) -> None:
        self.master = master
        self.plan = plan
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._names: set[str] = set()

    def add(self, node: Node) -> None:
        """Append one graph node."""
        if sums(node):
            self._sum(node)
        else:
            self._select(node)

    def _sum(self, node: SummingNode) -> None:
        folded = fold(self.master, node, self.plan)
        signed = self.master.graph.signed(node.input)
        low, high = activation_range(folded.act_bits, signed)
        if folded.act_scale is None:
            codes = self._op("Cast", [IMAGE], f"{node.name}/codes", to=TensorProto.FLOAT)
        else:
            codes = self._quantize(node.input, folded.act_scale, folded.act_bits, signed, f"{node.name}/input")
        match node:
            case Pool():
                acc = self._pool(node, codes, max(high, -low))
            case Resize():
                _, height, width = self.master.shapes[node.input]
                rows = self._interpolate(f"{node.name}/rows", codes, 2, height, node.height)
                acc = self._interpolate(f"{node.name}/acc", rows, 3, width, node.width)
            case AvgPool():
                ones = np.ones((self.master.shapes[node.input][0], 1, node.kernel, node.kernel), np.int8)
                acc = self._accumulate(node, ones, codes, low, high)
            case Conv() | Linear():
                acc = self._accumulate(node, derive_weight(self.master, node, self.plan), codes, low, high)
        self._epilogue(node, folded, acc)

    def _pool(self, node: Pool, codes: str, largest: int) -> str:
        axes = self._constant(f"{node.name}/axes", np.asarray([2, 3], np.int64))
        _, height, width = self.master.shapes[node.input]
        if height * width * largest <= EXACT_FLOAT_LIMIT:  # up to 256 x 256 pixels
            return self._op("ReduceSum", [codes, axes], f"{node.name}/acc", keepdims=0)
        integers = self._op("Cast", [codes], f"{node.name}/integers", to=TensorProto.INT32)
        total = self._op("ReduceSum", [integers, axes], f"{node.name}/acc_int32", keepdims=0)
        return self._op("Cast", [total], f"{node.name}/acc", to=TensorProto.FLOAT)

    def _accumulate(
        self, node: Conv | AvgPool | Linear, weight: NDArray[np.int8], codes: str, low: int, high: int
    ) -> str:
        exact = float_convolution_is_exact(weight, low, high)
        attributes = {} if isinstance(node, Linear) else self._window(node)
        if exact:
            if isinstance(node, Linear):
                value = self._constant(f"{node.name}/weight", np.ascontiguousarray(weight.T, np.float32))
                return self._op("MatMul", [codes, value], f"{node.name}/acc")
            value = self._constant(f"{node.name}/weight", weight.astype(np.float32))
            return self._op("Conv", [codes, value], f"{node.name}/acc", **attributes)
        shifted = (weight.astype(np.int16) + 128).astype(np.uint8)
        value = self._constant(f"{node.name}/weight", shifted.T if isinstance(node, Linear) else shifted)
        zero_w = self._constant(f"{node.name}/weight_zero_point", np.asarray(128, np.uint8))
        # Activations as uint8 with a zero point too, whatever their sign.
        zero = -low
        if zero:
            codes = self._op("Add", [codes, self._scalar(f"{node.name}/shift", zero)], f"{node.name}/shifted")
        unsigned = self._op("Cast", [codes], f"{node.name}/unsigned", to=TensorProto.UINT8)
        zero_x = self._constant(f"{node.name}/input_zero_point", np.asarray(zero, np.uint8))
        operator = "MatMulInteger" if isinstance(node, Linear) else "ConvInteger"
        acc = self._op(operator, [unsigned, value, zero_x, zero_w], f"{node.name}/acc_int32", **attributes)
        return self._op("Cast", [acc], f"{node.name}/acc", to=TensorProto.FLOAT)

    def _window(self, node: Conv | MaxPool | AvgPool) -> dict[str, Any]:
        """Return the ONNX attributes of a window and, but for a max pool, of the convolution it belongs to."""
        start, end = borders(node)
        attributes: dict[str, Any] = {
            "strides": [node.stride] * 2, "pads": [start, start, end, end], "kernel_shape": [node.kernel] * 2,
        }  # fmt: skip
        if isinstance(node, Conv):
            attributes |= {"group": node.groups, "dilations": [node.dilation] * 2}
        elif isinstance(node, AvgPool):
            attributes["group"] = self.master.shapes[node.input][0]
        return attributes

    def _epilogue(self, node: SummingNode, folded: Folded, acc: str) -> None:
        shape = (1, -1) if isinstance(node, Pool | Linear) else (1, -1, 1, 1)
        steps = [("Mul", [self._constant(f"{node.name}/multiplier", folded.multiplier.reshape(shape))])]
        if folded.bias is not None:
            steps.append(("Add", [self._constant(f"{node.name}/bias", folded.bias.reshape(shape))]))
        if isinstance(node, Conv) and node.residual is not None and folded.residual_scale is not None:
            signed = self.master.graph.signed(node.residual)
            q_r = self._quantize(node.residual, folded.residual_scale, MASTER_BITS, signed, f"{node.name}/residual")
            scale = self._scalar(f"{node.name}/residual_scale", folded.residual_scale)
            steps.append(("Add", [self._op("Mul", [q_r, scale], f"{node.name}/residual_value")]))
        if isinstance(node, Conv) and node.relu:
            steps.append(("Relu", []))
            if node.clip is not None:
                steps.append(("Min", [self._scalar(f"{node.name}/clip", node.clip)]))
        value = acc
        for i, (operator, operands) in enumerate(steps):
            output = node.name if i == len(steps) - 1 else f"{node.name}/epilogue{i}"
            value = self._op(operator, [value, *operands], output)

    def _quantize(self, value: str, scale: np.float32, bits: int, signed: bool, name: str) -> str:
        """Return codes as float32 integers."""
        low, high = activation_range(bits, signed)
        divided = self._op("Div", [value, self._scalar(f"{name}_scale", scale)], f"{name}_scaled")
        rounded = self._op("Round", [divided], f"{name}_rounded")
        bounds = [self._scalar(f"{name}_low", low), self._scalar(f"{name}_high", high)]
        return self._op("Clip", [rounded, *bounds], f"{name}_codes")

    def _select(self, node: Node) -> None:
        match node:
            case Shortcut():
                self._shortcut(node)
            case MaxPool():
                self._op("MaxPool", [node.input], node.name, **self._window(node))
            case Concat():
                self._op("Concat", node.inputs, node.name, axis=1)
            case Resize():
                _, height, width = self.master.shapes[node.input]
                rows = self._pick(f"{node.name}/rows", node.input, 2, nearest(height, node.height))
                self._pick(node.name, rows, 3, nearest(width, node.width))

    def _pick(self, name: str, value: str, axis: int, positions: NDArray[np.integer[Any]]) -> str:
        """Return the given positions of a value along an axis."""
        indices = self._constant(f"{name}/positions", positions.astype(np.int64))
        return self._op("Gather", [value, indices], name, axis=axis)

    def _interpolate(self, name: str, value: str, axis: int, size: int, out_size: int) -> str:
        """Return integers mixed along an axis, times :data:`~bitgear.fold.INTERPOLATION_ONE`, as float32."""
        first, second, weight = interpolation(size, out_size)
        shape = (-1, 1) if axis == 2 else (-1,)
        parts = []
        for part, positions, weights in (("first", first, INTERPOLATION_ONE - weight), ("second", second, weight)):
            picked = self._pick(f"{name}/{part}", value, axis, positions)
            factor = self._constant(f"{name}/{part}_weight", weights.astype(np.float32).reshape(shape))
            parts.append(self._op("Mul", [picked, factor], f"{name}/{part}_value"))
        return self._op("Add", parts, name)

    def _shortcut(self, node: Shortcut) -> None:
        channels, height, width = self.master.shapes[node.input]
        picked = node.input
        if node.stride > 1:
            indices = [
                self._constant(f"{node.name}/{part}", np.asarray(numbers, np.int64))
                for part, numbers in (
                    ("starts", [0, 0]), ("ends", [height, width]), ("axes", [2, 3]), ("steps", [node.stride] * 2),
                )
            ]  # fmt: skip
            picked = self._op("Slice", [picked, *indices], f"{node.name}/picked")
        pad = (node.channels - channels) // 2
        pads = self._constant(f"{node.name}/pads", np.asarray([0, pad, 0, 0, 0, pad, 0, 0], np.int64))
        self._op("Pad", [picked, pads], node.name)

    def _op(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, list(inputs), [output], name=output, **attributes))
        return output

    def _scalar(self, name: str, value: float | np.float32) -> str:
        return self._constant(name, np.asarray(value, np.float32))

    def _constant(self, name: str, value: NDArray[np.generic]) -> str:
        if name not in self._names:
            self._names.add(name)
            self.constants.append(numpy_helper.from_array(value, name))
        return name
