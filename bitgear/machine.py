"""The machine that this process runs on, and where what was measured of it is kept."""

import os
import platform
import sys
from pathlib import Path


def processor() -> str | None:
    """Return the processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cache_folder() -> Path:
    """Return where the platform keeps what can be made again."""
    if sys.platform == "win32":
        root = os.environ.get("LOCALAPPDATA") or str(Path("~/AppData/Local").expanduser())
        return Path(root, "bitgear", "Cache")
    if sys.platform == "darwin":
        return Path("~/Library/Caches/bitgear").expanduser()
    root = os.environ.get("XDG_CACHE_HOME", "")
    return Path(root if Path(root).is_absolute() else "~/.cache").expanduser() / "bitgear"
