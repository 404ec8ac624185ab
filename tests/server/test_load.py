"""More requests than there is time for, clients that leave, and deadlines: nobody waits in vain, and counts agree."""

import asyncio
import base64
import collections
import contextlib
import gc
import json
import os
import random
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from bitgear.checkpoint import write_master
from bitgear.tasks.pictures import Picture
from server.app import create_app
from server.measurement import Line, Times, measured_ladder
from server.refresh import Refresh
from server.scheduler import Job, Scheduler
from server.settings import Settings
from tests.masters import tiny_master
from tests.server.gates import Exchanged, Gate
from tests.server.test_lifecycle import head
from tests.serving import DEADLINE_S, PATH, Running, png, read_answer, running, wait_until


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


@pytest.fixture
def gated(tmp_path: Path, gate: Gate) -> Iterator[Running]:
    """A server with one engine worker behind a gate, which takes four requests at a time."""
    with running(tmp_path, gate, engine_workers=1, max_requests=4) as server:
        gate.close()
        yield server
        gate.open.set()


def samples(text: str) -> collections.Counter[str]:
    """Sums of the metrics that are counted, by name, and by name and reason or result."""
    sums: collections.Counter[str] = collections.Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            sums[sample.name] += sample.value  # type: ignore[assignment]
            for label in ("reason", "result", "code"):
                if label in sample.labels:
                    sums[f"{sample.name} {sample.labels[label]}"] += sample.value  # type: ignore[assignment]
    return sums


def counted(server: Running) -> collections.Counter[str]:
    return samples(server.client.get("/metrics").text)


class Sender:
    """Requests on threads of their own."""

    def __init__(self, server: Running) -> None:
        self._server = server
        self._threads: list[threading.Thread] = []
        self.answers: list[Any] = []

    def send(self, **request: Any) -> None:
        """Send one, without waiting for its answer, once the one before is in flight."""
        before = counted(self._server)["bitgear_in_flight"]
        thread = threading.Thread(target=self._send, kwargs=request)
        thread.start()
        self._threads.append(thread)
        wait_until(lambda: counted(self._server)["bitgear_in_flight"] > before, "in flight")

    def _send(self, **request: Any) -> None:
        with contextlib.closing(self._server.client.__class__(base_url=self._server.client.base_url)) as client:
            self.answers.append(client.post(PATH, content=png(), timeout=DEADLINE_S, **request))

    def wait(self) -> list[int]:
        """The statuses of all answers."""
        for thread in self._threads:
            thread.join(DEADLINE_S)
        return sorted(answer.status_code for answer in self.answers)


def test_a_full_server_says_so_before_it_reads_the_body(gated: Running, gate: Gate) -> None:
    sender = Sender(gated)
    for _ in range(4):
        sender.send()
    with socket.create_connection(("127.0.0.1", gated.port), DEADLINE_S) as connection:
        connection.sendall(head(100_000))  # and nothing of the body
        status, headers, body = read_answer(connection)
    assert status == 429
    document = json.loads(body)
    assert document["type"] == "urn:bitgear:problem:overloaded"
    assert (document["queue_depth"], headers["retry-after"]) == (4, str(document["retry_after_s"]))
    gate.open.set()
    assert sender.wait() == [200] * 4
    gated.good()
    wait_until(lambda: counted(gated)["bitgear_in_flight"] == 0, "the end")
    assert counted(gated)["bitgear_slo_total missed"] >= 1


@pytest.mark.parametrize("leave", [socket.socket.close, lambda connection: connection.shutdown(socket.SHUT_WR)])
def test_a_client_that_leaves_costs_no_engine_call(
    gated: Running, gate: Gate, leave: Callable[[socket.socket], None]
) -> None:
    sender = Sender(gated)
    sender.send()
    gate.wait_for_a_call()
    image = png()
    with socket.create_connection(("127.0.0.1", gated.port), DEADLINE_S) as connection:
        connection.sendall(head(len(image)) + image)
        wait_until(lambda: counted(gated)["bitgear_queue_depth"] == 1, "queued")
        leave(connection)
        wait_until(lambda: counted(gated)["bitgear_in_flight"] == 1, "given up")
    assert counted(gated)["bitgear_rejected_total unanswered"] == 1
    gate.open.set()
    assert sender.wait() == [200]
    gated.good()
    assert len(gate.calls) == 2
    sums = counted(gated)
    assert sums["bitgear_requests_total"] == sums["bitgear_served_total"] + sums["bitgear_rejected_total"] == 3


