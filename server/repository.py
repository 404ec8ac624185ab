"""The masters that a server was told of: which there are, by name, and their contents.

A name is looked up among those that the files give themselves. No path is ever made of one.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bitgear.checkpoint import Master, read_master, read_name
from bitgear.errors import BitgearError, CheckpointError
from bitgear.models import SHIPPED, masters_in
from server.errors import ModelUnusable, UnknownModel
from server.settings import SettingsError

Seen = tuple[int, int, int, int]
"""What tells a file from another one at its place: when it was written, when it was changed, its bytes, its number."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A file. ``name``: None if it is no master that can be read, and then ``reason`` is the error's code."""

    path: Path
    name: str | None
    reason: str | None = None

    @property
    def listed(self) -> str:
        """Its name, or that of its file if it gives itself none."""
        return self.path.stem if self.name is None else self.name


class Repository:
    """Masters in files, and in folders that are looked into anew every time. None of it is for the event loop.

    ``paths`` without any: the masters shipped with bitgear.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths) or (SHIPPED,)
        self._read_from: dict[str, Path] = {}
        self._seen: dict[str, Seen | None] = {}

    def read_all(self) -> list[Master]:
        """Return all masters; raise what is wrong with a file, or :class:`~server.settings.SettingsError`."""
        masters: dict[str, Master] = {}
        for configured in self._paths:
            paths = self._files(configured)
            if not paths:
                raise SettingsError(f"{configured} holds no .safetensors master; give the path of one")
            for path in paths:
                seen = _seen(path)
                master = read_master(path)
                if master.name in masters:
                    raise SettingsError(f"{path}: a model named {master.name!r} is already loaded; give one of them")
                masters[master.name] = master
                self._read_from[master.name], self._seen[master.name] = path, seen
        return list(masters.values())

    def read(self, name: str) -> Master:
        """Return the master of that name as its file is now.

        Raises :class:`~server.errors.UnknownModel`, and :class:`~server.errors.ModelUnusable` for a file that is
        damaged or gone, if it was the one of this name before, for one that cannot be read and is listed under this
        name, and for two files of one name.
        """
        before = self._read_from.get(name)
        if before is not None:
            self._seen[name] = _seen(before)  # first of all: what becomes of it from now on is another change
        entries = self.entries()
        unreadable = [entry for entry in entries if entry.name is None]
        paths = [entry.path for entry in entries if entry.name == name] or [
            entry.path for entry in unreadable if entry.path == before
        ]
        if not paths and before is not None and not before.exists():
            raise ModelUnusable(name, "file-not-found", "its file is gone")
        if not paths:
            paths = [entry.path for entry in unreadable if entry.listed == name][:1]
        if not paths:
            raise UnknownModel(name, sorted(entry.name for entry in entries if entry.name is not None))
        if len(paths) > 1:
            raise ModelUnusable(name, "name-twice", "two files give themselves this name; keep one of them")
        seen = _seen(paths[0])
        try:
            master = read_master(paths[0])
        except BitgearError as error:
            _logger.warning("model %s cannot be read: %s", name, error)
            raise ModelUnusable(name, error.code, "its file cannot be used; the server's log says why") from error
        if master.name != name:
            raise UnknownModel(name, [master.name])  # the file was exchanged between two looks
        self._read_from[name], self._seen[name] = paths[0], seen
        return master

    def changes(self, names: Iterable[str]) -> dict[str, Seen]:
        """Return those of these models whose files are there and not as they were when they were last read or tried."""
        found = {name: _seen(self._read_from[name]) for name in names if name in self._read_from}
        return {name: seen for name, seen in found.items() if seen is not None and seen != self._seen[name]}

    def entries(self) -> list[Entry]:
        """Return what lies in the files."""
        return [_look(path) for configured in self._paths for path in self._files(configured)]

    def _files(self, configured: Path) -> list[Path]:
        return masters_in(configured) if configured.is_dir() else [configured]


def _seen(path: Path) -> Seen | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def _look(path: Path) -> Entry:
    try:
        return Entry(path, read_name(path))
    except CheckpointError as error:
        return Entry(path, None, error.code)
