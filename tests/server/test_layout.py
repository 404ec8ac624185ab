from pathlib import Path

import pytest

from bitgear.engines import create_engine
from server.layout import (
    Figures,
    Layout,
    choose_layout,
    first_layout,
    layouts,
    measure_layout,
    read_layout,
    write_layout,
)
from tests.masters import tiny_master
from tests.serving import limit_threads, wait_until


@pytest.mark.parametrize(
    ("cores", "expected"),
    [(1, [(1, 1)]), (2, [(2, 1), (1, 2)]), (3, [(3, 1), (1, 3)]), (6, [(6, 1), (3, 2), (2, 3), (1, 6)])],
)
def test_layouts_fill_the_cores(cores: int, expected: list[tuple[int, int]]) -> None:
    assert layouts(cores) == [Layout(*each) for each in expected]


FIGURES = {Layout(4, 1): Figures(400, 10), Layout(2, 2): Figures(390, 5.1), Layout(1, 4): Figures(250, 4)}
BETTER = {Layout(2, 1): Figures(300, 6), Layout(1, 2): Figures(376, 3)}
EVEN = {Layout(4, 1): Figures(390, 10), Layout(2, 2): Figures(400, 5), Layout(1, 4): Figures(395, 4.9)}


@pytest.mark.parametrize(
    ("figures", "aim", "expected"),
    [
        (FIGURES, "throughput", (4, 1)),
        (FIGURES, "latency", (1, 4)),
        (EVEN, "throughput", (4, 1)),
        (BETTER, "throughput", (1, 2)),  # by more than its threads will cost each other in a server
        (EVEN, "latency", (2, 2)),
    ],
)
def test_the_aim_decides(figures: dict[Layout, Figures], aim: str, expected: tuple[int, int]) -> None:
    assert choose_layout(list(figures), figures.__getitem__, aim) == Layout(*expected)  # type: ignore[arg-type]


def test_a_single_core_is_not_measured() -> None:
    def fail(_: Layout) -> Figures:
        raise AssertionError("measured")

    assert choose_layout(layouts(1), fail, "latency") == Layout(1, 1)


def test_figures_come_from_calls_of_all_workers() -> None:
    master = tiny_master()
    model = create_engine().derive(master, 8)
    figures = measure_layout(model, master, Layout(2, 1), budget_s=0)  # one call each
    assert figures.images_per_s > 0
    assert figures.latency_ms > 0


def test_where_a_thread_cannot_start_the_others_end(monkeypatch: pytest.MonkeyPatch) -> None:
    master = tiny_master()
    model = create_engine().derive(master, 8)
    started = limit_threads(monkeypatch, 2)
    with pytest.raises(RuntimeError, match="new thread"):
        measure_layout(model, master, Layout(4, 1), budget_s=0)
    assert [thread.daemon for thread in started] == [True, True]
    wait_until(lambda: not any(thread.is_alive() for thread in started), "the end of all threads")


def test_what_a_device_begins_with() -> None:
    assert first_layout(4, "throughput") == Layout(4, 1)
    assert first_layout(4, "latency") == Layout(1, 4)


def test_a_layout_is_kept_like_a_ladder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    key = {"master": "digest", "cores": 4}
    assert read_layout(tmp_path, key) is None
    write_layout(tmp_path, key, Layout(2, 1))
    assert read_layout(tmp_path, key) == Layout(2, 1)
    assert read_layout(tmp_path, {**key, "cores": 8}) is None
    (path,) = tmp_path.glob("layouts/*.json")
    path.write_text(path.read_text().replace('"threads": 1', '"threads": 0'))
    assert read_layout(tmp_path, key) is None
    assert "measured anew" in caplog.text
