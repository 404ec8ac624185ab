import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.ladder import Ladder, positions
from server.policies import create_policy, lookahead
from server.policies.batches import hopeless, lost
from server.policies.fixed import Fixed
from server.policies.lookahead import LookAhead, _overwhelmed
from server.policies.slackfit import SlackFit
from server.policy import PRIORITY_HEAD_START_S, Choice, Dispatch, Load, Policy, Waiting, admit, explain
from server.precision import Wish
from server.profiles import Profile
from server.settings import DEFAULT_MARGIN, SettingsError
from tests.server.ladders import FAST, flat, ladder_of, plan_rung, with_plans

NAMES = ["look-ahead", "slackfit", "fixed", "fixed-8", "fixed-4", "fixed-2"]
THREE = ladder_of({bits: FAST[bits] for bits in (8, 4, 2)})  # 10, 6 and 4 ms alone, half of it for each further image


def queue_of(*slacks_ms: float, allowed: int = 0b111, hard: bool = True) -> tuple[Waiting, ...]:
    return tuple(Waiting(100 + slack_ms / 1000, allowed, hard) for slack_ms in slacks_ms)


def load_of(queue: tuple[Waiting, ...], arrivals_per_s: float = 0.0, workers: int = 1) -> Load:
    return Load(100.0, queue, arrivals_per_s, workers, (100.0,) * workers)


TIMES = st.floats(0.1, 50)


@st.composite
def ladders(draw: st.DrawFn) -> Ladder:
    widths = sorted(draw(st.sets(st.sampled_from(range(2, 9)), min_size=1)), reverse=True)
    times = {bits: (draw(TIMES), draw(st.floats(0, 1))) for bits in widths}
    bare = ladder_of(times, max_batch=draw(st.integers(1, 9)), fixed_share=draw(st.floats(0, 1)))
    shares = st.floats(0, 1)
    return with_plans(
        bare, *(plan_rung(f"p{i}", 4, draw(TIMES), draw(shares), draw(shares)) for i in range(draw(st.integers(0, 5))))
    )


@st.composite
def loads(draw: st.DrawFn, ladder: Ladder) -> Load:
    waiting = st.builds(
        Waiting,
        st.floats(99.9, 100.3) | st.floats(100, 1000),
        st.integers(1, ladder.all_rungs),
        st.booleans(),
        st.integers(0, 1),
        st.just(1) | st.integers(1, ladder.max_batch),
        st.booleans(),
    )
    queue = sorted(draw(st.lists(waiting, min_size=1, max_size=80)), key=lambda one: one.order_s)
    workers = draw(st.integers(1, 4))
    busy = draw(st.lists(st.floats(99, 101), max_size=workers))
    orders_s = sorted(draw(st.lists(st.floats(99, 101), max_size=20)))
    elsewhere = [(order_s, 0.005 * count) for count, order_s in enumerate(orders_s, 1)]
    coming, ready_s = draw(st.lists(waiting, max_size=80)), draw(st.floats(0, 0.05))
    return Load(100.0, tuple(queue), draw(st.floats(0, 1000)), workers, tuple(busy), elsewhere, coming, ready_s)


@given(st.data(), st.sampled_from(NAMES))
def test_what_every_policy_keeps_to(data: st.DataObject, name: str) -> None:
    ladder = data.draw(ladders())
    load = data.draw(loads(ladder))
    policy = create_policy(name)
    dispatch = policy.dispatch(ladder, load)
    members, drop, queue = dispatch.members, dispatch.drop, load.queue

    assert dispatch == policy.dispatch(ladder, load)
    assert list(members) == sorted({*members})
    assert list(drop) == sorted({*drop})
    assert not {*members} & {*drop}
    assert all(queue[position].allowed >> dispatch.rung & 1 for position in members)
    assert sum(queue[position].images for position in members) <= ladder.max_batch or len(members) == 1
    for position in drop:
        one = queue[position]
        rung = ladder.fastest(one.allowed)
        if name.startswith("fixed"):  # which serves it at one rung alone
            rung = max(positions(one.allowed), key=lambda rung: ladder.rungs[rung].latency_ms(one.images))
        alone_s = ladder.rungs[rung].latency_ms(one.images) / 1000
        if name == "look-ahead" and not one.priority:  # gives way where some must
            alone_s *= 1 + DEFAULT_MARGIN
        assert one.hard
        assert one.deadline_s < load.now_s + alone_s
    left = [position for position in range(len(queue)) if position not in drop]
    # The most urgent one always runs: nobody starves.
    assert members[:1] == tuple(left[:1])


