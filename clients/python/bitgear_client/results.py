"""What the calls return: immutable values, every unit in the name."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class and how sure the model is of it: ``class_id`` from 0, ``confidence`` 0..1."""

    class_name: str
    class_id: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Precision:
    """Which precision ran and why.

    ``requested`` is ``"2"``..``"8"`` or ``"auto"``; ``served`` the width in bits, 2..8; ``source`` who decided:
    ``request``, ``profile`` or ``default``; ``reason`` why: ``asked``, ``default``, ``floor``, ``ceiling`` or
    ``pruned``. A newer server may use further words.
    """

    requested: str
    served: int
    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time went on the server, in milliseconds.

    Waiting for a worker, decoding the image, deriving the width, inference, the rest of the work, and the total from
    receipt of the request to its answer.
    """

    queue_ms: float
    decode_ms: float
    switch_ms: float
    infer_ms: float
    post_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class ClassifyResult:
    """The answer for one image.

    ``id`` is the request id; ``version`` the model's; the size is that of the image in pixels, as the server saw it;
    ``predictions`` has at least one entry.
    """

    id: str
    model: str
    version: str
    image_width_px: int
    image_height_px: int
    predictions: tuple[Prediction, ...]
    precision: Precision
    timing: Timing

    @property
    def top(self) -> Prediction:
        """The prediction with the highest confidence."""
        return max(self.predictions, key=lambda prediction: prediction.confidence)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that the server has.

    ``precisions`` are the widths it offers and ``default_precision`` the one served unasked, in bits, 2..8;
    ``classes`` how many it tells apart; the input size is what the network sees, in pixels.
    """

    name: str
    version: str
    task: str
    precisions: tuple[int, ...]
    default_precision: int
    classes: int
    input_width_px: int
    input_height_px: int


@dataclass(frozen=True, slots=True)
class ModelDetails(ModelInfo):
    """A model with its ``labels`` by class id, its measured ``accuracy`` and its ``provenance``.

    ``accuracy`` maps a width in bits to metrics by name, such as ``{8: {"top1": 0.917}}``.
    """

    labels: tuple[str, ...]
    accuracy: Mapping[int, Mapping[str, float]]
    provenance: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Latency:
    """Median and 99th percentile of the last ``count`` engine calls at one width, in milliseconds."""

    p50_ms: float
    p99_ms: float
    count: int


@dataclass(frozen=True, slots=True)
class Rung:
    """One width of a ladder.

    ``precision`` in bits, 2..8; ``reason`` why it is not offered, ``None`` if it is; ``top1`` its accuracy, 0..1, and
    ``resident_bytes`` its memory, ``None`` where unknown; ``latency`` is ``None`` before its first call.
    """

    precision: int
    offered: bool
    reason: str | None
    top1: float | None
    resident: bool
    resident_bytes: int | None
    latency: Latency | None


@dataclass(frozen=True, slots=True)
class Ladder:
    """The widths of one model on this server, under the ``profile`` in force and with the ``engine`` in use."""

    model: str
    engine: str
    profile: str
    rungs: tuple[Rung, ...]
