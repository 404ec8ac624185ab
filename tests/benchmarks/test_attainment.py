"""Scores of runs under load, counted by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.attainment import Outcomes, ceiling, outstanding, score, wilson

ACCURACY = {"8": 0.9, "2": 0.5}


def outcomes(rows: list[tuple[float, int, str, float]], lag_ms: float = 0.1) -> Outcomes:
    """Make outcomes of (latency in ms, status, precision served, share that is right), due every 10 ms."""
    latency, status, served, right = zip(*rows, strict=True)
    count = len(rows)
    return Outcomes(
        np.arange(count) / 100,
        np.full(count, lag_ms),
        np.array(latency),
        np.array(status),
        np.arange(count),
        np.array(served),
        np.array(right),
    )


MIXED = [
    (10.0, 200, "8", 1.0),
    (20.0, 200, "2", 0.5),
    (90.0, 200, "8", 1.0),  # late
    (5.0, 429, "", np.nan),
    (60.0, 504, "", np.nan),
    (np.nan, 0, "", np.nan),
    (8.0, 500, "", np.nan),
    (50.0, 200, "2", 0.0),  # just in time
]


def test_a_miss_is_wrong_whatever_its_reason() -> None:
    row = score(outcomes(MIXED), 50, ACCURACY, seconds=2)
    assert row["submitted"] == 8
    assert row["attainment"] == 3 / 8
    assert row["served_accuracy"] == pytest.approx((0.9 + 0.5 + 0.5) / 3)
    assert row["effective_accuracy"] == pytest.approx((0.9 + 0.5 + 0.5) / 8)
    assert row["served_right"] == pytest.approx(0.5)
    assert row["effective_right"] == pytest.approx(1.5 / 8)
    assert row["goodput_per_s"] == 1.5
    assert (row["late"], row["overloaded"], row["expired"], row["failed"]) == (1, 1, 1, 2)


def test_every_request_is_counted_once() -> None:
    row = score(outcomes(MIXED), 50, ACCURACY, seconds=1)
    misses = sum(row[name] for name in ("late", "overloaded", "expired", "failed"))
    assert row["attainment"] * row["submitted"] + misses == row["submitted"]


def test_percentiles_and_shares_are_of_all_answers() -> None:
    row = score(outcomes(MIXED), 50, ACCURACY, seconds=1)
    assert row["p50_ms"] == 35
    assert row["share"] == {"2": 0.5, "8": 0.5}


@pytest.mark.parametrize("status", [429, 0])
def test_nothing_answered(status: int) -> None:
    row = score(outcomes([(np.nan, status, "", np.nan)]), 50, ACCURACY, seconds=1)
    assert (row["attainment"], row["effective_accuracy"], row["served_accuracy"]) == (0, 0, None)
    assert (row["p50_ms"], row["p99_ms"], row["effective_right"], row["share"]) == (None, None, None, {})


def test_without_labels_nothing_is_said_of_them() -> None:
    row = score(outcomes([(1.0, 200, "8", np.nan)]), 50, ACCURACY, seconds=1)
    assert (row["served_accuracy"], row["served_right"], row["effective_right"]) == (0.9, None, None)


@pytest.mark.parametrize(("lag_ms", "busy"), [(1.0, False), (3.0, True)])
def test_a_client_that_sends_late_is_reported(lag_ms: float, busy: bool) -> None:
    row: dict[str, Any] = score(outcomes(MIXED, lag_ms), 50, ACCURACY, seconds=1)
    assert row["client_too_busy"] is busy
    assert row["client_lag_p99_ms"] == pytest.approx(lag_ms)


def test_the_ceiling_serves_in_turn_and_begins_nothing_late() -> None:
    # 10 ms each, 25 ms of patience: of four at once two are in time, and one 20 ms later again.
    due_s = np.array([0.0, 0.0, 0.0, 0.0, 0.02])
    assert ceiling(due_s, per_s=100, slo_ms=25) == 3 / 5
    assert ceiling(due_s, per_s=1e6, slo_ms=25) == 1
    assert ceiling(due_s, per_s=10, slo_ms=25) == 0


def test_wilson_stays_within_0_and_1() -> None:
    assert wilson(0, 10)[0] == 0
    assert wilson(10, 10)[1] == pytest.approx(1)
    assert wilson(10, 10)[1] <= 1
    low, high = wilson(500, 1000)
    assert low == pytest.approx(0.469, abs=1e-3)
    assert high == pytest.approx(0.531, abs=1e-3)


def test_outstanding_counts_due_less_done() -> None:
    # Due at 0, 10, 20 ms; done at 10, 30 ms and, refused, at once.
    some = outcomes([(10.0, 200, "8", 1.0), (20.0, 200, "8", 1.0), (np.nan, 0, "", np.nan)])
    assert outstanding(some, np.array([0.005, 0.012, 0.025, 0.04])).tolist() == [1, 1, 1, 0]


def test_runs_join_and_survive_a_file(tmp_path: Path) -> None:
    some = outcomes(MIXED)
    some.save(tmp_path / "o.npz")
    both = Outcomes.joined([some, Outcomes.load(tmp_path / "o.npz")])
    assert both.served.tolist() == 2 * some.served.tolist()
    assert score(both, 50, ACCURACY, 2)["attainment"] == 3 / 8
