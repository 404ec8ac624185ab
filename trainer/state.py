"""What training keeps in files to go on from: states, and the history of a run."""

import io
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bitgear.files import write_atomically
from trainer.config import ConfigError
from trainer.subject import Subject, check_subject


@dataclass
class History:
    """What a run records: a row for each epoch of its stages, seconds spent, metrics of the FP32 start and teacher.

    ``seconds`` are those of joint training and of the stage after it.
    """

    fp32_epochs: list[dict[str, Any]] = field(default_factory=list)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    hasb_epochs: list[dict[str, Any]] = field(default_factory=list)
    plan_epochs: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    fp32: dict[str, float] | None = None
    teacher: dict[str, float] | None = None

    @classmethod
    def parse(cls, text: str) -> "History":
        """Return what :meth:`text` told."""
        return cls(**json.loads(text))

    def text(self) -> str:
        """Return the history as json, as states hold it."""
        return json.dumps(vars(self))

    def save(self, path: Path) -> None:
        """Write the history as indented json."""
        write_atomically(path, json.dumps(vars(self), indent=1).encode())


def save_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors by name, and what torch loads as weights beside them."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())


def save_state(path: Path, subject: Subject, state: Mapping[str, Any]) -> None:
    """Write a state that :func:`read_state` returns for the same subject."""
    save_tensors(path, {**state, "subject": json.dumps(subject)})


def read_state(
    path: Path, subject: Subject, device: torch.device, keys: Collection[str]
) -> dict[str, Any] | None:  # fmt: skip
    """Return the state in a file, None if there is none. ``keys``: what every such state has.

    Raises :class:`~trainer.config.ConfigError` if it cannot be read, lacks any of them, or is of another subject.
    """
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location=device)
        stored = state.get("subject")
        if missing := set(keys) - state.keys():
            raise KeyError(*missing)
    except Exception as error:  # of bytes that are no state, torch lets through whatever they make it stumble over
        raise ConfigError(f"{path} is no state of a run; delete it or choose another --out") from error
    check_subject(path, stored, subject)
    return state
