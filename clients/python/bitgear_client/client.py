"""The two clients. They only carry: what to send, how to read it and when to retry is decided in the other modules."""

import asyncio
import os
import random
import re
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TypedDict, TypeVar

import httpx

from bitgear_client import protocol
from bitgear_client.errors import (
    BitgearClientError,
    ClientUnusable,
    ConnectionFailed,
    InputError,
    ProtocolError,
    Timeout,
    TransportError,
)
from bitgear_client.images import ImageInput, image_bytes
from bitgear_client.protocol import DEFAULT_MODEL, Answer, Call, ClassFilter, MaskFormat, PrecisionWish, Request
from bitgear_client.results import ClassifyResult, DetectResult, Ladder, ModelDetails, ModelInfo, SegmentResult
from bitgear_client.retries import Retries
from bitgear_client.version import __version__

DEFAULT_BASE_URL = "http://127.0.0.1:8000"
MAX_S = 1_000_000
"""Sockets can wait for about twice as many seconds."""

T = TypeVar("T")

_ERRORS: tuple[tuple[type[httpx.RequestError], type[BitgearClientError]], ...] = (  # the first that fits
    (httpx.TimeoutException, Timeout),
    (httpx.NetworkError, ConnectionFailed),
    (httpx.ProxyError, ConnectionFailed),
    (httpx.RemoteProtocolError, ProtocolError),
    (httpx.TransportError, TransportError),
    (httpx.RequestError, ProtocolError),  # a content coding that does not decode
)

_CLOSED = re.compile("closed connection|disconnected", re.IGNORECASE)
"""What h11 and httpcore say of a connection that ended before or in the middle of an answer."""

_IN_TLS = re.compile(r"\[(SSL|X509)")
"""What OpenSSL's errors begin with."""

PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")
"""What httpx takes from the environment; names of proxies may be in lower case too."""


@contextmanager
def _own_errors(server: str) -> Iterator[None]:
    try:
        yield
    except httpx.RequestError as error:
        raise _kind(error)(_told(error, server)) from error
    except httpx.InvalidURL as error:
        raise InputError(f"the request does not fit into a URL: {error}") from error
    except RuntimeError as error:
        if "closed" not in str(error):
            raise
        raise ClientUnusable("the client was closed meanwhile") from error


@contextmanager
def _errors_of_environment() -> Iterator[None]:
    try:
        yield
    except (ImportError, OSError, ValueError, httpx.InvalidURL) as error:
        known = CERTIFICATE_VARIABLES if isinstance(error, OSError) else PROXY_VARIABLES
        names = [name for name, value in os.environ.items() if value and name.upper() in known]
        said = f" as the environment says ({', '.join(names)})" if names else ""
        raise InputError(f"cannot connect{said}: {error}") from error


def _kind(error: httpx.RequestError) -> type[BitgearClientError]:
    if isinstance(error, httpx.RemoteProtocolError) and _CLOSED.search(str(error)):
        return ConnectionFailed
    if isinstance(error, httpx.ConnectError) and _IN_TLS.match(str(error)):
        return TransportError  # tried again, it fails again
    return next(own for theirs, own in _ERRORS if isinstance(error, theirs))


def _told(error: httpx.RequestError, server: str) -> str:
    if not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return f"{server}: {type(error).__name__}: {error}"
    if _IN_TLS.match(str(error)):
        return (
            f"cannot reach {server} by TLS: {error}; is it a server for https, with a certificate that is known here?"
        )
    cause = re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
    return f"cannot reach {server}: {cause[:1].lower()}{cause[1:]}; is the server running?"


def _server(base_url: httpx.URL, *, direct: bool) -> str:
    """Return what errors call the server: its address, and unless ``direct`` the proxy that the environment names."""
    server = _without_password(base_url)
    proxies = urllib.request.getproxies()
    proxy = proxies.get(base_url.scheme) or proxies.get("all")
    if direct or not proxy or urllib.request.proxy_bypass(base_url.netloc.decode()):
        return server
    return f"{server} through the proxy {_without_password(httpx.URL(proxy if '://' in proxy else f'http://{proxy}'))}"


