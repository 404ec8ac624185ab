"""Stochastic bit switching: the draws, the stage that uses them, and plans exported with a batch norm of their own."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bitgear.bits import LayerBits, Plan
from bitgear.checkpoint import read_master
from bitgear.errors import PlanInvalid
from bitgear.plans import NamedPlan
from tests.trainer.test_trainer_export import ENGINE, images_of, master_of
from tests.trainer.tiny_runs import Interrupted, interrupt_after, state_of, tiny_config, tiny_run
from trainer.config import Config, ConfigError
from trainer.export import compare, export, export_plan
from trainer.hasb import draw_plan, roulette, sensitive_layers, switching_probability
from trainer.loop import NonFiniteLoss, Run
from trainer.model import OWN, Norms, Pass, convolutions_before, pair_key
from trainer.networks import Pyramid, resnet_cifar
from trainer.pipeline import fit_supernet, train_master
from trainer.supernet import SuperNetwork

DRAWS = 100_000


@pytest.mark.parametrize(
    ("widths", "sensitive", "expected"),
    [
        ((8, 6, 4, 2), True, (0.4, 0.3, 0.2, 0.1)),
        ((8, 6, 4, 2), False, (0.25,) * 4),
        ((4, 3, 2), True, (4 / 9, 3 / 9, 2 / 9)),
        ((4, 3, 2), False, (1 / 3,) * 3),
        ((8,), True, (1.0,)),
    ],
)
def test_the_roulette_draws_in_the_published_proportions(
    widths: tuple[int, ...], sensitive: bool, expected: tuple[float, ...]
) -> None:
    rng = np.random.default_rng(0)
    counts = Counter(roulette(widths, sensitive, rng) for _ in range(DRAWS))
    for bits, share in zip(widths, expected, strict=True):
        assert counts[bits] / DRAWS == pytest.approx(share, abs=0.01)


def test_layers_of_at_least_the_mean_trace_are_sensitive() -> None:
    assert sensitive_layers({"a": 3.0, "b": 1.0, "c": 2.0}) == {"a": True, "b": False, "c": True}
    assert sensitive_layers({"a": -9.0, "b": 1.0, "c": 0.4}) == {"a": False, "b": True, "c": False}


def test_the_probability_of_switching_grows_to_its_end() -> None:
    assert [switching_probability(0.5, epoch, 4) for epoch in range(4)] == [0.125, 0.25, 0.375, 0.5]


def test_a_plan_is_its_base_but_for_the_layers_that_redraw() -> None:
    rng, widths = np.random.default_rng(0), (8, 6, 4, 2)
    layers = {"a": True, "b": False}
    assert draw_plan(6, layers, widths, 0.0, rng) == Plan.uniform(6)
    plans = [draw_plan(6, layers, widths, 0.5, rng) for _ in range(4000)]
    assert {plan.default for plan in plans} == {LayerBits(6, 6)}
    share = Counter(plan.of("a").weight_bits for plan in plans)[8] / len(plans)
    assert share == pytest.approx(0.5 * 0.4, abs=0.02)
    assert all(plan.of(name).weight_bits == plan.of(name).act_bits for plan in plans for name in layers)


def test_the_layer_before_is_found_through_selections() -> None:
    before = convolutions_before(resnet_cifar(8, 10))
    assert before["layer1.0.conv1"] == "conv1"
    assert before["layer2.0.conv2"] == "layer2.0.conv1"
    assert "conv1" not in before
    graph = Pyramid(8, (8, 16), (1, 1), 8, 4, 0, frozenset()).graph(32, 32, 3)
    assert convolutions_before(graph)["layer2.0.shortcut"] == "layer1.0.conv2"
    assert (pair_key(8, 2), pair_key(4, 4)) == ("w8w2", "w4")


def stage_config(**settings: Any) -> Config:
    hessian = {"images": 16, "batch_size": 8, "rounds": 2}
    return tiny_config(hessian=hessian, hasb={"epochs": 2, "lr": 1e-3, **settings})


def stage_run(pictures: Path, finished: Run, out: Path, **settings: Any) -> Run:
    """The stage after the joint training of ``finished``, in a folder of its own."""
    out.mkdir(exist_ok=True)
    for name in ("state.pt", "fp32.pt"):
        (out / name).write_bytes((finished.out / name).read_bytes())
    run = tiny_run(pictures, out, stage_config(**settings))
    run.fit()
    return run


@pytest.mark.parametrize("settings", [{}, {"sampling": "uniform"}, {"batch_norm": "pair", "uniform_every": 0}])
def test_the_stage_trains_what_joint_training_left(
    pictures: Path, finished: Run, tmp_path: Path, settings: dict[str, Any]
) -> None:
    run = stage_run(pictures, finished, tmp_path / "run", **settings)
    before = state_of(run)
    assert run.config.hasb is not None
    fit_supernet(run, run.config.hasb)
    history = json.loads((run.out / "history.json").read_text())
    assert [row["switch"] for row in history["hasb_epochs"]] == [0.5, 1.0]
    for row in history["hasb_epochs"]:
        assert set(row["loss"]) == ({"drawn"} if settings.get("uniform_every", 2) == 0 else {"uniform", "drawn"})
        assert set(row["top1"]) == {"8", "4", "2"}
    after = state_of(run)
    moved = {name for name, tensor in before.items() if not torch.equal(after[name], tensor)}
    assert {f"layers.{part}" for part in ("conv1.weight", "layer1_0_conv1.weight_log_scale", "linear.bias")} <= moved
    assert not [name for name in moved if ".fp32." in name]
    assert (run.out / "traces.json").is_file() == (settings.get("sampling", "hasb") == "hasb")
    if settings.get("batch_norm") == "pair":
        assert "layers.layer1_0_conv1.bn.w8w2.gamma" in after


def test_an_interrupted_stage_ends_with_the_same_bits(pictures: Path, finished: Run, tmp_path: Path) -> None:
    layers = {conv.name: conv.name.endswith("conv1") for conv in finished.model.graph.searchable}
    whole = stage_run(pictures, finished, tmp_path / "whole")
    assert whole.config.hasb is not None
    SuperNetwork(whole, whole.config.hasb, layers).fit()
    first = stage_run(pictures, finished, tmp_path / "parts")
    stage = SuperNetwork(first, whole.config.hasb, layers)
    interrupt_after(1, first.task)
    with pytest.raises(Interrupted):
        stage.fit()
    resumed = stage_run(pictures, finished, tmp_path / "parts")
    SuperNetwork(resumed, whole.config.hasb, layers).fit()
    assert [row["epoch"] for row in resumed.history.hasb_epochs] == [1, 2]
    for name, tensor in state_of(whole).items():
        assert torch.equal(state_of(resumed)[name], tensor), name


def test_a_loss_that_is_none_names_the_rate_and_the_state_of_the_stage(
    pictures: Path, finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = stage_run(pictures, finished, tmp_path / "run", sampling="uniform")
    assert run.config.hasb is not None
    spoilt = lambda output, targets: output.sum() * float("nan")  # noqa: E731
    with monkeypatch.context() as patched:
        patched.setattr(run.task, "loss", spoilt)
        with pytest.raises(NonFiniteLoss, match=r"step 1, plan \d; lower hasb\.lr$"):
            fit_supernet(run, run.config.hasb)
    fit_supernet(run, run.config.hasb.model_copy(update={"epochs": 1}))
    monkeypatch.setattr(run.task, "loss", spoilt)
    with pytest.raises(NonFiniteLoss, match=r"hasb\.pt; lower hasb\.lr$"):
        fit_supernet(run, run.config.hasb)


PLAN = Plan(
    LayerBits(4, 4),
    (
        ("layer1.0.conv1", LayerBits(8, 8)),
        ("layer2.0.conv1", LayerBits(2, 2)),
        ("layer3.0.conv2", LayerBits(2, 4)),
    ),
)


@pytest.mark.parametrize("norms", ["width", "pair"])
def test_a_plan_is_exported_with_a_batch_norm_of_its_own(
    pictures: Path, finished: Run, tmp_path: Path, norms: Norms
) -> None:
    run = stage_run(pictures, finished, tmp_path / "run", batch_norm=norms)
    assert run.config.hasb is not None
    fit_supernet(run, run.config.hasb)
    run.calibrate()
    path = tmp_path / "tiny.safetensors"
    without = export(master_of(run), run.model, path, images_of(run), ENGINE)
    plan = NamedPlan("mixed-4.2", PLAN)
    master = export_plan(path, run.model, plan, run.calibration_batches(), norms, images_of(run), ENGINE)
    assert [each.name for each in master.plans] == ["mixed-4.2"]
    assert compare(master, run.model, images_of(run), PLAN, ENGINE, OWN) > 10_000
    for bits in master.widths:  # the widths are what they were
        assert compare(master, run.model, images_of(run), bits, ENGINE) > 10_000
    own = master.plans[0].batch_norm
    assert own is not None
    rows = without.tensors["layer3.0.conv2.bias"]
    assert not any(np.array_equal(own["layer3.0.conv2"].bias, row) for row in rows)


def test_a_plan_of_untrained_widths_begins_with_batch_norms_of_its_own_widths(pictures: Path, finished: Run) -> None:
    run = tiny_run(pictures, finished.out)
    run.fit()
    run.model.add_transitions(run.config.train.widths)
    run.calibrate()
    plan = Plan(LayerBits(5, 5), (("layer1.0.conv1", LayerBits(2, 2)),))
    how = Pass(plan, training=False, norms="pair")
    for conv in run.model.graph.convs:
        assert run.model.norm(conv, how) is run.model.layer(conv.name).batch_norm(plan.of(conv.name).weight_bits)
    run.model.calibrate_plan(plan, run.calibration_batches(), "pair")


def test_statistics_of_a_plan_are_those_of_its_own_widths(pictures: Path, finished: Run) -> None:
    run = tiny_run(pictures, finished.out)
    run.fit()
    batches = run.calibration_batches()[:1]
    run.model.calibrate_plan(PLAN, batches)
    with torch.no_grad():
        own = run.model(batches[0], Pass(PLAN, training=False, norms=OWN))
        by_batch = run.model(batches[0], Pass(PLAN, training=True))
        rows = run.model(batches[0], Pass(PLAN, training=False))
    assert (own - by_batch).abs().mean() < 0.2 * (rows - by_batch).abs().mean()


def test_a_run_ends_with_plans_and_traces_in_its_master(pictures: Path, tmp_path: Path) -> None:
    text = """
