from pathlib import Path

import pytest

from bitgear import machine
from bitgear.machine import available_cores, granted_cores


def groups(folder: Path, lines: str, files: dict[str, str]) -> float | None:
    """What is granted by control groups of these files, and membership lines."""
    (folder / "cgroup").write_text(lines)
    for name, text in files.items():
        path = folder / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return granted_cores(folder / "cgroup", folder / "fs")


@pytest.mark.parametrize(
    ("lines", "files", "granted"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2.0),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {}, None),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000", "cpu.max": "400000 100000"}, 1.5),
        ("0::/elsewhere\n", {"cpu.max": "50000 100000"}, 0.5),
        ("2:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3.0),
        ("2:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("2:cpuset:/\n", {"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("0::/\n", {"cpu.max": "nonsense"}, None),
        ("broken\n", {"cpu.max": "200000 100000"}, None),
    ],
)
def test_what_a_container_grants(tmp_path: Path, lines: str, files: dict[str, str], granted: float | None) -> None:
    assert groups(tmp_path, lines, files) == granted


def test_without_control_groups_nothing_limits(tmp_path: Path) -> None:
    assert granted_cores(tmp_path / "none", tmp_path) is None


@pytest.mark.parametrize(("granted", "cores"), [(None, 8), (0.2, 1), (1.5, 2), (3.0, 3), (64.0, 8)])
def test_a_share_of_a_core_counts_as_one(monkeypatch: pytest.MonkeyPatch, granted: float | None, cores: int) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "granted_cores", lambda: granted)
    assert available_cores() == cores
