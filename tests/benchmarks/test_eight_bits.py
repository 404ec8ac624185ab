"""Parts at 8 bits: every choice is a valid run and a valid graph, and tables say what the reports say."""

from typing import Any

import pytest

from benchmarks.eight_bits import CHOICES, SHIPPED, cell_config, share_at_eight_bits, with_parts
from benchmarks.eight_bits_tables import accuracy, said, times
from bitgear.checkpoint import Master, read_master
from bitgear.engines.registry import create_native
from bitgear.models import find_master
from bitgear.search.timings import random_picture
from trainer.config import DetectConfig, PyramidConfig, read_config
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


def test_the_shipped_choice_is_what_ships(detector: Master) -> None:
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


def cell(choice: str, seed: int, two_bit: float) -> dict[str, Any]:
    shared = {"model": "bccd-resnet", "metric": "map50_95", "epochs": 2, "steps": 50, "fp32": 0.6}
    figures = {"accuracy": {"8": 0.6, "4": 0.58, "2": two_bit}, "loss": {"8": 1.0, "4": 1.5, "2": 2.0 - two_bit}}
    return {"choice": choice, "seed": seed, **shared, **figures}


def test_accuracy_is_told_with_means_and_ranges_of_seeds() -> None:
    lines = accuracy({"cells": [cell(SHIPPED, 1, 0.5), cell(SHIPPED, 2, 0.52), cell("none", 1, 0.4)]}).splitlines()
    assert lines[2] == f"| {said(SHIPPED)} | 60.0 ± 0.0 | 58.0 ± 0.0 | 51.0 ± 1.0 | 1.500, 1.490 | 2 |"
    assert lines[3] == "| nothing | 60.0 | 58.0 | 40.0 | 1.500, 1.600 | 1 |"
    assert "after 2 joint epochs, 50 steps, from one FP32 network (60.0 %); up to 2 seeds" in lines[5]
    assert "the same pictures" in accuracy({"cells": [cell(SHIPPED, 1, 0.5)]})


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
    assert lines[0] == "| stays at 8 bits | bccd-resnet, 8 bit | bccd-resnet, 2 bit |"
    assert lines[2] == f"| {said(SHIPPED)} | 5.00 ms | 5.00 ms |"
    assert lines[3] == "| nothing | -2.0 % (-3.0 to -1.0) | -2.0 % (-3.0 to -1.0) |"
    assert "5.0 % in bccd-resnet" in lines[5]
