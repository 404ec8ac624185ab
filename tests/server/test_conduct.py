from server.conduct import first_conduct
from server.profiles import load_profiles
from server.settings import Settings


def test_what_is_set_outright_wins_over_the_profile() -> None:
    profile = load_profiles()["edge-small"]
    given = first_conduct(Settings(policy="fixed", margin=0.0, slo_ms=3), profile)
    assert (given.policy, given.margin, given.slo_ms) == ("fixed", 0.0, 3)
    left = first_conduct(Settings(), profile)
    assert (left.policy, left.margin, left.profile) == (profile.policy, profile.margin, "edge-small")