@pytest.mark.parametrize("name", NAMES)
def test_pinned_requests_get_their_width_alone_whatever_the_load(name: str) -> None:
    pinned, auto = 0b001, 0b111
    queue = tuple(Waiting(100.05 + 0.001 * i, pinned if i % 3 == 0 else auto) for i in range(60))
    dispatch = create_policy(name).dispatch(THREE, load_of(queue, 500.0))
    assert dispatch.rung == 0
    assert 0 in dispatch.members


@pytest.mark.parametrize("name", ["look-ahead", "slackfit", "fixed"])
def test_a_flat_ladder_is_never_degraded_on(name: str) -> None:
    ladder = flat(8, 4, 2)
    admission = admit(Wish(), ladder, Profile(name="p"))
    for slack_ms in (1, 6, 20, 1000):
        queue = queue_of(*[slack_ms] * 50, allowed=admission.allowed, hard=False)
        assert create_policy(name).dispatch(ladder, load_of(queue, 1000)).rung == 0


def test_fixed() -> None:
    queue = (Waiting(100.1, 0b110), Waiting(100.1, 0b001), Waiting(100.1, 0b111), Waiting(100.1, 0b110))
    assert Fixed().dispatch(THREE, load_of(queue)) == Dispatch(1, (0, 3), (), "default")
    assert Fixed("2").dispatch(THREE, load_of(queue)) == Dispatch(2, (0, 2, 3), (), "default")
    assert Fixed("8").dispatch(THREE, load_of(queue)).members == (0, 3)
    assert Fixed("4").dispatch(THREE, load_of(queue[1:])) == Dispatch(0, (0,), (), "floor")
    # 8 bits take 10 ms, and 5 more for each further image: two fit 16 ms
    assert Fixed("8").dispatch(THREE, load_of(queue_of(16, 16, 16))).members == (0, 1)
    assert Fixed("8").dispatch(THREE, load_of(queue_of(5, 16))) == Dispatch(0, (1,), (0,), "default")


def test_fixed_says_why_a_request_gets_another_precision() -> None:
    ladder = ladder_of({8: (10.0, 0.92), 6: (8.0, 0.91), 4: (8.0, 0.9), 2: (4.0, 0.88)})

    def said(wish: Wish) -> Choice:
        admission = admit(wish, ladder, Profile(name="p"))
        dispatch = Fixed("4").dispatch(ladder, load_of((Waiting(100.1, admission.allowed, pinned=admission.pinned),)))
        return explain(admission, dispatch.rung, dispatch.reason)

    assert said(Wish()) == Choice(3, "policy", "pruned")  # 6 bits are as fast as 4
    assert said(Wish(floor=5)) == Choice(1, "policy", "pruned")
    assert said(Wish(floor=3, ceiling=4)) == Choice(2, "request", "ceiling")
    assert said(Wish("8")) == Choice(0, "request", "asked")
    ladder = THREE
    assert said(Wish()) == Choice(1, "policy", "default")
    ladder = ladder_of()
    assert said(Wish(floor=5)) == Choice(3, "policy", "floor")


@pytest.mark.parametrize("name", ["look-ahead", "slackfit"])
@pytest.mark.parametrize(("within_ms", "rung"), [(300, 0), (12, 0), (5, 2)])
def test_who_names_a_precision_leniently_gets_it_if_there_is_time(name: str, within_ms: float, rung: int) -> None:
    lenient = Waiting(100 + within_ms / 1000, 0b111, hard=True, pinned=True)
    # However much may be coming, which would have a price for those who name none.
    assert create_policy(name).dispatch(THREE, load_of((lenient,), arrivals_per_s=300)).rung == rung


