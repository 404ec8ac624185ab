"""The engines that bitgear is compared with, each with the settings that suit it best.

Every peer gets the same float network (:meth:`~bitgear.convert.float_model.FloatModel.to_onnx`) and pictures as
float32 (N, 3, H, W). Those for int8 are quantised as their makers advise for processors of this kind: static, QDQ or
QOperator format, unsigned activations, signed weights with a scale for each channel; ONNX Runtime needs twice the time
with signed activations. Their range is not reduced to 7 bits, so on a processor without VNNI they are quick and may
saturate. Inputs and outputs are bound beforehand where an engine can do that, which saves it copies.

An engine that is not installed is left out; :func:`missing` says which. Where ours is held to a lesser instruction set
than the processor offers, so are the peers (:func:`hold_to`): that shows what a lesser processor would.
"""

import importlib.util
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from benchmarks.contest import BF16, FP32, INT8, Contender
from bitgear.convert.float_model import FloatModel
from bitgear.graph import IMAGE, Conv, Linear, MaxPool, Pool, Resize, Shortcut

FORMATS = {"QDQ": QuantFormat.QDQ, "QOperator": QuantFormat.QOperator}
PACKAGES = {"openvino": "OpenVINO", "torch": "PyTorch"}

LIMITS = {
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
    "avx2-vnni": {"ONEDNN_MAX_CPU_ISA": "AVX2_VNNI", "ATEN_CPU_CAPABILITY": "avx2"},
}
"""Environment variables that hold OpenVINO and PyTorch to an instruction set. ONNX Runtime knows none."""

Floats = NDArray[np.float32]


def hold_to(instruction_set: str) -> bool:
    """Hold the peers to an instruction set, before any of them is loaded; return whether that changes anything.

    ONNX Runtime cannot be held, so :class:`Peers` leaves it out then.
    """
    os.environ.update(LIMITS.get(instruction_set, {}))
    return instruction_set in LIMITS


def missing() -> list[str]:
    """Return the names of the peers that are not installed."""
    return [name for package, name in PACKAGES.items() if importlib.util.find_spec(package) is None]


class Peers:
    """All ways to run a network without bitgear.

    ``folder``: where the networks are written as ONNX files, in float32 and quantised. ``calibration``: normalised
    pictures, float32 (N, 3, H, W). ``held``: whether they are held to a lesser instruction set.
    """

    def __init__(self, model: FloatModel, folder: Path, calibration: Floats, *, held: bool = False) -> None:
        self.model = model
        self.held = held
        self.calibration = calibration
        self.paths = {FP32: folder / "fp32.onnx"} | {name: folder / f"{name}.onnx" for name in FORMATS}
        self.paths[FP32].write_bytes(model.to_onnx().SerializeToString())
        prepared = folder / "prepared.onnx"
        logging.disable(logging.WARNING)  # quantisation advises on preprocessing that was done
        quant_pre_process(self.paths[FP32], prepared)
        for name, form in FORMATS.items():
            quantize_static(
                prepared,
                self.paths[name],
                _Pictures(calibration),
                quant_format=form,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        logging.disable(logging.NOTSET)

    def contenders(self, images: Floats, threads: int) -> Iterator[Contender]:
        """Make every way to run a batch of normalised pictures, float32 (N, 3, H, W)."""
        if not self.held:
            yield Contender("onnxruntime", FP32, "", _onnxruntime(self.paths[FP32], images, threads))
            for name in FORMATS:
                try:
                    call = _onnxruntime(self.paths[name], images, threads)
                except Exception as error:  # its QOperator form of a Resize with sizes, for example
                    print(f"ONNX Runtime cannot load its {name} form, which is left out: {str(error).splitlines()[0]}")
                else:
                    yield Contender("onnxruntime", INT8, name, call)
        if importlib.util.find_spec("openvino") is not None:
            yield from self._openvino(images, threads)
        if importlib.util.find_spec("torch") is not None:
            yield from _torch(self.model, images, threads)

    def _openvino(self, images: Floats, threads: int) -> Iterator[Contender]:
        import openvino

        core = openvino.Core()

        def contender(network: Any, precision: str, hint: str, pinned: bool, settings: str) -> Contender:
            network.reshape(list(images.shape))
            options = {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": threads,
                "INFERENCE_PRECISION_HINT": hint,
                "ENABLE_CPU_PINNING": pinned,
            }
            request = core.compile_model(network, "CPU", options).create_infer_request()
            request.set_input_tensor(openvino.Tensor(images, shared_memory=True))
            output = request.get_output_tensor().data

            def call() -> Floats:
                request.infer()
                return output

            settings += ", threads pinned" if pinned else ", threads not pinned"
            return Contender("openvino", precision, settings.removeprefix(", "), call)

        for pinned in (True, False):
            yield contender(core.read_model(self.paths[FP32]), FP32, "f32", pinned, "")
            if not self.held and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
                yield contender(core.read_model(self.paths[FP32]), BF16, "bf16", pinned, "")
            yield contender(core.read_model(self.paths["QDQ"]), INT8, "f32", pinned, "QDQ")
        if importlib.util.find_spec("nncf") is not None:
            yield contender(_nncf(core.read_model(self.paths[FP32]), self.calibration), INT8, "f32", True, "NNCF")


class _Pictures(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, images: Floats) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, Floats] | None:
        image = next(self._images, None)
        return None if image is None else {IMAGE: image[None]}


