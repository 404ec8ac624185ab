"""Classification: picture -> network input, logits -> predictions, and top-1."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitgear.engines.base import DerivedModel
from bitgear.inputs import InputRecord
from bitgear.tasks.datasets import LabelledImages, resize_crop
from bitgear.tasks.pictures import Picture


@dataclass(frozen=True)
class Prediction:
    """A class with its softmax probability in 0..1."""

    class_name: str
    class_id: int
    confidence: float


def preprocess(picture: Picture, record: InputRecord) -> NDArray[np.int8]:
    """Return the codes, int8 (1, 3, H, W), of the square in the centre, resized bilinearly to the input size.

    A picture of the input size is taken as it is. The input must be square.
    """
    return record.encode(resize_crop(picture.pixels, record.height_px)[None])


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return probabilities over the last axis; the largest logit is subtracted first, so nothing overflows."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    probabilities: NDArray[np.float64] = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probabilities


def predictions(logits: NDArray[np.float32], labels: Sequence[str], top_k: int) -> list[Prediction]:
    """Return the ``top_k`` most probable classes of one image (logits (classes,)), best first; ties by class id."""
    scores = softmax(logits)
    best = np.argsort(-scores, kind="stable")[:top_k]
    return [Prediction(labels[i], int(i), float(scores[i])) for i in best]


def top1(
    model: DerivedModel,
    record: InputRecord,
    data: LabelledImages,
    batch_size: int = 100,
    progress: Callable[[int], object] = lambda _: None,
) -> float:
    """Return the share, 0..1, of images whose most probable class is their label; ``progress`` gets images done."""
    hits = 0
    for start in range(0, len(data.labels), batch_size):
        logits = model.run(record.encode(data.images[start : start + batch_size]))
        hits += int((logits.argmax(axis=1) == data.labels[start : start + batch_size]).sum())
        progress(min(batch_size, len(data.labels) - start))
    return hits / len(data.labels)
