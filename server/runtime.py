"""The models of one server, the threads that run them, and what was measured of them."""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitgear.checkpoint import Master, read_master
from bitgear.engines import Engine, ModelCache
from bitgear.models import SHIPPED, masters_in
from bitgear.tasks.pictures import decode_picture
from server.answers import to_json
from server.body import Upload
from server.controls import Controls, add_controls
from server.errors import BadParameter, Draining, NotReady, UnknownModel, shown
from server.exchange import Exchange
from server.forms import open_upload
from server.policy import Decision, choose
from server.precision import Wish, to_wish
from server.problems import RETRY_AFTER_S
from server.profiles import Profile, active_profile, load_profiles
from server.settings import Settings, SettingsError
from server.tasks import TASKS, Task

LATENCY_WINDOW_CALLS = 1000
MODEL_VERSION = "1"
"""Of every model: masters have no versions yet."""

_ONE_PIXEL_PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a4944415478da63600000000200"
    "01e527defc0000000049454e44ae426082"
)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inference:
    """What was found in one image: its size in pixels as seen upright, and what its task answers, as a JSON object."""

    asked: str
    decision: Decision
    width_px: int
    height_px: int
    members: str


@dataclass(frozen=True)
class Latency:
    """Engine calls at one width, most recent up to 1,000: percentiles in milliseconds, and how many."""

    p50_ms: float
    p99_ms: float
    count: int


