"""Segmentation and detection from data to a proven master, in seconds, and what is wrong with data is named."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from bitgear.bits import WIDTHS
from bitgear.checkpoint import read_master
from bitgear.errors import DataError
from tests.trainer.dense_data import detect_config, segment_config, write_boxes, write_maps
from tests.trainer.tiny_runs import Interrupted, interrupt_after, state_of, tiny_config, tiny_run
from trainer import pipeline
from trainer.config import ConfigError, RunConfig
from trainer.loop import Run
from trainer.model import Pass
from trainer.pipeline import _provenance, finish
from trainer.report import CELL_WIDTH_PX, Sheet, _contact_sheet
from trainer.tasks.segment import class_weights, pixel_loss

CASES = {
    "segment": (write_maps, segment_config, ("miou", "pixel_accuracy")),
    "detect": (write_boxes, detect_config, ("map50_95", "map50")),
}
Case = tuple[str, Path, Callable[..., RunConfig], tuple[str, ...]]


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    write, config, metrics = CASES[request.param]
    return request.param, write(tmp_path_factory.mktemp("data") / "set"), config, metrics


@pytest.fixture(scope="module")
def done(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run trained to its last epoch; read it, do not change it."""
    _, data, config, _ = case
    run = Run(config(), data, tmp_path_factory.mktemp("done"), progress=False)
    run.fit()
    return run


def test_a_run_records_both_stages(case: Case, done: Run) -> None:
    metric = case[3][0]
    history = json.loads((done.out / "history.json").read_text())
    assert [row["epoch"] for row in history["fp32_epochs"]] == [1, 2]
    assert [row["epoch"] for row in history["epochs"]] == [1, 2]
    assert all(set(row[metric]) == {"8", "2"} for row in history["epochs"])
    assert all(math.isfinite(loss) for row in history["epochs"] for loss in row["loss"].values())
    assert 0 <= history["fp32"][metric] <= 1
    assert (done.out / "fp32.pt").is_file()


def test_an_interrupted_run_ends_with_the_same_bits(case: Case, done: Run, tmp_path: Path) -> None:
    _, data, config, _ = case
    for _ in range(3):
        run = Run(config(), data, tmp_path, progress=False)
        interrupt_after(1, run.task)
        with pytest.raises(Interrupted):
            run.fit()
    resumed = Run(config(), data, tmp_path, progress=False)
    resumed.fit()
    assert [row["epoch"] for row in resumed.history.fp32_epochs] == [1, 2]
    expected, found = state_of(done), state_of(resumed)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_the_pipeline_ends_in_a_proven_master_and_a_report(case: Case, done: Run) -> None:
    task, data, config, metrics = case
    run = Run(config(), data, done.out, progress=False)
    run.fit()
    path = finish(run, data, {})
    master = read_master(path)
    assert master.task == task
    assert set(master.accuracy) == set(WIDTHS)
    for row in master.accuracy.values():
        assert row["images"] == 4
        assert all(0 <= row[name] <= 1 for name in metrics)
    assert {f"fp32_{name}" for name in metrics} <= master.provenance.keys()
    report = json.loads((done.out / "report.json").read_text())
    assert report["fp32_test"].keys() >= set(metrics)
    with Image.open(done.out / "contact_sheet.jpg") as sheet:
        assert sheet.width > 5 * 300  # truth, FP32, 8, 4 and 2 bits
    text = (done.out / "report.md").read_text()
    assert "contact_sheet.jpg" in text
    assert "FP32 start" in text


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_without_an_object_is_refused(tmp_path: Path, split: str) -> None:
    data = write_boxes(tmp_path / "set")
    file = data / "annotations" / f"{split}.json"
    listed = json.loads(file.read_text())
    file.write_text(json.dumps({**listed, "annotations": [{**each, "iscrowd": 1} for each in listed["annotations"]]}))
    with pytest.raises(DataError, match=f"none of the . pictures of split {split} has an object that counts"):
        Run(detect_config(), data, tmp_path / "run", progress=False)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_split_without_a_labelled_pixel_is_refused(tmp_path: Path, split: str) -> None:
    data = write_maps(tmp_path / "set")
    for file in (data / f"{split}annot").iterdir():
        Image.fromarray(np.full((40, 56), 2 if int(file.stem) % 2 else 255, np.uint8)).save(file)
    with pytest.raises(DataError, match=f"none of the 4 label maps of split {split} labels a pixel"):
        Run(segment_config(), data, tmp_path / "run", progress=False)


def test_small_pictures_fill_their_cells_of_the_contact_sheet(tmp_path: Path) -> None:
    _contact_sheet(Sheet(("truth", "8 bit"), [[np.zeros((20, 32, 3), np.uint8)] * 2]), tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.getpixel((CELL_WIDTH_PX - 1, sheet.height - 6)) == (0, 0, 0)


def test_annotated_boxes_are_drawn_without_a_confidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(detect_config(), write_boxes(tmp_path / "set"), tmp_path / "run", progress=False)
    texts: list[str] = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda _, __, text, **___: texts.append(text))
    run.task.examine().sheet({})
    assert set(texts) == {"red", "blue"}


