"""Which engine serves, with how many threads, and the memory that it says it holds."""

from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bitgear.checkpoint import write_master
from bitgear.engines import create_engine
from bitgear.engines.registry import native_failure
from bitgear.errors import EngineUnavailable
from server.app import create_app
from server.settings import Settings
from tests.masters import tiny_master
from tests.serving import PATH, Running, png, running

WIDTHS = (8, 4, 2)

needs_extension = pytest.mark.skipif(native_failure() is not None, reason="the native engine is not built")


def answer(server: Running, bits: int) -> dict[str, Any]:
    headers = {"Content-Type": "image/png", "Precision": str(bits)}
    given = server.client.post(PATH, content=png(), headers=headers)
    assert given.status_code == 200, given.text
    document: dict[str, Any] = given.json()
    return document


def ladder(server: Running) -> dict[str, Any]:
    document: dict[str, Any] = server.client.get("/v1/models/tiny/ladder").json()
    return document


def resident_bytes(server: Running) -> dict[int, int]:
    return {rung["precision"]: rung["resident_bytes"] for rung in ladder(server)["rungs"] if rung["resident"]}


def samples(server: Running, name: str) -> list[tuple[dict[str, str], float]]:
    families = text_string_to_metric_families(server.client.get("/metrics").text)
    return [(sample.labels, sample.value) for family in families for sample in family.samples if sample.name == name]


@pytest.mark.parametrize("name", ["auto", "onnxruntime", "reference"])
def test_every_engine_serves_the_same_under_its_own_name(tmp_path: Path, name: str, server: Running) -> None:
    engine = create_engine(name, threads=2)
    with running(tmp_path, engine) as other:
        for bits in WIDTHS:
            assert answer(other, bits)["predictions"] == answer(server, bits)["predictions"]
        assert ladder(other)["engine"] == engine.name
        ((labels, value),) = samples(other, "bitgear_build_info")
        assert (labels["engine"], value) == (engine.name, 1)


@needs_extension
def test_the_native_engine_serves_where_it_was_built(server: Running) -> None:
    assert ladder(server)["engine"] == "native"


@pytest.mark.parametrize("name", ["auto", "onnxruntime"])
def test_settings_choose_the_engine_and_its_threads(tmp_path: Path, name: str) -> None:
    path = tmp_path / "tiny.safetensors"
    write_master(tiny_master(), path)
    runtime = create_app(Settings(models=(path,), engine=name, threads=3)).state.runtime
    assert runtime.cache.engine.name == create_engine(name).name
    assert runtime.cache.engine.threads == 3
    with pytest.raises(EngineUnavailable, match="'cuda' is unknown"):
        create_app(Settings(models=(path,), engine="cuda"))


def test_resident_bytes_are_told_by_width_and_in_sum(tmp_path: Path) -> None:
    """They are those of the derived models themselves."""
    with running(tmp_path) as server:
        sizes = {bits: create_engine().derive(server.master, bits).nbytes for bits in WIDTHS}
        for count, bits in enumerate(WIDTHS, start=1):
            answer(server, bits)
            expected = {bits: sizes[bits] for bits in WIDTHS[:count]}
            assert resident_bytes(server) == expected
            told = {labels["kind"]: value for labels, value in samples(server, "bitgear_model_resident_bytes")}
            assert told == {"master": server.master.nbytes, "derived": sum(expected.values())}


def test_the_cache_of_a_server_is_bounded_in_bytes(tmp_path: Path) -> None:
    sizes = {bits: create_engine().derive(tiny_master(), bits).nbytes for bits in WIDTHS}
    with running(tmp_path, cache_bytes=sizes[4] + sizes[2]) as server:
        for bits in WIDTHS:
            answer(server, bits)
        assert resident_bytes(server) == {4: sizes[4], 2: sizes[2]}
