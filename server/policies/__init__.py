"""The policies by name."""

from server.policies.fixed import Fixed
from server.policies.lookahead import LookAhead
from server.policies.slackfit import SlackFit
from server.policy import Policy
from server.settings import DEFAULT_MARGIN, KNOWN_POLICIES, POLICY, SettingsError


def create_policy(name: str, margin: float = DEFAULT_MARGIN) -> Policy:
    """Return the policy ``look-ahead``, ``slackfit``, ``fixed``, or ``fixed-PRECISION``.

    ``margin``: by what share it takes the ladder's latencies to be longer than they are, 0..1. Raises
    :class:`~server.settings.SettingsError` for another name.
    """
    if not POLICY.fullmatch(name):
        raise SettingsError(f"policy {name!r} is unknown; {KNOWN_POLICIES}")
    if name == "look-ahead":
        return LookAhead(margin)
    if name == "slackfit":
        return SlackFit(margin)
    return Fixed(name.removeprefix("fixed").removeprefix("-") or None)
