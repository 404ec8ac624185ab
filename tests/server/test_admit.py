import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import WidthNotOffered
from server.ladder import Ladder, positions
from server.policy import Choice, admit, explain
from server.precision import Wish
from server.profiles import Profile
from tests.server.ladders import FAST, flat, ladder_of

ALL = ladder_of()
SOME = ladder_of({bits: FAST[bits] for bits in (8, 4, 2)})
PLAIN = Profile(name="plain")
SMALL = Profile(name="small", default=4, floor=2, ceiling=4)
MIDDLE = Profile(name="middle", default=6, floor=3, ceiling=7)


def names(ladder: Ladder, mask: int) -> str:
    return "".join(ladder.rungs[index].precision for index in positions(mask))


@pytest.mark.parametrize(
    ("wish", "ladder", "profile", "expected"),
    [
        # pinned
        (Wish("4"), ALL, PLAIN, ("4", "request", "asked")),
        (Wish("8"), SOME, PLAIN, ("8", "request", "asked")),
        (Wish("4", floor=4, ceiling=4), ALL, PLAIN, ("4", "request", "asked")),
        (Wish("2"), ALL, SMALL, ("2", "request", "asked")),
        (Wish("2"), flat(8, 2), PLAIN, ("2", "request", "asked")),
        # pinned, but lenient
        (Wish("4", lenient=True), ALL, PLAIN, ("432", "request", "asked")),
        (Wish("7", lenient=True), ALL, MIDDLE, ("76543", "request", "asked")),
        (Wish("8", floor=6, lenient=True), ALL, PLAIN, ("876", "request", "asked")),
        (Wish("8", lenient=True), flat(8, 2), PLAIN, ("8", "request", "asked")),
        # nothing moves the default
        (Wish(), ALL, PLAIN, ("8765432", "default", "default")),
        (Wish(), ALL, SMALL, ("432", "profile", "default")),
        (Wish(floor=2, ceiling=8), ALL, PLAIN, ("8765432", "default", "default")),
        (Wish(floor=3, ceiling=5), ALL, SMALL, ("43", "profile", "default")),
        # a bound moves it
        (Wish(ceiling=5), ALL, PLAIN, ("5432", "request", "ceiling")),
        (Wish(ceiling=6), SOME, PLAIN, ("42", "request", "ceiling")),
        (Wish(floor=7), ALL, MIDDLE, ("7", "request", "floor")),
        (Wish(floor=5), SOME, Profile(name="p", default=4), ("8", "request", "floor")),
        (Wish(ceiling=3), ALL, SMALL, ("32", "request", "ceiling")),
        (Wish(), ALL, Profile(name="p", ceiling=5), ("5432", "profile", "ceiling")),
        (Wish(ceiling=6), ALL, Profile(name="p", ceiling=5), ("5432", "profile", "ceiling")),
        # the default is inside the bounds, but not on the ladder
        (Wish(), SOME, MIDDLE, ("4", "profile", "pruned")),
        (Wish(), SOME, Profile(name="p", default=6), ("842", "profile", "pruned")),
        (Wish(ceiling=6), SOME, Profile(name="p", default=6), ("42", "profile", "pruned")),
        # it is on the ladder, but buys nothing
        (Wish(), flat(8, 6, 4), PLAIN, ("8", "default", "default")),
        (Wish(), flat(8, 6, 4), Profile(name="p", default=4), ("8", "profile", "pruned")),
        (Wish(ceiling=6), flat(8, 6, 4), PLAIN, ("6", "request", "ceiling")),
        (Wish(ceiling=6), flat(8, 6, 4), Profile(name="p", default=4), ("6", "profile", "pruned")),
    ],
)
def test_the_rungs_their_source_and_reason(
    wish: Wish, ladder: Ladder, profile: Profile, expected: tuple[str, str, str]
) -> None:
    admission = admit(wish, ladder, profile)
    assert (names(ladder, admission.allowed), admission.source, admission.reason) == expected
    assert ladder.rungs[admission.preferred].precision == expected[0][0]
    assert admission.pinned == (wish.precision is not None)


@pytest.mark.parametrize(
    ("wish", "ladder", "profile", "within"),
    [
        (Wish("5"), SOME, PLAIN, [8, 4, 2]),
        (Wish("8"), ALL, SMALL, [4, 3, 2]),
        (Wish("8", lenient=True), ALL, SMALL, [4, 3, 2]),
        (Wish("2"), ALL, MIDDLE, [7, 6, 5, 4, 3]),
        (Wish(floor=5), ALL, SMALL, [4, 3, 2]),
        (Wish(floor=5, ceiling=7), SOME, PLAIN, [8, 4, 2]),
        (Wish(), ladder_of({8: FAST[8], 2: FAST[2]}), Profile(name="p", floor=3, ceiling=5), []),
    ],
)
def test_what_is_not_offered_is_refused_with_what_is(
    wish: Wish, ladder: Ladder, profile: Profile, within: list[int]
) -> None:
    with pytest.raises(WidthNotOffered) as caught:
        admit(wish, ladder, profile)
    assert caught.value.members == {"offered_precisions": within}


WIDTH = st.integers(2, 8)


@given(
    st.dictionaries(WIDTH, st.tuples(st.floats(1, 100), st.floats(0, 1)), min_size=1),
    st.tuples(WIDTH, WIDTH, WIDTH).map(sorted),
    st.booleans(),
    st.none() | WIDTH,
    st.none() | WIDTH,
)
def test_every_wish_is_served_inside_its_bounds_or_refused(
    times: dict[int, tuple[float, float]], bounds: list[int], own_default: bool, floor: int | None, ceiling: int | None
) -> None:
    ladder = ladder_of(dict(sorted(times.items(), reverse=True)))
    profile = Profile(name="p", default=None if own_default else bounds[1], floor=bounds[0], ceiling=bounds[2])
    low, high = max(floor or 2, profile.floor), min(ceiling or 8, profile.ceiling)
    inside = {str(bits) for bits in times if low <= bits <= high}
    try:
        admission = admit(Wish(floor=floor, ceiling=ceiling), ladder, profile)
    except WidthNotOffered:
        assert not inside
    else:
        assert set(names(ladder, admission.allowed)) <= inside
        assert admission.preferred == next(positions(admission.allowed))


def test_what_is_said_of_an_answer() -> None:
    auto, lenient = admit(Wish(), ALL, SMALL), admit(Wish("6", lenient=True), ALL, PLAIN)
    assert explain(auto, auto.preferred, "backlog") == Choice(4, "profile", "default")
    assert explain(auto, 6, "backlog") == Choice(6, "policy", "backlog")
    assert explain(lenient, 2, "slack") == Choice(2, "request", "asked")
    assert explain(lenient, 5, "slack") == Choice(5, "policy", "lenient")