[network]
name = "tiny"
depth = 8
[data]
side_px = 8
shift_px = 1
[fp32]
epochs = 1
[train]
widths = [8, 4, 2]
epochs = 1
batch_size = 16
compile = false
[calibrate]
images = 16
batches = 2
[hessian]
images = 16
batch_size = 8
rounds = 2
[hasb]
epochs = 1
[plans."mixed-4.5"]
default = "4"
layers = { "layer1.0.conv1" = "8", "layer3.0.conv1" = "w2a4" }
"""
    config = tmp_path / "tiny.toml"
    config.write_text(text)
    path = train_master(config, pictures, tmp_path / "run", weights=None, teacher=None)
    assert path is not None
    master = read_master(path)
    assert set(master.sensitivities) == {conv.name for conv in master.graph.searchable}
    assert master.plan("mixed-4.5").of("layer3.0.conv1") == LayerBits(2, 4)
    assert set(master.metrics("mixed-4.5")) == {"top1", "images"}
    assert set(master.accuracy) == set(master.widths)
    assert (tmp_path / "run" / "traces.png").is_file()
    assert (tmp_path / "run" / "supernet.png").is_file()
    report = (tmp_path / "run" / "report.md").read_text()
    assert "Super-network stage: 1 epochs" in report
    assert "Joint training: 1 epochs" in report
    longer = tmp_path / "longer.toml"
    longer.write_text(text.replace("widths = [8, 4, 2]\nepochs = 1", "widths = [8, 4, 2]\nepochs = 2"))
    with pytest.raises(ConfigError, match=r"hasb\.pt was begun when joint training had ended, .* 1 of 2 epochs"):
        train_master(longer, pictures, tmp_path / "run", weights=None, teacher=None)
    onwards = text.replace("[train]\nwidths = [8, 4, 2]\nepochs = 1", "[train]\nwidths = [8, 4, 2]\nepochs = 0")
    config.write_text(onwards.replace("[fp32]\nepochs = 1", ""))
    again = train_master(config, pictures, tmp_path / "onwards", weights=None, teacher=None, masters=[path])
    assert again is not None
    assert read_master(again).sensitivities == master.sensitivities
    assert not (tmp_path / "onwards" / "traces.json").exists()
    config.write_text(text.replace("layer1.0.conv1", "conv1"))
    with pytest.raises(PlanInvalid, match="conv1"):
        train_master(config, pictures, tmp_path / "other", weights=None, teacher=None)