def _without_password(url: httpx.URL) -> str:
    return str(url.copy_with(userinfo=b"")).rstrip("/")


class _HttpOptions(TypedDict):
    base_url: httpx.URL
    timeout: httpx.Timeout
    headers: dict[str, str]


def _http_options(base_url: str | None, api_key: str | None, timeout_s: float | None) -> _HttpOptions:
    given = base_url or os.environ.get("BITGEAR_URL") or DEFAULT_BASE_URL
    try:
        url = httpx.URL(given)
        url.host.encode("idna")  # which the system does when it looks the name up
    except (httpx.InvalidURL, UnicodeError, TypeError) as error:
        raise InputError(f"base_url {given!r} is not a URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise InputError(f"base_url {given!r} must start with http:// or https:// and name a host")
    headers = {"User-Agent": f"bitgear-client/{__version__}", "Accept": "application/json"}
    api_key = api_key or os.environ.get("BITGEAR_API_KEY")
    if api_key:
        headers["X-Api-Key"] = protocol.header_value("api_key", api_key)
    bound_s = None if timeout_s is None else _seconds("timeout_s", timeout_s)
    if bound_s == 0:
        raise InputError("timeout_s is 0, in which nothing can arrive; None means no bound")
    timeout = httpx.Timeout(bound_s, pool=None)  # calls that wait for a connection were not sent yet
    return {"base_url": url, "timeout": timeout, "headers": headers}


def _seconds(name: str, value: float) -> float:
    seconds = protocol.number(name, value)
    if not 0 <= seconds <= MAX_S:
        raise InputError(f"{name}: {value!r} is not between 0 and {MAX_S} seconds")
    return seconds


class _RequestOptions(TypedDict):
    method: str
    url: str
    headers: dict[str, str]
    params: dict[str, str]
    content: bytes


def _request_options(request: Request) -> _RequestOptions:
    return {
        "method": request.method,
        "url": request.path,
        "headers": dict(request.headers),
        "params": dict(request.query),
        "content": request.body,
    }


def _answer(response: httpx.Response) -> Answer:
    return Answer(response.status_code, dict(response.headers), response.content)


class Client:
    """A client for programs without an event loop; threads may share it, and so may processes that fork.

    ``base_url`` defaults to the environment variable ``BITGEAR_URL``, else ``http://127.0.0.1:8000``; ``api_key``, for
    servers that take requests with a key only, to ``BITGEAR_API_KEY``. ``timeout_s`` bounds each connect, write and
    read of one attempt, but not the wait for one of its 100 connections; ``None`` means no bound. ``retry_budget_s``:
    refusals for now (429, 503) and failed connections are tried again until this many seconds after the call began; 0
    turns that off. Both go up to 1,000,000. ``transport`` replaces the network, in the process that makes the client
    alone; ``clock``, ``sleep`` and ``random`` replace time and chance, for tests.

    Proxies and certificates are those that the environment names (``HTTP_PROXY``, ``NO_PROXY``, ``SSL_CERT_FILE`` ...).

    Raises ``InputError`` for a ``base_url`` that is not an http or https URL, a key that cannot be a header, a number
    out of range, and proxies or certificates that cannot be used. Every call raises a ``BitgearClientError``; see
    ``bitgear_client.errors``.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float | None = 30.0,
        retry_budget_s: float = 10.0,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._options = _http_options(base_url, api_key, timeout_s)
        self._transport = transport
        self._retry_budget_s = _seconds("retry_budget_s", retry_budget_s)
        self._http = self._connected()
        self._pid = os.getpid()
        self._server = _server(self._http.base_url, direct=transport is not None)
        self._clock = clock
        self._sleep = sleep
        self._random = random

    def classify(
        self,
        image: ImageInput,
        model: str = DEFAULT_MODEL,
        *,
        precision: PrecisionWish | None = None,
        precision_min: int | None = None,
        precision_max: int | None = None,
        device_profile: str | None = None,
        lenient: bool = False,
        deadline_ms: float | None = None,
        priority: int | None = None,
        top_k: int | None = None,
        request_id: str | None = None,
    ) -> ClassifyResult:
        """Return the classes of one image, and which precision ran.

        ``image``: a path, the bytes of a JPEG, PNG or WebP file, such a file open, which is read to its end, a uint8
        array (H, W, 3) in RGB order or (H, W) grey, or a Pillow image. ``precision``: a width in bits, 2..8, or the
        name of a plan of the model, served exactly or refused; ``"auto"`` or ``None`` lets the server choose, between
        ``precision_min`` and ``precision_max`` (2..8) if given. ``device_profile``: name of a profile of the server.
        ``lenient``: under load the server may lower a precision that was pinned, and says so. ``deadline_ms``: the
        server gives up this long after it received an attempt, and ``DeadlineExceeded`` is raised. ``priority``: 1 for
        sooner than 0. ``top_k``: how many classes, 1..1000; the server's default is 5. ``request_id``: 1..128
        characters of ``A-Z a-z 0-9 . _ : -``, returned as ``id``; the server makes one up if it is absent or unfit.

        Raises ``ImageInputError`` before anything is sent if the image cannot be read.
        """
        call = protocol.classify_call(
            image_bytes(image),
            model,
            precision=precision,
            precision_min=precision_min,
            precision_max=precision_max,
            device_profile=device_profile,
            lenient=lenient,
            deadline_ms=deadline_ms,
            priority=priority,
            top_k=top_k,
            request_id=request_id,
        )
        return self._run(call)

    def detect(
        self,
        image: ImageInput,
        model: str,
        *,
        precision: PrecisionWish | None = None,
        precision_min: int | None = None,
        precision_max: int | None = None,
        device_profile: str | None = None,
        lenient: bool = False,
        deadline_ms: float | None = None,
        priority: int | None = None,
        confidence: float | None = None,
        iou: float | None = None,
        max_detections: int | None = None,
        classes: ClassFilter | None = None,
        request_id: str | None = None,
    ) -> DetectResult:
        """Return the objects in one image, and which precision ran.

        ``confidence``: the least of a detection, 0..1; ``iou``: of two boxes of one class that overlap by more than
        this share of their union, 0..1, the less confident one is left out; ``max_detections``: how many at most,
        1..1000; ``classes``: names or ids of those to look for, all by default. The server's defaults are 0.25, 0.6
        and 100. The rest is as in ``classify``.

        Raises ``ImageInputError`` before anything is sent if the image cannot be read.
        """
        call = protocol.detect_call(
            image_bytes(image),
            model,
            precision=precision,
            precision_min=precision_min,
            precision_max=precision_max,
            device_profile=device_profile,
            lenient=lenient,
            deadline_ms=deadline_ms,
            priority=priority,
            confidence=confidence,
            iou=iou,
            max_detections=max_detections,
            classes=classes,
            request_id=request_id,
        )
        return self._run(call)

    def segment(
        self,
        image: ImageInput,
        model: str,
        *,
        precision: PrecisionWish | None = None,
        precision_min: int | None = None,
        precision_max: int | None = None,
        device_profile: str | None = None,
        lenient: bool = False,
        deadline_ms: float | None = None,
        priority: int | None = None,
        mask_format: MaskFormat | None = None,
        request_id: str | None = None,
    ) -> SegmentResult:
        """Return the class of every pixel of one image, and which precision ran.

        ``mask_format``: ``"png"``, the default, gives a ``PngMask``, ``"rle"`` an ``RleMask`` and ``"polygon"`` a
        ``PolygonMask``. The rest is as in ``classify``.

        Raises ``ImageInputError`` before anything is sent if the image cannot be read.
        """
        call = protocol.segment_call(
            image_bytes(image),
            model,
            precision=precision,
            precision_min=precision_min,
            precision_max=precision_max,
            device_profile=device_profile,
            lenient=lenient,
            deadline_ms=deadline_ms,
            priority=priority,
            mask_format=mask_format,
            request_id=request_id,
        )
        return self._run(call)

    def models(self) -> tuple[ModelInfo, ...]:
        """Return all models of the server."""
        return self._run(protocol.models_call())

    def model(self, name: str) -> ModelDetails:
        """Return one model with its labels, measured accuracy and provenance."""
        return self._run(protocol.model_call(name))

    def ladder(self, name: str) -> Ladder:
        """Return the widths of one model with accuracy, memory and latency of each."""
        return self._run(protocol.ladder_call(name))

    def live(self) -> bool:
        """Return whether the server's process answers. One attempt; no answer raises ``TransportError``."""
        return self._run(protocol.live_call())

    def ready(self) -> bool:
        """Return whether the server takes requests now. One attempt; no answer raises ``TransportError``."""
        return self._run(protocol.ready_call())

    def close(self) -> None:
        """Close the connections; the client cannot be used afterwards."""
        self._own().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, call: Call[T]) -> T:
        retries = Retries(self._retry_budget_s if call.retry else 0.0, self._clock, self._random)
        while True:
            try:
                return call.parse(self._send(call.request))
            except BitgearClientError as error:
                wait_s = retries.wait_s(error)
                if wait_s is None:
                    raise
            self._sleep(wait_s)

    def _send(self, request: Request) -> Answer:
        http = self._own()
        if http.is_closed:
            raise ClientUnusable("the client was closed")
        with _own_errors(self._server):
            return _answer(http.request(**_request_options(request)))

    def _connected(self) -> httpx.Client:
        with _errors_of_environment():
            return httpx.Client(**self._options, transport=self._transport)

    def _own(self) -> httpx.Client:
        """Return the connections of this process; it takes none over that it was forked with.

        On those two processes would read each other's answers. Nor are they closed here: a lock of theirs may have been
        held when the process was forked. A transport that was given may hold such connections, and there is no other.
        """
        if self._pid != os.getpid() and not self._http.is_closed:
            if self._transport is not None:
                raise ClientUnusable("a client with a transport was used in another process; make one for each")
            self._http = self._connected()
            self._pid = os.getpid()  # set last: a thread that reads it finds the connections too
        return self._http


