"""Models listed, loaded and unloaded while the server runs."""

import dataclasses
import os
import socket
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from bitgear import reference
from bitgear.checkpoint import Master, write_master
from bitgear.engines import create_engine
from bitgear.errors import CheckpointTruncated
from server.errors import ModelUnusable, UnknownModel
from server.registry import ServedModel
from server.repository import Repository, Seen
from server.settings import SettingsError
from tests.masters import tiny_master
from tests.serving import DEADLINE_S, PATH, Running, pixels, png, read_answer, running, wait_until

KEY = "the admin key"
ADMIN = {"X-Api-Key": KEY}
OTHER_PATH = "/v2/models/other/infer"
RAW = {"Inference-Header-Content-Length": "0"}


# -- files ------------------------------------------------------------------------------------------------------------


def test_masters_are_found_by_the_name_that_they_give_themselves(tmp_path: Path) -> None:
    folder, file = tmp_path / "folder", tmp_path / "file.safetensors"
    folder.mkdir()
    write_master(tiny_master(name="one"), folder / "some.safetensors")
    write_master(tiny_master(name="two"), file)
    repository = Repository([folder, file])
    assert [master.name for master in repository.read_all()] == ["one", "two"]
    assert repository.read("two").digest
    write_master(tiny_master(name="three"), folder / "new.safetensors")
    assert repository.read("three").name == "three"
    assert sorted(entry.name or "" for entry in repository.entries()) == ["one", "three", "two"]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../one", "one.safetensors", "some", "ONE", "/etc/passwd", "\x00", "one/"]
)
def test_names_are_never_paths(tmp_path: Path, name: str) -> None:
    write_master(tiny_master(name="one"), tmp_path / "some.safetensors")
    with pytest.raises(UnknownModel) as caught:
        Repository([tmp_path]).read(name)
    assert caught.value.members == {"models": ["one"]}


def test_a_damaged_file_is_unusable_if_it_was_the_model_s(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    write_master(tiny_master(name="one"), path)
    repository = Repository([tmp_path])
    repository.read_all()
    content = path.read_bytes()
    for damaged in (content[:-1], content[:20], b""):
        _replace(path, damaged)
        with pytest.raises(ModelUnusable) as caught:
            repository.read("one")
        assert caught.value.members == {"reason": CheckpointTruncated.code}
        assert str(tmp_path) not in str(caught.value)
    _replace(path, content)
    assert repository.read("one")


def test_a_file_that_cannot_be_read_is_unusable_under_the_name_that_it_is_listed_by(tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"x")
    repository = Repository([tmp_path])
    assert [entry.listed for entry in repository.entries()] == ["broken"]
    with pytest.raises(ModelUnusable) as caught:
        repository.read("broken")
    assert caught.value.members == {"reason": CheckpointTruncated.code}
    write_master(tiny_master(name="one"), tmp_path / "broken.safetensors")
    with pytest.raises(UnknownModel):
        repository.read("broken")


def test_two_files_of_one_name(tmp_path: Path) -> None:
    for file in ("a", "b"):
        write_master(tiny_master(name="one"), tmp_path / f"{file}.safetensors")
    with pytest.raises(SettingsError, match="already loaded"):
        Repository([tmp_path]).read_all()
    with pytest.raises(ModelUnusable) as caught:
        Repository([tmp_path]).read("one")
    assert caught.value.members == {"reason": "name-twice"}


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="holds no"):
        Repository([tmp_path]).read_all()
    assert Repository([tmp_path]).entries() == []


def _replace(path: Path, content: bytes) -> None:
    """Exchange a file as it should be: whole."""
    partial = path.with_suffix(".partial")
    partial.write_bytes(content)
    partial.replace(path)


# -- a server ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the master ``other``."""
    folder = tmp_path / "folder"
    folder.mkdir()
    write_master(tiny_master(1, name="other"), folder / "other.safetensors")
    return folder


@pytest.fixture
def server(tmp_path: Path, folder: Path) -> Iterator[Running]:
    with running(tmp_path, files=(folder,), admin_key=KEY) as server:
        yield server


def post(server: Running, path: str, **request: Any) -> httpx.Response:
    return server.client.post(f"/v2/repository/{path}", headers=ADMIN, **request)


def index(server: Running, **document: Any) -> list[dict[str, str]]:
    answer = post(server, "index", json=document)
    assert answer.status_code == 200, answer.text
    return answer.json()


def expected(master: Master, bits: int = 8) -> Any:
    return reference.run(master, master.input.encode(pixels(0)[None]), bits)


