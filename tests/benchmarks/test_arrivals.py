"""The processes have the rate, the burstiness and the order that they are asked for."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import arrivals


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.mark.parametrize("cv2", [0, 1, 2, 4, 8])
def test_gamma_has_its_rate_and_burstiness(cv2: float) -> None:
    moments_s = arrivals.gamma(200, cv2, 500, rng())
    gaps_s = np.diff(moments_s)
    assert len(moments_s) == 100_000
    assert gaps_s.var() / gaps_s.mean() ** 2 == pytest.approx(cv2, rel=0.1, abs=0.01)
    assert np.all(gaps_s >= 0)
    assert 0 <= moments_s[0] < moments_s[-1] < 500
    assert np.array_equal(moments_s, arrivals.gamma(200, cv2, 500, rng()))


def test_a_ramp_grows_in_a_straight_line() -> None:
    moments_s = arrivals.ramp(100, 500, 2, 400, rng())
    per_quarter = np.histogram(moments_s, 4, (0, 400))[0] / 100
    assert per_quarter == pytest.approx([150, 250, 350, 450], rel=0.05)
    down_s = arrivals.ramp(500, 100, 2, 400, rng())
    assert np.histogram(down_s, 4, (0, 400))[0] / 100 == pytest.approx([450, 350, 250, 150], rel=0.05)
    assert np.array_equal(arrivals.ramp(100, 100, 2, 400, rng()), arrivals.gamma(100, 2, 400, rng()))


def test_counts_keep_their_shape_in_another_time() -> None:
    moments_s = arrivals.replay_counts(np.asarray([1, 0, 3, 4]), 1000, 40, rng())
    assert len(moments_s) == 40_000
    assert np.all(np.diff(moments_s) >= 0)
    assert np.histogram(moments_s, 4, (0, 40))[0] / 5000 == pytest.approx([1, 0, 3, 4], rel=0.05)


def test_moments_keep_their_bursts_at_another_rate() -> None:
    recorded_s = arrivals.gamma(10, 4, 1000, rng()) + 5000
    moments_s = arrivals.replay_moments(recorded_s, 50, 100, rng())
    assert len(moments_s) == 5000
    gaps_s = np.diff(moments_s)
    assert gaps_s.var() / gaps_s.mean() ** 2 == pytest.approx(4, rel=0.2)


@pytest.mark.parametrize("count", [3, 20, 100, 450])
def test_a_window_of_a_trace_has_the_rate_that_is_asked_for(count: int) -> None:
    recorded_s = np.concatenate([np.linspace(0, 10, 20, False), np.linspace(10, 20, 180, False)])  # slow, then fast
    moments_s = arrivals.replay_moments(recorded_s, count / 5, 5, rng())
    assert len(moments_s) == count
    assert moments_s[0] == 0
    assert np.all(np.diff(moments_s) > 0)
    assert 5 - moments_s[-1] < 25 / count


def test_a_window_of_a_trace_in_which_no_time_passes_comes_at_once() -> None:
    recorded_s = np.full(100, 5.0)
    windows = [arrivals.replay_moments(recorded_s, 10, 6, np.random.default_rng(seed)) for seed in range(20)]
    assert all(len(moments_s) == 60 for moments_s in windows)
    assert all(np.all((moments_s >= 0) & (moments_s <= 6)) for moments_s in windows)
    assert any(not moments_s.any() for moments_s in windows)


def test_seeds_are_other_windows_of_a_trace() -> None:
    recorded_s = arrivals.gamma(10, 4, 100, rng())
    one, other = (arrivals.replay_moments(recorded_s, 50, 5, np.random.default_rng(seed)) for seed in (0, 1))
    assert not np.array_equal(one, other)


def test_traces_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", counts=np.asarray([5, 5], np.uint16))
    assert len(arrivals.read_trace(tmp_path / "a.npz", 10, 4, rng())) == 40

    lines = ["TIMESTAMP,ContextTokens", "2023-11-16 18:17:03.9799600,4", "2023-11-16 18:17:04.9799600,5"]
    (tmp_path / "b.csv").write_text("\n".join(lines) + "\n2023-11-16 18:17:08.9799600,5\n")
    moments_s = arrivals.read_trace(tmp_path / "b.csv", 0.3, 10, rng())
    assert sorted(np.diff([*moments_s, 10])) == pytest.approx(np.array([1, 2.5, 4]) * 10 / 7.5)  # gaps of 1, 4, mean

    (tmp_path / "c.txt").write_text("500000\n1000000\n2500000\n")
    assert arrivals.read_intervals(tmp_path / "c.txt") == pytest.approx([0.5, 1.5, 4])
    assert len(arrivals.read_trace(tmp_path / "c.txt", 50, 10, rng())) == 500


def test_an_empty_trace_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", counts=np.zeros(3, np.uint16))
    (tmp_path / "b.csv").write_text("TIMESTAMP\n")
    for name in ("a.npz", "b.csv"):
        with pytest.raises(ValueError, match="requests"):
            arrivals.read_trace(tmp_path / name, 10, 4, rng())
