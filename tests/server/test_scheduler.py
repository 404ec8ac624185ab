"""The queue and its workers, with made-up models, engines and clocks."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bitgear.bits import Plan, as_plan
from bitgear.checkpoint import Master
from bitgear.engines import DerivedModel, ModelCache, create_engine
from server.crew import Crew
from server.errors import DeadlineExceeded, Draining
from server.ladder import Ladder, Rung
from server.measurement import assumed_ladder
from server.policies import create_policy
from server.policies.batches import LOOKED_AT
from server.policies.fixed import Fixed
from server.policy import Dispatch, Load, Policy, Waiting
from server.registry import ServedModel
from server.scheduler import ODDLY_LONG, SERVICE_WEIGHT, BatchReport, Job, Scheduler, Served
from server.turns import LATE_TURN
from tests.masters import random_codes, tiny_master
from tests.serving import DEADLINE_S, wait_until

POISON = 13


def ladder_for(master: Master) -> Ladder:
    """A millisecond for an image at 8 bits, as is assumed, but most of it fixed: as many as may be go together."""
    assumed = assumed_ladder(master, 4)
    rungs = (
        replace(rung, fixed_ms=0.8 * rung.latency_ms(1), per_image_ms=0.2 * rung.latency_ms(1))
        for rung in assumed.rungs
    )
    return Ladder.of(assumed.model, tuple(rungs), assumed.max_batch)


@dataclass
class Clock:
    """Time stands still until it is moved."""

    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class FakeModel:
    """Returns each image's first code. Waits to be let go; fails on :data:`POISON`; raises what ``error`` is."""

    plan: Plan
    engine: "FakeEngine"
    nbytes: int = 0

    def run(self, q_image: NDArray[np.int8]) -> NDArray[np.float32]:
        codes = q_image[:, 0, 0, 0].tolist()
        self.engine.calls.append((self.plan.default.weight_bits, codes))
        self.engine.begun.release()
        assert self.engine.go.wait(DEADLINE_S)
        if self.engine.error is not None:
            error, self.engine.error = self.engine.error, None
            raise error
        if POISON in codes:
            raise ValueError("poison")
        return np.asarray(codes, np.float32)[:, None]


@dataclass
class FakeEngine:
    name: str = "fake"
    calls: list[tuple[int, list[int]]] = field(default_factory=list)
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    go: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None
    underivable: Exception | None = None

    def derive(self, master: Any, precision: Any) -> DerivedModel:
        if self.underivable is not None:
            raise self.underivable
        return FakeModel(as_plan(precision), self)


class Bench:
    """A scheduler of a fake engine, with what it delivered and reported."""

    def __init__(self, policy: Policy, workers: int = 1) -> None:
        self.engine = FakeEngine()
        self.clock = Clock()
        self.reports: list[BatchReport] = []
        self.model = ServedModel(tiny_master(), ladder_for(tiny_master()))
        self.crew = Crew(workers, workers, clock=self.clock)
        cache = ModelCache(self.engine, 1 << 20)
        self.decisions: list[float] = []
        self.scheduler = Scheduler(
            cache, policy, self.crew, self.reports.append, decided=self.decisions.append, clock=self.clock
        )

    def job(self, code: int, bits: Sequence[int] = (8,), *, model: ServedModel | None = None, within_s: float = 10,
            hard: bool = False, priority: int = 0) -> tuple[Job, list[Served | Exception]]:  # fmt: skip
        delivered: list[Served | Exception] = []
        model = model or self.model
        allowed = sum(1 << model.ladder.index(str(b)) for b in bits)  # type: ignore[operator]
        deadline_s = self.clock() + within_s
        job = Job(
            model=model,
            q_image=np.full((1, 3, 2, 2), code, np.int8),
            waiting=Waiting(deadline_s, allowed, hard, priority),
            expires_s=deadline_s if hard else self.clock() + 60,
            deliver=delivered.append,
        )
        return job, delivered

    def submit(self, code: int, bits: Sequence[int] = (8,), **options: Any) -> list[Served | Exception]:
        job, delivered = self.job(code, bits, **options)
        self.scheduler.submit(job)
        return delivered

    def occupy(self) -> list[Served | Exception]:
        """Keep a worker busy until ``engine.go`` is set."""
        delivered = self.submit(0)
        assert self.engine.begun.acquire(timeout=DEADLINE_S)
        return delivered

    def let_go(self, *results: list[Served | Exception]) -> None:
        """Let the engine run, and wait for these results."""
        self.engine.go.set()
        wait_until(lambda: all(results), "all results")

    def calls(self) -> list[tuple[int, list[int]]]:
        return self.engine.calls

    def close(self) -> None:
        self.scheduler.close()
        self.crew.close(DEADLINE_S)


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(policy: Policy | None = None, workers: int = 1) -> Bench:
        made.append(Bench(policy or Fixed(), workers))
        return made[-1]

    yield make
    for each in made:
        each.engine.go.set()
        each.close()


