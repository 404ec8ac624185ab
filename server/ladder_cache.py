"""What was measured of a device, kept on disk. Nothing depends on it: without it, or with a bad one, one measures."""

import hashlib
import json
import logging
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bitgear import __version__
from bitgear.checkpoint import Master
from bitgear.doctor import processor
from bitgear.engines.base import Engine
from bitgear.files import write_atomically
from server.measurement import MAX_NOISE, Line, Times

FORMAT = "bitgear-ladder"

_logger = logging.getLogger(__name__)

Key = Mapping[str, str | int]


def device_key(master: Master, engine: Engine, threads: int, max_batch: int, cores: int) -> Key:
    """Return all that measured times depend on."""
    return {
        "processor": processor() or platform.machine(),
        "cores": cores,
        "engine": engine.name,
        "kernel": str(getattr(engine, "instruction_set", "")),
        "threads": threads,
        "max_batch": max_batch,
        "master": master.digest,
        "bitgear": __version__,
    }


def default_folder() -> Path:
    """Return where the platform keeps what can be made again."""
    if sys.platform == "win32":
        root = os.environ.get("LOCALAPPDATA") or str(Path("~/AppData/Local").expanduser())
        return Path(root, "bitgear", "Cache")
    if sys.platform == "darwin":
        return Path("~/Library/Caches/bitgear").expanduser()
    root = os.environ.get("XDG_CACHE_HOME", "")
    return Path(root if Path(root).is_absolute() else "~/.cache").expanduser() / "bitgear"


def read(folder: Path, key: Key) -> Times | None:
    """Return the times kept under a key; None if there are none, or none that can be used, which is logged."""
    path = _path(folder, key)
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        _logger.warning("the measured ladder %s cannot be read and is made anew: %s", path, error)
        return None
    times = _times(content, key)
    if times is None:
        _logger.warning("the measured ladder %s is broken or of another device and is made anew", path)
    return times


def write(folder: Path, key: Key, times: Times) -> None:
    """Keep times under a key. That they cannot be written is logged, and no error."""
    path = _path(folder, key)
    content = {
        "format": FORMAT,
        "key": dict(key),
        "noise": times.noise,
        "lines": {name: asdict(line) for name, line in times.lines.items()},
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())
    except OSError as error:
        _logger.info("the measured ladder is not kept: %s", error)


def _path(folder: Path, key: Key) -> Path:
    digest = hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()
    return folder / "ladders" / f"{digest[:24]}.json"


def _times(content: object, key: Key) -> Times | None:
    """Return the times in a file's content; None if it is not what :func:`write` writes under this key."""
    try:
        kept = _Content.model_validate(content)
    except ValidationError:
        return None
    if kept.key != dict(key) or not all(line.fixed_ms + line.per_image_ms > 0 for line in kept.lines.values()):
        return None
    lines = {name: Line(line.fixed_ms, line.per_image_ms) for name, line in kept.lines.items()}
    return Times(lines, kept.noise)


_Time = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    fixed_ms: _Time
    per_image_ms: _Time


class _Content(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal["bitgear-ladder"]
    key: dict[str, str | int]
    noise: Annotated[float, Field(ge=1, le=MAX_NOISE)]
    lines: dict[str, _Line]
