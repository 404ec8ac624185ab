"""Device profiles: the default width of a kind of device, and the bounds that ``auto`` and pinned widths stay in."""

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError, model_validator

from bitgear.bits import MASTER_BITS, MIN_BITS
from bitgear.checkpoint import is_model_name
from server.settings import SettingsError

Width = Annotated[StrictInt, Field(ge=MIN_BITS, le=MASTER_BITS)]


class Profile(BaseModel):
    """Widths in bits, ``floor`` <= ``default`` <= ``ceiling``; ``default`` None: the model's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    default: Width | None = None
    floor: Width = MIN_BITS
    ceiling: Width = MASTER_BITS

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not is_model_name(self.name):
            raise ValueError("name must be 1 to 64 of a-z 0-9 . _ -")
        if not self.floor <= (self.floor if self.default is None else self.default) <= self.ceiling:
            raise ValueError("floor, default and ceiling must not decrease in this order")
        return self

    def excludes(self, bits: int) -> Literal["floor", "ceiling"] | None:
        """Return which bound excludes a width; None: it is inside."""
        if bits < self.floor:
            return "floor"
        return "ceiling" if bits > self.ceiling else None


def load_profiles(folder: Path | None = None) -> dict[str, Profile]:
    """Return the shipped profiles by name, and those of ``folder``, which win over shipped ones of their name.

    Raises :class:`~server.settings.SettingsError` naming the file that is unreadable or contradicts itself.
    """
    shipped = Path(str(files("server") / "profiles"))
    if folder is not None and not folder.is_dir():
        raise SettingsError(f"profiles folder {folder} does not exist")
    profiles = [_read(path) for root in (shipped, folder) if root is not None for path in sorted(root.glob("*.toml"))]
    return {profile.name: profile for profile in profiles}


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
