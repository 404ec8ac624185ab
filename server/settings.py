"""The settings of one server: a frozen object. Precedence: argument > environment > file > default."""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, WithJsonSchema, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from bitgear.bits import PLAN_NAME_PATTERN
from bitgear.engines.registry import KERNEL_VARIABLE
from bitgear.errors import BitgearError
from bitgear.machine import available_cores
from bitgear.models import find_master

ENVIRONMENT_PREFIX = "BITGEAR_"
CONFIG_VARIABLE = "BITGEAR_CONFIG"

_OTHERS = frozenset({CONFIG_VARIABLE, KERNEL_VARIABLE, "BITGEAR_URL", "BITGEAR_API_KEY"})
"""Variables of the same prefix that are no settings of a server: the last two are its clients'."""

_SECRET = ("admin_key",)
"""Of these no error tells the value."""

_SERVICE_LINK = re.compile(r"BITGEAR_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")
"""What Kubernetes, and Docker's links, put into the environment of whoever runs beside a service named ``bitgear``."""

POLICY = re.compile(rf"(look-ahead|slackfit|fixed(-([2-8]|{PLAN_NAME_PATTERN}))?)")
KNOWN_POLICIES = "known are look-ahead, slackfit, fixed, and fixed-PRECISION such as fixed-4"


def _known_policy(name: object) -> object:
    if isinstance(name, str) and not POLICY.fullmatch(name):
        raise PydanticCustomError("policy", KNOWN_POLICIES)
    return name


PolicyName = Annotated[
    str, BeforeValidator(_known_policy), WithJsonSchema({"type": "string", "pattern": f"^{POLICY.pattern}$"})
]
"""The name of a policy; see :func:`server.policies.create_policy`."""

Margin = Annotated[float, Field(ge=0, le=1)]
"""By what share a policy takes latencies to be longer than they were measured."""

DEFAULT_MARGIN = 0.1

SloMs = Annotated[float, Field(gt=0, le=3_600_000)]
"""In what time a request without a deadline of its own should be answered."""

_KEY = re.compile(r"[!-~]([ -~]*[!-~])?")


def check_key(key: str) -> str:
    """Return a key that can be sent in a header; raise what pydantic takes for an error for any other."""
    if not _KEY.fullmatch(key):
        raise PydanticCustomError("key", "a key can only be printable ASCII without blanks around it")
    return key


class SettingsError(BitgearError):
    """A setting, profile or model path that cannot be used."""

    code = "settings-invalid"


