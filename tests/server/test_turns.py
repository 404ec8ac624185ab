"""Turns: how often what is late lets others go first."""

from server.turns import LATE_TURN, Turns


def test_every_so_many_turns_are_kept() -> None:
    turns = Turns()
    given = [turns.gives_way(True) for _ in range(2 * LATE_TURN)]
    assert given == 2 * [*(LATE_TURN - 1) * [True], False]


def test_who_has_had_a_turn_anyway_gives_way_as_often_again() -> None:
    turns = Turns()
    assert turns.gives_way(True)
    assert not turns.gives_way(False)
    assert [turns.gives_way(True) for _ in range(LATE_TURN)] == [*(LATE_TURN - 1) * [True], False]
