import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from bitgear.bits import Precision
from bitgear.checkpoint import Master, write_master
from bitgear.engines import DerivedModel, create_engine
from bitgear.errors import BitgearError, CheckpointError, EngineUnavailable
from server.app import create_app
from server.errors import WidthNotOffered
from server.measurement import Line, Times
from server.settings import Settings, SettingsError
from tests.masters import tiny_master
from tests.serving import DEADLINE_S, PATH, png


@pytest.fixture
def master_path(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    write_master(tiny_master(), path)
    return path


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"engine": "magic"}, EngineUnavailable),
        ({"profile": "none"}, SettingsError),
        ({"profiles": Path(__file__) / "none"}, SettingsError),
        ({"policy": "fixed-mixed-9.9"}, SettingsError),
    ],
)
def test_what_cannot_start_says_so(master_path: Path, change: dict[str, object], error: type[BitgearError]) -> None:
    with pytest.raises(error):
        create_app(Settings(models=(master_path,), **change))


def test_masters_that_cannot_be_used(master_path: Path, tmp_path: Path) -> None:
    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes(master_path.read_bytes()[:-1])
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"truncated\.safetensors"):
        create_app(Settings(models=(truncated,)))
    with pytest.raises(CheckpointError, match=r"none\.safetensors"):
        create_app(Settings(models=(tmp_path / "none.safetensors",)))
    with pytest.raises(SettingsError, match="holds no"):
        create_app(Settings(models=(tmp_path / "empty",)))
    with pytest.raises(SettingsError, match="already loaded"):
        create_app(Settings(models=(master_path, master_path)))


def test_a_folder_is_read_whole(master_path: Path) -> None:
    write_master(tiny_master(seed=1, name="other"), master_path.with_name("other.safetensors"))
    app = create_app(Settings(models=(master_path.parent,)))
    assert app.state.runtime.models.names == ["other", "tiny"]
    app.state.runtime.close()


def test_a_profile_that_leaves_no_width_fails_the_start(master_path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "profiles"
    folder.mkdir()
    (folder / "odd.toml").write_text('name = "odd"\nfloor = 5\nceiling = 7')
    narrow = tmp_path / "narrow.safetensors"
    _write_narrow(narrow)
    with pytest.raises(WidthNotOffered):
        create_app(Settings(models=(narrow,), profiles=folder, profile="odd"))


def _write_narrow(path: Path) -> None:
    whole = tiny_master(name="narrow")
    rows = [whole.row(bits) for bits in (8, 4)]
    tensors = {
        name: tensor[rows] if tensor.shape[:1] == (7,) and not name.endswith("weight") else tensor
        for name, tensor in whole.tensors.items()
    }
    accuracy = {bits: whole.accuracy[bits] for bits in (8, 4)}
    write_master(Master("narrow", "classify", whole.graph, whole.input, whole.labels, (8, 4), tensors, accuracy), path)


class SlowEngine:
    """Derives nothing before it is let go; then does, or fails."""

    name = "slow"

    def __init__(self, failure: Exception | None = None) -> None:
        self.go = threading.Event()
        self._failure = failure

    def derive(self, master: Master, bits: int) -> DerivedModel:
        assert self.go.wait(DEADLINE_S)
        if self._failure is not None:
            raise self._failure
        return create_engine("reference").derive(master, bits)


def test_not_ready_before_it_is_warm_and_when_it_drains_and_then_no_connection_stays(master_path: Path) -> None:
    async def scenario() -> None:
        engine = SlowEngine()
        app = create_app(Settings(models=(master_path,)), engine=engine)
        runtime = app.state.runtime
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://x") as client,
        ):
            assert (await client.get("/v2/health/live")).status_code == 200
            for answer in (await client.get("/v2/health/ready"), await client.post(PATH, content=png())):
                assert answer.status_code == 503
                assert answer.json()["type"] == "urn:bitgear:problem:not-ready"
                assert answer.headers["retry-after"] == str(answer.json()["retry_after_s"])
            engine.go.set()
            async with asyncio.timeout(DEADLINE_S):
                while (await client.get("/v2/health/ready")).status_code != 200:
                    await asyncio.sleep(0)
            assert (await client.post(PATH, content=png())).status_code == 200
            every = [
                ("GET", "/v2/health/live", b"", 200),
                ("HEAD", "/v2/health/live", b"", 200),
                ("GET", "/v2/health/ready", b"", 503),
                ("GET", "/metrics", b"", 200),
                ("GET", "/nowhere", b"", 404),
                ("DELETE", "/v2/health/live", b"", 405),
                ("POST", PATH, png(), 200),
                ("POST", PATH, b"no image", 422),
            ]
            for method, path, _, _ in every[:6]:
                assert "connection" not in (await client.request(method, path)).headers
            assert "connection" not in (await client.post(PATH, content=png())).headers
            runtime.drain()
            for method, path, body, status in every:
                answer = await client.request(method, path, content=body)
                assert (answer.status_code, answer.headers["connection"]) == (status, "close")
            answer = await client.get("/v2/health/ready")
            assert answer.json()["type"] == "urn:bitgear:problem:draining"

    asyncio.run(scenario())


