"""What was measured, kept in files of a cache. Nothing depends on them: without one, or a bad one, one measures."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from bitgear.files import write_json

Key = Mapping[str, str | int]
"""All that measured values depend on."""
T = TypeVar("T")

_logger = logging.getLogger(__name__)


def kept_file(folder: Path, key: Key) -> Path:
    """Return the file of a folder that keeps what was measured under a key."""
    digest = hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()
    return folder / f"{digest[:24]}.json"


def recall(path: Path, parse: Callable[[Any], T]) -> T | None:
    """Return what ``parse`` makes of a file's JSON; None if there is none, or none of use, which is logged.

    ``parse`` may raise what parsing raises: ``ValueError``, ``TypeError``, ``KeyError`` and the like.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        _logger.warning("what was measured, %s, cannot be read and is measured anew: %s", path, error)
        return None
    try:
        return parse(content)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        _logger.warning("what was measured, %s, is broken or of something else and is measured anew: %s", path, error)
        return None


def keep(path: Path, content: Mapping[str, object], what: str) -> None:
    """Write JSON. That it cannot be written is logged, as ``what`` not kept, and no error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, content)
    except OSError as error:
        _logger.info("%s not kept: %s", what, error)
