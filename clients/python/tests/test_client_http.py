"""Both clients over httpx with the network replaced. Each test of behaviour runs once for either."""

import asyncio
import inspect
import io
import multiprocessing
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import bitgear_client
import httpx
import numpy
import pytest
from bitgear_client import (
    AsyncClient,
    BitgearClientError,
    Client,
    ClientUnusable,
    ConnectionFailed,
    ImageInputError,
    InputError,
    NotReady,
    PrecisionNotOffered,
    ProtocolError,
    Timeout,
    TransportError,
)
from bitgear_client.client import CERTIFICATE_VARIABLES, PROXY_VARIABLES
from bitgear_client.protocol import classify_call, detect_call, segment_call
from PIL import Image

NOT_READY = {"type": "urn:bitgear:problem:not-ready", "detail": "starting", "retry_after_s": 1}


class Server:
    """Answers with ``replies`` in turn, the last one for ever; keeps the ``requests``."""

    def __init__(self, *replies):
        self.replies = list(replies)
        self.requests = []

    def __call__(self, request):
        self.requests.append(request)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        return httpx.Response(200, json=reply) if isinstance(reply, dict) else reply


@pytest.fixture(params=["sync", "async"])
def call(request, fake_time):
    """``call(server, method, *args)`` makes one call with a client of either kind and returns its result."""

    def sync_call(server, method, *args, options=None, **kwargs):
        transport = httpx.MockTransport(server)
        parts = {"clock": fake_time.clock, "sleep": fake_time.sleep, "random": fake_time.random}
        with Client(transport=transport, **parts, **(options or {})) as client:
            return getattr(client, method)(*args, **kwargs)

    def async_call(server, method, *args, options=None, **kwargs):
        async def main():
            transport = httpx.MockTransport(server)
            parts = {"clock": fake_time.clock, "sleep": fake_time.async_sleep, "random": fake_time.random}
            async with AsyncClient(transport=transport, **parts, **(options or {})) as client:
                return await getattr(client, method)(*args, **kwargs)

        return asyncio.run(main())

    return sync_call if request.param == "sync" else async_call


def _busy(headers=None):
    return httpx.Response(503, json=NOT_READY, headers=headers)


def test_classify_end_to_end(call, classify_json):
    server = Server(classify_json)
    result = call(server, "classify", b"image", precision=4, top_k=2, request_id="r-1")
    assert (result.top.class_name, result.precision.served) == ("cat", 4)
    (request,) = server.requests
    assert request.method == "POST"
    assert request.url == "http://127.0.0.1:8000/v1/models/resnet20-cifar10/classify?top_k=2"
    assert request.content == b"image"
    assert request.headers["precision"] == "4"
    assert request.headers["x-request-id"] == "r-1"
    assert request.headers["content-type"] == "application/octet-stream"
    assert request.headers["accept"] == "application/json"
    assert request.headers["user-agent"] == f"bitgear-client/{bitgear_client.__version__}"


def test_every_argument_arrives(call, classify_json):
    server = Server(classify_json)
    call(server, "classify", b"", "a/b", precision="auto", precision_min=3, precision_max=6, device_profile="edge")
    (request,) = server.requests
    assert request.url.raw_path == b"/v1/models/a%2Fb/classify"
    sent = [request.headers[name] for name in ("precision", "precision-min", "precision-max", "device-profile")]
    assert sent == ["auto", "3", "6", "edge"]


def test_detect_end_to_end(call, detect_json):
    server = Server(detect_json)
    result = call(server, "detect", b"image", "boxes", precision=4, confidence=0.5, classes=["car"])
    assert (result.detections[0].class_name, result.precision.served) == ("car", 4)
    (request,) = server.requests
    assert request.url == "http://127.0.0.1:8000/v1/models/boxes/detect?confidence=0.5&classes=car"
    assert (request.content, request.headers["precision"]) == (b"image", "4")