@pytest.mark.parametrize("name", ["look-ahead", "slackfit"])
@pytest.mark.parametrize("max_batch", [8, 64])
def test_what_is_late_takes_nothing_from_who_has_time_and_names_a_precision(name: str, max_batch: int) -> None:
    ladder = replace(THREE, max_batch=max_batch)
    lenient, late = Waiting(110.0, 0b111, hard=True, pinned=True), Waiting(99.0, 0b111)
    assert create_policy(name).dispatch(ladder, load_of((lenient, late))).rung == 0
    just = Waiting(100 + 1.2 * ladder.rungs[0].latency_ms(1) / 1000, 0b111, hard=True, pinned=True)
    assert create_policy(name).dispatch(ladder, load_of((just,))).rung == 0


def test_fixed_keeps_to_what_is_pinned() -> None:
    pinned = Waiting(100.1, 0b111, pinned=True)  # at 8 bits, leniently
    queue = (pinned, Waiting(100.1, 0b111), pinned)
    assert Fixed("4").dispatch(THREE, load_of(queue)) == Dispatch(0, (0, 2), (), "default")
    assert Fixed("4").dispatch(THREE, load_of(queue[1:])) == Dispatch(1, (0,), (), "default")
    assert Fixed("4").dispatch(THREE, load_of((pinned._replace(deadline_s=100.007, hard=True),))).drop == (0,)


@pytest.mark.parametrize(("name", "rung"), [("look-ahead", 2), ("slackfit", 2), ("fixed", 0), ("fixed-4", 1)])
def test_one_of_a_queue_that_is_lost_is_tried_while_nothing_runs(name: str, rung: int) -> None:
    policy = create_policy(name)
    queue = queue_of(1, 3, 2)
    dispatch = policy.dispatch(THREE, Load(100.0, queue))
    assert (dispatch.rung, dispatch.members, dispatch.drop) == (rung, (1,), (0, 2))
    dispatch = policy.dispatch(THREE, Load(100.0, queue, workers=2, busy_until_s=(99.0,)))
    assert (dispatch.members, dispatch.drop) == ((), (0, 1, 2))


@pytest.mark.parametrize("name", NAMES)
def test_several_images_are_lost_if_all_of_them_are(name: str) -> None:
    # eight take 18 ms at the narrowest, whatever one takes
    many = queue_of(17)[0]._replace(images=8)
    queue = (many, *queue_of(*[30] * 4))
    dispatch = create_policy(name).dispatch(THREE, load_of(queue))
    assert (dispatch.members[0], dispatch.drop) == (1, (0,))
    in_time = create_policy(name).dispatch(THREE, load_of((many._replace(deadline_s=100.05), *queue_of(60))))
    assert (in_time.members[0], in_time.drop) == (0, ())
    # behind one that has more time than a single image takes, and a late one
    queue = (queue_of(-1)[0], *queue_of(15), many, queue_of(100)[0])
    assert create_policy(name).dispatch(THREE, load_of(queue)).drop == (0, 2)


@pytest.mark.parametrize("name", ["look-ahead", "slackfit"])
def test_the_fastest_rung_need_not_be_the_last(name: str) -> None:
    # as a ladder may be once its times were made anew
    ladder = Ladder.of("made-up", (*THREE.rungs[:2], plan_rung("mixed", 3.8, 6.5, 0.915)), 8)
    assert ladder.useful(0b111) == 0b111
    assert [ladder.fastest(mask) for mask in (0b111, 0b101, 0b001)] == [1, 2, 0]
    policy, busy = create_policy(name), Load(100.0, (), workers=2, busy_until_s=(101.0,))
    for within_ms in (6.2, 6.8):  # 4 bits take 6 ms, with a margin 6.6
        assert policy.dispatch(ladder, replace(busy, queue=queue_of(within_ms))) == Dispatch(1, (0,), (), "slack")
    lenient = Waiting(100.01, 0b110, hard=True, pinned=True)
    assert policy.dispatch(ladder, replace(busy, queue=(lenient,))).rung == 1
    one, newcomer = queue_of(8, 9.8)  # 3.5 ms in a batch, then 6 alone
    assert not hopeless(ladder, Load(100.0, (one,)), newcomer, 0.0)


