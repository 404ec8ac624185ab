"""The command line: what it prints, what it writes, and how it fails."""

import dataclasses
import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from bitgear import __version__, cli, reference
from bitgear.checkpoint import read_master, write_master
from bitgear.engines import create_engine
from bitgear.errors import SystemRefused
from bitgear.files import write_atomically
from bitgear.predictor import load
from bitgear.tasks.classify import predictions, preprocess, top1
from bitgear.tasks.datasets import read_labelled_images
from bitgear.tasks.pictures import decode_picture
from tests.masters import LABELS, named_plan, tiny_master


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
        folder = tmp_path / "data" / "test" / LABELS[label]
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


def test_a_shipped_masters_name_is_its_name_beside_a_folder_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "resnet20-cifar10").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "resnet20-cifar10  (classify" in bitgear("inspect", "resnet20-cifar10").stdout


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


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A master with a named plan."""
    path = tmp_path / "mixed.safetensors"
    master = tiny_master()
    write_master(master.with_plans([named_plan(master)]), path)
    return path


def test_inspect_shows_plans(mixed: Path) -> None:
    shown = bitgear("inspect", mixed).stdout
    assert "mixed-3.2" in shown
    assert "its own batch norm" in shown
    assert list(json.loads(bitgear("inspect", mixed, "--json").stdout)["plans"]) == ["mixed-3.2"]


def test_predict_takes_a_plan_by_name(mixed: Path, data: Path) -> None:
    image = data / "test" / LABELS[0] / "0.png"
    done = bitgear("predict", image, "--model", mixed, "--precision", "mixed-3.2", "--top-k", "10")
    assert done.returncode == 0, done.stderr
    shown = done.stdout.splitlines()
    assert shown[0] == "0.png  24x20  tiny at mixed-3.2"
    master = read_master(mixed)
    codes = preprocess(decode_picture(image.read_bytes()), master.input)
    logits = reference.run(master, codes, master.plan("mixed-3.2"))[0]
    expected = predictions(logits, master.labels, 10)
    assert shown[1:] == [f"{each.confidence:7.2%}  {each.class_name}" for each in expected]
    missing = bitgear("predict", image, "--model", mixed, "--precision", "mixed-2.2")
    assert missing.stderr == (
        "error: model 'tiny' does not offer precision mixed-2.2; it offers 8, 7, 6, 5, 4, 3, 2, mixed-3.2"
        " [precision-not-offered]\n"
    )


def test_evaluate_measures_plans_and_stores_what_it_found(mixed: Path, data: Path, tmp_path: Path) -> None:
    before = read_master(mixed)
    done = bitgear("evaluate", mixed, "--data", data, "--json", tmp_path / "report.json", "--store")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())["precisions"]
    stored = read_master(mixed)
    assert list(report) == [*"8765432", "mixed-3.2"] == list(stored.precisions)
    images = read_labelled_images(data, "test", 16)
    for name, plan in stored.precisions.items():
        expected = top1(create_engine("reference").derive(stored, plan), stored.input, images)
        assert stored.metrics(name) == {"top1": expected, "images": 30}
        assert report[name]["top1"] == expected
    assert stored.digest != before.digest
    assert "mixed-3.2" in done.stdout


def test_evaluate_stores_what_was_measured_alone_and_of_all_images(mixed: Path, data: Path) -> None:
    before = read_master(mixed)
    done = bitgear("evaluate", mixed, "--data", data, "--precision", "mixed-3.2, w8a7", "--store")
    assert done.returncode == 0, done.stderr
    stored = read_master(mixed)
    assert stored.accuracy == before.accuracy
    assert stored.metrics("mixed-3.2")["images"] == 30
    digest = stored.digest
    assert bitgear("evaluate", mixed, "--data", data, "--store", "--limit", "3").returncode == 2
    assert bitgear("evaluate", mixed, "--data", data, "--store", "--split", "train").returncode == 2
    assert read_master(mixed).digest == digest


def test_predict_names_the_model_the_width_and_the_classes(master: Path, data: Path) -> None:
    image = data / "test" / LABELS[0] / "0.png"
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
        (["train", "no/such/smoke.toml", "--data", "DATA", "--out", "RUN"], "smoke.toml does not exist"),
        (["hessian", "no/such/smoke.toml", "--data", "DATA", "--out", "RUN"], "smoke.toml does not exist"),
        (
            ["tune", "no/such/smoke.toml", "--data", "DATA", "--out", "RUN", "--master", "MASTER"],
            "smoke.toml does not exist",
        ),
    ],
)
def test_a_mistake_is_one_line_with_a_stable_code(
    arguments: list[str], code: str, master: Path, data: Path, tmp_path: Path
) -> None:
    places = {"IMAGE": data / "test" / LABELS[0] / "0.png", "MASTER": master, "DATA": data, "RUN": tmp_path / "run"}
    done = bitgear(*[places.get(argument, argument) for argument in arguments])
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert code in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["import", "A", "--images", "I", "--out", "A"], "is what WEIGHTS names"),
        (["import", "A", "--images", "I", "--out", "B", "--json", "LINK"], "is what WEIGHTS names"),
        (["import", "A", "--images", "I", "--out", "B", "--json", "B"], "is what --out names"),
        (["import", "A", "--images", "I", "--labels", "B", "--out", "B"], "is what --labels names"),
        (["evaluate", "A", "--data", "I", "--json", "LINK"], "is what MODEL names"),
        (["evaluate", "A", "--data", "B", "--json", "B"], "is what --data names"),
        (["profile", "A", "--json", "A"], "is what MODEL names"),
        (["predict", "A", "--draw", "LINK"], "is what IMAGE names"),
        (["refine", "A", "--start", "3", "--data", "B", "--out", "B"], "is what --data names"),
        (["search", "A", "--data", "I", "--timings", "B", "--out", "B"], "is what --timings names"),
    ],
)
def test_no_file_is_written_over_another_that_is_named(
    arguments: list[str], said: str, master: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(master)
    places = {"A": master, "B": tmp_path / "new", "LINK": tmp_path / "link", "I": tmp_path}
    before = master.read_bytes()
    result = CliRunner().invoke(cli.app, [str(places.get(word, word)) for word in arguments])
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("│", " ").split())
    assert master.read_bytes() == before


def test_no_name_that_a_file_holds_steers_the_terminal(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    labels = ("\x1b[31mred\n\rnext", *LABELS[1:])
    write_master(dataclasses.replace(tiny_master(), labels=labels, provenance={"data": "\x1b[2J\n\nlast\u202e"}), path)
    picture = data / "test" / LABELS[0] / "0.png"
    shown = bitgear("predict", picture, "--model", path, "--top-k", "10").stdout
    assert "\\x1b[31mred\\n\\rnext" in shown
    assert len(shown.splitlines()) == 11
    described = bitgear("inspect", path).stdout
    assert described.splitlines()[-1] == r"  data: \x1b[2J\n\nlast\u202e"
    shown += described
    shown += bitgear("predict", picture, "--model", "\x1b[2J").stderr
    assert shown.count(r"\x1b[2J") == 2
    assert "\x1b" not in shown


@pytest.mark.parametrize("verb", [["profile"], ["search", "--data", "x"], ["refine", "--data", "x", "--start", "4"]])
def test_what_times_layers_says_that_there_is_no_native_engine(master: Path, verb: list[str]) -> None:
    start = "import sys; sys.modules['bitgear._native'] = None; from bitgear.cli import main; main()"
    command = [sys.executable, "-c", start, verb[0], str(master), *verb[1:]]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 1
    assert result.stderr.startswith("error: engine 'native' cannot be loaded: "), result.stderr
    assert "Traceback" not in result.stderr


def test_what_the_system_refuses_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); from bitgear.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, "doctor", "--json", str(file)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    refused = SystemRefused(OSError(errno.EFBIG, "File too large", str(file)))
    assert done.stderr == f"error: {refused} [system-refused]\n"
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_and_an_error_of_no_system_call_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = tmp_path / "kept.json"
    file.write_bytes(b"old")
    monkeypatch.setattr("os.fsync", full)
    monkeypatch.setattr(cli, "app", lambda: write_atomically(file, b"new"))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith(f"error: {file}: No space left on device; check ")
    assert [each.name for each in tmp_path.iterdir()] == ["kept.json"]
    assert file.read_bytes() == b"old"

    def mistaken() -> None:
        raise OSError("no system call")

    monkeypatch.setattr(cli, "app", mistaken)
    with pytest.raises(OSError, match="no system call"):
        cli.main()


@pytest.mark.parametrize(
    "command",
    [
        ("train", "smoke", "--out"),
        ("hessian", "smoke", "--out"),
        ("tune", "smoke", "--master", "MASTER", "--out"),
        ("search", "MASTER", "--report"),
    ],
)
def test_a_folder_that_cannot_be_is_refused_before_any_work(
    command: tuple[str, ...], master: Path, tmp_path: Path
) -> None:
    words = [str(master) if word == "MASTER" else word for word in command]
    for place in (master, master / "below"):
        done = bitgear(*words, place, "--data", tmp_path / "nowhere")
        assert done.returncode == 2
        assert "is no folder" in " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.parametrize("option", ["--latency-ms", "--mean-width", "--bytes", "--bit-operations"])
@pytest.mark.parametrize("limit", ["nan", "inf", "0", "-1"])
def test_what_is_no_limit_is_refused_before_any_work(option: str, limit: str, master: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["search", str(master), "--data", str(tmp_path / "nowhere"), option, limit])
    assert result.exit_code == 2
    assert f"{limit} is no limit" in " ".join(result.stderr.replace("│", " ").split())


def test_a_list_of_no_widths_is_refused(master: Path, tmp_path: Path) -> None:
    for text in ("", "8,,4"):
        refused = bitgear("search", master, "--data", tmp_path / "nowhere", "--widths", text)
        assert refused.returncode == 1
        assert "nowhere" not in refused.stderr
        assert "precision ''" in refused.stderr


def test_a_search_says_that_it_found_nothing_and_keeps_the_solver_from_its_output(master: Path, data: Path) -> None:
    pytest.importorskip("bitgear._native")
    pytest.importorskip("scipy.optimize")
    (data / "train").symlink_to(data / "test", target_is_directory=True)
    code = (
        "import os, bitgear.search.command as c, bitgear.cli\n"
        "search = c.search_and_write\n"
        "c.search_and_write = lambda request: os.write(1, b'solver\\n') and search(request)\n"
        "bitgear.cli.main()"
    )
    options = ("--front", "0", "--trials", "4", "--calibrate", "8", "--seconds", "0")
    command = [sys.executable, "-c", code, "search", str(master), "--data", str(data), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "nothing dominates the widths here; no plan was added\n"
    assert "solver" in done.stderr
    assert not read_master(master).plans


def test_profile_shows_every_layer_and_writes_json(master: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitgear._native")
    file = tmp_path / "timings.json"
    result = bitgear("profile", str(master), "--seconds", "0", "--json", str(file))
    assert result.returncode == 0, result.stderr
    assert "a.conv2" in result.stdout
    assert set(json.loads(file.read_text())["layers"]) == {"a.conv1", "a.conv2", "b.conv1", "b.conv2"}


def test_search_adds_a_plan_and_prints_json(master: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitgear._native")
    pytest.importorskip("scipy.optimize")
    train = data / "train"
    train.symlink_to(data / "test", target_is_directory=True)
    out = tmp_path / "plans.safetensors"
    options = ("--mean-width", "7.5", "--trials", "4", "--calibrate", "8", "--seconds", "0", "--out", out, "--json")
    result = bitgear("search", master, "--data", data, *options)
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["goals"] == ["mean width 7.5"]
    assert {plan.name for plan in read_master(out).plans} == set(told["plans"])
    assert not read_master(master).plans
    moved = bitgear(
        "refine", out, "--data", data, "--start", "4", "--name", "moved", "--trials", "12", "--calibrate", "8"
    )  # fmt: skip
    assert moved.returncode == 0, moved.stderr
    assert moved.stdout.startswith("moved            mean 4.00 bits  top1 ")
    assert "moved" in {plan.name for plan in read_master(out).plans}
    stuck = bitgear("refine", out, "--data", data, "--start", "8", "--calibrate", "8")
    assert stuck.stdout == "no bits can move from 8 at the same mean width; nothing was written\n"
    wrong = bitgear("search", master, "--data", data, "--method", "luck")
    assert wrong.returncode == 2
    assert "ilp, evolution" in wrong.stderr


@pytest.fixture
def gone() -> Iterator[int]:
    """A pipe that nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize("verb", ["evaluate", "doctor", "profile", "predict"])
