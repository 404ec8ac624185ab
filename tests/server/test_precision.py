import re
from typing import Any

import pytest

from server.controls import Controls, add_controls, read_controls
from server.errors import BadParameter, ConflictingControls
from server.precision import PRECISION_CONTROLS, VARY, Wish, to_wish
from server.tasks import CLASSIFY


def wish(*headers: tuple[str, str], query: str = "", fields: dict[str, Any] | None = None) -> Wish:
    return to_wish(controls(*headers, query=query, fields=fields))


def controls(*headers: tuple[str, str], query: str = "", fields: dict[str, Any] | None = None) -> Controls:
    known = CLASSIFY.controls
    given = read_controls(known, [(n.lower().encode(), v.encode("latin-1")) for n, v in headers], query.encode())
    return add_controls(known, given, (fields or {}).items())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (wish(), Wish()),
        (wish(("Precision", "4")), Wish("4")),
        (wish(("Precision", " 4 ")), Wish("4")),
        (wish(("Precision", "auto")), Wish()),
        (wish(("Precision", "mixed-3.2")), Wish("mixed-3.2")),
        (wish(("Precision", "mixed-3.2"), query="precision=%20mixed-3.2"), Wish("mixed-3.2")),
        (wish(fields={"precision": "fast"}), Wish("fast")),
        (wish(query="precision=2"), Wish("2")),
        (wish(query="precision=%204%20"), Wish("4")),
        (wish(fields={"precision": "8"}), Wish("8")),
        (wish(fields={"precision": 8}), Wish("8")),
        (wish(("Precision-Min", "3"), query="precision_max=5"), Wish(floor=3, ceiling=5)),
        (wish(("Device-Profile", "edge")), Wish(profile="edge")),
        (wish(("Precision", "4"), ("Precision", "4"), query="precision=4&precision=4"), Wish("4")),
        (wish(("Precision", "4"), fields={"precision": 4}), Wish("4")),
        (wish(("Accept", "*/*"), ("X-Other", "1")), Wish()),
        (wish(fields={"precision": 4, "precision_min": 4, "precision_max": 4}), Wish("4", 4, 4)),
        (wish(("Prefer", "handling=lenient")), Wish(lenient=True)),
        (wish(("Prefer", 'respond-async, Handling="lenient"; x=1')), Wish(lenient=True)),
        (wish(("Prefer", "respond-async"), ("Prefer", "handling=lenient")), Wish(lenient=True)),
        (wish(("Prefer", "handling=strict"), query="lenient=false"), Wish()),
        (wish(("Prefer", "lenient"), ("Prefer", "handling"), ("Prefer", "handling=odd")), Wish()),
        (wish(query="lenient=true"), Wish(lenient=True)),
        (
            wish(fields={"lenient": True, "priority": 1, "deadline_ms": 12.5}),
            Wish(None, None, None, None, True, 12.5, 1),
        ),
        (wish(("Deadline-Ms", "50"), fields={"deadline_ms": 50}), Wish(deadline_ms=50)),
        (wish(query="priority=1&deadline_ms=0.125"), Wish(priority=1, deadline_ms=0.125)),
    ],
)
def test_what_is_read(given: Wish, expected: Wish) -> None:
    assert given == expected


WIDTHS_THAT_ARE_NONE = ["0", "1", "9", "-4", "4.0", "0x4", "", "44", "+4", "٤", "4,4", "AUTO", "4\n", "w8a7", "none"]
WIDTHS_THAT_ARE_NONE += ["Mixed", "mixed 3", "x" * 33]


@pytest.mark.parametrize("text", WIDTHS_THAT_ARE_NONE)
@pytest.mark.parametrize("name", ["precision", "precision_min", "precision_max"])
def test_no_width_as_text(name: str, text: str) -> None:
    with pytest.raises(BadParameter) as caught:
        wish(fields={name: text})
    assert caught.value.members == {"parameter": name}


