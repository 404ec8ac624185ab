"""How sensitive each layer is: the trace of the Hessian of the loss with respect to its weights, per weight.

Hutchinson's estimator with Rademacher vectors (Dong et al. 2020, HAWQ-V2, section 3.2) on the FP32 network with the
statistics of its batch norm fixed: the mean of ``v . H v`` over random signs ``v`` is the trace of H. The Hessian of
the mean loss is the mean of those of batches, so every batch takes signs of its own; that is as unbiased as one vector
for all batches and, for the same work, many times more exact. One backward pass through the gradient serves all layers:
between the signs of different layers the expectation is zero.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from bitgear.errors import BitgearError
from bitgear.files import write_atomically
from bitgear.graph import Conv
from trainer.config import HessianConfig, RunConfig
from trainer.model import Pass, QuantNet, require
from trainer.subject import Subject, check_subject, of_sections
from trainer.tasks.base import Task

FLOATS = "float network"
"""What the subject of traces calls the hash of the network that they are of."""


class TracesInvalid(BitgearError):
    """A file that holds no traces."""

    code = "traces-invalid"


@dataclass
class Traces:
    """Estimates of every layer's trace, one from each batch seen, and the number of its weights.

    ``network`` says in words which network they are of, ``subject`` what they are of to the bit: the network's
    :func:`network_fingerprint`, seed and data. A round is ``batches`` batches of ``images`` training images together.
    """

    network: str
    subject: Subject
    images: int
    batches: int
    weights: dict[str, int]
    samples: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.samples = {name: list(self.samples.get(name, ())) for name in self.weights}

    @property
    def count(self) -> int:
        """Estimates of each layer."""
        return min(map(len, self.samples.values()))

    @property
    def rounds(self) -> int:
        """Complete rounds over the batches."""
        return self.count // self.batches

    def average(self) -> dict[str, float]:
        """Return each layer's trace divided by its number of weights, by the complete rounds; NaN before the first."""
        return {name: float(np.mean(rows)) if len(rows) else math.nan for name, rows in self._per_weight()}

    def error(self) -> dict[str, float]:
        """Return the standard error of :meth:`average` by the signs drawn; infinite before the second round.

        The images are given: what differs between batches is no error, what differs between rounds of a batch is.
        """
        if self.rounds < 2:
            return dict.fromkeys(self.weights, math.inf)
        size = self.rounds * self.batches
        return {name: math.sqrt(float(np.mean(np.var(rows, 0, ddof=1))) / size) for name, rows in self._per_weight()}

    def relative_error(self) -> float:
        """Return the largest standard error of a layer, as a share of that layer's trace or of a tenth of the largest.

        A layer whose trace is a hundredth of the largest need not be known to the per cent.
        """
        average, error = self.average(), self.error()
        floor = max(map(abs, average.values())) / 10
        return max(error[name] / max(abs(average[name]), floor, 1e-30) for name in average)

    def _per_weight(self) -> Iterator[tuple[str, NDArray[np.float64]]]:
        """Yield each layer's estimates per weight, (rounds, batches), without those of an incomplete round."""
        for name, values in self.samples.items():
            rows = np.array(values[: self.rounds * self.batches]).reshape(-1, self.batches)
            yield name, rows / self.weights[name]

    def save(self, path: Path) -> None:
        """Write the estimates."""
        write_atomically(path, (json.dumps(asdict(self)) + "\n").encode())

    @classmethod
    def read(cls, path: Path) -> "Traces":
        """Return the estimates in a file; raise :class:`TracesInvalid` if there are none."""
        try:
            values: Any = json.loads(path.read_text(encoding="utf-8"))
            return cls(**values)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise TracesInvalid(f"{path} holds no traces: {error}; delete it and they are computed anew") from error


def searchable_weights(model: QuantNet) -> dict[str, Tensor]:
    """Return the weights of the layers whose width the graph leaves open, by node name."""
    return {conv.name: require(model.layer(conv.name).weight) for conv in model.graph.searchable}


def hessian_products(
    model: QuantNet, loss: Callable[[Tensor, Any], Tensor], codes: Tensor, targets: Any, signs: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Return H v of the mean loss of one batch, in the shapes of the weights; ``signs`` holds v, layer by layer."""
    weights = list(searchable_weights(model).values())
    value = loss(model(codes, Pass(None, training=False)), targets)
    gradients = torch.autograd.grad(value, weights, create_graph=True)
    return torch.autograd.grad(gradients, weights, list(signs))


def estimate(
    model: QuantNet, loss: Callable[[Tensor, Any], Tensor], batches: Callable[[], Iterator[tuple[Tensor, Any]]],
    traces: Traces, settings: HessianConfig, *, path: Path, seed: int, progress: bool,
) -> Traces:  # fmt: skip
    """Return the traces once they are known to ``settings.tolerance``, or after ``settings.rounds`` over the batches.

    Goes on from what ``traces`` holds and writes it to ``path`` after every batch; with an interruption it ends with
    the same numbers as without.
    """
    weights = searchable_weights(model)
    with tqdm(desc="traces", unit="batch", initial=traces.count, disable=not progress, leave=False) as bar:
        while traces.rounds < settings.rounds and (traces.rounds < 2 or traces.relative_error() > settings.tolerance):
            for codes, targets in islice(batches(), traces.count % traces.batches, None):
                generator = torch.Generator().manual_seed(seed * 1_000_003 + traces.count)
                signs = [_signs(weight, generator) for weight in weights.values()]
                products = hessian_products(model, loss, codes, targets, signs)
                for name, sign, product in zip(weights, signs, products, strict=True):
                    traces.samples[name].append(float((sign * product).sum(dtype=torch.float64)))
                traces.save(path)
                bar.update()
            bar.set_postfix_str(f"error {traces.relative_error():.1%}")
    return traces


def measure_traces(
    model: QuantNet, task: Task, config: RunConfig, path: Path, *, network: str, progress: bool = True
) -> Traces:  # fmt: skip
    """Return the traces of a float network on its task's training images, going on from what ``path`` holds.

    Raises :class:`~trainer.config.ConfigError` if that is of another network, seed or data.
    """
    settings = config.hessian
    subject = {
        FLOATS: network_fingerprint(model),
        **of_sections(config, task, ("task", "data")),
        "train.seed": config.train.seed,
        "hessian.images": settings.images,
        "hessian.batch_size": settings.batch_size,
    }
    size = min(settings.batch_size, settings.images)
    count = settings.images // size
    sizes = [len(codes) for codes, _ in task.sample(size, count)]
    weights = {name: weight.numel() for name, weight in searchable_weights(model).items()}
    if path.is_file():
        traces = Traces.read(path)
        check_subject(path, json.dumps(traces.subject), subject)
    else:
        traces = Traces(network, subject, sum(sizes), len(sizes), weights)
    return estimate(
        model, task.loss, lambda: task.sample(size, count), traces, settings, path=path,
        seed=config.train.seed, progress=progress,
    )  # fmt: skip


def network_fingerprint(model: QuantNet) -> str:
    """Return a hash of the float network: of its weights, biases and batch norms."""
    digest = hashlib.sha256()
    for node, layer in model.quantised():
        norms = layer.batch_norm(None).state_dict().values() if isinstance(node, Conv) else ()
        for tensor in (layer.weight, layer.bias, *norms):
            if tensor is not None:
                digest.update(tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def _signs(weight: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randint(0, 2, weight.shape, generator=generator).to(weight.dtype) * 2 - 1
    return drawn.to(weight.device)
