"""Histograms as Prometheus tells them."""

import math

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Histogram as Exported

from benchmarks.histograms import Histogram


def page(*durations_s: float) -> str:
    registry = CollectorRegistry()
    exported = Exported("decision_seconds", "of a policy", ["model"], buckets=(0.001, 0.01), registry=registry)
    for i, duration_s in enumerate(durations_s):
        exported.labels(str(i % 2)).observe(duration_s)
    return generate_latest(registry).decode()


def test_quantiles_are_bounds_over_all_labels() -> None:
    histogram = Histogram.of(page(0.0005, 0.0005, 0.0005, 0.005), "decision_seconds")
    assert histogram.count == 4
    assert histogram.mean_s == pytest.approx(0.0065 / 4)
    assert histogram.quantile_s(0.5) == 0.001
    assert histogram.quantile_s(0.99) == 0.01
    assert Histogram.of(page(1.0), "decision_seconds").quantile_s(0.99) == math.inf


def test_a_difference_is_what_came_in_between() -> None:
    before, after = (Histogram.of(page(*values), "decision_seconds") for values in ([0.0005], [0.0005, 0.005, 0.005]))
    between = after - before
    assert between.count == 2
    assert between.quantile_s(0.5) == 0.01
    assert (between + before).buckets == after.buckets


def test_none_of_none() -> None:
    nothing = Histogram.of(page(), "another")
    assert (nothing.count, nothing.mean_s, nothing.quantile_s(0.99)) == (0, None, None)
    assert (nothing + nothing - nothing).count == 0
