"""Errands: whose turn it is."""

from server.errands import LATE_TURN, Errands, Place


def errands_of(*places: Place) -> tuple[Errands, list[str]]:
    """Return errands that note their names, such as ``hard 3``, when they are done."""
    errands, done = Errands(), list[str]()
    for place in places:
        name = f"{'hard' if place.hard else 'other'} {place.order_s:g}"
        errands.put(lambda name=name: done.append(name), place)  # type: ignore[misc]
    return errands, done


def all_at(errands: Errands, now_s: float) -> None:
    while errands:
        errands.pop(now_s)()


def test_the_least_order_goes_first() -> None:
    errands, done = errands_of(Place(3, hard=True), Place(2), Place(1, hard=True), Place(4), Place(0))
    assert len(errands) == 5
    all_at(errands, -1)
    assert done == ["other 0", "hard 1", "other 2", "hard 3", "other 4"]


def test_equal_ones_go_in_turn() -> None:
    errands, done = Errands(), list[int]()
    for number in range(5):
        errands.put(lambda number=number: done.append(number), Place(7))  # type: ignore[misc]
    all_at(errands, 0)
    assert done == [0, 1, 2, 3, 4]


def test_what_is_late_gives_way_to_deadlines_but_not_always() -> None:
    errands, done = errands_of(*(Place(i) for i in range(3)), *(Place(100 + i, hard=True) for i in range(8)))
    all_at(errands, 50)
    late = [place for place, name in enumerate(done) if name.startswith("other")]
    assert late[:2] == [LATE_TURN - 1, 2 * LATE_TURN - 1]
    assert len(done) == 11


def test_how_many_go_before_a_deadline() -> None:
    errands, _ = errands_of(Place(1), Place(2), Place(3), Place(2, hard=True), Place(9, hard=True))
    assert [errands.before(order_s, 0) for order_s in (0, 2, 2.5, 10)] == [0, 1, 3, 5]
    assert errands.before(10, now_s=2.5) == 3  # late ones are passed by


def test_none_are_left_after_a_clearance() -> None:
    errands, _ = errands_of(Place(1), Place(2, hard=True))
    errands.clear()
    assert not errands
