"""A master back in the trainer's network."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bitgear import reference
from bitgear.bits import WIDTHS
from bitgear.checkpoint import Master, write_master
from tests.trainer.test_trainer_export import master_of
from tests.trainer.tiny_runs import state_of, tiny_config, tiny_run
from trainer.config import ConfigError
from trainer.loop import Run
from trainer.model import Pass
from trainer.restore import load_master, load_masters, restore_statistics
from trainer.tasks.classify import Classify


@pytest.fixture
def trained(pictures: Path, finished: Run) -> Run:
    run = tiny_run(pictures, finished.out)
    run.fit()
    run.calibrate()
    return run


@pytest.fixture
def master(trained: Run) -> Master:
    return master_of(trained)


def place_of(run: Run, tensor: torch.Tensor) -> str:
    """The name of a parameter in the state of a run."""
    return next(place for place, each in run.model.named_parameters() if each is tensor)


def test_the_network_of_a_master_computes_what_the_master_does(pictures: Path, master: Master, tmp_path: Path) -> None:
    run = tiny_run(pictures, tmp_path)
    load_master(run.model, master, WIDTHS)
    codes = run.task.data.test.codes[:6]
    for bits in WIDTHS:
        expected = reference.run(master, codes.contiguous().numpy(), bits)
        for _ in range(2):  # as loaded, then with statistics
            with torch.no_grad():
                found = run.model(codes, Pass(bits, training=False, exact=True)).numpy()
            assert np.abs(found - expected).mean() < 0.02 * expected.std(), bits
            restore_statistics(run.model, bits, run.calibration_batches())


def test_a_run_from_a_master_trains_no_float_network(pictures: Path, master: Master, tmp_path: Path) -> None:
    write_master(master, tmp_path / "tiny.safetensors")
    config = tiny_config(train={"epochs": 0})
    assert config.fp32.epochs
    run = tiny_run(pictures, tmp_path / "run", config, masters=[tmp_path / "tiny.safetensors"])
    start = run.model.layer("conv1").weight.detach().clone()
    run.fit()
    assert not run.history.fp32_epochs
    assert torch.equal(run.fp32_network().layer("conv1").weight, start)


def test_an_encoder_is_no_float_network_of_a_master(
    pictures: Path, master: Master, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_master(master, tmp_path / "tiny.safetensors")
    monkeypatch.setattr(Classify, "start", lambda *_: False)  # as pyramids answer to a file of their encoder
    with pytest.raises(ConfigError, match=r"fp32\.pt is of the encoder alone"):
        tiny_run(pictures, tmp_path, weights=tmp_path / "fp32.pt", masters=[tmp_path / "tiny.safetensors"])


def test_statistics_are_close_to_those_of_training(
    pictures: Path, trained: Run, master: Master, tmp_path: Path
) -> None:
    run = tiny_run(pictures, tmp_path)
    load_master(run.model, master, WIDTHS)
    restore_statistics(run.model, 8, run.calibration_batches())
    for conv in run.model.graph.convs:
        ours, theirs = (each.model.layer(conv.name).batch_norm(8) for each in (run, trained))
        spread = theirs.var.sqrt()
        assert ((ours.mean - theirs.mean).abs() / spread).mean() < 0.1, conv.name
        assert (ours.var.sqrt() / spread).log().abs().mean() < 0.1, conv.name
        torch.testing.assert_close(ours.gamma, theirs.gamma, rtol=0.5, atol=0.05)


def test_the_float_network_is_near_the_8_bit_one(pictures: Path, master: Master, tmp_path: Path) -> None:
    run = tiny_run(pictures, tmp_path)
    load_master(run.model, master, WIDTHS)
    codes = run.task.data.test.codes
    with torch.no_grad():
        floats, eight = (run.model(codes, Pass(bits, training=False)) for bits in (None, 8))
    assert (floats - eight).abs().mean() < 0.1 * eight.std()


def test_masters_of_other_networks_are_refused(pictures: Path, master: Master, tmp_path: Path) -> None:
    deeper = tiny_run(pictures, tmp_path, tiny_config(network={"depth": 14}))
    with pytest.raises(ConfigError, match="another network"):
        load_master(deeper.model, master, WIDTHS)
    per_layer = tiny_run(pictures, tmp_path, tiny_config(network={"per_channel": False}))
    with pytest.raises(ConfigError, match=r"network\.per_channel"):
        load_master(per_layer.model, master, WIDTHS)


def test_training_goes_on_from_a_master(pictures: Path, trained: Run, master: Master, tmp_path: Path) -> None:
    write_master(master, tmp_path / "tiny.safetensors")
    config = tiny_config(fp32={"epochs": 0}, train={"epochs": 1, "lr": 1e-4})
    run = tiny_run(pictures, tmp_path / "run", config, masters=[tmp_path / "tiny.safetensors"])
    run.fit()
    assert run.history.epochs[0]["loss"]["8"] < trained.history.epochs[0]["loss"]["8"]
    again = tiny_run(pictures, tmp_path / "run", config, masters=[tmp_path / "tiny.safetensors"])
    again.fit()
    assert again.history.epochs == run.history.epochs


def test_several_masters_have_a_mean(pictures: Path, master: Master, tmp_path: Path) -> None:
    name = "layer1.0.conv1"
    bold = replace(
        master, tensors={**master.tensors, f"{name}.weight_scale": 4 * master.tensors[f"{name}.weight_scale"]}
    )
    run = tiny_run(pictures, tmp_path)
    batches = run.calibration_batches()
    load_masters(run.model, [master], WIDTHS, batches)
    expected, layer = state_of(run), run.model.layer(name)
    load_masters(run.model, [master, bold], WIDTHS, batches)
    torch.testing.assert_close(layer.weight, 2.5 * expected[place_of(run, layer.weight)])
    place = place_of(run, layer.weight_log_scale)
    torch.testing.assert_close(layer.weight_log_scale, expected[place] + math.log(2))
    for bits in WIDTHS:  # statistics are those of what the mean computes
        bn = layer.batch_norm(bits)
        found = bn.mean.clone(), bn.var.clone()
        run.model.calibrate_width(bits, batches, scales=False)
        torch.testing.assert_close((bn.mean, bn.var), found)


def test_a_master_is_its_own_mean(pictures: Path, master: Master, tmp_path: Path) -> None:
    run = tiny_run(pictures, tmp_path)
    codes = run.task.data.test.codes
    answers = []
    for masters in ([master], [master] * 3):
        load_masters(run.model, masters, WIDTHS, run.calibration_batches())
        with torch.no_grad():
            answers.append([run.model(codes, Pass(bits, training=False)) for bits in WIDTHS])
    for one, three in zip(*answers, strict=True):
        assert (
            one - three
        ).abs().mean() < 0.15 * one.std()  # few pictures: statistics of batches differ from those of all


def test_a_width_that_a_master_lacks_is_named(pictures: Path, master: Master, tmp_path: Path) -> None:
    run = tiny_run(pictures, tmp_path)
    with pytest.raises(ConfigError, match="no 3 bits"):
        load_master(run.model, replace(master, widths=(8, 4, 2)), (8, 3))
