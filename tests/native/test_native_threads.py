"""Calls at the same time, threads inside a call, memory kept between calls, the interpreter's lock, and fork."""

import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from bitgear import reference
from bitgear.bits import WIDTHS
from bitgear.checkpoint import Master
from bitgear.engines import ModelCache, create_engine
from bitgear.graph import IMAGE, Conv, Graph, Linear, Pool
from tests.masters import random_codes, random_master, tiny_master
from tests.native.paths import OFFERED, NativeModel, _native, derived, measured
from tests.native.steps import add_buffer, add_maximum, add_sum

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def master() -> Master:
    return tiny_master(1)


def expect_no_difference(*workers: threading.Thread, wrong: list[str]) -> None:
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.parametrize("instruction_set", OFFERED)
def test_many_threads_call_several_models_at_once(instruction_set: str, master: Master) -> None:
    q_images = random_codes(master, 20)
    expected = {bits: reference.run(master, q_images, bits) for bits in (8, 4, 2)}
    models = {bits: derived(master, bits, instruction_set) for bits in expected}
    wrong: list[str] = []
    barrier = threading.Barrier(9)

    def call(seed: int) -> None:
        rng = np.random.default_rng(seed)
        barrier.wait()
        for _ in range(25):
            bits, first, threads = rng.choice(list(expected)), rng.integers(0, 19), int(rng.integers(1, 5))
            count = int(rng.integers(1, 20 - first + 1))
            logits = models[bits].run(q_images[first : first + count], threads=threads)
            if not np.array_equal(logits, expected[bits][first : first + count]):
                wrong.append(f"{bits} bits, {threads} threads, {count} images")

    expect_no_difference(*(threading.Thread(target=call, args=(seed,)) for seed in range(9)), wrong=wrong)


def test_models_are_derived_evicted_and_run_at_the_same_time(master: Master) -> None:
    """A cache too small for two: whoever holds an evicted model runs it to the end."""
    q_images = random_codes(master, 3)
    expected = {bits: reference.run(master, q_images, bits) for bits in WIDTHS}
    cache = ModelCache(create_engine("native", threads=2), 1)
    wrong: list[str] = []

    def call(seed: int) -> None:
        for bits in np.random.default_rng(seed).permutation(WIDTHS).tolist() * 5:
            model = cache.get(master, bits)
            if not all(np.array_equal(model.run(q_images), expected[bits]) for _ in range(3)):
                wrong.append(f"{bits} bits")

    expect_no_difference(*(threading.Thread(target=call, args=(seed,)) for seed in range(6)), wrong=wrong)
    assert cache.stats().evictions > 0
    assert len(cache.resident(master)) == 1


def test_threads_of_a_call_override_those_of_the_engine(master: Master) -> None:
    q_images = random_codes(master, 5)
    model = create_engine("native", threads=3).derive(master, 4)
    assert isinstance(model, NativeModel)
    assert model.threads == 3
    expected = reference.run(master, q_images, 4)
    for threads in (None, 1, 2, 3, 64, 100_000):
        np.testing.assert_array_equal(model.run(q_images, threads=threads), expected)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no processors to choose")
def test_helpers_that_move_aside_stay_free_to_move(master: Master) -> None:
    q_images = random_codes(master, 4)
    model = create_engine("native", threads=2).derive(master, 4)
    expected = reference.run(master, q_images, 4)
    everywhere = os.sched_getaffinity(0)

    def helpers() -> list[int]:
        return [
            int(task.name) for task in Path("/proc/self/task").iterdir() if int(task.name) != threading.get_native_id()
        ]

    model.run(q_images)
    try:
        os.sched_setaffinity(0, {min(everywhere)})
        for held in ({min(everywhere)}, everywhere):  # nowhere to go, then anywhere
            for task in helpers():
                os.sched_setaffinity(task, held)
            for _ in range(10):
                time.sleep(0.002)  # they sleep, and are woken
                np.testing.assert_array_equal(model.run(q_images), expected)
                assert all(os.sched_getaffinity(task) == held for task in helpers())
    finally:
        for task in (0, *helpers()):
            os.sched_setaffinity(task, everywhere)


# -- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("instruction_set", OFFERED)
def test_a_call_allocates_nothing_that_an_earlier_one_left(instruction_set: str, master: Master) -> None:
    for bits in (8, 2):
        model = derived(master, bits, instruction_set)
        assert model.core.allocations == 0
        model.run(random_codes(master, 5), threads=1)
        first = model.core.allocations
        assert first >= 1
        for batch in (5, 1, 3, 64, 2):  # a thread has memory for one image at a time
            model.run(random_codes(master, batch), threads=1)
        assert model.core.allocations == first
        model.run(random_codes(master, 2), threads=2)
        largest = model.core.allocations
        assert largest > first or len(os.sched_getaffinity(0)) == 1
        for batch in (5, 1, 17, 2):
            for threads in (1, 2):
                model.run(random_codes(master, batch), threads=threads)
        assert model.core.allocations == largest