class Runtime:
    """What serves: models by name, a cache of derived widths, a pool of worker threads.

    A request makes one visit to a worker, which decodes, decides, derives, infers and words the answer; the event loop
    does none of that. Made ready by :meth:`warm`, taken out of service by :meth:`drain`, ended by :meth:`close`.

    Construction reads the masters and raises what is wrong with them or with the settings.
    """

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.settings = settings
        self.profiles = load_profiles(settings.profiles)
        self.profile = active_profile(self.profiles, settings.profile)
        self.models = _read_models(settings.models)
        self.cache = ModelCache(engine, settings.cache_bytes)
        self.failure: Exception | None = None
        self.draining = False
        self._warm = False
        self._defaults = {name: self.decide(Wish(), master).bits for name, master in self.models.items()}
        self._pool = ThreadPoolExecutor(settings.workers, "bitgear-worker")
        self._latencies: dict[tuple[str, int], deque[float]] = {}
        self._latencies_lock = threading.Lock()

    @property
    def ready(self) -> bool:
        """Whether all models are warm and the server is not draining."""
        return self._warm and not self.draining

    def check_ready(self) -> None:
        """Raise :class:`~server.errors.NotReady` or :class:`~server.errors.Draining` unless the server is ready."""
        if self.draining:
            raise Draining(RETRY_AFTER_S)
        self.check_warm()

    def check_warm(self) -> None:
        """Raise :class:`~server.errors.NotReady` while the models are not warm. A draining server still serves."""
        if not self._warm:
            raise NotReady(RETRY_AFTER_S)

    async def warm(self) -> None:
        """Derive and run every model once at its default width; ready afterwards. A failure is kept in ``failure``."""
        loop = asyncio.get_running_loop()
        try:
            for name, master in self.models.items():
                await loop.run_in_executor(self._pool, self._warm_model, master, self._defaults[name])
        except Exception as error:
            _logger.exception("a model cannot be made ready")
            self.failure = error
        else:
            self._warm = True

    def _warm_model(self, master: Master, bits: int) -> None:
        task = TASKS[master.task]
        picture = decode_picture(_ONE_PIXEL_PNG)  # loads the codecs too
        q_image, place = task.preprocess(picture, master.input)
        output = self.cache.get(master, bits).run(q_image)
        task.postprocess(output[0], place, master.labels, master.input, task.options({}, master.labels))

    def drain(self) -> None:
        """Declare the server not ready for good; it goes on serving. Does not block: signal handlers may call it."""
        self.draining = True

    def close(self) -> None:
        """Take no more work; work already begun is finished by its thread."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def model(self, name: str) -> Master:
        """Return the master served under a name; raise :class:`~server.errors.UnknownModel`."""
        master = self.models.get(name)
        if master is None:
            raise UnknownModel(name, list(self.models))
        return master

    def decide(self, wish: Wish, master: Master) -> Decision:
        """Return the width for a wish under the profile that it names, or the active one.

        Raises :class:`~server.errors.BadParameter` for an unknown profile, and what :func:`~server.policy.choose`
        raises.
        """
        return choose(wish, master.widths, self._profile(wish), max(master.widths))

    def _profile(self, wish: Wish) -> Profile:
        if wish.profile is None:
            return self.profile
        profile = self.profiles.get(wish.profile)
        if profile is None:
            known = ", ".join(sorted(self.profiles))
            raise BadParameter(f"device_profile {shown(wish.profile)} is unknown; known are {known}", "device_profile")
        return profile

    async def infer(
        self, task: Task[Any, Any], master: Master, upload: Upload, controls: Controls, exchange: Exchange
    ) -> Inference:
        """Return what a model finds in an image; the time each phase took goes to ``exchange``.

        Raises what decoding the body, the controls in it and the image raise.
        """
        loop = asyncio.get_running_loop()
        submitted_s = time.perf_counter()
        return await loop.run_in_executor(
            self._pool, self._infer, task, master, upload, controls, exchange, submitted_s
        )

    def _infer(
        self,
        task: Task[Any, Any],
        master: Master,
        upload: Upload,
        controls: Controls,
        exchange: Exchange,
        submitted_s: float,
    ) -> Inference:
        watch = _Stopwatch(exchange.phases_ms, submitted_s)
        watch.lap("queue")
        form = open_upload(upload)
        controls = add_controls(task.controls, controls, form.fields)
        wish = to_wish(controls)
        exchange.asked = wish.asked
        decision = self.decide(wish, master)
        options = task.options(controls, master.labels)
        picture = decode_picture(form.image, self.settings.max_pixels)
        q_image, place = task.preprocess(picture, master.input)
        watch.lap("decode")
        model = self.cache.get(master, decision.bits)
        watch.lap("switch")
        output = model.run(q_image)
        self._note_latency(master, decision.bits, watch.lap("infer"))
        members = to_json(task.postprocess(output[0], place, master.labels, master.input, options))
        watch.lap("post")
        exchange.decision = decision
        return Inference(wish.asked, decision, picture.width_px, picture.height_px, members)

    def _note_latency(self, master: Master, bits: int, duration_ms: float) -> None:
        with self._latencies_lock:
            window = self._latencies.setdefault((master.name, bits), deque(maxlen=LATENCY_WINDOW_CALLS))
            window.append(duration_ms)

    def latency(self, master: Master, bits: int) -> Latency | None:
        """Return what engine calls of a model at a width took; None before the first."""
        with self._latencies_lock:
            durations_ms = sorted(self._latencies.get((master.name, bits), ()))
        if not durations_ms:
            return None
        return Latency(_percentile(durations_ms, 50), _percentile(durations_ms, 99), len(durations_ms))

    def resident_bytes(self, master: Master) -> Mapping[int, int]:
        """Return the bytes of derived weights in memory, by width."""
        return {plan.default.weight_bits: size for plan, size in self.cache.resident(master).items()}


class _Stopwatch:
    """Writes the durations between laps, in milliseconds, into a dictionary."""

    def __init__(self, durations_ms: dict[str, float], started_s: float) -> None:
        self._durations_ms = durations_ms
        self._last_s = started_s

    def lap(self, phase: str) -> float:
        """Return the time since the last lap, stored under ``phase``."""
        now_s = time.perf_counter()
        duration_ms = (now_s - self._last_s) * 1000
        self._durations_ms[phase] = duration_ms
        self._last_s = now_s
        return duration_ms


def _percentile(ordered: Sequence[float], percent: int) -> float:
    """Return the nearest-rank percentile of ascending values."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def _read_models(paths: Iterable[Path]) -> dict[str, Master]:
    models: dict[str, Master] = {}
    for path in _master_paths(tuple(paths)):
        master = read_master(path)
        if master.name in models:
            raise SettingsError(f"{path}: a model named {master.name!r} is already loaded; give one of them")
        models[master.name] = master
    return models


def _master_paths(paths: tuple[Path, ...]) -> list[Path]:
    found: list[Path] = []
    for path in paths or (SHIPPED,):
        masters = masters_in(path) if path.is_dir() else [path]
        if not masters:
            raise SettingsError(f"{path} holds no .safetensors master; give the path of one")
        found += masters
    return found
