"""Training on with a plan: every precision takes its step, interruptions leave no trace, the plan is exported."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bitgear import reference
from bitgear.bits import LayerBits, Plan
from bitgear.checkpoint import Master, read_master, write_master
from bitgear.engines import create_engine
from bitgear.errors import PlanInvalid, PrecisionNotOffered
from bitgear.plans import NamedPlan
from tests.masters import random_codes
from tests.trainer.test_trainer_export import images_of, master_of
from tests.trainer.tiny_runs import Interrupted, interrupt_after, state_of, tiny_config, tiny_run
from trainer.config import Config, ConfigError
from trainer.export import export_own
from trainer.loop import Run
from trainer.model import Pass
from trainer.pipeline import train_master
from trainer.with_plan import WithPlan

NARROW = NamedPlan("narrow", Plan(LayerBits(2, 2), (("layer1.0.conv1", LayerBits(3, 4)),)))
"""Of widths that are trained, and of one that is not."""


def config_of(**settings: Any) -> Config:
    train = {"epochs": 0, "evaluate_every": 2}
    return tiny_config(train=train, fp32={"epochs": 0}, with_plan={"plan": "narrow", "epochs": 2, **settings})


@pytest.fixture
def master(pictures: Path, finished: Run, tmp_path: Path) -> Path:
    run = tiny_run(pictures, finished.out)
    run.fit()
    run.calibrate()
    write_master(master_of(run).with_plans([NARROW]), tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


def stage_of(pictures: Path, master: Path, out: Path, config: Config | None = None, *others: Path) -> WithPlan:
    run = tiny_run(pictures, out, config or config_of(), masters=[master, *others])
    run.fit()
    return WithPlan(run, run.config.with_plan)


def path_of(pictures: Path, out: Path, master: Path) -> Path:
    """The master of a stage that went on from another master."""
    stage = stage_of(pictures, master, out, config_of(lr=1e-2))
    stage.fit()
    stage.run.calibrate()
    path = out / "tiny.safetensors"
    write_master(master_of(stage.run), path)
    export_own(path, stage.run.model, stage.plan, images_of(stage.run), create_engine())
    return path


def test_all_precisions_are_trained_those_between_more_rarely(pictures: Path, master: Path, tmp_path: Path) -> None:
    stage = stage_of(pictures, master, tmp_path / "run", config_of(every={4: 2}))
    before, taken = state_of(stage.run), []

    def record(_: object, arguments: tuple[torch.Tensor, Pass]) -> None:
        how = arguments[1]
        if how.training:
            taken.append("narrow" if how.precision == NARROW.plan else str(how.precision))

    stage.run.model.register_forward_pre_hook(record)
    stage.fit()
    every_other = [*("8", "4", "2", "narrow"), *("8", "2", "narrow"), *("8", "4", "2", "narrow")]
    assert taken == every_other * 2  # three steps an epoch
    after = state_of(stage.run)
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    for part in ("weight", "bn.own.gamma", "bn.w2.gamma", "act_log_scale.own", "act_log_scale.w2"):
        assert any(name.endswith(part) for name in moved), part
    assert not any(".w3" in name or ".fp32" in name for name in moved)  # not trained
    first, last = stage.run.history.plan_epochs
    assert set(first["loss"]) == {"8", "4", "2", "narrow"}
    assert set(last["top1"]) == {"8", "4", "2", "narrow"}


def test_an_interrupted_stage_ends_with_the_same_bits(pictures: Path, master: Path, tmp_path: Path) -> None:
    whole = stage_of(pictures, master, tmp_path / "whole")
    whole.fit()
    stage = stage_of(pictures, master, tmp_path / "parts")
    interrupt_after(1, stage.run.task)
    with pytest.raises(Interrupted):
        stage.fit()
    resumed = stage_of(pictures, master, tmp_path / "parts")
    resumed.fit()
    for name, tensor in state_of(whole.run).items():
        torch.testing.assert_close(state_of(resumed.run)[name], tensor, rtol=0, atol=0)


def test_the_master_holds_the_plan_with_all_that_it_owns(pictures: Path, master: Path, tmp_path: Path) -> None:
    file = tmp_path / "plan.toml"
    file.write_text(
        '[network]\nname = "tiny"\ndepth = 8\n[data]\nside_px = 8\nshift_px = 1\n'
        "[train]\nwidths = [8, 4, 2]\nepochs = 0\nbatch_size = 16\ncompile = false\n"
        '[calibrate]\nimages = 16\nbatches = 2\n[with_plan]\nplan = "narrow"\nepochs = 1\nevery = { 4 = 2 }\n'
    )
    path = train_master(file, pictures, tmp_path / "run", weights=None, teacher=None, masters=[master])
    assert path is not None
    trained: Master = read_master(path)
    (plan,) = trained.plans
    assert (plan.name, plan.plan) == ("narrow", NARROW.plan)
    assert plan.batch_norm is not None
    assert plan.scales is not None
    assert plan.accuracy["images"] == 24
    codes = random_codes(trained, 2)
    np.testing.assert_array_equal(
        create_engine().derive(trained, plan.plan).run(codes), reference.run(trained, codes, plan.plan)
    )
    report = (tmp_path / "run" / "report.md").read_text()
    assert f"Began as the master sha256 {read_master(master).digest[:12]}." in report
    assert "Training on with a plan: 1 epochs" in report


def written_config(folder: Path, plans: str = "") -> Path:
    file = folder / "plan.toml"
    file.write_text(
        '[network]\nname = "tiny"\ndepth = 8\n[data]\nside_px = 8\nshift_px = 1\n'
        "[train]\nwidths = [8, 4, 2]\nepochs = 0\nbatch_size = 16\ncompile = false\n"
        '[calibrate]\nimages = 16\nbatches = 2\n[with_plan]\nplan = "narrow"\nepochs = 1\nlr = 1e-2\n' + plans
    )
    return file


def test_plans_of_the_configuration_take_nothing_from_the_one_that_is_trained(
    pictures: Path, master: Path, tmp_path: Path
) -> None:
    other = '[plans."other"]\ndefault = "8"\nlayers = { "layer1.0.conv2" = "2" }\n'
    alone, both = (
        read_master(
            train_master(
                written_config(tmp_path, plans), pictures, tmp_path / name, weights=None, teacher=None, masters=[master]
            )
        )
        for name, plans in (("alone", ""), ("both", other))
    )
    (narrow,), held = alone.plans, {each.name: each for each in both.plans}
    assert set(held) == {"narrow", "other"}
    assert held["narrow"].scales == narrow.scales
    assert held["narrow"].accuracy == narrow.accuracy
    for name, norm in narrow.batch_norm.items():
        np.testing.assert_array_equal(held["narrow"].batch_norm[name].gain, norm.gain)
        np.testing.assert_array_equal(held["narrow"].batch_norm[name].bias, norm.bias)
    assert held["other"].scales is None
    assert any(
        not np.array_equal(held["other"].batch_norm[name].gain, norm.gain) for name, norm in narrow.batch_norm.items()
    )


@pytest.mark.parametrize("name", ["narrow", "again"])
def test_one_plan_twice_is_told_before_training(pictures: Path, master: Path, tmp_path: Path, name: str) -> None:
    twice = f'[plans."{name}"]\ndefault = "2"\nlayers = {{ "layer1.0.conv1" = "w3a4" }}\n'
    with pytest.raises(PlanInvalid):
        train_master(
            written_config(tmp_path, twice), pictures, tmp_path / "run", weights=None, teacher=None, masters=[master]
        )
    assert not (tmp_path / "run").exists()


def test_a_master_with_the_plan_is_needed(pictures: Path, master: Path, finished: Run, tmp_path: Path) -> None:
    with pytest.raises(PrecisionNotOffered, match="wide"):
        stage_of(pictures, master, tmp_path / "run", config_of(plan="wide"))
    with pytest.raises(ConfigError, match="--master"):
        WithPlan(tiny_run(pictures, finished.out), config_of().with_plan)


def test_of_several_masters_the_plan_owns_the_mean(pictures: Path, master: Path, tmp_path: Path) -> None:
    other = path_of(pictures, tmp_path / "other", master)
    of_both = stage_of(pictures, master, tmp_path / "both", None, other).run.model.own_tensors()
    of_one, of_other = (
        stage_of(pictures, path, tmp_path / name).run.model.own_tensors()
        for name, path in (("one", master), ("two", other))
    )
    moved = {place for place, values in of_one.items() if not torch.equal(values, of_other[place])}
    assert any(place.endswith("scale") for place in moved)
    for place in moved:
        if place.endswith(("scale", "gamma", "beta")):
            torch.testing.assert_close(of_both[place], (of_one[place] + of_other[place]) / 2)


def test_a_stage_is_of_the_widths_of_its_plan(pictures: Path, master: Path, tmp_path: Path) -> None:
    stage_of(pictures, master, tmp_path / "run").fit()
    held, other = read_master(master), tmp_path / "other.safetensors"
    wider = replace(NARROW.plan, layers=(("layer1.0.conv1", LayerBits(4, 4)),))
    write_master(replace(held, plans=()).with_plans([NamedPlan("narrow", wider)]), other)
    with pytest.raises(ConfigError, match=r"with_plan\.pt was begun with another plan: "):
        stage_of(pictures, other, tmp_path / "run").fit()


def test_masters_of_different_plans_have_no_mean(pictures: Path, master: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    held = read_master(master)
    write_master(
        replace(held, plans=()).with_plans([NamedPlan("narrow", replace(NARROW.plan, default=LayerBits(4, 4)))]), other
    )
    with pytest.raises(ConfigError, match="different plans by 'narrow'"):
        stage_of(pictures, master, tmp_path / "run", None, other)
    write_master(replace(held, plans=()), other)
    with pytest.raises(PrecisionNotOffered, match="narrow"):
        stage_of(pictures, master, tmp_path / "again", None, other)


@pytest.mark.parametrize("every", [{8: 2}, {6: 2}, {4: 2, 2: 2, 8: 2}])
def test_every_is_of_trained_widths_below_the_highest(every: dict[int, int]) -> None:
    with pytest.raises(ValueError, match="below the highest"):
        config_of(every=every)


def test_there_is_one_stage_after_joint_training() -> None:
    with pytest.raises(ValueError, match="one of them"):
        tiny_config(hasb={"epochs": 1}, with_plan={"plan": "narrow"})
