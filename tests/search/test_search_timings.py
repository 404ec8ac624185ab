"""Layer timings of the native engine, and the prediction made of them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("bitgear._native")

from bitgear.bits import WIDTHS, LayerBits, Plan
from bitgear.checkpoint import Master
from bitgear.engines.native import NativeEngine
from bitgear.errors import SearchError
from bitgear.search.space import Space
from bitgear.search.timings import Timings, measure_timings, random_picture, read_timings
from tests.masters import tiny_master


def test_every_node_with_a_step_is_profiled() -> None:
    master = tiny_master()
    model = NativeEngine().derive(master, 4)
    seconds = model.profile(random_picture(master), 3)
    assert set(seconds) == {"image", *(node.name for node in master.graph.nodes)}
    assert all(took > 0 for took in seconds.values())


def test_timings_cover_every_open_layer_at_every_width() -> None:
    master = tiny_master()
    passes: list[int] = []
    timings = measure_timings(master, NativeEngine(), 0, passes.append)
    assert set(timings.layers) == {"a.conv1", "a.conv2", "b.conv1", "b.conv2"}
    assert all(tuple(by_width) == WIDTHS for by_width in timings.layers.values())
    assert all(ms > 0 for by_width in timings.layers.values() for ms in by_width.values())
    assert timings.other_ms > 0
    assert sum(passes) >= 10
    table = timings.table(Space(master, (8, 2)))
    assert table.shape == (4, 7)
    assert table[1, 6] == timings.layers["a.conv2"][2]


def test_the_prediction_is_the_sum_of_the_layers(tmp_path: Path) -> None:
    timings = Timings("tiny", "portable", 1, 0.5, {"a": {8: 2.0, 2: 1.0}, "b": {8: 4.0, 2: 3.0}})
    assert timings.predict_ms(Plan.uniform(8)) == 6.5
    assert timings.predict_ms(Plan(LayerBits(8, 8), (("b", LayerBits(2, 2)),))) == 5.5
    file = tmp_path / "timings.json"
    file.write_text(json.dumps(timings.to_json()))
    assert read_timings(file) == timings


def test_a_prediction_that_is_far_from_what_was_measured_is_told() -> None:
    timings = Timings("tiny", "portable", 1, 0.5, {"a": {8: 2.0, 4: 1.5, 2: 1.0}, "b": {8: 4.0, 4: 3.0, 2: 2.0}})
    assert timings.far_off({Plan.uniform(8): 5.9, Plan.uniform(2): 3.9}) is None
    told = timings.far_off({Plan.uniform(8): 6.5, Plan.uniform(4): 4.0, Plan.uniform(2): 7.0})
    assert told is not None
    assert "2 bits everywhere were predicted to take 3.5 ms and measured to take 7," in told
    assert "idle" in told


@pytest.mark.parametrize("ms", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize("part", ["layers", "other_ms"])
def test_what_is_no_time_is_named(tmp_path: Path, part: str, ms: float) -> None:
    timings = Timings("tiny", "portable", 1, 0.5, {"a": {8: 2.0, 2: 1.0}}).to_json()
    file = tmp_path / "timings.json"
    file.write_text(json.dumps({**timings, part: {"a": {8: 2.0, 2: ms}} if part == "layers" else ms}))
    with pytest.raises(SearchError, match=f"{ms} is no number of milliseconds"):
        read_timings(file)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"layers": 1}', '{"layers": {"a": {"x": 1}}}'])
def test_a_file_that_holds_no_timings_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "timings.json"
    file.write_text(content)
    with pytest.raises(SearchError, match="bitgear profile"):
        read_timings(file)
    with pytest.raises(SearchError, match="bitgear profile"):
        read_timings(tmp_path / "none.json")


def test_timings_of_another_network_are_refused() -> None:
    timings = Timings("other", "portable", 1, 0.5, {"a": {8: 2.0}})
    with pytest.raises(SearchError, match=r"'a\.conv1'"):
        timings.table(Space(tiny_master(), (8, 2)))


def timings_of(master: Master, **changes: Any) -> Timings:
    layers = {conv.name: dict.fromkeys(master.widths, 1.0) for conv in master.graph.searchable}
    engine = NativeEngine()
    return replace(Timings(master.name, engine.instruction_set, engine.threads, 0.5, layers), **changes)


def test_timings_of_another_master_are_refused_by_name_layer_and_width() -> None:
    master = tiny_master()
    timings = timings_of(master)
    timings.check_master(master)
    with pytest.raises(SearchError, match="are of model 'other', not of 'tiny'"):
        replace(timings, model="other").check_master(master)
    with pytest.raises(SearchError, match=r"layer 'c\.conv1' is missing or too many"):
        replace(timings, layers={**timings.layers, "c.conv1": {}}).check_master(master)
    with pytest.raises(SearchError, match=r"lack 2 bits of layer 'a\.conv1'"):
        replace(timings, layers={**timings.layers, "a.conv1": dict.fromkeys(WIDTHS[:-1], 1.0)}).check_master(master)


def test_other_conditions_are_told() -> None:
    engine = NativeEngine()
    assert timings_of(tiny_master()).measured_otherwise(engine) == []
    told = timings_of(tiny_master(), threads=64, instruction_set="abacus").measured_otherwise(engine)
    assert [line.split(",")[0] for line in told] == [
        "the timings were measured with threads 64", "the timings were measured with instruction set abacus"
    ]  # fmt: skip


def test_a_picture_of_noise_has_the_input_size() -> None:
    picture = random_picture(tiny_master())
    assert picture.shape == (1, 3, 16, 16)
    assert picture.dtype == np.int8