def check_answers(server: Running, master: Master) -> str:
    """Assert that ``other`` is this master; return its version."""
    answer = server.client.post(OTHER_PATH, content=png(0), headers=RAW)
    assert answer.status_code == 200, answer.text
    length = int(answer.headers["Inference-Header-Content-Length"])
    np.testing.assert_array_equal(np.frombuffer(answer.content[length : length + 40], "<f4"), expected(master)[0])
    return str(server.client.get("/v2/models/other").json()["versions"][0])


def test_the_index(server: Running, folder: Path) -> None:
    write_master(tiny_master(2, name="late"), folder / "late.safetensors")
    (folder / "broken.safetensors").write_bytes(b"x")
    (folder / "notes.txt").write_text("not a model")
    rows = {row["name"]: row for row in index(server)}
    assert set(rows) == {"tiny", "other", "late", "broken"}
    assert rows["tiny"] == {"name": "tiny", "version": server.version, "state": "READY", "reason": ""}
    assert rows["late"] == {"name": "late", "state": "UNAVAILABLE", "reason": "unloaded"}
    assert rows["broken"] == {"name": "broken", "state": "UNAVAILABLE", "reason": "checkpoint-truncated"}
    assert [row["name"] for row in index(server, ready=True)] == ["other", "tiny"]
    assert post(server, "index").status_code == 200  # without a body, too


def test_loading_a_new_model(server: Running, folder: Path) -> None:
    master = tiny_master(2, name="late")
    write_master(master, folder / "late.safetensors")
    server.refused(server.client.get("/v2/models/late"), 404, "model-not-found")
    answer = post(server, "models/late/load")
    assert answer.status_code == 200, answer.text
    version = server.client.get("/v2/models/late").json()["versions"][0]
    assert answer.json() == {"name": "late", "version": version}
    assert server.client.post("/v1/models/late/classify", content=png()).json()["version"] == version
    assert f'bitgear_model_info{{model="late",task="classify",version="{version}"}} 1.0' in _metrics(server)


def test_loading_anew_exchanges_the_model(server: Running, folder: Path) -> None:
    first = check_answers(server, tiny_master(1, name="other"))
    assert post(server, "models/other/load").json()["version"] == first  # the file is the same: nothing changes
    master = tiny_master(5, name="other")
    write_master(master, folder / "other.safetensors")
    check_answers(server, tiny_master(1, name="other"))  # the file alone changes nothing
    answer = post(server, "models/other/load")
    assert answer.status_code == 200, answer.text
    assert check_answers(server, master) == answer.json()["version"] != first
    assert first not in _metrics(server)
    server.good()


def test_unloading(server: Running) -> None:
    assert post(server, "models/other/unload", json={"parameters": {"unload_dependents": False}}).json() == {
        "name": "other"
    }
    answer = server.client.post(OTHER_PATH, content=png(), headers=RAW)
    server.refused(answer, 404, "model-not-found", models=["tiny"])
    assert [row["state"] for row in index(server) if row["name"] == "other"] == ["UNAVAILABLE"]
    metrics = _metrics(server)
    assert 'bitgear_model_info{model="other"' not in metrics
    assert 'bitgear_queue_depth{model="other"' not in metrics
    server.refused(post(server, "models/other/unload"), 404, "model-not-found", models=["tiny"])
    assert post(server, "models/other/load").status_code == 200
    check_answers(server, tiny_master(1, name="other"))


@pytest.mark.parametrize("verb", ["load", "unload"])
def test_a_request_finishes_with_the_model_that_it_began_with(server: Running, folder: Path, verb: str) -> None:
    image = png(0)
    runtime = server.app.state.runtime
    master = runtime.models.get("other").master
    head = f"POST {OTHER_PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(image)}\r\n"
    head += "Inference-Header-Content-Length: 0\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE_S) as connection:
        connection.sendall(head.encode() + image[:10])
        in_flight = 'bitgear_in_flight{model="other"} 1.0'
        wait_until(lambda: in_flight in _metrics(server), "the request has begun")
        write_master(tiny_master(5, name="other"), folder / "other.safetensors")
        assert post(server, f"models/other/{verb}").status_code == 200
        connection.sendall(image[10:])
        status, headers, body = read_answer(connection)
    assert status == 200
    length = int(headers["inference-header-content-length"])
    old = expected(tiny_master(1, name="other"))
    np.testing.assert_array_equal(np.frombuffer(body[length : length + 40], "<f4"), old[0])
    wait_until(lambda: not runtime.cache.resident(master), "nothing is kept once the last has its answer")
    assert runtime.latencies.of("other", "8") is None


