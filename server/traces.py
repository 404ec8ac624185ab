"""OpenTelemetry traces, where they are asked for: one span for a request, one for each of its phases.

Nothing of OpenTelemetry is imported before that; it comes with the extra ``otel``. Where spans go is told by
the variables that OpenTelemetry defines, ``OTEL_EXPORTER_OTLP_ENDPOINT`` and others.
"""

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from starlette.types import Scope

from bitgear import __version__
from server.exchange import Exchange
from server.settings import SettingsError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

SERVICE = "bitgear"
_FORWARDED = ("traceparent", "tracestate")


class Traces:
    """Makes spans of requests that have ended.

    ``exporter``: where they go; None: to a collector, by OTLP over HTTP. Raises
    :class:`~server.settings.SettingsError` if OpenTelemetry is not installed.
    """

    def __init__(self, exporter: "SpanExporter | None" = None) -> None:
        try:
            from opentelemetry.sdk.resources import OTELResourceDetector, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

            if exporter is None:
                from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

                exporter = OTLPSpanExporter()
        except ImportError as error:
            raise SettingsError(
                f"traces need OpenTelemetry: {error}; install bitgear's extra 'otel': "
                "pip install -e '.[otel]' in its checkout"
            ) from error
        # Else its own variables, OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, would not count for the name.
        resource = Resource.create({"service.name": SERVICE}).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(SERVICE, __version__)
        self._propagator = TraceContextTextMapPropagator()

    def finish(self, exchange: Exchange, scope: Scope) -> None:
        """Record an inference request at its end; its trace's id goes to ``exchange``. Others leave no trace."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        if exchange.task is None:
            return
        to_epoch_s = time.time() - time.monotonic()  # spans are told in the time of the world
        end_s = time.monotonic() if exchange.answered_s is None else exchange.answered_s
        span = self._tracer.start_span(
            f"{scope['method']} {exchange.task}",
            context=self._propagator.extract(_forwarded(scope["headers"])),
            kind=SpanKind.SERVER,
            start_time=_ns(exchange.started_s + to_epoch_s),
            attributes=_attributes(exchange, scope),
        )
        exchange.trace_id = f"{span.get_span_context().trace_id:032x}"
        if exchange.status is None or exchange.status >= 500:
            span.set_status(Status(StatusCode.ERROR, exchange.failure))
        within = set_span_in_context(span)
        for step in exchange.steps:
            start_s = step.started_s + to_epoch_s
            child = self._tracer.start_span(step.phase, context=within, start_time=_ns(start_s))
            child.end(_ns(start_s + step.duration_s))
        span.end(_ns(end_s + to_epoch_s))

    def flush(self) -> None:
        """Send what has not been sent yet. Takes as long as that takes."""
        self._provider.force_flush()

    def close(self) -> None:
        """Send what has not been sent yet, and no more."""
        self._provider.shutdown()


def _attributes(exchange: Exchange, scope: Scope) -> dict[str, str | int]:
    served = exchange.served
    found = {
        "http.request.method": scope["method"],
        "http.response.status_code": exchange.status,
        "error.type": exchange.problem,
        "bitgear.request_id": exchange.request_id,
        "bitgear.model": exchange.model,
        "bitgear.task": exchange.task,
        "bitgear.precision.requested": exchange.asked,
        "bitgear.precision.served": None if served is None else served.rung.precision,
        "bitgear.precision.source": None if served is None else served.source,
        "bitgear.precision.reason": None if served is None else served.reason,
        "bitgear.batch_images": None if served is None else served.batch_images,
    }
    return {name: value for name, value in found.items() if value is not None}


def _forwarded(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode(): value.decode("latin-1") for name, value in headers if name.decode("latin-1") in _FORWARDED}


def _ns(time_s: float) -> int:
    return int(time_s * 1e9)
