from pathlib import Path

from server.latencies import WINDOW_CALLS, Latencies, Latency, percentile
from tests.serving import PATH, png, running


def test_an_active_profile_bounds_every_request(tmp_path: Path) -> None:
    with running(tmp_path, profile="edge-small", engine=None) as server:
        rungs = server.client.get("/v1/models/tiny/ladder").json()["rungs"]
        assert [(r["precision"], r["offered"], r["reason"]) for r in rungs] == [
            (8, False, "ceiling"), (7, False, "ceiling"), (6, False, "ceiling"), (5, False, "ceiling"),
            (4, True, None), (3, True, None), (2, True, None),
        ]  # fmt: skip
        assert [r["precision"] for r in rungs if r["resident"]] == [4]  # the profile's default is warm, no other width
        assert all(r["latency_ms"] is None for r in rungs)
        assert server.good()["precision"] == {
            "requested": "auto", "served": 4, "source": "profile", "reason": "default",
        }  # fmt: skip
        answer = server.client.post(PATH, content=png(), params={"precision": 8})
        server.refused(answer, 422, "width-not-offered", offered_precisions=[4, 3, 2])


def test_percentiles_are_of_the_nearest_rank() -> None:
    hundred = [float(n) for n in range(1, 101)]
    assert (percentile(hundred, 50), percentile(hundred, 99)) == (50, 99)
    assert (percentile([7.0], 50), percentile([7.0], 99)) == (7, 7)
    assert (percentile([1.0, 2.0], 50), percentile([1.0, 2.0], 99)) == (1, 2)
    assert WINDOW_CALLS == 1000


def test_latencies_are_of_one_size_of_batch() -> None:
    latencies = Latencies()
    for i in range(WINDOW_CALLS + 100):
        latencies.note("m", "8", 1, float(i))
    latencies.note("m", "8", 16, 5.0)
    assert latencies.of("m", "8") == Latency(599.0, 1089.0, WINDOW_CALLS)
    assert latencies.of("m", "8", 16) == Latency(5.0, 5.0, 1)
    assert latencies.of("m", "8", 2) is latencies.of("m", "4") is latencies.of("n", "8") is None
    latencies.forget("m")
    assert latencies.of("m", "8", 16) is None