def served(results: list[Served | Exception]) -> Served:
    (result,) = results
    assert isinstance(result, Served), result
    return result


def failed(results: list[Served | Exception]) -> Exception:
    (result,) = results
    assert isinstance(result, Exception), result
    return result


def test_what_waits_for_a_busy_worker_goes_together(bench: Callable[..., Bench]) -> None:
    b = bench()
    results = [b.occupy(), *(b.submit(code) for code in range(1, 7))]
    b.let_go(*results)
    assert b.calls() == [(8, [0]), (8, [1, 2, 3, 4]), (8, [5, 6])]
    assert [served(r).output.tolist() for r in results] == [[[float(code)]] for code in range(7)]
    assert [served(r).batch_images for r in results] == [1, 4, 4, 4, 4, 2, 2]
    assert [(r.images, r.rung.precision) for r in b.reports] == [(1, "8"), (4, "8"), (2, "8")]


def test_who_has_an_answer_finds_it_counted(bench: Callable[..., Bench]) -> None:
    b = bench()
    counted: list[int] = []
    job, _ = b.job(1)
    job.deliver = lambda outcome: counted.append(len(b.reports))
    b.scheduler.submit(job)
    b.engine.go.set()
    wait_until(lambda: counted, "an answer")
    assert counted == [1]


def test_widths_and_models_never_share_a_batch(bench: Callable[..., Bench]) -> None:
    b = bench()
    other = ServedModel(tiny_master(name="other"), ladder_for(tiny_master(name="other")))
    results = [b.occupy()]
    for code in range(1, 5):
        results += [b.submit(code, (8,)), b.submit(10 + code * 4, (4,)), b.submit(-code, (8,), model=other)]
    b.let_go(*results)
    assert sorted(b.calls()[1:]) == [(4, [14, 18, 22, 26]), (8, [-1, -2, -3, -4]), (8, [1, 2, 3, 4])]


def test_one_that_fails_does_not_fail_its_neighbours(bench: Callable[..., Bench]) -> None:
    b = bench()
    first = b.occupy()
    results = [b.submit(code) for code in (1, POISON, 2)]
    b.let_go(first, *results)
    assert b.calls()[1:] == [(8, [1, POISON, 2]), (8, [1]), (8, [POISON]), (8, [2])]
    assert len(b.decisions) == 2  # not one for each call
    assert str(failed(results[1])) == "poison"
    assert [served(results[i]).output.item() for i in (0, 2)] == [1, 2]
    b.let_go(after := b.submit(3))
    assert served(after).output.item() == 3


