"""What models take and give as tensors."""

import json
from typing import Any

import numpy as np
import pytest

from bitgear import reference
from bitgear.errors import ImageEmpty, ImageFormatUnsupported, ImageTooLarge
from bitgear.tasks.pictures import LIMIT_SIDE_PX, Picture
from server.answers import to_json
from server.errors import BadParameter, BadTensor
from server.pixels import Pixels
from server.signature import (
    RAW_OUTPUT,
    RESULT,
    NetworkInput,
    describe_tensors,
    make_outputs,
    resolve_outputs,
    to_network,
)
from server.tasks import TASKS
from server.tensors import BYTES, InferRequest, RequestedOutput, Tensor
from tests.masters import LABELS, tiny_master
from tests.serving import pixels, png
from tests.task_masters import areas_master, boxes_master

MASTERS = {"classify": tiny_master(), "detect": boxes_master(), "segment": areas_master()}
LIMIT_PIXELS = 10_000
MAX_IMAGES = 4


def read(tensor: Tensor, task: str = "classify") -> NetworkInput:
    return to_network(tensor, TASKS[task], MASTERS[task].input, Pixels(LIMIT_PIXELS).room(), MAX_IMAGES)


def array_of(datatype: str, shape: tuple[int, ...]) -> Tensor:
    dtype = {"UINT8": np.uint8, "INT8": np.int8, "FP32": np.float32}[datatype]
    return Tensor("image", datatype, shape, np.zeros(shape, dtype))


@pytest.mark.parametrize("task", MASTERS)
@pytest.mark.parametrize("form", ["BYTES", "BYTES in a column", "UINT8"])
def test_pictures_are_read_as_the_other_routes_read_them(task: str, form: str) -> None:
    master = MASTERS[task]
    if form == "UINT8":
        rgb = np.stack([pixels(seed, 20)[:, :18] for seed in range(3)])
        tensor = Tensor("image", "UINT8", rgb.shape, rgb)
        pictures = [Picture(each) for each in rgb]
    else:
        shape = (3,) if form == "BYTES" else (3, 1)
        tensor = Tensor("image", BYTES, shape, [png(seed, 20 + seed) for seed in range(3)])
        pictures = [Picture(pixels(seed, 20 + seed)) for seed in range(3)]
    network_input = read(tensor, task)
    for i, picture in enumerate(pictures):
        codes, place = TASKS[task].preprocess(picture, master.input)
        np.testing.assert_array_equal(network_input.q_image[i], codes[0])
        assert network_input.places[i] == place
        assert network_input.sizes_px[i] == (picture.width_px, picture.height_px)


@pytest.mark.parametrize("task", MASTERS)
def test_a_picture_of_the_input_s_size_gives_the_same_in_every_form(task: str) -> None:
    master = MASTERS[task]
    record = master.input
    rgb = np.random.default_rng(0).integers(0, 256, (2, record.height_px, record.width_px, 3), dtype=np.uint8)
    codes = record.encode(rgb)
    mean, std = np.array(record.mean), np.array(record.std)
    real = ((rgb / 255 - mean) / std).astype(np.float32).transpose(0, 3, 1, 2)
    forms = [
        Tensor("image", "UINT8", rgb.shape, rgb),
        Tensor("image", "INT8", codes.shape, codes),
        Tensor("image", "FP32", real.shape, np.ascontiguousarray(real)),
    ]
    read_forms = [read(tensor, task) for tensor in forms]
    for each in read_forms:
        np.testing.assert_array_equal(each.q_image, codes)
        assert list(each.places) == list(read_forms[0].places)
        assert each.sizes_px == [(record.width_px, record.height_px)] * 2


def test_values_beyond_the_codes_saturate() -> None:
    record = MASTERS["classify"].input
    shape = (1, 3, record.height_px, record.width_px)
    largest = float(np.finfo(np.float32).max)
    for value, code in ((largest, 127), (-largest, -128)):
        tensor = Tensor("image", "FP32", shape, np.full(shape, value, np.float32))
        assert np.unique(read(tensor).q_image).tolist() == [code]


