import itertools
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from server.metrics import BUCKETS_S, PHASE_BUCKETS_S, Metrics
from tests.serving import PATH, Running, png, running, wait_until

PNG = {"Content-Type": "image/png"}


def families(server: Running) -> dict[str, Metric]:
    answer = server.client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {family.name: family for family in text_string_to_metric_families(answer.text)}


def total(metrics: dict[str, Metric], name: str, suffix: str = "_total", **labels: str) -> float:
    return sum(
        sample.value
        for sample in metrics[name].samples
        if sample.name == name + suffix and labels.items() <= sample.labels.items()
    )


def test_counts_reconcile(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        client = server.client
        statuses = [
            client.post(PATH, content=png(), headers={**PNG, "Precision": precision}).status_code
            for precision in ("8", "8", "4", "8", "9", "auto")
        ]
        statuses += [
            client.post(PATH, content=b"no image", headers=PNG).status_code,
            client.post(PATH, content=b"", headers=PNG).status_code,
            client.post(PATH, content=png(), headers={"Content-Type": "text/plain"}).status_code,
            client.post("/v1/models/nope/classify", content=png(), headers=PNG).status_code,
            client.post("/v1/models/other/classify", content=png(), headers=PNG).status_code,
        ]
        client.get("/v1/models")
        client.get(PATH)
        assert statuses == [200, 200, 200, 200, 400, 200, 422, 400, 415, 404, 404]
        wait_until(lambda: total(families(server), "bitgear_requests") == len(statuses), "all requests are counted")
        metrics = families(server)

        assert total(metrics, "bitgear_served") == statuses.count(200)
        assert total(metrics, "bitgear_rejected") == len(statuses) - statuses.count(200)
        for code in set(statuses):
            assert total(metrics, "bitgear_requests", code=str(code)) == statuses.count(code)
        assert total(metrics, "bitgear_requests", model="unknown") == 2
        assert total(metrics, "bitgear_rejected", model="unknown", reason="model-not-found") == 2
        assert total(metrics, "bitgear_requests", precision="none", source="none") == 6
        assert total(metrics, "bitgear_requests", precision="8", source="request") == 3
        assert total(metrics, "bitgear_requests", precision="8", source="default") == 1
        assert total(metrics, "bitgear_served", precision="4", reason="asked") == 1
        assert total(metrics, "bitgear_width_switches") == 2
        assert total(metrics, "bitgear_width_switches", **{"from": "8", "to": "4"}) == 1
        assert total(metrics, "bitgear_width_switch_duration_seconds", "_count") == 2
        assert total(metrics, "bitgear_request_duration_seconds", "_count") == len(statuses)
        for phase in ("queue", "decode", "switch", "infer", "post"):
            assert total(metrics, "bitgear_phase_duration_seconds", "_count", phase=phase) == statuses.count(200)
        assert total(metrics, "bitgear_in_flight", "") == 0
        assert total(metrics, "bitgear_model_resident_bytes", "", kind="master") == server.master.nbytes
        assert total(metrics, "bitgear_model_resident_bytes", "", kind="derived") > 0


def documented() -> Iterable[tuple[str, set[str]]]:
    text = (Path(__file__).parents[2] / "docs" / "http.md").read_text()
    for name, labels in re.findall(r"`(bitgear_[a-z_]+)(?:\{([a-z,]+)\})?`", text):
        yield name, set(labels.split(",")) if labels else set()


def test_every_documented_metric_exists_with_its_labels_and_no_other(server: Running) -> None:
    for precision in ("8", "4", "0"):
        server.client.post(PATH, content=png(), headers={**PNG, "Precision": precision})
    exposed = {
        family.name + ("_total" if family.type == "counter" else ""): family
        for family in families(server).values()
        if not family.name.endswith("_created")
    }
    promised = dict(documented())
    assert set(exposed) == set(promised)
    for name, labels in promised.items():
        for sample in exposed[name].samples:
            if labels:
                assert set(sample.labels) - {"le"} == labels, name


def test_a_bad_name_adds_no_series(server: Running) -> None:
    server.client.post("/v1/models/nope/classify", content=png(), headers=PNG)
    before = len(families(server)["bitgear_requests"].samples)
    for name in ("a", "b", "c", "..", "tiny2"):
        server.client.post(f"/v1/models/{name}/classify", content=png(), headers=PNG)
    assert len(families(server)["bitgear_requests"].samples) == before


def test_the_error_of_a_ladder_is_told_as_it_is_for_as_long_as_its_model_is_served() -> None:
    metrics, errors = Metrics("made-up"), {"8": 0.25, "4": -0.5}

    def told() -> dict[str, float]:
        families = text_string_to_metric_families(metrics.render().decode())
        (family,) = (family for family in families if family.name == "bitgear_profile_error_ratio")
        return {sample.labels["precision"]: sample.value for sample in family.samples}

    for version in ("1", "2"):
        metrics.add_model("one", version, "classify", 1, lambda: 0, lambda: 0, errors, errors.__getitem__)
        assert told() == errors
        errors["8"] *= 2
        assert told() == errors
        metrics.remove_model("one", version, "classify")
        assert told() == {}


@pytest.mark.parametrize(
    ("bounds_s", "first_s", "last_s", "factor"), [(BUCKETS_S, 0.0005, 12.6, 1.5), (PHASE_BUCKETS_S, 0.00005, 13.1, 2)]
)
def test_buckets_are_geometric(bounds_s: tuple[float, ...], first_s: float, last_s: float, factor: float) -> None:
    assert (bounds_s[0], bounds_s[-1]) == (first_s, pytest.approx(last_s, rel=0.01))
    ratios = [high / low for low, high in itertools.pairwise(bounds_s)]
    assert ratios == pytest.approx([factor] * len(ratios), rel=0.001)
    assert all(bound_s == round(bound_s, 6) for bound_s in bounds_s)  # so that a query can spell it out


def test_rendering_pauses_again_and_again_and_leaves_nothing_out() -> None:
    metrics = Metrics("made-up")
    pauses_s: list[float] = []
    for model in range(100):
        metrics.add_model(str(model), "1", "classify", 1, lambda: 0, lambda: 0, ("8", "4"), lambda _: 0)
    page = metrics.render(pauses_s.append)
    counts = {family.name: len(family.samples) for family in text_string_to_metric_families(page.decode())}
    assert counts["bitgear_model_info"] == 100
    assert counts["bitgear_model_resident_bytes"] == counts["bitgear_profile_error_ratio"] == 200
    assert len(pauses_s) >= 10
    assert min(pauses_s) > 0


def test_two_servers_in_one_process_count_apart(tmp_path: Path, server: Running) -> None:
    server.good()
    with running(tmp_path) as other:
        assert total(families(other), "bitgear_requests") == 0
