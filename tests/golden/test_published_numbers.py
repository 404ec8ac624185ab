"""The numbers in the documents are those of the reports."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

from typer.main import get_command

from benchmarks.publish import DOCUMENTS, IMPORTS, MODEL, ROOT, _soak, blocks
from bitgear.checkpoint import read_master
from bitgear.cli import app
from bitgear.models import find_master


def test_documents_agree_with_the_reports() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.publish", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_block_is_shown_somewhere() -> None:
    text = "".join(Path(ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS)
    for name in blocks():
        assert f"<!-- begin {name} -->\n" in text, name


def test_simulated_rows_are_in_the_order_of_bursts_and_loads() -> None:
    for table in blocks()["policies"].split("\n\n"):
        rows = [tuple(map(float, row)) for row in re.findall(r"^\| ([\d.]+) \| ([\d.]+) \|", table, re.MULTILINE)]
        assert rows == sorted(rows)


def test_every_report_has_a_command_that_is_there() -> None:
    rows = re.findall(r"^\| (`.+`) \| (.+?) \| .+ \| .+ \|$", (ROOT / "benchmarks/README.md").read_text(), re.MULTILINE)
    listed = [name for reports, _ in rows for name in re.findall(r"`([\w-]+)`", reports)]
    assert sorted(listed) == sorted(path.stem for path in (ROOT / "benchmarks/results").glob("*.json"))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    verbs = vars(get_command(app))["commands"].keys()
    for _, commands in rows:
        assert re.match(r"`(\w+=\S+ )?(make|bitgear|python -m) ", commands), commands
        for module in re.findall(r"-m (benchmarks\.\w+)", commands):
            assert importlib.util.find_spec(module) is not None, module
        assert set(re.findall(r"make ([\w-]+)", commands)) <= targets
        assert set(re.findall(r"`bitgear (\w+)", commands)) <= verbs


def test_imports_are_told_with_the_crop_that_they_were_measured_with() -> None:
    (command,) = re.findall(r"^\| `import-.+?\| (.+?) \|", (ROOT / "benchmarks/README.md").read_text(), re.MULTILINE)
    for name in IMPORTS:
        report = json.loads((ROOT / f"benchmarks/results/{name}.json").read_text(encoding="utf-8"))
        option = f"--central-fraction {report['images']['central_fraction']}"
        assert option in command
        assert option in blocks()["imports"]


def test_the_evaluation_report_is_of_the_shipped_master() -> None:
    report = json.loads((ROOT / "benchmarks/results/evaluate.json").read_text(encoding="utf-8"))
    master = read_master(find_master(MODEL))
    assert {name: row["top1"] for name, row in report["precisions"].items()} == {
        name: master.metrics(name)["top1"] for name in master.precisions
    }


def test_a_soak_tells_how_many_requests_were_refused() -> None:
    report = {
        "machine": {"cpu": "Some Processor"},
        "sent": 9,
        "minutes": 1.0,
        "seen": {"200": 2, "429": 6, "OSError": 1},
        "growth": {"resident_kb": 1.0, "threads": 1.0},
        "descriptors_leaked": 0,
    }
    assert "9 requests in 1 minutes: 6 refused as too many, 2 answered, 1 OSError. In" in _soak(report)
