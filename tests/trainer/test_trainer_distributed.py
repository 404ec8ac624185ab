"""Two processes under torchrun train one network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.trainer.tiny_runs import tiny_config, tiny_run
from trainer.loop import Process, join_processes

ROOT = Path(__file__).parents[2]


def test_two_processes_end_with_identical_parameters(pictures: Path, tmp_path: Path) -> None:
    launched = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"),
            *("-m", "tests.trainer.one_of_two", str(pictures), str(tmp_path)),
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert launched.returncode == 0, launched.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first["model"].keys() == second["model"].keys()
    for name, tensor in first["model"].items():
        assert torch.equal(tensor, second["model"][name]), name
    assert [len(labels) for labels in first["seen"]] == [len(labels) for labels in second["seen"]] == [8, 8, 8]
    assert first["seen"] != second["seen"]
    alone = tiny_run(pictures, tmp_path / "alone", tiny_config(train={"epochs": 1, "widths": (8, 2)}))
    untouched = alone.model.state_dict()["layers.conv1.weight"].clone()
    assert not torch.equal(first["model"]["layers.conv1.weight"], untouched)
    written = ["config.json", "epochs", "fp32.pt", "history.json", "state.pt"]
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == written


def test_a_process_by_itself_averages_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    process = join_processes("cpu")
    assert process == Process(0, 1)
    assert process.first
    tensor = torch.tensor([1.0, 2.0])
    process.average([tensor])
    assert tensor.tolist() == [1.0, 2.0]
