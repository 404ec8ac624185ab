"""What all measurements share."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks import servers

ROOT = Path(__file__).parents[2]
SCRIPTS = {
    name
    for file in ("benchmarks/README.md", "Makefile")
    for name in re.findall(r"-m benchmarks\.(\w+)", (ROOT / file).read_text(encoding="utf-8"))
}


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_a_script_says_what_it_is(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = import_module(f"benchmarks.{name}")
    monkeypatch.setattr("sys.argv", [name, "--help"])
    monkeypatch.setattr(servers, "end_in_order", lambda: None)  # which is for processes of their own
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert ended.value.code == 0
    assert script.__doc__.splitlines()[0] in capsys.readouterr().out.splitlines()
