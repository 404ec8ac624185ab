"""What the calls return: immutable values, every unit in the name."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class and how sure the model is of it: ``class_id`` from 0, ``confidence`` 0..1."""

    class_name: str
    class_id: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Precision:
    """Which precision ran and why.

    ``requested`` is ``"2"``..``"8"``, the name of a plan, or ``"auto"``; ``served`` the width in bits, 2..8, or the
    plan's name; ``source`` who decided: ``request``, ``policy``, ``profile`` or ``default``; ``reason`` why: ``asked``,
    ``default``, ``floor``, ``ceiling``, ``pruned``, ``slack``, ``backlog`` or ``lenient``. A newer server may use
    further words.
    """

    requested: str
    served: int | str
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
class InferenceResult:
    """What the answers of all tasks have.

    ``id`` is the request id; ``version`` the model's; the size is that of the upright image in pixels, and so are all
    coordinates.
    """

    id: str
    model: str
    version: str
    image_width_px: int
    image_height_px: int
    precision: Precision
    timing: Timing


@dataclass(frozen=True, slots=True)
class ClassifyResult(InferenceResult):
    """The classes of one image; ``predictions`` has at least one entry."""

    predictions: tuple[Prediction, ...]

    @property
    def top(self) -> Prediction:
        """The prediction with the highest confidence."""
        return max(self.predictions, key=lambda prediction: prediction.confidence)


@dataclass(frozen=True, slots=True)
class Detection:
    """An object: its class, ``confidence`` 0..1, and left, top, right and bottom edge in pixels of the image."""

    class_name: str
    class_id: int
    confidence: float
    box_xyxy: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class DetectResult(InferenceResult):
    """The objects in one image, the most confident first; empty if there are none."""

    detections: tuple[Detection, ...]


@dataclass(frozen=True, slots=True)
class PngMask:
    """``png``: the bytes of an 8-bit PNG of one channel, of the image's size, whose values are class ids.

    As an array, uint8 (H, W): ``numpy.asarray(PIL.Image.open(io.BytesIO(mask.png)))``.
    """

    width_px: int
    height_px: int
    png: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class RleSegment:
    """The pixels of one class, as COCO's uncompressed run lengths.

    ``counts`` are lengths of runs outside and inside the class by turns, the first one outside and possibly 0; pixels
    go down the columns from the left.
    """

    class_name: str
    class_id: int
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RleMask:
    """Run lengths of every class that occurs, by id."""

    width_px: int
    height_px: int
    segments: tuple[RleSegment, ...]


@dataclass(frozen=True, slots=True)
class PolygonSegment:
    """The outer outlines of the areas of one class: corners (x, y), clockwise along the edges of pixels."""

    class_name: str
    class_id: int
    polygons: tuple[tuple[tuple[int, int], ...], ...]


@dataclass(frozen=True, slots=True)
class PolygonMask:
    """Outlines of every class that occurs, by id."""

    width_px: int
    height_px: int
    segments: tuple[PolygonSegment, ...]


@dataclass(frozen=True, slots=True)
class SegmentedClass:
    """A class that occurs: how many ``pixels`` of the image, and which ``share``, 0..1, of all of them."""

    class_name: str
    class_id: int
    pixels: int
    share: float


@dataclass(frozen=True, slots=True)
class SegmentResult(InferenceResult):
    """The class of every pixel of one image: the ``mask`` in the format asked for, and the ``classes`` in it by id."""

    mask: PngMask | RleMask | PolygonMask
    classes: tuple[SegmentedClass, ...]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that the server has.

    ``precisions`` are the widths in bits, 2..8, and the plans by name that it offers; ``default_precision`` is the
    width served unasked; ``classes`` how many it tells apart; the input size is what the network sees, in pixels.
    """

    name: str
    version: str
    task: str
    precisions: tuple[int | str, ...]
    default_precision: int
    classes: int
    input_width_px: int
    input_height_px: int


@dataclass(frozen=True, slots=True)
class ModelDetails(ModelInfo):
    """A model with its ``labels`` by class id, its measured ``accuracy`` and its ``provenance``.

    ``accuracy`` maps a precision to metrics by name, such as ``{8: {"top1": 0.917}, "mixed-3.2": {"top1": 0.912}}``.
    """

    labels: tuple[str, ...]
    accuracy: Mapping[int | str, Mapping[str, float]]
    provenance: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Latency:
    """Median and 99th percentile of the last ``count`` engine calls at one precision, in milliseconds."""

    p50_ms: float
    p99_ms: float
    count: int


@dataclass(frozen=True, slots=True)
class Rung:
    """One precision of a ladder.

    ``precision``: a width in bits, 2..8, or the name of a plan; ``mean_bits``: of its layers; ``reason`` why it is not
    offered, ``None`` if it is; ``pruned`` why ``auto`` takes it only where bounds leave no better one, else ``None``. A
    batch of n images is expected to take ``batch_fixed_ms`` + n * ``batch_image_ms``, as measured on the server's
    device; ``latency`` is what calls with one image took, ``None`` before the first. ``accuracy`` is what is known of
    the metrics of the model's task, 0..1, such as ``{"map50_95": 0.41, "map50": 0.63}``; ``top1`` that one metric and
    ``resident_bytes`` its memory, ``None`` where unknown.
    """

    precision: int | str
    mean_bits: float
    offered: bool
    reason: str | None
    pruned: str | None
    batch_fixed_ms: float
    batch_image_ms: float
    accuracy: Mapping[str, float]
    top1: float | None
    resident: bool
    resident_bytes: int | None
    latency: Latency | None


@dataclass(frozen=True, slots=True)
class Ladder:
    """The precisions of one model on this server, under the ``profile`` in force and with the ``engine`` in use."""

    model: str
    engine: str
    profile: str
    rungs: tuple[Rung, ...]
