import re
from pathlib import Path

from bitgear.errors import CheckpointTruncated, ImageAnimated, ImageCorrupt, InputError
from server.problems import TABLE, problem_of, respond

DOCS = Path(__file__).parents[2] / "docs" / "http.md"


def test_the_table_is_the_documented_one() -> None:
    rows = re.findall(r"^\| (\d{3}) \| (`[^|]+) \|([^|]*)\|", DOCS.read_text(), re.MULTILINE)
    documented = {
        (int(status), name, frozenset(re.findall(r"`(\w+)`", members)))
        for status, names, members in rows
        for name in re.findall(r"`([a-z-]+)`", names)
    }
    names: dict[tuple[int, str], set[str]] = {}
    for problem in TABLE.values():
        names.setdefault((problem.status, problem.name), set()).update(problem.extra)
    assert {(status, name, frozenset(extra)) for (status, name), extra in names.items()} == documented


def test_an_error_takes_the_row_of_its_nearest_base() -> None:
    assert problem_of(ImageAnimated("x")).name == "undecodable-image"
    assert problem_of(ImageCorrupt("x")).name == "undecodable-image"
    for fault in (InputError("x"), CheckpointTruncated("x"), KeyError("x")):
        assert problem_of(fault).name == "internal"


def test_a_fault_of_the_server_says_nothing_about_itself() -> None:
    answer = respond(RuntimeError("/secret/path"), "id")
    assert answer.status_code == 500
    assert b"secret" not in bytes(answer.body)
    assert b"RuntimeError" not in bytes(answer.body)