def test_without_any_model_the_server_stays_up(server: Running) -> None:
    for name in ("other", "tiny"):
        assert post(server, f"models/{name}/unload").status_code == 200
    assert server.client.get("/v2/health/ready").status_code == 200
    assert server.client.get("/v2/models").json() == {"models": []}
    assert server.client.post(PATH, content=png()).status_code == 404
    assert post(server, "models/tiny/load").status_code == 200
    server.good()


def _metrics(server: Running) -> str:
    return server.client.get("/metrics").text


@pytest.mark.parametrize("damage", ["truncated", "foreign", "missing", "renamed", "twice"])
def test_a_failed_load_leaves_the_old_model_serving(server: Running, folder: Path, damage: str) -> None:
    old = tiny_master(1, name="other")
    version = check_answers(server, old)
    path = folder / "other.safetensors"
    if damage == "truncated":
        write_master(tiny_master(5, name="other"), path)
        _replace(path, path.read_bytes()[:-1])
    elif damage == "foreign":
        _replace(path, b"PK\x03\x04" + bytes(60))
    elif damage == "missing":
        path.unlink()
    elif damage == "renamed":
        write_master(tiny_master(5, name="another"), path)
    else:
        write_master(tiny_master(5, name="other"), folder / "second.safetensors")
    answer = post(server, "models/other/load")
    status, problem = (404, "model-not-found") if damage == "renamed" else (422, "model-unusable")
    document = server.refused(answer, status, problem)
    assert str(folder) not in document["detail"]
    assert check_answers(server, old) == version


