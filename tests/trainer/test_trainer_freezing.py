"""Weights that swing are held still, in the code that they had most of the time; others are left alone."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.trainer.test_trainer_hessian import tiny_network
from tests.trainer.tiny_runs import state_of, tiny_config, tiny_run
from trainer.freezing import Freezing
from trainer.model import QuantNet, require
from trainer.quantizers import derive_codes


def weight_of(model: QuantNet) -> Tensor:
    return require(model.layer("b").weight).data


def placed(model: QuantNet, units: float) -> None:
    """Put the first weight of a layer so many units of its scale from 0."""
    weight_of(model)[0, 0, 0, 0] = units * require(model.layer("b").weight_log_scale).detach().exp()[0]


@pytest.fixture
def model() -> QuantNet:
    model = tiny_network()
    with torch.no_grad():
        for name in ("a", "b"):
            require(model.layer(name).weight_log_scale).fill_(-4.0)
            require(model.layer(name).weight).fill_(0.5)
    return model


def swing(model: QuantNet, freezing: Freezing, steps: int) -> None:
    """Three steps of four below the edge between the 2-bit codes 0 and 1, one above."""
    for step in range(steps):
        placed(model, 34.2 if step % 4 == 0 else 29.6)
        freezing.watch()


def test_a_weight_that_swings_is_held_where_it_was_most_of_the_time(model: QuantNet) -> None:
    freezing = Freezing(model, 2, 0.1)
    swing(model, freezing, 60)
    assert freezing.share == pytest.approx(1 / 90)
    scale = require(model.layer("b").weight_log_scale)
    with torch.no_grad():
        weight_of(model).add_(0.3)  # an optimiser's step, and one of the scale
        scale.add_(0.2)
        freezing.hold()
    units = weight_of(model)[0, 0, 0, 0] / scale.detach().exp()[0]
    assert units.round() == units.round(decimals=3)
    assert derive_codes(units, 2) == 0
    assert units in (30, 31)
    assert weight_of(model)[0, 0, 0, 1] == pytest.approx(0.8)


def test_at_8_bits_a_weight_is_held_at_its_code(model: QuantNet) -> None:
    placed(model, 3.1)
    freezing = Freezing(model, 8, 0.1)
    for step in range(60):
        placed(model, 4.1 if step % 4 == 0 else 3.1)
        freezing.watch()
    scale = require(model.layer("b").weight_log_scale).detach().exp()[0]
    assert weight_of(model)[0, 0, 0, 0] / scale == pytest.approx(3.0, abs=1e-4)


def test_weights_that_move_one_way_or_seldom_turn_are_free(model: QuantNet) -> None:
    freezing = Freezing(model, 2, 0.1)
    for step in range(120):
        placed(model, -80.0 + step)
        freezing.watch()
    for step in range(120):
        placed(model, 20.0 if step // 40 % 2 else 50.0)
        freezing.watch()
    assert freezing.share == 0


def test_a_state_goes_on_where_it_was(model: QuantNet) -> None:
    freezing = Freezing(model, 2, 0.1)
    swing(model, freezing, 8)
    again = Freezing(model, 2, 0.1)
    again.load_state_dict(freezing.state_dict())
    for each in (freezing, again):
        swing(model, each, 60)
    for name, of in freezing.state.items():
        for part, tensor in of.items():
            torch.testing.assert_close(tensor, again.state[name][part], equal_nan=True, rtol=0, atol=0)


def test_a_run_that_freezes_resumes_to_the_same_bits(pictures: Path, tmp_path: Path) -> None:
    config = tiny_config(train={"freeze": 0.005, "lr": 0.02, "epochs": 2})
    whole = tiny_run(pictures, tmp_path / "whole", config)
    whole.fit()
    assert 0 < whole.history.epochs[-1]["frozen"] < 1
    resumed = tiny_run(pictures, tmp_path / "whole", config)
    resumed.fit(from_epoch=1)
    assert resumed.history.epochs[-1]["frozen"] == whole.history.epochs[-1]["frozen"]
    for name, tensor in state_of(whole).items():
        assert torch.equal(tensor, state_of(resumed)[name]), name
