import math
import random
from dataclasses import replace

import pytest

from server.ladder import Ladder
from server.measurement import Line, Times
from server.refresh import ENOUGH_BATCHES, STEP_BATCHES, Refresh
from server.registry import ServedModel
from tests.masters import tiny_master
from tests.server.ladders import ladder_of

LADDER = ladder_of({8: (10, 0.9), 4: (6, 0.88), 2: (4, 0.85)})
TIMES = Times({rung.precision: Line(rung.fixed_ms, rung.per_image_ms) for rung in LADDER.rungs}, 1.0)


def refresh() -> Refresh:
    return Refresh(LADDER, TIMES)


def observe(subject: Refresh, precision: str, factor: float, batches: int) -> int:
    """Batches of all sizes that take so many times as long as measured; how often the ladder was made anew."""
    line = TIMES.lines[precision]
    return sum(subject.observe(precision, 1 + i % 8, factor * line.at(1 + i % 8)) for i in range(batches))


def latencies(ladder: Ladder) -> list[float]:
    return [rung.latency_ms(3) for rung in ladder.rungs]


def test_a_ladder_that_is_right_stays() -> None:
    subject = refresh()
    assert observe(subject, "8", 1.0, 100) == observe(subject, "2", 1.09, 100) == 0
    assert subject.ladder is LADDER
    assert [subject.error(name) for name in ("8", "4", "2", "none")] == pytest.approx([0, 0, 0.09, 0], abs=0.01)


@pytest.mark.parametrize("factor", [0.5, 1.5, 2.0])
def test_a_device_that_changes_is_followed(factor: float) -> None:
    subject = refresh()
    assert observe(subject, "8", factor, 600) >= 1
    assert latencies(subject.ladder)[0] == pytest.approx(factor * latencies(LADDER)[0], rel=0.1)
    # the others, which were not observed, move along
    assert latencies(subject.ladder)[1:] == pytest.approx([factor * ms for ms in latencies(LADDER)[1:]], rel=0.1)
    assert abs(subject.error("8")) <= 0.1
    assert subject.ladder.max_batch == LADDER.max_batch
    assert [rung.precision for rung in subject.ladder.rungs] == [rung.precision for rung in LADDER.rungs]


def test_a_served_model_s_ladder_is_the_one_that_follows() -> None:
    model = ServedModel(tiny_master(), LADDER)
    model.refresh = refresh()
    assert model.ladder is LADDER
    assert observe(model.refresh, "8", 2.0, 100) > 0
    assert model.ladder is model.refresh.ladder is not LADDER


MIXED = Times({"8": Line(6, 4), "4": Line(4, 2.5), "2": Line(3, 1.5)}, 1.0)
"""Lines of different proportions."""


def mixed() -> Refresh:
    rungs = tuple(
        replace(rung, fixed_ms=line.fixed_ms, per_image_ms=line.per_image_ms)
        for rung, line in zip(LADDER.rungs, MIXED.lines.values(), strict=True)
    )
    return Refresh(Ladder.of("made-up", rungs, 16, 1.0), MIXED)


@pytest.mark.parametrize("sizes", [(1,), (16,), (5,), (1, 2), (15, 16)])
@pytest.mark.parametrize("deviation", [0.0, 0.08])
def test_whatever_sizes_are_served_a_ladder_that_is_right_stays(sizes: tuple[int, ...], deviation: float) -> None:
    rng = random.Random(1)
    subject = mixed()
    for i in range(4000):
        images = sizes[i % len(sizes)]
        subject.observe("8", images, MIXED.lines["8"].at(images) * rng.gauss(1, deviation))
    rung = subject.ladder.rungs[0]
    noise = subject.ladder.noise  # that alone was told
    assert (rung.fixed_ms, rung.per_image_ms) == pytest.approx((6 * noise, 4 * noise), rel=0.03)
    assert noise == pytest.approx(1 + 1.28 * deviation, abs=0.03)


@pytest.mark.parametrize("size", [1, 5, 16])
@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_after_a_change_all_sizes_of_all_precisions_move_together(size: int, factor: float) -> None:
    subject = mixed()
    took_ms = factor * MIXED.lines["8"].at(size)
    for _ in range(20):
        subject.observe("8", size, took_ms)
    one, most = (
        [rung.latency_ms(images) / MIXED.lines[rung.precision].at(images) for rung in subject.ladder.rungs]
        for images in (1, 16)
    )
    assert one == pytest.approx(most)  # before all is forgotten
    for _ in range(480):
        subject.observe("8", size, took_ms)
    for images in (1, 16):
        said = [rung.latency_ms(images) for rung in subject.ladder.rungs]
        assert said == pytest.approx([factor * line.at(images) for line in MIXED.lines.values()], rel=0.1)


def test_sizes_that_are_served_bend_the_line_and_others_follow_it() -> None:
    subject = mixed()
    for i in range(500):  # what belongs to a batch but was not measured takes as long whatever the batch
        images = (1, 8)[i % 2]
        subject.observe("8", images, 5 + MIXED.lines["8"].at(images))
    rung = subject.ladder.rungs[0]
    said = [rung.latency_ms(images) / subject.ladder.noise for images in (1, 8, 16)]
    assert said == pytest.approx([15, 43, 75], rel=0.1)


def test_what_is_served_most_tells_what_the_device_has_become() -> None:
    subject = mixed()
    for i in range(600):  # one precision in ten batches is slower, and what nobody takes hardly moves for it
        precision, factor = ("4", 1.8) if i % 10 == 0 else ("8", 1.0)
        subject.observe(precision, 1, factor * MIXED.lines[precision].at(1))
    assert subject.ladder.rungs[2].latency_ms(1) / subject.ladder.noise == pytest.approx(4.5, rel=0.12)


