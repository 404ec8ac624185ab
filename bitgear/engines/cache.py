"""Derived models, kept while they fit in a budget of bytes."""

import threading
import weakref
from collections import OrderedDict
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass

from bitgear.bits import Plan, Precision, as_plan
from bitgear.checkpoint import Master
from bitgear.engines.base import DerivedModel, Engine

_Key = tuple[Master, Plan]


@dataclass(frozen=True)
class CacheStats:
    """Counts since the cache was made, and what is resident now."""

    hits: int
    derivations: int
    evictions: int
    resident_bytes: int


class ModelCache:
    """Derived models of one engine, least recently used out first.

    A plan is derived once however many threads ask for it at the same time; the others wait for that one. Eviction
    only forgets: a request that holds an evicted model runs it to the end, and the memory goes when it is done.
    The model asked for last always stays, even if it alone exceeds ``limit_bytes``.
    """

    def __init__(self, engine: Engine, limit_bytes: int) -> None:
        self.engine = engine
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._models: OrderedDict[_Key, DerivedModel] = OrderedDict()
        self._deriving: dict[_Key, Future[DerivedModel]] = {}
        self._discarded: weakref.WeakSet[Master] = weakref.WeakSet()
        self._hits = self._derivations = self._evictions = 0

    def get(self, master: Master, precision: Precision) -> DerivedModel:
        """Return the model at a width or plan, deriving it if it is not resident.

        Raises what :meth:`Engine.derive` raises; a failed derivation is not remembered. What stops a thread, such as
        ``KeyboardInterrupt``, is raised in that one alone; of those that waited for it, one derives anew.
        """
        key = (master, as_plan(precision))
        while True:
            with self._lock:
                model = self._models.get(key)
                if model is not None:
                    self._models.move_to_end(key)
                    self._hits += 1
                    return model
                pending = self._deriving.get(key)
                mine = pending is None
                if pending is None:
                    pending = self._deriving[key] = Future()
            if mine:
                self._derive(key, pending)
            try:
                return pending.result()
            except CancelledError:
                if not pending.cancelled():  # the engine's own
                    raise

    def _derive(self, key: _Key, pending: Future[DerivedModel]) -> None:
        try:
            model = self.engine.derive(*key)
        except BaseException as error:
            with self._lock:
                if self._deriving.get(key) is pending:
                    del self._deriving[key]
            if not isinstance(error, Exception):
                pending.cancel()
                raise
            pending.set_exception(error)
            return
        with self._lock:
            self._derivations += 1
            if self._deriving.get(key) is pending:  # else discarded in the meantime
                del self._deriving[key]
                if key[0] not in self._discarded:
                    self._models[key] = model
            self._evict()
        pending.set_result(model)

    def _evict(self) -> None:
        while len(self._models) > 1 and sum(m.nbytes for m in self._models.values()) > self._limit_bytes:
            self._models.popitem(last=False)
            self._evictions += 1

    def resize(self, limit_bytes: int) -> None:
        """Keep so many bytes from now on."""
        with self._lock:
            self._limit_bytes = limit_bytes
            self._evict()

    def resident(self, master: Master) -> dict[Plan, int]:
        """Return resident bytes by plan for one master."""
        with self._lock:
            return {plan: model.nbytes for (owner, plan), model in self._models.items() if owner is master}

    def discard(self, master: Master) -> None:
        """Forget every plan of a master, and keep none from now on; models in use stay alive until requests end."""
        with self._lock:
            self._discarded.add(master)
            for key in [key for key in self._models if key[0] is master]:
                del self._models[key]
            for key in [key for key in self._deriving if key[0] is master]:
                del self._deriving[key]  # whoever waits still gets the model; it is not kept

    def stats(self) -> CacheStats:
        """Return the counts."""
        with self._lock:
            resident = sum(model.nbytes for model in self._models.values())
            return CacheStats(self._hits, self._derivations, self._evictions, resident)
