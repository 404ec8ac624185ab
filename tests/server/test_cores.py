"""Cores that are lent: how many at a time, and who goes first."""

import threading
from contextlib import AbstractContextManager

import pytest

from server import cores
from server.cores import GIVES_WAY, Cores
from tests.server.test_scheduler import Clock
from tests.serving import DEADLINE_S, wait_until


class Holder:
    """A thread that asks for cores, notes its name once it has them, and holds them until it is let go."""

    def __init__(self, name: str, turn: AbstractContextManager[None], order: list[str]) -> None:
        self.let_go = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(name, turn, order))
        self._thread.start()

    def _run(self, name: str, turn: AbstractContextManager[None], order: list[str]) -> None:
        with turn:
            order.append(name)
            assert self.let_go.wait(DEADLINE_S)

    def end(self) -> None:
        self.let_go.set()
        self._thread.join(DEADLINE_S)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "PATIENCE_S", DEADLINE_S)


def waiting(lent: Cores, errands: int, calls: int) -> None:
    wait_until(lambda: lent.waiting == (errands, calls), "threads that wait for a core")


def test_no_more_are_lent_than_there_are_and_errands_go_first() -> None:
    lent, order = Cores(1), list[str]()
    first = Holder("call", lent.call(1), order)
    wait_until(lambda: order == ["call"], "a call that runs")
    call = Holder("later call", lent.call(1), order)
    waiting(lent, errands=0, calls=1)
    errand = Holder("errand", lent.errand(), order)
    waiting(lent, errands=1, calls=1)
    assert order == ["call"]
    first.end()
    wait_until(lambda: order == ["call", "errand"], "an errand that goes first")
    errand.end()
    call.end()
    assert order == ["call", "errand", "later call"]


def test_a_call_takes_a_core_for_each_of_its_threads() -> None:
    lent, order = Cores(2), list[str]()
    errand = Holder("errand", lent.errand(), order)
    wait_until(lambda: order == ["errand"], "an errand that runs")
    call = Holder("call", lent.call(2), order)
    waiting(lent, errands=0, calls=1)
    errand.end()
    call.end()
    assert order == ["errand", "call"]


def test_a_flood_of_errands_lets_a_call_through() -> None:
    lent, order = Cores(1), list[str]()
    first = Holder("first", lent.errand(), order)
    wait_until(lambda: order == ["first"], "an errand that runs")
    call = Holder("call", lent.call(1), order)
    waiting(lent, errands=0, calls=1)
    errands = [Holder("errand", lent.errand(), order) for _ in range(2 * GIVES_WAY)]
    waiting(lent, errands=2 * GIVES_WAY, calls=1)
    for each in (*errands, call):
        each.let_go.set()
    first.end()
    for each in (*errands, call):
        each.end()
    assert order.index("call") == GIVES_WAY + 1
    assert len(order) == 2 * GIVES_WAY + 2


def test_errands_do_not_wait_for_calls_that_take_long() -> None:
    clock, order = Clock(), list[str]()
    lent = Cores(1, clock)
    call = Holder("call", lent.call(1), order)
    wait_until(lambda: order == ["call"], "a call that runs")
    clock.now_s += DEADLINE_S
    Holder("errand", lent.errand(), order).end()
    assert order == ["call", "errand"]
    call.end()
    Holder("another call", lent.call(1), order).end()
    assert order[-1] == "another call"
