"""Installing: what the distributions hold, and what happens where the native engine cannot be compiled."""

import importlib.util
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from bitgear import __version__
from tests.e2e.answers import check_answers
from tests.e2e.test_fresh_serve import DEADLINE_S, serving

ROOT = Path(__file__).parents[2]
PACKAGES = ("bitgear", "server", "trainer")
INSTALLED = {".py", ".pyi", ".toml", ".typed", ".safetensors"}
BROKEN_COMPILER = "#!/bin/sh\necho 'internal compiler error' >&2\nexit 1\n"


def pip(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run pip in the repository without an index: build requirements are those of this environment."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    options = ["--no-index", "--no-deps", "--no-build-isolation"]
    environment = {name: value for name, value in os.environ.items() if name != "REQUIRE_BITGEAR_NATIVE"}
    return subprocess.run(
        [*command, *options, str(ROOT)],
        env=environment | variables,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def sources(suffixes: set[str]) -> set[str]:
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.suffix in suffixes)
    return {str(path.relative_to(ROOT)) for path in files}


def make_compiler(kind: str, folder: Path) -> str:
    compiler = folder / "c++"
    if kind == "broken":
        compiler.write_text(BROKEN_COMPILER)
        compiler.chmod(0o755)
    return str(compiler)


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An environment that sees the packages of this one, but not those that are editable."""
    folder = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder)}))
    (packages / "packages.pth").write_text(sysconfig.get_path("purelib"))
    return folder


@pytest.mark.parametrize("compiler", ["missing", "broken"])
def test_serves_without_a_working_compiler(environment: Path, tmp_path: Path, compiler: str):
    python = environment / "bin" / "python"
    done = pip("--python", str(python), "install", "--verbose", CXX=make_compiler(compiler, tmp_path))
    assert done.returncode == 0, done.stderr
    assert "without its native engine" in done.stdout + done.stderr

    find = "import importlib.util as u; print(u.find_spec('bitgear').origin, u.find_spec('bitgear._native'))"
    found = subprocess.run([python, "-c", find], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert found.startswith(str(environment))
    assert found.endswith(" None\n")
    with serving([str(environment / "bin" / "bitgear")]) as (process, url):
        check_answers(url)
        process.terminate()
        assert process.wait(DEADLINE_S) == 0


def test_a_required_extension_that_cannot_be_built_is_an_error(environment: Path, tmp_path: Path):
    python = str(environment / "bin" / "python")
    compiler = make_compiler("broken", tmp_path)
    done = pip("--python", python, "install", CXX=compiler, REQUIRE_BITGEAR_NATIVE="1")
    assert done.returncode != 0
    assert "internal compiler error" in done.stdout + done.stderr


def test_wheel_holds_packages_data_and_extension(tmp_path: Path):
    done = pip("wheel", "--config-settings=build-dir=build/{wheel_tag}", f"--wheel-dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob(f"bitgear-{__version__}-*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    extensions = {name for name in names if name.startswith("bitgear/_native.") and not name.endswith(".pyi")}
    assert len(extensions) == (importlib.util.find_spec("bitgear._native") is not None)
    assert names - extensions == sources(INSTALLED)
    assert any(name.endswith(".dist-info/licenses/NOTICE") for name in zipfile.ZipFile(wheel).namelist())


def test_source_distribution_holds_what_a_build_takes(tmp_path: Path):
    build = "import sys; from scikit_build_core.build import build_sdist; build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, tmp_path], cwd=ROOT, capture_output=True, check=True)
    folder = f"bitgear-{__version__}"
    with tarfile.open(tmp_path / f"{folder}.tar.gz") as archive:
        names = {name.removeprefix(f"{folder}/") for name in archive.getnames()}
    assert names >= sources(INSTALLED | {".cpp", ".h"})
    around = {"CMakeLists.txt", "NOTICE", "PKG-INFO", "README.md", "constraints.txt", "pyproject.toml"}
    assert {name.partition("/")[0] for name in names} == {*PACKAGES, *around}
