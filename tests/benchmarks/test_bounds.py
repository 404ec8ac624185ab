from benchmarks.bounds import bound


def test_cores_and_gain_raise_what_can_be_attained() -> None:
    assert 0.9 < bound(2, 1.2, 0.9) < bound(2, 2.0, 0.9) <= 1
    assert bound(2, 1.2, 1.2) < bound(4, 1.2, 1.2) <= 1
