"""What serves: models, from their files until they are served no more, and all that requests share."""

import asyncio
import logging
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from bitgear.bits import Plan
from bitgear.checkpoint import Master
from bitgear.engines import Engine, ModelCache
from bitgear.machine import available_cores
from bitgear.tasks.pictures import decode_picture
from server.admission import Keys, Permits, load_keys
from server.aside import Aside
from server.conduct import Conduct
from server.crew import Crew
from server.errors import (
    BadParameter,
    Draining,
    ModelUnusable,
    NotReady,
    RequestError,
    WidthNotOffered,
)
from server.ladder import positions
from server.latencies import Latencies
from server.layout import Layout, Learn
from server.measurement import Times, assumed_ladder, measured_ladder, unmeasured_ladder
from server.metrics import Metrics
from server.pixels import Pixels
from server.policies import create_policy
from server.policies.fixed import Fixed
from server.policy import Policy, admit
from server.precision import Wish
from server.profiles import Profile
from server.refresh import Refresh
from server.registry import Registry, ServedModel
from server.repository import Entry, Repository, Seen
from server.requests import Requests
from server.rules import Rules
from server.scheduler import BatchReport, Scheduler
from server.settings import Settings, SettingsError
from server.tasks import TASKS

CLOSE_TIMEOUT_S = 5.0

DEFAULT_CACHE_BYTES = 256 << 20

_ONE_PIXEL_PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a4944415478da63600000000200"
    "01e527defc0000000049454e44ae426082"
)

_logger = logging.getLogger(__name__)


