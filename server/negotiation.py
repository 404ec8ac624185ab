"""Which kind of answer a client wants: RFC 9110, section 12.5.1."""

from collections.abc import Iterable, Sequence

from server.errors import NotAcceptable

_ANYTHING = b"*/*"


def preferred_type(headers: Iterable[tuple[bytes, bytes]], offered: Sequence[str]) -> str:
    """Return the media type that an ASGI request accepts best, of those that a path offers; of equals the first.

    Without ``Accept`` anything will do; what of it is not understood says nothing. Raises
    :class:`~server.errors.NotAcceptable` if all are refused.
    """
    fields = [value for name, value in headers if name == b"accept" and value != _ANYTHING]
    if not fields:
        return offered[0]
    given = b",".join(fields).decode("latin-1")
    weights = _weights(given)
    if not weights:
        return offered[0]
    best = max(offered, key=lambda media_type: _weight(weights, media_type))
    if _weight(weights, best) <= 0:
        raise NotAcceptable(given, list(offered))
    return best


def _weights(accept: str) -> dict[str, float]:
    weights = {}
    for element in accept.lower().split(","):
        media_range, *parameters = (part.strip() for part in element.split(";"))
        if "/" in media_range:
            weights[media_range] = next(map(_quality, (p for p in parameters if p.startswith("q="))), 1.0)
    return weights


def _quality(parameter: str) -> float:
    try:
        return min(1.0, max(0.0, float(parameter[2:])))
    except ValueError:
        return 1.0


def _weight(weights: dict[str, float], media_type: str) -> float:
    """Return the weight of the most specific range that a type is in; 0 if it is in none."""
    ranges = (media_type, media_type.partition("/")[0] + "/*", "*/*")
    return next((weights[each] for each in ranges if each in weights), 0.0)
