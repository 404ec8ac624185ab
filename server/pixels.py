"""How much of pictures is in memory at once. A picture takes several times the bytes of its pixels while it is read.

A request whose picture has to wait keeps no thread meanwhile: it is made ready again from the start once there is room.
So large pictures, which are decoded few at a time, leave threads for small ones.
"""

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from bitgear.tasks.pictures import Picture, decode_picture
from server.errands import InTurn
from server.policy import Waiting

SMALL = 1 / 32
"""A picture of no more than this share of the limit does not count: each thread has one at a time."""


class NoRoom(Exception):
    """A picture has to wait until there is room for ``pixels``."""

    def __init__(self, pixels: int) -> None:
        super().__init__(pixels)
        self.pixels = pixels


class Pixels:
    """Pictures in work, no larger than ``limit`` pixels, nor together. From any thread but the event loop's.

    ``clock`` gives monotonic seconds.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._clock = clock
        self._in_work = 0
        self._lock = threading.Lock()
        self._first: _Waiting | None = None
        """Who has the next room."""
        self._waiting = InTurn[_Waiting]()

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting) + (self._first is not None)

    def room(self) -> "Room":
        """Return what a request may have of it: nothing yet."""
        return Room(self, 0)

    def wait(self, request: Waiting, pixels: int, resume: Callable[["Room"], None]) -> None:
        """Have ``resume`` called once there is room for so many pixels of a request, which is what it is given.

        Who has waited for the next room is not overtaken; behind them the order is that of :mod:`server.scheduler`.
        ``resume`` must be short, and raise nothing; it may run on this thread, at once.
        """
        with self._lock:
            self._waiting.put(_Waiting(request, pixels, resume))
        self._go_on()

    def take(self, more: int, held: int) -> bool:
        """Return whether there is room for ``more`` pixels, which are in work from now on, beside those held."""
        with self._lock:
            if self._in_work + more > self.limit or (self._first is not None and not held):
                return False
            self._in_work += more
            return True

    def give_back(self, pixels: int) -> None:
        """Make room for others."""
        with self._lock:
            self._in_work -= pixels
        self._go_on()

    def _go_on(self) -> None:
        while True:
            with self._lock:
                if self._first is None and self._waiting:
                    self._first = self._waiting.pop(self._clock())
                first = self._first
                if first is None or self._in_work + first.pixels > self.limit:
                    return
                self._first = None
                self._in_work += first.pixels
            first.resume(Room(self, first.pixels))


class Room:
    """What one request has of all pixels that may be in work. For one thread at a time; closed by whoever has it."""

    def __init__(self, pixels: Pixels, held: int) -> None:
        self._pixels = pixels
        self._held = held
        self._used = False

    @property
    def limit(self) -> int:
        """Of the pixels of a picture."""
        return self._pixels.limit

    def decode(self, data: bytes) -> Picture:
        """Return the picture in some bytes. The one before it must be gone.

        Raises what :func:`~bitgear.tasks.pictures.decode_picture` raises, and :class:`NoRoom`.
        """
        picture = decode_picture(data, self.limit, self._need)
        self._used = True
        return picture

    def close(self) -> None:
        """Give back what is held: the last picture is gone."""
        held, self._held = self._held, 0
        if held:
            self._pixels.give_back(held)

    def _need(self, pixels: int) -> None:
        if pixels <= max(self._held, SMALL * self.limit):
            return
        if not self._pixels.take(pixels - self._held, self._held):
            # Not again for each picture that is larger than those before it.
            raise NoRoom(self.limit if self._used else pixels)
        self._held = pixels


class _Waiting(NamedTuple):
    request: Waiting
    pixels: int
    resume: Callable[[Room], None]
