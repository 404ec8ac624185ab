"""Bodies that are empty, too large, too slow, malformed or never end. Each is refused and the server goes on."""

import base64
import json
import socket
import threading
import time

import httpx
import pytest

from server.forms import MAX_PARTS
from tests.serving import DEADLINE_S, PATH, Running, check_problem, next_answer, png, read_answer, wait_until

LIMIT_BYTES = 200_000
PNG = {"Content-Type": "image/png"}
JSON = {"Content-Type": "application/json"}
BASE64 = base64.b64encode(png()).decode()


@pytest.mark.parametrize("headers", [{}, PNG, JSON, {"Content-Type": "multipart/form-data; boundary=x"}])
def test_an_empty_body(server: Running, headers: dict[str, str]) -> None:
    server.refused(server.client.post(PATH, content=b"", headers=headers), 400, "bad-request")


def test_no_body_at_all(server: Running) -> None:
    status, headers, body = server.raw(f"POST {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert status == 400
    check_problem(headers, json.loads(body), 400, "bad-request")
    server.good()


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"not json",
        b'\xff\xfe{"image": ""}',
        b'{"image": "\xff"}',
        b"[]",
        b'"image"',
        b"null",
        b"{}",
        b'{"image": null}',
        b'{"image": 4}',
        b'{"image": ["x"]}',
        b'{"image": ""}',
        b'{"image": "data:image/png;base64,"}',
        b'{"image": "data:image/png,%00"}',
        b'{"image": "data:image/png;base64"}',
        b'{"image": "****"}',
        b'{"image": "QUJD\\nQUJD"}',
        b'{"image": "QUI"}',
        '{"image": "QUJDé"}'.encode(),
        b'{"image": "QUJD", "image": "QUJD"}',
        b'{"image": "QUJD", "precision": 4, "precision": 4}',
        b'{"image": "QUJD", "precision": NaN}',
        b'{"image": "QUJD", "precision": -Infinity}',
        b'{"image": "QUJD", "precision": ' + b"9" * 5000 + b"}",
        b'{"image": ' + b"[" * 90_000 + b"]" * 90_000 + b"}",
        b'{"a":' * 30_000,
        b'{"image": "QUJD"} x',
        b"\x00",
    ],
)
def test_malformed_json(server: Running, body: bytes) -> None:
    server.refused(server.client.post(PATH, content=body, headers=JSON), 400, "bad-request")


@pytest.mark.parametrize("value", [[[[4]]], {"a": 4}, 4.0, True, None])
def test_json_values_of_another_type(server: Running, value: object) -> None:
    answer = server.client.post(PATH, json={"image": BASE64, "precision": value})
    server.refused(answer, 400, "bad-parameter", parameter="precision")


def _multipart(*parts: bytes, end: bytes = b"--x--\r\n") -> bytes:
    return b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + end


def _part(name: str, content: bytes) -> bytes:
    return f'Content-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + content


@pytest.mark.parametrize(
    "body",
    [
        b"no boundary",
        b"--x",
        b"--x\r\n",
        b"--x--\r\n",
        _multipart(_part("image", png()), end=b""),
        _multipart(_part("image", png()), end=b"--x"),
        _multipart(_part("image", b"")),
        _multipart(_part("image", png()), _part("image", png())),
        _multipart(_part("precision", b"4")),
        _multipart(b"Content-Type: image/png\r\n\r\n" + png()),
        _multipart(b"\r\n" + png()),
        _multipart(b"A: " + b"b" * 100_000 + b"\r\n\r\n" + png()),
        _multipart(*[b"A: b\r\n" * 100 + _part("image", png())]),
        _multipart(*[_part("precision", b"4")] * (MAX_PARTS + 1)),
        _multipart(*[_part("precision", b"4")] * 3000),
    ],
)
def test_malformed_multipart(server: Running, body: bytes) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    server.refused(server.client.post(PATH, content=body, headers=headers), 400, "bad-request")


@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary=", None])
def test_multipart_without_a_usable_boundary(server: Running, content_type: str | None) -> None:
    headers = {"Content-Type": content_type or "multipart/form-data; boundary=" + "x" * 5000}
    answer = server.client.post(PATH, content=_multipart(_part("image", png())), headers=headers)
    server.refused(answer, 400, "bad-request")


