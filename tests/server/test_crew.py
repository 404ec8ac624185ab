"""A crew: how many of its threads compute at a time, what goes first, and who does it."""

import threading
from collections.abc import Callable, Iterator

import pytest

from server import crew as module
from server.crew import GIVES_WAY, Crew
from server.errors import Draining
from server.policy import Waiting
from server.settings import SettingsError
from tests.server.test_scheduler import Clock
from tests.serving import DEADLINE_S, limit_threads, wait_until

ANY = Waiting(0.0, 1)


class Work:
    """Something that notes its name when it is begun, and by which thread, and takes until it is let go."""

    def __init__(self, name: str, begun: list[str], ended: Callable[[], None] = lambda: None) -> None:
        self.name = name
        self.let_go = threading.Event()
        self.thread = 0
        self._begun = begun
        self._ended = ended

    def __call__(self) -> None:
        self.thread = threading.get_ident()
        self._begun.append(self.name)
        assert self.let_go.wait(DEADLINE_S)
        self._ended()


class Bench:
    """A crew of which every call takes the next of ``waiting``, and wants another while there are more."""

    def __init__(self, cores: int, workers: int = 1, threads: int = 1, spare: int = 4) -> None:
        self.clock = Clock()
        self.crew = Crew(cores, workers, threads, spare, self.clock)
        self.crew.calls(self._call)
        self.begun: list[str] = []
        self.all: list[Work] = []
        self._waiting: list[Work] = []
        self._lock = threading.Lock()

    def _call(self, worker: int) -> None:
        with self._lock:
            work = self._waiting.pop(0) if self._waiting else None
            if self._waiting:
                self.crew.want()
        if work is not None:
            work()

    def call(self, name: str = "call", due: bool = False) -> Work:
        work = self._work(name)
        with self._lock:
            self._waiting.append(work)
        self.crew.want(due)
        return work

    def errand(self, name: str = "errand", ended: Callable[[], None] = lambda: None, request: Waiting = ANY) -> Work:
        work = self._work(name, ended)
        self.crew.errand(work, request)
        return work

    def _work(self, name: str, ended: Callable[[], None] = lambda: None) -> Work:
        self.all.append(Work(name, self.begun, ended))
        return self.all[-1]

    def awaits(self, *begun: str) -> None:
        wait_until(lambda: self.begun == list(begun), f"{begun} begun, not {self.begun}")

    def close(self) -> None:
        for work in self.all:
            work.let_go.set()
        self.crew.close(DEADLINE_S)