def test_a_derivation_that_fails_fails_those_that_wanted_it(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.engine.go.set()
    b.engine.underivable = MemoryError("no room")
    b.let_go(result := b.submit(1))
    assert isinstance(failed(result), MemoryError)
    b.engine.underivable = None
    b.let_go(result := b.submit(2))
    assert served(result).output.item() == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_dies_answers_and_goes_on(bench: Callable[..., Bench], workers: int) -> None:
    b = bench(workers=workers)
    for round_ in range(3):
        b.engine.error = SystemExit("a worker's end")
        b.let_go(result := b.submit(1))
        assert "worker died" in str(failed(result))
        b.let_go(result := b.submit(round_))
        assert served(result).output.item() == round_
    assert b.scheduler.workers == workers


def test_nothing_is_run_for_a_caller_that_has_gone(bench: Callable[..., Bench]) -> None:
    b = bench()
    first = b.occupy()
    job, delivered = b.job(1)
    b.scheduler.submit(job)
    other = b.submit(2)
    job.gone = True
    b.let_go(first, other)
    assert b.calls() == [(8, [0]), (8, [2])]
    assert delivered == []
    assert b.scheduler.depth(b.model) == 0


def test_an_expired_head_is_refused_and_the_backlog_served(bench: Callable[..., Bench]) -> None:
    b = bench()
    first = b.occupy()
    heads = [b.submit(code, hard=True, within_s=0.5) for code in (1, 2)]
    backlog = [b.submit(code) for code in range(3, 7)]
    b.clock.now_s += 1
    b.let_go(first, *heads, *backlog)
    assert b.calls() == [(8, [0]), (8, [3, 4, 5, 6])]
    for head in heads:
        error = failed(head)
        assert isinstance(error, DeadlineExceeded)
        assert error.members == {"stage": "queue"}


def test_expectations_that_refuse_everything_are_put_to_the_test_when_nothing_else_runs(
    bench: Callable[..., Bench],
) -> None:
    b = bench(create_policy("look-ahead"))
    alone_s = b.model.ladder.rungs[-1].latency_ms(1) / 1000
    hopeless = b.submit(1, (8, 2), hard=True, within_s=alone_s / 2)
    assert b.engine.begun.acquire(timeout=DEADLINE_S)
    both = [b.submit(code, (8, 2), hard=True, within_s=alone_s / 2 * code) for code in (2, 1)]
    b.let_go(hopeless, *both)
    assert b.calls() == [(2, [1]), (2, [2])]
    assert served(hopeless).reason == "slack"
    assert isinstance(failed(both[1]), DeadlineExceeded)


@pytest.mark.parametrize(("policy", "bits"), [("fixed", 8), ("fixed-4", 4)])
def test_what_is_put_to_the_test_keeps_the_policy_s_precision(
    bench: Callable[..., Bench], policy: str, bits: int
) -> None:
    b = bench(create_policy(policy))
    alone_s = b.model.ladder.rungs[-1].latency_ms(1) / 1000
    b.let_go(result := b.submit(1, (8, 4, 2), hard=True, within_s=alone_s / 2))
    assert b.calls() == [(bits, [1])]
    assert served(result).reason == "default"


def test_what_expires_while_a_width_is_derived_is_not_run(bench: Callable[..., Bench]) -> None:
    b = bench()
    derive = b.engine.derive

    def slowly(master: Any, precision: Any) -> DerivedModel:
        b.clock.now_s += 5
        return derive(master, precision)

    b.engine.derive = slowly  # type: ignore[method-assign]
    b.let_go(result := b.submit(1, hard=True, within_s=1))
    assert isinstance(failed(result), DeadlineExceeded)
    assert b.calls() == []


def test_priority_goes_first_and_starves_nobody(bench: Callable[..., Bench]) -> None:
    b = bench()
    first = b.occupy()
    low = b.submit(1, within_s=10, hard=True)
    high = [b.submit(code, within_s=10, hard=True, priority=1) for code in range(2, 6)]
    b.clock.now_s += 2  # by then the low one is ahead of all newcomers
    later = [b.submit(code, within_s=10, hard=True, priority=1) for code in range(6, 10)]
    b.let_go(first, low, *high, *later)
    assert b.calls()[1:] == [(8, [2, 3, 4, 5]), (8, [1, 6, 7, 8]), (8, [9])]


@pytest.mark.parametrize("urgent", [{"hard": True}, {"priority": 1}])
def test_what_is_late_without_a_deadline_lets_others_go_first_but_not_for_ever(
    bench: Callable[..., Bench], urgent: dict[str, Any]
) -> None:
    b = bench()
    other = ServedModel(tiny_master(), ladder_for(tiny_master()))
    first = b.occupy()
    late = [b.submit(code, within_s=1) for code in range(1, 7)]
    b.clock.now_s += 5
    count = 4 * LATE_TURN
    ahead = [b.submit(code, within_s=20, **urgent) for code in range(20, 20 + count)]
    elsewhere = b.submit(90, within_s=30, model=other, **urgent)
    b.let_go(first, *late, *ahead, elsewhere)
    batches = [codes for _, codes in b.calls()[1:]]
    turn = LATE_TURN - 1
    assert [codes[0] for codes in batches[:turn]] == [20 + 4 * each for each in range(turn)]
    assert batches[turn] == [1, 2, 3, 4]
    assert batches[turn + 1 :] == [[32, 33, 34, 35], [90], [5, 6]]


def test_priority_at_the_head_hides_nothing_that_is_late(bench: Callable[..., Bench]) -> None:
    b = bench()
    first = b.occupy()
    late = [b.submit(code, within_s=1) for code in (1, 2, 3)]
    b.clock.now_s += 1.5
    high = b.submit(10, within_s=0.4, priority=1)
    ahead = [b.submit(code, within_s=1, hard=True) for code in (20, 21, 22)]
    b.let_go(first, *late, high, *ahead)
    assert b.calls()[1:] == [(8, [10, 20, 21, 22]), (8, [1, 2, 3])]


def test_a_policy_sees_what_lets_others_go_first(bench: Callable[..., Bench]) -> None:
    seen: list[list[float]] = []

    class Watching(Fixed):
        def dispatch(self, ladder: Ladder, load: Load) -> Dispatch:
            seen.append([round(waiting.deadline_s - load.now_s) for waiting in load.queue])
            return super().dispatch(ladder, load)

    b = bench(Watching())
    first = b.occupy()
    late = [b.submit(code, within_s=1) for code in (1, 2)]
    b.clock.now_s += 5
    ahead = [b.submit(code, within_s=code, hard=True) for code in (20, 30)]
    soft = b.submit(3, within_s=7)
    b.let_go(first, *late, *ahead, soft)
    assert seen[1] == [20, 30, -4, -4, 7]
    assert b.calls()[1:] == [(8, [20, 30, 1, 2]), (8, [3])]


def test_what_is_late_without_a_deadline_goes_in_order_among_its_like(bench: Callable[..., Bench]) -> None:
    b = bench()
    first = b.occupy()
    late = [b.submit(code, within_s=1) for code in (1, 2)]
    b.clock.now_s += 5
    newcomers = [b.submit(code, within_s=1) for code in (3, 4)]
    b.let_go(first, *late, *newcomers)
    assert b.calls()[1:] == [(8, [1, 2, 3, 4])]


def test_callers_that_have_gone_leave_every_queue(bench: Callable[..., Bench]) -> None:
    b = bench()
    other = ServedModel(tiny_master(), ladder_for(tiny_master()))
    first = b.occupy()
    gone = [b.job(code, model=other, within_s=50)[0] for code in range(5)]
    for job in gone:
        b.scheduler.submit(job)
        job.gone = True
    urgent = [b.submit(code, within_s=1) for code in range(20, 24)]
    b.let_go(first, *urgent)
    assert b.scheduler.depth(other) == 0
    assert b.calls()[1:] == [(8, [20, 21, 22, 23])]


@pytest.mark.parametrize("jump_s", [-1e6, -0.5, 1e6])
def test_a_clock_that_jumps_does_no_harm(bench: Callable[..., Bench], jump_s: float) -> None:
    b = bench()
    results = [b.occupy(), *(b.submit(code) for code in range(1, 6))]
    b.clock.now_s += jump_s
    b.let_go(*results)
    jumped_past = jump_s > 60  # beyond the time that anybody waits
    assert [isinstance(r[0], DeadlineExceeded) for r in results] == [False, *[jumped_past] * 5]
    b.let_go(after := b.submit(7))
    assert served(after).output.item() == 7


@dataclass
class Broken:
    """A policy that fails, or asks for what must not be."""

    dispatches: Callable[[Ladder, Load], Dispatch]
    name: str = "broken"

    def dispatch(self, ladder: Ladder, load: Load) -> Dispatch:
        return self.dispatches(ladder, load)


def _raises(ladder: Ladder, load: Load) -> Dispatch:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    "dispatches",
    [
        _raises,
        lambda ladder, load: Dispatch(0, (), (), "slack"),
        lambda ladder, load: Dispatch(99, (0,), (), "slack"),
        lambda ladder, load: Dispatch(0, (0, 0), (), "slack"),
        lambda ladder, load: Dispatch(0, tuple(range(len(load.queue))), (0,), "slack"),
        lambda ladder, load: Dispatch(0, (len(load.queue),), (), "slack"),
        lambda ladder, load: Dispatch(4, (0,) * 5, (), "slack"),
        lambda ladder, load: Dispatch(6, (0,), (), "slack"),
        lambda ladder, load: Dispatch(0, (), tuple(range(len(load.queue))), "slack"),
    ],
    ids=[
        "raises",
        "nothing",
        "no such rung",
        "twice",
        "run and dropped",
        "out of range",
        "too many",
        "not allowed",
        "not hard",
    ],
)
def test_a_broken_policy_cannot_break_a_promise(bench: Callable[..., Bench], dispatches: Any) -> None:
    b = bench(Broken(dispatches))
    results = [b.occupy(), *(b.submit(code, (4,)) for code in (1, 2))]
    b.let_go(*results)
    assert b.calls() == [(8, [0]), (4, [1]), (4, [2])]


