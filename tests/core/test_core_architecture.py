"""Who may import whom, read from the source; and what an import must not load."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("bitgear", "server", "trainer", "bitgear_client")
ALLOWED = {"bitgear": {"bitgear"}, "server": {"bitgear", "server"}, "trainer": {"bitgear", "trainer"}}

ORDER = (
    "errors", "bits", "rounding", "graph", "inputs", "files", "machine", "kept", "plans", "checkpoint",
    "fold", "reference", "engines", "doctor", "tasks", "evaluate", "describe", "models", "convert", "search",
    "predictor", "cli",
)  # fmt: skip
"""The modules and packages of the core: what stands left never imports what stands right."""

ENTRY = ROOT / "bitgear" / "cli.py"
"""The command line starts the server and the trainer; it imports them only inside its verbs."""


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, *, inside_functions: bool = True) -> Iterator[str]:
    """Full names of all modules that a file imports; ``from a import b`` gives a and a.b."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not inside_functions:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        nodes += ast.iter_child_nodes(node)


def test_the_reader_of_imports_sees_them_all(tmp_path: Path) -> None:
    file = tmp_path / "m.py"
    file.write_text("import a.b\nfrom c import d\ndef f():\n    import e\nif x:\n    import g\n")
    assert set(imports(file)) == {"a.b", "c", "c.d", "e", "g"}
    assert set(imports(file, inside_functions=False)) == {"a.b", "c", "c.d", "g"}


@pytest.mark.parametrize("path", [p for package in ALLOWED for p in sources(package)], ids=name_of)
def test_packages_import_only_what_they_may(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    found = {name.split(".")[0] for name in imports(path, inside_functions=path != ENTRY)}
    assert found & {*OURS, "tests", "clients", "benchmarks"} <= ALLOWED[package]


@pytest.mark.parametrize("path", sources("clients/python/bitgear_client"), ids=lambda path: path.stem)
def test_the_client_imports_nothing_of_ours(path: Path) -> None:
    found = {name.split(".")[0] for name in imports(path)}
    assert not found & {"bitgear", "server", "trainer", "tests"}


@pytest.mark.parametrize("path", sources("bitgear"), ids=name_of)
def test_the_core_imports_only_to_the_left(path: Path) -> None:
    parts = path.relative_to(ROOT / "bitgear").with_suffix("").parts
    if parts == ("__init__",):
        named = {name for name in imports(path) if name.startswith("bitgear.")}
        assert all(name.startswith("bitgear.predictor") for name in named)  # when it is first used, see below
        return
    assert parts[0] in ORDER, f"say where {parts[0]} stands in the order"
    place = ORDER.index(parts[0])
    for name in imports(path):
        if name.startswith("bitgear."):
            other = name.split(".")[1]
            if other in ORDER:
                assert ORDER.index(other) <= place, f"{name_of(path)} imports {name}"
                assert other != parts[0] or len(parts) > 1, f"{name_of(path)} imports itself"


PLOTS = ROOT / "bitgear" / "search" / "report.py"
"""It draws where the extra with matplotlib is installed, and says so where it is not; imported inside a function."""


def test_the_core_needs_no_library_of_training_or_serving() -> None:
    light = {"torch", "fastapi", "uvicorn", "starlette", "pydantic", "httpx", "prometheus_client", "matplotlib"}
    for path in sources("bitgear"):
        needed = imports(path, inside_functions=path != PLOTS)
        assert not {name.split(".")[0] for name in needed} & light, path


def distribution(requirement: str) -> str:
    """Name of the distribution that a requirement is for, as PyPI compares names."""
    return re.sub("[-_.]+", "-", re.split(r"[\[<>=]", requirement)[0]).lower()


def project() -> dict[str, Any]:
    data: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return data


def test_what_everybody_installs_is_what_serving_imports() -> None:
    known = packages_distributions()
    files = [path for package in ("bitgear", "server") for path in sources(package)]
    imported = {name.split(".")[0] for path in files for name in imports(path)}
    used = {distribution(each) for name in imported for each in known.get(name, [])}
    assert {distribution(each) for each in project()["dependencies"]} <= used


def test_extras_bring_what_their_verbs_import() -> None:
    extras = project()["optional-dependencies"]
    assert [distribution(each) for each in extras["evaluate"]] == ["pycocotools"]
    assert {"bitgear[evaluate]"} <= set(extras["train"]) & set(extras["search"])
    assert {"scipy", "matplotlib"} <= {distribution(each) for each in extras["search"]}
    assert {"torch", "matplotlib"} <= {distribution(each) for each in extras["train"]}


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import bitgear", {"torch", "numpy", "onnxruntime"}),
        ("import bitgear.engines, bitgear.checkpoint", {"torch", "onnxruntime", "onnx", "server", "trainer"}),
        ("import bitgear.tasks.classify", {"torch", "onnxruntime", "server", "trainer"}),
        ("import bitgear.cli", {"torch", "onnxruntime", "numpy", "server", "trainer"}),
        ("import server.app", {"torch", "trainer", "matplotlib"}),
        ("from bitgear.engines import create_engine; create_engine('onnxruntime')", {"torch"}),
    ],
)
def test_a_fresh_interpreter_loads_only_what_it_needs(statement: str, unwanted: set[str]) -> None:
    code = f"import sys; {statement}; print(*sorted({{n.split('.')[0] for n in sys.modules}}))"
    shown = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not set(shown.stdout.split()) & unwanted


def test_nothing_refers_to_a_folder_beside_the_repository() -> None:
    beside = "/".join(["..", "shared"])
    for package in (*ALLOWED, "clients", "tests", "benchmarks"):
        for path in sources(package):
            assert beside not in path.read_text(encoding="utf-8"), path
