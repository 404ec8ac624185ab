import logging
from pathlib import Path

import pytest

from bitgear.bits import Precision, as_plan
from bitgear.engines import DerivedModel, Engine, create_engine
from tests.serving import PATH, png, running


class FailingEngine:
    """Fails to derive 3 bits, and runs everything else as the reference does."""

    name = "failing"

    def __init__(self) -> None:
        self._engine: Engine = create_engine("reference")

    def derive(self, master: object, precision: Precision) -> DerivedModel:
        if as_plan(precision) == as_plan(3):
            raise RuntimeError("secret of /the/server")
        return self._engine.derive(master, precision)  # type: ignore[arg-type]


def test_a_fault_is_a_problem_a_log_line_and_a_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running(tmp_path, engine=FailingEngine()) as server, caplog.at_level(logging.INFO, "server"):
        answer = server.client.post(PATH, content=png(), headers={"Precision": "3", "X-Request-Id": "failing"})
        document = server.refused(answer, 500, "internal")
        assert "secret" not in str(document)
        assert 'bitgear_rejected_total{model="tiny",reason="internal"} 1.0' in server.client.get("/metrics").text
    failures = [record for record in caplog.records if record.exc_info]
    assert [record.request_id for record in failures] == ["failing"]  # type: ignore[attr-defined]
    assert "secret" in str(failures[0].exc_info)
