"""The ablations: every arm is a valid run, cells come seed by seed, and tables say what the cells say."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ablations import ARMS, FLOATS, SELECTION, cell_config, cells, probe_plans
from benchmarks.ablations_report import (
    accuracy_table,
    clear_differences,
    difference_table,
    draw_convergence,
    draw_plans,
    gather,
    markdown,
    merged,
    plan_table,
)

STAGE_ARMS = ("no-stage", "hasb", "uniform-sampling", "transitional")


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_trains_on_the_same_images_with_its_seed(arm: str) -> None:
    train, base = cell_config(ARMS[arm], 3).train, cell_config(ARMS["joint"], 3).train
    assert train.seed == 3
    same = ("epoch_images", "batch_size", "lr")
    assert [getattr(train, name) for name in same] == [getattr(base, name) for name in same]
    assert train.epochs == 8 or arm in STAGE_ARMS
    assert arm == "joint" or cell_config(ARMS[arm], 3) != cell_config(ARMS["joint"], 3)


def test_every_arm_gets_its_first_seed_before_any_gets_its_second() -> None:
    assert cells(["a", "b"], [1, 2]) == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]


def cell(arm: str, seed: int, **top1: float) -> dict[str, Any]:
    figures = {name.removeprefix("b"): value for name, value in top1.items()}
    return {
        "arm": arm,
        "seed": seed,
        "top1": figures,
        "loss": {bits: [1.0, 0.5] for bits in figures},
        "fp32_top1": 0.9,
        "test_images": 4000,
        "recipe": cell_config(ARMS[arm], seed).model_dump(mode="json"),
    }


def test_depthwise_convolutions_have_a_section_of_their_own() -> None:
    text = markdown([{**cell("mobile", 1, b8=0.5, b6=0.5, b4=0.4, b2=0.2), "floats": FLOATS}])
    assert "Depthwise" in text
    assert "Joint training" not in text


def test_a_network_that_all_arms_of_a_seed_begin_with_counts_once() -> None:
    def section(*seeds: int) -> str:
        top1 = {"b8": 0.5, "b6": 0.5, "b4": 0.4, "b2": 0.2}
        each = [cell(arm, seed, **top1) for seed in seeds for arm in ARMS if arm.startswith("mobile")]
        return markdown([{**one, "fp32_top1": 0.7 + one["seed"] / 100, "floats": FLOATS} for one in each])

    assert "which reaches 71.00 % of" in section(1)
    assert "which reaches 71.50 ± 0.71 % of" in section(1, 2)


def some_cells() -> list[dict[str, Any]]:
    return [
        cell("joint", 1, b8=0.9, b6=0.9, b4=0.88, b2=0.8),
        cell("joint", 2, b8=0.9, b6=0.9, b4=0.88, b2=0.82),
        cell("alrs-off", 1, b8=0.9, b6=0.9, b4=0.89, b2=0.81),
        cell("only-8", 1, b8=0.91),
        cell("only-6", 1, b6=0.91),
        cell("only-4", 1, b4=0.9),
        cell("only-2", 1, b2=0.7),
        cell("only-8", 2, b8=0.91),
    ]


def test_networks_of_one_width_count_together_once_all_are_there() -> None:
    joined = merged(some_cells())
    assert [(each["arm"], each["seed"]) for each in joined] == [
        ("joint", 1), ("joint", 2), ("alrs-off", 1), ("dedicated", 1),
    ]  # fmt: skip
    assert joined[-1]["top1"] == {"8": 0.91, "6": 0.91, "4": 0.9, "2": 0.7}


def test_tables_give_mean_and_spread_and_differences_of_the_same_seed() -> None:
    joined = merged(some_cells())
    table = accuracy_table(joined).splitlines()
    assert table[2].endswith("| 90.00 ± 0.00 | 90.00 ± 0.00 | 88.00 ± 0.00 | 81.00 ± 1.41 | 2 |")
    assert table[4].endswith("| 91.00 | 91.00 | 90.00 | 70.00 | 1 |")
    differences = difference_table(joined).splitlines()
    assert differences[2] == "| `alrs-off` | 0.00 | 0.00 | 1.00 | 1.00 |"
    assert len(differences) == 4


def test_cells_of_different_test_images_are_not_mixed_and_the_page_says_which(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    spread = {"test_selection": SELECTION}
    for name, each in (("a", cell("joint", 1, b8=0.9)), ("b", {**cell("joint", 2, b8=0.9), **spread})):
        (tmp_path / "cells" / f"{name}.json").write_text(json.dumps(each))
    with pytest.raises(ValueError, match=r"4,000 test images spread evenly over the split and on the first 4,000"):
        gather(tmp_path)
    (tmp_path / "cells" / "a.json").unlink()
    assert len(gather(tmp_path)) == 1
    text = " ".join(markdown([{**each, **spread} for each in some_cells()]).split())
    assert "Measured on 4,000 test images spread evenly over the split, of which" in text


def stage_cell(arm: str, seed: int, **plans: float) -> dict[str, Any]:
    base = cell(arm, seed, b8=0.92, b6=0.92, b4=0.91, b2=0.88)
    del base["loss"]
    named = {f"mean {name[-1]}, sensitive first": value for name, value in plans.items()}
    return {**base, "plans_kept": named, "plans_calibrated": named}


def test_plans_have_a_table_and_a_plot_of_their_own(tmp_path: Path) -> None:
    stage = [stage_cell("hasb", 1, mean3=0.9), stage_cell("hasb", 2, mean3=0.91)]
    assert plan_table(stage).splitlines()[2] == "| `hasb` | kept from training | 90.50 ± 0.71 |"
    draw_plans(stage, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
    assert "Super-network stage" in markdown(stage)
    assert "Joint training" not in markdown(stage)


def test_probe_plans_give_the_higher_widths_to_either_end() -> None:
    traces = {f"l{i}": float(i) for i in range(18)}
    plans = probe_plans(traces)
    first, last = plans["mean 4, sensitive first"], plans["mean 4, sensitive last"]
    assert [first.of(f"l{i}").weight_bits for i in (17, 12, 11, 6, 5, 0)] == [6, 6, 4, 4, 2, 2]
    assert [last.of(f"l{i}").weight_bits for i in (17, 0)] == [2, 6]
    halves = [plans["mean 3, sensitive first"].of(name).weight_bits for name in traces]
    assert sum(halves) == 3 * 18


def test_the_report_stands_with_what_is_there(tmp_path: Path) -> None:
    draw_convergence(merged(some_cells()), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
    text = " ".join(markdown(some_cells()).split())
    assert "first 4,000 test images" in text
    assert "dedicated" in text


def test_differences_that_chance_alone_makes_are_not_shown_and_no_others_are_either() -> None:
    clear = [(0.52, 0.50), (0.521, 0.50), (0.519, 0.50)]
    noise = [(0.52, 0.50), (0.48, 0.50), (0.51, 0.50)]
    assert clear_differences({"a": clear, "b": clear}).startswith("Perhaps.")
    text = clear_differences({"a": clear, **{str(i): noise for i in range(11)}})
    assert text.startswith("Not shown.")
    assert "Of 12 differences, seed by seed, 1 are clear of chance at 95 % (a (+2.00))" in text
    assert "Of 0 differences" in clear_differences({"one seed": [(0.5, 0.4)]})


def test_the_report_says_that_literal_trains_no_weight_scale_while_gradients_are_above_the_rate() -> None:
    def report(gradient: float) -> str:
        literal = cell("alrs-literal", 1, b8=0.9, b6=0.9, b4=0.9, b2=0.8)
        return markdown([*some_cells(), {**literal, "weight_scale_gradient": {"8": [0.9, gradient], "2": [0.8, 0.9]}}])

    assert "`alrs-literal` never trained a weight scale" in report(0.6)
    assert "averages 0.60 or more in every epoch at every width," in report(0.6)
    kept_none = markdown([*some_cells(), cell("alrs-literal", 1, b8=0.9, b6=0.9, b4=0.9, b2=0.8)])
    assert "at every width\nof the shipped joint training (these runs kept none)" in kept_none
    assert "never trained a weight scale" not in report(1e-4)


def test_the_report_draws_conclusions_on_the_stage_from_its_cells() -> None:
    arms = ("no-stage", "hasb", "uniform-sampling")
    cells = [stage_cell(arm, seed, mean3=0.9 - 0.01 * seed * (arm == "hasb")) for arm in arms for seed in (1, 2)]
    text = " ".join(markdown(cells).split())
    assert "Does `hasb` beat `uniform-sampling`, or the other way round, at widths and plans?** Not shown." in text
    assert "1 of 10 means of its arms, at widths and at re-calibrated plans, are below `no-stage`" in text
    assert "From the master that joint training left" in text
    assert "From the master of weights abcdef" in markdown([{**cells[0], "master_fingerprint": "abcdef" * 9}])
