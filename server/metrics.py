"""Prometheus metrics of one server, in a registry of its own."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, generate_latest
from prometheus_client import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from bitgear import __version__
from server.exchange import Exchange
from server.scheduler import BatchReport

BUCKETS_S = tuple(round(0.0005 * 1.5**i, 6) for i in range(26))
"""Geometric, factor 1.5, from 0.5 ms to 12.6 s."""

PHASE_BUCKETS_S = tuple(round(0.00005 * 2.0**i, 6) for i in range(19))
"""Geometric, factor 2, from 50 microseconds, for a small network takes less than 0.5 ms, to 13 s."""

DECISION_BUCKETS_S = tuple(round(0.000005 * 2.0**i, 6) for i in range(13))
"""From 5 microseconds to 20 ms."""

PACE_SAMPLES = 50
"""Samples that are rendered at a stretch, in less than a millisecond."""

PAUSE_S = 0.0001
"""Long enough for others to get the interpreter, which a pause of nothing is not."""

BATCH_BUCKETS = tuple(2**i for i in range(11))

NONE = "none"
"""Precision and source of an answer that no rung gave; code of a request without an answer."""

Metric = TypeVar("Metric", Counter, Gauge, Histogram, Summary)

UNKNOWN = "unknown"


@dataclass(frozen=True, eq=False)
class Described(Generic[Metric]):
    """A metric to be made; ``buckets``: of a histogram, their upper bounds."""

    kind: type[Metric]
    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] | None = None

    def make(self, registry: CollectorRegistry) -> Metric:
        """Return a new one."""
        options: dict[str, Any] = {} if self.buckets is None else {"buckets": self.buckets}
        return self.kind(self.name, self.help, self.labels, registry=registry, **options)


_REQUESTS = Described(
    Counter,
    "bitgear_requests_total",
    "Inference requests that ended: those served and those rejected.",
    ("model", "task", "precision", "source", "code"),
)
_REQUEST_DURATION = Described(
    Histogram,
    "bitgear_request_duration_seconds",
    "From receipt of the request to its answer.",
    ("model", "task", "precision"),
    BUCKETS_S,
)
_PHASE_DURATION = Described(
    Histogram,
    "bitgear_phase_duration_seconds",
    "Parts of successful inference requests.",
    ("phase", "model", "precision"),
    PHASE_BUCKETS_S,
)
_SERVED = Described(Counter, "bitgear_served_total", "Successful answers.", ("model", "precision", "reason"))
_IN_FLIGHT = Described(Gauge, "bitgear_in_flight", "Inference requests being worked on.", ("model",))
_REJECTED = Described(Counter, "bitgear_rejected_total", "Inference requests without success.", ("model", "reason"))
_SLO = Described(
    Counter,
    "bitgear_slo_total",
    "Requests by whether they were answered in time, met or missed: their own deadline, or the profile's aim.",
    ("model", "result"),
)
_ACCURACY = Described(
    Summary,
    "bitgear_serving_accuracy",
    "Accuracy, as the master states it, of the precisions that answers came from.",
    ("model",),
)
_BATCH_SIZE = Described(
    Histogram, "bitgear_batch_size", "Images per engine call.", ("model", "precision"), BATCH_BUCKETS
)
_QUEUE_DEPTH = Described(
    Gauge,
    "bitgear_queue_depth",
    "Requests waiting for an engine worker, without those for a model that was unloaded or replaced.",
    ("model",),
)
_DECISION = Described(
    Histogram,
    "bitgear_policy_decision_duration_seconds",
    "What the policy took for a decision, whatever came of it.",
    buckets=DECISION_BUCKETS_S,
)
_SWITCHES = Described(
    Counter,
    "bitgear_width_switches_total",
    "Changes of precision between consecutive engine calls.",
    ("model", "from", "to"),
)
_SWITCH_DURATION = Described(
    Histogram,
    "bitgear_width_switch_duration_seconds",
    "Deriving the precision that was switched to, if it was not resident.",
    ("model",),
    BUCKETS_S,
)
_RESIDENT = Described(
    Gauge,
    "bitgear_model_resident_bytes",
    "Bytes of weights in memory, of the master and of what was derived from it.",
    ("model", "kind"),
)
_LADDER_ERROR = Described(
    Gauge,
    "bitgear_profile_error_ratio",
    "By what share recent batches take longer than the ladder says; 0 while little is known.",
    ("model", "precision"),
)
_MODEL_INFO = Described(Gauge, "bitgear_model_info", "Served models; always 1.", ("model", "version", "task"))
_BUILD_INFO = Described(Gauge, "bitgear_build_info", "This server; always 1.", ("version", "engine"))

TABLE: tuple[Described[Any], ...] = tuple(each for each in list(globals().values()) if isinstance(each, Described))
"""All of the above; docs/http.md is written from it."""


class Metrics:
    """All metrics, recorded here alone.

    Each inference request passes through :meth:`begin` and :meth:`finish` once, on the event loop; each engine call
    through :meth:`finish_batch` and each decision of a policy through :meth:`note_decision`, where it was made.
    """

    def __init__(self, engine: str) -> None:
        self._registry = CollectorRegistry()
        self._made = {described: described.make(self._registry) for described in TABLE}
        self._metric(_BUILD_INFO).labels(__version__, engine).set(1)
        self._children: dict[tuple[Described[Any], tuple[str, ...]], Any] = {}
        self._last: dict[str, str] = {}
        self._switch_lock = threading.Lock()

    def add_model(
        self,
        model: str,
        version: str,
        task: str,
        master_bytes: int,
        derived_bytes: Callable[[], float],
        queue_depth: Callable[[], float],
        precisions: Iterable[str],
        ladder_error: Callable[[str], float],
    ) -> None:
        """Make a served model visible; ``ladder_error`` is of a precision. Functions are called at every scrape."""
        self._metric(_MODEL_INFO).labels(model, version, task).set(1)
        self._metric(_RESIDENT).labels(model, "master").set(master_bytes)
        self._metric(_RESIDENT).labels(model, "derived").set_function(derived_bytes)
        self._metric(_QUEUE_DEPTH).labels(model).set_function(queue_depth)
        for precision in precisions:
            self._metric(_LADDER_ERROR).labels(model, precision).set_function(partial(ladder_error, precision))

    def remove_model(self, model: str, version: str, task: str) -> None:
        """Show no more what a model is that is served no more; what was counted stays."""
        self._metric(_MODEL_INFO).remove(model, version, task)
        for kind in ("master", "derived"):
            self._metric(_RESIDENT).remove(model, kind)
        self._metric(_QUEUE_DEPTH).remove(model)
        self._metric(_LADDER_ERROR).remove_by_labels({"model": model})

    def _metric(self, described: Described[Metric]) -> Metric:
        metric: Metric = self._made[described]
        return metric

    def _of(self, described: Described[Metric], *labels: str) -> Metric:
        """Return a metric with these labels; to look them up here takes a fraction of what the library's way does."""
        child = self._children.get((described, labels))
        if child is None:
            child = self._children[described, labels] = self._metric(described).labels(*labels)
        labelled: Metric = child
        return labelled

    def begin(self, exchange: Exchange, task: str, model: str | None) -> None:
        """Count an inference request as in flight; ``model`` None: none that is served."""
        exchange.task = task
        exchange.model = model or UNKNOWN
        self._of(_IN_FLIGHT, exchange.model).inc()

    def finish(self, exchange: Exchange) -> None:
        """Record an inference request at its end, answered or not; other requests leave no trace."""
        if exchange.task is None or exchange.model is None:
            return
        model, task, served = exchange.model, exchange.task, exchange.served
        self._of(_IN_FLIGHT, model).dec()
        precision, source, code = NONE, NONE, str(exchange.status or NONE)
        reason = exchange.failure
        if served is not None and reason is None:
            precision, source = served.rung.precision, served.source
            self._of(_SERVED, model, precision, served.reason).inc()
            self._of(_ACCURACY, model).observe(served.rung.accuracy)
            self._observe_phases(model, precision, exchange.phases_ms)
        else:
            self._of(_REJECTED, model, reason or NONE).inc()
        self._of(_REQUESTS, model, task, precision, source, code).inc()
        if exchange.status is not None:
            self._of(_REQUEST_DURATION, model, task, precision).observe(exchange.elapsed_ms() / 1000)
        self._note_slo(exchange, model)

    def _note_slo(self, exchange: Exchange, model: str) -> None:
        """Count a request that was answered in time or should have been. What its client did wrong is no miss."""
        if exchange.target_s is None or exchange.status is None:
            return
        if exchange.status == 200:
            met = exchange.elapsed_ms() <= exchange.target_s * 1000
            self._of(_SLO, model, "met" if met else "missed").inc()
        elif exchange.status == 429 or exchange.status >= 500:
            self._of(_SLO, model, "missed").inc()

    def finish_batch(self, report: BatchReport) -> None:
        """Record an engine call."""
        model, precision = report.model.name, report.rung.precision
        self._of(_BATCH_SIZE, model, precision).observe(report.images)
        with self._switch_lock:
            last = self._last.get(model)
            self._last[model] = precision
        if last not in (None, precision):
            self._of(_SWITCHES, model, last, precision).inc()
            self._of(_SWITCH_DURATION, model).observe(report.switch_ms / 1000)

    def note_decision(self, duration_s: float) -> None:
        """Record what the policy took to decide once, whether or not an engine call came of it."""
        self._metric(_DECISION).observe(duration_s)

    def _observe_phases(self, model: str, precision: str, phases_ms: Mapping[str, float]) -> None:
        for phase, duration_ms in phases_ms.items():
            self._of(_PHASE_DURATION, phase, model, precision).observe(duration_ms / 1000)

    def render(self, pause: Callable[[float], None] = time.sleep) -> bytes:
        """Return all metrics in Prometheus' text format, with a ``pause`` of so many seconds now and then.

        Without one, other threads would wait for the interpreter for 5 ms each time that they need it.
        """
        return generate_latest(_Paced(self._registry, pause))


@dataclass(frozen=True)
class _Paced(Collector):
    """What a registry collects, with a pause after every so many samples."""

    registry: CollectorRegistry
    pause: Callable[[float], None]

    def collect(self) -> Iterator[Family]:
        for family in self.registry.collect():
            family.samples = self._paced(family.samples)  # type: ignore[assignment]  # it is walked through once
            yield family

    def _paced(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        for count, sample in enumerate(samples, start=1):
            yield sample
            if count % PACE_SAMPLES == 0:
                self.pause(PAUSE_S)
