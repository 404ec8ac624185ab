"""The JSON of successful answers, as OpenAPI documents it. docs/http.md says what each field means."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ImageSize(_Answer):
    """Pixels of the upright image."""

    width: int
    height: int


class PredictedClass(_Answer):
    """A class with its softmax probability."""

    class_name: str = Field(alias="class")
    class_id: int
    confidence: float = Field(ge=0, le=1)


class PrecisionServed(_Answer):
    """What was asked, what ran, and why."""

    requested: str
    served: int = Field(ge=2, le=8)
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


class ClassifyAnswer(_Answer):
    """The best classes of one image."""

    id: str
    model: str
    version: str
    image: ImageSize
    predictions: list[PredictedClass]
    precision: PrecisionServed
    timing_ms: TimingMs


class InputSize(_Answer):
    """Pixels of the network's input."""

    height: int
    width: int


class ModelSummary(_Answer):
    """A served model."""

    name: str
    version: str
    task: str
    precisions: list[int]
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


class Rung(_Answer):
    """One width on this device."""

    precision: int
    offered: bool
    reason: str | None
    top1: float | None
    resident: bool
    resident_bytes: int
    latency_ms: LatencyMs | None


class Ladder(_Answer):
    """The widths of a model on this device, highest first."""

    model: str
    engine: str
    profile: str
    rungs: list[Rung]


class Health(_Answer):
    """A probe's answer."""

    status: str
