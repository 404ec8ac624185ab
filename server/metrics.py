"""Prometheus metrics of one server, in a registry of its own. docs/http.md names them all."""

import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, generate_latest

from bitgear import __version__
from server.exchange import Exchange
from server.scheduler import BatchReport

BUCKETS_S = tuple(0.0005 * 1.5**i for i in range(26))
"""Geometric, factor 1.5, from 0.5 ms to 12.6 s."""

DECISION_BUCKETS_S = tuple(0.000005 * 2.0**i for i in range(13))
"""From 5 microseconds to 20 ms."""

BATCH_BUCKETS = tuple(2**i for i in range(11))

NONE = "none"
"""Precision and source of an answer that no rung gave; code of a request without an answer."""

Metric = TypeVar("Metric", Counter, Gauge, Histogram, Summary)

UNKNOWN = "unknown"
UNANSWERED = "unanswered"
"""Reason of a rejection without an answer: the client went away, or the server stopped."""


class Metrics:
    """All metrics, recorded here alone.

    Each inference request passes through :meth:`begin` and :meth:`finish` once, on the event loop; each engine call
    through :meth:`finish_batch` and each decision of a policy through :meth:`note_decision`, where it was made.
    """

    def __init__(self, engine: str) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "bitgear_requests_total",
            "Inference requests that ended.",
            ["model", "task", "precision", "source", "code"],
            registry=registry,
        )
        self._request_duration = Histogram(
            "bitgear_request_duration_seconds",
            "From receipt of the request to its answer.",
            ["model", "task", "precision"],
            buckets=BUCKETS_S,
            registry=registry,
        )
        self._phase_duration = Histogram(
            "bitgear_phase_duration_seconds",
            "Parts of successful inference requests.",
            ["phase", "model", "precision"],
            buckets=BUCKETS_S,
            registry=registry,
        )
        self._served = Counter(
            "bitgear_served_total", "Successful answers.", ["model", "precision", "reason"], registry=registry
        )
        self._in_flight = Gauge(
            "bitgear_in_flight", "Inference requests being worked on.", ["model"], registry=registry
        )
        self._rejected = Counter(
            "bitgear_rejected_total", "Inference requests without success.", ["model", "reason"], registry=registry
        )
        self._slo = Counter(
            "bitgear_slo_total",
            "Requests by whether they were answered in time: their own deadline, or the profile's aim.",
            ["model", "result"],
            registry=registry,
        )
        self._accuracy = Summary(
            "bitgear_serving_accuracy",
            "Accuracy, as the master states it, of the precisions that answers came from.",
            ["model"],
            registry=registry,
        )
        self._batch_size = Histogram(
            "bitgear_batch_size",
            "Images per engine call.",
            ["model", "precision"],
            buckets=BATCH_BUCKETS,
            registry=registry,
        )
        self._queue_depth = Gauge(
            "bitgear_queue_depth", "Requests waiting for an engine worker.", ["model"], registry=registry
        )
        self._decision = Histogram(
            "bitgear_policy_decision_duration_seconds",
            "What the policy took for a decision, whatever came of it.",
            buckets=DECISION_BUCKETS_S,
            registry=registry,
        )
        self._switches = Counter(
            "bitgear_width_switches_total",
            "Changes of precision between consecutive engine calls.",
            ["model", "from", "to"],
            registry=registry,
        )
        self._switch_duration = Histogram(
            "bitgear_width_switch_duration_seconds",
            "Deriving the precision that was switched to, if it was not resident.",
            ["model"],
            buckets=BUCKETS_S,
            registry=registry,
        )
        self._resident = Gauge(
            "bitgear_model_resident_bytes", "Bytes of weights in memory.", ["model", "kind"], registry=registry
        )
        self._ladder_error = Gauge(
            "bitgear_profile_error_ratio",
            "By what share recent batches take longer than the ladder says.",
            ["model", "precision"],
            registry=registry,
        )
        self._model_info = Gauge(
            "bitgear_model_info", "Served models; always 1.", ["model", "version", "task"], registry=registry
        )
        build = Gauge("bitgear_build_info", "This server; always 1.", ["version", "engine"], registry=registry)
        build.labels(__version__, engine).set(1)
        self._children: dict[tuple[Any, tuple[str, ...]], Any] = {}
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
        self._model_info.labels(model, version, task).set(1)
        self._resident.labels(model, "master").set(master_bytes)
        self._resident.labels(model, "derived").set_function(derived_bytes)
        self._queue_depth.labels(model).set_function(queue_depth)
        for precision in precisions:
            self._ladder_error.labels(model, precision).set_function(partial(ladder_error, precision))

    def remove_model(self, model: str, version: str, task: str) -> None:
        """Show no more what a model is that is served no more; what was counted stays."""
        self._model_info.remove(model, version, task)
        for kind in ("master", "derived"):
            self._resident.remove(model, kind)
        self._queue_depth.remove(model)
        self._ladder_error.remove_by_labels({"model": model})

    def _of(self, metric: Metric, *labels: str) -> Metric:
        """Return a metric with these labels; to look them up here takes a fraction of what the library's way does."""
        child = self._children.get((metric, labels))
        if child is None:
            child = self._children[metric, labels] = metric.labels(*labels)
        labelled: Metric = child
        return labelled

    def begin(self, exchange: Exchange, task: str, model: str | None) -> None:
        """Count an inference request as in flight; ``model`` None: none that is served."""
        exchange.task = task
        exchange.model = model or UNKNOWN
        self._of(self._in_flight, exchange.model).inc()

    def finish(self, exchange: Exchange) -> None:
        """Record an inference request at its end, answered or not; other requests leave no trace."""
        if exchange.task is None or exchange.model is None:
            return
        model, task, served = exchange.model, exchange.task, exchange.served
        self._of(self._in_flight, model).dec()
        precision, source, code = NONE, NONE, str(exchange.status or NONE)
        reason = UNANSWERED if exchange.status is None else exchange.problem
        if served is not None and reason is None:
            precision, source = served.rung.precision, served.source
            self._of(self._served, model, precision, served.reason).inc()
            self._of(self._accuracy, model).observe(served.rung.accuracy)
            self._observe_phases(model, precision, exchange.phases_ms)
        else:
            self._of(self._rejected, model, reason or NONE).inc()
        self._of(self._requests, model, task, precision, source, code).inc()
        if exchange.status is not None:
            self._of(self._request_duration, model, task, precision).observe(exchange.elapsed_ms() / 1000)
        self._note_slo(exchange, model)

    def _note_slo(self, exchange: Exchange, model: str) -> None:
        """Count a request that was answered in time or should have been. What its client did wrong is no miss."""
        if exchange.target_s is None or exchange.status is None:
            return
        if exchange.status == 200:
            met = exchange.elapsed_ms() <= exchange.target_s * 1000
            self._of(self._slo, model, "met" if met else "missed").inc()
        elif exchange.status == 429 or exchange.status >= 500:
            self._of(self._slo, model, "missed").inc()

    def finish_batch(self, report: BatchReport) -> None:
        """Record an engine call."""
        model, precision = report.model.name, report.rung.precision
        self._of(self._batch_size, model, precision).observe(report.images)
        with self._switch_lock:
            last = self._last.get(model)
            self._last[model] = precision
        if last not in (None, precision):
            self._of(self._switches, model, last, precision).inc()
            self._of(self._switch_duration, model).observe(report.switch_ms / 1000)

    def note_decision(self, duration_s: float) -> None:
        """Record what the policy took to decide once, whether or not an engine call came of it."""
        self._decision.observe(duration_s)

    def _observe_phases(self, model: str, precision: str, phases_ms: Mapping[str, float]) -> None:
        for phase, duration_ms in phases_ms.items():
            self._of(self._phase_duration, phase, model, precision).observe(duration_ms / 1000)

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
