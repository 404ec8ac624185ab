"""Fixtures of the trainer's tests: pictures, and one finished run that several tests look at."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.trainer.tiny_runs import tiny_run, write_pictures
from trainer.loop import Run


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Sums in one order: the same run gives the same bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def finished(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run trained to its last epoch, not yet calibrated; read it, do not change it."""
    run = tiny_run(pictures, tmp_path_factory.mktemp("finished"))
    run.fit()
    return run
