"""What models take and give as tensors: the forms of an input, and how outputs are made of what a network computes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitgear.checkpoint import Master
from bitgear.errors import ImageError
from bitgear.inputs import InputRecord
from bitgear.tasks.pictures import Picture, check_size
from server.answers import to_json
from server.errors import BadParameter, BadTensor, shown
from server.pixels import Room
from server.tasks import Task
from server.tensors import BYTES, InferRequest, OutputTensor, RequestedOutput, Tensor

INPUT = "image"
RAW_OUTPUT = "output"
RESULT = "result"


@dataclass(frozen=True, eq=False)
class NetworkInput:
    """The images of one request. ``q_image``: codes, int8 (N, 3, H, W). ``places``, ``sizes_px``: one for each image.

    A place is where in its codes a picture lies, as its task has it; a size is (width, height) of the upright picture.
    """

    q_image: NDArray[np.int8]
    places: Sequence[Any]
    sizes_px: Sequence[tuple[int, int]]


def describe_tensors(master: Master) -> dict[str, Any]:
    """Return ``inputs``, ``alternative_inputs`` and ``outputs`` of a model's metadata."""
    record = master.input
    network = [-1, 3, record.height_px, record.width_px]
    output = master.shapes[master.graph.nodes[-1].name]
    return {
        "inputs": [_described(BYTES, [-1], content="JPEG, PNG or WebP files; in JSON as base64")],
        "alternative_inputs": [
            _described("UINT8", [-1, -1, -1, 3], content="RGB pixels of pictures of any size"),
            _described(
                "FP32",
                network,
                content="RGB, (pixel / 255 - mean) / std",
                mean=",".join(map(str, record.mean)),
                std=",".join(map(str, record.std)),
            ),
            _described("INT8", network, content="codes, rint of FP32 / scale", scale=record.scale),
        ],
        "outputs": [
            {"name": RAW_OUTPUT, "datatype": "FP32", "shape": [-1, *output]},
            {
                "name": RESULT,
                "datatype": BYTES,
                "shape": [-1],
                "parameters": {"content": "a JSON object for each image"},
            },
        ],
    }


def _described(datatype: str, shape: list[int], **parameters: str | float) -> dict[str, Any]:
    return {"name": INPUT, "datatype": datatype, "shape": shape, "parameters": parameters}


def to_network(tensor: Tensor, task: Task[Any, Any], record: InputRecord, room: Room, max_images: int) -> NetworkInput:
    """Return the images in an input tensor as the network reads them. Decodes pictures: not for the event loop.

    Raises :class:`~server.errors.BadTensor` for a tensor that is none of the model's, and what
    :meth:`~server.pixels.Room.decode` raises, which says of several pictures which one it is.
    """
    if tensor.name != INPUT:
        raise BadTensor(f"there is no input {shown(tensor.name)}; models here take {INPUT!r}", tensor.name[:40])
    _check_shape(tensor, record)
    count = tensor.shape[0]
    if count > max_images:
        raise BadTensor(f"the request has {count} images; send up to {max_images} at once", INPUT)
    if isinstance(tensor.data, np.ndarray) and tensor.datatype != "UINT8":
        q_image = tensor.data if tensor.datatype == "INT8" else record.quantise(tensor.data)
        return NetworkInput(q_image, [task.whole_input(record)] * count, [(record.width_px, record.height_px)] * count)
    q_image = np.empty((count, 3, record.height_px, record.width_px), np.int8)
    places, sizes_px = [], []
    for i, element in enumerate(tensor.data):
        try:
            picture = _picture(element, room)
        except ImageError as error:
            if count > 1:
                error.args = (f"image {i + 1} of {count}: {error}",)
            raise
        q_image[i : i + 1], place = task.preprocess(picture, record)
        places.append(place)
        sizes_px.append((picture.width_px, picture.height_px))
        del picture  # before the next is decoded
    return NetworkInput(q_image, places, sizes_px)


def _check_shape(tensor: Tensor, record: InputRecord) -> None:
    network = (3, record.height_px, record.width_px)
    shape = tensor.shape
    fits = {
        BYTES: len(shape) == 1 or (len(shape) == 2 and shape[1] == 1),
        "UINT8": len(shape) == 4 and shape[3] == 3,
        "INT8": shape[1:] == network,
        "FP32": shape[1:] == network,
    }
    if not fits[tensor.datatype]:
        raise BadTensor(
            f"{tensor.datatype} of shape {shown(list(shape))} is no form of {INPUT!r}; it takes BYTES [N] or [N, 1], "
            f"UINT8 [N, height, width, 3], FP32 or INT8 [N, 3, {record.height_px}, "
            f"{record.width_px}]",
            INPUT,
        )


def _picture(element: bytes | NDArray[Any], room: Room) -> Picture:
    if not isinstance(element, np.ndarray):
        return room.decode(element)
    picture = Picture(element)
    check_size(picture.width_px, picture.height_px, room.limit)
    return picture


def resolve_outputs(request: InferRequest, master: Master) -> tuple[RequestedOutput, ...]:
    """Return the outputs to be sent, in the order of the request, each with ``binary`` said; without any named, all.

    Raises :class:`~server.errors.BadTensor` for an output that does not exist, and
    :class:`~server.errors.BadParameter` for classes of what is no classification.
    """
    wanted = request.outputs or (RequestedOutput(RAW_OUTPUT), RequestedOutput(RESULT))
    for output in wanted:
        if output.name not in (RAW_OUTPUT, RESULT):
            raise BadTensor(
                f"there is no output {shown(output.name)}; models here give {RAW_OUTPUT!r} and {RESULT!r}",
                output.name[:40],
            )
        if output.classification is not None and (output.name != RAW_OUTPUT or master.task != "classify"):
            raise BadParameter(
                f"classification needs the output {RAW_OUTPUT!r} of a model that classifies", "classification"
            )
    return tuple(
        RequestedOutput(
            output.name, request.binary_outputs if output.binary is None else output.binary, output.classification
        )
        for output in wanted
    )


def make_outputs(
    wanted: Sequence[RequestedOutput],
    output: NDArray[np.float32],
    network_input: NetworkInput,
    task: Task[Any, Any],
    master: Master,
    options: Any,
) -> list[OutputTensor]:
    """Return the outputs to be sent, of the network's output, float32 (N, ...). Not for the event loop."""
    made = []
    for each in wanted:
        shape: tuple[int, ...]
        data: NDArray[np.float32] | list[str]
        if each.name == RESULT:
            data = [
                to_json(
                    {
                        "image": {"width": size_px[0], "height": size_px[1]},
                        **task.postprocess(row, place, master.labels, master.input, options),
                    }
                ).decode("utf-8")
                for row, place, size_px in zip(output, network_input.places, network_input.sizes_px, strict=True)
            ]
            shape = (len(output),)
        elif each.classification is not None:
            count = min(each.classification, len(master.labels))
            data = [text for row in output for text in _best(row, master.labels, count)]
            shape = (len(output), count)
        else:
            data, shape = output, output.shape
        made.append(OutputTensor(each.name, shape, data, bool(each.binary)))
    return made


def _best(logits: NDArray[np.float32], labels: Sequence[str], count: int) -> list[str]:
    """Return ``value:index:label`` of the largest values, the largest first; equal ones by index."""
    order = np.argsort(-logits, kind="stable")[:count]
    return [f"{logits[i]:f}:{i}:{labels[i]}" for i in order]
