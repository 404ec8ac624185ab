"""Which width serves a request: a pure function, no clock, no I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from server.errors import WidthNotOffered
from server.precision import Wish
from server.profiles import Profile

Source = Literal["request", "profile", "default"]
Reason = Literal["asked", "default", "floor", "ceiling", "pruned"]


@dataclass(frozen=True)
class Decision:
    """The width that serves, who decided it, and why. The words are defined in docs/http.md."""

    bits: int
    source: Source
    reason: Reason


def choose(wish: Wish, offered: Sequence[int], profile: Profile, model_default: int) -> Decision:
    """Return the width for a wish, out of those a model offers under a profile.

    ``auto`` takes the profile's default, else the model's. A bound that excludes it moves it to the nearest offered
    width inside; a default that is inside but not offered gives way to the highest offered width inside.

    Raises :class:`~server.errors.WidthNotOffered` for a pinned width that is not offered inside the profile's bounds,
    and for bounds with no offered width between them.
    """
    within = [bits for bits in offered if profile.excludes(bits) is None]
    if wish.bits is not None:
        if wish.bits not in within:
            raise WidthNotOffered(f"precision {wish.bits}", within)
        return Decision(wish.bits, "request", "asked")

    floor, ceiling = profile.floor, profile.ceiling
    floor_source: Source = "profile"
    ceiling_source: Source = "profile"
    if wish.floor is not None and wish.floor > floor:
        floor, floor_source = wish.floor, "request"
    if wish.ceiling is not None and wish.ceiling < ceiling:
        ceiling, ceiling_source = wish.ceiling, "request"
    inside = [bits for bits in offered if floor <= bits <= ceiling]
    if not inside:
        raise WidthNotOffered(f"a precision from {floor} to {ceiling}", within)

    default_source: Source = "default" if profile.default is None else "profile"
    default = model_default if profile.default is None else profile.default
    if default < floor:
        return Decision(min(inside), floor_source, "floor")
    if default > ceiling:
        return Decision(max(inside), ceiling_source, "ceiling")
    if default not in inside:
        return Decision(max(inside), default_source, "pruned")
    return Decision(default, default_source, "default")
