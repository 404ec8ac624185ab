"""The integer programme against all choices of small spaces, and what a layer's trace does to its width."""

import itertools
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgear.errors import EngineUnavailable
from bitgear.search.programme import Limit, candidates, solve
from bitgear.search.space import Choice, Space, Table
from tests.masters import tiny_master

pytest.importorskip("scipy.optimize")

SPACE = Space(tiny_master(), (8, 6, 4, 2))
"""Four units; 256 choices."""


def costs_of(seed: int) -> Table:
    """Costs that fall with the width, over several orders of magnitude."""
    rng = np.random.default_rng(seed)
    steps = rng.exponential(size=(4, len(SPACE.widths))) * 10 ** rng.uniform(-3, 3, (4, 1))
    return np.cumsum(steps, axis=1) - steps[:, :1]


def all_choices(space: Space) -> list[Choice]:
    return list(itertools.product(space.open, repeat=len(space.units)))


def cheapest(space: Space, costs: Table, limits: list[Limit]) -> float:
    fitting = [c for c in all_choices(space) if all(space.total(limit.table, c) <= limit.most for limit in limits)]
    return min(space.total(costs, choice) for choice in fitting)


@given(st.integers(0, 2**32 - 1), st.floats(2.0, 8.0), st.floats(0.3, 1.0))
@settings(deadline=None, max_examples=20)
def test_no_choice_within_the_limits_costs_less(seed: int, mean_width: float, share: float) -> None:
    costs = costs_of(seed)
    table = np.random.default_rng(seed).uniform(1, 2, costs.shape)
    least, most = table.min(axis=1).sum(), table.max(axis=1).sum()
    limits = [Limit(SPACE.mean_widths, mean_width + 1e-6)]
    if seed % 2:
        limits.append(Limit(table, float(least + share * (most - least)) + 1e-6))
    found = solve(SPACE, costs, limits)
    if found is None:
        assert not any(all(SPACE.total(x.table, c) <= x.most for x in limits) for c in all_choices(SPACE))
        return
    assert all(SPACE.total(limit.table, found) <= limit.most + 1e-6 for limit in limits)
    assert SPACE.total(costs, found) <= cheapest(SPACE, costs, limits) * (1 + 1e-6) + 1e-9 * float(costs.max())


@given(st.integers(0, 2**32 - 1), st.integers(0, 3), st.floats(1.5, 50.0), st.sampled_from([2.5, 3.0, 4.0, 5.0, 6.5]))
@settings(deadline=None, max_examples=30)
def test_raising_one_trace_never_lowers_its_width(seed: int, unit: int, factor: float, mean_width: float) -> None:
    costs = costs_of(seed)
    limits = [Limit(SPACE.mean_widths, mean_width)]
    before = solve(SPACE, costs, limits)
    costs[unit] *= factor
    after = solve(SPACE, costs, limits)
    assert before is not None
    assert after is not None
    assert after[unit] >= before[unit]


def test_the_most_sensitive_layer_gets_the_most_bits() -> None:
    traces = np.array([1.0, 100.0, 1.0, 1.0])
    rounding = np.array([0, 1, 4, 16, 64, 256, 1024.0])
    found = solve(SPACE, traces[:, None] * rounding, [Limit(SPACE.mean_widths, 4.0)])
    assert found is not None
    assert found[1] == max(found)


def test_the_candidates_hold_each_unit_at_each_other_width() -> None:
    costs = costs_of(1)
    limits = [Limit(SPACE.mean_widths, 4.0)]
    found = candidates(SPACE, costs, limits, 100)
    best = found[0]
    assert best == solve(SPACE, costs, limits)
    assert len(set(found)) == len(found)
    for unit, bits in enumerate(best):
        held = {choice[unit] for choice in found}
        assert held >= {width for width in SPACE.open if width <= max(best)} | {bits}
    by_cost = [SPACE.total(costs, choice) for choice in found]
    assert by_cost == sorted(by_cost)
    assert candidates(SPACE, costs, limits, 3) == found[:3]
    assert candidates(SPACE, costs, limits, 1) == [best]


def test_widths_that_are_closed_are_not_chosen() -> None:
    space = Space(tiny_master(), (4, 2))
    assert solve(space, costs_of(2), [Limit(space.mean_widths, 8.0)]) == (4, 4, 4, 4)


def test_a_limit_that_nothing_keeps_gives_nothing() -> None:
    limits = [Limit(SPACE.mean_widths, 1.9)]
    assert solve(SPACE, costs_of(3), limits) is None
    assert candidates(SPACE, costs_of(3), limits, 5) == []


def test_a_missing_solver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(EngineUnavailable, match=r"extra 'search'"):
        solve(SPACE, costs_of(4), [])