@pytest.mark.parametrize("place", ["header", "query", "json"])
def test_a_deadline_is_kept_in_the_queue_and_in_the_engine(gated: Running, gate: Gate, place: str) -> None:
    def post(deadline_ms: int) -> Any:
        if place == "json":
            body = {"image": base64.b64encode(png()).decode(), "deadline_ms": deadline_ms}
            return gated.client.post(PATH, json=body)
        name, where = ("Deadline-Ms", "headers") if place == "header" else ("deadline_ms", "params")
        given: Any = {where: {name: str(deadline_ms)}}
        return gated.client.post(PATH, content=png(), **given)

    answers = [post(600), post(50)]
    gate.open.set()
    for answer, stage in zip(answers, ("infer", "queue"), strict=True):
        gated.refused(answer, 504, "deadline-exceeded", stage=stage)
    assert len(gate.calls) == 1 + 2  # the late one was not run; the two good ones were
    assert counted(gated)["bitgear_slo_total missed"] >= 2


def test_the_server_waits_no_longer_than_its_own_limit(tmp_path: Path, gate: Gate) -> None:
    with running(tmp_path, gate, max_deadline_s=0.2) as server:
        gate.close()
        answers = [
            server.client.post(PATH, content=png(), headers=headers) for headers in ({}, {"Deadline-Ms": "60000"})
        ]
        gate.open.set()
        for answer in answers:
            server.refused(answer, 504, "deadline-exceeded")


def test_priority_goes_first(gated: Running, gate: Gate) -> None:
    sender = Sender(gated)
    sender.send()
    gate.wait_for_a_call()
    sender.send(params={"precision": 4})
    wait_until(lambda: counted(gated)["bitgear_queue_depth"] == 1, "queued")
    sender.send(params={"precision": 5, "priority": 1})
    wait_until(lambda: counted(gated)["bitgear_queue_depth"] == 2, "queued")
    gate.open.set()
    assert sender.wait() == [200] * 3
    assert [bits for bits, _ in gate.calls] == [8, 5, 4]


def test_what_waits_is_codes_and_not_the_picture(gated: Running, gate: Gate) -> None:
    sender = Sender(gated)
    sender.send()
    gate.wait_for_a_call()
    sender.send()
    sender.send()
    wait_until(lambda: counted(gated)["bitgear_queue_depth"] == 2, "queued")
    assert not any(type(thing) is Picture for thing in gc.get_objects())  # to ask others their class may warn
    gate.open.set()
    assert sender.wait() == [200] * 3


@pytest.mark.parametrize("error", [RuntimeError("broken"), SystemExit("dead"), MemoryError()])
def test_an_engine_that_fails_or_kills_its_worker_is_a_500_and_no_more(
    gated: Running, gate: Gate, error: BaseException
) -> None:
    gate.errors.append(error)
    gate.open.set()
    gated.refused(gated.client.post(PATH, content=png()), 500, "internal")
    for _ in range(3):
        gated.good()


def test_a_client_that_does_not_read_holds_up_nobody(tmp_path: Path) -> None:
    with running(tmp_path, max_requests=1) as server, contextlib.ExitStack() as stack:
        image = png()
        request = head(len(image)) + image
        for _ in range(20):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), DEADLINE_S))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            connection.sendall(request)
            wait_until(lambda: counted(server)["bitgear_in_flight"] == 0, "answered")
        server.good()


