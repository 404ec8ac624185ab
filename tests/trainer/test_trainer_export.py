"""From the trained network to the master: equal integers everywhere, and any difference is found."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from bitgear import reference
from bitgear.bits import WIDTHS
from bitgear.checkpoint import Master, read_master
from bitgear.cli import app
from bitgear.engines import create_engine
from bitgear.rounding import derive
from tests.trainer.tiny_runs import CLASSES, tiny_config, tiny_run
from trainer import export as export_module
from trainer import pipeline
from trainer.config import ConfigError
from trainer.export import ExportMismatch, build_master, compare, export
from trainer.loop import Run
from trainer.model import Pass
from trainer.pipeline import find_config, shipped_config, train_master
from trainer.quantizers import QuantizeWeight
from trainer.tasks.classify import ExaminedImages

ENGINE = create_engine()


@pytest.fixture
def run(pictures: Path, finished: Run) -> Run:
    """A finished and calibrated run of one's own."""
    run = tiny_run(pictures, finished.out)
    run.fit()
    run.calibrate()
    run.model.eval()
    return run


def master_of(run: Run) -> Master:
    return build_master(
        run.model,
        run.record,
        "tiny",
        run.task.data.classes,
        accuracy={},
        task="classify",
        provenance={"by": "a test"},
        sensitivities={},
    )


def images_of(run: Run, count: int = 3) -> np.ndarray:
    return run.task.data.test.codes[:count].contiguous().numpy()


def test_the_master_computes_what_the_network_computes(run: Run, tmp_path: Path) -> None:
    master = export(master_of(run), run.model, tmp_path / "tiny.safetensors", images_of(run), ENGINE)
    assert master.widths == WIDTHS
    assert master.labels == CLASSES
    assert read_master(tmp_path / "tiny.safetensors").provenance == {"by": "a test"}
    layers = len(list(run.model.quantised()))
    for bits in WIDTHS:
        assert compare(master, run.model, images_of(run), bits, ENGINE) > 1000 * layers


def test_a_network_trained_without_8_bits_serves_every_width_too(pictures: Path, tmp_path: Path) -> None:
    run = tiny_run(pictures, tmp_path, tiny_config(train={"epochs": 1, "widths": (4, 3)}))
    run.fit()
    run.calibrate()
    run.model.eval()
    export(master_of(run), run.model, tmp_path / "tiny.safetensors", images_of(run), ENGINE)


def test_weight_codes_in_training_are_derived_from_the_stored_ones(run: Run) -> None:
    master = master_of(run)
    for node, layer in run.model.quantised():
        if layer.weight is None:
            continue
        for bits in WIDTHS:
            trained = QuantizeWeight.apply(layer.weight, layer.weight_log_scale, bits)
            stored = derive(master.tensors[f"{node.name}.weight"], bits)
            np.testing.assert_array_equal(trained.detach().numpy(), stored)


def test_the_fast_evaluation_agrees_with_the_exact_one_to_rounding(run: Run) -> None:
    codes = run.task.data.test.codes
    with torch.no_grad():
        for bits in (8, 2):
            fast = run.model(codes, Pass(bits, training=False))
            exact = run.model(codes, Pass(bits, training=False, exact=True))
            assert (fast - exact).abs().mean() < 0.05 * exact.std()


def nudged(run: Run, change: Callable[[Any], None]) -> None:
    """Change the network after its master was built."""
    with torch.no_grad():
        change(run.model)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda m: m.layer("conv1").weight.neg_(), "accumulator of node 'conv1'"),
        (lambda m: m.layer("layer2.0.conv1").weight_log_scale.sub_(0.1), "accumulator of node 'layer2.0.conv1'"),
        (lambda m: m.layer("layer1.0.conv1").act_log_scale["w8"].add_(0.1), "input of node 'layer1.0.conv1'"),
        (lambda m: m.layer("layer1.0.conv2").residual_log_scale["w8"].add_(0.1), "residual of node 'layer1.0.conv2'"),
        (lambda m: m.layer("layer3.0.conv2").bn["w8"].beta.add_(1.0), "input of node 'pool'"),
        (lambda m: m.layer("linear").bias.add_(0.01), "logits of the trained network"),
    ],
)
def test_a_network_changed_after_the_export_is_found_where_it_differs(
    run: Run, tmp_path: Path, change: Callable[[Any], None], place: str
) -> None:
    master = master_of(run)
    master = dataclasses.replace(master, tensors={name: t.copy() for name, t in master.tensors.items()})
    nudged(run, change)
    with pytest.raises(ExportMismatch, match=re.escape(place)) as caught:
        export(master, run.model, tmp_path / "tiny.safetensors", images_of(run), ENGINE)
    assert "precision 8" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_width_that_differs_alone_is_named(run: Run, tmp_path: Path) -> None:
    master = master_of(run)
    nudged(run, lambda m: m.layer("layer1.0.conv1").act_log_scale["w3"].add_(0.3))
    with pytest.raises(ExportMismatch, match=r"at precision 3 in the input of node 'layer1.0.conv1'"):
        export(master, run.model, tmp_path / "tiny.safetensors", images_of(run), ENGINE)


