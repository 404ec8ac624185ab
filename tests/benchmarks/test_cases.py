"""Which runs are made under load."""

from collections import Counter

import numpy as np
import pytest

from benchmarks.cases import CV2S, LOADS, Case, Scene, all_scenes, bar_scenes, fixed, pinned, planned


def test_a_fixed_width_is_pinned_and_no_policy_is() -> None:
    assert [pinned(name) for name in (fixed(8), fixed("mixed-3.2"), "look-ahead", "slackfit")] == [
        "8",
        "mixed-3.2",
        None,
        None,
    ]


def test_every_policy_meets_the_same_arrivals_next_to_the_others() -> None:
    policies = ["look-ahead", "slackfit", "fixed-8"]
    cases = list(planned(bar_scenes(), policies, seeds=3))
    assert Counter((case.scene, case.seed, case.policy) for case in cases).most_common(1)[0][1] == 1
    assert len(cases) == 2 * 3 * 3
    for start in range(0, len(cases), 3):
        group = cases[start : start + 3]
        assert len({(case.scene, case.seed) for case in group}) == 1
        assert {case.policy for case in group} == set(policies)
    assert list(planned(bar_scenes(), policies, seeds=3)) == cases


def test_the_matrix_holds_all_bursts_and_loads_and_the_bars() -> None:
    scenes = all_scenes(traces=True)
    assert {(s.cv2, s.load) for s in scenes if s.arrivals == "gamma"} >= {(c, load) for c in CV2S for load in LOADS}
    assert scenes[: len(bar_scenes())] == bar_scenes()
    assert len(set(scenes)) == len(scenes)
    assert {s.arrivals for s in all_scenes(traces=False)} == {"gamma", "ramp"}
    assert {s.arrivals for s in scenes} == {"gamma", "ramp", "azure", "twitter"}
    assert {s.slo_factor for s in scenes} == {3, 5, 10}


def test_names_of_runs_are_unique() -> None:
    names = [case.name for case in planned(all_scenes(traces=True), ["look-ahead", fixed(8)], seeds=2)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("scene", [Scene("gamma", 0.9, 4.0), Scene("ramp", 1.05, 1.0)])
def test_moments_have_the_load_and_depend_on_the_seed_alone(scene: Scene) -> None:
    moments = scene.moments(1000, 50, 7, None)
    assert len(moments) / 50 == pytest.approx(1000 * scene.load, rel=0.1)
    assert (np.diff(moments) >= 0).all()
    assert moments[-1] <= 50
    assert scene.moments(1000, 50, 7, None).tolist() == moments.tolist()
    assert scene.moments(1000, 50, 8, None).tolist() != moments.tolist()


def test_unknown_arrivals_are_named() -> None:
    with pytest.raises(ValueError, match="tides"):
        Scene("tides", 0.9).moments(10, 1, 0, None)


def test_case_names_say_all() -> None:
    assert Case("look-ahead", Scene("gamma", 1.2, 4.0), 2).name == "gamma-cv4-load1.2-slo5-look-ahead-2"
