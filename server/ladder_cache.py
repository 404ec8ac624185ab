"""What was measured of a device, kept on disk. Nothing depends on it: without it, or with a bad one, one measures."""

import hashlib
import json
import logging
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bitgear import __version__
from bitgear.checkpoint import Master
from bitgear.engines.base import Engine
from bitgear.files import write_atomically
from bitgear.machine import processor
from server.layout import Layout
from server.measurement import MAX_NOISE, Line, Times

FORMAT = "bitgear-ladder"
LAYOUT_FORMAT = "bitgear-layout"

_logger = logging.getLogger(__name__)

Key = Mapping[str, str | int]
T = TypeVar("T")


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
    return _read(_path(folder, "ladders", key), lambda content: _times(content, key))


def write(folder: Path, key: Key, times: Times) -> None:
    """Keep times under a key. That they cannot be written is logged, and no error."""
    content = {
        "format": FORMAT,
        "key": dict(key),
        "noise": times.noise,
        "lines": {name: asdict(line) for name, line in times.lines.items()},
    }
    _write(_path(folder, "ladders", key), content)


def read_layout(folder: Path, key: Key) -> Layout | None:
    """Return the layout kept under a key; None if there is none, or none that can be used, which is logged."""
    return _read(_path(folder, "layouts", key), lambda content: _layout(content, key))


def write_layout(folder: Path, key: Key, layout: Layout) -> None:
    """Keep a layout under a key. That it cannot be written is logged, and no error."""
    _write(_path(folder, "layouts", key), {"format": LAYOUT_FORMAT, "key": dict(key), **asdict(layout)})


def _read(path: Path, parse: Callable[[object], T | None]) -> T | None:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        _logger.warning("what was measured, %s, cannot be read and is measured anew: %s", path, error)
        return None
    found = parse(content)
    if found is None:
        _logger.warning("what was measured, %s, is broken or of another device and is measured anew", path)
    return found


def _write(path: Path, content: Mapping[str, object]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())
    except OSError as error:
        _logger.info("what was measured is not kept: %s", error)


def _path(folder: Path, kind: str, key: Key) -> Path:
    digest = hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()
    return folder / kind / f"{digest[:24]}.json"


def _layout(content: object, key: Key) -> Layout | None:
    try:
        kept = _LayoutContent.model_validate(content)
    except ValidationError:
        return None
    return Layout(kept.workers, kept.threads) if kept.key == dict(key) else None


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


class _LayoutContent(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal["bitgear-layout"]
    key: dict[str, str | int]
    workers: Annotated[int, Field(ge=1)]
    threads: Annotated[int, Field(ge=1)]


class _Content(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal["bitgear-ladder"]
    key: dict[str, str | int]
    noise: Annotated[float, Field(ge=1, le=MAX_NOISE)]
    lines: dict[str, _Line]
