"""The error tree against docs/http.md."""

import pickle
import re
from pathlib import Path

import pytest
from bitgear_client import errors
from bitgear_client.errors import PROBLEM_BY_STATUS, PROBLEM_BY_TYPE, ServerProblem, problem_class

HTTP_MD = Path(__file__).parents[3] / "docs" / "http.md"


def _documented():
    """(status, type) of every row of the table of errors."""
    table = HTTP_MD.read_text().partition("## Errors")[2]
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 3 and cells[1].isdigit():
            yield from ((int(cells[1]), name) for name in re.findall(r"`([a-z-]+)`", cells[2]))


def test_every_documented_problem_has_a_class():
    documented = dict(reversed(row) for row in _documented())
    assert len(documented) >= 15
    assert documented.keys() <= PROBLEM_BY_TYPE.keys()
    for name, status in documented.items():
        kind = problem_class(f"urn:bitgear:problem:{name}", status)
        assert kind is PROBLEM_BY_TYPE[name]
        assert str(status) in kind.__doc__


def test_every_problem_has_a_class_of_its_own():
    assert len(set(PROBLEM_BY_TYPE.values())) == len(PROBLEM_BY_TYPE)
    assert set(PROBLEM_BY_STATUS.values()) <= set(PROBLEM_BY_TYPE.values())


@pytest.mark.parametrize(("status", "kind"), [*PROBLEM_BY_STATUS.items(), (418, ServerProblem), (502, ServerProblem)])
def test_unknown_types_fall_back_by_status(status, kind):
    assert problem_class("about:blank", status) is kind
    assert problem_class("urn:bitgear:problem:invented-later", status) is kind


def test_the_tree_is_drawn_completely():
    drawn = set(re.findall(r"[A-Z]\w+", errors.__doc__))
    defined = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert defined <= drawn


@pytest.mark.parametrize(
    ("kind", "members", "attribute", "value"),
    [
        (errors.BadParameter, {"parameter": "top_k"}, "parameter", "top_k"),
        (errors.ConflictingControls, {"parameter": "precision"}, "parameter", "precision"),
        (errors.ModelNotFound, {"models": ["a", 1, "b"]}, "models", ("a", "b")),
        (errors.TooLarge, {"limit_bytes": 10}, "limit_bytes", 10),
        (errors.TooLarge, {"limit_pixels": 20}, "limit_pixels", 20),
        (errors.UnsupportedMediaType, {"allowed": ["image/png"]}, "allowed", ("image/png",)),
        (errors.UndecodableImage, {"reason": "image-corrupt"}, "reason", "image-corrupt"),
        (
            errors.PrecisionNotOffered,
            {"offered_precisions": [8, "mixed-3.2", None]},
            "offered_precisions",
            (8, "mixed-3.2"),
        ),
        (errors.TaskMismatch, {"task": "detect"}, "task", "detect"),
        (errors.TaskMismatch, {"route": "/v1/models/m/detect"}, "route", "/v1/models/m/detect"),
    ],
)
def test_extra_members_are_attributes(kind, members, attribute, value):
    absent = () if isinstance(value, tuple) else None
    assert getattr(kind(422, "t", "d", members=members), attribute) == value
    assert getattr(kind(422, "t", "d"), attribute) == absent
    assert getattr(kind(422, "t", "d", members={attribute: {}}), attribute) == absent


@pytest.mark.parametrize("kind", [ServerProblem, *PROBLEM_BY_TYPE.values()])
def test_problems_survive_pickling(kind):
    problem = kind(503, "urn:bitgear:problem:x", "why", "id-1", {"a": 1}, 2.0)
    copy = pickle.loads(pickle.dumps(problem))
    assert type(copy) is kind
    assert vars(copy) == vars(problem)
    assert str(copy) == "503 x: why (request id-1)"