def test_keys_are_asked_for_and_limited(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text('[a]\nkey = "a-long-key"\nrequests_per_s = 0.001\nburst = 2\n[b]\nkey = "another-key"\n')
    with running(tmp_path, keys=file) as server:
        client = server.client

        def statuses(headers: dict[str, str], count: int) -> list[int]:
            return [client.post(PATH, content=png(), headers=headers).status_code for _ in range(count)]

        assert statuses({}, 1) == [401]
        assert statuses({"X-Api-Key": "unknown-key"}, 1) == [401]
        assert statuses({"X-Api-Key": "a-long-key"}, 4) == [200, 200, 429, 429]
        assert statuses({"Authorization": "Bearer another-key"}, 3) == [200] * 3
        limited = client.post(PATH, content=png(), headers={"X-Api-Key": "a-long-key"})
        assert limited.json()["type"] == "urn:bitgear:problem:rate-limited"
        assert int(limited.headers["retry-after"]) == limited.json()["retry_after_s"] > 1
        assert counted(server)["bitgear_rejected_total rate-limited"] == 3


@contextlib.asynccontextmanager
async def started(folder: Path, gate: Gate, **settings: Any) -> AsyncIterator[FastAPI]:
    """An application that is warm, on this very event loop."""
    path = folder / "tiny.safetensors"
    if not path.exists():
        write_master(tiny_master(), path)
    app = create_app(Settings(models=(path,), policy="fixed", **settings), engine=gate)
    async with app.router.lifespan_context(app):
        await until(lambda: app.state.runtime.ready, "ready")
        yield app


async def until(condition: Callable[[], bool], what: str) -> None:
    """Return once the condition holds, leaving the event loop to others meanwhile."""
    await asyncio.to_thread(wait_until, condition, what)


def test_a_burst_of_ten_thousand(tmp_path: Path, gate: Gate) -> None:
    """As many are served as there are permits; all others know at once when to come back."""

    async def scenario() -> None:
        async with started(tmp_path, gate, max_requests=1000) as app:
            gate.close()
            runs = [asyncio.create_task(Exchanged().run(app)) for _ in range(10_000)]
            await until(lambda: app.state.runtime.permits.taken == 1000, "all permits are taken")
            (model,) = app.state.runtime.models
            await until(lambda: app.state.runtime.scheduler.depth(model) > 900, "nearly all are queued")
            refused = [run.result() for run in runs if run.done()]
            assert len(refused) == 9000
            assert {each.status for each in refused} == {429}
            assert all(int(each.answer_headers["retry-after"]) >= 1 for each in refused)
            gate.open.set()
            statuses = collections.Counter(each.status for each in await asyncio.gather(*runs))
            assert statuses == {200: 1000, 429: 9000}
            assert 1 < max(images for _, images in gate.calls) <= 16
            sums = samples(app.state.runtime.metrics.render().decode())
            assert sums["bitgear_served_total"] == 1000
            assert sums["bitgear_rejected_total overloaded"] == 9000
            assert sums["bitgear_batch_size_sum"] == 1000

    asyncio.run(scenario())


async def one_runs_one_waits(app: FastAPI, gate: Gate, deadline_ms: str) -> list["asyncio.Task[Exchanged]"]:
    """Return two requests, one running until the gate opens, one waiting; an image takes two seconds by the ladder."""
    runtime = app.state.runtime
    (model,) = runtime.models
    times = Times({name: Line(0.0, 2000.0) for name in model.master.precisions}, noise=1.0)
    model.refresh = Refresh(measured_ladder(model.master, times, 4), times)
    gate.close()
    runs = [asyncio.create_task(Exchanged(headers=[("Deadline-Ms", deadline_ms)]).run(app))]
    await until(lambda: len(gate.calls) == 1, "one runs")
    runs.append(asyncio.create_task(Exchanged(headers=[("Deadline-Ms", "5000")]).run(app)))
    await until(lambda: runtime.scheduler.depth(model) == 1, "one waits")
    return runs


def test_what_would_be_late_for_what_waits_is_refused_before_it_is_decoded(tmp_path: Path, gate: Gate) -> None:
    async def scenario() -> None:
        async with started(tmp_path, gate, engine_workers=1, measure_s=0) as app:
            runtime = app.state.runtime
            runs = await one_runs_one_waits(app, gate, "50000")

            async def status(deadline_ms: int) -> int | None:
                request = Exchanged(body=b"no picture", headers=[("Deadline-Ms", str(deadline_ms))])
                return (await request.run(app)).status

            # with the one that runs and the one that waits, six seconds, and a tenth more
            assert await status(6000) == 504
            assert await status(7000) == 422
            assert await status(4500) == 422  # goes before the one that waits
            gate.open.set()
            assert [each.status for each in await asyncio.gather(*runs)] == [200, 200]
            assert await status(1000) == 422  # nothing waits: what the ladder says is put to the test
            sums = samples(runtime.metrics.render().decode())
            assert sums["bitgear_rejected_total deadline-exceeded"] == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("wire", ["json", "v2"])
def test_what_the_body_says_counts_before_a_request_is_refused(tmp_path: Path, gate: Gate, wire: str) -> None:
    """Controls may stand in headers and in the body; whether there is hope is known by all of them."""
    profiles = tmp_path / "profiles"
    profiles.mkdir()
    (profiles / "strict.toml").write_text('name = "strict"\nfloor = 4\ndefault = 8\n')

    async def scenario() -> None:
        async with started(
            tmp_path, gate, engine_workers=1, measure_s=0, profiles=profiles, profile="strict", max_deadline_s=3600
        ) as app:
            runs = await one_runs_one_waits(app, gate, "500000")

            async def problem(headers: dict[str, str], fields: dict[str, object]) -> str:
                picture = base64.b64encode(b"no picture").decode()
                document: dict[str, object] = {"image": picture, **fields}
                if wire == "v2":
                    image = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [picture]}
                    document = {"inputs": [image], "parameters": fields}
                request = Exchanged(
                    body=json.dumps(document).encode(),
                    path="/v2/models/tiny/infer" if wire == "v2" else PATH,
                    headers=[("Content-Type", "application/json"), *headers.items()],
                )
                return str(json.loads((await request.run(app)).answer)["type"]).rpartition(":")[2]

            # with the one that runs and the one that waits, six seconds, and a tenth more
            within = {"Deadline-Ms": "5500"}
            assert await problem(within, {}) == "deadline-exceeded"
            assert await problem({}, {"deadline_ms": 5500}) == "deadline-exceeded"
            decoded = await problem({"Deadline-Ms": "7000"}, {})
            assert decoded != "deadline-exceeded"
            assert await problem(within, {"priority": 1}) == decoded  # goes before the one that waits
            later = {"Deadline-Ms": "7000", "Precision": "2"}
            assert await problem(later, {"device_profile": "default"}) == decoded
            assert await problem(later, {}) == "width-not-offered"
            gate.open.set()
            assert [each.status for each in await asyncio.gather(*runs)] == [200, 200]

    asyncio.run(scenario())