def test_closing_refuses_what_waits_and_finishes_what_runs(bench: Callable[..., Bench]) -> None:
    b = bench()
    running, waiting = b.occupy(), b.submit(1)
    closing = threading.Thread(target=b.close)
    closing.start()
    wait_until(lambda: bool(waiting), "the refusal")
    assert isinstance(failed(waiting), Draining)
    b.let_go(running)
    closing.join(DEADLINE_S)
    assert served(running).output.item() == 0
    assert isinstance(failed(b.submit(2)), Draining)


def test_a_policy_sees_the_load(bench: Callable[..., Bench]) -> None:
    seen: list[Load] = []

    def look(ladder: Ladder, load: Load) -> Dispatch:
        seen.append(load)
        return Fixed().dispatch(ladder, load)

    b = bench(Broken(look), workers=2)
    results = [b.occupy()]
    b.clock.now_s += 0.5
    results.append(b.occupy())
    b.let_go(*results)
    assert [len(load.queue) for load in seen] == [1, 1]
    assert [(load.workers, load.arrivals_per_s) for load in seen] == [(2, 0), (2, 2)]
    assert [load.busy_until_s for load in seen] == [(), (1000.001,)]  # when the first call ends, as its ladder says


def test_a_policy_sees_what_waits_for_other_models(bench: Callable[..., Bench]) -> None:
    seen: dict[int, Load] = {}

    def look(ladder: Ladder, load: Load) -> Dispatch:
        seen.setdefault(len(load.queue), load)
        return Fixed().dispatch(ladder, load)

    b = bench(Broken(look))
    other = ServedModel(tiny_master(name="other"), ladder_for(tiny_master(name="other")))
    results = [b.occupy()]
    results += [b.submit(1, (8, 2), within_s=1), *(b.submit(2, within_s=2) for _ in range(2))]
    results += [b.submit(3, (8, 2), model=other, within_s=within_s) for within_s in (4, 3.5)]
    gone, _ = b.job(4, model=other)
    gone.gone = True
    b.scheduler.submit(gone)
    least_s = other.ladder.image_s[-1]
    b.let_go(*results)
    assert not seen[1].elsewhere  # nothing else waited
    assert list(seen[3].elsewhere) == [(1003.5, least_s), (1004.0, 2 * least_s)]


