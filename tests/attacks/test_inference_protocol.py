"""Hostile requests of the Open Inference Protocol. Each is refused by name and the server goes on."""

import base64
import json
import socket
import struct
import threading
from typing import Any

import pytest
from PIL import Image

from server.tensors import HEADER_LENGTH
from tests.serving import DEADLINE_S, Running, check_problem, encode, png, read_answer, wait_until

MODEL = "/v2/models/tiny"
INFER = f"{MODEL}/infer"
LIMIT_BYTES = 200_000
BASE64 = base64.b64encode(png()).decode()
IMAGE = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [BASE64]}


def body(**changes: Any) -> dict[str, Any]:
    return {"inputs": [IMAGE], **changes}


def tensor(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{**IMAGE, **changes}]}


def head(*lines: str, target: str = INFER) -> bytes:
    return "\r\n".join([f"POST {target} HTTP/1.1", "Host: x", *lines, "", ""]).encode("latin-1")


def in_binary(server: Running, content: bytes, *lengths: str) -> tuple[int, dict[str, str], bytes]:
    lines = [f"{HEADER_LENGTH}: {length}" for length in lengths]
    return server.raw(head(f"Content-Length: {len(content)}", *lines) + content)


@pytest.mark.parametrize(
    "length", ["-1", "x", "", "1.5", "0x10", "+5", "1e3", "99999999", "9" * 19, "9" * 40, "\xb2", "1,2", " "]
)
def test_header_lengths_that_are_none(server: Running, length: str) -> None:
    status, headers, content = in_binary(server, json.dumps(body()).encode(), length)
    assert status == 400
    check_problem(headers, json.loads(content), 400, "bad-request")
    server.good()


def test_two_header_lengths(server: Running) -> None:
    content = json.dumps(body()).encode()
    for lengths in ((str(len(content)),) * 2, ("0", str(len(content)))):
        status, headers, answer = in_binary(server, content, *lengths)
        assert status == 400
        check_problem(headers, json.loads(answer), 400, "bad-request")
    server.good()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\x00", b"\xff", b'{"inputs": [], "inputs": []}'])
@pytest.mark.parametrize("json_only", [True, False])
def test_bodies_that_are_no_request(server: Running, content: bytes, json_only: bool) -> None:
    headers = {} if json_only else {HEADER_LENGTH: str(len(content))}
    if not content and not json_only:
        return
    server.refused(server.client.post(INFER, content=content, headers=headers), 400, "bad-request")


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", png()[:400]])
def test_raw_bodies_that_are_no_image(server: Running, content: bytes) -> None:
    answer = server.client.post(INFER, content=content, headers={HEADER_LENGTH: "0"})
    status, problem = (422, "undecodable-image") if content else (400, "bad-request")
    server.refused(answer, status, problem)


@pytest.mark.parametrize("depth", [50, 120, 90_000])
@pytest.mark.parametrize("place", ["data", "shape", "parameters", "id"])
def test_json_nested_deeply(server: Running, depth: int, place: str) -> None:
    nested = b"[" * depth + b"]" * depth
    text = json.dumps(tensor(**{place: "HERE"}) if place in ("data", "shape") else body(**{place: "HERE"})).encode()
    answer = server.client.post(INFER, content=text.replace(b'"HERE"', nested))
    assert answer.status_code == 400
    server.good()


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [-1]}, {"shape": [0]}, {"shape": [2**63]}, {"shape": [2**32, 2**32]}, {"shape": [10**4000]},
        {"shape": [1] * 5000}, {"shape": [1, 2]}, {"shape": [2]}, {"shape": "1"}, {"datatype": "OBJECT"},
        {"datatype": "FP64"}, {"datatype": None}, {"name": "../image"}, {"name": "x" * 10_000}, {"data": [4]},
        {"data": [BASE64, BASE64]}, {"data": None}, {"datatype": "UINT8", "shape": [1, 16, 16, 3], "data": [1] * 767},
        {"datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [1, 2, -3]},
        {"datatype": "UINT8", "shape": [3], "data": [1] * 3},
        {"datatype": "FP32", "shape": [1, 3, 16, 16], "data": ["NaN"] * 768},
        {"datatype": "INT8", "shape": [1, 3, 16, 16], "data": [128] * 768},
    ],
)  # fmt: skip
def test_tensors_that_are_none(server: Running, changes: dict[str, Any]) -> None:
    document = server.refused(server.client.post(INFER, json=tensor(**changes)), 400, "bad-tensor")
    assert len(document["detail"]) < 400
    assert len(document["tensor"]) <= 40


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_numbers_that_are_none(server: Running, number: bytes) -> None:
    document = tensor(datatype="FP32", shape=[1, 3, 16, 16], data=[0.5] * 767 + [7777])
    answer = server.client.post(INFER, content=json.dumps(document).encode().replace(b"7777", number))
    assert answer.status_code == 400
    server.good()


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**32 - 1])
def test_elements_whose_length_is_a_lie(server: Running, length: int) -> None:
    binary = struct.pack("<I", length) + png()
    document = {"inputs": [{**IMAGE, "data": None, "parameters": {"binary_data_size": len(binary)}}]}
    text = json.dumps(document).encode()
    answer = server.client.post(INFER, content=text + binary, headers={HEADER_LENGTH: str(len(text))})
    server.refused(answer, 400, "bad-tensor", tensor="image")


