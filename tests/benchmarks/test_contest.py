"""Timing in turn, and what is made of the times."""

import numpy as np
import pytest

from benchmarks import contest
from benchmarks.contest import FP32, INT8, NATIVE, Contender, Times, hold, ratio
from benchmarks.engine import Setting, best_settings, ladder, ratios, row

SETTING = Setting("resnet18-224", 1, 2)


def times(*rounds_ms: list[float]) -> Times:
    return Times([*rounds_ms], [1.0] * len(rounds_ms))


def contender(engine: str, precision: str, settings: str = "") -> Contender:
    return Contender(engine, precision, settings, lambda: np.zeros((1, 1), np.float32))


def test_every_contender_has_a_block_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contest, "BLOCK_SECONDS", 0.0)
    calls = {"a": 0, "b": 0}

    def make(name: str) -> Contender:
        def call() -> np.ndarray:
            calls[name] += 1
            return np.zeros((1, 1), np.float32)

        return Contender(name, INT8, "", call)

    measured = hold([make("a"), make("b")], 4)
    assert [[len(r) for r in m.rounds_ms] for m in measured] == [[contest.CALLS_MIN] * 4] * 2
    assert [len(m.rest_ms) for m in measured] == [4, 4]
    assert set(calls.values()) == {4 * (contest.CALLS_MIN + contest.WARM_UP_CALLS)}


def test_a_ratio_and_its_spread_are_of_rounds() -> None:
    found = ratio(times([4.0, 4.0], [8.0, 8.0], [6.0, 6.0]), times([2.0, 2.0], [2.0, 2.0], [2.0, 2.0]))
    assert found.median == 3.0
    assert (found.p10, found.p90) == (pytest.approx(2.2), pytest.approx(3.8))


def test_noise_that_hits_both_does_not_widen_the_spread() -> None:
    found = ratio(times([3.0], [30.0]), times([2.0], [20.0]))
    assert (found.p10, found.p90) == (pytest.approx(1.5), pytest.approx(1.5))


def test_a_round_with_many_calls_weighs_as_much_as_any_other() -> None:
    found = ratio(times([2.0], [9.0] * 5, [9.0] * 5), times([1.0], [3.0], [3.0]))
    assert found.p10 <= found.median <= found.p90
    assert ratio(times([2.0] * 9, [6.0], [6.0]), times([1.0] * 9, [2.0], [2.0])).median == 3.0


def test_a_row_names_engine_and_precision() -> None:
    entry = row(contender("openvino", INT8, "QDQ"), times([1.0, 2.0, 3.0]))
    assert (entry["engine"], entry["precision"], entry["settings"]) == ("openvino-int8", "int8", "QDQ")
    assert (entry["median_ms"], entry["calls"], entry["median_ms_by_round"]) == (2.0, 3, [2.0])
    assert entry["p10_ms"] < entry["median_ms"] < entry["p90_ms"]
    assert row(contender(NATIVE, "4"), times([1.0]))["engine"] == NATIVE


def test_the_fastest_settings_of_each_engine_stay() -> None:
    field = [
        contender(NATIVE, "8"),
        contender(NATIVE, "2"),
        contender("onnxruntime", INT8, "QDQ"),
        contender("onnxruntime", INT8, "QOperator"),
        contender("onnxruntime", FP32),
    ]
    measured = [times([t]) for t in (5.0, 2.0, 4.0, 3.0, 9.0)]
    assert best_settings(field, measured) == [0, 1, 3, 4]


def test_ratios_are_to_the_best_peer_of_each_kind() -> None:
    field = [contender(NATIVE, "8"), contender("onnxruntime", INT8), contender("openvino", INT8)]
    field += [contender("pytorch", FP32), contender("openvino", "bf16")]
    measured = [times([t]) for t in (10.0, 12.0, 9.0, 30.0, 1.0)]
    against_int8, against_fp32 = ratios(SETTING, field, measured)
    assert (against_int8["peer"], against_int8["ratio"]) == ("openvino-int8", pytest.approx(0.9))
    assert (against_int8["target"], against_int8["met"]) == (0.8, True)
    assert (against_fp32["peer"], against_fp32["ratio"]) == ("pytorch-fp32", pytest.approx(3.0))
    assert (against_fp32["target"], against_fp32["met"]) == (None, None)


def test_targets_are_for_single_pictures_on_two_threads() -> None:
    field, measured = [contender(NATIVE, "8"), contender("openvino", INT8)], [times([2.0]), times([1.0])]
    assert ratios(SETTING, field, measured)[0]["met"] is False
    for other in (Setting("resnet18-224", 8, 2), Setting("resnet18-224", 1, 1), Setting("resnet50-224", 1, 2)):
        assert ratios(other, field, measured)[0]["target"] is None


@pytest.mark.parametrize(("two_bits_ms", "falls"), [(3.0, True), (4.0, False), (5.0, False)])
def test_the_ladder_falls_if_every_width_is_faster_than_the_one_above(two_bits_ms: float, falls: bool) -> None:
    field = [contender(NATIVE, p) for p in ("2", "8", "w8a7", "4")] + [contender("openvino", INT8)]
    found = ladder(SETTING, field, [times([t]) for t in (two_bits_ms, 8.0, 1.0, 4.0, 1.0)])
    assert [(step["from"], step["to"]) for step in found["steps"]] == [(8, 4), (4, 2)]
    assert found["falls"] is falls