def test_of_many_that_wait_for_another_model_some_stand_for_the_rest(bench: Callable[..., Bench]) -> None:
    seen: list[Load] = []

    def look(ladder: Ladder, load: Load) -> Dispatch:
        seen.append(load)
        return Fixed().dispatch(ladder, load)

    b = bench(Broken(look))
    other = ServedModel(tiny_master(name="other"), ladder_for(tiny_master(name="other")))
    results = [b.occupy(), b.submit(1, within_s=1), *(b.submit(2, within_s=2, model=other) for _ in range(300))]
    b.let_go(*results)
    assert len(seen[1].elsewhere) == LOOKED_AT
    assert seen[1].elsewhere[-1] == (1002.0, pytest.approx(300 * other.ladder.image_s[0]))


def test_the_drain_rate_is_measured(bench: Callable[..., Bench]) -> None:
    b = bench()
    assert b.scheduler.drain_per_s == 0
    result = b.occupy()
    b.clock.now_s += 0.5
    b.let_go(result)
    wait_until(lambda: b.scheduler.drain_per_s == 2, "half a second for a request")


def test_the_drain_rate_counts_requests_and_not_their_images(bench: Callable[..., Bench]) -> None:
    b = bench()
    job, result = b.job(1)
    job.q_image, job.waiting = np.repeat(job.q_image, 4, axis=0), job.waiting._replace(images=4)
    b.scheduler.submit(job)
    assert b.engine.begun.acquire(timeout=DEADLINE_S)
    b.clock.now_s += 0.5
    b.let_go(result)
    wait_until(lambda: b.scheduler.drain_per_s == 2, "half a second for a request")