@pytest.mark.parametrize(
    "text", ["QUI", "****", "data:image/png,x", "data:image/png;base64", "\x00", "\ud800", "é", "", " " * 1000]
)
def test_images_that_are_not_base64(server: Running, text: str) -> None:
    server.refused(server.client.post(INFER, content=json.dumps(tensor(data=[text])).encode()), 400, "bad-request")


def test_strings_of_any_kind_as_an_id(server: Running) -> None:
    for given in ("\x00", '"},{"', "\r\nX-Injected: 1", "é" * 128, " "):
        answer = server.client.post(INFER, content=json.dumps(body(id=given)).encode())
        assert answer.status_code == 200
        assert json.loads(answer.content)["id"] == given
        assert "x-injected" not in answer.headers
    server.refused(server.client.post(INFER, json=body(id="x" * 129)), 400, "bad-request")
    half = json.dumps(body(id="\ud800")).encode()  # of a character
    server.refused(server.client.post(INFER, content=half), 400, "bad-request")


def test_as_many_outputs_as_a_body_holds(server: Running) -> None:
    outputs = [{"name": f"o{i}"} for i in range(8000)]
    server.refused(server.client.post(INFER, json=body(outputs=outputs)), 400, "bad-tensor")
    server.refused(server.client.post(INFER, json=body(outputs=[{"name": "output"}] * 5000)), 400, "bad-request")


def test_as_many_images_as_a_body_holds(server: Running) -> None:
    count = LIMIT_BYTES // 5 - 1000
    binary = struct.pack("<IB", 1, 7) * count
    document = {"inputs": [{**IMAGE, "shape": [count], "data": None, "parameters": {"binary_data_size": len(binary)}}]}
    text = json.dumps(document).encode()
    answer = server.client.post(INFER, content=text + binary, headers={HEADER_LENGTH: str(len(text))})
    server.refused(answer, 400, "bad-tensor", tensor="image")


def test_a_picture_of_too_many_pixels_among_others(server: Running) -> None:
    large = base64.b64encode(encode(Image.new("L", (1100, 1000)))).decode()
    answer = server.client.post(INFER, json=tensor(shape=[2], data=[BASE64, large]))
    server.refused(answer, 413, "too-large", limit_pixels=1_000_000)


def test_a_body_over_the_limit(server: Running) -> None:
    for headers in ({}, {HEADER_LENGTH: "0"}, {HEADER_LENGTH: "100"}):
        answer = server.client.post(INFER, content=b"x" * (LIMIT_BYTES + 1), headers=headers)
        server.refused(answer, 413, "too-large", limit_bytes=LIMIT_BYTES)
    answer = server.client.post(INFER, content=(b"x" * 10_000 for _ in range(30)))
    server.refused(answer, 413, "too-large", limit_bytes=LIMIT_BYTES)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])
