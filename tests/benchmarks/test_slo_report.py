"""Tables and picture of reports about load."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from benchmarks import slo_figure, slo_tables


def row(policy: str, load: float, attainment: float, effective: float, **more: Any) -> dict[str, Any]:
    return {
        "policy": policy,
        "arrivals": "gamma",
        "cv2": 4.0,
        "load": load,
        "offered_per_s": 90 * load - 0.9,
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


def by_seed(load: float, **effective: list[float]) -> list[dict[str, Any]]:
    """Return rows of policies, with underscores for hyphens, by their effective accuracy of each seed."""
    return [
        row(policy.replace("_", "-"), load, 0.98, sum(values) / len(values), effective_by_seed=values)
        for policy, values in effective.items()
    ]


def test_bars_say_what_is_met_and_by_whom_it_is_beaten() -> None:
    content = report()
    met = by_seed(0.9, look_ahead=[0.53, 0.54, 0.55], slackfit=[0.52, 0.53, 0.541])
    missed = by_seed(1.2, look_ahead=[0.49, 0.50, 0.51], fixed_2=[0.51, 0.52, 0.531], fixed_8=[0.1, 0.2, 0.3])
    content["rows"] = [*met, *missed]
    found = slo_tables.bars(content)
    assert [bar.verdict for bar in found] == ["MISSED", "MISSED", "met", "MISSED"]
    assert "fixed-2" in found[3].asked
    table = slo_tables.bar_table(content)
    assert table.count("MISSED") == 3
    assert "0.970 at load 0.9, 0.970 at load 1.2" in table
    assert "of attainment alone" not in table
    assert "of attainment alone" in slo_tables.bar_table(report())
    assert slo_tables.bars({**content, "rows": []}) == []


@pytest.mark.parametrize(("others", "verdict"), [([0.4, 0.3, 0.49], "met"), ([0.2, 0.5, 0.4], "not told apart")])
def test_policies_are_told_apart_by_their_seeds_in_pairs(others: list[float], verdict: str) -> None:
    content = report()
    content["rows"] = by_seed(1.2, look_ahead=[0.5, 0.4, 0.6], fixed_2=others)
    assert slo_tables.bars(content)[-1].verdict == verdict


def test_few_seeds_need_more_than_two_standard_errors() -> None:
    content = report()
    content["rows"] = by_seed(1.2, look_ahead=[0.5, 0.5, 0.5], fixed_2=[0.49, 0.47, 0.46])  # t = 3.02 of 4.30
    assert slo_tables.bars(content)[-1].verdict == "not told apart"


def test_one_of_several_that_is_ahead_has_to_be_further_ahead_than_one_alone() -> None:
    ours, best, other = [0.5, 0.5, 0.5], [0.51, 0.52, 0.52], [0.3, 0.2, 0.4]  # t = -5 of 4.30, and 6.21 of two
    content = report()
    content["rows"] = by_seed(1.2, look_ahead=ours, fixed_4=best)
    assert slo_tables.bars(content)[-1].verdict == "MISSED"
    content["rows"] = by_seed(1.2, look_ahead=ours, fixed_4=best, fixed_8=other)
    assert slo_tables.bars(content)[-1].verdict == "not told apart"


def test_what_is_met_is_met_against_each_of_the_others() -> None:
    content = report()
    content["rows"] = by_seed(1.2, look_ahead=[0.5] * 3, fixed_4=[0.49, 0.48, 0.48], fixed_8=[0.1, 0.5, 0.7])
    bar = slo_tables.bars(content)[-1]
    assert (bar.verdict, "fixed-8" in bar.asked) == ("not told apart", True)


def test_policies_that_are_equally_good_in_a_scene_are_both_the_best() -> None:
    content = report()
    content["rows"] = [row("look-ahead", 0.9, 0.98, 0.5), row("slackfit", 0.9, 0.97, 0.5)]
    matrix = slo_tables.matrix_table(content)
    assert "0.980 / **0.500** | 0.970 / **0.500**" in matrix
    assert "look-ahead in 1, slackfit in 1" in matrix


def test_one_seed_tells_nothing_apart() -> None:
    assert [bar.verdict for bar in slo_tables.bars(report())[2:]] == ["not told apart"] * 2


def test_tables_name_the_load_that_was_offered() -> None:
    assert "load 0.9 (0.89 offered)" in slo_tables.bar_table(report())
    assert "| 1.2 (1.19 offered) |" in slo_tables.burst_table(report())
    assert "| 1.2 (1.19 offered) |" in slo_tables.matrix_table(report())


def test_bursts_are_told_in_full_and_the_matrix_has_a_line_for_each_scene() -> None:
    table = slo_tables.burst_table(report())
    assert len(table.splitlines()) == 2 + 4
    assert "8: 75 %, 2: 25 %" in table
    assert "10 / 20 / " in table
    matrix = slo_tables.matrix_table(report()).splitlines()
    assert len(matrix) == 2 + 3 + 2
    assert matrix[-1] == "The best effective accuracy has, of 3 scenes, look-ahead in 2, fixed-2 in 1."
    assert "0.980 / 0.500" in matrix[3]
    assert "0.990 / **0.510**" in matrix[3]
    assert matrix[4].startswith("| azure | 0.9 (0.89 offered) |")


def test_what_is_measured_stands_beside_what_is_simulated() -> None:
    simulated = {"rows": [{**one, "attainment": 1.0} for one in report()["rows"]]}
    lines = slo_tables.simulated_table(report(), simulated).splitlines()
    assert len(lines) == 2 + 4
    assert lines[2] == "| **look-ahead** | 0.9 (0.89 offered) | 1.000 | 1.000 | 0.530 | 0.530 |"
    assert lines[5] == "| fixed-2 | 1.2 (1.19 offered) | 0.990 | 1.000 | 0.510 | 0.510 |"


def test_conditions_name_a_late_client_and_different_answers() -> None:
    content = report()
    assert "equal answers" in slo_tables.conditions(content)
    content["rows"][0] |= {"client_too_busy": True, "different_answers": 3}
    text = slo_tables.conditions(content)
    assert "too late" in text
    assert "3 answers differed" in text


def test_every_answer_and_every_refusal_is_drawn() -> None:
    line = report()["timeline"]["policies"]["look-ahead"]
    panel = Figure().add_subplot()
    slo_figure._timeline(panel, "look-ahead", {**line, "served": ["8", "mixed-3.3", ""]}, 60.0)
    drawn = {points.get_label(): len(points.get_offsets()) for points in panel.collections}  # type: ignore[arg-type]
    assert drawn == {"8 bits": 1, "a plan": 1, "refused": 1}


def test_the_picture_is_the_same_every_time(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.png", "b.png")]
    for path in paths:
        slo_figure.draw(report(), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with Image.open(paths[0]) as picture:
        assert picture.width > 800
