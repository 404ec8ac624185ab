"""The measured table: what is measured, where it is kept, and that paths follow it."""

import json
import logging
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from bitgear import reference
from bitgear.engines import native
from bitgear.graph import IMAGE, Conv, Graph
from tests.masters import random_codes, random_master, tiny_master
from tests.native.paths import (
    FORMS,
    IN_WORDS,
    MULTIPLICATIONS,
    OFFERED,
    WORDS,
    _native,
    derived,
    measured,
    stride_of,
    taken,
)

from bitgear.engines import rates as kept_rates  # isort: skip - not before the extension is known to be there

SLOW_NS = 1e6
WITHOUT_TILES = [name for name, paths in OFFERED.items() if "amx" not in paths]


class Measured:
    """Stands for the machine: gives the same rates each time, and counts."""

    def __init__(self, factor: float = 1.0) -> None:
        self.calls: list[str] = []
        self.factor = factor

    def __call__(self, instruction_set: str) -> dict[str, float]:
        self.calls.append(instruction_set)
        return {name: self.factor * ns for name, ns in measured(instruction_set).items()}


def one_layer(channels: int = 64, stride: int = 1) -> Graph:
    layer = Conv("t", "x", channels, 3, stride=stride, padding=1, relu=False)
    return Graph((Conv("x", IMAGE, channels, 1), layer, Conv("y", "t", 4, 1, relu=False)))


# -- what is measured -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("instruction_set", OFFERED)
def test_every_path_is_measured(instruction_set: str) -> None:
    times = measured(instruction_set)
    assert {f"{path} mac" for path in MULTIPLICATIONS[instruction_set]} <= set(times)
    assert {f"{form} patch" for form in FORMS} | {"stream", "epilogue"} <= set(times)
    assert all(math.isfinite(ns) and ns >= 0 for ns in times.values())
    assert all(ns > 0 for name, ns in times.items() if name.endswith((" mac", " patch", " sums")))
    assert all(float(f"{ns:.3g}") == ns for ns in times.values())


@pytest.mark.parametrize("instruction_set", OFFERED)
def test_a_model_refuses_rates_that_are_not_all_there(instruction_set: str) -> None:
    times = measured(instruction_set)
    _native.Model(instruction_set, times)
    for name in times:
        with pytest.raises(ValueError, match=f"'{name}' is missing"):
            _native.Model(instruction_set, {other: ns for other, ns in times.items() if other != name})
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="'stream' is missing or no time"):
            _native.Model(instruction_set, times | {"stream": wrong})
    with pytest.raises(ValueError, match="'tpu mac' is unknown"):
        _native.Model(instruction_set, times | {"tpu mac": 1.0})


# -- what paths follow ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("instruction_set", OFFERED)
def test_a_layer_takes_the_path_that_the_rates_say_is_fastest(instruction_set: str) -> None:
    """At two bits and of few pixels all paths can be had: each one is taken when all others are slow."""
    master = random_master(one_layer(), 8, 1)
    q_images = random_codes(master, 2)
    expected = reference.run(master, q_images, 2)
    times = measured(instruction_set)
    for path in OFFERED[instruction_set]:
        rates = {name: ns if name.startswith(f"{path} ") else SLOW_NS for name, ns in times.items()}
        rates |= {"stream": 0.0, "epilogue": 0.0}
        model = derived(master, 2, instruction_set, rates=rates)
        assert taken(model, "t") == {path}
        np.testing.assert_array_equal(model.run(q_images), expected)


@pytest.mark.parametrize("instruction_set", WITHOUT_TILES)
def test_a_layer_takes_the_form_that_the_rates_say_is_fastest(instruction_set: str) -> None:
    times = measured(instruction_set)
    forms = [
        form for form in FORMS if form not in IN_WORDS or any(WORDS in p for p in MULTIPLICATIONS[instruction_set])
    ]
    for form in forms:
        master = random_master(one_layer(stride=stride_of(form)), 12, 1)
        q_images = random_codes(master, 2)
        expected = reference.run(master, q_images, 2)
        rates = {name: SLOW_NS if name.endswith(" patch") else ns for name, ns in times.items()}
        for path in OFFERED[instruction_set]:
            rates |= (
                {f"{path} mac": 1.0, f"{path} finish": SLOW_NS}
                if f"{path} finish" in rates
                else {f"{path} mac": SLOW_NS}
            )
        rates[f"{form} patch"] = 0.0
        model = derived(master, 2, instruction_set, rates=rates)
        assert {name.split()[0] for name in taken(model, "t")} == {form}
        np.testing.assert_array_equal(model.run(q_images), expected)


