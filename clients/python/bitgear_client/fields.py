"""Reading an answer's JSON member by member, so that every surprise is a ProtocolError that says where."""

import json
import math
from typing import NoReturn

from bitgear_client.errors import ProtocolError


def parse_json(body: bytes) -> object:
    """Return the JSON value in ``body`` (UTF-8).

    Raises ``ProtocolError`` if it is not JSON; NaN and infinities are not.
    """
    try:
        value: object = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"the answer is not JSON: {error}") from error
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def finite_number(value: object) -> float | None:
    """Return ``value`` as a float, or ``None`` if it is not a number or too large for one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer of more than 308 digits
        return None
    return number if math.isfinite(number) else None


class Fields:
    """The members of one JSON object; members that nobody asks for are ignored.

    ``where`` names the object in messages. Every method takes a member's name and raises ``ProtocolError`` if the
    member is missing or of another type.

    >>> Fields({"served": 4, "news": []}, "precision").integer("served")
    4
    """

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise ProtocolError(f"{where}: expected an object, got {_kind(value)}")
        self._members: dict[str, object] = value
        self._where = where

    def text(self, name: str) -> str:
        """Return a string."""
        value = self._member(name)
        return value if isinstance(value, str) else self._refuse(name, "a string", value)

    def text_or_none(self, name: str) -> str | None:
        """Return a string, or ``None`` for ``null`` or a missing member."""
        return None if self._members.get(name) is None else self.text(name)

    def flag(self, name: str) -> bool:
        """Return a boolean."""
        value = self._member(name)
        return value if isinstance(value, bool) else self._refuse(name, "true or false", value)

    def integer(self, name: str) -> int:
        """Return an integer."""
        value = self._member(name)
        if isinstance(value, bool) or not isinstance(value, int):
            self._refuse(name, "an integer", value)
        return value

    def integer_or_none(self, name: str) -> int | None:
        """Return an integer, or ``None`` for ``null`` or a missing member."""
        return None if self._members.get(name) is None else self.integer(name)

    def precision(self, name: str) -> int | str:
        """Return a precision: an integer for a width, a string for a plan."""
        value = self._member(name)
        return value if isinstance(value, str) and value else self.integer(name)

    def number(self, name: str) -> float:
        """Return a finite number."""
        value = self._member(name)
        number = finite_number(value)
        return self._refuse(name, "a finite number", value) if number is None else number

    def number_or_none(self, name: str) -> float | None:
        """Return a finite number, or ``None`` for ``null`` or a missing member."""
        return None if self._members.get(name) is None else self.number(name)

    def fields(self, name: str) -> "Fields":
        """Return the members of an object."""
        return Fields(self._member(name), f"{self._where}.{name}")

    def fields_or_none(self, name: str) -> "Fields | None":
        """Return the members of an object, or ``None`` for ``null`` or a missing member."""
        return None if self._members.get(name) is None else self.fields(name)

    def list_of_fields(self, name: str) -> "list[Fields]":
        """Return the members of every object in an array."""
        return [Fields(value, f"{self._where}.{name}[{index}]") for index, value in enumerate(self._array(name))]

    def texts(self, name: str) -> tuple[str, ...]:
        """Return an array of strings."""
        items = self._indexed(name)
        return tuple(items.text(index) for index in items.names())

    def integers(self, name: str) -> tuple[int, ...]:
        """Return an array of integers."""
        values = self._array(name)
        if all(type(value) is int for value in values):  # run lengths are many
            return tuple(values)  # type: ignore[arg-type]
        items = self._indexed(name)
        return tuple(items.integer(index) for index in items.names())

    def precisions(self, name: str) -> tuple[int | str, ...]:
        """Return an array of precisions."""
        items = self._indexed(name)
        return tuple(items.precision(index) for index in items.names())

    def numbers(self, name: str) -> tuple[float, ...]:
        """Return an array of finite numbers."""
        items = self._indexed(name)
        return tuple(items.number(index) for index in items.names())

    def outlines(self, name: str) -> tuple[tuple[tuple[int, int], ...], ...]:
        """Return an array of arrays of corners, each two integers."""
        outlines = []
        for index, outline in enumerate(self._array(name)):
            if not isinstance(outline, list) or not all(map(_is_corner, outline)):
                self._refuse(f"{name}[{index}]", "corners [x, y]", outline)
            outlines.append(tuple((x, y) for x, y in outline))
        return tuple(outlines)

    def names(self) -> tuple[str, ...]:
        """Return the names of all members, in the order sent."""
        return tuple(self._members)

    def raw(self) -> dict[str, object]:
        """Return a copy of all members, unread."""
        return dict(self._members)

    def _indexed(self, name: str) -> "Fields":
        return Fields({str(i): value for i, value in enumerate(self._array(name))}, f"{self._where}.{name}")

    def _array(self, name: str) -> list[object]:
        value = self._member(name)
        return value if isinstance(value, list) else self._refuse(name, "an array", value)

    def _member(self, name: str) -> object:
        if name not in self._members:
            raise ProtocolError(f"{self._where}.{name} is missing")
        return self._members[name]

    def _refuse(self, name: str, expected: str, value: object) -> NoReturn:
        raise ProtocolError(f"{self._where}.{name}: expected {expected}, got {_kind(value)}")


def _is_corner(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and type(value[0]) is int and type(value[1]) is int


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__