@pytest.mark.parametrize(
    ("datatype", "shape"),
    [
        ("UINT8", (16, 16, 3)), ("UINT8", (1, 3, 16, 16)), ("UINT8", (1, 16, 16, 4)), ("UINT8", (768,)),
        ("INT8", (1, 16, 16, 3)), ("INT8", (3, 16, 16)), ("INT8", (1, 3, 16, 15)), ("INT8", (1, 1, 16, 16)),
        ("FP32", (1, 3, 32, 32)), ("FP32", (1, 768)), ("FP32", (5, 3, 16, 16)), ("INT8", (5, 3, 16, 16)),
        ("UINT8", (5, 16, 16, 3)),
    ],
)  # fmt: skip
def test_shapes_that_the_model_does_not_take(datatype: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(BadTensor) as caught:
        read(array_of(datatype, shape))
    assert caught.value.members == {"tensor": "image"}


@pytest.mark.parametrize("shape", [(1, 2), (2, 1, 1), (1, 1, 1), (5,), (5, 1)])
def test_shapes_of_elements_that_the_model_does_not_take(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadTensor):
        read(Tensor("image", BYTES, shape, [png()] * int(np.prod(shape))))


def test_another_input() -> None:
    with pytest.raises(BadTensor, match="no input 'pixels'"):
        read(Tensor("pixels", BYTES, (1,), [png()]))


def test_images_that_cannot_be_read() -> None:
    with pytest.raises(ImageEmpty):
        read(Tensor("image", BYTES, (1,), [b""]))
    with pytest.raises(ImageTooLarge):
        read(Tensor("image", BYTES, (2,), [png(), png(side_px=101)]))


@pytest.mark.parametrize("task", MASTERS)
@pytest.mark.parametrize("axis", [1, 2])
def test_the_side_of_pixels_is_limited_too(task: str, axis: int) -> None:
    def read_line(length_px: int) -> None:
        shape = [1, 1, 1, 3]
        shape[axis] = length_px
        to_network(
            array_of("UINT8", tuple(shape)),
            TASKS[task],
            MASTERS[task].input,
            Pixels(2 * LIMIT_SIDE_PX).room(),
            MAX_IMAGES,
        )

    read_line(LIMIT_SIDE_PX)
    with pytest.raises(ImageTooLarge, match=f"{LIMIT_SIDE_PX} along a side"):
        read_line(LIMIT_SIDE_PX + 1)


@pytest.mark.parametrize(("bad", "error"), [(b"nope", ImageFormatUnsupported), (png(0, 101), ImageTooLarge)])
def test_of_several_pictures_the_bad_one_is_named(bad: bytes, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^image 2 of 3: "):
        read(Tensor("image", BYTES, (3,), [png(), bad, png()]))
    with pytest.raises(error, match=r"^(?!image 1 of 1)"):
        read(Tensor("image", BYTES, (1,), [bad]))


def test_pixels_have_the_limit_of_files() -> None:
    with pytest.raises(ImageTooLarge):
        read(array_of("UINT8", (1, 101, 100, 3)))


def outputs(task: str, *wanted: RequestedOutput, binary: bool = False) -> list[Any]:
    master = MASTERS[task]
    tensor = Tensor("image", BYTES, (2,), [png(seed, 30) for seed in range(2)])
    network_input = read(tensor, task)
    request = InferRequest(tensor, wanted, binary)
    output = reference.run(master, network_input.q_image, 8)
    resolved = resolve_outputs(request, master)
    options = TASKS[task].options({}, master.labels)
    made = make_outputs(resolved, output, network_input, TASKS[task], master, options)
    return [output, *made]


@pytest.mark.parametrize("task", MASTERS)
def test_all_outputs_are_the_network_s_and_the_task_s(task: str) -> None:
    output, raw, result = outputs(task)
    assert (raw.name, raw.shape, raw.binary) == (RAW_OUTPUT, output.shape, False)
    np.testing.assert_array_equal(raw.data, output)
    assert (result.name, result.shape, result.binary) == (RESULT, (2,), False)
    master = MASTERS[task]
    for seed, text in enumerate(result.data):
        _, place = TASKS[task].preprocess(Picture(pixels(seed, 30)), master.input)
        options = TASKS[task].options({}, master.labels)
        members = TASKS[task].postprocess(output[seed], place, master.labels, master.input, options)
        assert json.loads(text) == {"image": {"width": 30, "height": 30}, **json.loads(to_json(members))}


def test_the_order_and_the_form_are_the_request_s() -> None:
    _, result, raw = outputs("classify", RequestedOutput(RESULT, False), RequestedOutput(RAW_OUTPUT), binary=True)
    assert (result.name, result.binary) == (RESULT, False)
    assert (raw.name, raw.binary) == (RAW_OUTPUT, True)


@pytest.mark.parametrize("count", [1, 3, 10, 10**30])
def test_classification(count: int) -> None:
    output, made = outputs("classify", RequestedOutput(RAW_OUTPUT, classification=count))
    told = min(count, 10)
    assert made.shape == (2, told)
    best = [(row, i) for row in output for i in sorted(range(10), key=lambda i, row=row: (-row[i], i))[:told]]
    assert made.data == [f"{row[i]:f}:{i}:{LABELS[i]}" for row, i in best]


@pytest.mark.parametrize(
    ("task", "wanted"),
    [("classify", RESULT), ("detect", RAW_OUTPUT), ("segment", RAW_OUTPUT), ("detect", RESULT)],
)
def test_classes_of_what_is_no_classification(task: str, wanted: str) -> None:
    with pytest.raises(BadParameter) as caught:
        outputs(task, RequestedOutput(wanted, classification=1))
    assert caught.value.members == {"parameter": "classification"}


def test_another_output() -> None:
    with pytest.raises(BadTensor, match="no output 'logits'"):
        outputs("classify", RequestedOutput("logits"))


@pytest.mark.parametrize("task", MASTERS)
def test_the_description_is_what_is_given(task: str) -> None:
    described = describe_tensors(MASTERS[task])
    output, raw, result = outputs(task)
    (first,) = described["inputs"]
    assert (first["name"], first["datatype"], first["shape"]) == ("image", BYTES, [-1])
    for each in described["alternative_inputs"]:
        shape = tuple(2 if extent == -1 else extent for extent in each["shape"])
        assert len(read(array_of(each["datatype"], shape), task).q_image) == 2
    assert described["outputs"][0] == {"name": raw.name, "datatype": "FP32", "shape": [-1, *output.shape[1:]]}
    assert described["outputs"][1]["name"] == result.name
