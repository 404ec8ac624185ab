"""A run's folder is gone on with by what it was begun with, or not at all."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from bitgear.bits import LayerBits, Plan
from bitgear.checkpoint import read_master, write_master
from bitgear.plans import NamedPlan
from tests.trainer.test_trainer_export import master_of
from tests.trainer.tiny_runs import tiny_config, tiny_run
from trainer.config import ConfigError
from trainer.hasb import sensitive_layers
from trainer.loop import Run
from trainer.pipeline import _keep_plans, train_master
from trainer.subject import check_subject
from trainer.supernet import SuperNetwork
from trainer.tasks import create_task


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"network": {"depth": 14}}, "network.depth: 8, and now it is 14"),
        ({"train": {"widths": (8, 6, 4, 2)}}, "train.widths"),
        ({"train": {"seed": 99}}, "train.seed: 1, and now it is 99"),
        ({"train": {"freeze": 0.1}}, "train.freeze"),
        ({"data": {"train_images": 30}}, "data"),
    ],
)
def test_a_changed_run_is_refused_and_nothing_written(
    pictures: Path, finished: Run, sections: dict[str, Any], named: str
) -> None:
    before = (finished.out / "config.json").read_bytes()
    with pytest.raises(ConfigError, match=named):
        tiny_run(pictures, finished.out, tiny_config(**sections)).fit()
    assert (finished.out / "config.json").read_bytes() == before


def test_longer_and_slower_is_the_same_run(pictures: Path, finished: Run) -> None:
    run = tiny_run(pictures, finished.out, tiny_config(train={"lr": 1e-4, "evaluate_every": 2}))
    run.fit()
    assert run.next_epoch == 2


def test_entries_that_configurations_no_longer_have_are_passed_over(pictures: Path, finished: Run) -> None:
    run = tiny_run(pictures, finished.out)
    check_subject(finished.out, json.dumps({**run.subject, "start.depth": 20}), run.subject)


def test_a_sample_is_the_same_whatever_the_schedule(pictures: Path) -> None:
    short, long = (
        create_task(tiny_config(train={"epochs": epochs}), pictures, torch.device("cpu")) for epochs in (0, 3)
    )
    samples = [torch.cat([codes for codes, _ in task.sample(16, 2)]) for task in (short, long)]
    assert torch.equal(*samples)
    trained = [torch.cat([codes for codes, _ in islice(long.batches(epoch), 2)]) for epoch in range(3)]
    assert not any(torch.equal(samples[0], each) for each in trained)


def test_a_broken_state_is_named(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(b"no state")
    with pytest.raises(ConfigError, match=r"state\.pt is no state of a run"):
        tiny_run(pictures, tmp_path).fit()


def test_what_torch_wrote_but_no_run_did_is_no_state(pictures: Path, tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "state.pt")
    with pytest.raises(ConfigError, match=r"state\.pt is no state of a run"):
        tiny_run(pictures, tmp_path).fit()


def test_joint_training_that_goes_back_takes_the_stage_with_it(pictures: Path, tmp_path: Path) -> None:
    stage = tmp_path / "hasb.pt"
    tiny_run(pictures, tmp_path).fit(stage=stage)
    stage.write_bytes(b"begun")
    tiny_run(pictures, tmp_path).fit(stage=stage)
    tiny_run(pictures, tmp_path).fit(from_epoch=2, stage=stage)
    assert stage.is_file()  # as it was: no epoch was trained
    longer = tiny_run(pictures, tmp_path, tiny_config(train={"epochs": 3}))
    with pytest.raises(ConfigError, match=r"hasb\.pt was begun when joint training had ended, .* 2 of 3 epochs"):
        longer.fit(stage=stage)
    again = tiny_run(pictures, tmp_path)
    again.fit(from_epoch=1, stage=stage)
    assert [row["epoch"] for row in again.history.epochs] == [1, 2]
    assert not stage.exists()


def test_joint_training_that_went_on_is_not_undone_by_the_stage_after_it(pictures: Path, tmp_path: Path) -> None:
    def stage_of(epochs: int, **settings: Any) -> SuperNetwork:
        config = tiny_config(train={"epochs": epochs}, hasb={"epochs": 1, "sampling": "uniform", **settings})
        run = tiny_run(pictures, tmp_path, config)
        run.fit()
        layers = sensitive_layers({conv.name: 1.0 for conv in run.model.graph.searchable})
        return SuperNetwork(run, run.config.hasb, layers)

    stage_of(1).fit()
    with pytest.raises(ConfigError, match=r"hasb\.pt was begun with another hasb\.switch"):
        stage_of(1, switch=0.9).fit()
    longer = stage_of(2)
    with pytest.raises(ConfigError, match=r"hasb\.pt was begun with another joint training: .* delete it"):
        longer.fit()
    longer.fit(anew=True)


def test_masters_of_other_classes_are_no_start(pictures: Path, finished: Run, tmp_path: Path) -> None:
    run = tiny_run(pictures, finished.out)
    run.fit()
    run.calibrate()
    master = master_of(run)
    path = tmp_path / "turned.safetensors"
    write_master(replace(master, labels=tuple(reversed(master.labels))), path)
    with pytest.raises(ConfigError, match="other classes"):
        tiny_run(pictures, tmp_path / "run", tiny_config(train={"epochs": 0}, fp32={"epochs": 0}), masters=[path])


def test_plans_found_since_are_put_aside(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    file = tmp_path / "tiny.toml"
    file.write_text(
        '[network]\nname = "tiny"\ndepth = 8\n[data]\nside_px = 8\nshift_px = 1\n[fp32]\nepochs = 1\n'
        "[train]\nwidths = [8, 2]\nepochs = 1\nbatch_size = 16\ncompile = false\n"
        "[calibrate]\nimages = 16\nbatches = 2\n"
    )
    path = train_master(file, pictures, tmp_path / "run", weights=None, teacher=None)
    assert path is not None
    found = NamedPlan("found", Plan(LayerBits(2, 2), (("layer1.0.conv1", LayerBits(3, 4)),)))
    write_master(read_master(path).with_plans([found]), path)
    train_master(file, pictures, tmp_path / "run", weights=None, teacher=None)
    assert not read_master(path).plans
    assert [each.name for each in read_master(tmp_path / "run" / "tiny.before-1.safetensors").plans] == ["found"]
    assert "tiny.before-1.safetensors" in capsys.readouterr().err


def test_what_a_master_has_and_the_next_one_lacks_is_put_aside(pictures: Path, finished: Run, tmp_path: Path) -> None:
    run = tiny_run(pictures, finished.out)
    run.fit()
    run.calibrate()
    path = tmp_path / "tiny.safetensors"
    given = NamedPlan("mine", Plan(LayerBits(4, 4), (("layer1.0.conv1", LayerBits(2, 2)),)))
    refined = replace(given, plan=Plan(LayerBits(4, 4), (("layer1.0.conv1", LayerBits(5, 3)),)))
    new = master_of(run).with_plans([given])
    traces = {conv.name: 1.0 for conv in new.graph.searchable}
    _keep_plans(path, new)
    held = [
        new,
        new.with_plans([refined]),
        replace(new, sensitivities=traces),
        replace(new, provenance={"tuned": {"mine": {}}}),
    ]
    for master in held:
        write_master(master, path)
        _keep_plans(path, new)
    kept = [read_master(tmp_path / f"tiny.before-{number}.safetensors") for number in (1, 2, 3)]
    assert kept[0].plan("mine") == refined.plan
    assert kept[1].sensitivities == traces
    assert "tuned" in kept[2].provenance
    assert not (tmp_path / "tiny.before-4.safetensors").exists()