def test_what_waits_for_a_model_that_goes_derives_nothing_anew(tmp_path: Path, gate: Gate) -> None:
    async def scenario() -> None:
        async with started(tmp_path, gate, engine_workers=1, measure_s=0, max_batch=2) as app:
            runtime = app.state.runtime
            (model,) = runtime.models
            master, before = model.master, runtime.cache.stats().derivations
            del model
            gate.close()
            runs = [asyncio.create_task(Exchanged().run(app))]
            await until(lambda: len(gate.calls) == 1, "one runs")
            runs += [asyncio.create_task(Exchanged().run(app)) for _ in range(10)]
            await until(lambda: runtime.scheduler.depth(runtime.models.get("tiny")) == 10, "ten wait")
            await runtime.unload("tiny")
            gate.open.set()
            assert [each.status for each in await asyncio.gather(*runs)] == [200] * 11
            assert runtime.cache.stats().derivations == before
            await until(lambda: not runtime.cache.resident(master), "nothing is kept once the last has its answer")

    asyncio.run(scenario())


def test_a_deadline_beyond_what_anybody_waits_does_not_starve(
    tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[Job] = []
    submit = Scheduler.submit

    def noted(scheduler: Scheduler, job: Job) -> None:
        jobs.append(job)
        submit(scheduler, job)

    monkeypatch.setattr(Scheduler, "submit", noted)

    async def scenario() -> None:
        async with started(tmp_path, gate, engine_workers=1, measure_s=0, max_deadline_s=5) as app:
            runtime = app.state.runtime
            (model,) = runtime.models
            gate.close()
            runs = [asyncio.create_task(Exchanged().run(app))]
            await until(lambda: len(gate.calls) == 1, "one runs")
            runs.append(asyncio.create_task(Exchanged(headers=[("Deadline-Ms", "3600000")]).run(app)))
            await until(lambda: runtime.scheduler.depth(model) == 1, "one waits")
            assert jobs[-1].waiting.hard
            assert jobs[-1].waiting.deadline_s == jobs[-1].expires_s
            gate.open.set()
            assert [each.status for each in await asyncio.gather(*runs)] == [200, 200]

    asyncio.run(scenario())


def test_counts_reconcile_in_a_storm(tmp_path: Path, gate: Gate) -> None:
    """Answers, rejections, failures and cancellations are requests, to the last one; whatever happened to them."""

    async def scenario() -> None:
        rng = random.Random(0)
        async with started(tmp_path, gate, max_requests=64, engine_workers=2) as app:
            storm: list[Exchanged] = []
            tasks = []
            gate.close()
            for i in range(3000):
                if i == 300:  # by now there were more than may be in flight
                    gate.open.set()
                leaves = asyncio.Event() if rng.random() < 0.2 else None
                kind = rng.choice(
                    ["precision=8", "precision=4", "precision=2", "", "precision=9", "deadline_ms=0.001", "priority=1"]
                )
                each = Exchanged(query=kind, leaves=leaves)
                if rng.random() < 0.05:
                    each.path = "/v1/models/nobody/classify"
                if rng.random() < 0.05:
                    each.body = b"no image"
                if rng.random() < 0.02:
                    gate.errors.append(rng.choice([ValueError("x"), SystemExit("y")]))
                storm.append(each)
                tasks.append(asyncio.create_task(each.run(app)))
                if leaves is not None:
                    asyncio.get_running_loop().call_later(rng.random() / 50, leaves.set)
                if i % 16 == 0:
                    await asyncio.sleep(0)
            await asyncio.gather(*tasks)
            gate.errors.clear()
            gone = asyncio.Event()
            gone.set()
            calm = [  # what the storm may have left out
                Exchanged(),
                Exchanged(query="precision=9"),
                Exchanged(query="deadline_ms=0.001"),
                Exchanged(body=b"no image"),
                Exchanged(leaves=gone),
            ]
            for each in calm:
                await each.run(app)
            storm += calm
            seen = collections.Counter(str(each.status or "none") for each in storm)
            sums = samples(app.state.runtime.metrics.render().decode())
            assert sums["bitgear_requests_total"] == len(storm)
            assert {code: sums[f"bitgear_requests_total {code}"] for code in seen} == seen
            assert sums["bitgear_served_total"] == seen["200"]
            assert sums["bitgear_rejected_total"] == len(storm) - seen["200"]
            assert sums["bitgear_rejected_total unanswered"] == seen["none"]
            assert sums["bitgear_rejected_total internal"] == seen["500"]
            assert sums["bitgear_serving_accuracy_count"] == seen["200"]
            assert sums["bitgear_in_flight"] == sums["bitgear_queue_depth"] == 0
            assert app.state.runtime.permits.taken == 0
            assert {"200", "400", "404", "422", "429", "500", "504", "none"} <= set(seen), seen

    asyncio.run(scenario())


def test_nothing_is_left_behind(tmp_path: Path, gate: Gate) -> None:
    """Threads, descriptors and tasks are as many after a thousand requests of all kinds as before."""

    async def scenario() -> None:
        async with started(tmp_path, gate, workers=1, measure_s=0) as app:

            async def round_(count: int) -> tuple[int, int, int]:
                for _ in range(count):
                    gone = asyncio.Event()
                    gone.set()
                    await asyncio.gather(
                        *(Exchanged(query=f"precision={bits}").run(app) for bits in (8, 4, 9)),
                        Exchanged(leaves=gone).run(app),
                        Exchanged(query="deadline_ms=0.001").run(app),
                    )
                await asyncio.sleep(0)
                return (
                    threading.active_count(),
                    len(list(Path(f"/proc/{os.getpid()}/fd").iterdir())),
                    len(asyncio.all_tasks()),
                )

            threads, *others = await round_(50)
            threads_after, *others_after = await round_(200)
            assert others_after == others
            assert threads_after <= threads + 1  # the pool that finishes answers makes its thread when it must

    asyncio.run(scenario())
