"""The OpenAPI document: complete, and kept by the server."""

import json
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from server.precision import CONTROLS
from server.problems import MEDIA_TYPE, TABLE
from tests.serving import Running

CLASSIFY = "/v1/models/{model}/classify"

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def document(server: Running) -> Any:
    return schemathesis.openapi.from_url(f"{server.client.base_url}/openapi.json")


@pytest.fixture(scope="module")
def content(server: Running) -> dict[str, Any]:
    return server.client.get("/openapi.json").json()


def test_generated_requests_get_documented_answers(document: Any) -> None:
    # Not by schemathesis' pytest plugin: its subtests do not work with pytest 9.2.
    operations = [result.ok() for result in document.get_all_operations()]
    assert len(operations) == 7
    for operation in operations:

        @settings(max_examples=40, derandomize=True, database=None, deadline=None, suppress_health_check=HealthCheck)
        @given(case=operation.as_strategy())
        def check(case: Any) -> None:
            case.call_and_validate(checks=CHECKS)
            if "model" in case.path_parameters:  # a made-up name leads no further than to 404
                case.path_parameters["model"] = "tiny"
                case.call_and_validate(checks=CHECKS)

        check()


def test_it_is_valid(document: Any) -> None:
    document.validate()


def test_every_path_is_listed(content: dict[str, Any]) -> None:
    assert set(content["paths"]) == {
        CLASSIFY, "/v1/models", "/v1/models/{model}", "/v1/models/{model}/ladder", "/v2/health/live",
        "/v2/health/ready", "/metrics",
    }  # fmt: skip


def test_every_status_and_problem_of_an_inference_route_is_listed(content: dict[str, Any]) -> None:
    responses = content["paths"][CLASSIFY]["post"]["responses"]
    assert set(responses) == {"200", "400", "404", "408", "413", "415", "422", "500", "503"}
    listed = json.dumps(responses)
    for problem in TABLE.values():
        if problem.name not in ("not-found", "method"):
            assert f"urn:bitgear:problem:{problem.name}" in listed
    assert "HTTPValidationError" not in json.dumps(content)


def test_every_control_is_listed_in_every_place(content: dict[str, Any]) -> None:
    operation = content["paths"][CLASSIFY]["post"]
    places = {(parameter["in"], parameter["name"]) for parameter in operation["parameters"]}
    body = operation["requestBody"]["content"]
    for name, control in CONTROLS.items():
        assert ("query", name) in places
        assert control.header is None or ("header", control.header) in places
        for media_type in ("multipart/form-data", "application/json"):
            assert name in body[media_type]["schema"]["properties"]
    assert ("path", "model") in places
    assert ("header", "X-Request-Id") in places
    assert {"image/jpeg", "image/png", "image/webp", "application/octet-stream"} < set(body)


def test_problems_have_their_media_type(content: dict[str, Any]) -> None:
    for path in content["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                if status != "200":
                    assert list(response["content"]) == [MEDIA_TYPE]
