"""The machine that this process runs on, and where what was measured of it is kept."""

import math
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
    """Return how many cores this process may use: those it may run on, or fewer that a container grants the time of.

    A share of a core counts as a whole one.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    granted = granted_cores()
    return cores if granted is None else max(1, min(cores, math.ceil(granted)))


def granted_cores(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Return the time on cores that the control groups of this process are limited to, in cores; None: no limit.

    ``cpu.max`` of version 2 (Linux, Documentation/admin-guide/cgroup-v2.rst), ``cpu.cfs_quota_us`` of version 1. Every
    group above has a say as well; inside a container they are out of sight, and its own stands at ``root``.
    """
    try:
        lines = [line.split(":", 2) for line in groups.read_text("utf-8").splitlines()]
    except OSError:
        return None
    limits = []
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if not controllers:
            top, names = root, ["cpu.max"]
        elif "cpu" in controllers.split(","):
            top, names = root / "cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        limits += [_quota(*(folder / name for name in names)) for folder in _upwards(top, path)]
    return min((limit for limit in limits if limit is not None), default=None)


def _upwards(root: Path, path: str) -> list[Path]:
    """Return the folders of a group and of all above it, ``root`` the last."""
    folder = root / path.lstrip("/")
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to(root))]


def _quota(*files: Path) -> float | None:
    """Return quota by period, which stand in these files; None where there is no limit, or nothing that is one."""
    try:
        quota, period = map(float, " ".join(file.read_text("utf-8") for file in files).split())
    except (OSError, ValueError):  # "max" is no number
        return None
    return quota / period if quota > 0 and period > 0 else None


def cache_folder() -> Path:
    """Return where the platform keeps what can be made again."""
    if sys.platform == "win32":
        root = os.environ.get("LOCALAPPDATA") or str(Path("~/AppData/Local").expanduser())
        return Path(root, "bitgear", "Cache")
    if sys.platform == "darwin":
        return Path("~/Library/Caches/bitgear").expanduser()
    root = os.environ.get("XDG_CACHE_HOME", "")
    return Path(root if Path(root).is_absolute() else "~/.cache").expanduser() / "bitgear"
