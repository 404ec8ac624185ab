"""The policies by name."""

import re

from server.policies.fixed import Fixed
from server.policies.lookahead import LookAhead
from server.policies.slackfit import SlackFit
from server.policy import Policy
from server.settings import SettingsError

_FIXED = re.compile(r"fixed(?:-(.{1,40}))?", re.ASCII)


def create_policy(name: str, margin: float = 0.1) -> Policy:
    """Return the policy ``look-ahead``, ``slackfit``, ``fixed``, or ``fixed-PRECISION``.

    ``margin``: by what share it takes the ladder's latencies to be longer than they are, 0..1. Raises
    :class:`~server.settings.SettingsError` for another name or margin.
    """
    if not 0 <= margin <= 1:
        raise SettingsError(f"policy margin {margin} is not a share from 0 to 1")
    if name == "look-ahead":
        return LookAhead(margin)
    if name == "slackfit":
        return SlackFit(margin)
    fixed = _FIXED.fullmatch(name)
    if fixed is not None:
        return Fixed(fixed[1])
    raise SettingsError(f"policy {name!r} is unknown; known are look-ahead, slackfit, fixed, fixed-PRECISION")