class AsyncClient:
    """A client for asyncio; tasks of one event loop may share it, in one process.

    Arguments and methods are those of ``Client``.
    Image files are read, and arrays encoded, in a thread.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float | None = 30.0,
        retry_budget_s: float = 10.0,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = random.random,
    ) -> None:
        options = _http_options(base_url, api_key, timeout_s)
        self._retry_budget_s = _seconds("retry_budget_s", retry_budget_s)
        with _errors_of_environment():
            self._http = httpx.AsyncClient(**options, transport=transport)
        self._server = _server(self._http.base_url, direct=transport is not None)
        self._home: tuple[int, asyncio.AbstractEventLoop] | None = None
        self._clock = clock
        self._sleep = sleep
        self._random = random

    async def classify(
        self,
        image: ImageInput,
        model: str = DEFAULT_MODEL,
        *,
        precision: PrecisionWish | None = None,
        precision_min: int | None = None,
        precision_max: int | None = None,
        device_profile: str | None = None,
        lenient: bool = False,
        deadline_ms: float | None = None,
        priority: int | None = None,
        top_k: int | None = None,
        request_id: str | None = None,
    ) -> ClassifyResult:
        """Return the classes of one image, and which precision ran; see ``Client.classify``."""
        call = protocol.classify_call(
            await asyncio.to_thread(image_bytes, image),
            model,
            precision=precision,
            precision_min=precision_min,
            precision_max=precision_max,
            device_profile=device_profile,
            lenient=lenient,
            deadline_ms=deadline_ms,
            priority=priority,
            top_k=top_k,
            request_id=request_id,
        )
        return await self._run(call)

    async def detect(
        self,
        image: ImageInput,
        model: str,
        *,
        precision: PrecisionWish | None = None,
        precision_min: int | None = None,
        precision_max: int | None = None,
        device_profile: str | None = None,
        lenient: bool = False,
        deadline_ms: float | None = None,
        priority: int | None = None,
        confidence: float | None = None,
        iou: float | None = None,
        max_detections: int | None = None,
        classes: ClassFilter | None = None,
        request_id: str | None = None,
    ) -> DetectResult:
        """Return the objects in one image, and which precision ran; see ``Client.detect``."""
        call = protocol.detect_call(
            await asyncio.to_thread(image_bytes, image),
            model,
            precision=precision,
            precision_min=precision_min,
            precision_max=precision_max,
            device_profile=device_profile,
            lenient=lenient,
            deadline_ms=deadline_ms,
            priority=priority,
            confidence=confidence,
            iou=iou,
            max_detections=max_detections,
            classes=classes,
            request_id=request_id,
        )
        return await self._run(call)

    async def segment(
        self,
        image: ImageInput,
        model: str,
        *,
        precision: PrecisionWish | None = None,
        precision_min: int | None = None,
        precision_max: int | None = None,
        device_profile: str | None = None,
        lenient: bool = False,
        deadline_ms: float | None = None,
        priority: int | None = None,
        mask_format: MaskFormat | None = None,
        request_id: str | None = None,
    ) -> SegmentResult:
        """Return the class of every pixel of one image; see ``Client.segment``."""
        call = protocol.segment_call(
            await asyncio.to_thread(image_bytes, image),
            model,
            precision=precision,
            precision_min=precision_min,
            precision_max=precision_max,
            device_profile=device_profile,
            lenient=lenient,
            deadline_ms=deadline_ms,
            priority=priority,
            mask_format=mask_format,
            request_id=request_id,
        )
        return await self._run(call)

    async def models(self) -> tuple[ModelInfo, ...]:
        """Return all models of the server."""
        return await self._run(protocol.models_call())

    async def model(self, name: str) -> ModelDetails:
        """Return one model with its labels, measured accuracy and provenance."""
        return await self._run(protocol.model_call(name))

    async def ladder(self, name: str) -> Ladder:
        """Return the widths of one model with accuracy, memory and latency of each."""
        return await self._run(protocol.ladder_call(name))

    async def live(self) -> bool:
        """Return whether the server's process answers. One attempt; no answer raises ``TransportError``."""
        return await self._run(protocol.live_call())

    async def ready(self) -> bool:
        """Return whether the server takes requests now. One attempt; no answer raises ``TransportError``."""
        return await self._run(protocol.ready_call())

    async def aclose(self) -> None:
        """Close the connections, in the event loop that used them; the client cannot be used afterwards."""
        if not self._http.is_closed:
            self._check_home()
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _run(self, call: Call[T]) -> T:
        retries = Retries(self._retry_budget_s if call.retry else 0.0, self._clock, self._random)
        while True:
            try:
                return call.parse(await self._send(call.request))
            except BitgearClientError as error:
                wait_s = retries.wait_s(error)
                if wait_s is None:
                    raise
            await self._sleep(wait_s)

    async def _send(self, request: Request) -> Answer:
        if self._http.is_closed:
            raise ClientUnusable("the client was closed")
        self._check_home()
        with _own_errors(self._server):
            return _answer(await self._http.request(**_request_options(request)))

    def _check_home(self) -> None:
        here = (os.getpid(), asyncio.get_running_loop())
        self._home = self._home or here
        if self._home != here:  # the open connections are that one's
            raise ClientUnusable("the client was used in another event loop or process; make one for each")
