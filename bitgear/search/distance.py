"""How far a plan's output is from that at 8 bits, on pictures. Labels are not asked."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from bitgear.bits import MASTER_BITS, Plan
from bitgear.checkpoint import Master
from bitgear.engines.base import Engine
from bitgear.search.statistics import BATCH_IMAGES

Between = Callable[[NDArray[np.float32], NDArray[np.float32]], float]
"""Of outputs, float32 (N, channels, ...), and those at 8 bits."""


def moved(outputs: NDArray[np.float32], at_rest: NDArray[np.float32]) -> float:
    """Return the mean square of what outputs move by, relative to their variance at rest, if they have one."""
    return float(np.square(outputs - at_rest).mean()) / max(float(at_rest.var()), 1e-30)


def divergence(outputs: NDArray[np.float32], at_rest: NDArray[np.float32]) -> float:
    """Return the Kullback-Leibler divergence of the classes' probabilities, softmax over axis 1, in nats; the mean."""
    wanted = _log_softmax(at_rest)
    return float((np.exp(wanted) * (wanted - _log_softmax(outputs))).sum(axis=1).mean())


BETWEEN: Mapping[str, Between] = {"classify": divergence, "segment": divergence, "detect": moved}
"""What plans are told apart by, by task."""


class Distance:
    """The distance of a master's plans from its 8 bits on pictures, int8 codes (N, 3, H, W): the mean over batches."""

    def __init__(self, master: Master, engine: Engine, q_images: NDArray[np.int8], between: Between) -> None:
        self.engine = engine
        self.between = between
        self.batches = [q_images[start : start + BATCH_IMAGES] for start in range(0, len(q_images), BATCH_IMAGES)]
        self._at_rest = list(self._outputs(master, Plan.uniform(MASTER_BITS)))

    def of(self, master: Master, plan: Plan) -> float:
        """Return how far a plan is; ``master`` may hold other plans than the one that was given first."""
        if plan == Plan.uniform(MASTER_BITS):
            return 0.0
        weighed = [
            self.between(output, at_rest) * len(output)
            for output, at_rest in zip(self._outputs(master, plan), self._at_rest, strict=True)
        ]
        return sum(weighed) / sum(map(len, self.batches))

    def _outputs(self, master: Master, plan: Plan) -> Iterator[NDArray[np.float32]]:
        model = self.engine.derive(master, plan)
        yield from map(model.run, self.batches)


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_probabilities: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log_probabilities
