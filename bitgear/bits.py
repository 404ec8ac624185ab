"""Widths, the whole numbers 2..8 of bits, and plans, which give every layer its widths."""

import operator
import re
import string
from collections.abc import Container, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import SupportsIndex

from bitgear.errors import PrecisionError

MIN_BITS = 2
MASTER_BITS = 8
WIDTHS: tuple[int, ...] = (8, 7, 6, 5, 4, 3, 2)
"""All widths, highest first: the order of rows in a master and of rungs on the ladder."""


def check_bits(bits: SupportsIndex) -> int:
    """Return ``bits`` if it is a whole number, of numpy too, from 2 to 8; raise :class:`PrecisionError` otherwise."""
    try:
        width = 0 if isinstance(bits, bool) else operator.index(bits)
    except TypeError:
        width = 0
    if not MIN_BITS <= width <= MASTER_BITS:
        raise PrecisionError(f"precision {bits!r} is not a width: expected a whole number of bits from 2 to 8")
    return width


def parse_bits(text: str) -> int:
    """Return the width that ``text`` names: exactly one digit from 2 to 8, blanks around it allowed.

    >>> parse_bits(" 4 ")
    4

    Raises :class:`PrecisionError` for anything else: ``"0"``, ``"4.0"``, ``"0x4"``, ``"int4"``, ``""``.
    """
    stripped = text.strip(" \t")
    if len(stripped) == 1 and stripped in "2345678":
        return int(stripped)
    raise PrecisionError(f"precision {text[:40]!r} is not a width: expected one digit from 2 to 8")


def parse_widths(text: str) -> tuple[int, ...]:
    """Return the widths of a comma-separated list, in the order given, without repeats.

    >>> parse_widths("8,4,2")
    (8, 4, 2)
    """
    return tuple(dict.fromkeys(parse_bits(part) for part in text.split(",")))


def weight_range(bits: int) -> tuple[int, int]:
    """Return (qmin, qmax) of signed codes: the full two's complement range, -2**(bits-1) .. 2**(bits-1) - 1."""
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def activation_range(bits: int, signed: bool) -> tuple[int, int]:
    """Return (qmin, qmax) of activation codes: 0 .. 2**bits - 1, or two's complement where values can be negative."""
    return weight_range(bits) if signed else (0, (1 << bits) - 1)


def descending(widths: Iterable[int]) -> tuple[int, ...]:
    """Return the widths without repeats, highest first."""
    return tuple(sorted(set(widths), reverse=True))


@dataclass(frozen=True)
class LayerBits:
    """The widths of one layer: of its weights, and of the activations it reads."""

    weight_bits: int
    act_bits: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight_bits", check_bits(self.weight_bits))
        object.__setattr__(self, "act_bits", check_bits(self.act_bits))

    def __str__(self) -> str:
        return f"w{self.weight_bits}a{self.act_bits}"


@dataclass(frozen=True)
class Plan:
    """The widths of every layer: ``default``, and those of the convolutions that have their own, by node name.

    ``str(plan)`` is ``4`` (weights and activations everywhere), ``w8a7``, or ``w4a4+3`` where three layers have their
    own. ``layers`` is kept in order of names and without those that the default serves, so plans of the same widths are
    equal. Raises :class:`PrecisionError` for a name given twice.
    """

    default: LayerBits
    layers: tuple[tuple[str, LayerBits], ...] = ()

    def __post_init__(self) -> None:
        if len({name for name, _ in self.layers}) != len(self.layers):
            raise PrecisionError("a plan gives the widths of a layer twice; give each layer once")
        own = [(name, bits) for name, bits in self.layers if bits != self.default]
        object.__setattr__(self, "layers", tuple(sorted(own, key=lambda item: item[0])))

    @cached_property
    def _own(self) -> dict[str, LayerBits]:
        return dict(self.layers)

    @classmethod
    def uniform(cls, bits: int) -> "Plan":
        """Return the plan of one width everywhere; raise :class:`PrecisionError` if it is none."""
        return cls(LayerBits(bits, bits))

    @classmethod
    def parse(cls, text: str) -> "Plan":
        """Return the plan that ``text`` names: a width, or widths of weights and activations; blanks around allowed.

        >>> Plan.parse("w8a7").default
        LayerBits(weight_bits=8, act_bits=7)
        >>> Plan.parse("4") == Plan.uniform(4)
        True

        Raises :class:`PrecisionError` for anything else.
        """
        match = _PLAN.fullmatch(text.strip(" \t"))
        if match is None:
            raise PrecisionError(
                f"precision {text[:40]!r} is neither a width from 2 to 8 nor two, of weights and activations, like w8a7"
            )
        return cls(LayerBits(int(match[1] or match[0]), int(match[2] or match[0])))

    def of(self, name: str) -> LayerBits:
        """Return the widths of the node ``name``."""
        return self._own.get(name, self.default)

    @property
    def widths(self) -> frozenset[int]:
        """Every width that occurs."""
        every = (self.default, *self._own.values())
        return frozenset(bits for layer in every for bits in (layer.weight_bits, layer.act_bits))

    def __str__(self) -> str:
        if self.layers:
            return f"{self.default}+{len(self.layers)}"
        return str(self.default.weight_bits) if len(self.widths) == 1 else str(self.default)


_PLAN = re.compile(r"[2-8]|w([2-8])a([2-8])", re.ASCII)
PLAN_NAME_PATTERN = "[a-z][a-z0-9.-]{0,31}"
"""Of all names of plans, and some that none may have: see :func:`is_plan_name`."""

_NAME = re.compile(PLAN_NAME_PATTERN, re.ASCII)

RESERVED_NAMES = ("auto", "none")
"""What is said where a precision is not asked for, or was not served."""


def is_plan_name(name: str) -> bool:
    """Return whether ``name`` may name a plan: 1 to 32 of a-z, 0-9, dot and hyphen, first a letter, nothing reserved.

    >>> is_plan_name("mixed-3.2"), is_plan_name("w8a7"), is_plan_name("auto")
    (True, False, False)
    """
    return bool(_NAME.fullmatch(name)) and not _PLAN.fullmatch(name) and name not in RESERVED_NAMES


def plan_name(mean_bits: float, taken: Container[str] = ()) -> str:
    """Return the usual name of a plan of this mean width that is not ``taken``.

    >>> plan_name(3.249), plan_name(3.249, {"mixed-3.2"})
    ('mixed-3.2', 'mixed-3.2-a')

    Raises :class:`PrecisionError` if all 27 of its names are.
    """
    usual = f"mixed-{mean_bits:.1f}"
    for name in (usual, *(f"{usual}-{letter}" for letter in string.ascii_lowercase)):
        if name not in taken:
            return name
    raise PrecisionError(f"{usual} to {usual}-z are taken; give the plan a name of your own")


Precision = int | Plan
"""A width for everything, or a plan."""


def as_plan(precision: Precision) -> Plan:
    """Return a plan as it is and a width as the plan of that width everywhere.

    Raises :class:`PrecisionError` if a number is no width, and for text, which only a master can read.
    """
    if isinstance(precision, str):
        raise PrecisionError(
            f"precision {precision[:40]!r} is text: expected a whole number of bits from 2 to 8, or a plan; a master's "
            "plan() makes one of text"
        )
    return precision if isinstance(precision, Plan) else Plan.uniform(precision)
