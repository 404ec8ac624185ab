"""Who gets in, judged before a body is read: keys, their limits, and permits for a bounded number of requests."""

import hashlib
import hmac
import math
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from server.errors import Forbidden, Overloaded, RateLimited, Unauthorised
from server.settings import SettingsError, check_key

MAX_RETRY_AFTER_S = 60

Headers = Iterable[tuple[bytes, bytes]]
"""Of an ASGI request: names in lower case, and values."""


class Key(BaseModel):
    """What a holder of a key may send. ``burst``: how many at once, if fewer were sent before."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: Annotated[str, Field(min_length=8, max_length=256), AfterValidator(check_key)]
    requests_per_s: Annotated[float, Field(gt=0)] | None = None
    burst: Annotated[int, Field(ge=1)] = 1


class Permits:
    """A bounded number of requests at a time, and of bytes in their bodies. Used on the event loop alone.

    ``drain_per_s`` gives how many requests are answered per second while there is work, 0 if that is not known yet.
    """

    def __init__(self, limit: int, limit_bytes: int, drain_per_s: Callable[[], float]) -> None:
        self.limit = limit
        self._limit_bytes = limit_bytes
        self._drain_per_s = drain_per_s
        self._taken = 0
        self._taken_bytes = 0

    @property
    def taken(self) -> int:
        """How many requests have one."""
        return self._taken

    @contextmanager
    def one(self) -> Iterator["Permit"]:
        """Hold a permit; raise :class:`~server.errors.Overloaded` if there is none left."""
        if self._taken >= self.limit:
            raise self._overloaded(f"{self._taken} requests are waiting, which is all that the server has room for")
        self._taken += 1
        permit = Permit(self._hold)
        try:
            yield permit
        finally:
            self._taken -= 1
            self._taken_bytes -= permit.size_bytes

    def _hold(self, size_bytes: int) -> None:
        # A body that is alone may have any size that a body may have.
        if self._taken > 1 and self._taken_bytes + size_bytes > self._limit_bytes:
            raise self._overloaded(
                f"the bodies of all requests have {self._taken_bytes} bytes, and {size_bytes} more would exceed "
                f"max_bodies_bytes, {self._limit_bytes}"
            )
        self._taken_bytes += size_bytes

    def _overloaded(self, said: str) -> Overloaded:
        return Overloaded(said, self._retry_after_s(), self._taken)

    def _retry_after_s(self) -> int:
        """Return when what waits now will be done, in whole seconds."""
        drain_per_s = self._drain_per_s()
        wait_s = self._taken / drain_per_s if drain_per_s > 0 else 0.0
        return max(1, min(math.ceil(wait_s), MAX_RETRY_AFTER_S))


class Permit:
    """That of one request, whose body has ``size_bytes`` so far."""

    def __init__(self, hold: Callable[[int], None]) -> None:
        self._hold = hold
        self.size_bytes = 0

    def add(self, size_bytes: int) -> None:
        """Note that so many bytes more have come; raise :class:`~server.errors.Overloaded` if they are too many."""
        self._hold(size_bytes)
        self.size_bytes += size_bytes


class Keys:
    """The keys of a server, by name, and what each has left to send. Used on the event loop alone.

    Without any, everybody may send what they like. ``clock`` gives monotonic seconds.
    """

    def __init__(self, keys: Mapping[str, Key], clock: Callable[[], float] = time.monotonic) -> None:
        self._keys = {_digest(key.key): _Bucket(key, clock) for key in keys.values()}

    def check(self, headers: Headers) -> None:
        """Take one request from what the key in these headers may send.

        Raises :class:`~server.errors.Unauthorised` for no key or one that is not known, and
        :class:`~server.errors.RateLimited`.
        """
        if not self._keys:
            return
        given = _given_key(headers)
        bucket = None if given is None else self._keys.get(_digest(given))
        if bucket is None:
            raise Unauthorised("this server takes requests with a key only" if given is None else "the key is unknown")
        bucket.take()


class _Bucket:
    """Tokens that fill up at a steady rate, one for each request."""

    def __init__(self, key: Key, clock: Callable[[], float]) -> None:
        self._rate_per_s = key.requests_per_s
        self._burst = key.burst
        self._clock = clock
        self._tokens = float(key.burst)
        self._filled_s = clock()

    def take(self) -> None:
        if self._rate_per_s is None:
            return
        now_s = self._clock()
        self._tokens = min(self._burst, self._tokens + max(0.0, now_s - self._filled_s) * self._rate_per_s)
        self._filled_s = now_s
        if self._tokens < 1:
            wait_s = (1 - self._tokens) / self._rate_per_s
            raise RateLimited(max(1, math.ceil(wait_s)), self._rate_per_s)
        self._tokens -= 1


def check_admin(admin_key: str | None, headers: Headers) -> None:
    """Raise :class:`~server.errors.Unauthorised` without a key, :class:`~server.errors.Forbidden` for another one.

    Without an ``admin_key`` nobody is let in.
    """
    if admin_key is None:
        raise Forbidden("this server has no admin key, so nobody may do this; start it with BITGEAR_ADMIN_KEY")
    given = _given_key(headers)
    if given is None:
        raise Unauthorised("this takes the admin key")
    if not hmac.compare_digest(_digest(given), _digest(admin_key)):
        raise Forbidden("the key is not the admin key")


def load_keys(path: Path | None) -> Mapping[str, Key]:
    """Return the keys in a TOML file, a table for each name; none without a file.

    Raises :class:`~server.settings.SettingsError` for a file that cannot be read or understood; it names no key.
    """
    if path is None:
        return {}
    try:
        keys = TypeAdapter(dict[str, Key]).validate_python(tomllib.loads(path.read_text("utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"keys file {path} cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        raise SettingsError(f"keys file {path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if len({key.key for key in keys.values()}) != len(keys):
        raise SettingsError(f"keys file {path}: two names have the same key")
    return keys


def _given_key(headers: Headers) -> str | None:
    for name, value in headers:
        if name == b"x-api-key":
            return value.decode("latin-1").strip() or None
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].decode("latin-1").strip() or None
    return None


def _digest(key: str) -> bytes:
    # What is looked up and compared is a digest: how long that takes tells nothing about a key.
    return hashlib.sha256(key.encode()).digest()
