"""The precision that a request asks for: controls -> :class:`Wish`. Their names are spelled here alone."""

from dataclasses import dataclass

from bitgear.bits import PLAN_NAME_PATTERN, is_plan_name, parse_bits
from bitgear.errors import PrecisionError
from server.controls import Control, Controls, by_name, milliseconds, whole, whole_or_text, yes_or_no
from server.errors import BadParameter

AUTO = "auto"

PRECISION_HEADER = "Precision"
SOURCE_HEADER = "Precision-Source"

MAX_DEADLINE_MS = 3_600_000
MAX_PRIORITY = 1


@dataclass(frozen=True)
class Wish:
    """What one request asks for.

    ``precision``: the name of a width or a plan; None is ``auto``. ``floor`` and ``ceiling``: widths, bounds of the
    mean width of what serves; None: not asked. ``lenient``: what was pinned may be lowered to save the deadline.
    ``deadline_ms``: from receipt of the request, above 0. ``priority``: 0 or, sooner, 1.
    """

    precision: str | None = None
    floor: int | None = None
    ceiling: int | None = None
    profile: str | None = None
    lenient: bool = False
    deadline_ms: float | None = None
    priority: int = 0

    @property
    def asked(self) -> str:
        """The precision as a client writes it: a digit, the name of a plan, or ``auto``."""
        return AUTO if self.precision is None else self.precision


def _width(raw: object) -> int:
    try:
        return parse_bits(whole_or_text(raw))
    except PrecisionError as error:
        raise ValueError("not a width; expected one digit from 2 to 8") from error


def _precision(raw: object) -> str:
    text = whole_or_text(raw)
    if text == AUTO or is_plan_name(text):  # whether the model has the plan is seen where its ladder is
        return text
    try:
        return str(_width(raw))
    except ValueError as error:
        raise ValueError(f"{error}, the name of a plan, or {AUTO!r}") from error


def _handling(value: str) -> str | None:
    """Return what the header ``Prefer`` (RFC 7240) says about ``lenient``; its other preferences are not ours."""
    for preference in value.lower().split(","):
        name, _, word = preference.split(";")[0].partition("=")
        if name.strip() == "handling" and word.strip(' \t"') in ("lenient", "strict"):
            return "true" if "lenient" in word else "false"
    return None


_WIDTH_SCHEMA = {"type": "string", "pattern": "^[2-8]$"}
_WIDTH_NUMBER = {"type": "integer", "minimum": 2, "maximum": 8}

PRECISION_CONTROLS = by_name(
    Control(
        "precision",
        PRECISION_HEADER,
        _precision,
        {"type": "string", "pattern": f"^([2-8]|(?!(none|w[2-8]a[2-8])$){PLAN_NAME_PATTERN})$"},
        "Width in bits, name of a plan, or auto, the default. All but auto are a contract: served exactly or refused.",
        _WIDTH_NUMBER,
    ),
    Control("precision_min", "Precision-Min", _width, _WIDTH_SCHEMA, "Least mean width for auto.", _WIDTH_NUMBER),
    Control("precision_max", "Precision-Max", _width, _WIDTH_SCHEMA, "Greatest mean width for auto.", _WIDTH_NUMBER),
    Control(
        "device_profile",
        "Device-Profile",
        whole_or_text,
        {"type": "string"},
        "Name of a device profile: its default, floor and ceiling for this request.",
    ),
    Control(
        "lenient",
        "Prefer",
        yes_or_no,
        {"type": "string", "enum": ["true", "false"]},
        "As a header handling=lenient: a pinned width may be lowered where its deadline needs that; false by default.",
        {"type": "boolean"},
        {"type": "string"},
        _handling,
    ),
    Control(
        "deadline_ms",
        "Deadline-Ms",
        milliseconds(MAX_DEADLINE_MS),
        {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_DEADLINE_MS},
        "Milliseconds from receipt after which an answer is worth nothing.",
    ),
    Control(
        "priority",
        None,
        whole(0, MAX_PRIORITY),
        {"type": "integer", "minimum": 0, "maximum": MAX_PRIORITY},
        "1 is served before 0, the default.",
    ),
)

VARY = ", ".join(["Accept", *(control.header for control in PRECISION_CONTROLS.values() if control.header)])


def to_wish(controls: Controls) -> Wish:
    """Return the wish; raise :class:`~server.errors.BadParameter` if its own bounds exclude each other."""
    precision = controls.get("precision", AUTO)
    wish = Wish(
        precision=None if precision == AUTO else precision,
        floor=controls.get("precision_min"),
        ceiling=controls.get("precision_max"),
        profile=controls.get("device_profile"),
        lenient=controls.get("lenient", False),
        deadline_ms=controls.get("deadline_ms"),
        priority=controls.get("priority", 0),
    )
    if wish.floor is not None and wish.ceiling is not None and wish.floor > wish.ceiling:
        raise BadParameter(
            f"precision_min {wish.floor} is above precision_max {wish.ceiling}; no width lies between", "precision_min"
        )
    return wish
