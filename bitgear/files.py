"""Files that appear complete or not at all, changes of them one after the other, and none that is waited for."""

import errno
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file to read; raise :class:`OSError` for anything else, and wait for no writer of a pipe."""

    def without_waiting(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    file = open(path, "rb", opener=without_waiting)  # noqa: SIM115 - returned open
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise _not_regular(path)
    return file


def _not_regular(path: Path) -> OSError:
    return OSError(errno.EINVAL, "it is no regular file", str(path))


def write_atomically(path: Path, content: bytes, check: Callable[[Path], object] | None = None) -> None:
    """Write ``content`` to a temporary sibling, flush it to disk, ``check`` it there, and let it replace ``path``.

    Readers see the old file or the new one; of writers at the same time, the last one's stays. If anything fails, the
    old file stays and the sibling is removed. A link stays: the file that it leads to is replaced. Its permissions stay
    too, and its owner and group as far as this process may give files away. An :class:`OSError` names ``path``; what is
    there and no regular file is refused.
    """
    target = Path(os.path.realpath(path))
    # Random, for threads of one process and containers that share a folder have the same process ID; and short, for
    # the target's name may be as long as names can be. Not of ``tempfile``, whose files only their owner may read.
    temporary = target.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        replaced = _status(target)
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replaced is not None:
            _resemble(temporary, replaced)
        if check is not None:
            check(temporary)
        temporary.replace(target)
    except OSError as error:
        if error.errno is not None:
            error.filename = str(path)  # a full disk names no file, and nobody asked for the sibling
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any, indent: int = 2) -> None:
    """Write ``value`` as :func:`write_atomically` does: JSON in UTF-8, a line for each member."""
    write_atomically(path, (json.dumps(value, indent=indent) + "\n").encode())


def _status(path: Path) -> os.stat_result | None:
    """Return that of a file, if one is there."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise _not_regular(path)
    return status


def _resemble(path: Path, other: os.stat_result) -> None:
    """Give a file another one's owner and group, if that is allowed, and its permissions."""
    own = path.stat()
    for uid, gid in ((-1, other.st_gid), (other.st_uid, -1)):  # whoever may not give a file away may know the group
        if uid not in (-1, own.st_uid) or gid not in (-1, own.st_gid):
            with suppress(PermissionError):
                os.chown(path, uid, gid)
    if path.stat().st_mode != other.st_mode:  # some file systems keep no permissions, and refuse to change them
        path.chmod(stat.S_IMODE(other.st_mode))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the advisory lock on a folder, once nobody else does; it ends with the process at the latest.

    Not for two locks of one folder in one another: the second waits for the first.
    """
    with ExitStack() as held:
        with suppress(ImportError, OSError):  # Windows, and some file systems of networks, have no such locks
            import fcntl

            descriptor = os.open(folder, os.O_RDONLY)
            held.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
