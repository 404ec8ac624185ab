"""Tables and picture of a report."""

from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks import engine_figure, engine_tables


def report() -> dict[str, Any]:
    setting = {"network": "resnet20-32", "batch": 1, "threads": 2}
    larger = setting | {"batch": 8}

    def row(engine: str, precision: str, median_ms: float, **more: Any) -> dict[str, Any]:
        spread = {
            "calls": 700 if engine == "bitgear-native" else 60,
            "p10_ms": 0.9 * median_ms,
            "p90_ms": 1.2 * median_ms,
            "settings": "",
        }
        return {
            "weights": "trained",
            "engine": engine,
            "precision": precision,
            "median_ms": median_ms,
            **spread,
            **more,
        }

    rows = [
        setting | row("bitgear-native", "8", 0.4, top1=0.92, settings="avx2"),
        setting | row("bitgear-native", "w8a7", 0.375, settings="avx2"),
        setting | row("onnxruntime-int8", "int8", 0.5, settings="QDQ"),
        setting | row("openvino-int8", "int8", 0.45),
        setting | row("pytorch-fp32", "fp32", 1.6),
        larger | row("bitgear-native", "8", 3.0, settings="avx2"),
    ]
    ratio = {"against": "int8", "peer": "openvino-int8", "p10": 1.0, "p90": 1.25}
    return {
        "machine": {"cpu": "Some Processor"},
        "conditions": {
            "cores": 2,
            "flags": ["avx2"],
            "packages": {"numpy": "2.0", "nncf": None},
            "load_average_before": [0.1] * 3,
        },
        "rows": rows,
        "ratios": [
            setting | ratio | {"precision": "8", "ratio": 1.125, "target": 1.1, "met": True},
            setting | ratio | {"precision": "w8a7", "ratio": 1.2, "target": None, "met": None},
        ],
        "ladders": [setting | {"steps": [], "falls": True}, larger | {"steps": [], "falls": True}],
        "ready": [
            {
                "network": "resnet20-32",
                "weights": "trained",
                "derivation": [
                    {"precision": "8", "median_ms": 0.5, "p10_ms": 0.4, "p90_ms": 0.6, "resident_bytes": 280_000}
                ],
                "derivation_target_ms": None,
                "switch": {"median_us": 1.25, "p10_us": 1.0, "p90_us": 2.0, "target_us": 20.0},
                "master_bytes": 291_244,
            }
        ],
    }


def test_the_overview_has_one_line_for_each_network() -> None:
    lines = engine_tables.overview(report()).splitlines()
    assert lines[0].startswith("Some Processor, 2 cores, kernels avx2; batch 1, 2 threads")
    assert lines[2] == "| | best fp32 | best int8 | 8 bit | w8a7 |"
    assert lines[4] == (
        "| resnet20-32, trained weights | 1.60 (PyTorch) | 0.450 (OpenVINO) | **0.400** 1.12x | **0.375** 1.20x |"
    )
    assert lines[5] == "| top-1 in % |  |  | 92.00 |  |"


def test_tables_tell_the_rounds() -> None:
    for maker in (engine_tables.overview, engine_tables.details):
        assert "9 rounds; ratios are medians over them." in maker({**report(), "rounds": 9})
        assert "7 rounds; ratios are of medians over all calls" in maker(report())


def test_the_overview_tells_how_many_steps_are_clear() -> None:
    content = report()
    content["ladders"][0]["steps"] = [{"p10": 1.1}, {"p10": 0.9}]
    content["ladders"][1]["steps"] = [{"p10": 1.1}]
    assert engine_tables.overview(content).endswith(
        "Of 2 steps to the next lower width, 1 gain time at the 10th percentile of the rounds too."
    )


def test_in_short_there_are_time_and_accuracy_of_masters_alone() -> None:
    assert engine_tables.in_short(report(), {"resnet20-32": "resnet20-cifar10"}, ["8"]).splitlines() == [
        "|  | 8 bit |",
        "|---|---|",
        "| resnet20-cifar10 | 0.400 ms, 92.0 % top-1 |",
        "",
        "Some Processor, 2 cores, kernels avx2, 2 threads; medians of 7 rounds, one picture a call.",
    ]


def test_the_overview_says_what_the_peers_were_held_to() -> None:
    held = report()
    held["conditions"]["peers_held_to"] = "avx2"
    assert engine_tables.overview(held).startswith("Some Processor, 2 cores, kernels avx2, peers held to avx2; batch 1")


def test_details_show_every_contest() -> None:
    text = engine_tables.details(report())
    assert "**resnet20-32**, trained weights, batch 8, 2 threads" in text
    assert "| bitgear | 8 | 0.400 | 0.360-0.480 | 1.12 (1.00-1.25) >= 1.10 |  |" in text
    assert "| ONNX Runtime (QDQ) | int8 | 0.500 | 0.450-0.600 |  |  |" in text
    assert text.endswith("(avx2); numpy 2.0.")


def test_every_table_of_a_busy_machine_says_so() -> None:
    content = report()
    makers = (engine_tables.overview, engine_tables.details, engine_tables.ready)
    assert not any("Provisional" in make(content) for make in makers)
    content["conditions"]["load_average_before"] = [1.0, 0.5, 0.5]
    assert all(make(content).startswith("**Provisional: ") for make in makers)


def test_ready_shows_derivation_memory_and_switch() -> None:
    text = engine_tables.ready(report())
    assert "| resnet20-32 | 8 | 0.50 (0.40-0.60) | 0.28 MB |" in text
    assert "| resnet20-32 | master | | 0.29 MB |" in text
    assert "1.2 us" in text


def test_the_terminal_names_missed_targets() -> None:
    content = report()
    content["ratios"][0] |= {"ratio": 1.0, "met": False}
    ladder = content["ladders"][0] | {"steps": [{"from": 8, "to": 4, "ratio": 0.9}], "falls": False}
    text = engine_tables.table(content["rows"][:5], content["ratios"], ladder)
    assert "MISSES 1.10" in text
    assert "ladder: DOES NOT FALL (8>4 0.90)" in text


def test_steps_of_one_node_stay_apart_in_the_layer_table() -> None:
    step = {
        "network": "n",
        "threads": 2,
        "precision": "8",
        "layer": "conv",
        "macs": 1e6,
        "gmac_per_s": 1.0,
        "path": "p",
    }
    text = engine_tables.layer_table([step | {"ms": 1.0}, step | {"ms": 2.0}, step | {"ms": 4.0, "precision": "2"}])
    assert text.count("conv ") == 2
    assert text.splitlines()[-1].split() == ["all", "3.000", "4.000"]


def test_the_picture_is_drawn_without_peers_too(tmp_path: Path) -> None:
    content = report()
    for name, rows in (("all.png", content["rows"]), ("alone.png", content["rows"][:2])):
        engine_figure.draw(content | {"rows": rows}, tmp_path / name)
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 100