def test_slackfit_takes_what_the_slack_of_the_first_can_bear() -> None:
    plain = SlackFit(margin=0)
    many = [1000.0] * 20
    chosen = {ms: plain.dispatch(THREE, load_of(queue_of(ms, *many))) for ms in (4.5, 9, 13, 19, 31, 50, 1000)}
    latencies = [THREE.rungs[one.rung].latency_ms(len(one.members)) for one in chosen.values()]
    assert all(latency < slack for slack, latency in zip(chosen, latencies, strict=True))
    assert latencies == sorted(latencies)
    assert (chosen[4.5].rung, len(chosen[4.5].members)) == (2, 1)
    assert (chosen[1000].rung, len(chosen[1000].members)) == (0, 8)
    # no pair is fast enough for an aim that is missed: the narrowest, one image
    assert plain.dispatch(THREE, load_of(queue_of(1, 50, hard=False))) == Dispatch(2, (0,), (), "slack")
    assert SlackFit(margin=1).dispatch(THREE, load_of(queue_of(9, *many))).rung == 2


def test_look_ahead_is_wide_while_nothing_presses() -> None:
    for slack_ms in (11.5, 50, 1000):
        assert LookAhead(DEFAULT_MARGIN).dispatch(THREE, load_of(queue_of(slack_ms))) == Dispatch(0, (0,), (), "slack")


def test_look_ahead_narrows_for_the_first_request() -> None:
    assert LookAhead(DEFAULT_MARGIN).dispatch(THREE, load_of(queue_of(8))) == Dispatch(1, (0,), (), "slack")
    assert LookAhead(DEFAULT_MARGIN).dispatch(THREE, load_of(queue_of(5))) == Dispatch(2, (0,), (), "slack")
    assert LookAhead(DEFAULT_MARGIN).dispatch(THREE, load_of(queue_of(3, 50))) == Dispatch(0, (1,), (0,), "slack")


def test_look_ahead_narrows_for_those_behind() -> None:
    # the first alone has all the time in the world
    queue = queue_of(*[67] * 16)
    dispatch = LookAhead(DEFAULT_MARGIN).dispatch(THREE, load_of(queue))
    assert (dispatch.rung, dispatch.reason) == (1, "backlog")
    assert LookAhead(DEFAULT_MARGIN).dispatch(THREE, load_of(queue_of(*[45] * 16))).rung == 2
    # two workers have the time
    assert LookAhead(DEFAULT_MARGIN).dispatch(THREE, load_of(queue, workers=2)).rung == 0
    # if the other one works
    busy = Load(100.0, queue, workers=2, busy_until_s=(100.0, 100.06))
    assert LookAhead(DEFAULT_MARGIN).dispatch(THREE, busy).rung == 1


def test_look_ahead_narrows_for_those_to_come() -> None:
    queue = queue_of(*[60] * 5)
    rungs = [
        LookAhead(DEFAULT_MARGIN).dispatch(THREE, load_of(queue, rate)).rung for rate in (0, 50, 100, 200, 400, 800)
    ]
    assert rungs == sorted(rungs)
    assert rungs[0] == 0
    assert rungs[-1] > 0


def test_look_ahead_narrows_for_what_is_still_to_be_made_ready() -> None:
    policy = LookAhead(DEFAULT_MARGIN)

    def rung(count: int, within_ms: float = 45, ready_ms: float = 0.0) -> int:
        coming = queue_of(*[within_ms] * count)
        load = replace(load_of(queue_of(67)), coming=coming, ready_s=ready_ms / 1000)
        dispatch = policy.dispatch(THREE, load)
        assert dispatch.members == (0,)  # they cannot run yet
        return dispatch.rung

    assert [rung(count) for count in (0, 3, 8, 16)] == [0, 0, 1, 2]
    assert rung(3, ready_ms=6) == 1  # which takes its time too
    assert rung(16, within_ms=3) == 0  # nothing can be done for them
    # it is all the same if they wait and are ready
    behind = queue_of(*[45] * 16)
    assert policy.dispatch(THREE, load_of((*behind, *queue_of(67)))).rung == rung(16)