def test_a_device_that_changes_is_no_noise() -> None:
    subject = refresh()
    observe(subject, "8", 2.0, 200)
    assert subject.ladder.noise == pytest.approx(1, abs=0.1)


def test_slope_and_offset_are_told_apart() -> None:
    subject = refresh()
    for i in range(600):
        subject.observe("8", 1 + i % 8, 1.0 + 8.0 * (1 + i % 8))
    rung = subject.ladder.rungs[0]
    assert rung.latency_ms(1) == pytest.approx(9, rel=0.15)
    assert rung.latency_ms(8) == pytest.approx(65, rel=0.15)


def test_a_rung_that_ceases_to_be_faster_is_pruned() -> None:
    subject = refresh()
    for _ in range(30):
        observe(subject, "8", 1.0, 8)
        observe(subject, "4", 1.8, 8)
    assert [rung.pruned for rung in subject.ladder.rungs] == [False, True, False]


def test_a_rung_that_was_slow_once_gets_another_chance() -> None:
    subject = refresh()
    for _ in range(30):
        observe(subject, "8", 1.0, 8)
        observe(subject, "4", 1.8, 8)
    assert subject.ladder.rungs[1].pruned
    observe(subject, "8", 1.0, 500)  # nobody takes the other one meanwhile
    assert not any(rung.pruned for rung in subject.ladder.rungs)
    assert latencies(subject.ladder) == pytest.approx(latencies(LADDER), rel=0.1)


def test_a_single_outlier_changes_little() -> None:
    subject = refresh()
    observe(subject, "8", 1.0, 100)
    assert not subject.observe("8", 1, 10_000)
    assert not subject.observe("8", 1, 0)
    assert not subject.observe("8", 1, -1)
    assert subject.ladder is LADDER


def test_a_few_batches_say_nothing() -> None:
    subject = refresh()
    assert observe(subject, "8", 3.0, int(ENOUGH_BATCHES)) == 0
    assert observe(subject, "8", 3.0, 1) == 1


def test_noise_is_part_of_the_ladder() -> None:
    subject = refresh()
    rng = random.Random(1)
    for _ in range(500):
        subject.observe("8", 1, 15 * rng.gauss(1, 0.1))
    assert subject.ladder.rungs[0].latency_ms(1) == pytest.approx(15 * 1.13, rel=0.1)


@pytest.mark.parametrize("duration_ms", [0.0, -1.0, math.nan, math.inf])
def test_a_clock_that_is_out_of_order_does_no_harm_for_good(duration_ms: float) -> None:
    subject = refresh()
    observe(subject, "8", 1.0, 20)
    for _ in range(2 * STEP_BATCHES):
        subject.observe("8", 1, duration_ms)
    observe(subject, "8", 1.0, 1000)
    assert latencies(subject.ladder)[0] == pytest.approx(latencies(LADDER)[0], rel=0.25)


def test_what_is_unknown_is_ignored() -> None:
    subject = refresh()
    assert not subject.observe("mixed", 1, 5)
    assert not subject.observe("8", 0, 5)


@pytest.mark.parametrize("slow", [2, 8])
@pytest.mark.parametrize("after", ["8", "2"])
def test_a_slow_phase_that_ends_is_over_after_a_few_batches_whichever_are_served(slow: int, after: str) -> None:
    subject = refresh()
    for _ in range(25):
        observe(subject, "8", slow, 8)
        observe(subject, "2", slow, 8)
    assert latencies(subject.ladder) == pytest.approx([slow * ms for ms in latencies(LADDER)], rel=0.1)
    observe(subject, after, 1.0, STEP_BATCHES)
    assert latencies(subject.ladder) == pytest.approx(latencies(LADDER), rel=0.1)


def test_a_step_of_one_precision_alone_is_found_out() -> None:
    subject = refresh()
    observe(subject, "8", 1.0, 24)
    observe(subject, "2", 1.0, 24)
    for _ in range(5):
        observe(subject, "8", 2.0, 24)
        observe(subject, "2", 1.0, 24)
    eight, _, two = latencies(LADDER)
    assert [latencies(subject.ladder)[rung] for rung in (0, 2)] == pytest.approx([2 * eight, two], rel=0.1)


def test_those_that_did_not_move_step_back_without_the_one_that_did() -> None:
    subject = refresh()
    for precision in ("8", "4", "2"):
        observe(subject, precision, 1.0, 24)
    observe(subject, "8", 2.0, 24)
    for _ in range(12):  # in turns
        observe(subject, "4", 1.0, 1)
        observe(subject, "2", 1.0, 1)
    eight, four, two = latencies(LADDER)
    assert latencies(subject.ladder) == pytest.approx([2 * eight, four, two], rel=0.1)


def test_a_size_that_takes_longer_than_its_line_says_is_no_step() -> None:
    subject = refresh()
    line, rebuilt = TIMES.lines["8"], 0
    for _ in range(20):  # in phases of one size
        rebuilt += sum(subject.observe("8", 16, 2.2 * line.at(16)) for _ in range(30))
        rebuilt += sum(subject.observe("8", 1, line.at(1)) for _ in range(30))
    assert rebuilt < 12
    assert subject.ladder.rungs[0].latency_ms(1) == pytest.approx(line.at(1), rel=0.2)
    assert subject.ladder.rungs[0].latency_ms(16) == pytest.approx(2.2 * line.at(16), rel=0.15)
