"""The OpenAPI document: complete, and kept by the server."""

import copy
import json
import re
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

from server.problems import MEDIA_TYPE, TABLE, URN
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
def content(every_task: Running) -> dict[str, Any]:
    return every_task.client.get("/openapi.json").json()


@pytest.fixture(scope="module")
def document(every_task: Running, content: dict[str, Any]) -> Any:
    """The document, but answers have no members that it does not tell: clients may meet some, this server has none."""
    strict = copy.deepcopy(content)
    for schema in strict["components"]["schemas"].values():
        schema["additionalProperties"] = False
    document = schemathesis.openapi.from_dict(strict)
    document.config.update(base_url=str(every_task.client.base_url))
    return document


def resolved(content: dict[str, Any], schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The components that a schema names: one, or each of several."""
    references = [each["$ref"] for each in schema.get("oneOf", [schema])]
    assert all(reference.startswith("#/components/schemas/") for reference in references)
    return [content["components"]["schemas"][reference.rsplit("/", 1)[1]] for reference in references]


def problem_types(content: dict[str, Any], operation: dict[str, Any]) -> set[str]:
    """The problems that the responses of an operation list, each as a component of its own, by the ends of types."""
    return {
        component["properties"]["type"]["const"].removeprefix(URN)
        for status, response in operation["responses"].items()
        if status != "200"
        for component in resolved(content, response["content"][MEDIA_TYPE]["schema"])
        if str(component["properties"]["status"]["const"]) == status
    }


def schemas_of_requests(operation: dict[str, Any]) -> list[dict[str, Any]]:
    """The schemas of all parameters of an operation, of its bodies, and of their fields."""
    bodies = [content["schema"] for content in operation.get("requestBody", {}).get("content", {}).values()]
    fields = [field for body in bodies for field in body.get("properties", {}).values()]
    return [*(parameter["schema"] for parameter in operation["parameters"]), *bodies, *fields]


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
    never = {"not-found", "method", "bad-tensor", "forbidden", "model-unusable", "head-too-large"}
    assert problem_types(content, content["paths"][path]["post"]) == {each.name for each in TABLE.values()} - never
    assert "HTTPValidationError" not in json.dumps(content)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_tensor_routes_list_what_they_answer_and_every_control(content: dict[str, Any], version: str) -> None:
    operation = content["paths"][f"/v2/models/{{model}}{version}/infer"]["post"]
    assert set(operation["responses"]["200"]["content"]) == {"application/json", "application/octet-stream"}
    never = {"not-found", "method", "task-mismatch", "forbidden", "model-unusable", "head-too-large"}
    assert problem_types(content, operation) == {each.name for each in TABLE.values()} - never
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


@pytest.mark.parametrize("path", [*ROUTES.values(), *(f"/v2/models/{{model}}{version}/infer" for version in VERSIONS)])
def test_no_place_of_a_control_has_a_default(content: dict[str, Any], path: str) -> None:
    """A client that sends what it is told for the places not used would contradict what it was asked to send."""
    schemas = schemas_of_requests(content["paths"][path]["post"])
    assert len(schemas) > 20
    assert '"default"' not in json.dumps(schemas)


def test_bytes_are_of_the_format_binary(content: dict[str, Any]) -> None:
    bodies = content["paths"][ROUTES["classify"]]["post"]["requestBody"]["content"]
    form = bodies["multipart/form-data"]["schema"]["properties"]["image"]
    raw = [body["schema"] for name, body in bodies.items() if name.startswith(("image/", "application/octet"))]
    infer = content["paths"]["/v2/models/{model}/infer"]["post"]
    tensors = [
        place["content"]["application/octet-stream"]["schema"]
        for place in (infer["requestBody"], infer["responses"]["200"])
    ]
    assert [(each["type"], each["format"]) for each in (form, *raw, *tensors)] == [("string", "binary")] * 7


def test_a_width_may_be_a_number_in_json_alone(content: dict[str, Any]) -> None:
    bodies = content["paths"][ROUTES["classify"]]["post"]["requestBody"]["content"]
    for name in ("precision", "precision_min", "precision_max"):
        types = [each["type"] for each in bodies["application/json"]["schema"]["properties"][name]["anyOf"]]
        assert types == ["string", "integer"]
        assert bodies["multipart/form-data"]["schema"]["properties"][name]["type"] == "string"


def test_operations_have_short_names(content: dict[str, Any]) -> None:
    operations = {
        f"{method} {path}": operation["operationId"]
        for path, methods in content["paths"].items()
        for method, operation in methods.items()
    }
    assert len(set(operations.values())) == len(operations)
    assert {operations[f"post {path}"] for path in ROUTES.values()} == set(TASKS)
    assert all(re.fullmatch("[a-z]+(_[a-z]+){0,2}", name) for name in operations.values()), operations


def test_problems_are_components_by_name(content: dict[str, Any]) -> None:
    components = content["components"]["schemas"]
    listed = {name: schema for name, schema in components.items() if name.endswith("Problem")}
    types = {schema["properties"]["type"]["const"] for schema in listed.values()}
    assert types == {URN + problem.name for problem in TABLE.values()}
    assert len(types) == len(listed)
    assert "WidthNotOfferedProblem" in listed
    assert set(listed["TooLargeProblem"]["properties"]) - set(listed["TooLargeProblem"]["required"]) == {
        "limit_bytes", "limit_pixels",
    }  # fmt: skip


def test_answers_may_grow(content: dict[str, Any]) -> None:
    assert not [name for name, schema in content["components"]["schemas"].items() if "additionalProperties" in schema]
