"""What can be asked of a route: a table of controls, and how headers, query and body fields are read by it."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from bitgear.tasks import options
from bitgear.tasks.options import MAX_NAMES
from server.errors import BadParameter, ConflictingControls, shown

_DECIMAL = re.compile(r"0(\.[0-9]{1,20})?|1(\.0{1,20})?", re.ASCII)
_TIME = re.compile(r"[0-9]{1,9}(\.[0-9]{1,3})?", re.ASCII)
_BLANKS = " \t"

Value = bool | int | float | str | tuple[str, ...]
Controls = Mapping[str, Any]
"""Values that were given, by control name, parsed."""


@dataclass(frozen=True)
class Control:
    """One control: its name as query parameter and body field, its header if it has one, and its JSON schema.

    ``schema`` has no default: clients send the defaults that they are told, and would say so in each place where the
    control can stand, beside what they are asked to say in one of them.

    ``parse`` takes a string, or what a JSON body holds, and raises ``ValueError`` saying what was expected.
    ``json_schema``: of what a JSON body may hold beside what ``schema`` allows. A header with a syntax of its own has
    ``header_schema``, and ``read_header`` turns its value into a field's, or into None if it is about something else.
    """

    name: str
    header: str | None
    parse: Callable[[object], Value]
    schema: Mapping[str, Any]
    description: str
    json_schema: Mapping[str, Any] | None = None
    header_schema: Mapping[str, Any] | None = None
    read_header: Callable[[str], str | None] = lambda value: value


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
    by_header = {control.header.lower().encode(): control for control in known.values() if control.header}
    given = []
    for name, value in headers:
        if name in by_header:
            said = by_header[name].read_header(value.decode("latin-1"))
            if said is not None:
                given.append((by_header[name].name, said))
    if query_string:
        given += parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)
    return add_controls(known, {}, given)


def add_controls(
    known: Mapping[str, Control],
    controls: Controls,
    given: Iterable[tuple[str, object]],
    further: Sequence[str] = (),
) -> Controls:
    """Return ``controls`` with further ones, by name: strings, or the values of a JSON body.

    ``further``: names of what may be given beside controls, for who gives another. Raises as :func:`read_controls`
    does.
    """
    result = dict(controls)
    for name, raw in given:
        control = known.get(name)
        if control is None:
            raise BadParameter(
                f"parameter {shown(name)} is unknown; known are {', '.join([*known, *further])}", name[:40]
            )
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
    check = options.whole(lowest, highest)

    def parse(raw: object) -> int:
        text = whole_or_text(raw)
        digits = text.isascii() and text.isdigit() and len(text) <= len(str(highest))
        return check(int(text) if digits else text)

    return parse


def share(raw: object) -> float:
    """Return a number from 0 to 1: of JSON, or written as a decimal fraction such as ``0.25``, without an exponent."""
    if isinstance(raw, str) and _DECIMAL.fullmatch(raw.strip(_BLANKS)):
        raw = float(raw)
    return options.share(raw)


def milliseconds(highest: int) -> Callable[[object], float]:
    """Return the parser of a time above 0 ms: a JSON number, or digits with up to three decimals."""

    def parse(raw: object) -> float:
        if isinstance(raw, str) and _TIME.fullmatch(raw.strip(_BLANKS)):
            raw = float(raw)
        if isinstance(raw, int | float) and not isinstance(raw, bool) and 0 < raw <= highest:
            return float(raw)
        raise ValueError(f"expected milliseconds, above 0 and up to {highest}, such as 50 or 12.5")

    return parse


def yes_or_no(raw: object) -> bool:
    """Return a truth value: of JSON, or written ``true`` or ``false``."""
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, str) and raw.strip(_BLANKS) in ("true", "false"):
        return raw.strip(_BLANKS) == "true"
    raise ValueError("expected true or false")


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
