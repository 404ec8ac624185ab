"""The image: built from the Dockerfile, run as locked up as it is meant to be."""

import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from tests.e2e.answers import MODEL, check_answers, is_ready
from tests.e2e.containers import BASE, Podman, Unavailable
from tests.serving import wait_until

pytestmark = pytest.mark.container

IMAGE = "bitgear:test"
LOCKED_UP = (
    "--read-only",
    "--read-only-tmpfs=false",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--memory=512m",
    "--pids-limit=512",
)
STOPPED_WITHIN_S = 10
ADDED_AT_MOST_BYTES = 300 << 20
PIP = ("/usr/local/bin/python", "-m", "pip", "--python", "/opt/bitgear/bin/python")  # the base's: the image has none


@dataclass(frozen=True)
class Running:
    name: str
    url: str


@pytest.fixture(scope="module")
def podman() -> Podman:
    try:
        podman = Podman()
        podman.make_base()
    except Unavailable as error:
        pytest.skip(f"no containers here: {error}")
    podman.build(IMAGE, "--build-arg=VERSION=1.2.3", "--build-arg=REVISION=abc")
    return podman


@pytest.fixture
def served(podman: Podman) -> Iterator[Running]:
    """A container that is ready, removed after the test."""
    name = f"bitgear-test-{os.getpid()}"
    try:
        podman("run", "--detach", f"--name={name}", "--pull=never", "--publish=127.0.0.1::8000", *LOCKED_UP, IMAGE)
        url = f"http://{podman('port', name, '8000').stdout.strip()}"
        try:
            wait_until(lambda: is_ready(url), "ready")
        except AssertionError as error:
            pytest.fail(f"{error}; it wrote: {podman('logs', name).stderr}")
        yield Running(name, url)
    finally:
        podman("rm", "--force", "--time=0", name, check=False)


def test_serves_locked_up_and_stops_when_told(podman: Podman, served: Running):
    assert podman("healthcheck", "run", served.name, check=False).returncode == 0
    check_answers(served.url)

    started_s = time.monotonic()
    podman("stop", f"--time={STOPPED_WITHIN_S}", served.name)
    assert time.monotonic() - started_s < STOPPED_WITHIN_S
    assert podman("inspect", "--format", "{{.State.ExitCode}}", served.name).stdout.strip() == "0"


def test_runs_without_rights(podman: Podman, served: Running):
    def execute(*command: str) -> str:
        return podman("exec", served.name, *command).stdout

    status = dict(line.split(":\t", 1) for line in execute("cat", "/proc/1/status").splitlines() if ":\t" in line)
    assert set(status["Uid"].split() + status["Gid"].split()) == {"10001"}
    assert int(status["CapEff"], 16) == 0
    assert int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert podman("exec", served.name, "touch", "/tmp/x", check=False).returncode != 0
    loaded = execute("cat", "/proc/1/maps")
    assert "bitgear/_native." in loaded
    assert "libtorch" not in loaded


def test_accepts_multipart_larger_than_any_buffer_without_a_writable_file_system(served: Running):
    picture = b"no picture" * 400_000
    answer = httpx.post(f"{served.url}/v1/models/{MODEL}/classify", files={"image": picture}, trust_env=False)
    assert answer.status_code == 422
    assert answer.json()["type"].endswith(":undecodable-image")


def test_image_holds_nothing_that_serving_does_not_need(podman: Podman):
    search = (
        "import importlib.util as u, shutil as s;"
        "print([m for m in ('torch', 'pytest', 'matplotlib', 'onnx.backend') if u.find_spec(m)],"
        "[c for c in ('gcc', 'cc', 'make', 'git', 'curl') if s.which(c)])"
    )
    found = podman("run", "--rm", "--pull=never", "--entrypoint=python", *LOCKED_UP, IMAGE, "-c", search).stdout
    assert found.strip() == "[] []"
    packages = podman("run", "--rm", "--pull=never", "--entrypoint=ls", IMAGE, "/opt/bitgear/bin").stdout.split()
    assert "bitgear" in packages
    assert not [name for name in packages if name.startswith("pip")]
    assert podman.size_bytes(IMAGE) - podman.size_bytes(BASE) < ADDED_AT_MOST_BYTES


def test_without_a_compiler_pip_installs_all_but_the_native_engine(podman: Podman):
    """In the image, which has no compiler; the dependencies are there already."""
    name = f"bitgear-test-install-{os.getpid()}"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    find = "import importlib.util as u; print(u.find_spec('bitgear._native'))"
    try:
        podman.run_with_index(name, "--entrypoint=sleep", IMAGE, "infinity")
        options = ("--no-deps", "--force-reinstall", "--no-compile")
        podman("exec", name, *PIP, "install", *options, "/src")
        assert podman("exec", name, "python", "-c", find).stdout.strip() == "None"
        podman("exec", "--detach", name, "bitgear", "serve", "--host=127.0.0.1", f"--port={port}")
        wait_until(lambda: is_ready(f"http://127.0.0.1:{port}"), "ready")
        check_answers(f"http://127.0.0.1:{port}")
    finally:
        podman("rm", "--force", "--time=0", name, check=False)


def test_image_says_how_to_run_it(podman: Podman):
    config = json.loads(podman("image", "inspect", IMAGE).stdout)[0]["Config"]
    assert config["User"] == "10001:10001"
    assert config["StopSignal"] in ("SIGTERM", "15")
    assert list(config["ExposedPorts"]) == ["8000/tcp"]
    assert config["Entrypoint"] == ["bitgear"]
    assert config["Labels"]["org.opencontainers.image.version"] == "1.2.3"
    assert config["Labels"]["org.opencontainers.image.revision"] == "abc"
    assert not [name for name in map(str.lower, config["Env"]) if "cert" in name or "pip" in name]