@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_batched_answers_are_those_of_single_images(engine: str) -> None:
    """At every width and batch, to the bit, with a real engine."""
    master = tiny_master(seed=3)
    model = ServedModel(master, assumed_ladder(master, 8))
    codes = random_codes(master, 24)
    real = create_engine(engine)
    crew = Crew(2, 2)
    scheduler = Scheduler(ModelCache(real, 1 << 24), Fixed(), crew)
    results: dict[tuple[int, int], list[Served | Exception]] = {}
    try:
        for i in range(len(codes)):
            for position, rung in enumerate(model.ladder.rungs):
                delivered = results[i, int(rung.precision)] = []
                waiting = Waiting(0.0, 1 << position)
                scheduler.submit(Job(model, codes[i : i + 1], waiting, float("inf"), delivered.append))
        wait_until(lambda: all(results.values()), "all results")
    finally:
        scheduler.close()
        crew.close(DEADLINE_S)
    for bits in master.widths:
        derived = real.derive(master, bits)
        for i in range(len(codes)):
            assert np.array_equal(served(results[i, bits]).output, derived.run(codes[i : i + 1]))
    assert max(served(r).batch_images for r in results.values()) > 1


def test_a_job_of_several_images_fills_a_batch(bench: Callable[..., Bench]) -> None:
    b = bench()
    results = [b.occupy()]
    for first in (1, 4, 7):
        job, delivered = b.job(first)
        job.waiting = job.waiting._replace(images=3)
        job.q_image = np.arange(first, first + 3, dtype=np.int8)[:, None, None, None] * np.ones((1, 3, 2, 2), np.int8)
        b.scheduler.submit(job)
        results.append(delivered)
    b.let_go(*results)
    assert b.calls() == [(8, [0]), (8, [1, 2, 3]), (8, [4, 5, 6]), (8, [7, 8, 9])]
    assert served(results[2]).output.tolist() == [[4], [5], [6]]


