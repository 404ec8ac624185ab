"""Which set-up another server gets, and what the report says of all."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import serving, serving_tables
from benchmarks.pictures import Pictures
from benchmarks.serving import Contestant, Layout, Peer, tune


def test_another_server_gets_the_engine_and_the_workers_that_give_it_most(monkeypatch: pytest.MonkeyPatch) -> None:
    def rate(layout: Layout) -> float:
        engine = {"OpenVINO": 30.0, "ONNX Runtime": 10.0}[layout.engine]
        return engine * min(layout.workers, 2) + layout.batch

    @contextlib.contextmanager
    def start(layout: Layout, _: Path) -> Iterator[Any]:
        yield layout

    monkeypatch.setattr(Contestant, "saturate", lambda self, _: self.server)
    monkeypatch.setattr(serving.loadgen, "throughput", rate)
    best, tried = tune(Peer("Some", "some", start, bytes), Pictures("none", (b"",)), cores=2)
    assert best == Layout(workers=2, threads=1, engine="OpenVINO", network="QDQ", batch=serving.BATCH)
    assert tried[str(best)] == max(tried.values())
    assert {"ONNX Runtime, QDQ", "ONNX Runtime, QOperator", "OpenVINO, QDQ"} == {
        name.split(", ", 3)[3] for name in tried
    }


def test_a_layout_names_its_engine_to_the_server() -> None:
    told = serving._environment(Layout(2, 1, "OpenVINO", batch=4))
    assert (told["PEER_ENGINE"], told["PEER_THREADS"], told["PEER_BATCH"]) == ("OpenVINO", "1", "4")
    assert told["PEER_NETWORK"].endswith("QDQ.onnx")


def report(*, engine: str | None) -> dict[str, Any]:
    def row(server: str, precision: str, rates: list[float], p99_ms: float) -> dict[str, Any]:
        times = {"p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": p99_ms}
        row = {"server": server, "precision": precision, **serving.throughputs(rates)}
        return row if server == "engine alone" else {**row, **times}

    layout = {"workers": 2, "batch": 4, **({} if engine is None else {"engine": engine})}
    return {
        "machine": {"cpu": "Some Processor"},
        "pictures": "photographs",
        "callers": 16,
        "rounds": 3,
        "client_cpu_share": 0.03,
        "offered_per_s": 70.0,
        "peers": {"LitServe": {"version": "1", "layout": layout}},
        "rows": [
            row("LitServe", "int8", [100, 100, 100], 30),
            row("MLServer", "int8", [80, 80, 80], 20),
            row("bitgear", "2", [190, 150, 200], 25),
            row("bitgear", "8", [110, 90, 130], 15),
            row("engine alone", "8", [100, 100, 125], 0),
            row("engine alone", "2", [250, 250, 250], 0),
        ],
    }


def test_serving_is_held_against_the_faster_of_the_others_round_by_round() -> None:
    lines = serving_tables.table(report(engine="OpenVINO")).splitlines()
    assert lines[2].startswith("| bitgear | 8 | **110.0**")
    assert "| 1.04 (0.93-1.09) >= 0.9 | 1.10 (0.94-1.26) >= 1 |" in lines[2]
    assert "| 0.76 (0.63-0.79) MISSES 0.9 | 1.90 (1.58-1.98) MISSES 2 |" in lines[3]
    assert "25.0 MISSES" in lines[3]
    assert "LitServe 1: workers 2, batch 4, engine OpenVINO" in serving_tables.conditions(report(engine="OpenVINO"))


def test_a_server_faster_than_its_engine_is_told_as_that() -> None:
    assert "-0.31 (-0.79 to 0.83) at 8 bits" in serving_tables.table(report(engine="OpenVINO"))


def test_others_without_the_best_engine_are_no_bar() -> None:
    lines = serving_tables.table(report(engine=None)).splitlines()
    assert lines[3].endswith("| 1.90 (1.58-1.98) | 1.0 / 2.0 / 25.0 |")
    assert "ONNX Runtime alone" in serving_tables.conditions(report(engine=None))


def test_rounds_are_dropped_where_a_set_up_is_tried_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    monkeypatch.setattr(serving, "tune", lambda peer, *_: (tried.append(peer.name), (Layout(2, 1, "E"), {}))[1])
    file, notes = tmp_path / "set-ups.json", tmp_path / "rounds.json"
    notes.touch()
    peers, pictures = [serving.LITSERVE], Pictures("none", (b"",))
    first = serving.set_ups(peers, pictures, 2, file, notes, tuned=False)
    assert not notes.exists()
    notes.touch()
    assert serving.set_ups(peers, pictures, 2, file, notes, tuned=True) == first
    assert notes.exists()
    serving.set_ups([*peers, serving.MLSERVER], pictures, 2, file, notes, tuned=True)
    assert not notes.exists()
    assert tried == ["LitServe", "MLServer"]


def test_who_leaves_requests_unanswered_misses_and_is_no_bar() -> None:
    content = report(engine="OpenVINO")
    content["rows"][0]["unanswered"] = 0
    content["rows"][1]["unanswered"] = 2  # MLServer, with the better tail of what it answered
    content["rows"][3]["unanswered"] = 1
    lines = serving_tables.table(content).splitlines()
    assert lines[2].endswith("15.0, 1 unanswered MISSES |")
    assert lines[3].endswith("25.0 |")
    assert lines[5].endswith("20.0, 2 unanswered |")
