"""What a request asks for: headers, query parameters and body fields -> :class:`Wish`. Names are spelled here alone."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from bitgear.bits import parse_bits
from bitgear.errors import PrecisionError
from server.errors import BadParameter, ConflictingControls, shown

AUTO = "auto"
DEFAULT_TOP_K = 5
MAX_TOP_K = 1000

PRECISION_HEADER = "Precision"
SOURCE_HEADER = "Precision-Source"

Value = int | str
Controls = Mapping[str, Value]
"""Values that were given, by control name, parsed."""


@dataclass(frozen=True)
class Wish:
    """What one request asks for. ``bits`` None is ``auto``; ``floor`` and ``ceiling`` are widths; None: not asked."""

    bits: int | None = None
    floor: int | None = None
    ceiling: int | None = None
    profile: str | None = None
    top_k: int = DEFAULT_TOP_K

    @property
    def asked(self) -> str:
        """The precision as a client writes it: a digit or ``auto``."""
        return AUTO if self.bits is None else str(self.bits)


@dataclass(frozen=True)
class Control:
    """One control: its name as query parameter and body field, its header if it has one, and its JSON schema."""

    name: str
    header: str | None
    parse: Callable[[str], Value]
    schema: Mapping[str, Any]
    description: str


def _precision(text: str) -> Value:
    return AUTO if text.strip(" \t") == AUTO else parse_bits(text)


def _profile(text: str) -> str:
    return text.strip(" \t")


def _top_k(text: str) -> int:
    stripped = text.strip(" \t")
    if stripped.isascii() and stripped.isdigit() and len(stripped) <= len(str(MAX_TOP_K)):
        number = int(stripped)
        if 1 <= number <= MAX_TOP_K:
            return number
    raise ValueError(f"expected a whole number from 1 to {MAX_TOP_K}")


_WIDTH_SCHEMA = {"type": "string", "pattern": "^[2-8]$"}

CONTROLS: Mapping[str, Control] = {
    control.name: control
    for control in (
        Control(
            "precision",
            PRECISION_HEADER,
            _precision,
            {"type": "string", "pattern": "^([2-8]|auto)$", "default": AUTO},
            "Width in bits, or auto. A digit is a contract: served exactly or refused.",
        ),
        Control("precision_min", "Precision-Min", parse_bits, _WIDTH_SCHEMA, "Least width for auto."),
        Control("precision_max", "Precision-Max", parse_bits, _WIDTH_SCHEMA, "Greatest width for auto."),
        Control(
            "device_profile",
            "Device-Profile",
            _profile,
            {"type": "string"},
            "Name of a device profile: its default, floor and ceiling for this request.",
        ),
        Control(
            "top_k",
            None,
            _top_k,
            {"type": "integer", "minimum": 1, "maximum": MAX_TOP_K, "default": DEFAULT_TOP_K},
            "How many classes to return; never more than there are.",
        ),
    )
}
_BY_HEADER = {control.header.lower().encode(): control for control in CONTROLS.values() if control.header}

VARY = ", ".join(["Accept", *(control.header for control in CONTROLS.values() if control.header)])


def read_controls(headers: Iterable[tuple[bytes, bytes]], query_string: bytes) -> Controls:
    """Return the controls in an ASGI request's headers (lower-case names) and query string.

    Raises :class:`~server.errors.BadParameter` for an unknown query parameter or an invalid value, and
    :class:`~server.errors.ConflictingControls` for one control with two values.
    """
    given = [(_BY_HEADER[name].name, value.decode("latin-1")) for name, value in headers if name in _BY_HEADER]
    if query_string:
        given += parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)
    return add_controls({}, given)


def add_controls(controls: Controls, given: Iterable[tuple[str, object]]) -> Controls:
    """Return ``controls`` with further ones, by name: strings, or the whole numbers of a JSON body.

    Raises as :func:`read_controls` does.
    """
    result = dict(controls)
    for name, raw in given:
        control = CONTROLS.get(name)
        if control is None:
            raise BadParameter(f"parameter {shown(name)} is unknown; known are {', '.join(CONTROLS)}", name[:40])
        value = _parse(control, raw)
        if result.setdefault(name, value) != value:
            raise ConflictingControls(name, result[name], value)
    return result


def _parse(control: Control, raw: object) -> Value:
    if isinstance(raw, bool) or not isinstance(raw, int | str):
        raise BadParameter(f"{control.name} must be a string or a whole number", control.name)
    try:
        return control.parse(str(raw))
    except PrecisionError as error:
        alternative = f" or {AUTO!r}" if control.parse is _precision else ""
        detail = f"{control.name} {shown(raw)} is not a width; expected one digit from 2 to 8{alternative}"
        raise BadParameter(detail, control.name) from error
    except ValueError as error:
        raise BadParameter(f"{control.name} {shown(raw)}: {error}", control.name) from error


def to_wish(controls: Controls) -> Wish:
    """Return the wish; raise :class:`~server.errors.BadParameter` if its own bounds exclude each other or its width."""
    values: dict[str, Any] = dict(controls)
    precision = values.get("precision", AUTO)
    wish = Wish(
        bits=None if precision == AUTO else precision,
        floor=values.get("precision_min"),
        ceiling=values.get("precision_max"),
        profile=values.get("device_profile"),
        top_k=values.get("top_k", DEFAULT_TOP_K),
    )
    if wish.floor is not None and wish.ceiling is not None and wish.floor > wish.ceiling:
        raise BadParameter(
            f"precision_min {wish.floor} is above precision_max {wish.ceiling}; no width lies between", "precision_min"
        )
    if wish.bits is not None and wish.floor is not None and wish.bits < wish.floor:
        raise BadParameter(f"precision {wish.bits} is below precision_min {wish.floor}", "precision_min")
    if wish.bits is not None and wish.ceiling is not None and wish.bits > wish.ceiling:
        raise BadParameter(f"precision {wish.bits} is above precision_max {wish.ceiling}", "precision_max")
    return wish
