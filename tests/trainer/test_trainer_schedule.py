"""What a master and its report say of a schedule is what was trained, whatever the configuration says since."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from bitgear.checkpoint import read_master
from tests.trainer.tiny_runs import tiny_config, tiny_run
from trainer.loop import Run
from trainer.pipeline import finish, train_master
from trainer.report import markdown
from trainer.schedule import stretches, told, trained_recipe, warn_of_past
from trainer.state import History


def rows_of(*schedules: tuple[int, float]) -> list[dict[str, Any]]:
    return [
        {"epoch": i + 1, "seconds": 60.0, "schedule": {"epochs": epochs, "lr": lr}}
        for i, (epochs, lr) in enumerate(schedules)
    ]


def report_of(rows: list[dict[str, Any]], *, watches_test: bool = False) -> str:
    description = {"name": "n", "provenance": {}, "file_bytes": 1, "file_bytes_per_parameter": 1.0, "precisions": {}}
    history = History(epochs=rows)
    return markdown(description, history, "miou", {"miou": 0.5, "images": 3}, (), watches_test)


def test_a_run_that_is_over_says_what_it_was_trained_with(
    pictures: Path, finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished.out, tmp_path / "copy")
    config = tiny_config(fp32={"epochs": 77, "lr": 5.0}, train={"lr": 9.0})
    run = tiny_run(pictures, tmp_path / "copy", config)
    run.fit()
    said = capsys.readouterr().err
    assert "warning: fp32.epochs = 77 and fp32.lr = 5.0: no effect on what is trained already, with epochs 1" in said
    assert "warning: train.lr = 9.0: no effect on what is trained already, with lr 0.002" in said
    recipe = read_master(finish(run, pictures, {})).provenance["recipe"]
    assert (recipe["fp32"]["epochs"], recipe["fp32"]["lr"]) == (1, 0.05)
    assert (recipe["train"]["epochs"], recipe["train"]["lr"]) == (2, 2e-3)
    assert "trained" not in recipe["train"]


def test_nothing_is_warned_of_while_a_configuration_stays(
    pictures: Path, finished: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_run(pictures, finished.out).fit()
    assert "warning" not in capsys.readouterr().err


def test_nothing_is_warned_of_where_no_epoch_was_trained(capsys: pytest.CaptureFixture[str]) -> None:
    warn_of_past("fp32", tiny_config(fp32={"epochs": 60}).fp32, [])
    assert not capsys.readouterr().err


def test_epochs_by_several_schedules_are_told_one_after_the_other() -> None:
    history = History(epochs=rows_of((2, 0.1), (2, 0.1), (5, 0.2)))
    train = trained_recipe(tiny_config(train={"epochs": 3, "lr": 0.7}), history)["train"]
    assert (train["epochs"], train["lr"]) == (3, 0.2)
    assert train["trained"] == [{"epochs": 2, "of": 2, "lr": 0.1}, {"epochs": 1, "of": 5, "lr": 0.2}]
    assert "3 epochs (2 of 2 from a rate of 0.1, then 1 of 5 from a rate of 0.2), 3 minutes." in report_of(
        history.epochs
    )


def test_rows_without_a_schedule_leave_the_rate_to_the_configuration() -> None:
    rows = [{"epoch": 1, "seconds": 60.0}]
    assert stretches(rows) == []
    train = trained_recipe(tiny_config(train={"epochs": 9, "lr": 0.7}), History(epochs=rows))["train"]
    assert (train["epochs"], train["lr"]) == (1, 0.7)
    assert "What is exported is the state after the last epoch told above." in report_of(rows)


def test_a_report_says_whether_the_last_epoch_is_that_of_the_schedule() -> None:
    whole, part = report_of(rows_of((2, 0.1), (2, 0.1))), report_of(rows_of((2, 0.1)))
    assert "steer nothing" in whole
    assert "Joint training: 2 epochs, 2 minutes." in whole
    assert "steer nothing" not in part
    assert "Joint training: 1 of 2 epochs, 1 minutes." in part
    assert "the state after epoch 1 of 2 (joint training)" in part
    assert "Curves" not in report_of([])


def test_curves_steer_nothing_only_where_one_schedule_was_trained_from_the_first_epoch_on() -> None:
    shortened = report_of(rows_of((4, 0.1), (4, 0.1), (3, 0.1)))
    assert "steer nothing" not in shortened
    assert "The schedule was changed midway, a choice that curves may have made" in shortened
    continued = report_of([{"epoch": 1, "seconds": 60.0}, *rows_of((2, 0.1), (2, 0.1))[1:]])
    assert "steer nothing" not in continued
    assert "What is exported is the state after the last epoch told above." in continued


def test_a_report_says_where_curves_are_of_the_test_images() -> None:
    rows = rows_of((1, 0.1))
    assert "Curves are of these test images too" in report_of(rows, watches_test=True)
    assert "made on the test images" in report_of(rows, watches_test=True)
    assert "made on the test images" in report_of([], watches_test=True)
    assert "Curves are of other images than these" in report_of(rows)
    assert "made on the test images" not in report_of(rows)


def test_an_epoch_is_a_line() -> None:
    row = {"loss": {"8": 0.5, "2": 1.25}, "top1": {"8": 0.9, "2": 0.8}, "seconds": 3.4}
    assert told("epoch 1/2", row, "top1") == (
        "epoch 1/2: loss 0.5000 (8), 1.2500 (2); top-1 90.00% (8), 80.00% (2); 3 s"
    )
    assert told("fp32 1/2", {"loss": 0.5, "seconds": 3.4}, "top1") == "fp32 1/2: loss 0.5000; 3 s"


def test_training_tells_of_its_pictures_and_of_every_epoch(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny.toml"
    file.write_text(
        '[network]\nname = "tiny"\ndepth = 8\n[data]\nside_px = 8\nshift_px = 1\n[fp32]\nepochs = 2\n'
        "[train]\nwidths = [8, 2]\nepochs = 1\nbatch_size = 16\ncompile = false\n"
        '[calibrate]\nimages = 16\nbatches = 2\n[hasb]\nepochs = 1\nsampling = "uniform"\n'
    )
    train_master(file, pictures, tmp_path / "run", weights=None, teacher=None)
    said = capsys.readouterr().err
    assert "48 training images, 3 classes" in said
    for line in ("fp32 1/2: loss ", "fp32 2/2: loss ", "FP32 start: top-1 ", "epoch 1/1: loss ", "hasb 1/1: loss "):
        assert said.count(line) == 1
