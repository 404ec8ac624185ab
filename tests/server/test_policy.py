import pytest

from server.errors import WidthNotOffered
from server.policy import Decision, choose
from server.precision import Wish
from server.profiles import Profile

ALL = (8, 7, 6, 5, 4, 3, 2)
SOME = (8, 4, 2)
PLAIN = Profile(name="plain")
SMALL = Profile(name="small", default=4, floor=2, ceiling=4)
MIDDLE = Profile(name="middle", default=6, floor=3, ceiling=7)


@pytest.mark.parametrize(
    ("wish", "offered", "profile", "expected"),
    [
        # pinned
        (Wish(bits=4), ALL, PLAIN, (4, "request", "asked")),
        (Wish(bits=8), SOME, PLAIN, (8, "request", "asked")),
        (Wish(bits=4, floor=4, ceiling=4), ALL, PLAIN, (4, "request", "asked")),
        (Wish(bits=2), ALL, SMALL, (2, "request", "asked")),
        # nothing moves the default
        (Wish(), ALL, PLAIN, (8, "default", "default")),
        (Wish(), ALL, SMALL, (4, "profile", "default")),
        (Wish(floor=2, ceiling=8), ALL, PLAIN, (8, "default", "default")),
        (Wish(floor=3, ceiling=5), ALL, SMALL, (4, "profile", "default")),
        # a bound moves it
        (Wish(ceiling=5), ALL, PLAIN, (5, "request", "ceiling")),
        (Wish(ceiling=6), SOME, PLAIN, (4, "request", "ceiling")),
        (Wish(floor=7), ALL, MIDDLE, (7, "request", "floor")),
        (Wish(floor=5), SOME, Profile(name="p", default=4), (8, "request", "floor")),
        (Wish(ceiling=3), ALL, SMALL, (3, "request", "ceiling")),
        (Wish(), ALL, Profile(name="p", ceiling=5), (5, "profile", "ceiling")),
        (Wish(ceiling=6), ALL, Profile(name="p", ceiling=5), (5, "profile", "ceiling")),
        (Wish(ceiling=5), ALL, Profile(name="p", ceiling=5), (5, "profile", "ceiling")),
        # the default is inside the bounds, but not offered
        (Wish(), SOME, MIDDLE, (4, "profile", "pruned")),
        (Wish(), SOME, Profile(name="p", default=6), (8, "profile", "pruned")),
        (Wish(ceiling=6), SOME, Profile(name="p", default=6), (4, "profile", "pruned")),
    ],
)
def test_the_width_its_source_and_reason(
    wish: Wish, offered: tuple[int, ...], profile: Profile, expected: tuple[int, str, str]
) -> None:
    assert choose(wish, offered, profile, max(offered)) == Decision(*expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wish", "offered", "profile", "within"),
    [
        (Wish(bits=5), SOME, PLAIN, [8, 4, 2]),
        (Wish(bits=8), ALL, SMALL, [4, 3, 2]),
        (Wish(bits=2), ALL, MIDDLE, [7, 6, 5, 4, 3]),
        (Wish(floor=5), ALL, SMALL, [4, 3, 2]),
        (Wish(floor=5, ceiling=7), SOME, PLAIN, [8, 4, 2]),
        (Wish(), (8, 2), Profile(name="p", floor=3, ceiling=5), []),
    ],
)
def test_a_width_that_is_not_offered_is_refused_with_those_that_are(
    wish: Wish, offered: tuple[int, ...], profile: Profile, within: list[int]
) -> None:
    with pytest.raises(WidthNotOffered) as caught:
        choose(wish, offered, profile, max(offered))
    assert caught.value.members == {"offered_precisions": within}


def test_every_wish_is_served_inside_its_bounds_or_refused() -> None:
    for floor in (None, *ALL):
        for ceiling in (None, *ALL):
            for offered in (ALL, SOME):
                for profile in (PLAIN, SMALL, MIDDLE):
                    low = max(floor or 2, profile.floor)
                    high = min(ceiling or 8, profile.ceiling)
                    possible = {bits for bits in offered if low <= bits <= high}
                    try:
                        bits = choose(Wish(floor=floor, ceiling=ceiling), offered, profile, 8).bits
                    except WidthNotOffered:
                        assert not possible
                    else:
                        assert bits in possible
