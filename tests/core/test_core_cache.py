"""The cache of derived models: one derivation each, bounded bytes, nothing pulled from under a request."""

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from bitgear.bits import LayerBits, Plan, Precision, as_plan
from bitgear.checkpoint import Master
from bitgear.engines import CacheStats, ModelCache, create_engine
from tests.masters import random_codes, tiny_master


@dataclass(frozen=True, eq=False)
class FakeModel:
    master: Any
    plan: Plan
    nbytes: int = 10

    def run(self, q_image: np.ndarray) -> np.ndarray:
        return np.zeros((len(q_image), 1), np.float32)


class FakeEngine:
    """Counts derivations; ``hook`` runs inside each, with the plan's name."""

    name = "fake"

    def __init__(self, hook: Callable[[str], None] = lambda _: None, nbytes: int = 10) -> None:
        self.derived: list[str] = []
        self.hook = hook
        self.nbytes = nbytes

    def derive(self, master: Master, precision: Precision) -> FakeModel:
        plan = as_plan(precision)
        self.derived.append(str(plan))
        self.hook(str(plan))
        return FakeModel(master, plan, self.nbytes)


def resident(cache: ModelCache, master: Master) -> dict[str, int]:
    """Resident bytes by the plan's name."""
    return {str(plan): nbytes for plan, nbytes in cache.resident(master).items()}


MASTER, OTHER = tiny_master(0), tiny_master(1)