def test_training_sees_augmented_batches_and_tests_do_not(case: Case, done: Run) -> None:
    batches = done.calibration_batches()
    assert len(batches) == 1
    assert batches[0].dtype == torch.int8
    assert all(torch.equal(a, b) for a, b in zip(batches, done.calibration_batches(), strict=True))
    examined = done.task.examine()
    assert np.array_equal(examined.codes(2), examined.codes(2))
    assert examined.codes(2).shape == (2, 3, done.record.height_px, done.record.width_px)


def test_joint_training_can_begin_with_the_float_network_of_another_run(case: Case, done: Run, tmp_path: Path) -> None:
    _, data, config, _ = case
    run = Run(config(fp32={"epochs": 0}), data, tmp_path, weights=done.out / "fp32.pt", progress=False)
    run.fit()
    assert run.history.fp32 == done.history.fp32
    first, second = state_of(run), state_of(done)
    assert all(torch.equal(first[name], second[name]) for name in second)
    path = finish(run, data, {"weights": _provenance(done.out / "fp32.pt")})
    assert len(read_master(path).provenance["weights"]["sha256"]) == 64


def test_what_is_not_the_float_network_of_a_run_is_refused_by_name(case: Case, done: Run, tmp_path: Path) -> None:
    _, data, config, _ = case
    path = tmp_path / "w.pt"
    with pytest.raises(ConfigError, match=r"w\.pt cannot be read: No such file"):
        Run(config(), data, tmp_path, weights=path)
    for content in (
        b"",
        b"no network",
        b"hello world\n",
        b"\x80\x02.",
        "Gewicht".encode("utf-16"),
        (done.out / "config.json").read_bytes(),
    ):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"w\.pt are no state of a network"):
            Run(config(), data, tmp_path, weights=path)
    for state in ([1, 2], {"fc": torch.zeros(2)}):
        torch.save(state, path)
        with pytest.raises(ConfigError, match=r"w\.pt are not of the network"):
            Run(config(), data, tmp_path, weights=path)
    with pytest.raises(ConfigError, match=r"state\.pt are the whole state of a run; give the fp32\.pt beside it"):
        Run(config(), data, tmp_path, weights=done.out / "state.pt")
    with pytest.raises(ConfigError, match="not of the network that the configuration describes: size mismatch"):
        Run(config(network={"stem": 4}), data, tmp_path, weights=done.out / "fp32.pt")


def test_an_encoder_that_has_learnt_to_classify_is_a_start(
    case: Case, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    _, data, config, _ = case
    network = {**config().network.model_dump(include={"stem", "channels", "blocks"}), "kind": "pyramid-encoder"}
    learnt = tiny_run(pictures, tmp_path / "a", tiny_config(network=network, train={"epochs": 0}))
    learnt.fit()
    weights = learnt.out / "fp32.pt"
    encoder = {
        name: values for name, values in torch.load(weights, weights_only=True).items()
        if not name.startswith("layers.linear.") and not name.endswith("weight_log_scale")
    }  # fmt: skip
    begun, untrained = (Run(config(), data, tmp_path, weights=given, progress=False) for given in (weights, None))
    expected = state_of(untrained) | encoder
    for name, tensor in state_of(begun).items():
        assert torch.equal(tensor, expected.pop(name)), name
    assert not expected
    with pytest.raises(ConfigError, match=r"fp32\.pt is of the encoder alone: set fp32\.epochs"):
        Run(config(fp32={"epochs": 0}), data, tmp_path, weights=weights)
    monkeypatch.setattr(pipeline, "read_config", lambda _: config())
    with pytest.raises(ConfigError, match=r"fp32\.pt is of the encoder alone, the rest is untrained"):
        pipeline.measure_sensitivities(Path("c.toml"), data, tmp_path / "traces", weights=weights, master=None)
    with pytest.raises(ConfigError, match="not of the network that the configuration describes: size mismatch"):
        Run(config(network={"stem": 4}), data, tmp_path, weights=weights)
    with pytest.raises(ConfigError, match=r"describes: Missing key\(s\)"):
        Run(config(network={"blocks": (1, 2)}), data, tmp_path, weights=weights)
    torch.save({**torch.load(weights, weights_only=True), "layers.layer3_0_conv1.weight": torch.ones(1)}, weights)
    with pytest.raises(ConfigError, match=r"describes: Unexpected key\(s\)"):
        Run(config(), data, tmp_path, weights=weights)


def test_neither_a_teacher_nor_no_training_is_a_start(case: Case, tmp_path: Path) -> None:
    _, data, config, _ = case
    with pytest.raises(ConfigError, match="no teacher"):
        Run(config(), data, tmp_path, teacher=tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match=r"fp32\.epochs"):
        Run(config(fp32={"epochs": 0}), data, tmp_path)


def test_states_are_kept_as_often_as_asked(case: Case, tmp_path: Path) -> None:
    _, data, config, _ = case
    run = Run(config(fp32={"epochs": 1}, train={"epochs": 3, "keep_every": 2, "evaluate_every": 2}), data, tmp_path)
    run.progress = False
    run.fit()
    assert [path.name for path in (tmp_path / "epochs").iterdir()] == ["0002.pt"]
    assert [run.task.metric in row for row in run.history.epochs] == [False, True, True]


def test_detection_starts_with_few_scores_and_sensible_boxes(tmp_path: Path) -> None:
    run = Run(detect_config(), write_boxes(tmp_path / "set"), tmp_path / "out", progress=False)
    with torch.no_grad():
        output = run.model(run.calibration_batches()[0], Pass(None, training=True))
    assert output[:, :2].sigmoid().mean().item() == pytest.approx(0.01, rel=0.1)
    assert torch.nn.functional.softplus(output[:, 2:]).mean().item() == pytest.approx(3, rel=0.1)


@pytest.mark.parametrize("split", ["val", "test"])
def test_classes_must_be_the_same_in_every_split(split: str, tmp_path: Path) -> None:
    folder = write_boxes(tmp_path / "set")
    listed = json.loads((folder / "annotations" / f"{split}.json").read_text())
    listed["categories"][0]["name"] = "apple"
    (folder / "annotations" / f"{split}.json").write_text(json.dumps(listed))
    told = f"other classes in {split} than in train: after 0 that are alike apple, blue, not red, blue"
    with pytest.raises(DataError, match=told):
        Run(detect_config(), folder, tmp_path / "out")


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_broken_picture_is_told_before_training(split: str, tmp_path: Path) -> None:
    folder = write_boxes(tmp_path / "set")
    file = folder / split / "03.png"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=rf"{split}/03\.png cannot be read as an image"):
        Run(detect_config(), folder, tmp_path / "out")
    Image.new("RGB", (8, 8)).save(file)
    with pytest.raises(DataError, match=rf"03\.png has 8 x 8 .*; annotations/{split}\.json, line 1 says 56 x 40"):
        Run(detect_config(), folder, tmp_path / "out")