def test_compressed_bodies(server: Running, encoding: str) -> None:
    answer = server.client.post(INFER, json=body(), headers={"Content-Encoding": encoding})
    server.refused(answer, 415, "media-type", allowed=["identity"])


def test_a_body_that_stops_coming(server: Running) -> None:
    status, headers, answer = server.raw(head("Content-Length: 1000", f"{HEADER_LENGTH}: 500") + b"{")
    assert status == 408
    check_problem(headers, json.loads(answer), 408, "body-timeout")
    server.good()


def test_a_client_that_leaves_in_the_middle(server: Running) -> None:
    unanswered = 'bitgear_rejected_total{model="tiny",reason="unanswered"}'

    def count() -> float:
        lines = [line for line in server.client.get("/metrics").text.splitlines() if line.startswith(unanswered)]
        return float(lines[0].split()[-1]) if lines else 0

    before = count()
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE_S) as connection:
        connection.sendall(head("Content-Length: 1000", f"{HEADER_LENGTH}: 500") + b"{")
    wait_until(lambda: count() == before + 1, "the request is counted as unanswered")
    server.good()


@pytest.mark.parametrize(
    "target",
    [
        "/v2/models/../infer", "/v2/models/%2e%2e/infer", "/v2/models/..%2f..%2fetc%2fpasswd/infer",
        "/v2/models/tiny%2f../infer", "/v2/models//infer", "/v2/models/tiny%00/infer", "/v2/models/tiny/infer/",
        "/v2/models/tiny/versions//infer", "/v2/models/tiny/versions/../infer", "/v2/models/tiny/versions/%2e%2e/infer",
        "/v2/models/TINY/infer", "/v2/models/tiny/versions", "/v2/models/tiny/versions/1/", "/v2/", "//v2",
        "/v2/models/tiny/generate", "/v2/models/%F0%9F%90%88/infer", "/v2/models/" + "x" * 5000 + "/infer",
    ],
)  # fmt: skip
def test_paths_that_lead_nowhere(server: Running, target: str) -> None:
    content = json.dumps(body()).encode()
    status, headers, answer = server.raw(head(f"Content-Length: {len(content)}", target=target) + content)
    document = json.loads(answer)
    assert status in (404, 405)
    assert document["type"].rsplit(":", 1)[1] in ("model-not-found", "not-found", "method")
    check_problem(headers, document, status, document["type"].rsplit(":", 1)[1])
    assert "x" * 41 not in document["detail"]
    server.good()


@pytest.mark.parametrize("path", ["/v2", "/v2/models", MODEL, f"{MODEL}/ready"])
def test_only_get_where_nothing_is_sent(server: Running, path: str) -> None:
    server.refused(server.client.post(path, json=body()), 405, "method", allowed=["GET", "HEAD"])


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_only_post_where_tensors_are_sent(server: Running, method: str) -> None:
    server.refused(server.client.request(method, INFER), 405, "method", allowed=["POST"])


def test_good_and_bad_requests_at_once_do_not_mix(server: Running) -> None:
    """Eight clients, half of whom send nonsense: everybody gets the answer to what they sent."""
    wrong: list[str] = []

    def ask(number: int) -> None:
        for turn in range(10):
            given = f"{number}.{turn}"
            if number % 2:
                answer = server.client.post(INFER, json=body(id=given, parameters={"precision": 2 + turn % 7}))
                document = answer.json()
                if (document.get("id"), document["parameters"]["precision"]) != (given, str(2 + turn % 7)):
                    wrong.append(answer.text)
            else:
                answer = server.client.post(INFER, json=tensor(shape=[turn + 2]), headers={"X-Request-Id": given})
                if answer.status_code != 400 or answer.json()["instance"] != given:
                    wrong.append(answer.text)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert not wrong


def test_a_request_cut_off_after_its_header_length_says_so(server: Running) -> None:
    content = json.dumps(body()).encode()
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE_S) as connection:
        connection.sendall(head(f"Content-Length: {len(content)}", f"{HEADER_LENGTH}: {len(content) + 1}") + content)
        status, headers, answer = read_answer(connection)
    assert status == 400
    check_problem(headers, json.loads(answer), 400, "bad-request")
    server.good()