@pytest.mark.parametrize("instruction_set", [name for name in OFFERED if name not in WITHOUT_TILES])
def test_where_there_are_tiles_no_form_is_taken_and_weights_are_packed_where_pixels_are_few(
    instruction_set: str,
) -> None:
    fast = (" patch", " sums", "amx-4 mac", "amx-4 finish", "epilogue", "stream")
    times = {name: 0.0 if name.endswith(fast) else SLOW_NS for name in measured(instruction_set)}
    for side_px, packed in ((8, True), (12, False)):
        master = random_master(one_layer(), side_px, 1)
        went = taken(derived(master, 4, instruction_set, rates=times), "t")
        assert went <= set(OFFERED[instruction_set])
        assert (went == {"amx-4"}) is packed


@pytest.mark.parametrize("instruction_set", WITHOUT_TILES)
def test_maps_whose_ends_waste_what_a_form_saves_do_not_take_it(instruction_set: str) -> None:
    """Of 7x7 outputs of stride 2, tiles of 2x2 multiply 400 positions for 441 products; of 8x8, 400 for 576."""
    times = {name: SLOW_NS if name.endswith(" finish") else ns for name, ns in measured(instruction_set).items()}
    for side_px, takes_it in ((14, False), (16, True)):
        model = derived(random_master(one_layer(stride=2), side_px, 1), 4, instruction_set, rates=times)
        assert (taken(model, "t") <= set(OFFERED[instruction_set])) is not takes_it


@pytest.mark.parametrize("instruction_set", [n for n in WITHOUT_TILES if any(WORDS in p for p in MULTIPLICATIONS[n])])
def test_where_weights_do_not_allow_the_fastest_path_the_next_one_is_taken(instruction_set: str) -> None:
    """Transformed weights that leave a byte in many places rule out forms in bytes, but not that in 16 bits."""
    master = random_master(one_layer(), 12, 1, extreme=True)
    times = {name: SLOW_NS if name.endswith(" finish") else ns for name, ns in measured(instruction_set).items()}
    times["winograd-2x2 patch"] = 0.0
    model = derived(master, 6, instruction_set, rates=times)
    assert {name.split()[0] for name in taken(model, "t")} == {"winograd-4x4"}
    q_images = random_codes(master, 2)
    np.testing.assert_array_equal(model.run(q_images), reference.run(master, q_images, 6))


