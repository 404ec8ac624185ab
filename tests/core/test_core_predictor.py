"""A model in a program: what it answers is what the engine path, the server and the command answer."""

import multiprocessing
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import bitgear
from bitgear import predictor
from bitgear.checkpoint import write_master
from bitgear.engines import create_engine
from bitgear.errors import EngineUnavailable, InputError, ModelNotFound, PrecisionNotOffered
from bitgear.models import SHIPPED, find_master
from bitgear.predictor import Predictor
from bitgear.tasks import classify, detect, segment
from bitgear.tasks.detect import DetectOptions
from bitgear.tasks.letterbox import place_picture
from bitgear.tasks.members import of_detections, of_predictions, of_segmentation
from bitgear.tasks.pictures import decode_picture
from tests.masters import tiny_master
from tests.serving import running
from tests.task_masters import BOX_LABELS, areas_master, boxes_master

ROOT = Path(__file__).parents[2]
SHOWN = {"resnet20-cifar10": "cat.jpg", "bccd-resnet": "blood.jpg", "camvid-resnet": "cat.jpg"}
"""The shipped masters, each with a picture."""


@pytest.fixture
def model(tmp_path: Path) -> Callable[[str], Predictor]:
    masters = {"classify": tiny_master(), "detect": boxes_master(), "segment": areas_master()}

    def load(task: str) -> Predictor:
        file = tmp_path / f"{task}.safetensors"
        write_master(masters[task], file)
        return bitgear.load(file)

    return load


def plain(found: Any) -> Any:
    """Results as values that can be compared."""
    return (found.mask.tolist(), found.labels) if isinstance(found, bitgear.Segmentation) else found


def ask(model: Predictor, image: bitgear.ImageInput, precision: int | str | None = None) -> Any:
    return plain(getattr(model, model.master.task)(image, precision))


def by_hand(name: str, image: bytes, precision: str) -> Any:
    """What the parts give that :class:`Predictor` puts together."""
    master = bitgear.load(name).master
    picture, derived = decode_picture(image), create_engine().derive(master, master.plan(precision))
    if master.task == "classify":
        return classify.predictions(derived.run(classify.preprocess(picture, master.input))[0], master.labels, 5)
    codes, letterbox = place_picture(picture, master.input)
    output = derived.run(codes)[0]
    if master.task == "detect":
        return detect.detections(output, letterbox, master.labels, master.input, DetectOptions())
    return plain(segment.segmentation(output, letterbox, master.labels))


@pytest.mark.parametrize("name", SHOWN)
def test_shipped_models_answer_as_their_parts_and_as_the_server(name: str, tmp_path: Path) -> None:
    model, image = bitgear.load(name), (ROOT / "examples" / SHOWN[name]).read_bytes()
    task = model.master.task
    with running(tmp_path, files=(SHIPPED / f"{name}.safetensors",)) as server:
        for precision in ("8", "5", "2", list(model.master.precisions)[-1]):
            found = getattr(model, task)(image, precision)
            assert plain(found) == by_hand(name, image, precision)
            answer = server.client.post(f"/v1/models/{name}/{task}", content=image, params={"precision": precision})
            members = {"classify": of_predictions, "detect": of_detections}.get(
                task, lambda seen: of_segmentation(seen, "png")
            )(found)
            assert members.items() <= answer.json().items()


def test_every_engine_every_form_and_every_writing_of_a_precision_give_the_same() -> None:
    file = ROOT / "examples" / "cat.jpg"
    pixels = decode_picture(file.read_bytes()).pixels
    expected = ask(bitgear.load("resnet20-cifar10"), file, "4")
    for engine in ("native", "onnxruntime", "reference"):
        assert ask(bitgear.load("resnet20-cifar10", engine=engine, threads=2), pixels, 4) == expected
    model = bitgear.load(find_master("resnet20-cifar10"))
    assert ask(model, Image.fromarray(pixels), "4") == ask(model, str(file), 4) == expected
    assert ask(model, file) == ask(model, file, 8) != expected