def start(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_width_is_derived_once_and_then_found() -> None:
    engine = FakeEngine()
    cache = ModelCache(engine, 100)
    first = cache.get(MASTER, 4)
    assert cache.get(MASTER, 4) is first
    assert cache.get(MASTER, 2) is not first
    assert cache.get(OTHER, 4) is not first
    assert engine.derived == ["4", "2", "4"]
    assert cache.stats() == CacheStats(hits=1, derivations=3, evictions=0, resident_bytes=30)


def test_plans_are_kept_beside_widths() -> None:
    engine = FakeEngine()
    cache = ModelCache(engine, 100)
    mixed = Plan(LayerBits(4, 4), (("a.conv1", LayerBits(8, 4)),))
    first = cache.get(MASTER, 4)
    assert cache.get(MASTER, Plan.parse("w4a4")) is first
    assert cache.get(MASTER, mixed) is cache.get(MASTER, Plan(mixed.default, mixed.layers)) is not first
    cache.get(MASTER, Plan.parse("w8a7"))
    assert engine.derived == ["4", "w4a4+1", "w8a7"]
    assert cache.resident(MASTER) == {Plan.uniform(4): 10, mixed: 10, Plan.parse("w8a7"): 10}


def test_many_threads_asking_at_once_share_one_derivation() -> None:
    count = 16
    asked = threading.Barrier(count + 1)
    proceed = threading.Event()
    engine = FakeEngine(hook=lambda _: proceed.wait(10) or None)
    cache = ModelCache(engine, 100)
    models: list[Any] = []

    def work() -> None:
        asked.wait(10)
        models.append(cache.get(MASTER, 4))

    threads = [start(work) for _ in range(count)]
    asked.wait(10)
    proceed.set()
    for thread in threads:
        thread.join(10)
    assert engine.derived == ["4"]
    assert len(models) == count
    assert len({id(model) for model in models}) == 1


def test_different_widths_derive_at_the_same_time() -> None:
    both = threading.Barrier(2)
    cache = ModelCache(FakeEngine(hook=lambda _: both.wait(10) and None), 100)  # one alone would wait for ever
    threads = [start(lambda bits=bits: cache.get(MASTER, bits)) for bits in (8, 2)]  # type: ignore[misc]
    for thread in threads:
        thread.join(10)
    assert cache.stats().derivations == 2


def test_a_derivation_does_not_hold_up_models_that_are_there() -> None:
    cache = ModelCache(FakeEngine(), 100)
    ready = cache.get(MASTER, 8)
    inside, proceed = threading.Event(), threading.Event()

    def hook(_: str) -> None:
        inside.set()
        proceed.wait(10)

    cache.engine.hook = hook  # type: ignore[attr-defined]
    thread = start(lambda: cache.get(MASTER, 2) and None)
    assert inside.wait(10)
    assert cache.get(MASTER, 8) is ready
    assert resident(cache, MASTER) == {"8": 10}
    proceed.set()
    thread.join(10)
    assert resident(cache, MASTER) == {"8": 10, "2": 10}


def test_the_least_recently_used_goes_first() -> None:
    cache = ModelCache(FakeEngine(), 30)
    for bits in (8, 6, 4):
        cache.get(MASTER, bits)
    cache.get(MASTER, 8)  # now 6 is the oldest
    cache.get(MASTER, 2)
    assert set(resident(cache, MASTER)) == {"8", "4", "2"}
    cache.get(MASTER, 6)
    assert set(resident(cache, MASTER)) == {"8", "2", "6"}
    assert cache.stats() == CacheStats(hits=1, derivations=5, evictions=2, resident_bytes=30)


@pytest.mark.parametrize(("limit_bytes", "kept"), [(0, 1), (9, 1), (10, 1), (19, 1), (20, 2), (29, 2), (10**9, 7)])
def test_bytes_are_bounded_but_the_newest_always_stays(limit_bytes: int, kept: int) -> None:
    cache = ModelCache(FakeEngine(), limit_bytes)
    for bits in (8, 7, 6, 5, 4, 3, 2):
        model = cache.get(MASTER, bits)
        assert cache.get(MASTER, bits) is model
    assert len(resident(cache, MASTER)) == kept
    assert "2" in resident(cache, MASTER)
    assert cache.stats().evictions == 7 - kept


def test_a_smaller_limit_counts_at_once() -> None:
    cache = ModelCache(FakeEngine(), 30)
    for bits in (8, 4, 2):
        cache.get(MASTER, bits)
    cache.resize(20)
    assert list(resident(cache, MASTER)) == ["4", "2"]


def test_one_large_model_pushes_several_small_ones_out() -> None:
    engine = FakeEngine()
    cache = ModelCache(engine, 30)
    for bits in (8, 6, 4):
        cache.get(MASTER, bits)
    engine.nbytes = 25
    cache.get(MASTER, 2)
    assert resident(cache, MASTER) == {"2": 25}


@pytest.mark.parametrize("name", ["auto", "onnxruntime", "reference"])
def test_an_evicted_model_runs_to_the_end(name: str) -> None:
    cache = ModelCache(create_engine(name), 0)
    q_images = random_codes(MASTER, 2)
    held = cache.get(MASTER, 8)
    before = held.run(q_images)
    cache.get(MASTER, 2)
    cache.discard(MASTER)
    assert resident(cache, MASTER) == {}
    np.testing.assert_array_equal(held.run(q_images), before)


def test_a_failed_derivation_is_not_remembered() -> None:
    failures = [ValueError("no memory")]

    def hook(_: str) -> None:
        if failures:
            raise failures.pop()

    cache = ModelCache(FakeEngine(hook), 100)
    with pytest.raises(ValueError, match="no memory"):
        cache.get(MASTER, 4)
    assert cache.stats() == CacheStats(0, 0, 0, 0)
    assert cache.get(MASTER, 4).plan == Plan.uniform(4)


def test_a_failed_derivation_fails_all_who_wait_for_it() -> None:
    inside, proceed = threading.Event(), threading.Event()

    def hook(_: str) -> None:
        inside.set()
        proceed.wait(10)
        raise KeyError("broken")

    cache = ModelCache(FakeEngine(hook), 100)
    caught: list[BaseException] = []

    def work() -> None:
        try:
            cache.get(MASTER, 4)
        except KeyError as error:
            caught.append(error)

    first = start(work)
    assert inside.wait(10)
    others = [start(work) for _ in range(3)]
    proceed.set()
    for thread in (first, *others):
        thread.join(10)
    assert len(caught) == 4


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_what_stops_the_deriving_thread_stops_no_other(
    stop: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, proceed, waits = threading.Event(), threading.Event(), threading.Semaphore(0)
    stops = [stop()]

    class Awaited(Future[Any]):
        def result(self, timeout: float | None = None) -> Any:
            waits.release()
            return super().result(timeout)

    monkeypatch.setattr("bitgear.engines.cache.Future", Awaited)

    def hook(_: str) -> None:
        inside.set()
        proceed.wait(10)
        if stops:
            raise stops.pop()

    engine = FakeEngine(hook)
    cache = ModelCache(engine, 100)
    got: list[Any] = []

    def work() -> None:
        try:
            got.append(cache.get(MASTER, 4))
        except BaseException as error:
            got.append(error)

    first = start(work)
    assert inside.wait(10)
    others = [start(work) for _ in range(3)]
    assert all(waits.acquire(timeout=10) for _ in others)
    proceed.set()
    for thread in (first, *others):
        thread.join(10)
    assert [type(each) for each in got if isinstance(each, BaseException)] == [stop]
    models = [each for each in got if not isinstance(each, BaseException)]
    assert len(models) == 3
    assert len({id(model) for model in models}) == 1
    assert engine.derived == ["4", "4"]


def test_an_engines_own_cancellation_reaches_the_caller() -> None:
    def hook(_: str) -> None:
        raise CancelledError

    with pytest.raises(CancelledError):
        ModelCache(FakeEngine(hook), 100).get(MASTER, 4)


def test_discarding_forgets_one_master_alone() -> None:
    engine = FakeEngine()
    cache = ModelCache(engine, 100)
    old = cache.get(MASTER, 8)
    cache.get(MASTER, 2)
    other = cache.get(OTHER, 8)
    cache.discard(MASTER)
    assert resident(cache, MASTER) == {}
    assert cache.get(OTHER, 8) is other
    assert cache.get(MASTER, 8) is not old  # whoever still wants it gets it
    assert resident(cache, MASTER) == {}  # but it is gone for good
    assert cache.stats().evictions == 0
    cache.discard(tiny_master(2))  # unknown: nothing to forget


@pytest.mark.parametrize("fails", [False, True])
def test_a_master_discarded_while_it_is_derived_does_not_come_back(fails: bool) -> None:
    inside, proceed = threading.Event(), threading.Event()

    def hook(_: str) -> None:
        inside.set()
        proceed.wait(10)
        if fails:
            raise ValueError("too late")

    cache = ModelCache(FakeEngine(hook), 100)
    got: list[Any] = []

    def work() -> None:
        try:
            got.append(cache.get(MASTER, 4))
        except ValueError:
            got.append(None)

    thread = start(work)
    assert inside.wait(10)
    cache.discard(MASTER)
    proceed.set()
    thread.join(10)
    assert (got[0] is None) is fails
    assert resident(cache, MASTER) == {}


def test_many_threads_and_little_memory_stay_correct() -> None:
    engine = FakeEngine()
    cache = ModelCache(engine, 25)
    barrier = threading.Barrier(6)
    wrong: list[int] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        barrier.wait(10)
        for bits in rng.integers(2, 9, 100).tolist():
            master = MASTER if rng.random() < 0.8 else OTHER
            model = cache.get(master, bits)
            if model.plan != Plan.uniform(bits) or model.master is not master:  # type: ignore[attr-defined]
                wrong.append(bits)
            if rng.random() < 0.05:
                cache.discard(master)

    threads = [start(lambda seed=seed: work(seed)) for seed in range(6)]  # type: ignore[misc]
    for thread in threads:
        thread.join(10)
    assert not wrong
    stats = cache.stats()
    assert stats.resident_bytes <= 25
    assert stats.derivations == len(engine.derived)
