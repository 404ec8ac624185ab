"""Classification: picture -> network input, logits -> predictions, and accuracy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitgear.engines.base import DerivedModel
from bitgear.inputs import InputRecord
from bitgear.tasks.datasets import LabelledImages, central_square
from bitgear.tasks.letterbox import Letterbox
from bitgear.tasks.options import MAX_TOP_K, check_option, whole
from bitgear.tasks.pictures import Picture


@dataclass(frozen=True)
class Prediction:
    """A class with its softmax probability in 0..1."""

    class_name: str
    class_id: int
    confidence: float


def preprocess(picture: Picture, record: InputRecord) -> NDArray[np.int8]:
    """Return the codes, int8 (1, 3, H, W), of the record's square in the centre, resized bilinearly to the input size.

    A picture of the input size is taken as it is. The input must be square.
    """
    square = central_square(picture.pixels, record.height_px, record.central_fraction)
    return Letterbox.of(len(square), len(square), record).codes(square, record)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return probabilities over the last axis; the largest logit is subtracted first, so nothing overflows."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    probabilities: NDArray[np.float64] = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probabilities


def predictions(logits: NDArray[np.float32], labels: Sequence[str], top_k: int) -> list[Prediction]:
    """Return the ``top_k`` most probable classes of one image (logits (classes,)), best first; ties by class id.

    Raises :class:`~bitgear.errors.InputError` unless ``top_k`` is a whole number from 1 to 1000.
    """
    check_option("top_k", top_k, whole(1, MAX_TOP_K))
    scores = softmax(logits)
    last = max(len(scores) - top_k, 0)
    near = np.flatnonzero(~(scores < np.partition(scores, last)[last]))  # the best and what equals the last of them
    best = near[np.argsort(-scores[near], kind="stable")][:top_k]
    return [Prediction(labels[i], int(i), float(scores[i])) for i in best]


@dataclass(frozen=True)
class Accuracy:
    """Shares, 0..1, of pictures whose class is the most probable, and among the five most probable."""

    top1: float
    top5: float
    images: int


def measure(
    run: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    data: LabelledImages,
    progress: Callable[[int], object] = lambda _: None,
    batch_size: int = 50,
) -> Accuracy:
    """Return the accuracy of ``run``, pixels uint8 (N, H, W, 3) to logits (N, classes); ties go by class id.

    ``progress`` gets images done.
    """
    first = fifth = 0
    for start in range(0, len(data.labels), batch_size):
        labels = data.labels[start : start + batch_size, None]
        best = np.argsort(-run(data.images[start : start + batch_size]), axis=1, kind="stable")[:, :5]
        first += int((best[:, :1] == labels).sum())
        fifth += int((best == labels).sum())
        progress(len(labels))
    count = len(data.labels)
    return Accuracy(first / count, fifth / count, count)


def top1(
    model: DerivedModel,
    record: InputRecord,
    data: LabelledImages,
    batch_size: int = 100,
    progress: Callable[[int], object] = lambda _: None,
) -> float:
    """Return the share, 0..1, of images whose most probable class is their label; ``progress`` gets images done."""
    return measure(lambda pixels: model.run(record.encode(pixels)), data, progress, batch_size).top1
