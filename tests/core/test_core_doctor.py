"""What bitgear doctor finds, with and without the extension, and with an instruction set forced."""

import importlib.abc
import importlib.machinery
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from bitgear import __version__
from bitgear.cli import app
from bitgear.doctor import diagnose, report
from bitgear.engines import ENGINE_NAMES
from bitgear.engines.registry import KERNEL_VARIABLE, native_failure

SETS = ("avx512-amx", "avx512-vnni", "avx2-vnni", "avx2", "neon-dotprod", "portable")
SYMBOL = "_native.so: undefined symbol: _ZN7bitgear5ModelE"

needs_extension = pytest.mark.skipif(native_failure() is not None, reason="the native engine is not built")


class Broken(importlib.abc.MetaPathFinder):
    """Fails to load the extension, as the dynamic linker does or in another way."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname == "bitgear._native":
            raise self.error
        return None


@pytest.fixture(autouse=True)
def _no_instruction_set_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KERNEL_VARIABLE, raising=False)


def doctor(*arguments: str | Path) -> str:
    done = CliRunner().invoke(app, ["doctor", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.output


def lines(text: str, head: str) -> list[str]:
    return [line.removeprefix(head).strip() for line in text.splitlines() if line.startswith(head)]


def test_it_tells_versions_and_the_machine() -> None:
    found = diagnose()
    assert found["bitgear"] == __version__
    assert found["python"] == platform.python_version()
    assert found["cores"] >= 1
    assert found["machine"]
    assert found["libraries"]["numpy"]
    assert json.loads(json.dumps(found)) == found
    assert found["engines"].keys() == set(ENGINE_NAMES)
    assert found["engines"]["reference"] == "usable"
    text = report(found)
    assert text.startswith(f"bitgear {__version__}, Python {found['python']}\n")
    assert f"library           numpy        {found['libraries']['numpy']}" in text


@needs_extension
def test_it_tells_what_was_compiled_offered_and_chosen() -> None:
    from bitgear import _native

    found = diagnose()
    assert found["native_failure"] is None
    assert (found["auto"], found["engines"]["native"]) == ("native", "usable")
    rows = {row["name"]: row for row in found["instruction_sets"]}
    assert tuple(rows) == SETS
    assert [name for name, row in rows.items() if row["chosen"]] == [_native.choose()]
    assert [(*list(row.values())[:3], row["paths"]) for row in rows.values()] == [
        (name, compiled, offered, paths) for name, compiled, offered, paths in _native.instruction_sets()
    ]
    text = doctor()
    assert text == report(found) + "\n"
    assert lines(text, "default engine") == ["native"]
    assert not lines(text, "native extension")
    shown = dict(line.split(maxsplit=1) for line in lines(text, "instruction set"))
    assert tuple(shown) == SETS
    for name, line in shown.items():
        row = rows[name]
        assert line.startswith("compiled") is row["compiled"]
        assert ("not offered" in line) is (row["compiled"] and not row["offered"])
        assert ("chosen (the best here)" in line) is row["chosen"]
        assert line.endswith(", ".join(row["paths"]))


@needs_extension
def test_it_tells_a_forced_instruction_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(KERNEL_VARIABLE, "portable")
    file = tmp_path / "found.json"
    text = doctor("--json", file)
    found = json.loads(file.read_text())
    assert found == diagnose()
    assert found["kernel_variable"] == "portable"
    assert [row["name"] for row in found["instruction_sets"] if row["chosen"]] == ["portable"]
    assert "portable     compiled, offered, chosen (BITGEAR_KERNEL): scalar" in text
    assert "the best here" not in text


@needs_extension
@pytest.mark.parametrize("name", ["sse2", "neon-dotprod,avx2", "\udcff"])
def test_it_tells_an_instruction_set_that_cannot_be_forced(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KERNEL_VARIABLE, name)
    found = diagnose()
    assert not any(row["chosen"] for row in found["instruction_sets"])
    assert found["native_failure"] is None
    assert found["auto"] is None
    text = doctor()
    assert lines(text, "default engine") == ["none"]
    assert f"BITGEAR_KERNEL    {name!r} cannot be used here" in text
    (native,) = [line for line in lines(text, "engine") if line.startswith("native")]
    assert f"{name!r}" in native
    assert "portable" in native


@needs_extension
def test_an_empty_variable_forces_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KERNEL_VARIABLE, "")
    assert diagnose()["auto"] == "native"
    assert "chosen (the best here)" in doctor()


@pytest.mark.parametrize("error", [ImportError(SYMBOL), RuntimeError(SYMBOL), SystemError(SYMBOL)], ids=repr)
def test_it_tells_the_original_failure_of_the_extension(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "bitgear._native", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(error), *sys.meta_path])
    failure = f"{type(error).__name__}: {SYMBOL}"
    file = tmp_path / "found.json"
    text = doctor("--json", file)
    found = json.loads(file.read_text())
    assert found["native_failure"] == failure
    assert found["instruction_sets"] == []
    assert found["auto"] == "onnxruntime"
    assert SYMBOL in found["engines"]["native"]
    assert lines(text, "native extension") == [failure]
    assert lines(text, "default engine") == ["onnxruntime"]
    assert not lines(text, "instruction set")


def test_it_tells_that_the_extension_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitgear._native", None)
    found = diagnose()
    assert found["native_failure"].startswith("ModuleNotFoundError: ")
    assert "bitgear._native" in found["native_failure"]
    assert lines(doctor(), "native extension") == [found["native_failure"]]


@needs_extension
@pytest.mark.parametrize("lacking", ["choose", "measure_rates", "place_picture", "MAX_POOLED_STRIDE", "winograd_spare"])
def test_it_tells_that_the_extension_is_of_another_version(lacking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from bitgear import _native

    monkeypatch.delattr(_native, lacking)
    found = diagnose()
    assert found["native_failure"].startswith(f"ImportError: cannot import name '{lacking}' from 'bitgear._native'")
    assert found["auto"] == "onnxruntime"
    assert found["native_failure"].removeprefix("ImportError: ") in found["engines"]["native"]
    assert lines(doctor(), "native extension") == [found["native_failure"]]


def test_an_engine_whose_library_fails_in_its_own_way_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "onnx.py").write_text("raise TypeError('Descriptors cannot be created directly')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnx")
    monkeypatch.delitem(sys.modules, "bitgear.engines.onnxruntime", raising=False)
    (state,) = [line for line in lines(doctor(), "engine") if line.startswith("onnxruntime")]
    assert "cannot be loaded: TypeError: Descriptors cannot be created directly;" in state


def test_it_goes_on_where_no_engine_but_the_reference_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitgear._native", None)
    monkeypatch.delitem(sys.modules, "bitgear.engines.onnxruntime", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    text = doctor()
    assert lines(text, "default engine") == ["none"]
    assert any(line.startswith("onnxruntime") and "cannot be loaded" in line for line in lines(text, "engine"))
    assert any(line.split() == ["reference", "usable"] for line in lines(text, "engine"))
