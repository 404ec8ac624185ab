"""What can be asked of results: ranges of options and names of classes, for the server, the command and programs."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from bitgear.errors import InputError, quoted

DEFAULT_TOP_K = 5
MAX_TOP_K = 1000
MAX_DETECTIONS = 1000
MAX_NAMES = 1000
LISTED_CLASSES = 100
"""How many classes a refusal lists."""


def share(value: object) -> float:
    """Return a number from 0 to 1; raise ``ValueError``, which says what was expected, for anything else."""
    if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)  # NaN is not among them
    raise ValueError("expected a number from 0 to 1, such as 0.25")


def whole(lowest: int, highest: int) -> Callable[[object], int]:
    """Return what returns a whole number from ``lowest`` to ``highest``, and raises as :func:`share` does."""

    def check(value: object) -> int:
        if isinstance(value, int | np.integer) and not isinstance(value, bool) and lowest <= value <= highest:
            return int(value)
        raise ValueError(f"expected a whole number from {lowest} to {highest}")

    return check


def check_option(name: str, value: object, check: Callable[[object], Any]) -> None:
    """Raise :class:`~bitgear.errors.InputError`, which names an option, if ``check`` finds its value wrong."""
    try:
        check(value)
    except ValueError as error:
        raise InputError(f"{name} {quoted(value)}: {error}") from error


def class_ids(given: Sequence[int | str], labels: Sequence[str]) -> tuple[int, ...]:
    """Return the ids, ascending, of classes given by name or by id; text that is a name counts as the name.

    Raises :class:`~bitgear.errors.InputError` for what is no class, no list, none at all, or more than
    ``MAX_NAMES``.

    >>> class_ids(["dog", 0], ("cat", "cow", "dog"))
    (0, 2)
    """
    if isinstance(given, str) or not isinstance(given, Collection) or not 1 <= len(given) <= MAX_NAMES:
        raise InputError(f"classes {quoted(given)}: expected a list of 1 to {MAX_NAMES} names or ids")
    ids = {str(class_id): class_id for class_id in range(len(labels))}
    ids.update({label: class_id for class_id, label in enumerate(labels)})
    for each in given:
        if str(each) not in ids:
            listed = ", ".join(labels[:LISTED_CLASSES]) + (", ..." if len(labels) > LISTED_CLASSES else "")
            raise InputError(
                f"classes names {quoted(str(each))}, which is no class of this model; known are 0 to "
                f"{len(labels) - 1}, and by name {listed}"
            )
    return tuple(sorted({ids[str(each)] for each in given}))
