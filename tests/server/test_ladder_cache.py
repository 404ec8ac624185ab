import json
import logging
from pathlib import Path

import pytest

from bitgear.engines.numpy import NumpyEngine
from bitgear.machine import cache_folder
from server import ladder_cache
from server.measurement import Line, Times
from tests.masters import tiny_master

TIMES = Times({"8": Line(1.0, 2.5), "2": Line(0.0, 1.25)}, 1.1)
KEY = ladder_cache.device_key(tiny_master(), NumpyEngine(), threads=2, max_batch=8, cores=4)


def kept(folder: Path) -> Path:
    ladder_cache.write(folder, KEY, TIMES)
    (path,) = folder.glob("ladders/*.json")
    return path


def test_what_is_kept_is_read(tmp_path: Path) -> None:
    assert ladder_cache.read(tmp_path / "new", KEY) is None
    ladder_cache.write(tmp_path / "new", KEY, TIMES)
    assert ladder_cache.read(tmp_path / "new", KEY) == TIMES


@pytest.mark.parametrize("name", list(KEY))
def test_another_device_has_another_ladder(tmp_path: Path, name: str) -> None:
    kept(tmp_path)
    assert ladder_cache.read(tmp_path, {**KEY, name: "other"}) is None


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"key": {}},
        {"noise": 0.5},
        {"noise": "1.1"},
        {"noise": True},
        {"noise": 1e9},
        {"lines": []},
        {"lines": {"8": {"fixed_ms": 1}}},
        {"lines": {"8": {"fixed_ms": 1, "per_image_ms": -1}}},
        {"lines": {"8": {"fixed_ms": 0, "per_image_ms": 0}}},
        {"lines": {"8": {"fixed_ms": float("nan"), "per_image_ms": 1}}},
        {"lines": {"8": {"fixed_ms": 1e-200, "per_image_ms": 1e-200}}},
        {"lines": {"8": {"fixed_ms": 1.7e308, "per_image_ms": 1.7e308}}},
        {"lines": {"8": [1, 2]}},
    ],
)
def test_a_broken_file_is_ignored(tmp_path: Path, change: dict[str, object], caplog: pytest.LogCaptureFixture) -> None:
    path = kept(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert ladder_cache.read(tmp_path, KEY) is None
    assert "measured anew" in caplog.text


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b"null", b"[" * 100_000])
def test_a_file_that_is_none_of_ours_is_ignored(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    kept(tmp_path).write_bytes(content)
    assert ladder_cache.read(tmp_path, KEY) is None
    assert "measured anew" in caplog.text


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.INFO):
        ladder_cache.write(tmp_path / "file", KEY, TIMES)
    assert "is not kept" in caplog.text
    assert ladder_cache.read(tmp_path / "file", KEY) is None


def test_the_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "bitgear"
    monkeypatch.setenv("HOME", "/home/someone")
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder() == Path("/home/someone/.cache/bitgear")
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_folder() == Path("/home/someone/Library/Caches/bitgear")
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    assert cache_folder() == Path("/local/bitgear/Cache")
