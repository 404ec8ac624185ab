"""The command line for masters that detect and that segment."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitgear.checkpoint import read_master, write_master
from bitgear.engines import create_engine
from bitgear.evaluate import evaluate_master, read_data
from bitgear.tasks.drawing import draw_mask
from tests.cli.test_cli import bitgear
from tests.masters import named_plan, tiny_master
from tests.serving import running
from tests.task_masters import AREA_LABELS, BOX_LABELS, areas_master, boxes_master


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    write_master(boxes_master(), tmp_path / "boxes.safetensors")
    return tmp_path / "boxes.safetensors"


@pytest.fixture
def areas(tmp_path: Path) -> Path:
    write_master(areas_master(), tmp_path / "areas.safetensors")
    return tmp_path / "areas.safetensors"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(1).integers(0, 256, (120, 160, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def boxed(tmp_path: Path, photo: Path) -> Path:
    path = tmp_path / "boxed.tar"
    document = {
        "images": [{"id": 1, "file_name": "photo.png", "width": 160, "height": 120}],
        "categories": [{"id": i, "name": name} for i, name in enumerate(BOX_LABELS)],
        "annotations": [{"image_id": 1, "category_id": 2, "bbox": [10, 20, 50, 60]}],
    }
    (tmp_path / "test.json").write_text(json.dumps(document))
    with tarfile.open(path, "w") as archive:
        archive.add(photo, "photo.png")
        archive.add(tmp_path / "test.json", "annotations/test.json")
    return path


@pytest.fixture
def mapped(tmp_path: Path, photo: Path) -> Path:
    folder = tmp_path / "mapped"
    (folder / "test").mkdir(parents=True)
    (folder / "testannot").mkdir()
    (folder / "test" / "p.png").write_bytes(photo.read_bytes())
    ids = np.random.default_rng(2).integers(0, 6, (120, 160)).astype(np.uint8)
    Image.fromarray(ids).save(folder / "testannot" / "p.png")
    (folder / "classes.json").write_text(json.dumps([*AREA_LABELS, "void"]))
    return folder


def test_a_detector_tells_and_draws_its_boxes(boxes: Path, photo: Path, tmp_path: Path) -> None:
    drawn = tmp_path / "drawn.png"
    done = bitgear("predict", photo, "--model", boxes, "--confidence", "0.01", "--precision", "4", "--draw", drawn)
    assert done.returncode == 0, done.stderr
    first, second, *_ = done.stdout.splitlines()
    assert first == "photo.png  160x120  boxes at 4 bits"
    assert any(label in second for label in BOX_LABELS)
    with Image.open(drawn) as image, Image.open(photo) as original:
        assert image.size == (160, 120)
        assert not np.array_equal(np.asarray(image), np.asarray(original))


def test_a_detector_says_when_it_finds_nothing(boxes: Path, photo: Path) -> None:
    done = bitgear("predict", photo, "--model", boxes, "--confidence", "1")
    assert done.returncode == 0, done.stderr
    assert "nothing found" in done.stdout


def test_a_segmenter_tells_shares_and_draws_its_mask(areas: Path, photo: Path, tmp_path: Path) -> None:
    drawn = tmp_path / "drawn.jpg"
    done = bitgear("predict", photo, "--model", areas, "--draw", drawn)
    assert done.returncode == 0, done.stderr
    shares = [float(line.split("%")[0]) for line in done.stdout.splitlines()[1:-1]]
    assert sum(shares) == pytest.approx(100, abs=0.1)
    assert shares == sorted(shares, reverse=True)
    with Image.open(drawn) as image:
        assert (image.format, image.size) == ("JPEG", (160, 120))


@pytest.mark.parametrize(
    ("kind", "data", "metrics"), [("boxes", "boxed", ("map50_95", "map50")), ("areas", "mapped", ("miou",))]
)
def test_evaluate_measures_what_the_task_is_measured_by(
    kind: str, data: str, metrics: tuple[str, ...], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    file, source = request.getfixturevalue(kind), request.getfixturevalue(data)
    report = tmp_path / "report.json"
    done = bitgear("evaluate", file, "--data", source, "--precision", "8,2", "--json", report)
    assert done.returncode == 0, done.stderr
    master = read_master(file)
    expected = evaluate_master(master, create_engine("reference"), read_data(master, source, "test"), (8, 2))
    rows = json.loads(report.read_text())["precisions"]
    for bits in (8, 2):
        assert rows[str(bits)]["images"] == 1
        for metric in metrics:
            assert rows[str(bits)][metric] == expected[bits][metric]
            assert f"{expected[bits][metric]:.2%}" in done.stdout


def test_inspect_names_the_metric(boxes: Path, areas: Path) -> None:
    assert "mAP50-95" in bitgear("inspect", boxes).stdout
    assert "mIoU" in bitgear("inspect", areas).stdout


def test_data_of_other_classes_is_refused(areas: Path, mapped: Path) -> None:
    (mapped / "classes.json").write_text('["a", "b", "c", "d", "e", "void"]')
    done = bitgear("evaluate", areas, "--data", mapped)
    assert done.returncode == 1
    assert "a, b, c, d, e" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model", "resnet20-cifar10", "--draw", "x.png"],
        ["--model", "BOXES", "--draw", "x.tiff"],
        ["--model", "BOXES", "--draw", "nowhere/x.png"],
        ["--model", "BOXES", "--draw", "."],
        ["--model", "BOXES", "--confidence", "nan"],
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments: list[str], boxes: Path, photo: Path, tmp_path: Path) -> None:
    done = bitgear("predict", photo, *[boxes if a == "BOXES" else a for a in arguments])
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("x.*"))


def test_a_picture_longer_than_its_format_holds_is_refused(boxes: Path, tmp_path: Path) -> None:
    Image.new("RGB", (16384, 8)).save(tmp_path / "long.png")
    drawn = tmp_path / "drawn.webp"
    done = bitgear("predict", tmp_path / "long.png", "--model", boxes, "--draw", drawn)
    assert done.returncode == 1
    assert "WebP holds 16383 pixels a side, the picture has 16384x8; draw a PNG [bitgear]" in done.stderr
    assert "Traceback" not in done.stderr
    assert not drawn.exists()


def test_a_class_name_of_several_lines_is_drawn_in_one() -> None:
    pixels, mask = np.zeros((64, 96, 3), np.uint8), np.zeros((64, 96), np.uint8)
    assert np.array_equal(draw_mask(pixels, mask, ["tall\n grass"]), draw_mask(pixels, mask, ["tall grass"]))


def test_results_that_cannot_be_written_are_refused_before_they_are_measured(boxes: Path, boxed: Path) -> None:
    done = bitgear("evaluate", boxes, "--data", boxed, "--json", boxed / "nowhere" / "report.json")
    assert done.returncode == 2
    assert "does not exist" in done.stderr
    assert not done.stdout


@pytest.mark.parametrize("precision", ["4", "mixed-3.2"])
@pytest.mark.parametrize("kind", ["tiny", "boxes", "areas"])
def test_a_server_tells_the_same(kind: str, precision: str, photo: Path, tmp_path: Path) -> None:
    masters = {"tiny": tiny_master(), "boxes": boxes_master(), "areas": areas_master()}
    masters = {name: master.with_plans([named_plan(master)]) for name, master in masters.items()}
    write_master(masters["tiny"], tmp_path / "tiny.safetensors")
    write_master(masters[kind], tmp_path / "local.safetensors")
    options = ("--precision", precision, "--confidence", "0.05")
    with running(tmp_path, further=(masters["boxes"], masters["areas"])) as server:
        asked = ("predict", photo, "--model", kind, "--url", f"http://127.0.0.1:{server.port}", *options)
        remote, drawn = bitgear(*asked), bitgear(*asked, "--draw", tmp_path / "remote.png")
        undrawable = bitgear(*asked, "--draw", tmp_path / "remote.tiff")
    assert remote.returncode == 0, remote.stderr
    here = ("predict", photo, "--model", tmp_path / "local.safetensors", *options)
    assert remote.stdout.splitlines()[1:] == bitgear(*here).stdout.splitlines()[1:]
    assert f" at {precision}{' bits' if precision == '4' else ''} (request: asked)" in remote.stdout
    assert undrawable.returncode == 2
    assert not (tmp_path / "remote.tiff").exists()
    if kind == "tiny":  # nothing to paint
        assert drawn.returncode == 2
        return
    assert drawn.returncode == 0, drawn.stderr
    assert bitgear(*here, "--draw", tmp_path / "local.png").returncode == 0
    with Image.open(tmp_path / "remote.png") as one, Image.open(tmp_path / "local.png") as other:
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
