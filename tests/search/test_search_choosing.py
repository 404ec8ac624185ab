"""Costs, evolution and the choice among what was tried."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from bitgear import reference
from bitgear.bits import LayerBits, Plan
from bitgear.engines import create_engine
from bitgear.errors import SearchError
from bitgear.evaluate import Measured
from bitgear.search.costs import hessian_costs, measured_costs, weight_costs, weight_error
from bitgear.search.distance import moved
from bitgear.search.evolution import best, evolve, undominated
from bitgear.search.front import area, worthwhile
from bitgear.search.space import Choice, Space
from bitgear.search.trials import Trial
from tests.masters import random_codes, tiny_master


def test_fewer_bits_cost_more_and_eight_nothing() -> None:
    space = Space(tiny_master(), (8, 4, 2))
    table = weight_costs(space)
    assert (np.diff(table, axis=1) > 0).all()
    assert (table[:, 0] == 0).all()
    q8, scale = (space.master.tensors[f"a.conv1.{part}"] for part in ("weight", "weight_scale"))
    halves = np.clip(np.rint(q8 / 64.0), -2, 1) * 64 - q8
    lost = float(np.square(halves * scale.reshape(-1, 1, 1, 1)).sum())
    assert weight_error(space.master, "a.conv1", 2) == pytest.approx(lost, rel=1e-6)


def test_traces_weigh_the_error_and_count_as_nothing_below_zero() -> None:
    master = tiny_master()
    plain = weight_costs(Space(master, (8, 2)))
    traces = {"a.conv1": 2.0, "a.conv2": -1.0, "b.conv1": 0.5, "b.conv2": 1.0}
    weighed = hessian_costs(Space(replace(master, sensitivities=traces), (8, 2)))
    np.testing.assert_allclose(weighed, plain * np.array([[2.0], [0.0], [0.5], [1.0]]))
    with pytest.raises(SearchError, match="bitgear hessian"):
        hessian_costs(Space(master, (8, 2)))


def test_the_measured_cost_is_what_the_output_moves_by() -> None:
    master, engine = tiny_master(), create_engine("reference")
    q_images = random_codes(master, 5)
    table = measured_costs(Space(master, (8, 2)), engine, q_images)
    full = reference.run(master, q_images, 8)
    lowered = Plan(LayerBits(8, 8), (("b.conv1", LayerBits(2, 2)),))
    expected = np.square(reference.run(master, q_images, lowered) - full).mean() / full.var()
    assert table.shape == (4, 7)
    assert (table[:, 0] == 0).all()
    assert table[2, -1] == pytest.approx(expected)


def test_an_output_that_never_varies_has_no_infinite_cost() -> None:
    constant = np.ones((2, 3), np.float32)
    assert moved(constant, constant) == 0
    assert 0 < moved(constant + 1, constant) < np.inf


@dataclass(frozen=True)
class Point:
    use: float
    score: float


def test_what_takes_more_and_is_no_better_is_dominated() -> None:
    good = [Point(1, 0.5), Point(2, 0.7), Point(4, 0.9)]
    assert undominated([*good, Point(3, 0.7), Point(2, 0.6), Point(5, 0.9), Point(1, 0.4)]) == good


def test_evolution_finds_what_its_seeds_do_not_hold() -> None:
    space = Space(tiny_master(), (8, 6, 4, 2))
    wanted = (8, 2, 6, 4)

    def judge(choice: Choice) -> Point:
        return Point(sum(choice), -sum(abs(a - b) for a, b in zip(choice, wanted, strict=True)))

    seeds = [(4, 4, 4, 4)]
    fits = lambda choice: space.mean_width(choice) <= 5.0  # noqa: E731
    rng = np.random.default_rng(0)
    found = evolve(space, seeds, judge, 120, fits, best, rng)
    assert found[0] == seeds[0]
    assert len(set(found)) == len(found) <= 120
    assert all(fits(choice) for choice in found)
    assert wanted in found
    front = evolve(space, seeds, judge, 20, fits, undominated, np.random.default_rng(1))
    assert len(front) == 20
    full = evolve(space, seeds, judge, 20, fits, best, np.random.default_rng(2), fill=True)
    for child in full[1:]:
        raised = [(*child[:i], child[i] + 2, *child[i + 1 :]) for i in range(4) if child[i] < 8]
        assert not any(fits(choice) for choice in raised)


def test_evolution_ends_where_there_is_nothing_new() -> None:
    space = Space(tiny_master(), (4, 2))
    found = evolve(
        space, [(2, 2, 2, 2)], lambda choice: Point(sum(choice), 0), 99, lambda _: True, best, np.random.default_rng(0)
    )
    assert len(found) <= 16
    assert evolve(space, [], lambda _: Point(0, 0), 9, lambda _: True, best, np.random.default_rng(0)) == []


def trial(use: float, score: float, *choice: int) -> Trial:
    plan = Plan.uniform(choice[0]) if len(set(choice)) == 1 else Space(tiny_master(), (8, 4, 2)).plan(choice)
    return Trial(choice, plan, None, use, Measured({"top1": score}, 1, 1.0), score)


def test_plans_that_a_width_dominates_are_not_kept() -> None:
    widths = [trial(10, 0.9, 8, 8, 8, 8), trial(5, 0.8, 4, 4, 4, 4), trial(6, 0.6, 2, 2, 2, 2)]
    slow, even = trial(6, 0.8, 8, 4, 4, 4), trial(10, 0.9, 4, 8, 4, 4)
    fast, middle, high = trial(4, 0.7, 4, 2, 4, 4), trial(7, 0.89, 8, 8, 4, 4), trial(6.9, 0.81, 2, 8, 4, 4)
    assert worthwhile([slow, even, fast, middle, high], widths, 9) == [fast, high, middle]
    assert worthwhile([slow, even, fast, middle, high], widths, 1) == [middle]
    assert worthwhile([slow, even], widths, 9) == []
    assert worthwhile([fast], widths, 0) == []


def test_the_area_counts_what_is_gained_over_the_worst_width() -> None:
    widths = [trial(10, 0.9, 8, 8, 8, 8), trial(5, 0.8, 4, 4, 4, 4)]
    assert area(widths, widths) == pytest.approx(0.1 * 0.5)
    assert area([*widths, trial(5, 0.9, 8, 4, 4, 4)], widths) == pytest.approx(0.1 * 5.5)
