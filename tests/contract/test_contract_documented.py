"""What docs/inference-protocol.md shows runs as it stands, against the shipped models."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitgear.models import SHIPPED
from tests.serving import Running, running

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", (ROOT / "docs" / "inference-protocol.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    shipped = SHIPPED / "resnet20-cifar10.safetensors"
    with running(tmp_path_factory.mktemp("documented"), files=(shipped,)) as server:
        yield server


def here(block: str, server: Running) -> str:
    return block.replace("localhost:8000", f"127.0.0.1:{server.port}")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is missing")
@pytest.mark.parametrize("block", [block for language, block in BLOCKS if language == "sh"])
def test_what_is_typed_into_a_shell(server: Running, block: str, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    script = "set -eu\ncurl() { command curl --silent --show-error --fail --noproxy '*' \"$@\"; }\n"
    done = subprocess.run(
        ["bash", "-c", script + here(block, server)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    written = tmp_path / "answer"
    answer = written.read_bytes().decode("latin-1") if written.exists() else done.stdout
    assert '"precision":"4"' in answer
    assert '"cat"' in answer.replace("\\", "")


def test_what_is_written_in_python(
    server: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ((_, block),) = [each for each in BLOCKS if each[0] == "python"]
    monkeypatch.chdir(ROOT)
    names: dict[str, object] = {}
    exec(compile(here(block, server), "docs/inference-protocol.md", "exec"), names)
    names["client"].close()  # type: ignore[attr-defined]
    said = capsys.readouterr().out.splitlines()
    assert (said[0], said[-1]) == ("cat", "4")
    assert ":3:cat" in said[1]
