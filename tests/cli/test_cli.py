"""The command line: what it prints, what it writes, and how it fails."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitgear import __version__
from bitgear.checkpoint import read_master, write_master
from bitgear.engines import create_engine
from bitgear.tasks.classify import top1
from bitgear.tasks.datasets import read_labelled_images
from tests.masters import tiny_master


def bitgear(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bitgear.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def master(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    write_master(tiny_master(), path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for label in range(10):
        folder = tmp_path / "data" / "test" / f"class{label}"
        folder.mkdir(parents=True)
        for i in range(3):
            Image.fromarray(rng.integers(0, 256, (20, 24, 3)).astype(np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "data"


def test_version() -> None:
    assert bitgear("--version").stdout == f"bitgear {__version__}\n"


def test_no_arguments_show_the_verbs() -> None:
    shown = bitgear().stdout
    for verb in ("serve", "predict", "evaluate", "doctor", "inspect", "train"):
        assert verb in shown


def test_inspect_shows_a_person_what_a_master_holds(master: Path) -> None:
    shown = bitgear("inspect", master).stdout
    assert "tiny  (classify, 10 classes, input 16x16)" in shown
    assert "58.00 %" in shown
    assert "b.conv2" in shown


def test_doctor_shows_the_engines_and_writes_json(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    done = bitgear("doctor", "--json", file)
    assert done.returncode == 0, done.stderr
    assert f"default engine    {create_engine().name}\n" in done.stdout
    assert json.loads(file.read_text())["auto"] == create_engine().name


def test_inspect_prints_json(master: Path) -> None:
    description = json.loads(bitgear("inspect", master, "--json").stdout)
    assert description["file_bytes"] == master.stat().st_size
    assert list(description["precisions"]) == ["8", "7", "6", "5", "4", "3", "2"]


def test_evaluate_writes_accuracy_per_width(master: Path, data: Path, tmp_path: Path) -> None:
    report_path = tmp_path / "report.json"
    done = bitgear("evaluate", master, "--data", data, "--precision", "8,3", "--json", report_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(report_path.read_text())
    images = read_labelled_images(data, "test", 16)
    stored = read_master(master)
    for bits in (8, 3):
        row = report["precisions"][str(bits)]
        assert row["images"] == 30
        assert row["top1"] == top1(create_engine("reference").derive(stored, bits), stored.input, images)
    assert list(report["precisions"]) == ["8", "3"]


def test_predict_names_the_model_the_width_and_the_classes(master: Path, data: Path) -> None:
    image = data / "test" / "class0" / "0.png"
    done = bitgear("predict", image, "--model", master, "--precision", "4", "--top-k", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "0.png  24x20  tiny at 4 bits"
    assert len(done.stdout.splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["predict", "IMAGE", "--model", "nothing"], "model-not-found"),
        (["predict", "IMAGE", "--model", "MASTER", "--precision", "9"], "precision-invalid"),
        (["predict", "MASTER", "--model", "MASTER"], "image-format-unsupported"),
        (["inspect", "IMAGE"], "checkpoint"),
        (["evaluate", "MASTER", "--data", "nowhere"], "data-invalid"),
        (["evaluate", "MASTER", "--data", "DATA", "--precision", "8,1"], "precision-invalid"),
        (["evaluate", "MASTER", "--data", "DATA", "--engine", "abacus"], "engine-unavailable"),
        (["serve", "--port", "99999"], "settings-invalid"),
        (["train", "nothing", "--data", "DATA", "--out", "RUN"], "config-invalid"),
    ],
)
def test_a_mistake_is_one_line_with_a_stable_code(
    arguments: list[str], code: str, master: Path, data: Path, tmp_path: Path
) -> None:
    places = {"IMAGE": data / "test/class0/0.png", "MASTER": master, "DATA": data, "RUN": tmp_path / "run"}
    done = bitgear(*[places.get(argument, argument) for argument in arguments])
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert code in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
