"""The examples of the README and of the docstrings do what they say."""

import doctest
import functools
import importlib
import pkgutil
import re
from pathlib import Path

import bitgear_client
import httpx
import pytest

README = Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", README.read_text(), re.DOTALL)


def test_every_python_block_has_its_output():
    assert len(EXAMPLES) == README.read_text().count("```python") == 3


@pytest.mark.parametrize(("code", "output"), EXAMPLES)
def test_readme_example(code, output, classify_json, tmp_path, monkeypatch, capsys):
    def serve(request):
        asked = request.headers["Precision"]
        if asked == "mixed-2.5":
            offered = [8, 7, 6, 5, 4, 3, 2, "mixed-3.0", "mixed-3.5", "mixed-3.8", "mixed-4.7", "mixed-5.7"]
            refusal = {"type": "urn:bitgear:problem:width-not-offered", "offered_precisions": offered}
            return httpx.Response(422, json=refusal)
        classify_json["precision"]["served"] = int(asked)
        classify_json["predictions"][0]["confidence"] = 0.9999999999972267  # as resnet20-cifar10 answers
        classify_json["timing_ms"]["infer"] = 0.268
        return httpx.Response(200, json=classify_json)

    transport = httpx.MockTransport(serve)
    for name in ("Client", "AsyncClient"):
        kind = getattr(bitgear_client, name)
        monkeypatch.setattr(bitgear_client, name, functools.partial(kind, transport=transport))
    monkeypatch.chdir(tmp_path)
    Path("examples").mkdir()
    Path("examples/cat.jpg").write_bytes(b"image")
    exec(compile(code, str(README), "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out == output


def test_docstring_examples():
    modules = [module.name for module in pkgutil.iter_modules(bitgear_client.__path__)]
    outcomes = [doctest.testmod(importlib.import_module(f"bitgear_client.{name}")) for name in modules]
    assert sum(outcome.failed for outcome in outcomes) == 0
    assert sum(outcome.attempted for outcome in outcomes) >= 5