def test_what_comes_and_what_waits_are_served_in_one_order() -> None:
    policy, urgent = LookAhead(DEFAULT_MARGIN), queue_of(24, 24, 24)
    alone = policy.dispatch(THREE, load_of(queue_of(1000, 1000)))
    assert alone.rung == 0
    # those that come are due before the one that is ready, and three at the narrowest take all of their time with it
    before = policy.dispatch(THREE, replace(load_of(queue_of(1000, 1000)), coming=urgent))
    assert before.rung > 0
    # among late ones, which stand behind, and those with priority
    late, first = Waiting(99.0, 0b111), Waiting(100.5, 0b111, hard=True, priority=1)
    load = replace(load_of((first, *queue_of(60), late)), coming=(late, *urgent, first))
    assert policy.dispatch(THREE, load).members[0] == 0


def test_what_is_ready_keeps_its_order_among_what_comes() -> None:
    late, high = Waiting(99.0, 0b111), Waiting(100.9, 0b111, hard=True, priority=1)
    soon, later = queue_of(10, 60)
    both, comes = lookahead._merged([high, soon, later, late], [*queue_of(5, 70), high])
    assert [one for one, comes_ in zip(both, comes, strict=True) if not comes_] == [high, soon, later, late]
    assert comes == [False, True, True, False, False, False, True]


def test_nobody_is_served_narrower_where_making_ready_is_what_takes_time() -> None:
    # nothing is feasible, and of what a request takes a narrower precision saves next to nothing
    flood = queue_of(*[200] * 50)
    load = replace(load_of(queue_of(100, 100)), coming=flood, ready_s=0.5)
    assert LookAhead(DEFAULT_MARGIN).dispatch(THREE, load).rung == 0
    assert LookAhead(DEFAULT_MARGIN).dispatch(THREE, replace(load, ready_s=0.0)).rung == 2
    # but who would be late at all others
    assert LookAhead(DEFAULT_MARGIN).dispatch(THREE, replace(load, queue=queue_of(5, 100))).rung == 2


def test_look_ahead_leaves_work_for_idle_workers() -> None:
    assert LookAhead(DEFAULT_MARGIN).dispatch(THREE, load_of(queue_of(*[1000] * 4))).members == (0, 1, 2, 3)
    assert LookAhead(DEFAULT_MARGIN).dispatch(THREE, load_of(queue_of(*[1000] * 4), workers=2)).members == (0, 1)


def test_what_is_lost_before_it_is_ready_takes_no_look_from_others() -> None:
    policy, lost = LookAhead(DEFAULT_MARGIN), [Waiting(100.0, 7, hard=True)] * 900
    for last_ms in range(20, 60, 4):
        load = replace(load_of(queue_of(18, 19, 20, last_ms)), ready_s=0.001)
        assert policy.dispatch(THREE, replace(load, coming=lost)) == policy.dispatch(THREE, load)


@pytest.mark.parametrize("hard", [True, False])
def test_batches_are_efficient(hard: bool) -> None:
    # an image takes 5.83 ms in a batch of six and 6.25 in one of four; 5.63 in the best
    assert (THREE.efficient_batches, THREE.prompt_batches) == ((6,) * 3, (4,) * 3)
    load = load_of(queue_of(*[1000] * 7, hard=hard))
    assert len(LookAhead(DEFAULT_MARGIN).dispatch(THREE, load).members) == 6


def test_who_would_be_in_time_with_luck_gives_way_where_some_must() -> None:
    # at the narrowest, alone: 4 ms nine times out of ten, half of the time 3.6
    ladder = replace(THREE, noise=1.1)
    policy = LookAhead(margin=0.1)
    assert policy.dispatch(ladder, load_of(queue_of(4.3))) == Dispatch(2, (0,), (), "slack")  # nobody else waits
    assert policy.dispatch(ladder, load_of(queue_of(4.3, 50))) == Dispatch(0, (1,), (0,), "slack")
    assert policy.dispatch(ladder, load_of(queue_of(3.5, 4.3, 4.5, 50))) == Dispatch(2, (2,), (0, 1), "slack")
    assert policy.dispatch(ladder, load_of(queue_of(4.3, 4.3))) == Dispatch(2, (0,), (), "slack")  # nobody has more
    for kept in (Waiting(100.0043, 0b111, hard=True, priority=1), Waiting(100.0043, 0b111)):
        dispatch = policy.dispatch(ladder, load_of((kept, *queue_of(50))))
        assert (dispatch.rung, dispatch.members, dispatch.drop) == (2, (0,), ())