@pytest.mark.parametrize("name", ["conv1.weight", "layer3.0.conv1.weight", "linear.weight", "layer1.0.conv1.gain"])
def test_a_file_that_changed_on_its_way_is_found(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def read_tampered(path: Path) -> Master:
        master = read_master(path)
        tensors = {key: tensor.copy() for key, tensor in master.tensors.items()}
        tensors[name] = np.roll(tensors[name], 1, axis=-1)
        return dataclasses.replace(master, tensors=tensors)

    monkeypatch.setattr(export_module, "read_master", read_tampered)
    with pytest.raises(ExportMismatch):
        export(master_of(run), run.model, tmp_path / "tiny.safetensors", images_of(run), ENGINE)
    assert not list(tmp_path.iterdir())


def test_an_export_that_fails_leaves_the_master_of_before(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tiny.safetensors"
    export(master_of(run), run.model, path, images_of(run), ENGINE)
    content = path.read_bytes()

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export_module, "compare", stop)
    with pytest.raises(KeyboardInterrupt):
        export(dataclasses.replace(master_of(run), name="other"), run.model, path, images_of(run), ENGINE)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_measurement_leaves_the_master_of_before(
    pictures: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run.out, tmp_path / "run")
    path = tmp_path / "run" / "tiny.safetensors"
    path.write_bytes(b"the master of before")
    before = sorted(each.name for each in path.parent.iterdir())

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ExaminedImages, "measure", stop)
    again = tiny_run(pictures, tmp_path / "run")
    again.fit()
    with pytest.raises(KeyboardInterrupt):
        pipeline.finish(again, pictures, {})
    assert path.read_bytes() == b"the master of before"
    assert sorted(each.name for each in path.parent.iterdir()) == before


def test_an_engine_that_computes_something_else_is_found(run: Run, tmp_path: Path) -> None:
    class Wrong:
        name = "wrong"
        bits = 8
        nbytes = 0

        def derive(self, master: Master, bits: int) -> "Wrong":
            self.master, self.bits = master, bits
            return self

        def run(self, q_image: np.ndarray) -> np.ndarray:
            logits = reference.run(self.master, q_image, self.bits)
            logits[-1, -1] = np.nextafter(logits[-1, -1], np.float32(np.inf))
            return logits

    with pytest.raises(ExportMismatch, match="engine wrong differ from the reference at precision 8"):
        export(master_of(run), run.model, tmp_path / "tiny.safetensors", images_of(run), Wrong())


@pytest.mark.parametrize("per_channel", [True, False])
def test_the_whole_pipeline_writes_a_proven_master_and_a_report(
    pictures: Path, tmp_path: Path, per_channel: bool
) -> None:
    (tmp_path / "run.toml").write_text(
        f"""
        [network]
        name = "tiny"
        depth = 8
        per_channel = {str(per_channel).lower()}
        [data]
        side_px = 8
        [fp32]
        epochs = 1
        [train]
        widths = [8, 2]
        epochs = 1
        batch_size = 24
        compile = false
        [calibrate]
        images = 16
        batches = 1
        """
    )
    path = train_master(tmp_path / "run.toml", pictures, tmp_path / "out", weights=None, teacher=None)
    assert path == tmp_path / "out" / "tiny.safetensors"
    master = read_master(path)
    assert set(master.accuracy) == set(WIDTHS)
    assert all(row["images"] == 24 and 0 <= row["top1"] <= 1 for row in master.accuracy.values())
    assert master.provenance["recipe"]["train"]["widths"] == [8, 2]
    assert master.tensors["conv1.weight_scale"].shape == ((16,) if per_channel else (1,))
    assert json.loads((tmp_path / "out" / "history.json").read_text())["epochs"]
    assert not list((tmp_path / "out").glob("*.partial"))


def test_the_command_ends_with_the_master_and_what_it_reaches(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tiny.safetensors"
    accuracy = {bits: {"top1": bits / 10, "images": 24} for bits in WIDTHS}
    export(dataclasses.replace(master_of(run), accuracy=accuracy), run.model, path, images_of(run), ENGINE)
    made: list[Path | None] = [path, None]
    monkeypatch.setattr(pipeline, "train_master", lambda *_, **__: made.pop(0))
    command = ["train", "smoke", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    first = CliRunner().invoke(app, command, catch_exceptions=False)
    lines = first.stdout.splitlines()
    assert lines[0] == f"{path}  {path.stat().st_size:,} bytes"
    assert lines[1].split()[:2] == ["bits", "top-1"]
    assert [line.split()[:4] for line in lines[2:]] == [[str(bits), f"{bits}0.00", "%", "24"] for bits in WIDTHS]
    other = CliRunner().invoke(app, command, catch_exceptions=False)  # another process of torchrun
    assert (other.exit_code, other.stdout) == (0, "")


def test_shipped_configurations_are_found_by_name() -> None:
    assert shipped_config("cifar10_resnet20") == shipped_config("cifar10_resnet20.toml")
    with pytest.raises(Exception, match=r"shipped are .*cifar10_resnet20"):
        shipped_config("imagenet")


def test_a_mistyped_path_is_no_shipped_configuration(tmp_path: Path) -> None:
    file = tmp_path / "smoke.toml"
    assert find_config(Path("smoke.toml")) == find_config(Path("smoke")) == shipped_config("smoke")
    with pytest.raises(ConfigError, match=r"smoke\.toml does not exist; give a file"):
        find_config(file)
    file.touch()
    assert find_config(file) == file


def test_the_tiny_configuration_is_what_the_tests_say() -> None:
    assert tiny_config().train.compile is False