def test_a_missing_test_split_is_told_before_training(tmp_path: Path) -> None:
    boxes, maps = write_boxes(tmp_path / "boxes"), write_maps(tmp_path / "maps")
    (boxes / "annotations" / "test.json").unlink()
    with pytest.raises(DataError, match=r"annotations/test\.json"):
        Run(detect_config(), boxes, tmp_path / "out")
    next((maps / "testannot").iterdir()).unlink()
    with pytest.raises(DataError, match="label map testannot/"):
        Run(segment_config(), maps, tmp_path / "out")


def test_a_broken_annotation_stops_training_with_file_and_entry(tmp_path: Path) -> None:
    folder = write_boxes(tmp_path / "set")
    listed = json.loads((folder / "annotations" / "train.json").read_text())
    listed["annotations"][1]["bbox"] = [5, 5, -3, 4]
    (folder / "annotations" / "train.json").write_text(json.dumps(listed))
    with pytest.raises(DataError, match=r"train\.json, line 1: annotation 1 \(id 1\)"):
        Run(detect_config(), folder, tmp_path / "out")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_an_unknown_class_in_a_map_is_told_before_training_with_its_file(split: str, tmp_path: Path) -> None:
    folder = write_maps(tmp_path / "set")
    Image.fromarray(np.full((40, 56), 9, np.uint8)).save(folder / f"{split}annot" / "03.png")
    with pytest.raises(DataError, match=rf"{split}annot/03\.png has the class id 9"):
        Run(segment_config(), folder, tmp_path / "out")


def test_maps_of_nothing_known_are_refused() -> None:
    with pytest.raises(DataError, match="void alone"):
        class_weights(np.full((2, 4, 4), 255, np.uint8), 3, 1.0)


def test_class_weights_are_median_frequencies() -> None:
    maps = np.array([[[0, 0, 0, 1]], [[0, 0, 255, 255]]], np.uint8)
    # class 0: 5 of the 6 known pixels of two pictures; class 1: 1 of the 4 of one picture; class 2 is never seen
    frequency = np.array([5 / 6, 1 / 4])
    expected = np.median(frequency) / frequency
    assert class_weights(maps, 3, 1.0).tolist() == pytest.approx([*expected, 1.0])
    assert class_weights(maps, 3, 0.5).tolist() == pytest.approx([*np.sqrt(expected), 1.0])
    assert class_weights(maps, 3, 0.0).tolist() == [1, 1, 1]


def test_the_pixel_loss_is_the_weighted_cross_entropy_of_known_pixels() -> None:
    logits = torch.tensor([[[[2.0]], [[0.0]]]], requires_grad=True)  # one pixel for a map of 2 x 2
    maps = torch.tensor([[[0, 1], [255, 1]]])
    weights = torch.tensor([1.0, 3.0])
    likely, unlikely = -math.log(1 / (1 + math.exp(-2))), -math.log(1 / (1 + math.exp(2)))
    expected = (1 * likely + 3 * unlikely + 3 * unlikely) / 7
    assert pixel_loss(logits, maps, weights).item() == pytest.approx(expected, rel=1e-5)
    nothing = pixel_loss(logits, torch.full((1, 2, 2), 255), weights)
    nothing.backward()
    assert nothing.item() == 0
    assert not logits.grad.any()