def test_a_batch_leaves_the_first_some_time_to_spare() -> None:
    # of 16 nothing is feasible; two at the narrowest take 6 ms, which 6.5 ms leave too little room for
    dispatch = LookAhead(margin=0.1).dispatch(THREE, load_of(queue_of(6.5, *[7] * 15)))
    assert dispatch == Dispatch(2, (0,), (), "slack")


def test_who_is_late_for_what_waits() -> None:
    # at the narrowest an image takes 4 ms alone, and 2.33 in a batch of six
    queue = queue_of(*[20] * 8)
    newcomer = {ms: Waiting(100 + ms / 1000, 0b111, hard=True) for ms in (3, 5, 10, 21, 23, 25)}
    assert THREE.image_s[2] == pytest.approx(0.014 / 6)

    def late(load: Load, ms: int, margin: float = 0.0) -> bool:
        return hopeless(THREE, load, newcomer[ms], margin)

    assert [late(load_of(queue), ms) for ms in (10, 21, 23)] == [False, True, False]  # the first has less than they
    assert late(load_of(queue), 23, margin=0.1)
    assert not hopeless(replace(THREE, noise=1.2), load_of(queue), newcomer[21], 0.0)  # 19 ms is what is rare
    assert not late(load_of(queue, workers=2), 21)
    busy = Load(100.0, queue, workers=2, busy_until_s=(100.005, 100.03))
    assert late(busy, 25)
    assert not late(load_of(queue_of(*[20] * 7)), 21)
    assert late(load_of(queue_of(*[20] * 6, allowed=0b001)), 25)  # pinned: 5.83 ms each
    assert not late(load_of(queue_of(*[3] * 8)), 21)  # they are lost
    assert not late(load_of(()), 10)
    assert not hopeless(THREE, load_of(queue), newcomer[21]._replace(hard=False), 0.0)
    assert not hopeless(THREE, load_of(queue), newcomer[21]._replace(priority=1), 0.0)
    # a second model's work that is due before counts, what is lost or due later does not
    elsewhere = ((99.0, 5.0), (100.01, 5.002), (100.022, 5.004), (100.03, 9.0))
    assert not late(load_of(queue), 23)
    assert late(replace(load_of(queue), elsewhere=elsewhere), 23)
    assert not late(replace(load_of(queue), elsewhere=elsewhere[:1]), 23)
    assert not late(replace(load_of(queue), elsewhere=elsewhere[-1:]), 23)
    assert not late(replace(load_of(()), elsewhere=elsewhere[:1]), 10)
    assert late(load_of(()), 3)  # not even alone
    assert not late(load_of(()), 5)


def test_what_other_models_wait_for() -> None:
    load = Load(100.0, (), workers=2, elsewhere=((99.0, 1.0), (100.5, 1.5), (101.0, 3.0)))
    due_s = (0, 99, 100, 100.5, 100.6, 101, 102, math.inf)
    assert [load.elsewhere_s(at) for at in due_s] == [0, 0, 0, 0.25, 0.25, 1, 1, 1]
    assert Load(100.0, ()).elsewhere_s(math.inf) == 0


def test_look_ahead_narrows_for_other_models() -> None:
    queue = queue_of(*[67] * 8)
    assert LookAhead(DEFAULT_MARGIN).dispatch(THREE, load_of(queue)).rung == 0

    def rung(due_s: float, work_s: float) -> int:
        return LookAhead(DEFAULT_MARGIN).dispatch(THREE, replace(load_of(queue), elsewhere=((due_s, work_s),))).rung

    assert [rung(100.06, work_s) for work_s in (0.005, 0.03, 0.04)] == [0, 1, 2]
    assert rung(99.9, 0.04) == 0  # lost
    # it waits for all that is due here before
    assert [rung(100.1, work_s) for work_s in (0.03, 0.06, 0.07)] == [0, 1, 2]
    assert rung(101.0, 0.07) == 0