def test_segment_end_to_end(call, segment_json):
    server = Server(segment_json)
    result = call(server, "segment", b"image", "areas", precision=4, mask_format="png")
    assert (result.mask.png, result.classes[0].pixels) == (b"\x89PNG", 768)
    assert "PNG'" not in repr(result)  # of a picture that would be thousands of characters
    (request,) = server.requests
    assert request.url == "http://127.0.0.1:8000/v1/models/areas/segment?mask_format=png"
    assert (request.content, request.headers["precision"]) == (b"image", "4")


def test_every_form_of_image_is_sent(call, classify_json, tmp_path):
    array = numpy.arange(12, dtype=numpy.uint8).reshape(2, 2, 3)
    image = Image.fromarray(array)
    file = tmp_path / "image.png"
    image.save(file)
    for form in (file, str(file), file.read_bytes(), array, image):
        server = Server(classify_json)
        call(server, "classify", form)
        sent = Image.open(io.BytesIO(server.requests[0].content))
        assert numpy.array_equal(numpy.asarray(sent), array)


def test_a_bad_image_sends_nothing(call):
    server = Server({})
    with pytest.raises(ImageInputError):
        call(server, "classify", "no/such/file.png")
    assert server.requests == []


def test_the_other_calls(call, model_json, details_json, ladder_json):
    assert call(Server({"models": [model_json]}), "models")[0].name == "resnet20-cifar10"
    assert call(Server(details_json), "model", "m").labels == ("airplane", "automobile")
    assert call(Server(ladder_json), "ladder", "m").rungs[0].precision == 8
    assert call(Server({}), "live") is True
    assert call(Server({}), "ready") is True


def test_a_refusal_is_raised_once(call, fake_time):
    refusal = {"type": "urn:bitgear:problem:width-not-offered", "detail": "no 7", "offered_precisions": [8, 4]}
    server = Server(httpx.Response(422, json=refusal, headers={"X-Request-Id": "r-1"}))
    with pytest.raises(PrecisionNotOffered) as caught:
        call(server, "classify", b"", precision=7)
    assert (caught.value.offered_precisions, caught.value.request_id) == ((8, 4), "r-1")
    assert len(server.requests) == 1
    assert fake_time.slept_s == []


def test_it_tries_again_until_it_works(call, classify_json, fake_time):
    server = Server(_busy({"Retry-After": "2"}), httpx.ConnectError("refused"), httpx.Response(429), classify_json)
    assert call(server, "classify", b"image", request_id="r-1").top.class_name == "cat"
    assert fake_time.slept_s == pytest.approx([2.05, 0.1, 0.2])
    assert {(sent.content, sent.headers["x-request-id"]) for sent in server.requests} == {(b"image", "r-1")}


def test_it_gives_up_with_the_last_error(call, fake_time):
    server = Server(httpx.ConnectError("refused"), _busy())
    with pytest.raises(NotReady):
        call(server, "models")
    assert len(server.requests) > 2
    assert 8.0 < sum(fake_time.slept_s) <= 10.0 + 1e-9


def test_retries_can_be_turned_off(call, fake_time):
    server = Server(_busy())
    with pytest.raises(NotReady):
        call(server, "models", options={"retry_budget_s": 0})
    assert (len(server.requests), fake_time.slept_s) == (1, [])


def test_each_call_has_a_budget_of_its_own(fake_time):
    with Client(
        transport=httpx.MockTransport(Server(_busy())),
        clock=fake_time.clock,
        sleep=fake_time.sleep,
        random=fake_time.random,
    ) as client:
        for _ in range(2):
            start_s = fake_time.now_s
            with pytest.raises(NotReady):
                client.models()
            assert fake_time.now_s - start_s > 8.0


def test_health_asks_once(call, fake_time):
    server = Server(_busy({"Retry-After": "1"}))
    assert call(server, "ready") is False
    with pytest.raises(ConnectionFailed):
        call(Server(httpx.ConnectError("refused")), "live")
    assert (len(server.requests), fake_time.slept_s) == (1, [])


