"""The virtual clock adds up, and the policies behave on it as they promise."""

import numpy as np
import pytest

from benchmarks import arrivals
from benchmarks.attainment import EXPIRED, OK
from benchmarks.simulate import SHALLOW, STEEP, Device, made_up, simulate, told
from server.ladder import Ladder
from server.policies import create_policy

LADDER = made_up("steep", STEEP, 0.5, 16)
SURE = Device(LADDER, workers=1, noise=0.0)
SLO_MS = 25.0


def test_what_a_lone_request_takes() -> None:
    outcomes = simulate(create_policy("look-ahead"), SURE, np.array([0.0, 1.0]), SLO_MS, 0)
    assert outcomes.latency_ms == pytest.approx([5.0, 5.0])
    assert list(outcomes.served) == ["8", "8"]
    slower = Device(LADDER, workers=1, noise=0.0, overhead_ms=2.0)
    assert simulate(create_policy("fixed-4"), slower, np.array([0.0]), SLO_MS, 0).latency_ms == pytest.approx([5.4])


def test_requests_wait_for_one_another_and_expire() -> None:
    outcomes = simulate(create_policy("fixed-8"), SURE, np.zeros(20), 11.0, 0)
    # 5 ms for the first image and 2.5 for each further one: three in 10 ms, and then none
    assert sorted(outcomes.latency_ms[outcomes.status == OK]) == pytest.approx([10.0] * 3)
    assert (outcomes.status == EXPIRED).sum() == 17
    two = simulate(create_policy("fixed-8"), Device(LADDER, 2, 0.0), np.zeros(20), 11.0, 0)
    assert (two.status == OK).sum() == 6


def test_capacity_is_that_of_the_best_batch() -> None:
    assert SURE.capacity_per_s == pytest.approx(1000 * 16 / (2.5 + 2.5 * 16))
    assert Device(LADDER, 3, 0.0).capacity_per_s == pytest.approx(3 * SURE.capacity_per_s)


def test_the_ladder_states_the_90th_percentile() -> None:
    device, rng = Device(LADDER, 1, 0.1), np.random.default_rng(0)
    drawn = [device.service_ms(LADDER.rungs[0], 1, rng) for _ in range(20_000)]
    assert np.percentile(drawn, 90) == pytest.approx(5.0, rel=0.01)
    assert 1000 / np.mean(drawn) == pytest.approx(
        Device(made_up("one", {8: 5.0}, 0, 1), 1, 0.1).capacity_per_s, rel=0.01
    )


@pytest.mark.parametrize("ladder", [LADDER, made_up("shallow", SHALLOW, 0.05, 16)], ids=["steep", "shallow"])
def test_look_ahead_beats_slackfit_and_every_fixed_width(ladder: Ladder) -> None:
    device = Device(ladder, workers=2, noise=0.05)
    slo_ms = 5 * ladder.rungs[0].latency_ms(1)
    due_s = arrivals.gamma(1.2 * device.capacity_per_s, 4.0, 8.0, np.random.default_rng(1))
    accuracy = {rung.precision: rung.accuracy for rung in ladder.rungs} | {"": 0.0}
    effective = {}
    for name in ("look-ahead", "slackfit", *(f"fixed-{rung.precision}" for rung in ladder.rungs)):
        outcomes = simulate(create_policy(name), device, due_s, slo_ms, 0)
        assert len(outcomes.status) == len(due_s)
        assert np.isin(outcomes.status, (OK, EXPIRED)).all()
        attained = outcomes.attained(slo_ms)
        effective[name] = sum(accuracy[name] for name in outcomes.served[attained]) / len(due_s)
    assert max(effective, key=lambda name: effective[name]) == "look-ahead"


def test_the_ladder_of_a_server_is_read() -> None:
    rungs = [
        {"precision": 8, "accuracy": {"miou": 0.5, "pixel_accuracy": 0.8}, "batch_ms": {"fixed": 1, "per_image": 2}},
        {"precision": 4, "accuracy": {}, "batch_ms": {"fixed": 1, "per_image": 1.99}},
    ]
    ladder = told({"model": "m", "rungs": rungs}, 4)
    assert [(rung.precision, rung.accuracy, rung.pruned) for rung in ladder.rungs] == [
        ("8", 0.5, False),
        ("4", 0, True),
    ]
