"""From files to a measured master, by the command line."""

import hashlib
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save_file

from bitgear.checkpoint import read_master
from bitgear.convert.importer import ImportOptions, import_model, split
from bitgear.engines import create_engine
from bitgear.errors import BitgearError, DataError, HeaderTooLarge, MetadataInvalid, PrecisionMissing, TensorMissing
from bitgear.tasks.classify import measure
from bitgear.tasks.datasets import LabelledImages, read_pictures
from tests.convert.networks import CLASSES, pictures, tiny_model, tiny_state

COUNT, SIDE_PX = 30, 32
NAMES = ["one", "two words", "three", "four", "five"]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "Tiny_ResNet20.safetensors"
    copied = {"file": "another.safetensors", "sha256": "0" * 64}  # as of a file that this one was made of
    save_file(tiny_state("resnet20"), path, {"source": "made up", "licence": "none"} | copied)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Pictures with the class that the float network gives them, in a folder with ``classes.json``."""
    model = tiny_model("resnet20", side_px=SIDE_PX)
    pixels = pictures(COUNT, SIDE_PX, seed=3)
    classes = model.session().run(None, {"image": model.normalise(pixels)})[0].argmax(axis=1)
    folder = tmp_path / "pictures"
    folder.mkdir()
    entries = []
    for i, (picture, label) in enumerate(zip(pixels, classes, strict=True)):
        Image.fromarray(picture).save(folder / f"{i:02d}.png")
        entries.append({"class": int(label), "name": NAMES[label], "file": f"{i:02d}.png"})
    (folder / "classes.json").write_text(json.dumps(entries))
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    return folder


def bitgear(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bitgear.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_the_command_writes_a_measured_master(weights: Path, images: Path, tmp_path: Path) -> None:
    out, report_path = tmp_path / "tiny.safetensors", tmp_path / "report.json"
    with tarfile.open(tmp_path / "pictures.tar", "w") as archive:
        archive.add(images, arcname=".")
    done = bitgear(
        "import", weights, "--images", tmp_path / "pictures.tar", "--labels", tmp_path / "names.txt", "--out", out,
        "--calibrate", 10, "--widths", "8,4", "--architecture", "resnet20", "--json", report_path,
        "--engine", "onnxruntime",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "FP32  100.00%  100.00%" in done.stdout
    master = read_master(out)
    assert master.name == "tiny-resnet20"
    assert master.widths == (8, 4)
    assert master.labels == tuple(NAMES)
    assert master.provenance["weights"] == {
        "file": weights.name,
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "source": "made up",
        "licence": "none",
    }
    assert master.provenance["data"] == "10 pictures of pictures.tar to calibrate, 20 to measure"
    assert master.provenance["fp32_top1"] == 1

    _, others = split(read_pictures(images, SIDE_PX, NAMES), 10, 0)
    for bits in (8, 4):
        derived = create_engine("reference").derive(master, bits)
        expected = measure(lambda pixels: derived.run(master.input.encode(pixels)), others)  # noqa: B023
        assert master.accuracy[bits] == {"top1": expected.top1, "top5": expected.top5, "images": 20}
    assert master.accuracy[8]["top1"] > 0.8

    report = json.loads(report_path.read_text())
    assert report["model"] == "tiny-resnet20"
    assert report["architecture"] == "resnet20"
    assert report["master_bytes"] == out.stat().st_size
    assert report["images"] == {
        "source": "pictures.tar", "calibrated": 10, "measured": 20, "central_fraction": 1.0, "seed": 0,
    }  # fmt: skip
    assert report["fp32"] == {"top1": 1.0, "top5": 1.0, "images": 20}
    for bits in ("8", "4"):
        assert {k: report["precisions"][bits][k] for k in ("top1", "top5", "images")} == master.accuracy[int(bits)]


def test_an_error_is_one_line_and_leaves_nothing(weights: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiny.safetensors"
    done = bitgear("import", weights, "--images", images, "--out", out, "--architecture", "mobilenet_v1")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "weights of a mobilenet_v1 are missing" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()


def options(weights: Path, images: Path, **changes: object) -> ImportOptions:
    plain: dict[str, object] = {
        "labels": images.parent / "names.txt", "calibrate": 10, "widths": (8,), "engine": "onnxruntime", "threads": 1,
    }  # fmt: skip
    return ImportOptions(weights, images, **{**plain, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "error", "complaint"),
    [
        ({"calibrate": COUNT}, DataError, "leave none to measure"),
        ({"calibrate": 20, "limit": 20}, DataError, "20 of 20 pictures"),
        ({"widths": (4, 2)}, PrecisionMissing, "4, 2 lack 8"),
        ({"name": "No name"}, MetadataInvalid, "'No name'"),
        ({"architecture": "vgg"}, BitgearError, "'vgg' is unknown"),
        ({"architecture": "resnet56"}, TensorMissing, "Tiny_ResNet20"),
    ],
)
def test_what_does_not_fit_is_said_first(
    weights: Path, images: Path, tmp_path: Path, changes: dict[str, object], error: type[Exception], complaint: str
) -> None:
    with pytest.raises(error, match=complaint):
        import_model(options(weights, images, **changes), tmp_path / "m.safetensors", progress=False)
    assert not (tmp_path / "m.safetensors").exists()


def test_class_names_must_be_as_many_as_outputs(weights: Path, images: Path, tmp_path: Path) -> None:
    names = tmp_path / "more.txt"
    names.write_text("\n".join([*NAMES, "sixth"]))
    with pytest.raises(DataError, match=r"tells 5 classes apart, .*more\.txt names 6; .* \(--labels\)"):
        import_model(options(weights, images, labels=names), tmp_path / "m.safetensors", progress=False)


def test_the_folder_must_exist_before_the_work(weights: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent does not exist"):
        import_model(options(weights, images), tmp_path / "absent" / "m.safetensors", progress=False)


def test_weights_that_say_more_than_a_master_holds_are_refused_first(tmp_path: Path) -> None:
    weights = tmp_path / "wordy.safetensors"
    save_file(tiny_state("resnet20"), weights, {"log": "x" * (1 << 20)})
    with pytest.raises(HeaderTooLarge, match=r"wordy\.safetensors: has metadata of"):
        import_model(options(weights, tmp_path / "not looked for"), tmp_path / "m.safetensors", progress=False)


def data(count: int) -> LabelledImages:
    return LabelledImages(pictures(count, 4), np.arange(count), tuple(map(str, range(count))))


def test_a_split_takes_every_picture_once() -> None:
    chosen, others = split(data(10), 4, seed=1)
    assert sorted([*chosen.labels, *others.labels]) == list(range(10))
    assert len(chosen.labels) == 4
    assert split(data(10), 4, seed=1)[0].labels.tolist() == chosen.labels.tolist()
    assert split(data(10), 4, seed=2)[0].labels.tolist() != chosen.labels.tolist()


def test_accuracy_counts_first_and_first_five() -> None:
    labels = np.asarray([0, 1, 2, 3, 6] * 30)
    measured = LabelledImages(np.zeros((150, 1, 1, 3), np.uint8), labels, tuple("abcdefg"))
    logits = np.asarray([5, 5, 4, 3, 2, 1, 0], np.float32)  # a tie of the first two goes to the first
    seen: list[int] = []

    def run(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.repeat(logits[None], len(pixels), axis=0)

    found = measure(run, measured, seen.append)
    assert (found.top1, found.top5, found.images) == (0.2, 0.8, 150)
    assert sum(seen) == 150


def test_fewer_than_five_classes_have_a_top_5_too() -> None:
    few = LabelledImages(np.zeros((3, 1, 1, 3), np.uint8), np.asarray([0, 1, 2]), tuple("abc"))
    assert measure(lambda pixels: np.zeros((len(pixels), 3), np.float32), few).top5 == 1
    assert CLASSES == 5