EXPECTED_ERRORS = {
    "ConnectTimeout": Timeout,
    "ReadTimeout": Timeout,
    "WriteTimeout": Timeout,
    "PoolTimeout": Timeout,
    "TimeoutException": Timeout,
    "ConnectError": ConnectionFailed,
    "ReadError": ConnectionFailed,
    "WriteError": ConnectionFailed,
    "CloseError": ConnectionFailed,
    "NetworkError": ConnectionFailed,
    "ProxyError": ConnectionFailed,
    "RemoteProtocolError": ProtocolError,
    "LocalProtocolError": TransportError,
    "ProtocolError": TransportError,
    "UnsupportedProtocol": TransportError,
    "TransportError": TransportError,
    "DecodingError": ProtocolError,
    "TooManyRedirects": ProtocolError,
}


@pytest.mark.parametrize(
    "error",
    [
        httpx.RemoteProtocolError("Server disconnected without sending a response."),
        httpx.RemoteProtocolError(
            "peer closed connection without sending complete message body (incomplete chunked read)"
        ),
    ],
)
def test_a_connection_that_is_closed_is_one_that_failed(call, error):
    with pytest.raises(ConnectionFailed):
        call(Server(error), "models", options={"retry_budget_s": 0})


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (httpx.RemoteProtocolError("illegal status line: bytearray(b'SSH-2.0')"), ProtocolError),
        (httpx.ConnectError("[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)"), TransportError),
    ],
)
def test_what_would_fail_again_is_not_tried_again(call, fake_time, error, expected):
    server = Server(error)
    with pytest.raises(expected) as caught:
        call(server, "models")
    assert type(caught.value) is expected
    assert (len(server.requests), fake_time.slept_s) == (1, [])


def _with_subclasses(kind):
    yield kind
    for subclass in kind.__subclasses__():
        yield from _with_subclasses(subclass)


def test_every_error_of_httpx_is_expected():
    known = {kind.__name__ for kind in _with_subclasses(httpx.RequestError) if kind.__module__.startswith("httpx")}
    assert known - {"RequestError"} == EXPECTED_ERRORS.keys()


@pytest.mark.parametrize(("name", "expected"), EXPECTED_ERRORS.items())
def test_every_error_of_httpx_is_mapped(call, name, expected):
    original = getattr(httpx, name)("the reason")
    with pytest.raises(BitgearClientError) as caught:
        call(Server(original), "models", options={"retry_budget_s": 0})
    assert type(caught.value) is expected
    told = {
        "ConnectError": "cannot reach http://127.0.0.1:8000: the reason; is the server running?",
        "ConnectTimeout": "cannot reach http://127.0.0.1:8000: the reason; is the server running?",
    }
    assert str(caught.value) == told.get(name, f"http://127.0.0.1:8000: {name}: the reason")
    assert caught.value.__cause__ is original


@pytest.mark.parametrize(
    ("base_url", "error", "told"),
    [
        (
            "http://host:81/",
            httpx.ConnectError("[Errno 111] Connection refused"),
            "cannot reach http://host:81: connection refused; is the server running?",
        ),
        ("https://me:secret@host/x", httpx.ConnectTimeout(""), "cannot reach https://host/x: connectTimeout; is"),
        ("http://me:secret@host", httpx.ReadTimeout("timed out"), "http://host: ReadTimeout: timed out"),
    ],
)
def test_an_error_of_the_transport_tells_the_address_but_no_password(call, base_url, error, told):
    with pytest.raises(TransportError) as caught:
        call(Server(error), "live", options={"base_url": base_url})
    assert str(caught.value).startswith(told)


def test_a_content_coding_that_does_not_decode(call):
    broken = httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=httpx.ByteStream(b"not gzip"))
    with pytest.raises(ProtocolError, match="DecodingError"):
        call(Server(broken), "models")