def test_rungs_are_passed_on_whole(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.let_go(result := b.submit(1, (3,)))
    rung = served(result).rung
    assert isinstance(rung, Rung)
    assert b.model.ladder.rungs[served(result).position] is rung


@pytest.mark.parametrize("policy", ["look-ahead", "slackfit", "fixed-2"])
def test_pinned_requests_do_not_starve_among_those_that_give_way(bench: Callable[..., Bench], policy: str) -> None:
    """A flood that may be served at 2 bits never ends; what insists on 8 bits is served all the same."""
    b = bench(create_policy(policy))
    flood = [b.occupy(), *(b.submit(1, (8, 4, 2), within_s=0.01) for _ in range(20))]
    pinned = b.submit(2, (8,), within_s=0.01)
    b.engine.go.set()
    for _ in range(2000):
        if pinned:
            break
        b.clock.now_s += 0.001
        flood.append(b.submit(1, (8, 4, 2), within_s=0.01))
        wait_until(lambda: b.scheduler.depth(b.model) < 20, "the flood ebbs")
    assert served(pinned).rung.precision == "8"


def submit_ready_after(b: Bench, ready_s: float, model: ServedModel | None = None) -> None:
    """Submit a job that took so long to be made ready."""
    job, _ = b.job(1, model=model)
    job.ready_s = ready_s
    b.scheduler.submit(job)


def late(b: Bench, within_s: float, margin: float = 0.0, hard: bool = True) -> bool:
    """Whether a request that should be answered within this time is crowded out by those before it."""
    return b.scheduler.crowded_out(b.model, Waiting(b.clock() + within_s, 1, hard), margin)


def needed_s(b: Bench, ready_s: float) -> float:
    """What three errands that take so long each, and then the engine, need on one core."""
    ladder = b.model.ladder
    return 3 * (ready_s + min(ladder.image_s) / ladder.noise) + min(ladder.alone_s)


def three_ahead(b: Bench, model: ServedModel | None = None) -> None:
    for _ in range(3):
        b.crew.errand(lambda: None, Waiting(b.clock(), 1, hard=True), model or b.model)


def test_who_is_late_for_what_is_not_ready_yet(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.occupy()
    submit_ready_after(b, 0.02)
    needed = needed_s(b, 0.02)
    assert not late(b, 1e-6)  # nobody is before it: that is found out by trying
    three_ahead(b)
    assert late(b, 0.99 * needed)
    assert not late(b, 1.01 * needed)
    assert late(b, 1.01 * needed, margin=0.1)
    assert not late(b, 0.99 * needed, hard=False)
    assert not late(b, -1.0)  # it goes before them


@pytest.mark.parametrize(("own_s", "other_s"), [(0.5, 0.02), (0.02, 0.5)])
def test_what_is_not_ready_yet_takes_what_its_own_model_does(
    bench: Callable[..., Bench], own_s: float, other_s: float
) -> None:
    b, other = bench(), ServedModel(tiny_master(name="other"), ladder_for(tiny_master(name="other")))
    b.occupy()
    submit_ready_after(b, own_s)
    submit_ready_after(b, other_s, other)
    three_ahead(b, other)
    needed = needed_s(b, other_s)
    assert late(b, 0.99 * needed)
    assert not late(b, 1.01 * needed)


def test_a_policy_sees_what_is_still_to_be_made_ready(bench: Callable[..., Bench]) -> None:
    seen: list[Load] = []

    def look(ladder: Ladder, load: Load) -> Dispatch:
        seen.append(load)
        return Fixed().dispatch(ladder, load)

    b, done = bench(Broken(look), workers=2), threading.Event()
    request = Waiting(b.clock() + 1, 1, hard=True)
    b.crew.errand(lambda: wait_until(done.is_set, "the end of the errand"), request, b.model)
    submit_ready_after(b, 0.02)
    assert b.engine.begun.acquire(timeout=DEADLINE_S)
    assert seen[0].coming == [request]
    assert seen[0].ready_s == pytest.approx(0.02)
    assert seen[0].arrivals_per_s == 0  # both came at the same time
    done.set()
    wait_until(lambda: not b.crew.coming(b.model), "the end of the errand")


def test_one_that_was_long_in_the_making_does_not_count_for_all(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.occupy()
    submit_ready_after(b, 0.01)
    submit_ready_after(b, 100.0)
    three_ahead(b)
    needed = needed_s(b, 0.01 + SERVICE_WEIGHT * (ODDLY_LONG - 1) * 0.01)
    assert late(b, 0.99 * needed)
    assert not late(b, 1.01 * needed)


def test_who_cannot_be_in_time_alone_is_known_while_others_wait(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.occupy()  # it runs, and nothing waits
    alone_s = min(b.model.ladder.alone_s)
    newcomer = Waiting(b.clock() + 0.5 * alone_s, 1, hard=True)
    assert not b.scheduler.hopeless(b.model, newcomer, 0.0)
    b.crew.errand(lambda: None, Waiting(0.0, 1))
    assert b.scheduler.hopeless(b.model, newcomer, 0.0)
    assert not b.scheduler.hopeless(b.model, newcomer._replace(deadline_s=b.clock() + 10), 0.0)


@pytest.mark.parametrize("ready_s", [0.0, 60.0])
def test_calls_are_due_once_there_is_an_efficient_batch_or_they_are_short(
    bench: Callable[..., Bench], ready_s: float
) -> None:
    b = bench()
    model = b.model
    ladder = model.ladder
    model.start = Ladder.of(model.name, tuple(replace(r, fixed_ms=9.0, per_image_ms=1.0) for r in ladder.rungs), 4)
    assert max(model.ladder.efficient_batches) == 4
    due: list[bool] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(b.crew, "want", lambda due_=False: due.append(due_))
        for _ in range(5):
            submit_ready_after(b, ready_s)
    assert due == ([False] * 3 + [True] * 2 if ready_s == 0 else [True] * 5)


@pytest.mark.parametrize("hard", [False, True])
def test_calls_are_due_sooner_where_a_deadline_is_set(bench: Callable[..., Bench], hard: bool) -> None:
    b = bench()
    model = b.model
    rungs = tuple(replace(rung, fixed_ms=0.15, per_image_ms=0.85) for rung in model.ladder.rungs)
    model.start = Ladder.of(model.name, rungs, 4)
    due: list[bool] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(b.crew, "want", lambda due_=False: due.append(due_))
        for code in range(2):
            b.submit(code, hard=hard)
    assert due == [hard, True]
