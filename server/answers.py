"""The JSON of successful answers, as OpenAPI documents it. docs/http.md says what each field means."""

import json
from typing import Annotated, Any, Literal

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from bitgear.bits import PLAN_NAME_PATTERN
from server.body import JSON

_encoder = json.JSONEncoder(separators=(",", ":"))


def to_json(content: object) -> bytes:
    """Return JSON without blanks, in UTF-8."""
    try:
        return pydantic_core.to_json(content)
    except pydantic_core.PydanticSerializationError:  # half of a surrogate pair, which a client may send as an id
        return _encoder.encode(content).encode("ascii")


def json_response(content: object) -> Response:
    """Return an answer in JSON."""
    return Response(to_json(content), media_type=JSON)


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


PrecisionName = Annotated[int, Field(ge=2, le=8)] | Annotated[str, Field(pattern=f"^{PLAN_NAME_PATTERN}$")]
"""A width in bits, or the name of a plan."""


class ImageSize(_Answer):
    """Pixels of the upright image."""

    width: int
    height: int


class PrecisionServed(_Answer):
    """What was asked, what ran, and why."""

    requested: str
    served: PrecisionName
    source: str
    reason: str


class TimingMs(_Answer):
    """Milliseconds by phase."""

    queue: float
    decode: float
    switch: float
    infer: float
    post: float
    total: float


class InferenceAnswer(_Answer):
    """What the answers of all tasks have."""

    id: str
    model: str
    version: str
    image: ImageSize
    precision: PrecisionServed
    timing_ms: TimingMs


class _Class(_Answer):
    class_name: str = Field(alias="class")
    class_id: int = Field(ge=0)


class PredictedClass(_Class):
    """A class with its softmax probability."""

    confidence: float = Field(ge=0, le=1)


class ClassifyAnswer(InferenceAnswer):
    """The best classes of one image."""

    predictions: list[PredictedClass]


class DetectedObject(_Class):
    """A box ``[x1, y1, x2, y2]`` in pixels of the upright image, and its class."""

    confidence: float = Field(ge=0, le=1)
    box: Annotated[list[float], Field(min_length=4, max_length=4)]


class DetectAnswer(InferenceAnswer):
    """The objects in one image, the most confident first."""

    detections: list[DetectedObject]


class _Mask(_Answer):
    width: int
    height: int


class PngMask(_Mask):
    """Base64 of an 8-bit PNG of one channel: the class id of every pixel."""

    format: Literal["png"]
    data: str


class RunLengths(_Answer):
    """COCO's uncompressed run-length encoding: ``[height, width]``, and lengths of runs outside and inside by turns."""

    size: Annotated[list[int], Field(min_length=2, max_length=2)]
    counts: list[int]


class RleSegment(_Class):
    """The pixels of one class."""

    rle: RunLengths


class RleMask(_Mask):
    """Run lengths of every class in the image."""

    format: Literal["rle"]
    segments: list[RleSegment]


class PolygonSegment(_Class):
    """The outer outlines of the areas of one class: corners ``[x, y]`` in pixels of the upright image."""

    polygons: list[list[Annotated[list[int], Field(min_length=2, max_length=2)]]]


class PolygonMask(_Mask):
    """Outlines of every class in the image."""

    format: Literal["polygon"]
    segments: list[PolygonSegment]


class SegmentedClass(_Class):
    """How many pixels of the image are of a class, and which part of all that is."""

    pixels: int = Field(ge=1)
    share: float = Field(gt=0, le=1)


class SegmentAnswer(InferenceAnswer):
    """The class of every pixel of one image."""

    mask: PngMask | RleMask | PolygonMask
    classes: list[SegmentedClass]


class InputSize(_Answer):
    """Pixels of the network's input."""

    height: int
    width: int


class ModelSummary(_Answer):
    """A served model."""

    name: str
    version: str
    task: str
    precisions: list[PrecisionName]
    default_precision: int
    classes: int
    input: InputSize


class ModelList(_Answer):
    """All served models."""

    models: list[ModelSummary]


class ModelDetail(ModelSummary):
    """A served model with all that its master says about it."""

    labels: list[str]
    accuracy: dict[str, dict[str, float]]
    provenance: dict[str, Any]


class LatencyMs(_Answer):
    """Percentiles of recent engine calls."""

    p50: float
    p99: float
    count: int


class BatchMs(_Answer):
    """Milliseconds that a batch takes: ``fixed``, and ``per_image`` for each image in it."""

    fixed: float
    per_image: float


class Rung(_Answer):
    """One precision on this device; ``mean_bits`` is the mean width of its layers."""

    precision: PrecisionName
    mean_bits: float
    offered: bool
    reason: str | None
    pruned: str | None
    batch_ms: BatchMs
    accuracy: dict[str, float]
    top1: float | None
    resident: bool
    resident_bytes: int
    latency_ms: LatencyMs | None


class Ladder(_Answer):
    """The precisions of a model on this device: widths, highest first, and plans between them by their time."""

    model: str
    engine: str
    profile: str
    times: Literal["assumed", "measuring", "measured"]
    rungs: list[Rung]


class ServerMetadata(_Answer):
    """The server, as the Open Inference Protocol describes it."""

    name: str
    version: str
    extensions: list[str]


class ModelNames(_Answer):
    """The names of all served models."""

    models: list[str]


class TensorMetadata(_Answer):
    """A tensor of a model; an extent of -1 is free."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, str | float] | None = None


class ModelMetadata(_Answer):
    """A model, as the Open Inference Protocol describes it: ``alternative_inputs`` are other forms of its one input."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    alternative_inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: dict[str, str | int]


class ModelReady(_Answer):
    """A model that can be asked."""

    name: str
    ready: Literal[True]


class Output(_Answer):
    """An output tensor: its ``data`` row by row, or the parameter ``binary_data_size``."""

    name: str
    datatype: Literal["FP32", "BYTES"]
    shape: list[int]
    parameters: dict[str, int] | None = None
    data: list[float | str] | None = None


class InferAnswer(_Answer):
    """Output tensors, and in flat parameters what ran, why, and how long it took."""

    model_name: str
    model_version: str
    id: str
    parameters: dict[str, str | float]
    outputs: list[Output]


class RepositoryEntry(_Answer):
    """A model that is served or could be."""

    name: str
    version: str | None = None
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


class LoadedModel(_Answer):
    """A model that is served from now on, and its version."""

    name: str
    version: str


class UnloadedModel(_Answer):
    """A model that is no longer served."""

    name: str


class Health(_Answer):
    """A probe's answer. ``live`` and ``ready`` are where clients of the Open Inference Protocol look.

    ``measuring``: times of this device are not all known yet, with those who are ready.
    """

    status: str
    live: Literal[True]
    ready: Literal[True] | None = None
    measuring: bool | None = None
