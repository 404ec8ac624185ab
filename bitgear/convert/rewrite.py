"""Rewrites of a float network that leave what it computes as it is and make it easier to quantise."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from bitgear.convert.float_model import FloatModel, Floats
from bitgear.graph import IMAGE, Conv
from bitgear.inputs import InputRecord

LARGEST_IMAGE_CODE = 127
HEADROOM = 1.2
"""By how much other pictures may exceed the largest value seen before a clip cuts it off."""
LARGEST_FACTOR = 1000.0
"""How much a channel may be scaled: one that hardly ever speaks is left quiet."""


def fit_input(model: FloatModel) -> FloatModel:
    """Return the network with an input whose codes use the whole range of int8 in every colour.

    The mean stays, so that padding with code 0 still is padding with the mean colour. The standard deviations become
    the largest distance of a pixel from the mean; the first layers' weights make up for it. A step between codes is
    then 1.0 to 1.3 steps between pixels.
    """
    mean = model.input.mean
    std = tuple(max(m, 1 - m) for m in mean)
    factor = np.asarray(std) / np.asarray(model.input.std)
    weights = dict(model.weights)
    for node in model.graph.nodes:
        if IMAGE in model.graph.inputs(node):
            if not isinstance(node, Conv) or node.groups != 1:
                return model
            weights[node.name] = (weights[node.name] * factor[:, None, None]).astype(np.float32)
    record = InputRecord(model.input.height_px, model.input.width_px, mean, std, 1 / LARGEST_IMAGE_CODE)  # type: ignore[arg-type]
    return replace(model, input=record, weights=weights)


def equalisable(model: FloatModel) -> dict[str, tuple[Conv, ...]]:
    """Return the convolutions whose output channels can be scaled, each with the convolutions that read it.

    It must add no residual, which would have to be scaled too. All readers must be convolutions that read it as their
    input, dense or depthwise, and at least one must follow the request's width: at 8 bits there is nothing to gain.
    """
    found = {}
    graph = model.graph
    for node in graph.convs:
        readers = [other for other in graph.nodes if node.name in graph.inputs(other)]
        convs = tuple(other for other in readers if isinstance(other, Conv) and _scales_through(other, node))
        if (
            node.residual is None
            and readers
            and len(convs) == len(readers)
            and any(conv.bits is None for conv in convs)
        ):
            found[node.name] = convs
    return found


def _scales_through(reader: Conv, source: Conv) -> bool:
    return reader.residual != source.name and reader.groups in (1, source.channels)


def equalise(model: FloatModel, largest: Mapping[str, Floats]) -> FloatModel:
    """Return the network with output channels scaled up to one common range, and their readers' weights scaled down.

    One scale quantises all channels of a value: a channel of small values is left with few codes unless it is made
    larger first. ``largest``: for each convolution of :func:`equalisable`, the largest value, float32 (O,), of each
    channel. Where a clip bounds the ReLU, no channel is scaled beyond it.
    """
    weights, biases = dict(model.weights), dict(model.biases)
    by_name = {node.name: node for node in model.graph.convs}
    for name, readers in equalisable(model).items():
        clip = by_name[name].clip
        range_ = float(largest[name].max()) if clip is None else clip
        if range_ <= 0:
            continue
        loud = largest[name] > range_ / LARGEST_FACTOR
        factor = np.where(loud, np.maximum(range_ / HEADROOM / np.where(loud, largest[name], 1), 1), 1)
        weights[name] = (weights[name] * factor.reshape(-1, 1, 1, 1)).astype(np.float32)
        biases[name] = (biases[name] * factor).astype(np.float32)
        for reader in readers:
            shape = (1, -1, 1, 1) if reader.groups == 1 else (-1, 1, 1, 1)
            per_input = factor if reader.groups == 1 else np.repeat(factor, reader.channels // reader.groups)
            weights[reader.name] = (weights[reader.name] / per_input.reshape(shape)).astype(np.float32)
    return replace(model, weights=weights, biases=biases)
