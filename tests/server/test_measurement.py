import collections
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bitgear.bits import Plan
from server.measurement import MAX_NOISE, ROUNDS, Line, Times, fit_samples, measure, measured_ladder
from tests.masters import tiny_master


@dataclass
class Device:
    """A clock, and models that take their time on it: ``times_ms`` of a batch and of an image in it, by width."""

    times_ms: dict[int, tuple[float, float]]
    noise: Callable[[int], float] = lambda call: 1.0
    now_s: float = 0.0
    calls: list[tuple[str, int]] = field(default_factory=list)

    def clock(self) -> float:
        return self.now_s

    def derive(self, plan: Plan) -> "Model":
        return Model(self, plan)


@dataclass
class Model:
    device: Device
    plan: Plan
    nbytes: int = 0

    def run(self, q_image: NDArray[np.int8]) -> NDArray[np.float32]:
        fixed_ms, image_ms = self.device.times_ms[self.plan.default.weight_bits]
        self.device.calls.append((str(self.plan), len(q_image)))
        slow = self.device.noise(len(self.device.calls))
        self.device.now_s += slow * (fixed_ms + image_ms * len(q_image)) / 1000
        return np.zeros((len(q_image), 1), np.float32)


MASTER = tiny_master()
SLOPE = {bits: (1.0 + bits / 8, bits / 4) for bits in MASTER.widths}


def test_lines_are_found() -> None:
    device = Device(SLOPE)
    times = measure(MASTER, device.derive, 8, 2.0, device.clock)
    assert set(times.lines) == {str(bits) for bits in MASTER.widths}
    for bits, (fixed_ms, image_ms) in SLOPE.items():
        assert times.lines[str(bits)].fixed_ms == pytest.approx(fixed_ms)
        assert times.lines[str(bits)].per_image_ms == pytest.approx(image_ms)
    assert times.noise == pytest.approx(1)
    assert 2.0 <= device.now_s < 2.1
    assert {count for _, count in device.calls} == {1, 2, 4, 8}


def test_the_largest_batch_need_not_be_a_power_of_two() -> None:
    device = Device(SLOPE)
    measure(MASTER, device.derive, 6, 2.0, device.clock)
    assert {count for _, count in device.calls} == {1, 2, 4, 6}


@pytest.mark.parametrize(
    ("budget_s", "batches"), [(0.3, {1}), (1.5, {1, 2}), (5.0, {1, 2, 4}), (40.0, {1, 2, 4, 8, 16})]
)
def test_a_slow_model_is_measured_in_batches_that_can_be_timed_several_times(
    budget_s: float, batches: set[int]
) -> None:
    device = Device(
        {bits: (0.0, 2.0 * bits) for bits in MASTER.widths}, noise=lambda call: 1.5 if call % 6 == 1 else 1.0
    )
    times = measure(MASTER, device.derive, 16, budget_s, device.clock)
    calls = collections.Counter(device.calls)
    assert {count for _, count in calls} == batches
    if batches != {1}:
        assert min(calls.values()) >= ROUNDS - 1  # the last round may be cut short
        for bits in MASTER.widths:
            assert times.lines[str(bits)].at(16) == pytest.approx(32 * bits, rel=0.01)


def test_without_time_every_width_is_still_measured_once() -> None:
    device = Device(SLOPE)
    times = measure(MASTER, device.derive, 8, 0.0, device.clock)
    assert len(device.calls) == 2 * len(MASTER.widths)
    assert times.lines["8"].at(1) == pytest.approx(4)


def test_noise_is_told_apart_from_time() -> None:
    device = Device(SLOPE, noise=lambda call: 1.0 if call % 5 else 1.3)
    times = measure(MASTER, device.derive, 8, 20.0, device.clock)
    assert times.lines["8"].at(4) == pytest.approx(10, rel=0.02)
    assert times.noise == pytest.approx(1.3, rel=0.02)
    ladder = measured_ladder(MASTER, times, 8)
    assert ladder.rungs[0].latency_ms(4) == pytest.approx(13, rel=0.04)
    assert [rung.precision for rung in ladder.rungs] == [str(bits) for bits in MASTER.widths]


def test_noise_has_a_limit() -> None:
    device = Device(SLOPE, noise=lambda call: 1.0 if call % 3 else 9.0)
    assert measure(MASTER, device.derive, 8, 20.0, device.clock).noise == MAX_NOISE


def test_accuracy_is_the_main_metric_of_the_master() -> None:
    times = Times({str(bits): Line(1, 1) for bits in MASTER.widths}, 1.0)
    expected = [MASTER.accuracy.get(bits, {}).get("top1", 0.0) for bits in MASTER.widths]
    assert [rung.accuracy for rung in measured_ladder(MASTER, times, 8).rungs] == expected


@given(st.dictionaries(st.integers(1, 64), st.lists(st.floats(0.01, 1000), min_size=1, max_size=5), min_size=1))
def test_no_line_is_impossible(samples: dict[int, list[float]]) -> None:
    line, relative = fit_samples(samples)
    assert line.fixed_ms >= 0
    assert line.per_image_ms >= 0
    assert line.at(1) > 0
    assert len(relative) == sum(map(len, samples.values()))


def test_one_batch_size_says_nothing_of_what_is_fixed() -> None:
    assert fit_samples({4: [8.0]})[0] == Line(0, 2)