def _onnxruntime(path: Path, images: Floats, threads: int) -> Callable[[], Floats]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    result = session.get_outputs()[0]
    output = np.empty((len(images), *result.shape[1:]), np.float32)
    binding = session.io_binding()
    binding.bind_cpu_input(IMAGE, images)
    binding.bind_output(result.name, "cpu", 0, np.float32, output.shape, output.ctypes.data)

    def call() -> Floats:
        session.run_with_iobinding(binding)
        return output

    return call


def _nncf(network: Any, calibration: Floats) -> Any:
    import nncf

    nncf.set_log_level(logging.ERROR)
    network.reshape([1, *calibration.shape[1:]])
    dataset = nncf.Dataset([image[None] for image in calibration])
    return nncf.quantize(network, dataset, subset_size=len(calibration))


def _torch(model: FloatModel, images: Floats, threads: int) -> Iterator[Contender]:
    import torch
    from torch._inductor import config as inductor

    torch.set_num_threads(threads)
    network = torch_network(model).to(memory_format=torch.channels_last)
    batch = torch.from_numpy(images).to(memory_format=torch.channels_last)

    def contender(run: Callable[[Any], Any], settings: str) -> Contender:
        def call() -> Floats:
            with torch.inference_mode():
                output: Floats = run(batch).numpy()
            return output

        return Contender("pytorch", FP32, settings, call)

    yield contender(network, "eager, channels last")
    compiled = torch.compile(network, dynamic=False)
    try:
        with inductor.patch(freezing=True), torch.inference_mode():
            compiled(batch)
    except Exception as error:  # without a compiler, for example; it says so in many ways
        print(f"torch.compile does not work here and is left out: {str(error).splitlines()[0]}")
        return
    yield contender(compiled, "torch.compile, channels last")


def torch_network(model: FloatModel) -> Any:
    """Return the network as a module; of nodes it knows those of classifiers."""
    import torch
    from torch.nn import functional

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for kind, tensors in (("weights", model.weights), ("biases", model.biases)):
                parameters = {
                    name.replace(".", "/"): torch.nn.Parameter(torch.from_numpy(tensor.copy()), requires_grad=False)
                    for name, tensor in tensors.items()
                }
                setattr(self, kind, torch.nn.ParameterDict(parameters))

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            values = {IMAGE: image}
            for node in model.graph.nodes:
                values[node.name] = self.compute(node, values)
            return values[model.graph.nodes[-1].name]

        def compute(self, node: Any, values: dict[str, torch.Tensor]) -> torch.Tensor:
            x, key = values[node.input], node.name.replace(".", "/")
            match node:
                case Conv():
                    x, padding = pad(x, node, 0.0)
                    weight, bias = self.weights[key], self.biases[key]
                    x = functional.conv2d(x, weight, bias, node.stride, padding, node.dilation, node.groups)
                    if node.residual is not None:
                        x = x + values[node.residual]
                    if node.clip is not None:
                        return functional.hardtanh(x, 0.0, node.clip)
                    return functional.relu(x) if node.relu else x
                case MaxPool():
                    x, padding = pad(x, node, -float("inf"))
                    return functional.max_pool2d(x, node.kernel, node.stride, padding)
                case Resize() if node.mode == "nearest":
                    return functional.interpolate(x, (node.height, node.width), mode="nearest")
                case Shortcut():
                    ends = (node.channels - x.shape[1]) // 2
                    return functional.pad(x[:, :, :: node.stride, :: node.stride], (0, 0, 0, 0, ends, ends))
                case Pool():
                    return x.mean((2, 3))
                case Linear():
                    return functional.linear(x, self.weights[key], self.biases[key])
            raise NotImplementedError(f"node {node.name!r} of type {node.op} is not translated to PyTorch")

    def pad(x: torch.Tensor, node: Conv | MaxPool, value: float) -> tuple[torch.Tensor, int]:
        """Return the padded value and the padding left to do: that which is the same on all sides."""
        if node.padding_end in (None, node.padding):
            return x, node.padding
        start, end = node.padding, node.padding_end
        return functional.pad(x, (start, end, start, end), value=value), 0

    return Network().eval()
