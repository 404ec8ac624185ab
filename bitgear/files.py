"""Files that appear complete or not at all, and changes of them one after the other."""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path


def write_atomically(path: Path, content: bytes, check: Callable[[Path], object] | None = None) -> None:
    """Write ``content`` to a temporary sibling, flush it to disk, ``check`` it there, and let it replace ``path``.

    Readers see the old file or the new one; of writers at the same time, the last one's stays. If anything fails, the
    old file stays and the sibling is removed. An :class:`OSError` names ``path``.
    """
    # Random, for threads of one process and containers that share a folder have the same process ID; and short, for
    # the target's name may be as long as names can be. Not of ``tempfile``, whose files only their owner may read.
    temporary = path.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if check is not None:
            check(temporary)
        temporary.replace(path)
    except OSError as error:
        if error.errno is not None:
            error.filename = str(path)  # a full disk names no file, and nobody asked for the sibling
        raise
    finally:
        temporary.unlink(missing_ok=True)


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