class Runtime:
    """Serves models: made ready by :meth:`warm`, taken out of service by :meth:`drain`, ended by :meth:`close`.

    Its threads compute on no more cores than there are, or than the layout asks for.

    Construction raises what is wrong with the settings, and
    :class:`~server.errors.WidthNotOffered` for a profile that leaves a master no width.
    """

    def __init__(
        self,
        settings: Settings,
        repository: Repository,
        masters: Iterable[Master],
        rules: Rules,
        engine: Engine,
        layout: Layout,
        metrics: Metrics,
    ) -> None:
        self.settings = settings
        self.rules = rules
        self.metrics = metrics
        self.cache = ModelCache(engine, _cache_bytes(settings, rules.profile))
        self.models = Registry()
        self.latencies = Latencies()
        self.failure: Exception | None = None
        self.draining = False
        self.measuring = True
        """Whether something of this device is not known yet."""
        self._warm = False
        self._changing = asyncio.Lock()
        self._repository = repository
        for master in masters:
            self._serve(self._model_of(master))
        policy = create_policy(rules.conduct.policy, rules.conduct.margin)
        self._check_offered(policy)
        cores = max(available_cores(), layout.workers * layout.threads)
        self._crew = Crew(cores, layout.workers, layout.threads, spare=settings.workers)
        self.scheduler = Scheduler(
            self.cache, policy, self._crew, self._note_batch, self._note_occupied, metrics.note_decision
        )
        self._aside = Aside(settings, engine, self.scheduler, self._crew, layout.threads)
        self.requests = Requests(self._crew, self.scheduler, rules, Pixels(settings.max_pixels))
        self.permits = Permits(
            rules.conduct.max_requests, settings.max_bodies_bytes, lambda: self.scheduler.drain_per_s
        )
        self.keys = Keys(load_keys(settings.keys))

    async def adopt(self, conduct: Conduct) -> None:
        """Behave differently from now on; requests that are queued are served under the new policy.

        What the policy may choose now is resident when this returns.

        Raises :class:`~server.errors.BadParameter` for an unknown profile or a policy that no model can follow, and
        :class:`~server.errors.WidthNotOffered` for a profile that leaves a model no width.
        """
        profile = self.rules.profile_named(conduct.profile, "profile")
        for model in self.models:
            admit(Wish(), model.ladder, profile)
        try:
            policy = create_policy(conduct.policy, conduct.margin)
            if conduct.policy != self.rules.conduct.policy:  # else it stays accepted, whichever models have gone since
                self._check_offered(policy)
        except SettingsError as error:
            raise BadParameter(str(error), "policy") from error
        self.scheduler.policy = policy
        self.rules.conduct = conduct
        self.permits.limit = conduct.max_requests
        if self.settings.cache_bytes is None:
            self.cache.resize(_cache_bytes(self.settings, profile))
        await asyncio.to_thread(self._derive_all)

    def _check_offered(self, policy: Policy) -> None:
        """Raise :class:`~server.settings.SettingsError` for a policy that no model can follow."""
        asked = policy.precision if isinstance(policy, Fixed) else None
        offered = sorted({name for model in self.models for name in model.master.precisions})
        if asked is not None and offered and asked not in offered:
            raise SettingsError(f"policy {policy.name}: no model offers that; offered are {', '.join(offered)}")

    @property
    def ready(self) -> bool:
        """Whether all models are warm and the server is not draining."""
        return self._warm and not self.draining

    def check_ready(self) -> None:
        """Raise :class:`~server.errors.NotReady` or :class:`~server.errors.Draining` unless the server is ready."""
        if self.draining:
            raise Draining()
        self.check_warm()

    def check_warm(self) -> None:
        """Raise :class:`~server.errors.NotReady` while the models are not warm. A draining server still serves."""
        if not self._warm:
            raise NotReady()

    async def warm(self, learn: Learn | None = None) -> None:
        """Make every model ready, one after the other; ready afterwards. A failure is kept in ``failure``.

        Then measure what is not known of this device yet, while the server serves: each model, and at last ``learn``.
        """
        try:
            for model in self.models:
                await asyncio.to_thread(self._warm_model, model)
        except Exception as error:
            _logger.exception("a model cannot be made ready")
            self.failure = error
            return
        self._warm = True
        for model in self.models:
            await self._learn(model)
        if learn is not None:
            await asyncio.to_thread(self._learn_aside, learn)
        self.measuring = False

    def _learn_aside(self, learn: Learn) -> None:
        try:
            self._aside.learn(learn)
        except Draining:
            return
        except BaseException:  # nothing that an engine raises beside the traffic may end the server
            _logger.exception("the layout of engine workers and threads cannot be measured")

    async def _learn(self, model: ServedModel) -> None:
        """Measure a model whose times are not known, beside what it serves, and derive what a policy may choose."""
        try:
            if model.times == "measuring":
                times = await asyncio.to_thread(self._aside.take_times, model.master)
                async with self._changing:
                    if not self.models.holds(model):
                        return  # it was loaded anew, or unloaded
                    model = self._measured(model.master, times)
                    self._serve(model)
            await asyncio.to_thread(self._derive, model)
        except Draining:
            return
        except asyncio.CancelledError:
            raise
        except BaseException:  # nothing that an engine raises beside the traffic may end the server
            _logger.exception("the precisions of %s cannot be measured; it serves at the widest one", model.name)

    def drain(self) -> None:
        """Declare the server not ready for good; it goes on serving. Does not block: signal handlers may call it."""
        self.draining = True
        self._aside.stop()

    def close(self) -> None:
        """Take no more work; a batch that runs is finished by its worker."""
        self._aside.stop()
        self.scheduler.close()
        self._crew.close(CLOSE_TIMEOUT_S)

    async def load(self, name: str) -> ServedModel:
        """Serve a model as its file is now, ready before it takes the place of the one of its name, and return it.

        Requests finish with the model that they began with. A model that cannot be loaded changes nothing. Raises what
        :meth:`~server.repository.Repository.read` and :meth:`check_ready` raise,
        :class:`~server.errors.WidthNotOffered` if the profile leaves it no width, and
        :class:`~server.errors.ModelUnusable`.
        """
        self.check_ready()
        async with self._changing:
            return await self._load(name)

    async def _load(self, name: str) -> ServedModel:
        before = self.models.get(name) if name in self.models else None
        conduct = self.rules.conduct
        model = await asyncio.to_thread(self._open, name, before)
        if model is not before:
            self._check_width(model)  # the profile may be another one by now
            if before is not None:
                self._retire(before)
            self._serve(model)
            if self.rules.conduct is not conduct:
                await asyncio.to_thread(self._derive_all)
        return model

    def _check_width(self, model: ServedModel) -> None:
        """Forget a model that the profile leaves no width, and raise :class:`~server.errors.WidthNotOffered`."""
        try:
            admit(Wish(), model.ladder, self.rules.profile)
        except WidthNotOffered:
            self.cache.discard(model.master)
            raise

    async def watch(self, every_s: float) -> None:
        """Load a served model whose file has changed, once it has stayed the same for ``every_s``, until the end.

        That a file cannot be loaded is logged, once for each change of it.
        """
        changing: dict[str, Seen] = {}
        while True:
            await asyncio.sleep(every_s)
            served = {model.name: model for model in self.models} if self.ready else {}
            changed = await asyncio.to_thread(self._repository.changes, served)
            for name, seen in changed.items():
                if seen == changing.get(name):
                    try:
                        async with self._changing:
                            # It may have been unloaded or loaded meanwhile, or be of the same content.
                            if (
                                self.models.holds(served[name])
                                and (model := await self._load(name)) is not served[name]
                            ):
                                _logger.info("the file of %s has changed; served is version %s", name, model.version)
                    except Draining:
                        return
                    except RequestError as error:
                        _logger.warning("the file of %s has changed, but: %s", name, error)
                    except Exception:  # whatever it was, other files are looked at
                        _logger.exception("the file of %s has changed, but cannot be loaded", name)
            changing = changed

    async def unload(self, name: str) -> None:
        """Serve a model no more; requests that began with it finish.

        Raises :class:`~server.errors.UnknownModel`, and what :meth:`check_ready` raises.
        """
        self.check_ready()
        async with self._changing:
            self._retire(self.models.remove(name))

    async def repository_entries(self) -> Sequence[Entry]:
        """Return what there is to be loaded."""
        return await asyncio.to_thread(self._repository.entries)

    def _open(self, name: str, before: ServedModel | None) -> ServedModel:
        """Read a model and make it ready; ``before`` itself if its file is still the same. Not for the event loop."""
        master = self._repository.read(name)
        if before is not None and master.digest == before.master.digest:
            return before
        model = self._model_of(master)
        try:
            self._warm_model(model)
            if model.times == "measuring":
                model = self._measured(master, self._aside.take_times(master))
            self._derive(model)
        except Draining:
            self.cache.discard(master)
            raise
        except Exception as error:
            _logger.exception("model %s cannot be made ready", name)
            self.cache.discard(master)
            raise ModelUnusable(name, "not-ready", "it cannot be run; the server's log says why") from error
        return model

    def _retire(self, model: ServedModel) -> None:
        """Forget what is known of a model that is served no more, its precisions once no request needs them."""
        # Collected on any thread, even one that holds the cache's lock: so the event loop discards.
        gone = weakref.finalize(model, _call_soon, asyncio.get_running_loop(), self.cache.discard, model.master)
        gone.atexit = False
        self.latencies.forget(model.name)
        self.metrics.remove_model(model.name, model.version, model.master.task)

    def resident_bytes(self, model: ServedModel) -> Mapping[Plan, int]:
        """Return the bytes of derived weights in memory, by plan."""
        return self.cache.resident(model.master)

    def _note_batch(self, report: BatchReport) -> None:
        """Record an engine call. Runs on the thread of its worker, before anybody has an answer of it."""
        self._aside.note_call()
        if self.models.holds(report.model):
            self.latencies.note(report.model.name, report.rung.precision, report.images, report.infer_ms)
        self.metrics.finish_batch(report)

    def _note_occupied(self, report: BatchReport, occupied_ms: float) -> None:
        """Correct the ladder by what an engine call took with all that belongs to it. Runs on its worker's thread."""
        model = report.model
        if model.refresh is not None and self.models.holds(model):
            model.refresh.observe(report.rung.precision, report.images, occupied_ms)

    def _model_of(self, master: Master) -> ServedModel:
        model = ServedModel(master, assumed_ladder(master, self.settings.max_batch))
        admit(Wish(), model.ladder, self.rules.profile)  # refuses what the profile leaves no width
        return model

    def _serve(self, model: ServedModel) -> None:
        # The library keeps a gauge's function longer than the gauge, and may be calling it while the model goes.
        held = weakref.ref(model)
        self.models.put(model)
        self.metrics.add_model(
            model.name,
            model.version,
            model.master.task,
            model.master.nbytes,
            lambda: 0 if (own := held()) is None else sum(self.resident_bytes(own).values()),
            lambda: 0 if (own := held()) is None else self.scheduler.depth(own),
            model.master.precisions,
            lambda precision: 0 if (own := held()) is None else own.error(precision),
        )

    def _warm_model(self, model: ServedModel) -> None:
        """Do once all that a request does, at the rung of requests that ask for nothing.

        The ladder gets the times of an earlier start on this device. Without them it is as if no precision were any
        faster, so that nothing is degraded for times that nobody knows, until they are measured.
        """
        master, task = model.master, TASKS[model.master.task]
        rung = model.ladder.rungs[admit(Wish(), model.ladder, self.rules.profile).preferred]
        picture = decode_picture(_ONE_PIXEL_PNG)  # loads the codecs too
        q_image, place = task.preprocess(picture, master.input)
        derived = self.cache.get(master, rung.plan)
        output = derived.run(q_image)
        task.postprocess(output[0], place, master.labels, master.input, task.options({}, master.labels))
        if self.settings.measure_s > 0:
            times = self._aside.kept_times(master)
            if times is not None:
                self._give(model, times)
                return
            began_s = time.perf_counter()
            derived.run(q_image)
            alone_ms = (time.perf_counter() - began_s) * 1000
            model.start = unmeasured_ladder(master, alone_ms, self.settings.max_batch)
            model.times = "measuring"

    def _derive(self, model: ServedModel) -> None:
        """Have resident what a policy may choose: a change of precision must not wait for a derivation."""
        if not self.rules.conduct.policy.startswith("fixed"):
            for index in positions(admit(Wish(), model.ladder, self.rules.profile).allowed):
                self.cache.get(model.master, model.ladder.rungs[index].plan)

    def _derive_all(self) -> None:
        for model in self.models:
            try:
                self._derive(model)
            except Exception:
                _logger.exception("the precisions of %s that may be chosen now cannot all be derived", model.name)

    def _measured(self, master: Master, times: Times) -> ServedModel:
        model = ServedModel(master, measured_ladder(master, times, self.settings.max_batch))
        self._give(model, times)
        return model

    def _give(self, model: ServedModel, times: Times) -> None:
        """Put measured times in the place of others. Not once requests of the model may wait."""
        model.refresh = Refresh(measured_ladder(model.master, times, self.settings.max_batch), times)
        model.times = "measured"
        for rung in model.ladder.rungs:
            said = f"pruned, for {rung.reason}" if rung.pruned else f"{rung.latency_ms(1):.2f} ms"
            _logger.info("%s at precision %s: %s", model.name, rung.precision, said)


def _call_soon(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *arguments: object) -> None:
    with suppress(RuntimeError):  # the loop is closed: the server has ended
        loop.call_soon_threadsafe(call, *arguments)


def _cache_bytes(settings: Settings, profile: Profile) -> int:
    given = profile.memory_bytes if settings.cache_bytes is None else settings.cache_bytes
    return DEFAULT_CACHE_BYTES if given is None else given
