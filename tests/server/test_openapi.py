"""The OpenAPI document: complete, and kept by the server."""

import json
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from server.problems import MEDIA_TYPE, TABLE
from server.tasks import TASKS
from tests.serving import Running

ROUTES = {task: f"/v1/models/{{model}}/{task}" for task in TASKS}
VERSIONS = ("", "/versions/{version}")
MODELS = {"classify": "tiny", "detect": "boxes", "segment": "areas"}


def no_fault(_: Any, response: Any, __: Any) -> None:
    """504 may be: a generated deadline passes sooner on a busy machine."""
    assert response.status_code < 500 or response.status_code == 504, response.text


CHECKS = [
    no_fault,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def document(every_task: Running) -> Any:
    return schemathesis.openapi.from_url(f"{every_task.client.base_url}/openapi.json")


@pytest.fixture(scope="module")
def content(every_task: Running) -> dict[str, Any]:
    return every_task.client.get("/openapi.json").json()


def test_generated_requests_get_documented_answers(document: Any, every_task: Running) -> None:
    # Not by schemathesis' pytest plugin: its subtests do not work with pytest 9.2.
    operations = [result.ok() for result in document.get_all_operations()]
    assert len(operations) == 22
    for operation in operations:

        @settings(max_examples=40, derandomize=True, database=None, deadline=None, suppress_health_check=HealthCheck)
        @given(case=operation.as_strategy())
        def check(case: Any) -> None:
            case.call_and_validate(checks=CHECKS)
            if "model" in case.path_parameters:  # a made-up name leads no further than to 404
                case.path_parameters["model"] = MODELS.get(case.path.rsplit("/", 1)[1], "tiny")
                if "version" in case.path_parameters:
                    case.path_parameters["version"] = every_task.version
                case.call_and_validate(checks=CHECKS)

        check()


def test_it_is_valid(document: Any) -> None:
    document.validate()


def test_every_path_is_listed(content: dict[str, Any]) -> None:
    assert set(content["paths"]) == {
        *ROUTES.values(), "/v1/models", "/v1/models/{model}", "/v1/models/{model}/ladder", "/v2/health/live",
        "/v2/health/ready", "/metrics", "/v1/policy", "/v2", "/v2/models", "/v2/repository/index",
        *(f"/v2/repository/models/{{model}}/{verb}" for verb in ("load", "unload")),
        *(f"/v2/models/{{model}}{version}{rest}" for version in VERSIONS for rest in ("", "/ready", "/infer")),
    }  # fmt: skip


@pytest.mark.parametrize("path", ROUTES.values())
def test_every_status_and_problem_of_an_inference_route_is_listed(content: dict[str, Any], path: str) -> None:
    responses = content["paths"][path]["post"]["responses"]
    assert set(responses) == {
        "200", "400", "401", "404", "406", "408", "413", "415", "422", "429", "500", "503", "504",
    }  # fmt: skip
    listed = json.dumps(responses)
    for problem in TABLE.values():
        if problem.name not in ("not-found", "method", "bad-tensor", "forbidden", "model-unusable", "head-too-large"):
            assert f"urn:bitgear:problem:{problem.name}" in listed
    assert "HTTPValidationError" not in json.dumps(content)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_tensor_routes_list_what_they_answer_and_every_control(content: dict[str, Any], version: str) -> None:
    operation = content["paths"][f"/v2/models/{{model}}{version}/infer"]["post"]
    assert set(operation["responses"]["200"]["content"]) == {"application/json", "application/octet-stream"}
    listed = json.dumps(operation["responses"])
    for problem in TABLE.values():
        if problem.name not in (
            "not-found",
            "method",
            "task-mismatch",
            "forbidden",
            "model-unusable",
            "head-too-large",
        ):
            assert f"urn:bitgear:problem:{problem.name}" in listed
    places = {(parameter["in"], parameter["name"]) for parameter in operation["parameters"]}
    assert ("header", "Inference-Header-Content-Length") in places
    for task in TASKS.values():
        assert {("query", name) for name in task.controls} < places


@pytest.mark.parametrize("task", TASKS)
def test_every_control_of_a_task_and_no_other_is_listed_in_every_place(content: dict[str, Any], task: str) -> None:
    operation = content["paths"][ROUTES[task]]["post"]
    controls = TASKS[task].controls
    places = {(parameter["in"], parameter["name"]) for parameter in operation["parameters"]}
    headers = {control.header for control in controls.values() if control.header}
    assert places == {
        ("path", "model"), ("header", "X-Request-Id"), ("header", "traceparent"),
        *(("query", name) for name in controls), *(("header", header) for header in headers),
    }  # fmt: skip
    body = operation["requestBody"]["content"]
    for media_type in ("multipart/form-data", "application/json"):
        assert set(body[media_type]["schema"]["properties"]) == {"image", *controls}
    assert {"image/jpeg", "image/png", "image/webp", "application/octet-stream"} < set(body)


def test_problems_have_their_media_type(content: dict[str, Any]) -> None:
    for path in content["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                if status != "200":
                    assert list(response["content"]) == [MEDIA_TYPE]