def test_an_engine_asks_for_the_rates_of_the_machine_when_it_derives(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Measured()
    monkeypatch.setattr(native, "rates_here", machine)
    engine = native.NativeEngine(instruction_set="portable")
    assert machine.calls == []
    engine.derive(tiny_master(), 4)
    assert machine.calls == ["portable"]
    native.NativeEngine(instruction_set="portable", rates=measured("portable")).derive(tiny_master(), 4)
    assert machine.calls == ["portable"]


def test_threads_that_derive_at_the_same_time_measure_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []
    entered = threading.Event()

    def slow(instruction_set: str, folder: Path) -> dict[str, float]:
        calls.append(folder)
        entered.set()
        time.sleep(0.2)  # for the other one to come, if nothing held it
        return measured(instruction_set)

    monkeypatch.setattr(kept_rates, "rates", slow)
    kept_rates._rates_here.cache_clear()
    try:
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(kept_rates.rates_here, "portable")
            assert entered.wait(60)
            second = pool.submit(kept_rates.rates_here, "portable")
            assert first.result() == second.result() == measured("portable")
    finally:
        kept_rates._rates_here.cache_clear()
    assert len(calls) == 1


# -- where they are kept ----------------------------------------------------------------------------------------------


def test_a_machine_is_measured_by_its_first_processes_and_a_busy_moment_does_not_count(tmp_path: Path) -> None:
    usual = measured("portable")
    assert kept_rates.rates("portable", tmp_path / "rates", Measured(3)) == {name: 3 * ns for name, ns in usual.items()}
    later = [Measured() for _ in range(kept_rates.MEASUREMENTS)]
    for process in later:
        found = kept_rates.rates("portable", tmp_path / "rates", process)
    assert found == usual
    assert [len(process.calls) for process in later] == [1] * (kept_rates.MEASUREMENTS - 1) + [0]


def measured_enough(folder: Path, factor: float = 1.0) -> dict[str, float]:
    """The rates of a machine that no process measures any more."""
    for _ in range(kept_rates.MEASUREMENTS):
        found = kept_rates.rates("portable", folder, Measured(factor))
    return found


@pytest.mark.parametrize("name", ["processor", "_build"])
def test_another_processor_or_build_is_measured_anew(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = measured_enough(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(kept_rates, name, lambda: "another")
        assert kept_rates.rates("portable", tmp_path, Measured(2)) != first
    assert kept_rates.rates("portable", tmp_path, Measured(2)) == first


def _of_another_key(content: dict[str, object]) -> object:
    return content | {"key": {"processor": "another"}}


def _without_a_name(content: dict[str, object]) -> object:
    return content | {"ns": [{name: ns for name, ns in each.items() if name != "stream"} for each in _tables(content)]}


def _negative(content: dict[str, object]) -> object:
    first, *rest = _tables(content)
    return content | {"ns": [first | {"stream": -1}, *rest]}


def _tables(content: dict[str, object]) -> list[dict[str, float]]:
    tables = content["ns"]
    assert isinstance(tables, list)
    return tables


BROKEN: dict[str, Callable[[dict[str, object]], object]] = {
    "another format": lambda content: content | {"format": "bitgear-ladder"},
    "another key": _of_another_key,
    "a name missing": _without_a_name,
    "a negative time": _negative,
    "no table": lambda content: content | {"ns": [1.0]},
    "one table": lambda content: content | {"ns": _tables(content)[0]},
    "text for times": lambda content: content | {"ns": [{"stream": "fast"}]},
    "no content": lambda content: [],
    "no key": lambda content: {"format": content["format"]},
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_file_of_something_else_is_made_anew(what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    usual = measured_enough(tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text(json.dumps(BROKEN[what](json.loads(file.read_text()))))
    again = Measured(2)
    found = kept_rates.rates("portable", tmp_path, again)
    assert again.calls == ["portable"]
    assert found == {name: 2 * ns for name, ns in usual.items()}
    assert "measured anew" in caplog.text
    assert len(json.loads(file.read_text())["ns"]) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b"null"])
def test_a_damaged_file_is_made_anew(content: bytes, tmp_path: Path) -> None:
    kept_rates.rates("portable", tmp_path, Measured())
    (file,) = tmp_path.iterdir()
    file.write_bytes(content)
    again = Measured()
    assert kept_rates.rates("portable", tmp_path, again) == measured("portable")
    assert again.calls == ["portable"]


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    machine = Measured()
    with caplog.at_level(logging.INFO):
        assert kept_rates.rates("portable", tmp_path / "file", machine) == measured("portable")
    assert "are not kept" in caplog.text
    assert machine.calls == ["portable"]


def test_processes_choose_the_same_paths_once_enough_have_measured(tmp_path: Path) -> None:
    program = (
        "from bitgear.engines.native import NativeEngine\n"
        "from tests.masters import tiny_master\n"
        "engine = NativeEngine()\n"
        "print(engine.rates, [engine.derive(tiny_master(), bits).core.paths for bits in (8, 6, 4, 2)])\n"
    )
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    *_, first, second = (
        subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(kept_rates.MEASUREMENTS + 1)
    )
    assert first == second
    assert len(list((tmp_path / "bitgear" / "rates").iterdir())) == 1
