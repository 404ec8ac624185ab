"""Measurements of this device beside what the server serves."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bitgear.checkpoint import Master
from bitgear.engines import Engine
from bitgear.kept import Key
from bitgear.machine import available_cores, cache_folder
from server import ladder_cache
from server.crew import Crew
from server.errors import Draining
from server.layout import Learn
from server.measurement import Times, measure
from server.scheduler import Scheduler
from server.settings import Settings

PATIENCE_S, STEP_S = 0.05, 0.002
"""How long a call that only measures waits for others to be done, and how often it looks."""


class Aside:
    """Measures, whatever it is, one after the other: measurements would disturb one another, and not know.

    A call of theirs takes ``threads`` cores of the crew, when nothing else wants them, or after a moment all the same;
    only what :meth:`learn` has measured, such as layouts of all cores, counts none.
    What other work has disturbed is not kept for later starts.
    """

    def __init__(self, settings: Settings, engine: Engine, scheduler: Scheduler, crew: Crew, threads: int) -> None:
        self._settings = settings
        self._engine = engine
        self._scheduler = scheduler
        self._crew = crew
        self._threads = threads
        self._measuring = threading.Lock()
        self._calls = 0
        self._stopped = False

    def note_call(self) -> None:
        """Tell of an engine call that was no measurement."""
        self._calls += 1

    def stop(self) -> None:
        """Begin no further call. Does not block."""
        self._stopped = True

    def kept_times(self, master: Master) -> Times | None:
        """Return the times of a master's precisions as measured at an earlier start; None if not all are known."""
        times = ladder_cache.read(self._folder, self._key(master))
        return None if times is None or times.lines.keys() != master.precisions.keys() else times

    def take_times(self, master: Master) -> Times:
        """Return what the precisions of a master take; raise :class:`~server.errors.Draining` once stopped."""
        with self._measuring:
            before = self._calls
            times = measure(
                master,
                lambda plan: self._engine.derive(master, plan),
                self._settings.max_batch,
                self._settings.measure_s,
                turn=self._turn,
            )
            if self._calls == before:
                ladder_cache.write(self._folder, self._key(master), times)
        return times

    def learn(self, learn: Learn) -> None:
        """Have something measured; raise what that raises, and :class:`~server.errors.Draining` once stopped."""
        with self._measuring:
            with self._turn():
                before = self._calls
            learn(lambda: self._calls == before)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        until_s = time.monotonic() + PATIENCE_S
        while self._scheduler.busy and not self._stopped and time.monotonic() < until_s:
            time.sleep(STEP_S)
        if self._stopped:
            raise Draining
        with self._crew.hold(self._threads):
            yield

    @property
    def _folder(self) -> Path:
        return self._settings.ladders or cache_folder()

    def _key(self, master: Master) -> Key:
        return ladder_cache.device_key(master, self._engine, self._threads, self._settings.max_batch, available_cores())
