"""Errands: whose turn it is."""

from functools import partial

from server.errands import Errand, Errands
from server.policy import Waiting
from server.turns import LATE_TURN


def other(order_s: float) -> Waiting:
    return Waiting(order_s, 1)


def hard(order_s: float) -> Waiting:
    return Waiting(order_s, 1, hard=True)


def errands_of(*requests: Waiting) -> tuple[Errands, list[str]]:
    """Return errands that note their names, such as ``hard 3``, when they are done."""
    errands, done = Errands(), list[str]()
    for request in requests:
        name = f"{'hard' if request.hard else 'other'} {request.order_s:g}"
        errands.put(Errand(partial(done.append, name), request, None))
    return errands, done


def all_at(errands: Errands, now_s: float) -> None:
    while errands:
        errands.pop(now_s).do()


def test_the_least_order_goes_first() -> None:
    errands, done = errands_of(hard(3), other(2), hard(1), other(4), other(0))
    assert len(errands) == 5
    all_at(errands, -1)
    assert done == ["other 0", "hard 1", "other 2", "hard 3", "other 4"]


def test_equal_ones_go_in_turn() -> None:
    errands, done = Errands(), list[int]()
    for number in range(5):
        errands.put(Errand(partial(done.append, number), other(7), None))
    all_at(errands, 0)
    assert done == [0, 1, 2, 3, 4]


def test_what_is_late_gives_way_to_deadlines_but_not_always() -> None:
    errands, done = errands_of(*(other(i) for i in range(3)), *(hard(100 + i) for i in range(8)))
    all_at(errands, 50)
    late = [place for place, name in enumerate(done) if name.startswith("other")]
    assert late[:2] == [LATE_TURN - 1, 2 * LATE_TURN - 1]
    assert len(done) == 11


def test_priority_makes_nobody_late() -> None:
    errands, done = errands_of(
        Waiting(100.5, 1, priority=1), hard(100)
    )  # due in half a second, with a head start of a second
    all_at(errands, 100)
    assert done == ["other 99.5", "hard 100"]


def test_how_many_go_before_a_deadline() -> None:
    errands, _ = errands_of(other(1), other(2), Waiting(3.2, 1, priority=1), other(3), hard(2), hard(9))
    assert [errands.before(order_s, 0).total() for order_s in (0, 2, 2.5, 10)] == [0, 1, 4, 6]
    assert errands.before(10, now_s=2.5).total() == 3  # what is late is passed by, and nobody waits for what is over


def test_whose_they_are() -> None:
    errands, mine, yours = Errands(), object(), object()
    for request, whose in ((other(1), mine), (hard(2), mine), (hard(1), yours)):
        errands.put(Errand(lambda: None, request, whose))
    assert errands.of(mine) == [hard(2), other(1)]
    assert errands.of(yours) == [hard(1)]
    assert errands.of(None) == []


def test_none_are_left_after_a_clearance() -> None:
    errands, _ = errands_of(other(1), hard(2))
    errands.clear()
    assert not errands
