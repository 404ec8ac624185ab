"""The numbers in the documents are those of the reports."""

import subprocess
import sys
from pathlib import Path

from benchmarks.publish import DOCUMENTS, MODEL, ROOT, blocks
from bitgear.checkpoint import read_master
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


def test_the_evaluation_report_is_of_the_shipped_master() -> None:
    import json

    report = json.loads((ROOT / "benchmarks/results/evaluate.json").read_text(encoding="utf-8"))
    master = read_master(find_master(MODEL))
    assert {name: row["top1"] for name, row in report["precisions"].items()} == {
        name: master.metrics(name)["top1"] for name in master.precisions
    }
