"""Tables and picture of reports about load."""

from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks import serving_tables, slo_figure, slo_tables


def row(policy: str, load: float, attainment: float, effective: float, **more: Any) -> dict[str, Any]:
    return {
        "policy": policy,
        "arrivals": "gamma",
        "cv2": 4.0,
        "load": load,
        "slo_factor": 5.0,
        "attainment": attainment,
        "attainment_by_seed": [attainment],
        "served_accuracy": 0.5,
        "effective_accuracy": effective,
        "effective_right": 0.8,
        "served_miou": 0.5,
        "p50_ms": 10.0,
        "p95_ms": 20.0,
        "p99_ms": None,
        "goodput_per_s": 80.0,
        "decision_mean_us": 12.0,
        "decision_p99_us": 50.0,
        "share": {"8": 0.75, "2": 0.25},
        "client_lag_p99_ms": 0.2,
        "client_cpu_share": 0.02,
        "client_too_busy": False,
        "different_answers": 0,
        "ceiling": 0.97,
        **more,
    }


def report() -> dict[str, Any]:
    line = {
        "due_s": [0.0, 0.1, 0.2],
        "latency_ms": [10.0, 60.0, None],
        "served": ["8", "2", ""],
        "attained": 2 / 3,
        "at_s": [0.0, 0.1, 0.2],
        "outstanding": [1, 2, 0],
    }
    return {
        "machine": {"cpu": "Some Processor"},
        "model": "camvid-resnet",
        "weights": "trained",
        "pictures": "CamVid test",
        "engine_ms": 12.0,
        "round_trip_ms": 20.0,
        "capacity_per_s": 90.0,
        "capacity_narrowest_per_s": 110.0,
        "settings": ["workers=1"],
        "rows": [
            row("look-ahead", 0.9, 0.9995, 0.53),
            row("slackfit", 0.9, 0.99, 0.52),
            row("look-ahead", 1.2, 0.98, 0.50),
            row("fixed-2", 1.2, 0.99, 0.51),
            row("look-ahead", 0.9, 0.9, 0.5, arrivals="azure", cv2=None),
        ],
        "timeline": {"slo_ms": 60.0, "load": 1.2, "cv2": 4.0, "policies": {"look-ahead": line, "fixed-8": line}},
    }


def test_bars_say_what_is_met_and_by_whom_it_is_beaten() -> None:
    found = slo_tables.bars(report()["rows"])
    assert [bar.met for bar in found] == [True, False, False]
    assert "fixed-2" in found[2].asked
    table = slo_tables.bar_table(report())
    assert table.count("MISSED") == 2
    assert "0.970 at load 0.9, 0.970 at load 1.2" in table
    assert slo_tables.bars([]) == []


def test_bursts_are_told_in_full_and_the_matrix_has_a_line_for_each_scene() -> None:
    table = slo_tables.burst_table(report())
    assert len(table.splitlines()) == 2 + 4
    assert "8: 75 %, 2: 25 %" in table
    assert "10 / 20 / " in table
    matrix = slo_tables.matrix_table(report()).splitlines()
    assert len(matrix) == 2 + 3
    assert "0.980 / 0.500" in matrix[3]
    assert "0.990 / **0.510**" in matrix[3]
    assert matrix[4].startswith("| azure | 0.9 |")


def test_what_is_measured_stands_beside_what_is_simulated() -> None:
    simulated = {"rows": [{**one, "attainment": 1.0} for one in report()["rows"]]}
    lines = slo_tables.simulated_table(report(), simulated).splitlines()
    assert len(lines) == 2 + 4
    assert lines[2] == "| **look-ahead** | 0.9 | 1.000 | 1.000 | 0.530 | 0.530 |"
    assert lines[5] == "| fixed-2 | 1.2 | 0.990 | 1.000 | 0.510 | 0.510 |"


def test_conditions_name_a_late_client_and_different_answers() -> None:
    content = report()
    assert "equal answers" in slo_tables.conditions(content)
    content["rows"][0] |= {"client_too_busy": True, "different_answers": 3}
    text = slo_tables.conditions(content)
    assert "too late" in text
    assert "3 answers differed" in text


def test_the_picture_is_the_same_every_time(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.png", "b.png")]
    for path in paths:
        slo_figure.draw(report(), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with Image.open(paths[0]) as picture:
        assert picture.width > 800


def test_serving_is_held_against_the_faster_of_the_others() -> None:
    def serving(server: str, precision: str, per_s: float, p99_ms: float) -> dict[str, Any]:
        times = {"p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": p99_ms}
        return {
            "server": server,
            "precision": precision,
            "per_s": per_s,
            "per_s_p10": per_s,
            "per_s_p90": per_s,
            **({} if server == "engine alone" else times),
        }

    content = {
        "machine": {"cpu": "Some Processor"},
        "pictures": "photographs",
        "callers": 16,
        "rounds": 5,
        "client_cpu_share": 0.03,
        "offered_per_s": 70.0,
        "peers": {"LitServe": {"version": "1", "layout": {"workers": 2, "batch": 4}}},
        "rows": [
            serving("LitServe", "int8", 100, 30),
            serving("MLServer", "int8", 80, 20),
            serving("bitgear", "2", 190, 25),
            serving("bitgear", "8", 110, 15),
            serving("engine alone", "8", 120, 0),
            serving("engine alone", "2", 250, 0),
        ],
    }
    lines = serving_tables.table(content).splitlines()
    assert lines[2].startswith("| bitgear | 8 | **110.0**")
    assert "0.92 >= 0.9 | 1.10 >= 1 |" in lines[2]
    assert "0.76 MISSES 0.9 | 1.90 MISSES 2 |" in lines[3]
    assert "25.0 MISSES" in lines[3]
    assert "LitServe 1: workers 2, batch 4" in serving_tables.conditions(content)
