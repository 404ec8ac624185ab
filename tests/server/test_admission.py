from pathlib import Path

import pytest

from server.admission import MAX_RETRY_AFTER_S, Key, Keys, Permits, check_admin, load_keys
from server.errors import Forbidden, Overloaded, RateLimited, Unauthorised
from server.settings import SettingsError
from tests.server.test_scheduler import Clock

SECRET = "correct horse"


@pytest.mark.parametrize(
    ("drain_per_s", "retry_after_s"), [(0, 1), (100, 1), (2, 5), (3, 4), (0.001, MAX_RETRY_AFTER_S)]
)
def test_as_many_as_there_are_permits_and_then_when_to_come_back(drain_per_s: float, retry_after_s: int) -> None:
    permits = Permits(10, 1, lambda: drain_per_s)
    held = [permits.one() for _ in range(10)]
    for permit in held:
        permit.__enter__()
    with pytest.raises(Overloaded) as caught, permits.one():
        pass
    assert caught.value.members == {"retry_after_s": retry_after_s, "queue_depth": 10}
    held[0].__exit__(None, None, None)
    with permits.one():
        assert permits.taken == 10
    assert permits.taken == 9


def test_a_permit_comes_back_whatever_happens() -> None:
    permits = Permits(1, 1, lambda: 1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), permits.one():
            raise ZeroDivisionError
    assert permits.taken == 0


def test_bodies_have_a_bound_together_but_one_may_always_come() -> None:
    permits = Permits(10, 100, lambda: 0)
    with permits.one() as alone:
        alone.add(500)
        with permits.one() as another:
            with pytest.raises(Overloaded) as caught:
                another.add(1)
            assert caught.value.members == {"retry_after_s": 1, "queue_depth": 2}
            assert "500 bytes, and 1 more would exceed max_bodies_bytes, 100;" in str(caught.value)
            assert another.size_bytes == 0
    with permits.one() as first, permits.one() as second:
        first.add(60)
        second.add(40)
        with pytest.raises(Overloaded):
            second.add(1)


def test_without_keys_everybody_may() -> None:
    Keys({}).check([])


@pytest.mark.parametrize(
    "header",
    [
        (b"x-api-key", SECRET.encode()),
        (b"authorization", b"Bearer " + SECRET.encode()),
        (b"authorization", b"bearer " + SECRET.encode()),
    ],
)
def test_a_key_is_sent_in_either_header(header: tuple[bytes, bytes]) -> None:
    Keys({"me": Key(key=SECRET)}).check([(b"host", b"x"), header])
    check_admin(SECRET, [header])


@pytest.mark.parametrize(
    "headers",
    [
        [], [(b"x-api-key", b"")], [(b"authorization", b"Bearer ")],
        [(b"x-api-key", b"wrong horse")], [(b"authorization", b"Basic correct horse")],
        [(b"x-api-key", "correct hors\xe9".encode("latin-1"))], [(b"authorization", b"correct horse")],
    ],
)  # fmt: skip
def test_no_key_and_a_wrong_key_are_refused(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(Unauthorised) as caught:
        Keys({"me": Key(key=SECRET)}).check(headers)
    assert SECRET not in str(caught.value)
    with pytest.raises((Unauthorised, Forbidden)):
        check_admin(SECRET, headers)


def test_without_an_admin_key_nobody_is_admin() -> None:
    with pytest.raises(Forbidden):
        check_admin(None, [(b"x-api-key", b"")])


def test_each_key_has_its_own_rate() -> None:
    clock = Clock()
    keys = Keys({"slow": Key(key="slow-key", requests_per_s=2, burst=3), "free": Key(key="free-key")}, clock)
    slow, free = [(b"x-api-key", b"slow-key")], [(b"x-api-key", b"free-key")]
    for _ in range(3):
        keys.check(slow)
    with pytest.raises(RateLimited) as caught:
        keys.check(slow)
    assert caught.value.members == {"retry_after_s": 1}
    for _ in range(100):
        keys.check(free)
    clock.now_s += 0.5
    keys.check(slow)
    with pytest.raises(RateLimited):
        keys.check(slow)
    clock.now_s += 1000
    for _ in range(3):  # no more than the burst, however long it waited
        keys.check(slow)
    with pytest.raises(RateLimited):
        keys.check(slow)
    clock.now_s -= 500  # a clock that jumps back takes nothing away
    with pytest.raises(RateLimited):
        keys.check(slow)
    clock.now_s += 0.5
    keys.check(slow)


def test_keys_are_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text('[web]\nkey = "a-long-key"\nrequests_per_s = 5\nburst = 10\n[batch]\nkey = "another-key"\n')
    assert load_keys(file) == {
        "web": Key(key="a-long-key", requests_per_s=5, burst=10), "batch": Key(key="another-key"),
    }  # fmt: skip
    assert load_keys(None) == {}


@pytest.mark.parametrize(
    "text",
    [
        'key = "a-long-key"', "[web]", '[web]\nkey = "short"', '[web]\nkey = "secret-key"\nrate = 1',
        '[web]\nkey = "secret-key"\nrequests_per_s = 0', '[a]\nkey = "secret-key"\n[b]\nkey = "secret-key"', "[web",
        '[web]\nkey = " secret-key"', '[web]\nkey = "secret-key\\n"', '[web]\nkey = "secret-key-é"',
    ],
)  # fmt: skip
def test_a_bad_file_of_keys_is_named_and_no_key_told(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=r"keys\.toml") as caught:
        load_keys(file)
    assert "secret-key" not in str(caught.value)