@pytest.mark.parametrize("content", [b"4" * 2000, b"\xff"])
def test_multipart_parameters_that_are_no_text(server: Running, content: bytes) -> None:
    body = _multipart(_part("image", png()), _part("precision", content))
    answer = server.client.post(PATH, content=body, headers={"Content-Type": "multipart/form-data; boundary=x"})
    server.refused(answer, 400, "bad-parameter", parameter="precision")


@pytest.mark.parametrize(
    "content_type", ["text/plain", "image/gif", "application/x-www-form", "", "image", "image/*", "\xff"]
)
def test_content_types_that_are_not_accepted(server: Running, content_type: str) -> None:
    headers = [(b"Content-Type", content_type.encode("latin-1"))]
    document = server.refused(server.client.post(PATH, content=png(), headers=headers), 415, "media-type")
    assert "image/png" in document["allowed"]


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, gzip", "x"])
def test_encodings_that_are_not_accepted(server: Running, encoding: str) -> None:
    answer = server.client.post(PATH, content=png(), headers={**PNG, "Content-Encoding": encoding})
    server.refused(answer, 415, "media-type", allowed=["identity"])


def test_the_identity_encoding_is_accepted(server: Running) -> None:
    answer = server.client.post(PATH, content=png(), headers={**PNG, "Content-Encoding": "identity"})
    assert answer.status_code == 200


def test_a_body_of_the_limit_is_read_and_one_more_byte_is_not(server: Running) -> None:
    filler = b"\x00" * (LIMIT_BYTES - len(png()))
    assert server.client.post(PATH, content=png() + filler, headers=PNG).status_code == 200
    answer = server.client.post(PATH, content=png() + filler + b"\x00", headers=PNG)
    server.refused(answer, 413, "too-large", limit_bytes=LIMIT_BYTES)


def test_a_body_far_over_the_limit_still_gets_its_answer(server: Running) -> None:
    answer = server.client.post(PATH, content=b"\x00" * 50_000_000, headers=PNG)
    server.refused(answer, 413, "too-large", limit_bytes=LIMIT_BYTES)


def test_a_chunked_body_over_the_limit(server: Running) -> None:
    answer = server.client.post(PATH, content=(b"\x00" * 10_000 for _ in range(100)), headers=PNG)
    server.refused(answer, 413, "too-large", limit_bytes=LIMIT_BYTES)


def test_a_chunked_body_within_the_limit(server: Running) -> None:
    image = png()
    answer = server.client.post(PATH, content=(image[i : i + 1] for i in range(len(image))), headers=PNG)
    assert answer.status_code == 200


def head(*lines: str) -> bytes:
    return "\r\n".join([f"POST {PATH} HTTP/1.1", "Host: x", "Content-Type: image/png", *lines, "", ""]).encode()


@pytest.mark.parametrize("length", ["99999999999", "9" * 19, "200001"])
def test_a_declared_length_over_the_limit_is_refused_before_anything_is_sent(server: Running, length: str) -> None:
    status, headers, body = server.raw(head(f"Content-Length: {length}"))
    assert status == 413
    check_problem(headers, json.loads(body), 413, "too-large")
    server.good()


def test_an_unknown_profile_in_a_header_is_refused_before_anything_is_sent(server: Running) -> None:
    status, headers, body = server.raw(head("Content-Length: 1000", "Device-Profile: none"))
    assert status == 400
    check_problem(headers, json.loads(body), 400, "bad-parameter")
    assert json.loads(body)["parameter"] == "device_profile"


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: -1"],
        ["Content-Length: x"],
        ["Content-Length: 1", "Content-Length: 2"],
        ["Content-Length: 1, 2"],
        ["Content-Length: " + "9" * 5000],
        ["Transfer-Encoding: gzip"],
        ["Transfer-Encoding: chunked, chunked"],
    ],
)
def test_lengths_that_http_does_not_allow(server: Running, lines: list[str]) -> None:
    status, _, _ = server.raw(head(*lines))
    assert status in (400, 413, 501)
    server.good()