def test_a_redirect_is_not_followed(call):
    server = Server(httpx.Response(302, headers={"Location": "http://elsewhere/"}))
    with pytest.raises(ProtocolError, match="302"):
        call(server, "models")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("argument", "variable", "expected"),
    [
        (None, None, "http://127.0.0.1:8000/v1/models"),
        (None, "", "http://127.0.0.1:8000/v1/models"),
        (None, "https://env", "https://env/v1/models"),
        ("http://arg:81", "https://env", "http://arg:81/v1/models"),
        ("http://gateway/bitgear/", None, "http://gateway/bitgear/v1/models"),
    ],
)
def test_base_url(call, monkeypatch, argument, variable, expected):
    monkeypatch.delenv("BITGEAR_URL", raising=False)
    if variable is not None:
        monkeypatch.setenv("BITGEAR_URL", variable)
    server = Server({"models": []})
    call(server, "models", options={"base_url": argument})
    assert server.requests[0].url == expected


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("base_url", ["127.0.0.1:8000", "localhost:8000", "ftp://x", "http://", "http://x:y", "\x00",
                                      "http://a..b", "http://.", f"http://{'a' * 64}", "http://xn--a"])  # fmt: skip
def test_a_base_url_that_cannot_work_is_refused_at_once(kind, base_url):
    with pytest.raises(InputError, match="base_url"):
        kind(base_url)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("value", [-1, "a", [], float("nan"), float("inf"), 1e10, 10**400])
@pytest.mark.parametrize("name", ["timeout_s", "retry_budget_s"])
def test_times_that_cannot_work_are_refused_at_once(kind, name, value):
    with pytest.raises(InputError, match=name):
        kind(**{name: value})


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("wrong", [{"timeout_s": 0}, {"retry_budget_s": None}, {"base_url": b"http://x"}])
def test_what_is_no_value_of_an_argument_is_refused_at_once(kind, wrong):
    (name,) = wrong
    with pytest.raises(InputError, match=name):
        kind(**wrong)


@pytest.fixture
def environment(monkeypatch):
    """``environment(NAME=value)`` sets variables; none of those that name proxies or certificates is set otherwise."""
    for name in (*PROXY_VARIABLES, *CERTIFICATE_VARIABLES):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)

    def set_variables(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_variables


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1"),
        ("http_proxy", "ftp://x"),
        ("HTTPS_PROXY", "http://x:y"),
        ("SSL_CERT_FILE", "/no/such/file"),
        ("SSL_CERT_FILE", __file__),
    ],
)
def test_what_the_environment_says_and_cannot_be_used_is_named(kind, environment, monkeypatch, name, value):
    monkeypatch.setitem(sys.modules, "socksio", None)  # not installed
    environment(**{"NO_PROXY": "x", "SSL_CERT_DIR": "/", name: value})
    others = "NO_PROXY" if name.startswith("SSL") else "SSL"
    with pytest.raises(InputError, match=rf"^(?!.*{others}).*{name}"):
        kind()


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"HTTP_PROXY": "http://me:secret@127.0.0.1:1"}, " through the proxy http://127.0.0.1:1"),
        ({"all_proxy": "127.0.0.1:1"}, " through the proxy http://127.0.0.1:1"),
        ({"HTTP_PROXY": "http://127.0.0.1:1", "NO_PROXY": "127.0.0.1"}, ""),
        ({"HTTPS_PROXY": "http://127.0.0.1:1"}, ""),
    ],
)
def test_a_proxy_that_is_not_there_is_told(environment, variables, told):
    environment(**variables)
    with Client("http://127.0.0.1:2") as client, pytest.raises(ConnectionFailed) as caught:
        client.live()
    assert str(caught.value) == f"cannot reach http://127.0.0.1:2{told}: connection refused; is the server running?"


def test_what_does_not_fit_into_a_url_is_refused(call):
    server = Server({})
    with pytest.raises(InputError, match="URL"):
        call(server, "model", "a" * 70_000)
    with pytest.raises(InputError, match="URL"):
        call(server, "detect", b"", "m", classes=["red"] * 20_000)
    assert server.requests == []


