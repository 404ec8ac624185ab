"""The pictures of a search: some to fit batch norm on, some to choose plans by, and some to say how good they are."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitgear.checkpoint import Master
from bitgear.errors import DataError
from bitgear.evaluate import Data, read_data, taken
from bitgear.inputs import InputRecord
from bitgear.tasks.annotations import BoxedPictures
from bitgear.tasks.letterbox import place_picture

CALIBRATION_SPLIT = "train"


@dataclass(frozen=True, eq=False)
class Pictures:
    """``calibration``: codes int8 (N, 3, H, W). ``validation``: what plans are chosen by, from ``split``."""

    calibration: NDArray[np.int8]
    validation: Data
    split: str


def read_pictures(
    master: Master, source: Path, *, split: str | None, calibration: int, validation: int, rng: np.random.Generator
) -> Pictures:
    """Return pictures drawn from a data set, up to so many of each kind; calibration takes those of ``train``.

    Plans are chosen by ``split``: by default ``val``, and for classification, whose data sets have none, pictures of
    ``train`` that calibration does not see; the network was trained on them. Raises :class:`~bitgear.errors.DataError`.
    """
    trained = read_data(master, source, CALIBRATION_SPLIT)
    order = rng.permutation(len(trained))
    codes = codes_of(taken(trained, order[:calibration]), master.input)
    if split is None and master.task != "classify":
        split = "val"
    if split is None or split == CALIBRATION_SPLIT:
        if len(order) <= calibration:
            raise DataError(
                f"{source} has {len(order)} pictures in {CALIBRATION_SPLIT!r}, all wanted to fit batch norm: none is "
                "left to choose plans by; give fewer of them (--calibrate), or another split to choose by (--split)"
            )
        others = taken(trained, order[calibration:][:validation])
        return Pictures(codes, others, f"{CALIBRATION_SPLIT}, not calibrated on")
    others = read_data(master, source, split)
    return Pictures(codes, taken(others, rng.permutation(len(others))[:validation]), split)


def codes_of(data: Data, record: InputRecord) -> NDArray[np.int8]:
    """Return the pictures of a data set as a network reads them, int8 (N, 3, H, W)."""
    if isinstance(data, BoxedPictures):
        return np.concatenate([place_picture(data.read(item), record)[0] for item in data.items])
    return record.encode(data.images)