def test_a_body_that_never_ends_is_given_up(server: Running) -> None:
    """One byte now and then: each arrives in time, the body never does."""
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE_S) as connection:
        connection.sendall(head("Content-Length: 1000"))
        stop = threading.Event()

        def drip() -> None:
            try:
                while not stop.wait(0.05):
                    connection.sendall(b"x")
            except OSError:
                pass  # the server has closed the connection

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            status, headers, body = read_answer(connection)
            document = check_problem(headers, json.loads(body), 408, "body-timeout")
            assert status == 408
            assert document["timeout_s"] == 1
            assert headers["connection"] == "close"
            dripping.join(DEADLINE_S)  # ends by itself: the server does not listen for ever
            assert not dripping.is_alive()
        finally:
            stop.set()
            dripping.join()
    server.good()


def test_a_body_that_stops_coming_is_given_up(server: Running) -> None:
    start_s = time.monotonic()
    status, headers, body = server.raw(head("Content-Length: 1000") + b"x")
    assert status == 408
    assert time.monotonic() - start_s > 0.9
    check_problem(headers, json.loads(body), 408, "body-timeout")
    server.good()


def test_an_endless_body_to_a_path_that_wants_none_is_cut_off(server: Running) -> None:
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE_S) as connection:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        status, headers, _ = read_answer(connection)
        assert (status, headers["connection"]) == (200, "close")
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            _send_for_ever(connection, b"400\r\n" + b"x" * 1024 + b"\r\n")
    server.good()


def _send_for_ever(connection: socket.socket, data: bytes) -> None:
    end_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < end_s:
        connection.sendall(data)


@pytest.mark.parametrize("sent", [b"", b"x", b"x" * 150_000])
def test_a_client_that_leaves_in_the_middle_of_its_body(server: Running, sent: bytes) -> None:
    unanswered = 'bitgear_rejected_total{model="tiny",reason="unanswered"}'

    def count() -> float:
        lines = [line for line in server.client.get("/metrics").text.splitlines() if line.startswith(unanswered)]
        return float(lines[0].split()[-1]) if lines else 0

    before = count()
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE_S) as connection:
        connection.sendall(head("Content-Length: 190000") + sent)
    wait_until(lambda: count() == before + 1, "the request is counted as unanswered")
    assert 'bitgear_in_flight{model="tiny"} 0.0' in server.client.get("/metrics").text
    server.good()


def test_a_client_that_leaves_before_its_answer(server: Running) -> None:
    image = png()
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", server.port), DEADLINE_S) as connection:
            connection.sendall(head(f"Content-Length: {len(image)}") + image)
    server.good()
    idle = 'bitgear_in_flight{model="tiny"} 0.0'
    wait_until(lambda: idle in server.client.get("/metrics").text, "nothing in flight")


def test_waiting_for_permission_to_send(server: Running) -> None:
    image = png()
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE_S) as connection:
        connection.sendall(head("Expect: 100-continue", f"Content-Length: {len(image)}"))
        assert connection.recv(100).startswith(b"HTTP/1.1 100")
        connection.sendall(image)
        assert read_answer(connection)[0] == 200
    status, headers, _ = server.raw(head("Expect: 100-continue", "Content-Length: 999999"))
    assert (status, headers["connection"]) == (413, "close")
    server.good()


def test_a_slow_client_does_not_hold_up_the_others(server: Running) -> None:
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE_S) as connection:
        connection.sendall(head("Content-Length: 1000") + b"x")
        for _ in range(5):
            server.good()
        assert read_answer(connection)[0] == 408


def test_requests_sent_ahead_are_answered_in_order(server: Running) -> None:
    image = png()
    request = head(f"Content-Length: {len(image)}") + image
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE_S) as connection:
        connection.sendall(request.replace(b"Host: x", b"Host: x\r\nPrecision: 4") * 2 + request)
        with connection.makefile("rb") as stream:
            answers = [next_answer(stream) for _ in range(3)]
    assert [status for status, _, _ in answers] == [200, 200, 200]
    assert [json.loads(body)["precision"]["served"] for _, _, body in answers] == [4, 4, 8]


def test_an_early_refusal_reaches_a_client_that_sends_everything_first(server: Running) -> None:
    with httpx.Client(base_url=server.client.base_url, timeout=DEADLINE_S) as client:
        for _ in range(5):
            answer = client.post("/v1/models/nope/classify", content=b"\x00" * 5_000_000, headers=PNG)
            server.refused(answer, 404, "model-not-found", models=["tiny"])
