"""Prometheus metrics of one server, in a registry of its own. docs/http.md names them all."""

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from bitgear import __version__
from server.exchange import Exchange

BUCKETS_S = tuple(0.0005 * 1.5**i for i in range(26))
"""Geometric, factor 1.5, from 0.5 ms to 12.6 s."""

NONE = "none"
"""Precision and source of an answer that no width gave."""

UNKNOWN_MODEL = "unknown"
UNANSWERED = "unanswered"
"""Reason of a rejection without an answer: the client went away, or the server stopped."""


class Metrics:
    """All metrics. Each inference request passes through :meth:`begin` and :meth:`finish` once, on the event loop."""

    def __init__(self, engine: str) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "bitgear_requests_total",
            "Answered inference requests.",
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
        self._switches = Counter(
            "bitgear_width_switches_total",
            "Changes of width between consecutive answers.",
            ["model", "from", "to"],
            registry=registry,
        )
        self._switch_duration = Histogram(
            "bitgear_width_switch_duration_seconds",
            "What the changes of width cost.",
            ["model"],
            buckets=BUCKETS_S,
            registry=registry,
        )
        self._resident = Gauge(
            "bitgear_model_resident_bytes", "Bytes of weights in memory.", ["model", "kind"], registry=registry
        )
        self._model_info = Gauge(
            "bitgear_model_info", "Served models; always 1.", ["model", "version", "task"], registry=registry
        )
        build = Gauge("bitgear_build_info", "This server; always 1.", ["version", "engine"], registry=registry)
        build.labels(__version__, engine).set(1)
        self._last_bits: dict[str, int] = {}

    def add_model(
        self, model: str, version: str, task: str, master_bytes: int, derived_bytes: Callable[[], float]
    ) -> None:
        """Make a served model visible; ``derived_bytes`` is called at every scrape."""
        self._model_info.labels(model, version, task).set(1)
        self._resident.labels(model, "master").set(master_bytes)
        self._resident.labels(model, "derived").set_function(derived_bytes)

    def begin(self, exchange: Exchange, task: str, model: str | None) -> None:
        """Count an inference request as in flight; ``model`` None: none that is served."""
        exchange.task = task
        exchange.model = model or UNKNOWN_MODEL
        self._in_flight.labels(exchange.model).inc()

    def finish(self, exchange: Exchange) -> None:
        """Record an inference request at its end, answered or not; other requests leave no trace."""
        if exchange.task is None or exchange.model is None:
            return
        model, task, decision = exchange.model, exchange.task, exchange.decision
        self._in_flight.labels(model).dec()
        if exchange.status is None:
            self._rejected.labels(model, UNANSWERED).inc()
            return
        if exchange.problem is not None or decision is None:
            self._rejected.labels(model, exchange.problem).inc()
            self._requests.labels(model, task, NONE, NONE, exchange.status).inc()
            self._request_duration.labels(model, task, NONE).observe(exchange.elapsed_ms() / 1000)
            return
        self._served.labels(model, decision.bits, decision.reason).inc()
        self._requests.labels(model, task, decision.bits, decision.source, exchange.status).inc()
        self._request_duration.labels(model, task, decision.bits).observe(exchange.elapsed_ms() / 1000)
        self._observe_phases(model, decision.bits, exchange.phases_ms)
        last = self._last_bits.get(model)
        self._last_bits[model] = decision.bits
        if last not in (None, decision.bits):
            self._switches.labels(model, last, decision.bits).inc()
            self._switch_duration.labels(model).observe(exchange.phases_ms["switch"] / 1000)

    def _observe_phases(self, model: str, bits: int, phases_ms: Mapping[str, float]) -> None:
        for phase, duration_ms in phases_ms.items():
            self._phase_duration.labels(phase, model, bits).observe(duration_ms / 1000)

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
