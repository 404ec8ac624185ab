"""The kernels of each instruction set, in C++ alone: on this processor, and on others in an emulator."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CROSS_COMPILER = "aarch64-linux-gnu-g++"
ENVIRONMENT = {**os.environ, "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))}


def skip_without(*tools: str) -> None:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def run(*command: str) -> str:
    """Run a command, with cmake and ninja of this environment; return its output, and fail with it."""
    done = subprocess.run(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-8000:]}"
    return done.stdout


def build(name: str, *definitions: str) -> Path:
    """Compile the program; the folder stays, so that the next time only what changed is compiled."""
    folder = ROOT / "build" / name
    always = ("-DBITGEAR_WARNINGS_AS_ERRORS=ON", *(f"-D{definition}" for definition in definitions))
    run("cmake", "-G", "Ninja", "-S", str(ROOT), "-B", str(folder), *always)
    run("cmake", "--build", str(folder))
    return folder


@pytest.fixture(scope="module")
def native() -> Path:
    skip_without(os.environ.get("CXX", "c++"))
    return build("check")


@pytest.fixture(scope="module")
def aarch64() -> Path:
    skip_without(CROSS_COMPILER, "qemu-aarch64-static")
    return build(
        "check-aarch64",
        "CMAKE_SYSTEM_NAME=Linux",
        "CMAKE_SYSTEM_PROCESSOR=aarch64",
        f"CMAKE_CXX_COMPILER={CROSS_COMPILER}",
        "CMAKE_EXE_LINKER_FLAGS=-static",
    )


def test_kernels_on_this_processor(native: Path):
    run(str(native / "check_kernels"))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the program is for this architecture")
def test_kernels_on_an_old_x86_64(native: Path):
    skip_without("qemu-x86_64-static")
    refused = [option for name in ("avx2", "avx2-vnni", "avx512-vnni", "avx512-amx") for option in ("--refuse", name)]
    run("qemu-x86_64-static", "-cpu", "Nehalem", str(native / "check_kernels"), *refused)


@pytest.mark.parametrize(
    ("processor", "options"),
    [("neoverse-n1", ("--require", "neon-dotprod")), ("cortex-a57", ("--refuse", "neon-dotprod"))],
)
def test_kernels_on_aarch64(aarch64: Path, processor: str, options: tuple[str, ...]):
    run("qemu-aarch64-static", "-cpu", processor, str(aarch64 / "check_kernels"), *options)


def test_no_code_of_an_instruction_set_can_serve_another(native: Path):
    """A linker takes any one of several copies of an inline function, such as one for a processor that has more."""
    skip_without("nm")
    objects = sorted((native / "CMakeFiles").rglob("isa_*.o"))
    assert len(objects) == len(list((ROOT / "bitgear/native").glob("isa_*.cpp")))
    for path in objects:
        lines = run("nm", "--demangle", "--defined-only", str(path)).splitlines()
        shared = [line for line in lines if line.split()[1] in "WVu"]
        assert not shared, f"{path.name}: {shared}"
