"""A tiny master and pictures for it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitgear.checkpoint import write_master
from tests.masters import LABELS, tiny_master


@pytest.fixture(scope="package")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        for label in range(10):
            (folder / split / LABELS[label]).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / LABELS[label] / f"{i}.png")
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    write_master(tiny_master(), path)
    return path
