"""Device profiles: what a kind of device is set to, as files. What is set outright wins over them."""

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, Strict, StrictInt, ValidationError, model_validator

from bitgear.bits import MASTER_BITS, MIN_BITS
from bitgear.checkpoint import is_model_name
from server.settings import DEFAULT_MARGIN, Margin, PolicyName, SettingsError, SloMs

SLO_FACTOR = 5
LEAST_SLO_MS = 20
"""Of what is derived from the time of an engine call: HTTP and decoding take theirs, however small the model is."""

Width = Annotated[StrictInt, Field(ge=MIN_BITS, le=MASTER_BITS)]


class ModelRule(BaseModel):
    """What a profile says of one model alone, instead of what it says of all: widths in bits, as there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    default: Width | None = None
    floor: Width | None = None
    ceiling: Width | None = None


class Profile(BaseModel):
    """What a kind of device is set to.

    Widths in bits, ``floor`` <= ``default`` <= ``ceiling``: the width that ``auto`` prefers (None: the model's own),
    and the bounds of ``auto`` and pinned precisions alike, of a plan those of its mean width. ``threads``: for one
    engine call (None: one). ``memory_bytes``: for derived models. ``slo_ms``: the time in which a request without a
    deadline of its own should be answered (None: :data:`SLO_FACTOR` times what one image takes at the widest rung,
    :data:`LEAST_SLO_MS` at least). ``policy``: by name, see :func:`server.policies.create_policy`; ``margin``: by what
    share it takes latencies to be longer than measured. ``models``: what differs for single models, by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    default: Width | None = None
    floor: Width = MIN_BITS
    ceiling: Width = MASTER_BITS
    threads: Annotated[StrictInt, Field(ge=1, le=1024)] | None = None
    memory_bytes: Annotated[StrictInt, Field(ge=0)] | None = None
    slo_ms: Annotated[SloMs, Strict()] | None = None
    policy: PolicyName = "look-ahead"
    margin: Annotated[Margin, Strict()] = DEFAULT_MARGIN
    models: dict[str, ModelRule] = {}
    _of: dict[str, "Profile"] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not is_model_name(self.name):
            raise ValueError("name must be 1 to 64 of a-z 0-9 . _ -")
        if not self.floor <= (self.floor if self.default is None else self.default) <= self.ceiling:
            raise ValueError("floor, default and ceiling must not decrease in this order")
        for model, rule in self.models.items():
            if not is_model_name(model):
                raise ValueError(f"models.{model}: no model can have that name")
            try:
                self._of[model] = self._under(rule)
            except ValidationError as error:
                raise ValueError(f"models.{model}: {error.errors()[0]['msg']}") from error
        return self

    def of(self, model: str) -> "Profile":
        """Return what this is for a model of that name: its own rule, if there is one, instead of the general one."""
        return self._of.get(model, self)

    def _under(self, rule: ModelRule) -> "Profile":
        floor = self.floor if rule.floor is None else rule.floor
        ceiling = self.ceiling if rule.ceiling is None else rule.ceiling
        default = rule.default
        if default is None and self.default is not None:
            default = max(floor, min(self.default, ceiling))  # a bound of its own moves what is said of all models
        return Profile.model_validate(
            {**self.model_dump(exclude={"models"}), "floor": floor, "ceiling": ceiling, "default": default}
        )

    def excludes(self, bits: float) -> Literal["floor", "ceiling"] | None:
        """Return which bound excludes a width or mean width; None: it is inside."""
        if bits < self.floor:
            return "floor"
        return "ceiling" if bits > self.ceiling else None


def load_profiles(folder: Path | None = None) -> dict[str, Profile]:
    """Return the shipped profiles by name, and those of ``folder``, which win over shipped ones of their name.

    Raises :class:`~server.settings.SettingsError` naming the file that is unreadable, contradicts itself, or has the
    name of another one in its folder.
    """
    shipped = Path(str(files("server") / "profiles"))
    if folder is not None and not folder.is_dir():
        raise SettingsError(f"profiles folder {folder} does not exist")
    return _in_folder(shipped) if folder is None else {**_in_folder(shipped), **_in_folder(folder)}


def _in_folder(folder: Path) -> dict[str, Profile]:
    profiles: dict[str, Profile] = {}
    for path in sorted(folder.glob("*.toml")):
        profile = _read(path)
        if profile.name in profiles:
            raise SettingsError(f"{path}: another file of the folder has a profile {profile.name!r} too; rename one")
        profiles[profile.name] = profile
    return profiles


def active_profile(profiles: Mapping[str, Profile], name: str) -> Profile:
    """Return the profile ``name``; raise :class:`~server.settings.SettingsError` if there is none."""
    if name not in profiles:
        raise SettingsError(f"profile {name!r} is unknown; known are {', '.join(sorted(profiles))}")
    return profiles[name]


def _read(path: Path) -> Profile:
    try:
        return Profile(**tomllib.loads(path.read_text("utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, TypeError) as error:
        raise SettingsError(f"profile {path} cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "profile"
        raise SettingsError(f"profile {path}: {where}: {first['msg']}") from error