def test_who_is_dropped_is_not_searched_for_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a backlog of thousands that is quadratic."""

    class Unsearched(tuple[int, ...]):
        def __contains__(self, _: object) -> bool:
            raise AssertionError("searched")

    monkeypatch.setattr(lookahead, "lost", lambda *given, **named: Unsearched(lost(*given, **named)))
    queue = tuple(one._replace(priority=1) for one in queue_of(-1, *[5] * 4, *[6] * 20))
    assert LookAhead(DEFAULT_MARGIN).dispatch(THREE, load_of(queue)).drop == (0,)


def test_aims_that_are_missed_bind_nobody() -> None:
    late = queue_of(-50, hard=False)
    assert LookAhead(DEFAULT_MARGIN).dispatch(THREE, load_of(late)).rung == 0
    rest = queue_of(*[500] * 3)
    assert LookAhead(DEFAULT_MARGIN).dispatch(THREE, load_of(late + rest)) == Dispatch(0, (0, 1, 2, 3), (), "slack")


@given(st.lists(st.floats(5, 500), min_size=1, max_size=1), st.floats(0, 400), st.floats(0, 500))
def test_more_slack_is_never_narrower(slacks_ms: list[float], arrivals_per_s: float, more_ms: float) -> None:
    before = LookAhead(DEFAULT_MARGIN).dispatch(THREE, load_of(queue_of(*slacks_ms, hard=False), arrivals_per_s))
    after = LookAhead(DEFAULT_MARGIN).dispatch(
        THREE, load_of(queue_of(slacks_ms[0] + more_ms, hard=False), arrivals_per_s)
    )
    assert after.rung <= before.rung


@given(st.floats(0, 1), st.floats(0.01, 1), st.floats(0, 500), st.floats(0.001, 0.1))
def test_the_chance_to_be_overwhelmed_is_one(work_s: float, room_s: float, arrivals: float, image_s: float) -> None:
    chance = _overwhelmed(work_s, room_s, arrivals, image_s)
    assert 0 <= chance <= 1
    assert _overwhelmed(work_s + 0.01, room_s, arrivals, image_s) >= chance - 1e-9
    assert _overwhelmed(work_s, room_s + 0.01, arrivals, image_s) <= chance + 1e-9
    assert _overwhelmed(work_s, room_s, arrivals + 1, image_s) >= chance - 1e-9


def test_the_chance_without_drift_is_linear() -> None:
    assert _overwhelmed(0.25, 1, 100, 0.01) == pytest.approx(0.25)
    assert _overwhelmed(0.25, 1, 100.001, 0.01) == pytest.approx(0.25, abs=1e-3)
    assert _overwhelmed(0.25, 1, 1, 0.001) == 0


def test_accuracy_that_is_unknown_leaves_what_is_feasible() -> None:
    blind = replace(THREE, rungs=tuple(replace(rung, accuracy=0.0) for rung in THREE.rungs))
    rungs = [LookAhead(DEFAULT_MARGIN).dispatch(blind, load_of(queue_of(*[ms] * 16))).rung for ms in (1000, 70, 45)]
    assert rungs == [0, 1, 2]


def test_priority_is_a_head_start_and_no_more() -> None:
    first, high = Waiting(100.0, 1), Waiting(100.0 + PRIORITY_HEAD_START_S / 2, 1, priority=1)
    late = Waiting(100.0 + PRIORITY_HEAD_START_S * 1.5, 1, priority=1)
    ordered = sorted([first, high, late], key=lambda one: one.order_s)
    assert ordered == [high, first, late]
    assert all(a.order_s < b.order_s for a, b in pairwise(ordered))


def test_names() -> None:
    for name in NAMES:
        policy: Policy = create_policy(name)
        assert policy.name == name
    assert create_policy("slackfit", 0.25) == SlackFit(0.25)
    assert (create_policy("fixed"), create_policy("fixed-mixed-3.2")) == (Fixed(), Fixed("mixed-3.2"))
    for name in ("look", "fixed-", "fixed-9", ""):
        with pytest.raises(SettingsError, match="known are"):
            create_policy(name)


def test_a_server_at_rest_takes_the_widest_whatever_noise_says_of_narrower_ones() -> None:
    ladder = ladder_of({8: (0.14, 0.9216), 7: (0.14, 0.922), 6: (0.13, 0.9219), 4: (0.11, 0.9169), 2: (0.1, 0.8902)})
    queue = (Waiting(100.02, ladder.all_rungs),)
    dispatch = LookAhead(DEFAULT_MARGIN).dispatch(ladder, load_of(queue, 5.0))
    assert (dispatch.rung, dispatch.members) == (0, (0,))