def test_a_closed_client_says_so(fake_time):
    server = Server({})
    client = Client(transport=httpx.MockTransport(server))
    client.close()
    client.close()
    with pytest.raises(ClientUnusable, match="closed"):
        client.live()

    async def main():
        async with AsyncClient(transport=httpx.MockTransport(server)) as client:
            pass
        await client.aclose()
        with pytest.raises(ClientUnusable, match="closed"):
            await client.classify(b"")

    asyncio.run(main())
    assert server.requests == []


def test_a_client_that_is_closed_while_it_is_used_says_so(fake_time):
    def closing(_):
        raise RuntimeError("Cannot send a request, as the client has been closed.")  # httpx's own

    with pytest.raises(ClientUnusable, match="closed meanwhile"):
        Client(transport=httpx.MockTransport(closing)).live()


def test_an_async_client_is_of_one_event_loop():
    client = AsyncClient(transport=httpx.MockTransport(Server({})))
    assert asyncio.run(client.live())
    for call in (client.live, client.aclose):
        with pytest.raises(ClientUnusable, match="loop"):
            asyncio.run(call())


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # its threads are the server's, of no use to the child
def test_a_forked_process_has_connections_of_its_own():
    connections = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            connections.append((self.path, self.client_address))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = Client(f"http://127.0.0.1:{server.server_port}")
        client.live()

        def use_and_close():
            client.ready()
            client.close()

        assert succeeds_in_a_fork(use_and_close)
        client.live()
        client.close()
        server.shutdown()
    (first, parents), (second, childs), (third, again) = connections
    assert (first, second, third) == ("/v2/health/live", "/v2/health/ready", "/v2/health/live")
    assert parents == again != childs


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_client_that_was_closed_before_a_fork_is_closed_in_the_child():
    client = Client(transport=httpx.MockTransport(Server({})))
    client.close()

    def use():
        with pytest.raises(ClientUnusable, match="closed"):
            client.live()
        client.close()

    assert succeeds_in_a_fork(use)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_transport_that_was_given_is_of_one_process():
    client = Client(transport=httpx.MockTransport(Server({})))

    def use():
        for call in (client.live, client.close):
            with pytest.raises(ClientUnusable, match="process"):
                call()

    assert succeeds_in_a_fork(use)
    assert client.live()
    client.close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_an_async_client_is_of_one_process():
    client = AsyncClient(transport=httpx.MockTransport(Server({})))
    loop = asyncio.new_event_loop()
    assert loop.run_until_complete(client.live())

    def use():
        with pytest.raises(ClientUnusable, match="process"):
            loop.run_until_complete(client.live())

    assert succeeds_in_a_fork(use)
    loop.run_until_complete(client.aclose())
    loop.close()


def succeeds_in_a_fork(work):
    """Return whether ``work`` ended without an error in a forked process."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    process.kill()  # if it hangs
    process.join()
    return process.exitcode == 0


@pytest.mark.parametrize(("timeout_s", "expected"), [(2.5, 2.5), (None, None)])
def test_the_timeout_reaches_httpx(call, timeout_s, expected):
    server = Server({"models": []})
    call(server, "models", options={"timeout_s": timeout_s})
    timeout = server.requests[0].extensions["timeout"]
    assert timeout == {"connect": expected, "read": expected, "write": expected, "pool": None}


def _arguments(function):
    return [
        (parameter.name, parameter.kind, parameter.default)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name not in ("sleep", "image")
    ]


def test_both_clients_have_the_same_methods_and_arguments():
    def methods(kind):
        return {name for name in vars(kind) if not name.startswith("_")} - {"close", "aclose"}

    assert methods(Client) == methods(AsyncClient)
    for name in [*methods(Client), "__init__"]:
        assert _arguments(getattr(Client, name)) == _arguments(getattr(AsyncClient, name))
    for method, make in (
        (Client.classify, classify_call),
        (Client.detect, detect_call),
        (Client.segment, segment_call),
    ):
        assert _arguments(method)[1:] == _arguments(make)
