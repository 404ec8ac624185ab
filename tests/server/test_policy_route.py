import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.masters import named_plan, tiny_master
from tests.serving import DEADLINE_S, PATH, Running, check_problem, png, running

ADMIN = {"X-Api-Key": "the-admin-key"}
START = {
    "policy": "fixed", "margin": 0.1, "profile": "default", "slo_ms": None, "max_requests": 1024,
    "max_deadline_s": 60.0,
}  # fmt: skip


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("policy"), policy="fixed", admin_key="the-admin-key") as server:
        yield server


def test_it_is_told_and_changed_while_the_server_runs(server: Running) -> None:
    client = server.client
    assert client.get("/v1/policy", headers=ADMIN).json() == START
    assert server.good()["precision"]["served"] == 8
    answer = client.put("/v1/policy", json={"profile": "edge-small", "max_requests": 7}, headers=ADMIN)
    assert (answer.status_code, answer.json()) == (200, {**START, "profile": "edge-small", "max_requests": 7})
    assert server.good()["precision"] == {
        "requested": "auto", "served": 4, "source": "profile", "reason": "default",
    }  # fmt: skip
    assert client.put("/v1/policy", json=START, headers=ADMIN).json() == START
    assert client.put("/v1/policy", json={"policy": "fixed-3"}, headers=ADMIN).json()["policy"] == "fixed-3"
    assert server.good()["precision"]["served"] == 3
    pinned = client.post(PATH, content=png(), params={"precision": 8}).json()["precision"]
    assert (pinned["served"], pinned["reason"]) == (8, "asked")  # a contract, whatever the policy


def test_what_a_policy_may_choose_from_now_on_is_there_at_once(server: Running) -> None:
    (model,) = server.app.state.runtime.models

    def resident() -> int:
        return len(server.app.state.runtime.resident_bytes(model))

    assert resident() == 1
    assert server.client.put("/v1/policy", json={"policy": "look-ahead"}, headers=ADMIN).status_code == 200
    assert resident() == model.ladder.useful(model.ladder.all_rungs).bit_count() > 1


@pytest.mark.parametrize(
    ("change", "parameter"),
    [
        ({"policy": "best"}, "policy"),
        ({"policy": "fixed-9"}, "policy"),
        ({"policy": "fixed-mixed-9.9"}, "policy"),
        ({"profile": "none"}, "profile"),
        ({"margin": 2}, "margin"),
        ({"margin": "0.1"}, "margin"),
        ({"max_requests": 0}, "max_requests"),
        ({"max_requests": 1.5}, "max_requests"),
        ({"slo_ms": 0}, "slo_ms"),
        ({"workers": 2}, "workers"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(server: Running, change: object, parameter: str) -> None:
    answer = server.client.put("/v1/policy", json=change, headers=ADMIN)
    document = server.refused(answer, 400, "bad-parameter", parameter=parameter)
    assert document["detail"].startswith(parameter)
    assert server.client.get("/v1/policy", headers=ADMIN).json() == START


def test_a_precision_that_has_gone_with_its_model_keeps_nobody_from_changing_the_rest(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    bare = tiny_master(1, name="planned")
    planned = bare.with_plans([named_plan(bare, "mixed-a")])
    folder = tmp_path_factory.mktemp("gone")
    with running(folder, further=[planned], policy="fixed-mixed-a", admin_key="the-admin-key") as server:
        client = server.client
        assert client.post("/v2/repository/models/planned/unload", headers=ADMIN).status_code == 200
        answer = client.put("/v1/policy", json={"margin": 0.2, "max_requests": 7}, headers=ADMIN)
        assert (answer.status_code, answer.json()["margin"]) == (200, 0.2)
        answer = client.put("/v1/policy", json={"policy": "fixed-mixed-a"}, headers=ADMIN)  # as it is
        assert (answer.status_code, answer.json()["policy"]) == (200, "fixed-mixed-a")
        answer = client.put("/v1/policy", json={"policy": "fixed-mixed-b"}, headers=ADMIN)
        check_problem(answer.headers, answer.json(), 400, "bad-parameter")


def test_everyone_is_told_what_came_of_their_own_change(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    deriving, go = threading.Event(), threading.Event()

    def derive_all() -> None:
        deriving.set()
        assert go.wait(DEADLINE_S)

    monkeypatch.setattr(server.app.state.runtime, "_derive_all", derive_all)
    answers: list[dict[str, Any]] = []

    def put() -> None:
        answers.append(httpx.put(f"{server.client.base_url}/v1/policy", json={"margin": 0.3}, headers=ADMIN).json())

    first = threading.Thread(target=put)
    first.start()
    assert deriving.wait(DEADLINE_S)
    monkeypatch.setattr(server.app.state.runtime, "_derive_all", lambda: None)
    second = server.client.put("/v1/policy", json={"policy": "fixed-3", "margin": 0.0}, headers=ADMIN).json()
    go.set()
    first.join(DEADLINE_S)
    assert answers == [{**START, "margin": 0.3}]
    assert second == {**START, "policy": "fixed-3", "margin": 0.0}


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"margin": NaN}', b'{"margin": 0, "margin": 1}', b"\xff", b"[]", b"null", b'{"\\ud800": 1}']
)
def test_what_is_no_json_object_is_refused(server: Running, body: bytes) -> None:
    server.refused(server.client.put("/v1/policy", content=body, headers=ADMIN), 400, "bad-request")


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_it_takes_the_admin_key(server: Running, method: str) -> None:
    answer = server.client.request(method, "/v1/policy", json={})
    server.refused(answer, 401, "unauthorised")
    assert answer.headers["www-authenticate"] == "Bearer"
    answer = server.client.request(method, "/v1/policy", json={}, headers={"X-Api-Key": "another key"})
    server.refused(answer, 403, "forbidden")


def test_without_an_admin_key_nobody_may(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running(tmp_path_factory.mktemp("closed")) as server:
        answer = server.client.get("/v1/policy", headers={"X-Api-Key": ""})
        server.refused(answer, 403, "forbidden")


def test_a_body_that_is_too_large_is_refused(server: Running) -> None:
    answer = server.client.put("/v1/policy", content=json.dumps({"policy": "x" * 100_000}), headers=ADMIN)
    assert answer.status_code == 413
    check_problem(answer.headers, answer.json(), 413, "too-large")
