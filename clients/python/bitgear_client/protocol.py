"""The HTTP contract as pure functions: arguments to a request, an answer to a result. No I/O, no clock.

Each ``*_call`` pairs a request with the function that reads its answer; a client only has to carry one to the server
and the other back. Paths, header names and member names of the contract are spelled here and nowhere else.
"""

import base64
import binascii
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Generic, Literal, TypeAlias, TypedDict, TypeVar
from urllib.parse import quote

from bitgear_client.errors import InputError, ProtocolError, ServerProblem, problem_class
from bitgear_client.fields import Fields, finite_number, parse_json
from bitgear_client.results import (
    ClassifyResult,
    Detection,
    DetectResult,
    Ladder,
    Latency,
    ModelDetails,
    ModelInfo,
    PngMask,
    PolygonMask,
    PolygonSegment,
    Precision,
    Prediction,
    RleMask,
    RleSegment,
    Rung,
    SegmentedClass,
    SegmentResult,
    Timing,
)

DEFAULT_MODEL = "resnet20-cifar10"

PrecisionWish: TypeAlias = int | str
"""A width in bits, 2..8, or the name of a plan, served exactly or refused; or ``"auto"``, and the server chooses."""

ClassFilter: TypeAlias = str | Sequence[str | int]
"""Names or ids of classes: a sequence of them, or one string in which commas separate them."""

MaskFormat: TypeAlias = Literal["png", "rle", "polygon"]
"""How a mask is written: a PNG of class ids, COCO's run lengths, or outer outlines."""

_STANDARD_MEMBERS = frozenset({"type", "title", "status", "detail", "instance", "error"})

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """What to send: ``path`` is percent-encoded and relative to the base URL, ``query`` is not encoded yet."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: HTTP status, headers with their names in lower case, body with any content coding removed."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request, how to read its answer, and whether a refusal for now is worth retrying."""

    request: Request
    parse: Callable[[Answer], T]
    retry: bool = True


def classify_call(
    image: bytes,
    model: str = DEFAULT_MODEL,
    *,
    precision: PrecisionWish | None = None,
    precision_min: int | None = None,
    precision_max: int | None = None,
    device_profile: str | None = None,
    lenient: bool = False,
    deadline_ms: float | None = None,
    priority: int | None = None,
    top_k: int | None = None,
    request_id: str | None = None,
) -> Call[ClassifyResult]:
    """Return the call that classifies one image file, given as its bytes. Arguments left at ``None`` are not sent.

    Values are not judged here, the server does that; only what HTTP cannot carry raises ``InputError``.

    >>> call = classify_call(b"...", precision=4, top_k=3)
    >>> call.request.path, call.request.headers["Precision"], call.request.query
    ('/v1/models/resnet20-cifar10/classify', '4', {'top_k': '3'})
    """
    headers = _headers(precision, precision_min, precision_max, device_profile, lenient, deadline_ms, request_id)
    query = _query({"priority": priority, "top_k": top_k})
    return Call(Request("POST", f"{_model_path(model)}/classify", headers, query, image), parse_classify)


def detect_call(
    image: bytes,
    model: str,
    *,
    precision: PrecisionWish | None = None,
    precision_min: int | None = None,
    precision_max: int | None = None,
    device_profile: str | None = None,
    lenient: bool = False,
    deadline_ms: float | None = None,
    priority: int | None = None,
    confidence: float | None = None,
    iou: float | None = None,
    max_detections: int | None = None,
    classes: ClassFilter | None = None,
    request_id: str | None = None,
) -> Call[DetectResult]:
    """Return the call that detects the objects in one image file; as ``classify_call``.

    >>> detect_call(b"...", "boxes", confidence=1e-5, classes=["car", 2]).request.query
    {'confidence': '0.00001', 'classes': 'car,2'}
    """
    headers = _headers(precision, precision_min, precision_max, device_profile, lenient, deadline_ms, request_id)
    controls = {
        "priority": priority,
        "confidence": None if confidence is None else _decimal(number("confidence", confidence)),
        "iou": None if iou is None else _decimal(number("iou", iou)),
        "max_detections": max_detections,
        "classes": None if classes is None else _class_filter(classes),
    }
    return Call(Request("POST", f"{_model_path(model)}/detect", headers, _query(controls), image), parse_detect)