def test_results_are_written_though_nobody_reads_the_table(
    verb: str, master: Path, data: Path, tmp_path: Path, gone: int
) -> None:
    picture = next((data / "test" / LABELS[3]).glob("*.png"))
    arguments = {
        "evaluate": (master, "--data", data, "--precision", "8", "--store"),
        "doctor": (),
        "profile": (master, "--seconds", "0"),
        "predict": (picture, "--model", master),
    }
    command = [sys.executable, "-m", "bitgear.cli", verb, *map(str, arguments[verb]), "--json", tmp_path / "found.json"]
    before = read_master(master).digest
    done = subprocess.run(command, stdout=gone, stderr=subprocess.PIPE, check=False, timeout=120)
    assert done.returncode == 1, done.stderr  # as click says that a pipe was closed
    assert isinstance(json.loads((tmp_path / "found.json").read_text()), dict)
    assert (read_master(master).digest != before) == (verb == "evaluate")


@pytest.mark.parametrize("verb", ["evaluate", "doctor", "profile", "predict"])
def test_a_hyphen_prints_the_results_and_nothing_else(
    verb: str, master: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = next((data / "test" / LABELS[3]).glob("*.png"))
    arguments = {
        "evaluate": (master, "--data", data, "--precision", "8,2"),
        "doctor": (),
        "profile": (master, "--seconds", "0"),
        "predict": (picture, "--model", master),
    }
    monkeypatch.chdir(tmp_path)
    done = bitgear(verb, *arguments[verb], "--json", "-")
    assert done.returncode == 0, done.stderr
    assert isinstance(json.loads(done.stdout), dict)
    assert not Path("-").exists()


def test_the_hyphen_alone_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = bitgear("doctor", "--json", "./-")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("bitgear ")  # the table
    assert isinstance(json.loads(Path("-").read_text()), dict)
    Image.new("RGB", (8, 8)).save("-", "PNG")
    assert isinstance(json.loads(bitgear("predict", "./-", "--json", "-").stdout), dict)


@pytest.mark.parametrize(
    "arguments",
    [
        ("doctor", "--json", "-"),
        ("doctor",),
        ("inspect", "resnet20-cifar10", "--json"),
        ("evaluate", "resnet20-cifar10", "--data", "no such folder", "--json", "-"),
        ("search", "resnet20-cifar10", "--data", ".", "--json"),
    ],
)
def test_a_standard_output_that_is_closed_is_told(arguments: tuple[str, ...]) -> None:
    """Before anything is computed that could only be printed."""
    command = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "bitgear.cli", *arguments]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the standard output is closed;")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_device_that_is_full_is_told() -> None:
    command = [sys.executable, "-m", "bitgear.cli", "doctor", "--json", "-"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("error: No space left on device;")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/dev/stderr", "log", "/dev/null", "linked"])
def test_what_is_open_or_no_regular_file_is_not_replaced(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("linked").symlink_to("/dev/stdout")
    with Path("log").open("w") as log:
        log.write("kept\n")
        log.flush()
        command = [sys.executable, "-m", "bitgear.cli", "doctor", "--json", name]
        done = subprocess.run(command, stdout=log, stderr=log, text=True, check=False, timeout=120)
    assert done.returncode == 2
    shown = Path("log").read_text()
    assert shown.startswith("kept\n")
    assert "is no regular file that may be replaced" in " ".join(shown.replace("│", " ").split())


def test_predict_writes_what_the_route_answers(mixed: Path, data: Path, tmp_path: Path) -> None:
    picture = next((data / "test" / LABELS[3]).glob("*.png"))
    for precision, served in (("4", 4), ("w8a7", "w8a7"), ("mixed-3.2", "mixed-3.2")):
        file = tmp_path / "found.json"
        done = bitgear("predict", picture, "--model", mixed, "--precision", precision, "--json", file)
        assert done.returncode == 0, done.stderr
        assert "%" in done.stdout
        model, found = load(mixed), json.loads(file.read_text())
        best = model.classify(picture, precision, top_k=3)
        assert found == {
            "model": model.master.name,
            "version": model.master.digest[:12],
            "image": {"width": 24, "height": 20},
            "predictions": [
                {"class": each.class_name, "class_id": each.class_id, "confidence": each.confidence} for each in best
            ],
            "precision": {"requested": precision, "served": served, "source": "request", "reason": "asked"},
        }
