"""The command line for masters that detect and that segment."""

import contextlib
import itertools
import json
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from bitgear_client import Client
from PIL import Image
from typer.testing import CliRunner

from bitgear import cli
from bitgear.checkpoint import read_master, write_master
from bitgear.engines import create_engine
from bitgear.errors import ServerUnreachable
from bitgear.evaluate import evaluate_master, read_data
from bitgear.tasks import pictures
from bitgear.tasks.detect import Detection
from bitgear.tasks.drawing import color, draw_boxes, draw_mask
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


def test_a_picture_that_is_drawn_on_is_decoded_once(
    boxes: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = Mock(side_effect=pictures.decode_picture)
    monkeypatch.setattr(pictures, "decode_picture", decode)
    arguments = ["predict", str(photo), "--model", str(boxes), "--draw", str(tmp_path / "drawn.png")]
    assert CliRunner().invoke(cli.app, arguments).exit_code == 0
    decode.assert_called_once_with(photo.read_bytes())


def test_a_picture_may_come_through_a_pipe(boxes: Path, photo: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bitgear.cli", "predict", "/dev/stdin", "--model", boxes, "--draw", "drawn.png"]
    done = subprocess.run(
        command, input=photo.read_bytes(), capture_output=True, check=False, cwd=tmp_path, timeout=120
    )
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "drawn.png") as image:
        assert image.size == (160, 120)


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
            assert rows[str(bits)][metric] == expected[bits].metrics[metric]
            assert f"{expected[bits].metrics[metric]:.2%}" in done.stdout


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
        ["--model", "BOXES", "--top-k", "3"],
        ["--model", "resnet20-cifar10", "--confidence", "0.25"],
        ["--url", "http://127.0.0.1:9", "--engine", "auto"],
        ["--url", "http://127.0.0.1:9", "--model", "BOXES"],
    ],
)
def test_what_cannot_be_used_is_refused(arguments: list[str], boxes: Path, photo: Path, tmp_path: Path) -> None:
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


def test_the_commonest_classes_are_told_apart_by_colour() -> None:
    colors = np.array([color(class_id) for class_id in range(12)], float)
    apart = [np.linalg.norm(one - other) for one, other in itertools.combinations(colors, 2)]
    assert min(apart) > 80


def test_every_class_has_a_colour_and_neighbours_are_apart() -> None:
    colors = np.array([color(class_id) for class_id in range(256)], float)
    assert colors.min() >= 0
    assert colors.max() <= 255
    assert min(np.linalg.norm(np.diff(colors, axis=0), axis=1)) > 80


def test_no_box_hides_a_name() -> None:
    pixels = np.zeros((100, 120, 3), np.uint8)
    below = Detection("below", 0, 0.5, (10.0, 40.0, 100.0, 90.0))
    best = Detection("best", 1, 0.9, (20.0, 20.0, 80.0, 95.0))  # its left side crosses the other's name
    alone, both = draw_boxes(pixels, [below]), draw_boxes(pixels, [best, below])
    name = (slice(29, 39), slice(11, 60))
    assert (alone[name].reshape(-1, 3) == color(0)).all(axis=1).any()
    np.testing.assert_array_equal(both[name], alone[name])


def test_a_server_that_cannot_be_reached_is_named_at_once(photo: Path) -> None:
    with closed_port() as port:
        done = bitgear("predict", photo, "--url", f"http://127.0.0.1:{port}")
    assert done.returncode == 1
    said = f"cannot reach http://127.0.0.1:{port}: connection refused; is the server running?"
    assert done.stderr == f"error: {said} [server-unreachable]\n"


def test_a_server_is_not_waited_for(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(seconds: float) -> None:
        raise AssertionError(f"waits {seconds} s")

    monkeypatch.setattr(Client.__init__, "__kwdefaults__", Client.__init__.__kwdefaults__ | {"sleep": wait})
    with closed_port() as port:
        result = CliRunner().invoke(cli.app, ["predict", str(photo), "--url", f"http://127.0.0.1:{port}"])
    assert isinstance(result.exception, ServerUnreachable)


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """A port that nobody listens on and nobody else gets."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


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
    own = {"tiny": ("--top-k", "2"), "boxes": ("--confidence", "0.05"), "areas": ()}
    options = ("--precision", precision, *own[kind])
    with running(tmp_path, further=(masters["boxes"], masters["areas"])) as server:
        asked = ("predict", photo, "--model", kind, "--url", f"http://127.0.0.1:{server.port}", *options)
        remote, drawn = bitgear(*asked), bitgear(*asked, "--draw", tmp_path / "remote.png", "--json", "-")
        told = bitgear(*asked, "--json", "-")
        task = masters[kind].task
        params = {"precision": precision} | ({"top_k": "2"} if task == "classify" else {})
        params |= {"confidence": "0.05"} if task == "detect" else {}
        route = server.client.post(f"/v1/models/{kind}/{task}", content=photo.read_bytes(), params=params).json()
        undrawable = bitgear(*asked, "--draw", tmp_path / "remote.tiff")
        unfit = bitgear(*asked, *(("--confidence", "0.05") if kind == "tiny" else ("--top-k", "2")))
        unknown = bitgear("predict", photo, "--model", "nothing", "--url", f"http://127.0.0.1:{server.port}")
    assert remote.returncode == 0, remote.stderr
    here = ("predict", photo, "--model", tmp_path / "local.safetensors", *options)
    assert remote.stdout.splitlines()[1:] == bitgear(*here).stdout.splitlines()[1:]
    there, local = json.loads(told.stdout), json.loads(bitgear(*here, "--json", "-").stdout)
    assert list(there) == list(route)
    for answer in (there, route):
        assert answer.pop("id")
        assert answer.pop("timing_ms").keys() == {"queue", "decode", "switch", "infer", "post", "total"}
    assert there == route
    differing = {"version": "", "model": ""}  # the file's own
    assert there | differing == local | differing
    assert f" at {precision}{' bits' if precision == '4' else ''} (request: asked)" in remote.stdout
    assert undrawable.returncode == unfit.returncode == 2
    assert unknown.stderr.startswith("error: 404 model-not-found: ")
    assert "with --url, --model is a model's name on the server [model-not-found]" in unknown.stderr
    assert not (tmp_path / "remote.tiff").exists()
    if kind == "tiny":  # nothing to paint
        assert drawn.returncode == 2
        return
    assert drawn.returncode == 0, drawn.stderr
    assert json.loads(drawn.stdout)["image"] == local["image"]
    assert bitgear(*here, "--draw", tmp_path / "local.png").returncode == 0
    with Image.open(tmp_path / "remote.png") as one, Image.open(tmp_path / "local.png") as other:
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
