import pytest

from server.errors import NotAcceptable
from server.negotiation import preferred_type
from tests.serving import PATH, Running, png

BOTH = ("application/json", "application/octet-stream")


@pytest.mark.parametrize(
    ("accept", "preferred"),
    [
        ([], BOTH[0]),
        (["*/*"], BOTH[0]),
        (["application/octet-stream"], BOTH[1]),
        (["application/json, application/octet-stream"], BOTH[0]),
        (["application/json;q=0.5, application/octet-stream"], BOTH[1]),
        (["text/html, application/*;q=0.8"], BOTH[0]),
        (["Application/Octet-Stream ; q=1"], BOTH[1]),
        (["application/json;q=0, */*"], BOTH[1]),
        (["application/json;q=nonsense"], BOTH[0]),
        (["text/html", "application/octet-stream"], BOTH[1]),
        (["", "nonsense"], BOTH[0]),
    ],
)
def test_what_is_preferred(accept: list[str], preferred: str) -> None:
    assert preferred_type([(b"host", b"x"), *((b"accept", each.encode()) for each in accept)], BOTH) == preferred


@pytest.mark.parametrize("accept", ["text/html", "application/json;q=0, application/octet-stream;q=0", "image/*"])
def test_what_is_not_acceptable(accept: str) -> None:
    with pytest.raises(NotAcceptable, match="application/json or application/octet-stream"):
        preferred_type([(b"accept", accept.encode())], BOTH)


def test_a_server_refuses_what_nobody_would_accept(server: Running) -> None:
    answer = server.client.post(PATH, content=png(), headers={"Accept": "text/html"})
    server.refused(answer, 406, "not-acceptable", allowed=["application/json"])


def test_binary_outputs_for_whoever_accepts_them_best(server: Running) -> None:
    def infer(**parameters: object) -> str:
        shape = [1, 3, server.master.input.height_px, server.master.input.width_px]
        data = [0.0] * (3 * shape[2] * shape[3])
        body = {
            "inputs": [{"name": "image", "datatype": "FP32", "shape": shape, "data": data}],
            "parameters": parameters,
        }
        answer = server.client.post("/v2/models/tiny/infer", json=body, headers={"Accept": BOTH[1]})
        assert answer.status_code == 200, answer.text
        return str(answer.headers["content-type"])

    assert infer() == BOTH[1]
    assert infer(binary_data_output=False) == BOTH[0]
