"""When another attempt is made, and after how long."""

import json

import pytest
from bitgear_client import (
    BadRequest,
    BitgearClientError,
    ConnectionFailed,
    Draining,
    InternalError,
    NotReady,
    Overloaded,
    ProtocolError,
    ServerProblem,
    Timeout,
    TransportError,
)
from bitgear_client.protocol import Answer, parse_problem
from bitgear_client.retries import FIRST_BACKOFF_S, MAX_BACKOFF_S, Retries


def _busy(retry_after_s=None):
    return NotReady(503, "urn:bitgear:problem:not-ready", "starting", retry_after_s=retry_after_s)


@pytest.fixture
def retries(fake_time):
    return Retries(10.0, fake_time.clock, fake_time.random)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionFailed("refused"),
        NotReady(503, "t", "d"),
        Draining(503, "t", "d"),
        Overloaded(429, "t", "d"),
        ServerProblem(429, "t", "d"),
    ],
    ids=repr,
)
def test_worth_another_try(retries, error):
    assert retries.wait_s(error) is not None


@pytest.mark.parametrize(
    "error",
    [
        Timeout("slow"),
        TransportError("scheme"),
        ProtocolError("html"),
        BadRequest(400, "t", "d"),
        InternalError(500, "t", "d"),
        ServerProblem(502, "t", "d", retry_after_s=1.0),
        BitgearClientError("other"),
    ],
    ids=repr,
)
def test_final(retries, error):
    assert retries.wait_s(error) is None


def test_the_backoff_doubles_up_to_its_limit(retries, fake_time):
    fake_time.chance = 1.0
    waits_s = [retries.wait_s(_busy()) for _ in range(7)]  # the clock stands still: only the backoff counts
    assert waits_s == [FIRST_BACKOFF_S, 0.2, 0.4, 0.8, 1.6, MAX_BACKOFF_S, MAX_BACKOFF_S]


@pytest.mark.parametrize("chance", [0.0, 0.25, 1.0])
def test_the_jitter_is_full(retries, fake_time, chance):
    fake_time.chance = chance
    assert retries.wait_s(_busy()) == pytest.approx(chance * FIRST_BACKOFF_S)


def test_the_wait_is_never_shorter_than_asked(retries, fake_time):
    fake_time.chance = 0.0
    assert retries.wait_s(_busy(3.0)) == 3.0
    fake_time.chance = 1.0
    assert retries.wait_s(_busy(3.0)) == pytest.approx(3.2)


def test_a_wait_longer_than_the_budget_is_final_at_once(retries):
    assert retries.wait_s(_busy(10.0)) is None
    assert retries.wait_s(_busy(float("inf"))) is None
    assert retries.wait_s(_busy(9.99)) == 10.0  # asked and jitter, cut to what is left


@pytest.mark.parametrize("chance", [0.01, 0.5, 1.0])
@pytest.mark.parametrize("retry_after_s", [None, 1.0])
def test_the_budget_ends_the_attempts(retries, fake_time, chance, retry_after_s):
    fake_time.chance = chance
    while (wait_s := retries.wait_s(_busy(retry_after_s))) is not None:
        fake_time.sleep(wait_s)
    assert sum(fake_time.slept_s) <= 10.0 + 1e-9
    assert sum(fake_time.slept_s) > 8.0  # not given up early either


def test_time_spent_in_attempts_counts(retries, fake_time):
    fake_time.now_s += 10.0
    assert retries.wait_s(_busy()) is None


@pytest.mark.parametrize("budget_s", [0.0, -1.0])
def test_no_budget_no_retries(fake_time, budget_s):
    assert Retries(budget_s, fake_time.clock, fake_time.random).wait_s(ConnectionFailed("refused")) is None


@pytest.mark.parametrize(
    ("headers", "members", "wait_s"),
    [
        ({"retry-after": "7"}, {}, 7.0),
        ({"retry-after": " 0 "}, {}, 0.0),
        ({"retry-after": "7"}, {"retry_after_s": 1}, 7.0),
        ({}, {"retry_after_s": 1.5}, 1.5),
        ({}, {"retry_after_s": -1}, 0.0),
        ({}, {"retry_after_s": "1"}, None),
        ({}, {"retry_after_s": True}, None),
        ({}, {"retry_after_s": 10**400}, None),
        ({}, {}, None),
        ({"retry-after": "soon"}, {}, None),
        ({"retry-after": "-1"}, {}, None),
        ({"retry-after": "1.5"}, {}, None),
        ({"retry-after": "٣"}, {}, None),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:09 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, {}, 9.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT", "date": "Wed, 21 Oct 2026 07:28:09 GMT"}, {}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:09 GMT"}, {}, None),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:09 -0000", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, {}, None),
        ({"retry-after": f"Wed, 21 Oct {'9' * 30} 07:28:09 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, {}, None),
    ],
)
def test_retry_after(headers, members, wait_s):
    assert parse_problem(Answer(503, headers, json.dumps(members).encode())).retry_after_s == wait_s
