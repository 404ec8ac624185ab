"""A width of a master as an ONNX model, built in memory and run by ONNX Runtime. Exact, portable, not the fastest.

**Integers.** A convolution of codes runs as a float32 convolution where that is *proven* exact: every partial sum, in
any order, lies between -m and m with ``m = max over channels of max(sum of positive products, sum of negative
products)`` at the extreme activations, and float32 holds all integers up to 2**24. The bound is computed from the very
weights. Where it does not hold, ``ConvInteger`` takes over, with unsigned weights (zero point 128): ONNX Runtime's
kernel for signed ones saturates 16-bit sums on processors without VNNI.

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

from bitgear.bits import MASTER_BITS, activation_range
from bitgear.checkpoint import Master
from bitgear.errors import PrecisionNotOffered
from bitgear.fold import Folded, fold
from bitgear.graph import IMAGE, Conv, Linear, Node, Pool, Shortcut
from bitgear.reference import check_image

OPSET = 17
IR_VERSION = 8
EXACT_FLOAT_LIMIT = 1 << 24
_INEXACT_OPTIMIZERS = (
    "ConvMulFusion", "ConvAddFusion", "ConvBNFusion", "ConvAddActivationFusion", "MatMulScaleFusion",
    "MatMulAddFusion", "NchwcTransformer",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class OnnxRuntimeModel:
    """One width as a session; ``nbytes`` counts its weights and constants."""

    master: Master
    bits: int
    nbytes: int
    session: ort.InferenceSession

    def run(self, q_image: NDArray[np.int8]) -> NDArray[np.float32]:
        check_image(self.master, q_image)
        output: NDArray[np.float32] = self.session.run(None, {IMAGE: q_image})[0]
        return output


class OnnxRuntimeEngine:
    """Builds sessions on the CPU with ``threads`` threads for one call."""

    name = "onnxruntime"

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads

    def derive(self, master: Master, bits: int) -> OnnxRuntimeModel:
        model = build_onnx(master, bits)
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
        return OnnxRuntimeModel(master, bits, nbytes, session)


def build_onnx(master: Master, bits: int) -> onnx.ModelProto:
    """Return a width as an ONNX model: input ``image`` int8 (N, 3, H, W), output the last node's float32 value."""
    if bits not in master.widths:
        raise PrecisionNotOffered(bits, master.widths, master.name)
    builder = _Builder(master, bits)
    for node in master.graph.nodes:
        builder.add(node)
    height, width = master.input.height_px, master.input.width_px
    last = master.graph.nodes[-1].name
    graph = helper.make_graph(
        builder.nodes,
        f"{master.name}-w{bits}",
        [helper.make_tensor_value_info(IMAGE, TensorProto.INT8, ["N", 3, height, width])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["N", len(master.labels)])],
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

    def __init__(self, master: Master, bits: int) -> None:
        self.master = master
        self.bits = bits
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._names: set[str] = set()

    def add(self, node: Node) -> None:
        """Append one graph node."""
        if isinstance(node, Shortcut):
            self._shortcut(node)
            return
        folded = fold(self.master, node, self.bits)
        signed = self.master.graph.signed(node.input)
        # The image's codes have 8 bits, whatever the width of the node that reads them.
        low, high = activation_range(MASTER_BITS if folded.act_scale is None else folded.bits, signed)
        if folded.act_scale is None:
            codes = self._op("Cast", [IMAGE], f"{node.name}/codes", to=TensorProto.FLOAT)
        else:
            codes = self._quantize(node.input, folded.act_scale, folded.bits, signed, f"{node.name}/input")
        if isinstance(node, Pool):
            axes = self._constant(f"{node.name}/axes", np.asarray([2, 3], np.int64))
            _, height, width = self._shape(node.input)
            if height * width * max(high, -low) <= EXACT_FLOAT_LIMIT:  # up to 256 x 256 pixels
                acc = self._op("ReduceSum", [codes, axes], f"{node.name}/acc", keepdims=0)
            else:
                integers = self._op("Cast", [codes], f"{node.name}/integers", to=TensorProto.INT32)
                total = self._op("ReduceSum", [integers, axes], f"{node.name}/acc_int32", keepdims=0)
                acc = self._op("Cast", [total], f"{node.name}/acc", to=TensorProto.FLOAT)
        else:
            acc = self._accumulate(node, folded, codes, low, high)
        self._epilogue(node, folded, acc)

    def _accumulate(self, node: Conv | Linear, folded: Folded, codes: str, low: int, high: int) -> str:
        weight = folded.q_weight
        if weight is None:  # pragma: no cover - fold gives every conv and linear its weight
            raise ValueError(node.name)
        exact = float_convolution_is_exact(weight, low, high)
        attributes = {}
        if isinstance(node, Conv):
            attributes = {
                "strides": [node.stride] * 2, "pads": [node.padding] * 4, "kernel_shape": [node.kernel] * 2,
            }  # fmt: skip
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
        operator = "ConvInteger" if isinstance(node, Conv) else "MatMulInteger"
        acc = self._op(operator, [unsigned, value, zero_x, zero_w], f"{node.name}/acc_int32", **attributes)
        return self._op("Cast", [acc], f"{node.name}/acc", to=TensorProto.FLOAT)

    def _epilogue(self, node: Conv | Pool | Linear, folded: Folded, acc: str) -> None:
        shape = (1, -1, 1, 1) if isinstance(node, Conv) else (1, -1)
        steps = [("Mul", self._constant(f"{node.name}/multiplier", folded.multiplier.reshape(shape)))]
        if folded.bias is not None:
            steps.append(("Add", self._constant(f"{node.name}/bias", folded.bias.reshape(shape))))
        if isinstance(node, Conv) and node.residual is not None and folded.residual_scale is not None:
            signed = self.master.graph.signed(node.residual)
            q_r = self._quantize(node.residual, folded.residual_scale, MASTER_BITS, signed, f"{node.name}/residual")
            scale = self._scalar(f"{node.name}/residual_scale", folded.residual_scale)
            steps.append(("Add", self._op("Mul", [q_r, scale], f"{node.name}/residual_value")))
        value = acc
        relu = isinstance(node, Conv) and node.relu
        for i, (operator, operand) in enumerate(steps):
            last = i == len(steps) - 1 and not relu
            value = self._op(operator, [value, operand], node.name if last else f"{node.name}/epilogue{i}")
        if relu:
            self._op("Relu", [value], node.name)

    def _quantize(self, value: str, scale: np.float32, bits: int, signed: bool, name: str) -> str:
        """Return codes as float32 integers."""
        low, high = activation_range(bits, signed)
        divided = self._op("Div", [value, self._scalar(f"{name}_scale", scale)], f"{name}_scaled")
        rounded = self._op("Round", [divided], f"{name}_rounded")
        bounds = [self._scalar(f"{name}_low", low), self._scalar(f"{name}_high", high)]
        return self._op("Clip", [rounded, *bounds], f"{name}_codes")

    def _shortcut(self, node: Shortcut) -> None:
        channels, height, width = self._shape(node.input)
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

    def _shape(self, value: str) -> tuple[int, int, int]:
        shapes = self.master.graph.shapes((3, self.master.input.height_px, self.master.input.width_px))
        channels, height, width = shapes[value]
        return channels, height, width

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
