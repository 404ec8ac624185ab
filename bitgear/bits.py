"""Widths: the whole numbers 2..8 of bits that a model can run at."""

from collections.abc import Iterable

from bitgear.errors import PrecisionError

MIN_BITS = 2
MASTER_BITS = 8
WIDTHS: tuple[int, ...] = (8, 7, 6, 5, 4, 3, 2)
"""All widths, highest first: the order of rows in a master and of rungs on the ladder."""


def check_bits(bits: int) -> int:
    """Return ``bits`` if it is a whole number from 2 to 8; raise :class:`PrecisionError` otherwise."""
    if isinstance(bits, bool) or not isinstance(bits, int) or not MIN_BITS <= bits <= MASTER_BITS:
        raise PrecisionError(f"precision {bits!r} is not a width: expected a whole number of bits from 2 to 8")
    return bits


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
