"""The ladders that were measured of a device, kept on disk."""

import platform
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from bitgear import __version__
from bitgear.checkpoint import Master
from bitgear.engines.base import Engine
from bitgear.kept import Key, keep, kept_file, recall
from bitgear.machine import processor
from server.measurement import MAX_NOISE, Line, Times

FORMAT = "bitgear-ladder"

LEAST_MS, MOST_MS = 1e-6, 1e6
"""What an image may take: less or more is no measurement."""

WHAT = "what was measured of this device is"


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


def read(folder: Path, key: Key) -> Times | None:
    """Return the times kept under a key; None if there are none, or none that can be used, which is logged."""
    return recall(kept_file(folder / "ladders", key), lambda content: _times(content, key))


def write(folder: Path, key: Key, times: Times) -> None:
    """Keep times under a key. That they cannot be written is logged, and no error."""
    content = {
        "format": FORMAT,
        "key": dict(key),
        "noise": times.noise,
        "lines": {name: asdict(line) for name, line in times.lines.items()},
    }
    keep(kept_file(folder / "ladders", key), content, WHAT)


def _times(content: object, key: Key) -> Times:
    """Return the times in a file; raise ``ValueError`` if they are not what :func:`write` writes under the key."""
    kept = _Content.model_validate(content)
    if kept.key != dict(key) or any(line.fixed_ms + line.per_image_ms < LEAST_MS for line in kept.lines.values()):
        raise ValueError("it is of another device, or a time is next to nothing")
    lines = {name: Line(line.fixed_ms, line.per_image_ms) for name, line in kept.lines.items()}
    return Times(lines, kept.noise)


_Time = Annotated[float, Field(ge=0, le=MOST_MS)]


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
