"""Tuning of plans: theirs alone changes, epochs are chosen by images held out, and interruptions leave no trace."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from bitgear import reference
from bitgear.bits import WIDTHS, LayerBits, Plan
from bitgear.checkpoint import Master, read_master, rewrite_master, write_master
from bitgear.cli import app
from bitgear.errors import BitgearError, MasterChanged, PrecisionNotOffered
from bitgear.plans import NamedPlan
from tests.trainer.test_trainer_export import ENGINE, images_of, master_of
from tests.trainer.tiny_runs import Interrupted, interrupt_after, tiny_config, tiny_run
from trainer import export, pipeline
from trainer.config import Config, ConfigError
from trainer.export import compare
from trainer.loop import NonFiniteLoss, Run, create_network
from trainer.model import OWN, Pass, QuantNet
from trainer.pipeline import tune_plans
from trainer.quantizers import Kernels
from trainer.restore import load_master, load_plan
from trainer.tasks import create_task
from trainer.tasks.base import Task
from trainer.tasks.classify import ExaminedImages
from trainer.tune import Tuning

NARROW = NamedPlan("narrow", Plan(LayerBits(2, 2), (("layer1.0.conv1", LayerBits(3, 4)),)))
WIDE = NamedPlan("wide", Plan(LayerBits(4, 4), (("layer2.0.conv1", LayerBits(2, 3)),)))


def config_of(**sections: Any) -> Config:
    return tiny_config(**{"data": {"held_out": 12}, "tune": {"epochs": 2, "lr": 0.02}} | sections)


@pytest.fixture
def master(pictures: Path, finished: Run) -> Master:
    run = tiny_run(pictures, finished.out)
    run.fit()
    run.calibrate()
    return master_of(run).with_plans([NARROW, WIDE])


@pytest.fixture
def written(master: Master, tmp_path: Path) -> Path:
    write_master(master, tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(
        '[network]\nname = "tiny"\ndepth = 8\n[data]\nside_px = 8\nshift_px = 1\nheld_out = 12\n'
        "[train]\nbatch_size = 16\ncompile = false\n[calibrate]\nimages = 16\nbatches = 2\n"
        "[tune]\nepochs = 2\nlr = 0.02\n"
    )
    return path


def network_of(master: Master, task: Task, config: Config) -> QuantNet:
    model = create_network(task.graph, task, config, Kernels(torch.float32))
    load_master(model, master, master.widths)
    return model


def tuning_of(pictures: Path, master: Master, path: Path, config: Config | None = None) -> Tuning:
    config = config or config_of()
    task = create_task(config, pictures, torch.device("cpu"))
    return Tuning(network_of(master, task, config), task, config, master, NARROW, path, progress=False)


def test_only_what_the_plan_owns_changes(pictures: Path, written: Path, config_file: Path, tmp_path: Path) -> None:
    before = read_master(written)
    (tuned,) = tune_plans(config_file, pictures, tmp_path / "run", master=written, names=["narrow"], progress=False)
    after = read_master(written)
    assert after.tensors.keys() == before.tensors.keys()
    for name, tensor in before.tensors.items():
        assert tensor.tobytes() == after.tensors[name].tobytes(), name
    assert after.accuracy == before.accuracy
    assert {each.name: each.plan for each in after.plans} == {each.name: each.plan for each in before.plans}
    q_images = np.random.default_rng(0).integers(-128, 128, (3, 3, 8, 8)).astype(np.int8)
    for precision in (*WIDTHS, WIDE.plan):
        expected, found = (reference.run(each, q_images, precision) for each in (before, after))
        assert np.array_equal(expected, found), precision
    for precision in (NARROW.plan, WIDE.plan):
        assert np.array_equal(ENGINE.derive(after, precision).run(q_images), reference.run(after, q_images, precision))
    narrow = next(each for each in after.plans if each.name == "narrow")
    assert narrow.batch_norm is not None
    assert narrow.scales is not None
    widths = {name: before.tensors[name][before.row(narrow.plan.default.act_bits)] for name in narrow.scales}
    assert any(scale != widths[name] for name, scale in narrow.scales.items())
    assert narrow.accuracy == tuned.after
    assert after.provenance["tuned"]["narrow"]["images"] == 36
    report = json.loads((tmp_path / "run" / "tuned.json").read_text())
    assert report["narrow"]["after"] == tuned.after
    assert [row["epoch"] for row in report["narrow"]["epochs"]] == [0, 1, 2]


def test_the_network_trained_is_the_plan_of_the_master(pictures: Path, master: Master, tmp_path: Path) -> None:
    tuning = tuning_of(pictures, master, tmp_path / "state.pt")
    codes = tuning.task.data.test.codes[:8]  # type: ignore[attr-defined]
    with torch.no_grad():
        found = tuning.model(codes, replace(tuning.how, exact=True)).numpy()
    expected = reference.run(master, codes.contiguous().numpy(), NARROW.plan)
    assert np.abs(found - expected).mean() < 0.02 * expected.std()


def test_tuning_lowers_the_loss_and_trains_nothing_else(pictures: Path, master: Master, tmp_path: Path) -> None:
    tuning = tuning_of(pictures, master, tmp_path / "state.pt", config_of(tune={"epochs": 10, "lr": 0.02}))
    before = {name: tensor.clone() for name, tensor in tuning.model.state_dict().items() if f".{OWN}" not in name}
    tuning.fit()
    losses = [row["loss"] for row in tuning.rows[1:]]
    assert losses[-1] < losses[0]
    for name, tensor in before.items():
        assert torch.equal(tensor, tuning.model.state_dict()[name]), name


def test_the_epoch_nearest_to_8_bits_is_kept(pictures: Path, master: Master, tmp_path: Path, monkeypatch: Any) -> None:
    tuning = tuning_of(pictures, master, tmp_path / "state.pt", config_of(tune={"epochs": 3}))
    distances, seen = iter([0.5, 0.3, 0.1, 0.4]), []

    def evaluate() -> dict[str, float]:
        seen.append({name: tensor.detach().clone() for name, tensor in tuning.own.items()})
        return {"distance": next(distances), "top1": 0.5}

    monkeypatch.setattr(tuning, "evaluate", evaluate)
    tuning.fit()
    for name, tensor in tuning.own.items():
        assert torch.equal(tensor, seen[2][name]), name
    assert not torch.equal(seen[2]["layer1.0.conv1.act_scale"], seen[0]["layer1.0.conv1.act_scale"])


def test_where_no_epoch_is_nearer_the_start_is_kept(
    pictures: Path, master: Master, tmp_path: Path, monkeypatch: Any
) -> None:
    tuning = tuning_of(pictures, master, tmp_path / "state.pt")
    start = tuning.own["conv1.gamma"].detach().clone()
    monkeypatch.setattr(tuning, "evaluate", lambda: {"distance": 0.5, "top1": 0.5})
    tuning.fit()
    assert torch.equal(tuning.own["conv1.gamma"], start)


def test_the_distance_is_that_of_the_outputs(pictures: Path, master: Master, tmp_path: Path) -> None:
    tuning = tuning_of(pictures, master, tmp_path / "state.pt")
    watched = tuning.task.data.watched.codes  # type: ignore[attr-defined]
    with torch.no_grad():
        outputs = [tuning.model(watched, how) for how in (tuning.how, Pass(8, training=False))]
    expected = tuning.task.distillation(*outputs).item()
    assert tuning.evaluate()["distance"] == pytest.approx(expected, rel=1e-4)


def test_an_interrupted_tuning_ends_with_the_same_bits(pictures: Path, master: Master, tmp_path: Path) -> None:
    whole = tuning_of(pictures, master, tmp_path / "whole.pt")
    whole.fit()
    stopped = tuning_of(pictures, master, tmp_path / "state.pt")
    interrupt_after(1, stopped.task)
    with pytest.raises(Interrupted):
        stopped.fit()
    resumed = tuning_of(pictures, master, tmp_path / "state.pt")
    resumed.fit()
    assert [row["epoch"] for row in resumed.rows] == [0, 1, 2]
    for name, tensor in whole.own.items():
        assert torch.equal(tensor, resumed.own[name]), name


def test_the_state_of_another_plan_or_master_is_refused(pictures: Path, master: Master, tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    tuning_of(pictures, master, path).fit()
    changed = {**master.tensors, "conv1.weight": master.tensors["conv1.weight"][::-1].copy()}
    with pytest.raises(ConfigError, match="was begun with another weights: "):
        tuning_of(pictures, replace(master, tensors=changed, digest=""), path).fit()
    other = tuning_of(pictures, master, path)
    other.subject = {**other.subject, "plan": {}}
    with pytest.raises(ConfigError, match="was begun with another plan: "):
        other.fit()


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"train": {"seed": 2}}, "train.seed"),
        ({"data": {"held_out": 14}}, "data"),
        ({"tune": {"epochs": 2, "epoch_images": 16}}, "tune.epoch_images"),
        ({"tune": {"epochs": 2, "lr": 0.01}}, "tune.lr"),
    ],
)
def test_the_state_of_another_recipe_or_data_is_refused(
    pictures: Path, master: Master, tmp_path: Path, sections: dict[str, Any], named: str
) -> None:
    path = tmp_path / "state.pt"
    tuning_of(pictures, master, path).fit()
    with pytest.raises(ConfigError, match=rf"was begun with another {named}: "):
        tuning_of(pictures, master, path, config_of(**sections)).fit()


@pytest.mark.parametrize("content", [b"", b"no state", b"PK\x03\x04"])
def test_a_broken_state_of_tuning_is_named(pictures: Path, master: Master, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tune-narrow.pt").write_bytes(content)
    with pytest.raises(ConfigError, match=r"tune-narrow\.pt is no state of a run"):
        tuning_of(pictures, master, tmp_path / "tune-narrow.pt").fit()


def test_a_loss_that_is_none_stops(pictures: Path, master: Master, tmp_path: Path, monkeypatch: Any) -> None:
    tuning = tuning_of(pictures, master, tmp_path / "state.pt")
    monkeypatch.setattr(tuning.task, "loss", lambda output, targets: output.sum() * float("nan"))
    with pytest.raises(NonFiniteLoss, match=r"lower tune\.lr"):
        tuning.fit()


def test_a_plan_is_loaded_as_it_is_folded(pictures: Path, master: Master) -> None:
    config = config_of()
    task = create_task(config, pictures, torch.device("cpu"))
    model = network_of(master, task, config)
    load_plan(model, master, WIDE.plan)
    run = tiny_run(pictures, pictures)
    assert compare(master, model, images_of(run), WIDE.plan, ENGINE, OWN) > 0


def test_held_out_images_are_watched_and_not_trained_on(pictures: Path) -> None:
    task, whole = (create_task(each, pictures, torch.device("cpu")) for each in (config_of(), tiny_config()))
    assert (task.watches_test, whole.watches_test) == (False, True)
    assert task.training_images == whole.training_images - 12
    shown = sum(len(targets) for epoch in range(2) for _, targets in task.batches(epoch))
    assert shown == 64
    seen: list[int] = []
    task.evaluate(lambda codes: (seen.append(len(codes)), torch.zeros(len(codes), 3))[1])
    assert sum(seen) == 24
    again = create_task(config_of(), pictures, torch.device("cpu"))
    assert torch.equal(task.data.watched.codes, again.data.watched.codes)  # type: ignore[attr-defined]


def test_too_many_held_out_images_are_named(pictures: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.held_out is 48; .* has 48"):
        create_task(tiny_config(data={"held_out": 48}), pictures, torch.device("cpu"))


def nearer(tuning: Tuning) -> dict[str, float]:
    """An evaluation by which every epoch is nearer to 8 bits than those before."""
    return {"distance": 1 / (len(tuning.rows) + 1), "top1": 0.5}


def test_given_again_before_stays_what_it_was_and_so_do_other_plans_in_the_report(
    pictures: Path, written: Path, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, seen = tmp_path / "run", iter([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    monkeypatch.setattr(Tuning, "evaluate", nearer)
    monkeypatch.setattr(ExaminedImages, "measure", lambda *_: {"top1": next(seen), "images": 24})
    first = tune_plans(config_file, pictures, run, master=written, progress=False)
    assert [(each.before["top1"], each.after["top1"]) for each in first] == [(0.1, 0.2), (0.3, 0.4)]
    (wide,) = tune_plans(config_file, pictures, run, master=written, names=["wide"], progress=False)
    assert (wide.before["top1"], wide.after["top1"]) == (0.3, 0.5)
    report = json.loads((run / "tuned.json").read_text())
    assert {name: (row["before"]["top1"], row["after"]["top1"]) for name, row in report.items()} == {
        "narrow": (0.1, 0.2), "wide": (0.3, 0.5),
    }  # fmt: skip
    (run / "tuned.json").write_text("[1]")
    with pytest.raises(ConfigError, match=r"tuned\.json is no report of bitgear tune"):
        tune_plans(config_file, pictures / "nowhere", run, master=written, progress=False)


def test_a_plan_that_is_tuned_with_others_gets_what_it_gets_alone(
    pictures: Path, written: Path, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tuning, "evaluate", nearer)
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes(written.read_bytes())
    for name in ("narrow", "wide"):
        tune_plans(config_file, pictures, tmp_path / name, master=alone, names=[name], progress=False)
    tune_plans(config_file, pictures, tmp_path / "both", master=written, progress=False)
    apart, together = ({each.name: each for each in read_master(path).plans} for path in (alone, written))
    for name, plan in apart.items():
        assert plan.scales == together[name].scales, name
        for layer, own in (plan.batch_norm or {}).items():
            other = (together[name].batch_norm or {})[layer]
            assert np.array_equal(own.gain, other.gain), (name, layer)
            assert np.array_equal(own.bias, other.bias), (name, layer)


def test_where_no_epoch_is_nearer_the_master_stays_as_it_is(
    pictures: Path, written: Path, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tuning, "evaluate", lambda _: {"distance": 0.5, "top1": 0.5})
    content = written.read_bytes()
    for tuned in tune_plans(config_file, pictures, tmp_path / "run", master=written, progress=False):
        assert tuned.after == tuned.before
    assert written.read_bytes() == content
    assert set(json.loads((tmp_path / "run" / "tuned.json").read_text())) == {"narrow", "wide"}


def test_what_others_write_meanwhile_stays(
    pictures: Path, written: Path, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = NamedPlan("found", Plan(LayerBits(8, 8), (("layer1.0.conv1", LayerBits(5, 5)),)))
    compared = export.compare

    def compare_meanwhile(*arguments: Any) -> int:
        rewrite_master(written, lambda master: master.with_plans([found]))
        return compared(*arguments)

    monkeypatch.setattr(Tuning, "evaluate", nearer)
    monkeypatch.setattr(export, "compare", compare_meanwhile)
    (tuned,) = tune_plans(config_file, pictures, tmp_path / "run", master=written, names=["wide"], progress=False)
    after = read_master(written)
    assert {each.name for each in after.plans} == {"narrow", "wide", "found"}
    assert after.metrics("wide") == tuned.after
    found = NamedPlan("narrow", Plan(LayerBits(8, 8), (("layer1.0.conv1", LayerBits(6, 6)),)))
    with pytest.raises(MasterChanged, match="no plan 'narrow' of the widths that were tuned"):
        tune_plans(config_file, pictures, tmp_path / "run", master=written, names=["narrow"], progress=False)
    assert next(each.plan for each in read_master(written).plans if each.name == "narrow") == found.plan


@pytest.mark.parametrize(
    ("plans", "names", "held_out", "error", "said"),
    [
        ([], [], 12, ConfigError, "no plans; bitgear search"),
        ([NARROW], ["wide"], 12, PrecisionNotOffered, "offers narrow"),
        ([NARROW], [], 0, ConfigError, r"hold some training images out: data\.held_out"),
    ],
)
def test_what_cannot_be_tuned_is_told(
    pictures: Path, master: Master, config_file: Path, tmp_path: Path, plans: list[NamedPlan], names: list[str],
    held_out: int, error: type[BitgearError], said: str,
) -> None:  # fmt: skip
    config_file.write_text(config_file.read_text().replace("held_out = 12", f"held_out = {held_out}"))
    path = tmp_path / "given.safetensors"
    write_master(replace(master, plans=tuple(plans), digest=""), path)
    content = path.read_bytes()
    with pytest.raises(error, match=said):
        tune_plans(config_file, pictures, tmp_path / "run", master=path, names=names, progress=False)
    assert path.read_bytes() == content


def test_the_command_tunes_all_plans(pictures: Path, written: Path, config_file: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(pictures), "--out", str(tmp_path / "run"), "--master", str(written)]
    for _ in range(2):  # what is finished stays
        done = CliRunner().invoke(app, ["tune", str(config_file), *arguments], catch_exceptions=False)
        assert done.exit_code == 0
        assert [line.split()[0] for line in done.stdout.splitlines()] == ["narrow", "wide"]
    assert all(each.batch_norm is not None for each in read_master(written).plans)


def test_the_shipped_configuration_can_be_read() -> None:
    config = pipeline.read_config(pipeline.shipped_config("cifar10_resnet20_tune"))
    assert isinstance(config, Config)
    assert config.data.held_out
