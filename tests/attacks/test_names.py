"""Model names, paths, methods and headers that nobody should send."""

import json
import socket
from urllib.parse import quote

import pytest

from tests.serving import PATH, Running, check_problem, png

NAMES = [
    "nope", "TINY", "tiny ", " ", ".", "..", "...", "tiny.safetensors", "%00", "\x00", "é", "x" * 5000, "null", "*",
    "tiny\n", "{model}",
]  # fmt: skip


def send(
    server: Running, method: str, target: str, *lines: str, body: bytes = b""
) -> tuple[int, dict[str, str], bytes]:
    """Send a request line as it is: a client library would tidy it up."""
    head = [f"{method} {target} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *lines, "", ""]
    return server.raw("\r\n".join(head).encode("latin-1") + body)


@pytest.mark.parametrize("name", NAMES)
def test_unknown_models(server: Running, name: str) -> None:
    for target, method in ((f"/v1/models/{quote(name)}/classify", "POST"), (f"/v1/models/{quote(name)}", "GET")):
        status, headers, body = send(server, method, target, body=png() if method == "POST" else b"")
        assert status == 404
        document = check_problem(headers, json.loads(body), 404, "model-not-found")
        assert document["models"] == ["tiny"]
        assert "x" * 41 not in document["detail"]
    server.good()


@pytest.mark.parametrize(
    "target",
    [
        "/v1/models/../classify",
        "/v1/models/../../etc/passwd/classify",
        "/v1/models/%2e%2e/classify",
        "/v1/models/%2E%2E%2Ftiny/classify",
        "/v1/models/..%2f..%2fetc%2fpasswd/classify",
        "/v1/models/tiny%2f../classify",
        "/v1/models/..%5c..%5cwindows/classify",
        "/v1/models/%252e%252e/classify",
        "/v1/models/tiny/../tiny/classify",
        "/v1/models//classify",
        "/v1/models/tiny/classify/",
        "/v1/models/tiny%00/classify",
        "//v1/models/tiny/classify",
        "/v1/models/tiny;x/classify",
        "/",
        "/v1",
        "/v1/models/tiny/describe",
        "/v1/models/tiny/",
        "/docs",
        "/redoc",
        "/favicon.ico",
    ],
)
def test_paths_that_lead_nowhere(server: Running, target: str) -> None:
    status, headers, body = send(server, "POST", target, body=png())
    assert status == 404
    name = json.loads(body)["type"].rsplit(":", 1)[1]
    assert name in ("model-not-found", "not-found")
    check_problem(headers, json.loads(body), 404, name)
    server.good()


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_methods_that_are_not_allowed(server: Running, method: str) -> None:
    status, headers, body = send(server, method, PATH)
    assert status == 405
    assert headers["allow"] == "POST"
    assert check_problem(headers, json.loads(body), 405, "method")["allowed"] == ["POST"]
    server.good()


@pytest.mark.parametrize("method", ["BREW", "post", "CONNECTX"])
def test_methods_that_http_does_not_have(server: Running, method: str) -> None:
    status, headers, body = send(server, method, PATH)
    assert status == 400
    assert headers["connection"] == "close"
    assert body == b"Invalid HTTP request received."
    server.good()


@pytest.mark.parametrize(
    ("path", "status"),
    [(PATH, 405), ("/nope", 404)]
    + [
        (path, 200) for path in ("/v1/models", "/v1/models/tiny", "/v2/health/live", "/v2", "/metrics", "/openapi.json")
    ],
)
def test_head_answers_as_get_does_without_a_body(server: Running, path: str, status: int) -> None:
    answer = server.client.head(path)
    assert (answer.status_code, answer.content) == (status, b"")
    assert answer.headers["content-type"] == server.client.get(path).headers["content-type"]
    server.good()


def test_a_path_with_two_methods_allows_both(server: Running) -> None:
    server.refused(server.client.post("/v1/policy"), 405, "method", allowed=["GET", "HEAD", "PUT"])


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/models/tiny", "/v1/models/tiny/ladder", "/v2/health/ready", "/metrics"]
)
def test_only_get_where_nothing_is_sent(server: Running, path: str) -> None:
    server.refused(server.client.post(path, content=png()), 405, "method", allowed=["GET", "HEAD"])


def test_an_unknown_model_has_no_ladder(server: Running) -> None:
    server.refused(server.client.get("/v1/models/nope/ladder"), 404, "model-not-found")


@pytest.mark.parametrize(
    "request_line",
    [
        b"\r\n\r\n",
        b"x\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/x\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"GET /\xff HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_not_http(server: Running, request_line: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 5) as connection:
        connection.sendall(request_line)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(1000)
        assert not answer or answer.startswith(b"HTTP/1.1 400")
    server.good()


def test_headers_beyond_measure(server: Running) -> None:
    status, _, _ = send(server, "POST", PATH, "X-Long: " + "x" * 100_000)
    assert status in (400, 431)
    server.good()


@pytest.mark.parametrize("name", ["Precision", "X-Request-Id", "Content-Type", "Device-Profile", "Content-Encoding"])
def test_header_values_of_any_bytes(server: Running, name: str) -> None:
    for value in ("\xff\xfe", "é" * 100, '"; drop', "a\tb", "x" * 30_000):
        status, headers, body = send(server, "POST", PATH, f"{name}: {value}", body=png())
        assert status in (200, 400, 415)
        assert "x" * 129 not in str(headers)
        assert b"x" * 41 not in body
    server.good()