def test_calls_at_the_same_time_have_memory_of_their_own_and_leave_it_to_later_ones(master: Master) -> None:
    model = derived(master, 8, next(iter(OFFERED)))
    q_images = random_codes(master, 4)
    expected = reference.run(master, q_images, 8)
    wrong: list[str] = []
    callers = 6

    def call(rounds: int) -> None:
        wrong.extend("differs" for _ in range(rounds) if not np.array_equal(model.run(q_images), expected))

    for _ in range(4):
        expect_no_difference(*(threading.Thread(target=call, args=(30,)) for _ in range(callers)), wrong=wrong)
    assert 1 <= model.core.allocations <= callers


# -- the interpreter's lock -------------------------------------------------------------------------------------------


def others_go_on_during(calls: Iterable[Callable[[], None]]) -> bool:
    """Return whether other Python threads go on while one of some calls runs.

    With this switch interval a thread keeps the lock until it gives it up by itself. The caller gives it up nowhere
    between its two looks at the counter but, if at all, inside the call.
    """
    counter, done = [0], threading.Event()
    advanced = False

    def work() -> None:
        nonlocal advanced
        for call in calls:
            before = counter[0]
            call()
            if counter[0] > before:
                advanced = True
                break
        done.set()

    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    caller = threading.Thread(target=work)
    try:
        caller.start()
        while not done.is_set():
            time.sleep(0.0005)  # gives up the lock
            counter[0] += 1
        caller.join()
    finally:
        sys.setswitchinterval(interval_s)
    return advanced


def test_the_lock_is_released_for_the_whole_pass() -> None:
    graph = Graph((Conv("a", IMAGE, 64, 3, padding=1), Conv("b", "a", 64, 3, padding=1), Pool("p", "b")))
    master = random_master(Graph((*graph.nodes, Linear("z", "p", 3))), 32, 1)
    model = derived(master, 8, "portable")
    q_images = np.ascontiguousarray(random_codes(master, 2))
    result = np.empty((2, 3), np.float32)
    for _ in range(3):
        assert others_go_on_during(partial(model.core.run, q_images, result, 1) for _ in range(300))
    np.testing.assert_array_equal(result, reference.run(master, q_images, 8))


def test_the_lock_is_released_while_buffers_get_their_places() -> None:
    """Of many buffers that takes long."""

    def finishes() -> Iterator[Callable[[], None]]:
        for _ in range(30):
            core = _native.Model("portable", measured("portable"))
            buffers = [add_buffer(core, 1, 1, 3) for _ in range(3000)]
            core.add_image(buffers[0])
            for before, after in itertools.pairwise(buffers):
                add_maximum(core, input=before, output=after, kernel=1)
            add_sum(core, input=buffers[-1])
            yield core.finish

    assert others_go_on_during(finishes())


# -- fork -------------------------------------------------------------------------------------------------------------

FORK = """
import os, signal, sys, threading
import numpy as np
from bitgear import reference
from bitgear.engines import create_engine
from tests.masters import random_codes, tiny_master

master = tiny_master(2)
q_images = random_codes(master, 4)
expected = {bits: reference.run(master, q_images, bits) for bits in (8, 2)}
models = {bits: create_engine("native", threads=2).derive(master, bits) for bits in expected}
assert all(np.array_equal(models[bits].run(q_images), expected[bits]) for bits in models)  # its helpers are running
stop = threading.Event()

def work():
    while not stop.is_set():
        models[2].run(q_images)

busy = threading.Thread(target=work)
busy.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        derived = create_engine("native", threads=2).derive(master, 2)
        for _ in range(10):
            same = np.array_equal(models[8].run(q_images), expected[8])
            same = same and np.array_equal(derived.run(q_images, threads=3), expected[2])
            if not same:
                os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0, status
    assert np.array_equal(models[8].run(q_images), expected[8])
stop.set()
busy.join()
print("done")
"""


CALLS_AND_FORKS = """
import os, signal, threading
from bitgear.engines import create_engine
from bitgear.graph import IMAGE, Conv, Graph, Linear, Pool
from tests.masters import random_codes, random_master

master = random_master(Graph((Conv("u", IMAGE, 2, 1), Pool("p", "u"), Linear("z", "p", 2))), 1, 0)
model = create_engine("native", threads=1).derive(master, 8)
q_images = random_codes(master, 1)
stop = threading.Event()

def work():
    while not stop.is_set():
        model.core.profile(q_images, 1, 10_000)  # that many calls, without Python between them

busy = [threading.Thread(target=work) for _ in range(3)]
for thread in busy:
    thread.start()
statuses = []
for _ in range(100):
    child = os.fork()
    if child == 0:
        signal.alarm(5)
        model.run(q_images)
        os._exit(0)
    statuses.append(os.waitpid(child, 0)[1])
    if statuses[-1] != 0:
        break
stop.set()
for thread in busy:
    thread.join()
print("done" if not any(statuses) else f"status {statuses[-1]} of child {len(statuses)}")
"""