def test_a_changed_file_of_a_served_model_is_loaded_by_itself(
    tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, look = list[None](), Repository.changes

    def count(repository: Repository, names: Iterable[str]) -> dict[str, Seen]:
        looks.append(None)
        return look(repository, names)

    monkeypatch.setattr(Repository, "changes", count)
    old, new, path = tiny_master(1, name="other"), tiny_master(5, name="other"), folder / "other.safetensors"
    with running(tmp_path, files=(folder,), watch_s=0.02) as server:
        version = check_answers(server, old)
        write_master(tiny_master(1, name="another"), folder / "another.safetensors")  # nobody asked for that one
        _replace(path, path.read_bytes()[:-1])
        wait_until(lambda: "the file of other has changed, but" in caplog.text, "a warning")
        assert check_answers(server, old) == version
        write_master(tiny_master(3, name="stranger"), path)
        wait_until(lambda: "no model is named" in caplog.text, "another warning")
        path.unlink()
        before = len(looks)
        wait_until(lambda: len(looks) >= before + 3, "two looks from beginning to end")
        assert check_answers(server, old) == version
        write_master(new, path)
        wait_until(lambda: server.client.get("/v2/models/other").json()["versions"] != [version], "the new version")
        check_answers(server, new)
        assert server.client.get("/v2/models/another").status_code == 404
    assert caplog.text.count("has changed, but") == 2


class Failing:
    """The reference engine, but for those masters ``other`` that come while it fails."""

    name = "failing"

    def __init__(self) -> None:
        self.fail = False

    def derive(self, master: Master, precision: Any) -> Any:
        if self.fail and master.name == "other":
            raise MemoryError("no memory")
        return create_engine("reference").derive(master, precision)


def test_a_model_that_cannot_run_leaves_the_old_one_serving(tmp_path: Path, folder: Path) -> None:
    engine = Failing()
    with running(tmp_path, engine, files=(folder,), admin_key=KEY) as server:
        old = tiny_master(1, name="other")
        version = check_answers(server, old)
        write_master(tiny_master(5, name="other"), folder / "other.safetensors")
        engine.fail = True
        server.refused(post(server, "models/other/load"), 422, "model-unusable", reason="not-ready")
        assert check_answers(server, old) == version
        engine.fail = False
        assert post(server, "models/other/load").status_code == 200
        assert check_answers(server, tiny_master(5, name="other")) != version


def eight_bits_alone(name: str) -> Master:
    bare = dataclasses.replace(tiny_master(3, name=name), widths=(8,), accuracy={})
    tensors = {
        name: tensor[:1]
        if name.endswith(("act_scale", "residual_scale", "gain", "bias")) and name != "head.bias"
        else tensor
        for name, tensor in bare.tensors.items()
    }
    return dataclasses.replace(bare, tensors=tensors)


def test_a_model_that_the_profile_leaves_no_width(tmp_path: Path, folder: Path) -> None:
    with running(tmp_path, files=(folder,), admin_key=KEY, profile="edge-small") as server:
        write_master(eight_bits_alone("late"), folder / "late.safetensors")
        server.refused(post(server, "models/late/load"), 422, "width-not-offered", offered_precisions=[])
        assert server.client.get("/v2/models/late").status_code == 404


def load_beside(server: Running, monkeypatch: pytest.MonkeyPatch, change: dict[str, str]) -> httpx.Response:
    """Change the policy when ``late`` is about to be served; return what came of its load."""
    derive, about, go = server.app.state.runtime._derive, threading.Event(), threading.Event()

    def held(model: ServedModel) -> None:
        derive(model)
        if model.name == "late" and not go.is_set():
            about.set()
            assert go.wait(DEADLINE_S)

    monkeypatch.setattr(server.app.state.runtime, "_derive", held)
    loaded: list[httpx.Response] = []
    load = threading.Thread(target=lambda: loaded.append(post(server, "models/late/load")))
    load.start()
    assert about.wait(DEADLINE_S)
    assert server.client.put("/v1/policy", json=change, headers=ADMIN).status_code == 200
    go.set()
    load.join(DEADLINE_S)
    return loaded[0]


def test_a_profile_that_comes_while_a_model_is_loaded_may_refuse_it(
    server: Running, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_master(eight_bits_alone("late"), folder / "late.safetensors")
    answer = load_beside(server, monkeypatch, {"profile": "edge-small"})
    server.refused(answer, 422, "width-not-offered", offered_precisions=[])
    assert server.client.get("/v2/models/late").status_code == 404
    assert server.client.put("/v1/policy", json={"margin": 0.2}, headers=ADMIN).status_code == 200


def test_what_a_policy_may_choose_that_comes_while_a_model_is_loaded_is_there(
    server: Running, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_master(tiny_master(3, name="late"), folder / "late.safetensors")
    assert load_beside(server, monkeypatch, {"policy": "look-ahead"}).status_code == 200
    runtime = server.app.state.runtime
    model = runtime.models.get("late")
    assert len(runtime.resident_bytes(model)) == model.ladder.useful(model.ladder.all_rungs).bit_count() > 1


def test_models_are_exchanged_under_traffic(server: Running, folder: Path) -> None:
    """While two masters take turns, every answer is one of theirs as a whole, and says which."""
    masters = [tiny_master(seed, name="other") for seed in (1, 5)]
    files = []
    for master in masters:
        write_master(master, folder / "other.safetensors")
        files.append((folder / "other.safetensors").read_bytes())
    outputs: dict[str, bytes] = {}
    for master, content in zip(masters, files, strict=True):
        _replace(folder / "other.safetensors", content)
        outputs[post(server, "models/other/load").json()["version"]] = expected(master, 4)[0].tobytes()
    stop = threading.Event()
    wrong: list[str] = []
    seen: set[str] = set()

    def ask() -> None:
        while not stop.is_set():
            answer = server.client.post(OTHER_PATH, content=png(0), headers={**RAW, "Precision": "4"})
            if answer.status_code != 200:
                wrong.append(answer.text)
                return
            length = int(answer.headers["Inference-Header-Content-Length"])
            version = answer.content[:length].split(b'"model_version":"')[1][:12].decode()
            seen.add(version)
            if answer.content[length : length + 40] != outputs[version]:
                wrong.append(f"the output of {version} is another's")

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(20):
            _replace(folder / "other.safetensors", files[turn % 2])
            assert post(server, "models/other/load").status_code == 200
    finally:
        stop.set()
        for thread in threads:
            thread.join(DEADLINE_S)
    assert not wrong
    assert seen == set(outputs)


def test_many_loads_at_once(server: Running, folder: Path) -> None:
    for number in range(3):
        write_master(tiny_master(number, name=f"n{number}"), folder / f"n{number}.safetensors")
    statuses: list[int] = []

    def change(number: int) -> None:
        for _ in range(5):
            path = f"models/n{number % 3}"
            statuses.extend(post(server, f"{path}/{verb}").status_code for verb in ("load", "load", "unload"))

    def watch() -> None:
        statuses.extend(server.client.get("/metrics").status_code for _ in range(40))

    threads = [threading.Thread(target=change, args=(number,)) for number in range(6)]
    threads += [threading.Thread(target=watch) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert set(statuses) <= {200, 404}
    for number in range(3):
        assert post(server, f"models/n{number}/load").status_code == 200
    assert server.client.get("/v2/models").json()["models"][:2] == ["tiny", "other"]
    server.good()


def test_exchanged_models_leave_no_files_open(server: Running, folder: Path) -> None:
    def descriptors() -> int:
        return len(list(Path(f"/proc/{os.getpid()}/fd").iterdir()))

    contents = []
    for seed in (1, 5):
        write_master(tiny_master(seed, name="other"), folder / "other.safetensors")
        contents.append((folder / "other.safetensors").read_bytes())
    post(server, "models/other/load")
    before = descriptors()
    for turn in range(20):
        _replace(folder / "other.safetensors", contents[turn % 2])
        assert post(server, "models/other/load").status_code == 200
        assert server.client.post(OTHER_PATH, content=png(), headers=RAW).status_code == 200
    assert descriptors() <= before + 3
    maps = Path(f"/proc/{os.getpid()}/maps").read_text()
    assert maps.count(str(folder)) <= 4


# -- who may ----------------------------------------------------------------------------------------------------------

VERBS = ["index", "models/tiny/load", "models/tiny/unload", "models/nope/load"]


@pytest.mark.parametrize("verb", VERBS)
def test_only_with_the_admin_key(server: Running, verb: str) -> None:
    path = f"/v2/repository/{verb}"
    server.refused(server.client.post(path), 401, "unauthorised")
    server.refused(server.client.post(path, headers={"X-Api-Key": "another key"}), 403, "forbidden")
    server.refused(server.client.post(path, headers={"Authorization": f"Bearer {KEY}x"}), 403, "forbidden")
    answer = server.client.post("/v2/repository/index", headers={"Authorization": f"Bearer {KEY}"})
    assert answer.status_code == 200


@pytest.mark.parametrize("verb", VERBS)
def test_a_server_without_an_admin_key_lets_nobody(tmp_path: Path, verb: str) -> None:
    with running(tmp_path) as server:
        for headers in ({}, ADMIN, {"X-Api-Key": ""}, {"X-Api-Key": "None"}):
            server.refused(server.client.post(f"/v2/repository/{verb}", headers=headers), 403, "forbidden")


# -- what is asked ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["..", "../tiny", "%2e%2e%2ftiny", "tiny.safetensors", "TINY", "%00", "x" * 5000, "/etc/passwd", "é"]
)
@pytest.mark.parametrize("verb", ["load", "unload"])
def test_names_that_no_model_has(server: Running, name: str, verb: str) -> None:
    answer = post(server, f"models/{name}/{verb}")
    assert answer.status_code == 404
    assert "x" * 41 not in answer.text
    server.good()


@pytest.mark.parametrize(
    "body", [b"[]", b"null", b"{", b"4", b"\xff", b'{"a": 1, "a": 1}', b'{"more": 1}', b"[" * 60_000]
)
@pytest.mark.parametrize("verb", ["index", "models/other/load", "models/other/unload"])
def test_bodies_that_are_none(server: Running, body: bytes, verb: str) -> None:
    server.refused(post(server, verb, content=body), 400, "bad-request")
    check_answers(server, tiny_master(1, name="other"))


@pytest.mark.parametrize(
    ("verb", "parameters"),
    [
        ("load", {"config": "{}"}), ("load", {"file:1/model.safetensors": "QUJD"}), ("load", {"path": "/etc"}),
        ("unload", {"unload_dependents": "yes"}), ("unload", {"force": True}), ("load", {"unload_dependents": True}),
    ],
)  # fmt: skip
def test_parameters_that_are_not_taken(server: Running, verb: str, parameters: dict[str, Any]) -> None:
    answer = post(server, f"models/other/{verb}", json={"parameters": parameters})
    server.refused(answer, 400, "bad-parameter", parameter=next(iter(parameters)))
    check_answers(server, tiny_master(1, name="other"))


@pytest.mark.parametrize("parameters", [[], 0, "", False, [1]])
@pytest.mark.parametrize("verb", ["load", "unload"])
def test_parameters_that_are_no_object(server: Running, verb: str, parameters: Any) -> None:
    server.refused(post(server, f"models/other/{verb}", json={"parameters": parameters}), 400, "bad-request")
    check_answers(server, tiny_master(1, name="other"))


@pytest.mark.parametrize("document", [{"ready": 1}, {"ready": "true"}, {"ready": []}, {"name": "tiny"}])
def test_questions_to_the_index_that_are_none(server: Running, document: dict[str, Any]) -> None:
    server.refused(post(server, "index", json=document), 400, "bad-request")


def test_a_body_that_is_too_large(server: Running) -> None:
    server.refused(post(server, "index", content=b" " * 65_537), 413, "too-large", limit_bytes=65_536)
