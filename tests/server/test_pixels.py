"""How much of pictures is in memory at once."""

import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from bitgear.errors import ImageCorrupt, ImageTooLarge
from server.pixels import NoRoom, Pixels, Room
from server.policy import Waiting
from server.turns import LATE_TURN
from tests.serving import PATH, Running, png, running, wait_until

LATE_TURN_GIVES = LATE_TURN - 1
LARGE_PX, LIMIT = 90, 32 * 16 * 16
"""Of a picture's sides, of which there is room for one at a time; one of 16 pixels does not count."""


def test_what_waits_has_its_turn_in_order_and_nobody_overtakes() -> None:
    pixels, rooms = Pixels(LIMIT), dict[str, Room]()
    first = pixels.room()
    first.decode(png(0, 50))
    later = pixels.room()
    with pytest.raises(NoRoom) as caught:
        later.decode(png(0, LARGE_PX))
    assert caught.value.pixels == LARGE_PX**2
    later.close()
    for order_s, name in ((1.0, "large"), (3.0, "last"), (2.0, "next")):
        needed = LARGE_PX**2 if name == "large" else 20 * 20
        pixels.wait(Waiting(order_s, 1, hard=True), needed, partial(rooms.__setitem__, name))
    assert rooms == {}  # although there would be room for two of them
    with pytest.raises(NoRoom):
        pixels.room().decode(png(0, 20))
    first.close()
    assert list(rooms) == ["large"]
    rooms["large"].decode(png(0, LARGE_PX))
    rooms["large"].close()
    assert list(rooms) == ["large", "next", "last"]
    rooms["next"].close()
    rooms["last"].close()
    pixels.room().decode(png(0, 20))


def test_deadlines_go_before_what_is_late_without_one_in_most_turns() -> None:
    pixels, done = Pixels(LIMIT, clock=lambda: 10.0), list[str]()
    held = pixels.room()
    held.decode(png(0, LARGE_PX))

    def resume(name: str, room: Room) -> None:
        done.append(name)
        room.close()

    for request in (*(Waiting(float(n), 1) for n in range(3)), *(Waiting(20.0 + n, 1, hard=True) for n in range(6))):
        pixels.wait(request, LARGE_PX**2, partial(resume, "hard" if request.hard else "late"))
    held.close()
    assert done == ["late", *["hard"] * LATE_TURN_GIVES, "late", *["hard"] * LATE_TURN_GIVES, "late"]


def test_who_waits_for_what_there_is_has_it_at_once() -> None:
    pixels, rooms = Pixels(LIMIT), list[Room]()
    pixels.wait(Waiting(0.0, 1), LARGE_PX**2, rooms.append)
    rooms[0].decode(png(0, LARGE_PX))


def test_a_small_picture_needs_no_room() -> None:
    pixels = Pixels(LIMIT)
    pixels.room().decode(png(0, LARGE_PX))
    pixels.wait(Waiting(0.0, 1), LARGE_PX**2, lambda _: None)
    pixels.room().decode(png(0, 16))
    with pytest.raises(NoRoom):
        pixels.room().decode(png(0, 17))


def test_several_pictures_of_a_request_need_room_for_the_largest() -> None:
    pixels = Pixels(LIMIT)
    room = pixels.room()
    for side_px in (20, 60, 40, LARGE_PX):
        room.decode(png(0, side_px))
    room.close()
    pixels.room().decode(png(0, 30))
    for side_px in (40, 50):
        room.decode(png(0, side_px))
    with pytest.raises(NoRoom) as caught:
        room.decode(png(0, LARGE_PX))
    assert caught.value.pixels == LIMIT  # so that none behind it has them all decoded once more


def test_a_picture_that_cannot_be_read_leaves_no_trace() -> None:
    pixels = Pixels(LIMIT)
    for _ in range(3):
        room = pixels.room()
        with pytest.raises(ImageCorrupt):
            room.decode(png(0, LARGE_PX)[:-40])
        room.close()
        room.close()
    assert pixels.room().decode(png(0, LARGE_PX)).width_px == LARGE_PX


def test_a_picture_that_is_too_large_is_refused_at_once() -> None:
    pixels = Pixels(LIMIT)
    pixels.room().decode(png(0, LARGE_PX))
    with pytest.raises(ImageTooLarge):
        pixels.room().decode(png(0, 91))


def _ask(server: Running, side_px: int, **headers: str) -> int:
    return server.client.post(PATH, content=png(0, side_px), headers=headers).status_code


def test_large_pictures_that_wait_keep_no_thread_from_others(tmp_path: Path) -> None:
    with running(tmp_path, max_pixels=LIMIT, workers=1, engine_workers=1) as server, ThreadPoolExecutor(6) as callers:
        pixels = server.app.state.runtime.requests._pixels
        held = pixels.room()
        held.decode(png(0, LARGE_PX))
        large = [callers.submit(_ask, server, LARGE_PX) for _ in range(5)]
        wait_until(lambda: pixels.waiting == 5, "five wait")
        assert _ask(server, 16) == 200
        assert not any(call.done() for call in large)
        held.close()
        assert [call.result() for call in large] == [200] * 5


def test_a_request_that_fails_gives_its_room_back(tmp_path: Path) -> None:
    with running(tmp_path, max_pixels=LIMIT) as server:
        answer = server.client.post(PATH, content=png(0, LARGE_PX)[:-40])
        assert answer.status_code == 422
        wait_until(lambda: server.app.state.runtime.requests._pixels._in_work == 0, "nothing is in work")
        assert _ask(server, LARGE_PX) == 200


def test_a_deadline_in_the_body_counts_while_its_picture_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running(tmp_path, max_pixels=LIMIT) as server, caplog.at_level(logging.INFO, "server"):
        held = server.app.state.runtime.requests._pixels.room()
        held.decode(png(0, LARGE_PX))
        form = {"image": ("a.png", png(0, LARGE_PX)), "deadline_ms": (None, "50")}
        answer = server.client.post(PATH, files=form, headers={"X-Request-Id": "late"})
        assert answer.status_code == 504  # although nobody lets go
        held.close()
    (line,) = [record for record in caplog.records if getattr(record, "request_id", "") == "late"]
    assert (line.target_ms, line.stage) == (50, "queue")  # type: ignore[attr-defined]


def test_who_gives_up_waiting_for_room_leaves_it_to_others(tmp_path: Path) -> None:
    with running(tmp_path, max_pixels=LIMIT) as server, ThreadPoolExecutor(1) as callers:
        pixels = server.app.state.runtime.requests._pixels
        held = pixels.room()
        held.decode(png(0, LARGE_PX))
        assert _ask(server, LARGE_PX, **{"Deadline-Ms": "50"}) == 504
        patient = callers.submit(_ask, server, LARGE_PX)
        wait_until(lambda: pixels.waiting == 2, "two wait")
        held.close()
        assert patient.result() == 200
        wait_until(lambda: pixels._in_work == 0, "nothing is in work")