ENDS = """
import threading, time
import numpy as np
from bitgear import _native
from bitgear.engines import create_engine
from tests.masters import random_codes, tiny_master

master = tiny_master()
model = create_engine("native", threads=2).derive(master, 8)
q_images = random_codes(master, 64)
mask, counts = np.zeros((2000, 2000), np.uint8), np.zeros(256, np.int64)

def work(call):
    while True:
        call()

for call in (
    lambda: model.run(q_images),
    lambda: model.core.profile(q_images, 1, 1),
    lambda: _native.count_ids(mask, counts),
):
    threading.Thread(target=work, args=(call,), daemon=True).start()
time.sleep(0.1)
print("done")
"""


BOUND = """
import os, threading
from pathlib import Path
from bitgear.engines import create_engine
from tests.masters import random_codes, tiny_master

def tasks():
    return {int(task.name) for task in Path("/proc/self/task").iterdir()}

master = tiny_master(2)
model = create_engine("native", threads=2).derive(master, 8)
everywhere = os.sched_getaffinity(0)
others = tasks()

def work():
    others.add(threading.get_native_id())
    os.sched_setaffinity(BOUND_THREAD, {min(everywhere)})
    model.run(random_codes(master, 2))

caller = threading.Thread(target=work)
caller.start()
caller.join()
helpers = tasks() - others
print("done" if [os.sched_getaffinity(task) for task in helpers] == [everywhere] else helpers)
"""


def assert_done(code: str, timeout_s: float = 120) -> None:
    """Run a program in a process of its own; it says at its end that it is done, and nothing else."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code],
        env=environment, capture_output=True, text=True, check=False, timeout=timeout_s,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_a_forked_child_runs_models_with_threads_of_its_own() -> None:
    """Also while another thread of the parent is in the middle of a call."""
    assert_done(FORK)


def test_a_fork_at_any_moment_of_a_call_leaves_the_child_a_model_that_runs() -> None:
    """Short calls of one model all the time: many of the forks meet one that takes its memory or gives it back."""
    assert_done(CALLS_AND_FORKS)


# -- processors -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) == 1,
    reason="there are no processors to choose",
)
@pytest.mark.parametrize("bound", ["0", "os.getpid()"], ids=["caller", "first thread"])
def test_a_thread_that_is_bound_to_a_processor_binds_no_helper(bound: str) -> None:
    """Neither is the measure of how many there may be, nor of where they run, while the other one is free."""
    assert_done(BOUND.replace("BOUND_THREAD", bound))


STACKS = """
import ctypes, mmap, os
from bitgear import _native

class Stack(ctypes.Structure):
    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))

libc = ctypes.CDLL(None, use_errno=True)
memory = mmap.mmap(-1, 8192)
stack = Stack(ctypes.addressof(ctypes.c_char.from_buffer(memory)), 0, 8192)

def place_stack():
    return libc.sigaltstack(ctypes.byref(stack), None) == 0

def refuses(name):
    try:
        _native.choose(name)
    except ValueError as error:
        return "or not to this process" in str(error)
    return False

ORDER
"""
STACK_FIRST = (
    "print('done' if place_stack() and refuses('avx512-amx') and _native.choose() == 'avx512-vnni' else 'wrong')"
)
PICTURES_FIRST = """
import numpy as np
from bitgear.inputs import InputRecord
from bitgear.tasks.letterbox import Letterbox
record = InputRecord.centred(16, 128)
Letterbox.of(200, 200, record).codes(np.zeros((200, 200, 3), np.uint8), record)
print('done' if place_stack() else 'no room')
"""
ENGINE_FIRST = "print('done' if _native.choose('avx2') == 'avx2' and place_stack() else 'no room')"


@pytest.mark.skipif("avx512-amx" not in OFFERED, reason="the processor has no tiles")
@pytest.mark.parametrize(
    "order", [STACK_FIRST, ENGINE_FIRST, PICTURES_FIRST], ids=["stack first", "engine first", "pictures first"]
)
def test_tiles_are_asked_for_where_they_are_used_alone(order: str) -> None:
    """Linux refuses tiles beside small alternate stacks for signals, and such stacks beside tiles."""
    assert_done(STACKS.replace("ORDER", order))


# -- the end of a process ---------------------------------------------------------------------------------------------


def test_a_process_ends_while_helpers_wait() -> None:
    assert_done(
        "from tests.masters import *\nfrom bitgear.engines import create_engine\nm = tiny_master()\n"
        "create_engine('native', threads=2).derive(m, 8).run(random_codes(m, 4))\nprint('done')"
    )


def test_a_process_ends_in_good_order_while_daemon_threads_are_in_calls() -> None:
    assert_done(ENDS)
