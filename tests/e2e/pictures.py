"""Makes a data set of made-up pictures that a small network can learn: ``python -m tests.e2e.pictures FOLDER``."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = 10
COUNTS = {"train": 52, "test": 26}
SIDE_PX = 32


def write_pictures(folder: Path) -> None:
    """Write ``{train,test}/CLASS/*.png``: each class its own colour and stripes, under noise."""
    rng = np.random.default_rng(0)
    for number in range(CLASSES):
        colour = rng.integers(60, 196, 3)
        stripes = 40 * np.sin(np.arange(SIDE_PX) * (number + 1) / 4)[:, None, None]
        for split, count in COUNTS.items():
            target = folder / split / f"class{number}"
            target.mkdir(parents=True)
            for index in range(count):
                noise = rng.normal(0, 30, (SIDE_PX, SIDE_PX, 3))
                pixels = np.clip(colour + stripes + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(target / f"{index:03}.png")


if __name__ == "__main__":
    write_pictures(Path(sys.argv[1]))