def segment_call(
    image: bytes,
    model: str,
    *,
    precision: PrecisionWish | None = None,
    precision_min: int | None = None,
    precision_max: int | None = None,
    device_profile: str | None = None,
    lenient: bool = False,
    deadline_ms: float | None = None,
    priority: int | None = None,
    mask_format: MaskFormat | None = None,
    request_id: str | None = None,
) -> Call[SegmentResult]:
    """Return the call that tells the class of every pixel of one image file; as ``classify_call``."""
    headers = _headers(precision, precision_min, precision_max, device_profile, lenient, deadline_ms, request_id)
    query = _query({"priority": priority, "mask_format": mask_format})
    return Call(Request("POST", f"{_model_path(model)}/segment", headers, query, image), parse_segment)


def models_call() -> Call[tuple[ModelInfo, ...]]:
    """Return the call that lists the models."""
    return Call(Request("GET", "/v1/models"), parse_models)


def model_call(name: str) -> Call[ModelDetails]:
    """Return the call that describes one model."""
    return Call(Request("GET", _model_path(name)), parse_model)


def ladder_call(name: str) -> Call[Ladder]:
    """Return the call that lists the precisions of one model."""
    return Call(Request("GET", f"{_model_path(name)}/ladder"), parse_ladder)


def live_call() -> Call[bool]:
    """Return the call that asks whether the process answers; never retried, it asks about now."""
    return Call(Request("GET", "/v2/health/live"), parse_health, retry=False)


def ready_call() -> Call[bool]:
    """Return the call that asks whether the server takes requests; never retried, it asks about now."""
    return Call(Request("GET", "/v2/health/ready"), parse_health, retry=False)


def parse_classify(answer: Answer) -> ClassifyResult:
    """Return the classification.

    Raises ``ServerProblem`` or a subclass for a refusal, ``ProtocolError`` for an answer outside the contract.
    """
    fields = _fields(answer)
    predictions = tuple(
        Prediction(item.text("class"), item.integer("class_id"), item.number("confidence"))
        for item in fields.list_of_fields("predictions")
    )
    if not predictions:
        raise ProtocolError("answer.predictions is empty")
    return ClassifyResult(**_inference(fields), predictions=predictions)


def parse_detect(answer: Answer) -> DetectResult:
    """Return the objects; raises as ``parse_classify``."""
    fields = _fields(answer)
    detections = tuple(
        Detection(item.text("class"), item.integer("class_id"), item.number("confidence"), _box(item))
        for item in fields.list_of_fields("detections")
    )
    return DetectResult(**_inference(fields), detections=detections)


def parse_segment(answer: Answer) -> SegmentResult:
    """Return the mask and its classes; raises as ``parse_classify``."""
    fields = _fields(answer)
    classes = tuple(
        SegmentedClass(item.text("class"), item.integer("class_id"), item.integer("pixels"), item.number("share"))
        for item in fields.list_of_fields("classes")
    )
    return SegmentResult(**_inference(fields), mask=_mask(fields.fields("mask")), classes=classes)


def parse_models(answer: Answer) -> tuple[ModelInfo, ...]:
    """Return the models, in the server's order; raises as ``parse_classify``."""
    return tuple(_model_info(item) for item in _fields(answer).list_of_fields("models"))


def parse_model(answer: Answer) -> ModelDetails:
    """Return one model with its details; raises as ``parse_classify``."""
    fields = _fields(answer)
    info = _model_info(fields)
    return ModelDetails(
        name=info.name,
        version=info.version,
        task=info.task,
        precisions=info.precisions,
        default_precision=info.default_precision,
        classes=info.classes,
        input_width_px=info.input_width_px,
        input_height_px=info.input_height_px,
        labels=fields.texts("labels"),
        accuracy=_accuracy(fields.fields("accuracy")),
        provenance=fields.fields("provenance").raw(),
    )


def parse_ladder(answer: Answer) -> Ladder:
    """Return the precisions of one model, in the server's order; raises as ``parse_classify``."""
    fields = _fields(answer)
    return Ladder(
        model=fields.text("model"),
        engine=fields.text("engine"),
        profile=fields.text("profile"),
        rungs=tuple(_rung(item) for item in fields.list_of_fields("rungs")),
    )


def parse_health(answer: Answer) -> bool:
    """Return whether the answer is a yes (200) or a no (503); any other status raises as ``parse_classify``."""
    if answer.status in (200, 503):
        return answer.status == 200
    raise _refusal(answer)


