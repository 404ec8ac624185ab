"""How much of pictures is in memory at once. A picture takes several times the bytes of its pixels while it is read."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from bitgear.tasks.pictures import Picture, decode_picture


class Pixels:
    """Pictures in work, no larger than ``limit`` pixels, nor together. From any thread but the event loop's."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._in_work = 0
        self._turn = threading.Lock()  # nobody overtakes whoever waits
        self._fewer = threading.Condition()

    @contextmanager
    def decoded(self, data: bytes) -> Iterator[Picture]:
        """Give the picture in some bytes, which is in work until the end of the context; wait until there is room.

        Raises what :func:`~bitgear.tasks.pictures.decode_picture` raises. Within the context no other may be begun.
        """
        taken = 0

        def take(pixels: int) -> None:
            nonlocal taken
            with self._turn, self._fewer:
                self._fewer.wait_for(lambda: self._in_work + pixels <= self.limit)
                self._in_work += pixels
                taken = pixels

        try:
            yield decode_picture(data, self.limit, take)
        finally:
            with self._fewer:
                self._in_work -= taken
                self._fewer.notify_all()
