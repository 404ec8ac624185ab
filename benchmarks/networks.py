"""The networks of the engine's contest: each as a master and as the float network that the other engines get."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from bitgear.bits import MASTER_BITS, WIDTHS
from bitgear.checkpoint import Master, read_master, write_master
from bitgear.convert.codes import Moments, rounded_codes
from bitgear.convert.float_model import FloatModel, random_float_model
from bitgear.convert.rewrite import fit_input
from bitgear.convert.scales import least_error_scale
from bitgear.graph import IMAGE, Conv, Linear, sums
from bitgear.models import find_master

SHIPPED = {
    "resnet20-32": "resnet20-cifar10",
    "segmenter-480x360": "camvid-resnet",
    "detector-416x320": "bccd-resnet",
}
"""Networks that ship, by their names here."""
RANDOM = {
    "resnet18-224": "resnet18",
    "mobilenetv2-224": "mobilenet_v2",
    "resnet34-224": "resnet34",
    "resnet50-224": "resnet50",
    "mobilenetv1-224": "mobilenet_v1",
}
"""Networks with random weights, and their architectures: their speed means something, their answers do not."""
NETWORKS = ("resnet18-224", "mobilenetv2-224", "resnet20-32", "segmenter-480x360", "detector-416x320")
"""Those measured unless others are asked for."""
ALL = (*SHIPPED, *RANDOM)
ASSUMED_TOP1 = {8: 0.70, 7: 0.70, 6: 0.699, 5: 0.695, 4: 0.69, 3: 0.67, 2: 0.64}
"""What a policy is to take for the accuracy of a network with random weights: of the size that trained ones show."""
MASTERS = Path("build/masters")


@dataclass(frozen=True)
class Network:
    """``weights``: ``random`` or ``trained``."""

    name: str
    weights: str
    master: Master
    model: FloatModel

    def pixels(self, batch: int) -> NDArray[np.uint8]:
        """Return pictures of noise, uint8 (N, H, W, 3): always the same ones."""
        record = self.master.input
        return np.random.default_rng(batch).integers(0, 256, (batch, record.height_px, record.width_px, 3), np.uint8)


def network(name: str) -> Network:
    """Return a network of :data:`ALL`."""
    if name in SHIPPED:
        master = read_master(find_master(SHIPPED[name]))
        return Network(name, "trained", master, dequantised(master))
    model = random_float_model(RANDOM[name])
    return Network(name, "random", unfitted(model), model)


def master_file(name: str) -> Path:
    """Return the file of a master: of one of :data:`ALL`, of a shipped one, or the path itself.

    One with random weights is made once and kept; as its accuracy, which nobody can measure, it says
    :data:`ASSUMED_TOP1`.
    """
    if name not in RANDOM:
        return find_master(SHIPPED.get(name, name))
    path = MASTERS / f"{name}.safetensors"
    if not path.is_file():
        MASTERS.mkdir(parents=True, exist_ok=True)
        accuracy = {bits: {"top1": ASSUMED_TOP1[bits]} for bits in WIDTHS}
        write_master(dataclasses.replace(network(name).master, accuracy=accuracy), path)
    return path


def dequantised(master: Master) -> FloatModel:
    """Return the float network that the 8-bit codes of a master stand for."""
    row, tensors = master.row(MASTER_BITS), master.tensors
    weights: dict[str, NDArray[np.float32]] = {}
    biases: dict[str, NDArray[np.float32]] = {}
    for node in master.graph.nodes:
        if not isinstance(node, Conv | Linear):
            continue
        q_weight = tensors[f"{node.name}.weight"]
        scale, bias = tensors[f"{node.name}.weight_scale"].astype(np.float32), tensors[f"{node.name}.bias"]
        if isinstance(node, Conv):
            scale, bias = scale * tensors[f"{node.name}.gain"][row].astype(np.float32), bias[row]
        weights[node.name] = q_weight * scale.reshape(-1, *[1] * (q_weight.ndim - 1))
        biases[node.name] = bias.astype(np.float32)
    return FloatModel(master.name, master.graph, master.input, weights, biases)


def unfitted(model: FloatModel) -> Master:
    """Return a master of a network with random weights: codes and scales as calibration begins with them, all widths.

    That is enough for speed, which depends on codes and ranges alone; there is nothing to be accurate at, and fitting
    takes minutes.
    """
    model = fit_input(model)
    graph, tensors = model.graph, dict[str, NDArray[Any]]()
    pixels = np.random.default_rng(0).integers(0, 256, (1, model.input.height_px, model.input.width_px, 3), np.uint8)
    names = [node.name for node in graph.nodes]
    values = dict(zip(names, model.session(outputs="all").run(names, {IMAGE: model.normalise(pixels)}), strict=True))

    def scales(value: str, widths: Iterable[int]) -> NDArray[np.float32]:
        found = {bits: least_error_scale(values[value], bits, graph.signed(value)) for bits in set(widths)}
        return np.asarray([found[bits] for bits in widths], np.float32)

    whole = [MASTER_BITS] * len(WIDTHS)
    for node in tqdm(graph.nodes, desc=f"{model.name}, master", unit="node", leave=False):
        if sums(node) and node.input != IMAGE:
            tensors[f"{node.name}.act_scale"] = scales(node.input, WIDTHS if isinstance(node, Conv) else whole)
        if isinstance(node, Conv | Linear):
            weight = model.weights[node.name]
            widths = WIDTHS if isinstance(node, Conv) and node.bits is None else (MASTER_BITS,)
            q_weight, tensors[f"{node.name}.weight_scale"] = _codes(weight.reshape(len(weight), -1), widths)
            tensors[f"{node.name}.weight"] = q_weight.reshape(weight.shape)
            tensors[f"{node.name}.bias"] = model.biases[node.name]
        if isinstance(node, Conv):
            tensors[f"{node.name}.gain"] = np.ones((len(WIDTHS), node.channels), np.float16)
            tensors[f"{node.name}.bias"] = np.tile(model.biases[node.name].astype(np.float16), (len(WIDTHS), 1))
            if node.residual is not None:
                tensors[f"{node.name}.residual_scale"] = scales(node.residual, whole)
    labels = tuple(str(label) for label in range(graph.nodes[-1].channels))
    return Master(model.name.replace("_", "-"), "classify", graph, model.input, labels, WIDTHS, tensors)


def _codes(weight: NDArray[np.float32], widths: Iterable[int]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return codes and scales, good at all the widths, of weights (O, D) whose inputs are independent and alike."""
    independent = Moments(np.eye(weight.shape[1], dtype=np.float32), weight, (weight**2).sum(axis=1))
    return rounded_codes(weight, dict.fromkeys(widths, independent))
