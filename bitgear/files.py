"""Files that appear complete or not at all."""

import os
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, content: bytes, check: Callable[[Path], object] | None = None) -> None:
    """Write ``content`` to a temporary sibling, flush it to disk, ``check`` it there, and let it replace ``path``.

    Readers see the old file or the new one. If anything fails, the old file stays and the sibling is removed. An
    :class:`OSError` names ``path``.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as file:
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
