"""What a run or a stage of one is of: what may not change when it is gone on with."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from bitgear.checkpoint import Master
from trainer.config import ConfigError, RunConfig
from trainer.tasks.base import Task

Subject = dict[str, Any]
"""By entry of the configuration, ``train.seed``, or by option, ``--weights``; values as json has them."""

FREE = frozenset(
    {"epochs", "lr", "evaluate_every", "keep_every", "threads", "device", "compile", "contact_images", "test_images"}
)
"""Entries that may change on the way: how long, how fast, on what, and how much is shown."""


def subject_of(
    config: RunConfig, task: Task, weights: Path | None, teacher: Path | None, masters: Sequence[Master]
) -> Subject:  # fmt: skip
    """Return what joint training is of. The files must be readable."""
    found = of_sections(config, task, ("task", "network", "data", "start", "teacher", "fp32", "train"))
    found |= {f"--{name}": _digest(path) for name, path in (("weights", weights), ("teacher", teacher))}
    found["--master"] = [master_fingerprint(master) for master in masters]
    return _plain(found)


def of_sections(config: RunConfig, task: Task, names: Iterable[str]) -> Subject:
    """Return the data and the entries of sections, those that the task's configuration has, that may not change."""
    found: Subject = {"data": [task.training_images, *task.labels]}
    for name in names:
        section = getattr(config, name, None)
        if section is not None:
            found |= entries(name, section)
    return found


def entries(name: str, section: BaseModel) -> Subject:
    """Return the entries of a section that may not change."""
    values = {key: value for key, value in section.model_dump().items() if key not in FREE}
    ordered = {key: sorted(value) if isinstance(value, frozenset) else value for key, value in values.items()}
    return _plain({f"{name}.{key}": value for key, value in ordered.items()})


def check_subject(path: Path, stored: str | None, given: Mapping[str, Any]) -> None:
    """Raise :class:`~trainer.config.ConfigError` if the state in a file is of something else than what is given.

    ``stored``: as json; what it does not say passes, as does all of a file that says nothing (None), and as do entries
    that configurations no longer have.
    """
    begun = given if stored is None else json.loads(stored)
    changed = [name for name in begun if name in given and begun[name] != given[name]]
    if changed:
        before, now = (json.dumps(values[changed[0]])[:120] for values in (begun, given))
        raise ConfigError(
            f"{path} was begun with another {changed[0]}: {before}, and now it is {now}; give what it was begun with, "
            "delete it to begin anew, or choose another --out"
        )


def master_fingerprint(master: Master) -> str:
    """Return a hash of what all precisions share: plans, accuracy and descriptions do not count."""
    digest = hashlib.sha256()
    for name in sorted(master.tensors):
        digest.update(name.encode() + np.ascontiguousarray(master.tensors[name]).tobytes())
    return digest.hexdigest()


def _plain(values: Mapping[str, Any]) -> Subject:
    plain: Subject = json.loads(json.dumps(values))
    return plain


def _digest(path: Path | None) -> str | None:
    return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()