def parse_problem(answer: Answer) -> ServerProblem:
    """Return the error for an answer with status 400..599, whether or not its body is a problem document."""
    try:
        document = Fields(parse_json(answer.body), "problem").raw()
    except ProtocolError:  # a proxy's page: its status still says what to do
        document = {}
    type_, detail, instance = document.get("type"), document.get("detail"), document.get("instance")
    type_ = type_ if isinstance(type_, str) else "about:blank"
    if not isinstance(detail, str):
        detail = answer.body[:200].decode(errors="replace") or "the answer has no body"
    members = {name: value for name, value in document.items() if name not in _STANDARD_MEMBERS}
    return problem_class(type_, answer.status)(
        status=answer.status,
        type=type_,
        detail=detail,
        request_id=answer.headers.get("x-request-id") or (instance if isinstance(instance, str) else None),
        members=members,
        retry_after_s=_retry_after_s(answer.headers, members),
    )


def _retry_after_s(headers: Mapping[str, str], members: Mapping[str, object]) -> float | None:
    """Seconds from the header (a number, or a date measured against the answer's own), else from the body."""
    header = headers.get("retry-after", "").strip()
    if header.isascii() and header.isdigit():
        return float(header)
    until, now = _http_date(header), _http_date(headers.get("date", ""))
    if until is not None and now is not None:
        return max(0.0, (until - now).total_seconds())
    wait_s = finite_number(members.get("retry_after_s"))
    return None if wait_s is None else max(0.0, wait_s)


def _http_date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return date if date.tzinfo is not None else None


def _fields(answer: Answer) -> Fields:
    if answer.status != 200:
        raise _refusal(answer)
    return Fields(parse_json(answer.body), "answer")


def _refusal(answer: Answer) -> ServerProblem | ProtocolError:
    if 400 <= answer.status <= 599:
        return parse_problem(answer)
    return ProtocolError(f"expected status 200 or an error, got {answer.status}; is base_url right?")


class _Inference(TypedDict):
    id: str
    model: str
    version: str
    image_width_px: int
    image_height_px: int
    precision: Precision
    timing: Timing


def _inference(fields: Fields) -> _Inference:
    image = fields.fields("image")
    precision = fields.fields("precision")
    timing = fields.fields("timing_ms")
    return {
        "id": fields.text("id"),
        "model": fields.text("model"),
        "version": fields.text("version"),
        "image_width_px": image.integer("width"),
        "image_height_px": image.integer("height"),
        "precision": Precision(
            requested=precision.text("requested"),
            served=precision.precision("served"),
            source=precision.text("source"),
            reason=precision.text("reason"),
        ),
        "timing": Timing(
            queue_ms=timing.number("queue"),
            decode_ms=timing.number("decode"),
            switch_ms=timing.number("switch"),
            infer_ms=timing.number("infer"),
            post_ms=timing.number("post"),
            total_ms=timing.number("total"),
        ),
    }


def _box(fields: Fields) -> tuple[float, float, float, float]:
    sides = fields.numbers("box")
    if len(sides) != 4:
        raise ProtocolError(f"answer.detections: expected boxes of 4 numbers, got {len(sides)}")
    return sides[0], sides[1], sides[2], sides[3]


def _mask(fields: Fields) -> PngMask | RleMask | PolygonMask:
    width_px, height_px, form = fields.integer("width"), fields.integer("height"), fields.text("format")
    if form == "png":
        try:
            return PngMask(width_px, height_px, base64.b64decode(fields.text("data"), validate=True))
        except (binascii.Error, ValueError) as error:
            raise ProtocolError(f"answer.mask.data is not base64: {error}") from error
    if form == "rle":
        runs = (
            RleSegment(item.text("class"), item.integer("class_id"), item.fields("rle").integers("counts"))
            for item in fields.list_of_fields("segments")
        )
        return RleMask(width_px, height_px, tuple(runs))
    if form == "polygon":
        areas = (
            PolygonSegment(item.text("class"), item.integer("class_id"), item.outlines("polygons"))
            for item in fields.list_of_fields("segments")
        )
        return PolygonMask(width_px, height_px, tuple(areas))
    raise ProtocolError(f"answer.mask.format: expected png, rle or polygon, got {form!r}")