class HeldEngine:
    """Derives one model; all others when it is let go, or fails at them."""

    name = "held"

    def __init__(self, failure: BaseException | None = None) -> None:
        self.go = threading.Event()
        self._first = True
        self._failure = failure

    def derive(self, master: Master, precision: Precision) -> DerivedModel:
        first, self._first = self._first, False
        assert first or self.go.wait(DEADLINE_S)
        if not first and self._failure is not None:
            raise self._failure
        return create_engine("reference").derive(master, precision)


def test_a_first_start_serves_while_it_measures_and_later_ones_know(master_path: Path, tmp_path: Path) -> None:
    settings = Settings(models=(master_path,), ladders=tmp_path / "kept", measure_s=0.01)
    path = "/v1/models/tiny/ladder"

    async def scenario() -> None:
        engine = HeldEngine()
        async with serving(create_app(settings, engine=engine)) as client:
            assert (await client.get("/v2/health/live")).json() == {"status": "live", "live": True}
            ready = (await client.get("/v2/health/ready")).json()
            assert ready == {"status": "ready", "live": True, "ready": True, "measuring": True}
            ladder = (await client.get(path)).json()
            assert ladder["times"] == "measuring"
            assert [rung["precision"] for rung in ladder["rungs"] if rung["pruned"] is None] == [8]
            answer = await client.post(PATH, content=png(), headers={"Deadline-Ms": "60000"})
            assert answer.json()["precision"]["served"] == 8
            engine.go.set()
            await measured(client)
            assert (await client.get(path)).json()["times"] == "measured"
            assert (await client.post(PATH, content=png())).status_code == 200
        assert not (tmp_path / "kept").exists()  # a request disturbed what was measured
        async with serving(create_app(settings, engine=create_engine("reference"))) as client:
            await measured(client)
        engine = HeldEngine()
        async with serving(create_app(settings, engine=engine)) as client:
            ladder = (await client.get(path)).json()
            engine.go.set()
        assert ladder["times"] == "measuring"  # that was another engine
        async with serving(create_app(settings, engine=create_engine("reference"))) as client:
            assert (await client.get(path)).json()["times"] == "measured"

    asyncio.run(scenario())


@pytest.mark.parametrize("failure", [RuntimeError("no memory"), SystemExit("enough")])
def test_what_fails_while_it_is_measured_does_not_end_the_server(
    master_path: Path, tmp_path: Path, failure: BaseException
) -> None:
    async def scenario() -> None:
        engine = HeldEngine(failure)
        engine.go.set()
        settings = Settings(models=(master_path,), ladders=tmp_path / "kept", measure_s=0.01)
        async with serving(create_app(settings, engine=engine)) as client:
            await measured(client)
            assert (await client.post(PATH, content=png())).json()["precision"]["served"] == 8
        assert not (tmp_path / "kept").exists()

    asyncio.run(scenario())


def test_measurements_do_not_run_at_the_same_time(
    master_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Semaphore(0), threading.Event()
    at_once: list[bool] = []
    running = threading.Lock()

    def measure(master: Master, *_: object, **__: object) -> Times:
        at_once.append(not running.acquire(blocking=False))
        begun.release()
        assert go.wait(DEADLINE_S)
        if not at_once[-1]:
            running.release()
        return Times(dict.fromkeys(master.precisions, Line(1.0, 1.0)), 1.0)

    class Told:
        """A lock that says when somebody has to wait for it."""

        def __init__(self) -> None:
            self._lock = threading.Lock()

        def __enter__(self) -> None:
            if not self._lock.acquire(blocking=False):
                begun.release()
                assert self._lock.acquire(timeout=DEADLINE_S)

        def __exit__(self, *_: object) -> None:
            self._lock.release()

    async def scenario() -> None:
        monkeypatch.setattr("server.aside.measure", measure)
        app = create_app(Settings(models=(master_path.parent,), ladders=tmp_path / "kept", measure_s=1))
        runtime = app.state.runtime
        runtime._aside._measuring = Told()
        async with serving(app) as client:
            await asyncio.to_thread(begun.acquire, timeout=DEADLINE_S)
            write_master(tiny_master(seed=1, name="other"), master_path.with_name("other.safetensors"))
            loading = asyncio.create_task(runtime.load("other"))
            await asyncio.to_thread(begun.acquire, timeout=DEADLINE_S)
            go.set()
            await loading
            await measured(client)

    asyncio.run(scenario())
    assert at_once == [False, False]


async def measured(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while (await client.get("/v2/health/ready")).json()["measuring"]:
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application that is ready."""
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://x") as client,
        asyncio.timeout(DEADLINE_S),
    ):
        while (await client.get("/v2/health/ready")).status_code != 200:
            await asyncio.sleep(0)
        yield client


def test_a_model_that_cannot_be_warmed_keeps_the_server_not_ready(master_path: Path) -> None:
    async def scenario() -> None:
        failure = RuntimeError("no memory")
        engine = SlowEngine(failure)
        engine.go.set()
        app = create_app(Settings(models=(master_path,)), engine=engine)
        async with app.router.lifespan_context(app):
            await app.state.runtime.warm()
        assert app.state.runtime.failure is failure
        assert not app.state.runtime.ready

    asyncio.run(scenario())
