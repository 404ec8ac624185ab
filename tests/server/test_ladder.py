from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitgear.bits import Plan
from server.ladder import Ladder, LadderError, Rung, by_time, positions
from tests.server.ladders import FAST, flat, ladder_of, plan_rung, with_plans


def pruned(ladder: Ladder) -> dict[str, str | None]:
    return {rung.precision: rung.reason for rung in ladder.rungs if rung.pruned}


def test_every_width_that_is_faster_is_kept() -> None:
    ladder = ladder_of()
    assert pruned(ladder) == {}
    assert ladder.useful(ladder.all_rungs) == ladder.all_rungs


def test_a_width_that_is_not_faster_than_a_wider_one_is_pruned() -> None:
    ladder = ladder_of({8: (10, 0.92), 7: (9.8, 0.91), 6: (9.71, 0.9), 5: (9.4, 0.89), 4: (6, 0.88), 2: (6.1, 0.86)})
    # 6 is within noise of 7, which is pruned, and of 8; 5 is faster than 8 by more than noise
    assert pruned(ladder) == {
        "7": "8 is as fast and as accurate",
        "6": "8 is as fast and as accurate",
        "2": "4 is as fast and as accurate",
    }


def test_a_width_that_is_faster_at_some_batch_is_kept() -> None:
    wide = Rung("8", Plan.uniform(8), 8, 0.9, 1.0, 9.0)
    slow_alone = Rung("4", Plan.uniform(4), 4, 0.8, 9.0, 3.0)
    assert pruned(Ladder.of("m", (wide, slow_alone), 8)) == {}
    assert list(pruned(Ladder.of("m", (wide, slow_alone), 1))) == ["4"]


def test_a_width_is_pruned_for_a_narrower_one_that_is_more_accurate_but_never_the_widest() -> None:
    ladder = ladder_of({8: (10, 0.5391), 7: (9, 0.5392), 6: (8, 0.5392), 5: (7, 0.5398), 4: (6, 0.5357)})
    assert pruned(ladder) == {"7": "5 is as fast and as accurate", "6": "5 is as fast and as accurate"}


def test_equally_fast_and_accurate_widths_do_not_prune_each_other() -> None:
    assert list(pruned(ladder_of({8: (10, 0.9), 7: (5, 0.8), 6: (5, 0.8), 5: (5, 0.8)}))) == ["6", "5"]


def test_a_flat_ladder_keeps_its_first_rung_alone() -> None:
    ladder = flat(8, 4, 2)
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
    mixed = plan_rung("mixed", 4.5, 10, 0.9)
    assert [mixed.within(*bounds) for bounds in ((4, 8), (5, 8), (2, 4), (4, 5))] == [True, False, False, True]
    assert (mixed.said, ladder.rungs[0].said) == ("mixed", 8)
    assert ladder.rungs[0].latency_ms(3) == pytest.approx(20)
    assert len(FAST) == len(ladder.rungs)


def test_images_that_take_next_to_nothing_fill_a_batch() -> None:
    rung = Rung("8", Plan.uniform(8), 8, 0.9, 1.0, 1e-310)
    assert [rung.images_within(time_ms, 16) for time_ms in (0.5, 1.0, 2.0)] == [1, 1, 16]


@pytest.mark.parametrize(("fixed_ms", "per_image_ms"), [(0, 0), (-1, 2), (2, -1), (float("nan"), 1), (1, float("inf"))])
def test_impossible_times(fixed_ms: float, per_image_ms: float) -> None:
    with pytest.raises(LadderError, match="precision 8 takes"):
        Ladder.of("m", (Rung("8", Plan.uniform(8), 8, 0.9, fixed_ms, per_image_ms),), 8)


def test_impossible_ladders() -> None:
    rung = Rung("8", Plan.uniform(8), 8, 0.9, 1, 1)
    for rungs, max_batch in (((), 8), ((rung, rung), 8), ((rung,), 0)):
        with pytest.raises(LadderError, match="expected rungs"):
            Ladder.of("m", rungs, max_batch)


