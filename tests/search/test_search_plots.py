"""The plots of a report: everything that was found is on them, and where it belongs."""

from typing import Any

from matplotlib.figure import Figure

from bitgear.bits import LayerBits
from bitgear.search.grid import draw_widths
from bitgear.search.report import _scatter


def row(predicted_ms: float, score: float, **more: Any) -> dict[str, Any]:
    return {"predicted_ms": predicted_ms, "score": score, "mean_width": 4.0, **more}


def test_plans_tried_and_kept_and_widths_stand_at_their_predictions() -> None:
    report = {
        "metric": "top1",
        "uniform": {"8": row(3.0, 0.9, latency_ms=4.0), "2": row(1.0, 0.5, latency_ms=1.5)},
        "trials": [row(2.0, 0.8), row(2.5, 0.1)],
        "plans": {"mixed-4.0": row(2.0, 0.8, latency_ms=2.7)},
    }
    axes = Figure().subplots()
    _scatter(report, axes, "predicted_ms", "ms of one picture, predicted")
    tried, widths, kept = (list(zip(*line.get_data(), strict=True)) for line in axes.get_lines())
    assert tried == [(2.0, 80.0), (2.5, 10.0)]
    assert widths == [(3.0, 90.0), (1.0, 50.0)]
    assert kept == tried[:1]
    low, high = axes.get_ylim()
    assert low < 10 < 90 < high


def test_every_width_of_every_plan_can_be_read() -> None:
    axes = Figure().subplots()
    plans = {"a": {"x": LayerBits(3, 3), "y": LayerBits(7, 7)}, "b": {"x": LayerBits(3, 2), "y": LayerBits(7, 7)}}
    draw_widths(axes, ["x", "y"], plans)
    assert [(text.get_position(), text.get_text()) for text in axes.texts] == [
        ((0, 0), "3"),
        ((1, 0), "7"),
        ((0, 1), "3/2"),
        ((1, 1), "7"),
    ]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert "activations" in axes.get_ylabel()
