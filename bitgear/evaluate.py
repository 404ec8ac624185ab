"""Accuracy per width, measured through an engine."""

import time
from collections.abc import Callable, Sequence

from bitgear.checkpoint import Master
from bitgear.engines.base import Engine
from bitgear.tasks.classify import top1
from bitgear.tasks.datasets import LabelledImages


def evaluate_classifier(
    master: Master,
    engine: Engine,
    data: LabelledImages,
    widths: Sequence[int],
    progress: Callable[[int], object] = lambda _: None,
) -> dict[int, dict[str, float]]:
    """Return ``top1`` (0..1), ``images`` and ``seconds`` for every width; ``progress`` gets images done."""
    results = {}
    for bits in widths:
        started = time.perf_counter()
        accuracy = top1(engine.derive(master, bits), master.input, data, progress=progress)
        results[bits] = {"top1": accuracy, "images": len(data.labels), "seconds": time.perf_counter() - started}
    return results