def _model_info(fields: Fields) -> ModelInfo:
    size = fields.fields("input")
    return ModelInfo(
        name=fields.text("name"),
        version=fields.text("version"),
        task=fields.text("task"),
        precisions=fields.precisions("precisions"),
        default_precision=fields.integer("default_precision"),
        classes=fields.integer("classes"),
        input_width_px=size.integer("width"),
        input_height_px=size.integer("height"),
    )


def _accuracy(fields: Fields) -> dict[int | str, dict[str, float]]:
    accuracy: dict[int | str, dict[str, float]] = {}
    for precision in fields.names():
        metrics = fields.fields(precision)
        key = int(precision) if precision.isascii() and precision.isdigit() else precision
        accuracy[key] = {name: metrics.number(name) for name in metrics.names()}
    return accuracy


def _rung(fields: Fields) -> Rung:
    latency = fields.fields_or_none("latency_ms")
    accuracy, batch = fields.fields("accuracy"), fields.fields("batch_ms")
    return Rung(
        precision=fields.precision("precision"),
        mean_bits=fields.number("mean_bits"),
        offered=fields.flag("offered"),
        reason=fields.text_or_none("reason"),
        pruned=fields.text_or_none("pruned"),
        batch_fixed_ms=batch.number("fixed"),
        batch_image_ms=batch.number("per_image"),
        accuracy={name: accuracy.number(name) for name in accuracy.names()},
        top1=fields.number_or_none("top1"),
        resident=fields.flag("resident"),
        resident_bytes=fields.integer_or_none("resident_bytes"),
        latency=None if latency is None else _latency(latency),
    )


def _latency(fields: Fields) -> Latency:
    return Latency(p50_ms=fields.number("p50"), p99_ms=fields.number("p99"), count=fields.integer("count"))


def _model_path(name: str) -> str:
    if not isinstance(name, str) or name in ("", ".", ".."):  # a URL would lose these
        raise InputError(f"{name!r} is not a model's name")
    return f"/v1/models/{quote(_encodable('model', name), safe='')}"


def number(name: str, value: float) -> float:
    """Return a value as a float; raise ``InputError`` for one that is none."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{name}: {value!r} is not a number") from error


def header_value(name: str, value: object) -> str:
    """Return a value as a header; raise ``InputError`` for one that cannot be."""
    text = str(value)
    if not (text.isascii() and text.isprintable() and text == text.strip()):
        raise InputError(f"{name}: {text!r} cannot be a header; printable ASCII without spaces around it can")
    return text


def _headers(
    precision: PrecisionWish | None,
    precision_min: int | None,
    precision_max: int | None,
    device_profile: str | None,
    lenient: bool,
    deadline_ms: float | None,
    request_id: str | None,
) -> dict[str, str]:
    controls = {
        "Precision": precision,
        "Precision-Min": precision_min,
        "Precision-Max": precision_max,
        "Device-Profile": device_profile,
        "Prefer": "handling=lenient" if lenient else None,
        "Deadline-Ms": None if deadline_ms is None else _milliseconds(deadline_ms),
        "X-Request-Id": request_id,
    }
    headers = {name: header_value(name, value) for name, value in controls.items() if value is not None}
    headers["Content-Type"] = "application/octet-stream"  # the server tells the format from the bytes
    return headers


def _query(controls: Mapping[str, object]) -> dict[str, str]:
    return {name: _encodable(name, str(value)) for name, value in controls.items() if value is not None}


def _encodable(name: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair
        raise InputError(f"{name}: {text!r} cannot be part of a URL: {error}") from error
    return text


def _milliseconds(value: float) -> str:
    """Return a time as the server takes it: with three decimals at most, and not rounded to nothing."""
    rounded = round(number("deadline_ms", value), 3)
    return _decimal(rounded) if rounded > 0 and math.isfinite(rounded) else str(value)


def _decimal(value: float) -> str:
    """Return a number without an exponent, which the server does not take."""
    return format(Decimal(repr(value)), "f")


def _class_filter(classes: ClassFilter) -> str:
    if isinstance(classes, str):
        return classes
    try:
        names = [str(name) for name in classes]
    except TypeError as error:
        raise InputError(f"classes: {classes!r} is neither a string nor a sequence of names and ids") from error
    for name in names:
        if "," in name:
            raise InputError(f"classes: {name!r} has a comma in it, which separates classes; give its id")
    return ",".join(names)
