"""Whose turn it is while requests that set no deadline are late."""

LATE_TURN = 4
"""One turn in so many is theirs."""


class Turns:
    """Counts how often those who are late have let others go first, so that they are not passed by for ever."""

    def __init__(self) -> None:
        self._given = 0

    def gives_way(self, should: bool) -> bool:
        """Return whether a turn goes to others: if it should, and the last ``LATE_TURN - 1`` have not all done so."""
        gives = should and self._given < LATE_TURN - 1
        self._given = self._given + 1 if gives else 0
        return gives
