"""What tables of plans say of the pictures and trials behind them."""

from typing import Any

import pytest

from benchmarks import plan_tables


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "on 2,500 pictures that the network was trained on"),
        ({"split": "train, not calibrated on"}, "on 2,500 pictures that the network was trained on"),
        ({"split": "val"}, "on 2,500 pictures (val)"),
    ],
)
def test_pictures_of_training_are_called_that(more: dict[str, str], said: str) -> None:
    report = {"plans": 60, "model": "m", "validation": 2500, "rank_correlation": {"weights": 0.9}, **more}
    assert said in plan_tables.costs(report)


def test_a_method_with_fewer_trials_is_told() -> None:
    row = {"mean_width": 3.0, "cost": "weights", "divergence": 0.1, "top1": 0.9}
    report: dict[str, Any] = {
        "model": "m",
        "trials": 24,
        "pictures": 4000,
        "uniform": {"3": {"told": 0.1, "top1": 0.9}, "8": {"told": 0.0, "top1": 0.9}},
        "rows": [
            {**row, "method": "programme", "seed": None, "trials": 19},
            {**row, "method": "evolution", "seed": 1, "trials": 24},
        ],
    }
    assert "of the best of 19 to 24 trials" in plan_tables.methods(report)
