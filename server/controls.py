"""What can be asked of a route: a table of controls, and how headers, query and body fields are read by it."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from server.errors import BadParameter, ConflictingControls, shown

MAX_NAMES = 1000
_DECIMAL = re.compile(r"0(\.[0-9]{1,20})?|1(\.0{1,20})?", re.ASCII)
_BLANKS = " \t"

Value = int | float | str | tuple[str, ...]
Controls = Mapping[str, Any]
"""Values that were given, by control name, parsed."""


@dataclass(frozen=True)
class Control:
    """One control: its name as query parameter and body field, its header if it has one, and its JSON schema.

    ``parse`` takes a string, or what a JSON body holds, and raises ``ValueError`` saying what was expected.
    ``json_schema``: of what a JSON body may hold beside what ``schema`` allows.
    """

    name: str
    header: str | None
    parse: Callable[[object], Value]
    schema: Mapping[str, Any]
    description: str
    json_schema: Mapping[str, Any] | None = None


def by_name(*controls: Control) -> Mapping[str, Control]:
    """Return a table of controls by name."""
    return {control.name: control for control in controls}


def read_controls(
    known: Mapping[str, Control], headers: Iterable[tuple[bytes, bytes]], query_string: bytes
) -> Controls:
    """Return the controls in an ASGI request's headers (lower-case names) and query string.

    Raises :class:`~server.errors.BadParameter` for a query parameter that is not ``known`` or an invalid value, and
    :class:`~server.errors.ConflictingControls` for one control with two values.
    """
    names = {control.header.lower().encode(): name for name, control in known.items() if control.header}
    given = [(names[name], value.decode("latin-1")) for name, value in headers if name in names]
    if query_string:
        given += parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)
    return add_controls(known, {}, given)


def add_controls(known: Mapping[str, Control], controls: Controls, given: Iterable[tuple[str, object]]) -> Controls:
    """Return ``controls`` with further ones, by name: strings, or the values of a JSON body.

    Raises as :func:`read_controls` does.
    """
    result = dict(controls)
    for name, raw in given:
        control = known.get(name)
        if control is None:
            raise BadParameter(f"parameter {shown(name)} is unknown; known are {', '.join(known)}", name[:40])
        try:
            value = control.parse(raw)
        except ValueError as error:
            said = f" {shown(raw)}" if isinstance(raw, int | float | str) else ""
            raise BadParameter(f"{name}{said}: {error}", name) from error
        if result.setdefault(name, value) != value:
            raise ConflictingControls(name, result[name], value)
    return result


def whole_or_text(raw: object) -> str:
    """Return a string without blanks around it, or the digits of a whole number."""
    if isinstance(raw, bool) or not isinstance(raw, int | str):
        raise ValueError("expected a string or a whole number")
    return str(raw).strip(_BLANKS)


def whole(lowest: int, highest: int) -> Callable[[object], int]:
    """Return the parser of a whole number, written in digits alone, from ``lowest`` (at least 0) to ``highest``."""

    def parse(raw: object) -> int:
        text = whole_or_text(raw)
        if text.isascii() and text.isdigit() and len(text) <= len(str(highest)) and lowest <= int(text) <= highest:
            return int(text)
        raise ValueError(f"expected a whole number from {lowest} to {highest}")

    return parse


def share(raw: object) -> float:
    """Return a number from 0 to 1: of JSON, or written as a decimal fraction such as ``0.25``, without an exponent."""
    if isinstance(raw, str) and _DECIMAL.fullmatch(raw.strip(_BLANKS)):
        raw = float(raw)
    if isinstance(raw, int | float) and not isinstance(raw, bool) and 0 <= raw <= 1:  # which NaN is not
        return float(raw)
    raise ValueError("expected a number from 0 to 1, such as 0.25")


def names(raw: object) -> tuple[str, ...]:
    """Return one or more names or numbers: a JSON list, or separated by commas. Blanks around them do not count."""
    listed = raw if isinstance(raw, list) else whole_or_text(raw).split(",")
    if not 1 <= len(listed) <= MAX_NAMES:
        raise ValueError(f"expected 1 to {MAX_NAMES} names or ids")
    given = tuple(map(whole_or_text, listed))
    if not all(given):
        raise ValueError("expected names or ids with a comma between any two")
    return given


def one_of(*words: str) -> Callable[[object], str]:
    """Return the parser of one of these words."""

    def parse(raw: object) -> str:
        text = whole_or_text(raw)
        if text in words:
            return text
        raise ValueError(f"expected {', '.join(words[:-1])} or {words[-1]}")

    return parse