@pytest.mark.parametrize("task", ["classify", "detect", "segment"])
def test_a_model_of_another_task_is_refused_by_name(model: Callable[[str], Predictor], task: str) -> None:
    loaded, image = model(task), np.zeros((8, 8, 3), np.uint8)
    for other in {"classify", "detect", "segment"} - {task}:
        with pytest.raises(InputError, match=rf"{other}\(\) is not for model '.*', whose task is {task}; call {task}"):
            getattr(loaded, other)(image)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"confidence": 5}, "confidence 5: expected a number from 0 to 1, such as 0.25"),
        ({"confidence": float("nan")}, "confidence nan: expected a number from 0 to 1"),
        ({"iou": -1}, "iou -1: expected a number from 0 to 1"),
        ({"iou": True}, "iou True: expected a number"),
        ({"max_detections": 0}, "max_detections 0: expected a whole number from 1 to 1000"),
        ({"max_detections": 2.0}, "max_detections 2.0: expected a whole number"),
        ({"classes": ["cell"]}, f"classes names 'cell', which is no class .* by name {', '.join(BOX_LABELS)}"),
        ({"classes": [99]}, "classes names '99', which is no class of this model; known are 0 to"),
        ({"classes": []}, "expected a list of 1 to 1000 names or ids"),
        ({"classes": BOX_LABELS[0]}, "expected a list of 1 to 1000 names or ids"),
        ({"classes": 0}, "classes 0: expected a list of 1 to 1000 names or ids"),
    ],
    ids=str,
)
def test_an_option_out_of_its_range_is_refused(
    model: Callable[[str], Predictor], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        model("detect").detect(np.zeros((8, 8, 3), np.uint8), **options)


@pytest.mark.parametrize("top_k", [0, -1, 1001, 1.5, True, None])
def test_a_number_of_classes_out_of_range_is_refused(model: Callable[[str], Predictor], top_k: Any) -> None:
    with pytest.raises(InputError, match=f"top_k {top_k}: expected a whole number from 1 to 1000"):
        model("classify").classify(np.zeros((8, 8, 3), np.uint8), top_k=top_k)


def test_options_choose_what_is_told(model: Callable[[str], Predictor]) -> None:
    loaded, image = model("detect"), np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    everything = loaded.detect(image, confidence=0.01, iou=1, max_detections=1000)
    wanted: Sequence[str | int] = (BOX_LABELS[2], 0)
    chosen = loaded.detect(image, confidence=np.float32(0.01), iou=1, max_detections=1000, classes=wanted)
    assert chosen == [found for found in everything if found.class_id in (0, 2)] != everything
    assert loaded.detect(image, confidence=0.01, iou=1, max_detections=np.int64(3)) == everything[:3]
    assert len(model("classify").classify(image, top_k=2)) == 2


def test_what_cannot_be_loaded_or_is_not_offered_is_named(model: Callable[[str], Predictor]) -> None:
    with pytest.raises(ModelNotFound):
        bitgear.load("nothing")
    with pytest.raises(EngineUnavailable):
        bitgear.load("resnet20-cifar10", threads=0)
    with pytest.raises(PrecisionNotOffered):
        model("classify").classify(np.zeros((8, 8, 3), np.uint8), "mixed-9.9")
    with pytest.raises(bitgear.BitgearError):
        model("classify").classify(np.zeros((0, 320, 3), np.uint8))


def test_threads_and_other_processes_answer_the_same(model: Callable[[str], Predictor]) -> None:
    loaded, image = model("detect"), np.random.default_rng(1).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    widths = [8, 4, 2] * 20
    expected = {bits: ask(loaded, image, bits) for bits in (8, 4, 2)}
    shared = pickle.loads(pickle.dumps(loaded))
    assert repr(shared) == repr(loaded)
    with ThreadPoolExecutor(8) as threads:
        for bits, found in zip(widths, threads.map(lambda bits: ask(shared, image, bits), widths), strict=True):
            assert found == expected[bits]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.starmap(ask, [(loaded, image, bits) for bits in (4, 2)]) == [expected[4], expected[2]]


def test_the_package_names_what_is_public_and_nothing_else() -> None:
    assert bitgear.__all__ == predictor.__all__
    assert {*bitgear.__all__} <= {*dir(bitgear)}
    for name in bitgear.__all__:
        assert getattr(bitgear, name) is getattr(predictor, name)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        bitgear.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_the_document_prints_what_it_says() -> None:
    ((code, output),) = re.findall(
        r"```python\n(.*?)```\n\n```text\n(.*?)```", (ROOT / "docs" / "library.md").read_text(), re.DOTALL
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == output