class Holder(threading.Thread):
    """Somebody who waits for cores of a crew, and keeps them until let go."""

    def __init__(self, crew: Crew, cores: int) -> None:
        super().__init__()
        self.held, self.let_go = threading.Event(), threading.Event()
        self._crew, self._cores = crew, cores
        self.start()
        wait_until(lambda: crew._holds_waiting == 1, "one who waits")

    def run(self) -> None:
        with self._crew.hold(self._cores):
            self.held.set()
            assert self.let_go.wait(DEADLINE_S)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Bench]]:
    monkeypatch.setattr(module, "PATIENCE_S", DEADLINE_S)
    made: list[Bench] = []

    def make(*args: int, **options: int) -> Bench:
        made.append(Bench(*args, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_no_more_compute_than_there_are_cores_and_errands_go_first(bench: Callable[..., Bench]) -> None:
    b = bench(1)
    first = b.call("first")
    b.awaits("first")
    call = b.call("call")
    errand = b.errand()
    first.let_go.set()
    b.awaits("first", "errand")
    errand.let_go.set()
    b.awaits("first", "errand", "call")
    assert first.thread == errand.thread == call.thread  # nobody was woken for it


def test_the_thread_that_was_on_an_errand_makes_the_call_it_leads_to(bench: Callable[..., Bench]) -> None:
    b = bench(2, workers=2)
    calls: list[Work] = []
    errand = b.errand(ended=lambda: calls.append(b.call()))
    b.awaits("errand")
    errand.let_go.set()
    b.awaits("errand", "call")
    assert calls[0].thread == errand.thread


def test_all_cores_are_used(bench: Callable[..., Bench]) -> None:
    b = bench(3, workers=2)
    both = b.call("1"), b.call("2")
    wait_until(lambda: sorted(b.begun) == ["1", "2"], "both workers")
    b.call("3")  # there is a core, but no worker
    b.errand("4")
    b.awaits(*b.begun[:2], "4")
    both[0].let_go.set()
    b.awaits(*b.begun[:3], "3")


def test_a_call_takes_a_core_for_each_of_its_threads(bench: Callable[..., Bench]) -> None:
    b = bench(2, threads=2)
    errand = b.errand()
    b.awaits("errand")
    call = b.call()
    errand.let_go.set()
    b.awaits("errand", "call")
    b.errand("later")
    call.let_go.set()
    b.awaits("errand", "call", "later")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_flood_of_errands_lets_calls_through(bench: Callable[..., Bench], workers: int) -> None:
    b = bench(1, workers=workers)
    first = b.errand()
    b.awaits("errand")
    for _ in range(2):
        b.call()
    for _ in range(2 * GIVES_WAY):
        b.errand()
    for each in b.all[1:]:
        each.let_go.set()
    first.let_go.set()
    wait_until(lambda: len(b.begun) == 2 * GIVES_WAY + 3, "all")
    every = GIVES_WAY // workers
    assert [place for place, name in enumerate(b.begun) if name == "call"] == [every, 2 * every + 1]


def test_a_call_that_is_due_goes_before_errands(bench: Callable[..., Bench]) -> None:
    b = bench(1)
    first = b.errand("first")
    b.awaits("first")
    b.errand("second").let_go.set()
    b.call("1", due=True).let_go.set()
    b.call("2").let_go.set()  # due no more, once a call was made
    first.let_go.set()
    b.awaits("first", "1", "second", "2")


def test_who_holds_cores_goes_before_a_call_that_is_due_and_so_before_errands(bench: Callable[..., Bench]) -> None:
    b = bench(1)
    first = b.errand("first")
    b.awaits("first")
    holder = Holder(b.crew, 1)
    b.call(due=True).let_go.set()
    b.errand("second").let_go.set()
    first.let_go.set()
    assert holder.held.wait(DEADLINE_S)
    assert b.begun == ["first"]
    holder.let_go.set()
    holder.join(DEADLINE_S)
    b.awaits("first", "call", "second")


def test_whose_errands_are_not_done_yet(bench: Callable[..., Bench]) -> None:
    b, one, other = bench(1), object(), object()
    works = [Work(name, b.begun, lambda: None) for name in ("a", "b", "c")]
    requests = [Waiting(due_s, 1, hard) for due_s, hard in ((1.0, True), (2.0, False), (3.0, True))]
    for work, request, whose in zip(works, requests, (one, other, one), strict=True):
        b.crew.errand(work, request, whose)
    b.awaits("a")
    assert b.crew.coming(one) == [requests[0], requests[2]]  # the first is being done
    assert b.crew.coming(other) == [requests[1]]
    assert b.crew.coming(object()) == []
    for work in works:
        work.let_go.set()
    wait_until(lambda: not b.crew.coming(one) and not b.crew.coming(other), "nothing to come")


def test_errands_go_in_their_order(bench: Callable[..., Bench]) -> None:
    b = bench(1)
    first = b.errand("first")
    b.awaits("first")
    for name, due_s, hard in (("late", 2.0, False), ("soon", 1.0, False), ("hard", 3.0, True)):
        b.errand(name, request=Waiting(due_s, 1, hard)).let_go.set()
    assert b.crew.errands == 3
    assert not b.crew.errands_before(2.5)  # those without a deadline are late
    b.clock.now_s = 1.5
    assert b.crew.errands_before(2.5).total() == 1
    b.clock.now_s = 0.0
    assert [b.crew.errands_before(order_s).total() for order_s in (0.5, 1.5, 2.5, 3.5)] == [0, 1, 2, 3]
    first.let_go.set()
    b.awaits("first", "soon", "late", "hard")


def test_errands_that_take_long_leave_the_cores_to_calls_that_are_due(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    b = bench(1)
    first = b.errand("first")
    b.awaits("first")
    monkeypatch.setattr(module, "PATIENCE_S", 0.01)
    b.clock.now_s += 1
    b.call(due=True).let_go.set()
    second = b.errand("second")
    assert b.crew._next() is None  # no more are begun than there are cores
    first.let_go.set()
    b.awaits("first", "call", "second")
    b.clock.now_s += 1
    b.errand("third")
    assert b.crew._next() is None  # it is errands that take long, and not calls
    second.let_go.set()


def test_errands_do_not_wait_for_calls_that_take_long(bench: Callable[..., Bench]) -> None:
    b = bench(1)
    call = b.call()
    b.awaits("call")
    b.clock.now_s += DEADLINE_S
    errand = b.errand()
    b.awaits("call", "errand")
    for each in (call, errand):
        each.let_go.set()
    b.call("another")
    b.awaits("call", "errand", "another")


def test_somebody_sees_to_it_that_errands_do_not_wait_for_long(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    b = bench(1)
    b.call()
    b.awaits("call")
    monkeypatch.setattr(module, "PATIENCE_S", 0.05)
    b.errand("1").let_go.set()
    b.errand("2").let_go.set()
    threading.Timer(0.1, lambda: setattr(b.clock, "now_s", b.clock.now_s + 1)).start()
    wait_until(lambda: sorted(b.begun) == ["1", "2", "call"], "errands")


def test_errands_are_seen_to_when_who_did_so_makes_a_call(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    b = bench(1)
    first = b.errand("first")
    b.awaits("first")
    b.call()
    for _ in range(2 * GIVES_WAY):
        b.errand().let_go.set()
    first.let_go.set()
    wait_until(lambda: "call" in b.begun, "a call that was due")
    monkeypatch.setattr(module, "PATIENCE_S", 0.05)
    b.clock.now_s += 1
    b.errand().let_go.set()
    wait_until(lambda: len(b.begun) == 2 * GIVES_WAY + 3, "errands beside a call that takes long")


def test_cores_that_are_held_are_not_computed_on(bench: Callable[..., Bench]) -> None:
    b = bench(2, workers=2)
    one = b.call("1")
    b.awaits("1")
    holder = Holder(b.crew, 2)
    b.call("2")  # goes after who waits for all cores, or that would never come about
    one.let_go.set()
    assert holder.held.wait(DEADLINE_S)
    b.errand("3")
    assert b.begun == ["1"]
    holder.let_go.set()
    holder.join(DEADLINE_S)
    wait_until(lambda: sorted(b.begun) == ["1", "2", "3"], "what has waited")


def test_too_many_threads_are_a_named_error(monkeypatch: pytest.MonkeyPatch) -> None:
    started = limit_threads(monkeypatch, 3)
    with pytest.raises(SettingsError, match="only 3 of 6 threads can be started; lower engine_workers or workers"):
        Crew(2, 2, spare=4)
    assert not any(thread.is_alive() for thread in started)


def test_what_fails_ends_no_thread(bench: Callable[..., Bench]) -> None:
    b = bench(1, spare=0)

    def fail() -> None:
        raise SystemExit

    for _ in range(3):
        b.crew.errand(fail, ANY)
    b.call()
    b.awaits("call")


def test_a_crew_that_is_closed_finishes_and_takes_no_more(bench: Callable[..., Bench]) -> None:
    b = bench(1)
    running = b.errand("running")
    b.awaits("running")
    b.errand("forgotten")
    closing = threading.Thread(target=b.close)
    closing.start()
    closing.join(DEADLINE_S)
    assert not closing.is_alive()
    assert running.thread
    assert b.begun[:1] == ["running"]
    with pytest.raises(Draining):
        b.errand()
    with pytest.raises(Draining), b.crew.hold(1):
        pass