class Settings(BaseSettings):
    """What a server can be told. Made directly, it looks at neither environment nor file; see :func:`load_settings`."""

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    models: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="masters, by path or shipped name, or folders of masters; empty: all shipped ones"
    )
    engine: str = Field("auto", description="engine that runs the models; auto: native where it was built")
    layout: Literal["throughput", "latency"] = Field(
        "throughput",
        description="what engine_workers and threads are chosen for, by measurement, where they are not given",
    )
    engine_workers: int | None = Field(
        None, ge=1, le=1024, description="engine calls at the same time; none: as many as there are cores for"
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="engine threads for one call, up to 64 or four a core; none: the profile, or by measurement",
    )
    workers: int = Field(
        default_factory=available_cores,
        ge=1,
        le=1024,
        description="threads beside those of the engine's workers, to decode images while those are busy",
    )
    policy: PolicyName | None = Field(
        None, description="who chooses the precision of a batch: look-ahead, slackfit, fixed; none: the profile"
    )
    margin: Margin | None = Field(
        None, description="share by which times are taken to be longer than measured; none: the profile"
    )
    slo_ms: SloMs | None = Field(None, description="in what time a request should be answered; none: the profile")
    measure_s: float = Field(
        2.0, ge=0, le=600, description="time to measure the precisions of a model; 0: times are assumed, not measured"
    )
    watch_s: float = Field(
        5.0, ge=0, le=3600, description="how often to look for a changed file of a served model, to serve it; 0: never"
    )
    ladders: Path | None = Field(
        None, description="folder in which measured times are kept; none: the platform's folder for caches"
    )
    max_batch: int = Field(16, ge=1, le=1024, description="images of one engine call")
    max_requests: int = Field(1024, ge=1, le=1_000_000, description="requests waiting or worked on; others get 429")
    max_deadline_s: float = Field(60, gt=0, le=3600, description="time after which nobody waits for an answer")
    keys: Path | None = Field(None, description="file of the keys that may send requests; none: everybody may")
    admin_key: SecretStr | None = Field(
        None, description="key for the policy and the repository, 8 to 256 characters; none: nobody may"
    )
    profile: str = Field("default", description="active device profile")
    profiles: Path | None = Field(None, description="folder of further profiles; one of a shipped name replaces it")
    cache_bytes: int | None = Field(None, ge=0, description="memory for derived models; none: the profile, or 256 MiB")
    max_body_bytes: int = Field(10 << 20, ge=1, description="limit of a request's body")
    max_bodies_bytes: int = Field(
        256 << 20, ge=1, description="bytes of all bodies in flight, beyond which requests get 429; one always may come"
    )
    max_pixels: int = Field(
        50_000_000,
        ge=1,
        description="limit of an image's declared pixels, and of those of large ones decoded at once",
    )
    body_timeout_s: float = Field(
        10,
        gt=0,
        le=3600,
        description="time for a head, and then a body, to arrive, and for a client to take some of an answer",
    )
    drain_delay_s: float = Field(
        0, ge=0, le=3600, description="time between SIGTERM, SIGINT or SIGHUP and the end of accepting"
    )
    drain_timeout_s: int = Field(20, ge=1, le=3600, description="time for requests in flight to finish after that")
    traces: bool = Field(False, description="send OpenTelemetry traces; needs the extra otel, and its own variables")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")

    @field_validator("models", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Take several paths in one variable, separated like those in ``PATH``; an empty one is none."""
        return [path for path in value.split(os.pathsep) if path] if isinstance(value, str) else value

    @field_validator("admin_key", "keys", "ladders", "profiles", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        """Take a variable that is there but empty, as ``${KEY:-}`` makes it, for one that is not there."""
        return None if value == "" else value

    @field_validator("admin_key")
    @classmethod
    def _can_be_sent(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            key = value.get_secret_value()
            if not 8 <= len(key) <= 256:
                raise PydanticCustomError("key", "expected 8 to 256 characters, not {count}", {"count": len(key)})
            check_key(key)
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read arguments alone: :func:`load_settings` puts the sources together."""
        return (init_settings,)


def load_settings(config: Path | None = None, **arguments: object) -> Settings:
    """Return the settings: arguments win over ``BITGEAR_*`` variables, these over a TOML file, that over defaults.

    ``config``: the file; without it, the one that ``BITGEAR_CONFIG`` names, if any. Arguments that are None count as
    not given. ``models``, whatever their source, are paths or names of shipped masters; the names become paths.

    Raises :class:`SettingsError` naming every setting that is unknown or invalid, and
    :class:`~bitgear.errors.ModelNotFound` for a model that is neither.
    """
    if config is None and os.environ.get(CONFIG_VARIABLE):
        config = Path(os.environ[CONFIG_VARIABLE])
    given = {name: value for name, value in arguments.items() if value is not None}
    environment = EnvSettingsSource(Settings)()
    if "://" in str(environment.get("port", "")):  # a service link, which happens to have the name of a setting
        del environment["port"]
    try:
        settings = Settings(**{**_read_file(config), **environment, **given})
    except ValidationError as error:
        raise SettingsError("; ".join(_say(item) for item in error.errors())) from error
    return settings.model_copy(update={"models": tuple(map(_find, settings.models))})


def _find(model: Path) -> Path:
    """Return a folder of masters as it is, and the file of a master by its path or shipped name."""
    return model if model.is_dir() else find_master(str(model))


def unknown_variables(environment: Mapping[str, str]) -> Mapping[str, str | None]:
    """Return the ``BITGEAR_*`` variables that nothing reads, each with the one that was perhaps meant."""
    known = [name.upper() for name in Settings.model_fields]
    unknown = {}
    for name in sorted(environment):
        own = name.removeprefix(ENVIRONMENT_PREFIX)
        if own not in (name, *known) and name not in _OTHERS and not _SERVICE_LINK.fullmatch(name):
            alike = difflib.get_close_matches(own, known, n=1)
            unknown[name] = f"{ENVIRONMENT_PREFIX}{alike[0]}" if alike else None
    return unknown


def _read_file(path: Path | None) -> Mapping[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"settings file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {path} is not TOML: {error}") from error


def _say(item: Mapping[str, Any]) -> str:
    name = ".".join(map(str, item["loc"]))
    given = "" if name in _SECRET else f" is {item['input']!r:.80}"
    if item["type"] == "extra_forbidden":
        return f"setting {name!r} is unknown; known are {', '.join(Settings.model_fields)}"
    return f"setting {name!r}{given}: {item['msg'][:1].lower()}{item['msg'][1:]}"
