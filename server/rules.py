"""What holds for requests just now."""

from collections.abc import Mapping

from server.conduct import Conduct
from server.errors import BadParameter, shown
from server.precision import Wish
from server.profiles import LEAST_SLO_MS, SLO_FACTOR, Profile
from server.registry import ServedModel


class Rules:
    """How the server behaves, ``conduct``, which may be replaced at any time, and all profiles that it knows."""

    def __init__(self, conduct: Conduct, profiles: Mapping[str, Profile]) -> None:
        self.conduct = conduct
        self._profiles = profiles

    @property
    def profile(self) -> Profile:
        """The active profile."""
        return self._profiles[self.conduct.profile]

    def profile_of(self, wish: Wish) -> Profile:
        """Return the profile that a wish names, or the active one; raise :class:`~server.errors.BadParameter`."""
        return self.profile if wish.profile is None else self.profile_named(wish.profile, "device_profile")

    def profile_named(self, name: str, parameter: str) -> Profile:
        """Return a profile; raise :class:`~server.errors.BadParameter`, of a parameter, for a name that none has."""
        profile = self._profiles.get(name)
        if profile is None:
            known = ", ".join(sorted(self._profiles))
            raise BadParameter(f"{parameter} {shown(name)} is unknown; known are {known}", parameter)
        return profile

    def slo_s(self, model: ServedModel, profile: Profile) -> float:
        """Return the time in which a request without a deadline should be answered."""
        slo_ms = profile.slo_ms if self.conduct.slo_ms is None else self.conduct.slo_ms
        if slo_ms is None:
            slo_ms = max(SLO_FACTOR * model.ladder.rungs[0].latency_ms(1), LEAST_SLO_MS)
        return slo_ms / 1000

    def target_s(self, model: ServedModel, wish: Wish) -> float:
        """Return in what time after receipt a request should be answered."""
        within_s = self.slo_s(model, self.profile_of(wish)) if wish.deadline_ms is None else wish.deadline_ms / 1000
        return min(within_s, self.conduct.max_deadline_s)  # one that nobody waits for would stand behind all others

    def longest_s(self, wish: Wish) -> float:
        """Return after what time nobody waits for the answer to a request any more, from its receipt."""
        most_s = self.conduct.max_deadline_s
        return most_s if wish.deadline_ms is None else min(wish.deadline_ms / 1000, most_s)
