"""Parts at 8 bits: every choice is a valid run and a valid graph, and tables say what the reports say."""

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.eight_bits import (
    CHOICES,
    SHIPPED,
    begin,
    cell_config,
    create_run,
    share_at_eight_bits,
    with_parts,
)
from benchmarks.eight_bits_tables import accuracy, said, times
from bitgear.checkpoint import Master, read_master
from bitgear.engines.registry import create_native
from bitgear.models import find_master
from bitgear.search.timings import random_picture
from tests.trainer.dense_data import detect_config, write_boxes
from tests.trainer.tiny_runs import state_of
from trainer.config import DetectConfig, PyramidConfig, read_config
from trainer.loop import Run
from trainer.pipeline import shipped_config


@pytest.fixture(scope="module")
def detector() -> Master:
    return read_master(find_master("bccd-resnet"))


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_is_the_shipped_recipe_with_other_parts(choice: str) -> None:
    config = read_config(shipped_config("bccd_resnet_cpu"))
    cell = cell_config(config, CHOICES[choice], 4, 1e-4, 3)
    assert isinstance(cell, DetectConfig)
    assert cell.network.eight_bits == CHOICES[choice]
    assert (cell.fp32.epochs, cell.train.epochs, cell.train.seed) == (0, 4, 3)
    assert cell.train.lr == 1e-4
    assert cell.train.widths == config.train.widths
    assert cell.data == config.data  # type: ignore[attr-defined]


def test_the_shipped_choice_is_what_ships() -> None:
    assert CHOICES[SHIPPED] == PyramidConfig(name="x").eight_bits
    for name in ("bccd-resnet", "camvid-resnet"):
        master = read_master(find_master(name))
        assert with_parts(master, CHOICES[SHIPPED]).graph == master.graph


def test_a_choice_changes_what_follows_the_width_and_nothing_else(detector: Master) -> None:
    none, both = with_parts(detector, CHOICES["none"]), with_parts(detector, CHOICES["stem and prediction alone"])
    assert none.graph.searchable == none.graph.convs
    assert {conv.name for conv in both.graph.convs} - {conv.name for conv in both.graph.searchable} == {
        "conv1", "predict",
    }  # fmt: skip
    assert share_at_eight_bits(none) == 0
    assert 0.02 < share_at_eight_bits(both) < share_at_eight_bits(detector) < 0.06
    engine = create_native(1)
    picture = random_picture(detector)
    assert (engine.derive(none, 8).run(picture) == engine.derive(detector, 8).run(picture)).all()
    assert (engine.derive(none, 2).run(picture) != engine.derive(detector, 2).run(picture)).any()


def test_a_cell_begins_as_the_finished_run_but_for_what_changes(tmp_path: Path) -> None:
    data, trained, config = write_boxes(tmp_path / "set"), tmp_path / "run", detect_config()
    finished = Run(config, data, trained, progress=False)
    finished.fit()
    cell = cell_config(config, CHOICES["no prediction"], 1, 1e-3, 1)
    run = create_run(cell, data, trained, tmp_path / "cell")
    assert set(begin(run, trained, config.network)) == {"8", "2"}
    before, after = state_of(finished), state_of(run)
    differing = {name for name in before if not torch.equal(before[name], after[name])}
    parts = {tuple(name.split(".")[1:3]) for name in differing}
    assert {layer for layer, part in parts if "scale" in part} == {"predict"}
    assert {part for _, part in parts} == {"weight_log_scale", "act_log_scale", "bn"}
    assert all(name.endswith((".mean", ".var")) for name in differing if ".bn." in name)
    again = create_run(cell, data, trained, tmp_path / "cell")
    again.fit()
    assert (again.history.fp32, len(again.history.epochs)) == (finished.history.fp32, 1)


def cell(choice: str, seed: int, two_bit: float, **after: float) -> dict[str, Any]:
    shared = {"model": "bccd-resnet", "metric": "map50_95", "epochs": 1, "steps": 25, "lr": 1e-4}
    row = {"choice": choice, "seed": seed, **shared, "before": {"8": 0.6, "2": two_bit}}
    return row | ({"after": {bits.removeprefix("b"): value for bits, value in after.items()}} if after else {})


def test_accuracy_is_told_before_and_after_training() -> None:
    text = accuracy({"cells": [cell(SHIPPED, 1, 0.5, b8=0.61, b2=0.55), cell("none", 1, 0.4)]})
    lines = text.splitlines()
    assert lines[2:5] == [f"| {said(SHIPPED)} | 60.0 | 50.0 |", "| nothing | 60.0 | 40.0 |", ""]
    assert lines[5] == "| bccd-resnet after 25 further steps at a rate of 0.0001, stays at 8 bits | 8 bit | 2 bit |"
    assert lines[7:9] == [f"| {said(SHIPPED)} | 61.0 | 55.0 |", ""]
    assert "seeds" not in text
    assert "further" not in accuracy({"cells": [cell("none", 1, 0.4)]})


def test_several_seeds_are_told_by_mean_and_range() -> None:
    text = accuracy({"cells": [cell("none", 1, 0.5), cell("none", 2, 0.52)]})
    assert "| nothing | 60.0 ± 0.0 | 51.0 ± 1.0 |" in text
    assert "half the range" in text


def test_every_network_has_tables_of_its_own() -> None:
    text = accuracy({"cells": [cell("none", 1, 0.5), {**cell("none", 1, 0.4), "model": "y"}]})
    assert [line.split(" stays")[0] for line in text.splitlines() if "stays" in line] == [
        "| mAP50-95 of bccd-resnet in %,", "| mAP50-95 of y in %,",
    ]  # fmt: skip


def test_parts_are_told_in_words() -> None:
    assert said(SHIPPED) == "**stem, shortcuts, laterals, prediction** (shipped)"
    assert said("head too") == "stem, shortcuts, laterals, head, prediction"


def test_times_are_told_against_the_shipped_choice() -> None:
    def row(ratio: float, share: float) -> dict[str, Any]:
        timed = {"ms": 5.0, "ratio": ratio, "least_ratio": ratio - 0.01, "largest_ratio": ratio + 0.01}
        return {"share": share, "widths": {"8": timed, "2": timed}}

    choices = {SHIPPED: row(1.0, 0.05), "none": row(0.98, 0.0)}
    model = {"instruction_set": "avx2", "repeats": 3, "choices": choices}
    lines = times({"machine": {"cpu": "CPU"}, "models": {"bccd-resnet": model}}).splitlines()
    assert lines[0] == "| bccd-resnet, stays at 8 bits | of the multiplications | 8 bit | 2 bit |"
    assert lines[2] == f"| {said(SHIPPED)} | 5.0 % | 5.00 ms | 5.00 ms |"
    assert lines[3] == "| nothing | 0.0 % | -2.0 % (-3.0 to -1.0) | -2.0 % (-3.0 to -1.0) |"
    assert "medians of 3 measurements" in lines[5]
