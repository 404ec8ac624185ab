import pytest

from bitgear.bits import LayerBits, Plan
from server.ladder import Ladder, LadderError, Rung, positions
from tests.server.ladders import FAST, flat, ladder_of


def pruned(ladder: Ladder) -> dict[str, str | None]:
    return {rung.precision: rung.reason for rung in ladder.rungs if rung.pruned}


def test_every_width_that_is_faster_is_kept() -> None:
    ladder = ladder_of()
    assert pruned(ladder) == {}
    assert ladder.useful(ladder.all_rungs) == ladder.all_rungs
    assert not ladder.flat


def test_a_width_that_is_not_faster_than_a_wider_one_is_pruned() -> None:
    ladder = ladder_of({8: (10, 0.92), 7: (9.8, 0.91), 6: (9.71, 0.9), 5: (9.4, 0.89), 4: (6, 0.88), 2: (6.1, 0.86)})
    # 6 is within noise of 7, which is pruned, and of 8; 5 is faster than 8 by more than noise
    assert pruned(ladder) == {
        "7": "8 is as fast and as accurate",
        "6": "8 is as fast and as accurate",
        "2": "4 is as fast and as accurate",
    }


def test_a_width_that_is_faster_at_some_batch_is_kept() -> None:
    wide = Rung("8", Plan.uniform(8), 0.9, 1.0, 9.0)
    slow_alone = Rung("4", Plan.uniform(4), 0.8, 9.0, 3.0)
    assert pruned(Ladder.of("m", (wide, slow_alone), 8)) == {}
    assert list(pruned(Ladder.of("m", (wide, slow_alone), 1))) == ["4"]


def test_a_width_is_pruned_for_a_narrower_one_that_is_more_accurate_but_never_the_widest() -> None:
    ladder = ladder_of({8: (10, 0.5391), 7: (9, 0.5392), 6: (8, 0.5392), 5: (7, 0.5398), 4: (6, 0.5357)})
    assert pruned(ladder) == {"7": "5 is as fast and as accurate", "6": "5 is as fast and as accurate"}


def test_equally_fast_and_accurate_widths_do_not_prune_each_other() -> None:
    assert list(pruned(ladder_of({8: (10, 0.9), 7: (5, 0.8), 6: (5, 0.8), 5: (5, 0.8)}))) == ["6", "5"]


def test_a_flat_ladder_says_so() -> None:
    ladder = flat(8, 4, 2)
    assert ladder.flat
    assert list(pruned(ladder)) == ["4", "2"]


def test_what_is_useful_depends_on_what_else_there_is() -> None:
    ladder = flat(8, 6, 4)
    assert ladder.useful(0b110) == 0b010
    assert ladder.useful(0b100) == 0b100
    assert ladder.useful(0) == 0
    assert [ladder.instead(2, mask) for mask in (0b111, 0b110, 0b100)] == [0, 1, 2]


def test_a_rung_is_pruned_for_one_that_is_itself_pruned() -> None:
    ladder = ladder_of({8: (10, 0.9), 7: (8, 0.88), 6: (7.9, 0.87), 5: (6, 0.88)})
    assert ladder.useful(ladder.all_rungs) == 0b1001
    assert ladder.instead(2, ladder.all_rungs) == 3


def test_names_masks_and_bounds() -> None:
    ladder = ladder_of()
    assert [ladder.index(name) for name in ("8", "2", "9", "")] == [0, 6, None, None]
    assert list(positions(0)) == []
    mixed = Rung("mixed", Plan(LayerBits(4, 4), (("a", LayerBits(8, 6)),)), 0.9, 1, 1)
    assert [mixed.within(*bounds) for bounds in ((4, 8), (5, 8), (4, 7))] == [True, False, False]
    assert ladder.rungs[0].latency_ms(3) == pytest.approx(20)
    assert len(FAST) == len(ladder.rungs)


@pytest.mark.parametrize(("fixed_ms", "per_image_ms"), [(0, 0), (-1, 2), (2, -1), (float("nan"), 1), (1, float("inf"))])
def test_impossible_times(fixed_ms: float, per_image_ms: float) -> None:
    with pytest.raises(LadderError, match="precision 8 takes"):
        Ladder.of("m", (Rung("8", Plan.uniform(8), 0.9, fixed_ms, per_image_ms),), 8)


def test_impossible_ladders() -> None:
    rung = Rung("8", Plan.uniform(8), 0.9, 1, 1)
    for rungs, max_batch in (((), 8), ((rung, rung), 8), ((rung,), 0)):
        with pytest.raises(LadderError, match="expected rungs"):
            Ladder.of("m", rungs, max_batch)
