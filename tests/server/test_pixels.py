"""How much of pictures is in memory at once."""

import threading

import pytest

from bitgear.errors import ImageCorrupt, ImageTooLarge
from server.pixels import Pixels
from tests.serving import DEADLINE_S, png, wait_until


def begun(pixels: Pixels, side_px: int, let_go: threading.Event, done: list[int]) -> threading.Thread:
    """A thread that has a picture in work until it is let go, and notes when it has it."""

    def work() -> None:
        with pixels.decoded(png(0, side_px)):
            done.append(side_px)
            assert let_go.wait(DEADLINE_S)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_pictures_wait_for_room_and_nobody_overtakes() -> None:
    pixels, done = Pixels(1000), list[int]()
    first, others = threading.Event(), threading.Event()
    with pixels.decoded(png(0, 20)):  # 400
        large = begun(pixels, 30, first, done)  # 900
        wait_until(pixels._turn.locked, "waiting")
        small = begun(pixels, 10, others, done)  # 100, for which there would be room
        small.join(0.2)
        assert done == []
    wait_until(lambda: sorted(done) == [10, 30], "both")
    first.set()
    others.set()
    for thread in (large, small):
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


def test_a_picture_that_cannot_be_read_leaves_no_trace() -> None:
    pixels = Pixels(1000)
    for _ in range(3):
        with pytest.raises(ImageCorrupt), pixels.decoded(png(0, 30)[:-40]):
            pass
        assert pixels._in_work == 0  # else the next would wait for ever
    with pixels.decoded(png(0, 31)) as picture:
        assert picture.width_px == 31


def test_a_picture_that_is_too_large_is_refused_at_once() -> None:
    pixels = Pixels(1000)
    with pixels.decoded(png(0, 20)), pytest.raises(ImageTooLarge), pixels.decoded(png(0, 40)):
        pass