# -- plans ------------------------------------------------------------------------------------------------------------


def order(ladder: Ladder) -> list[str]:
    return [rung.precision for rung in ladder.rungs]


def test_plans_stand_where_their_time_puts_them() -> None:
    plans = [
        plan_rung("slow", 6.5, 20, 0.9),
        plan_rung("b", 5.5, 6.5, 0.91),
        plan_rung("a", 3.2, 6.6, 0.915),
        plan_rung("last", 2.2, 3, 0.85),
        plan_rung("as-4", 3.9, 6, 0.915),
    ]
    ladder = with_plans(ladder_of(), *plans)
    assert order(ladder) == ["8", "slow", "7", "6", "5", "a", "b", "4", "as-4", "3", "2", "last"]
    assert by_time(reversed(ladder.rungs)) == by_time(ladder.rungs)


def test_widths_keep_their_order_whatever_was_measured() -> None:
    ladder = with_plans(ladder_of({8: (1.0, 0.9), 4: (1.1, 0.8), 2: (0.9, 0.7)}), plan_rung("p", 3, 0.95, 0.85))
    assert order(ladder) == ["8", "4", "p", "2"]


def test_a_plan_is_pruned_for_a_width_and_a_width_for_a_plan() -> None:
    better, worse = plan_rung("better", 3.4, 5.9, 0.912), plan_rung("worse", 3.6, 5.5, 0.899)
    ladder = with_plans(ladder_of(), better, worse)
    # 3 bits take 5 ms at 0.9: as fast as "worse" and better; "better" takes no longer than 4 bits and is better
    assert pruned(ladder) == {
        "4": "better is as fast and as accurate",
        "worse": "3 is as fast and as accurate",
    }
    assert order(ladder) == ["8", "7", "6", "5", "4", "better", "worse", "3", "2"]


def test_within_noise_the_more_accurate_one_stays() -> None:
    slower = with_plans(ladder_of(), plan_rung("p", 3.9, 6.1, 0.915))
    assert pruned(slower) == {"4": "p is as fast and as accurate"}
    faster = with_plans(ladder_of(), plan_rung("p", 3.9, 5.9, 0.905))
    assert pruned(faster) == {"p": "4 is as fast and as accurate"}


def test_no_plan_prunes_the_model_at_its_best() -> None:
    ladder = with_plans(ladder_of(), plan_rung("lucky", 7.5, 9.9, 0.99), plan_rung("slow", 7.9, 11, 0.99))
    assert pruned(ladder) == {
        "lucky": "8 is as fast and as accurate",
        "slow": "8 is as fast and as accurate",
    }


def test_where_the_widest_is_not_offered_a_plan_may_be_better_than_the_next() -> None:
    ladder = with_plans(ladder_of(), plan_rung("p", 3.9, 6.1, 0.915))
    below = sum(1 << index for index, rung in enumerate(ladder.rungs) if rung.mean_bits <= 4)
    four, plan = ladder.index("4"), ladder.index("p")
    assert four is not None
    assert plan is not None
    assert ladder.instead(four, below) == plan
    assert ladder.useful(below) & 1 << plan


def test_a_plan_of_unknown_accuracy_is_never_taken_but_alone() -> None:
    ladder = with_plans(ladder_of(), plan_rung("blind", 2.2, 1.0, 0.0), plan_rung("dark", 2.1, 2.0, 0.0))
    assert pruned(ladder) == dict.fromkeys(("dark", "blind"), "its accuracy is not known")
    alone = 1 << len(ladder.rungs) - 1
    assert ladder.useful(alone) == alone
    both = alone | alone >> 1
    assert ladder.useful(both) == alone  # neither is known: the faster one


def test_a_ladder_of_unknown_accuracies_is_that_of_its_widths() -> None:
    times = {bits: (time_ms, 0.0) for bits, (time_ms, _) in FAST.items()}
    ladder = with_plans(ladder_of(times), plan_rung("p", 3.4, 5.5, 0.0))
    assert ladder.useful(ladder.all_rungs) == 1 | 1 << len(ladder.rungs) - 1


