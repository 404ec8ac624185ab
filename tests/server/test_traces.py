"""OpenTelemetry: spans of requests, and no import of it where it is not asked for."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from bitgear.checkpoint import write_master
from server.app import create_app
from server.settings import Settings
from server.traces import Traces
from tests.masters import tiny_master
from tests.server.gates import Exchanged
from tests.server.test_load import until

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def spans_of(folder: Path, *requests: Exchanged) -> list[ReadableSpan]:
    """The spans of requests, in the order in which they ended."""
    exporter = InMemorySpanExporter()
    path = folder / "tiny.safetensors"
    write_master(tiny_master(), path)

    async def scenario() -> list[ReadableSpan]:
        traces = Traces(exporter)
        app = create_app(Settings(models=(path,), policy="fixed"), traces=traces)
        async with app.router.lifespan_context(app):
            await until(lambda: app.state.runtime.ready, "ready")
            for request in requests:
                await request.run(app)
            traces.flush()
            return list(exporter.get_finished_spans())

    return asyncio.run(scenario())


@pytest.mark.parametrize(
    ("variable", "value"), [("OTEL_SERVICE_NAME", "gears"), ("OTEL_RESOURCE_ATTRIBUTES", "service.name=gears")]
)
def test_the_environment_names_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    (*_, unnamed) = spans_of(tmp_path, Exchanged())
    assert unnamed.resource.attributes["service.name"] == "bitgear"
    monkeypatch.setenv(variable, value)
    (*_, named) = spans_of(tmp_path, Exchanged())
    assert named.resource.attributes["service.name"] == "gears"


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_a_request_is_a_span_with_a_span_for_each_phase(tmp_path: Path) -> None:
    *phases, whole = spans_of(
        tmp_path, Exchanged(query="precision=4", headers=[("Traceparent", PARENT), ("X-Request-Id", "mine")])
    )
    assert [span.name for span in phases] == ["queue", "decode", "queue", "switch", "infer", "post"]
    assert whole.name == "POST classify"
    assert whole.parent is not None
    assert f"{whole.context.trace_id:032x}" == TRACE
    assert f"{whole.parent.span_id:016x}" == "b7ad6b7169203331"
    for span in phases:
        assert span.parent is not None
        assert span.parent.span_id == whole.context.span_id
        assert whole.start_time <= span.start_time <= span.end_time <= whole.end_time  # type: ignore[operator]
    starts = [span.start_time or 0 for span in phases]
    assert starts == sorted(starts)
    found = attributes(whole)
    assert found["http.response.status_code"] == 200
    assert found["bitgear.request_id"] == "mine"
    assert (found["bitgear.model"], found["bitgear.task"]) == ("tiny", "classify")
    assert (found["bitgear.precision.requested"], found["bitgear.precision.served"]) == ("4", "4")
    assert (found["bitgear.precision.source"], found["bitgear.precision.reason"]) == ("request", "asked")
    assert found["bitgear.batch_images"] == 1


def test_refusals_are_spans_too_and_only_faults_are_errors(tmp_path: Path) -> None:
    refused, late = spans_of(tmp_path, Exchanged(query="precision=9"), Exchanged(query="deadline_ms=0.001"))
    assert (attributes(refused)["error.type"], refused.status.is_ok) == ("bad-parameter", True)
    assert (attributes(late)["error.type"], late.status.is_ok) == ("deadline-exceeded", False)
    assert refused.parent is None
    assert refused.context.trace_id != late.context.trace_id


def test_other_requests_are_no_spans(tmp_path: Path) -> None:
    assert spans_of(tmp_path, Exchanged(path="/v1/nothing")) == []


def test_nothing_is_imported_unasked(tmp_path: Path) -> None:
    write_master(tiny_master(), tmp_path / "tiny.safetensors")
    code = f"""
import sys, pathlib
from server.app import create_app
from server.settings import Settings
create_app(Settings(models=(pathlib.Path({str(tmp_path)!r}),))).state.runtime.close()
print([name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