def test_the_schema_says_what_is_read() -> None:
    pattern = re.compile(PRECISION_CONTROLS["precision"].schema["pattern"])
    for text in ("8", "2", "auto", "mixed-3.2", "w8a9", "x" * 32):
        assert pattern.search(text)
    for text in (*WIDTHS_THAT_ARE_NONE, "w2a2"):
        assert not pattern.search(text.strip()) or text == "4\n"


@pytest.mark.parametrize("value", [0, 1, 9, -4, 4.0, True, None, [4], {"bits": 4}, 10**50])
def test_no_width_as_json(value: object) -> None:
    with pytest.raises(BadParameter):
        wish(fields={"precision": value})


@pytest.mark.parametrize("value", ["auto", "", "mixed-3.2"])
def test_auto_and_plans_are_no_bounds(value: str) -> None:
    with pytest.raises(BadParameter):
        wish(("Precision-Min", value))


@pytest.mark.parametrize(
    ("given", "expected"), [(controls(), 5), (controls(query="top_k=1000"), 1000), (controls(fields={"top_k": 1}), 1)]
)
def test_top_k(given: Controls, expected: int) -> None:
    assert CLASSIFY.options(given, ["cat", "dog"]) == expected


@pytest.mark.parametrize("value", ["0", "1001", "-1", "1.5", "1e2", "", "99999999999999999999", "²", 0, True, 2.0])
def test_no_top_k(value: object) -> None:
    with pytest.raises(BadParameter) as caught:
        wish(fields={"top_k": value})
    assert caught.value.members == {"parameter": "top_k"}


@pytest.mark.parametrize(
    ("headers", "query", "fields"),
    [
        ([("Precision", "4"), ("Precision", "8")], "", {}),
        ([], "precision=4&precision=8", {}),
        ([("Precision", "4")], "precision=8", {}),
        ([("Precision", "4")], "", {"precision": 8}),
        ([], "precision=4", {"precision": "8"}),
        ([("Precision", "auto")], "precision=8", {}),
    ],
)
def test_two_values_for_one_control(headers: list[tuple[str, str]], query: str, fields: dict[str, Any]) -> None:
    with pytest.raises(ConflictingControls) as caught:
        wish(*headers, query=query, fields=fields)
    assert caught.value.members == {"parameter": "precision"}


@pytest.mark.parametrize(
    ("fields", "parameter"),
    [
        ({"precision_min": 6, "precision_max": 4}, "precision_min"),
        ({"precision": "auto", "precision_min": 8, "precision_max": 2}, "precision_min"),
    ],
)
def test_bounds_that_contradict(fields: dict[str, Any], parameter: str) -> None:
    with pytest.raises(BadParameter) as caught:
        wish(fields=fields)
    assert caught.value.members == {"parameter": parameter}


@pytest.mark.parametrize("query", ["bits=4", "Precision=4", "precision", "&x", "precision%20=4"])
def test_unknown_or_blank_query_parameters(query: str) -> None:
    with pytest.raises(BadParameter):
        wish(query=query)


def test_what_was_given_is_cut() -> None:
    with pytest.raises(BadParameter) as caught:
        wish(query="precision=" + "7" * 5000)
    assert "7" * 41 not in str(caught.value)


def test_vary_names_every_header_that_steers() -> None:
    assert VARY == "Accept, Precision, Precision-Min, Precision-Max, Device-Profile, Prefer, Deadline-Ms"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("deadline_ms", value)
            for value in ["0", "-1", "1e3", "", "3600001", "0.0001", "nan", "inf", 0, -1, True, None]
        ),
        ("deadline_ms", float("nan")),
        *(("lenient", value) for value in ["yes", "1", "", "True", 1, None]),
        *(("priority", value) for value in ["2", "-1", "", "high", 2, True, 0.5]),
    ],
)
def test_no_deadline_leniency_or_priority(name: str, value: object) -> None:
    with pytest.raises(BadParameter) as caught:
        wish(fields={name: value})
    assert caught.value.members == {"parameter": name}


def test_lenient_and_strict_at_once() -> None:
    with pytest.raises(ConflictingControls):
        wish(("Prefer", "handling=lenient"), query="lenient=false")