def test_a_narrower_width_that_scores_better_is_not_kept_for_it_if_it_is_slower() -> None:
    ladder = ladder_of({8: (10, 0.59), 4: (6, 0.58), 3: (5, 0.548), 2: (5.4, 0.561)})
    assert pruned(ladder) == {"2": "3 is as fast and as accurate"}
    # a plan is no worse for that: what 3 bits pass for is not held against it
    ladder = with_plans(ladder, plan_rung("p", 2.6, 5.1, 0.555))
    assert pruned(ladder) == {"2": "3 is as fast and as accurate"}


@given(st.dictionaries(st.integers(2, 8), st.tuples(st.floats(0.1, 50), st.floats(0, 1)), min_size=1), st.data())
def test_what_is_useful_further_down_is_faster(times: dict[int, tuple[float, float]], data: st.DataObject) -> None:
    ladder = ladder_of(dict(sorted(times.items(), reverse=True)))
    useful = list(positions(ladder.useful(data.draw(st.integers(1, ladder.all_rungs)))))
    for wide, narrow in pairwise(ladder.rungs[index] for index in useful):
        assert 0.97 * wide.latency_ms(1) > narrow.latency_ms(1)


RUNGS = st.lists(st.tuples(st.floats(0.1, 50), st.floats(0, 1), st.floats(2, 8)), max_size=6)


@given(st.dictionaries(st.integers(2, 8), st.tuples(st.floats(0.1, 50), st.floats(0, 1)), min_size=1), RUNGS, st.data())
def test_whatever_is_left_out_has_one_that_is_as_good(
    times: dict[int, tuple[float, float]], plans: list[tuple[float, float, float]], data: st.DataObject
) -> None:
    widths = ladder_of(dict(sorted(times.items(), reverse=True)))
    made = [plan_rung(f"p{i}", bits, time_ms, accuracy) for i, (time_ms, accuracy, bits) in enumerate(plans)]
    ladder = with_plans(widths, *made)
    assert [name for name in order(ladder) if name.isdigit()] == [rung.precision for rung in widths.rungs]
    mask = data.draw(st.integers(1, ladder.all_rungs))
    useful = ladder.useful(mask)
    assert useful
    assert useful & ~mask == 0
    if mask & 1:
        assert useful & 1
    for index in positions(mask):
        other = ladder.instead(index, mask)
        assert useful >> other & 1
        if other != index and not (ladder.rungs[index].is_mixed and ladder.rungs[index].accuracy == 0):
            one, instead = ladder.rungs[index], ladder.rungs[other]
            assert all(0.97 * instead.latency_ms(n) <= one.latency_ms(n) * (1 + 1e-9) for n in (1, ladder.max_batch))
            assert instead.accuracy >= one.accuracy or other == 0 or not (one.is_mixed or instead.is_mixed)


def test_a_wider_width_counts_for_more_than_any_narrower_one_and_the_first_for_most() -> None:
    ladder = with_plans(
        ladder_of({8: (10, 0.91), 6: (8, 0.92), 4: (6, 0.9), 2: (4, 0.8)}), plan_rung("mixed-3.0", 3.0, 5, 0.95)
    )

    def worth(ladder: Ladder, mask: int) -> dict[str, float]:
        return dict(zip([rung.precision for rung in ladder.rungs], ladder.worth(mask), strict=True))

    told = worth(ladder, ladder.all_rungs)
    assert told["8"] > told["mixed-3.0"] == 0.95 > told["6"] == 0.92 > told["4"] == 0.9
    at_rest_at_6 = worth(ladder, ladder.all_rungs & ~1)
    assert at_rest_at_6["6"] > at_rest_at_6["mixed-3.0"] == 0.95 > at_rest_at_6["4"] == 0.9
    unknown = ladder_of({8: (10, 0.0), 6: (8, 0.0), 4: (6, 0.0)})
    assert list(unknown.worth(0b111)) == pytest.approx([2e-4, 1e-4, 0])
    assert ladder_of({8: (10, 0.9)}).worth(1) == (0.9,)
