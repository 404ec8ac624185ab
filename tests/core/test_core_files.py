"""Files that appear complete or not at all, whoever writes them at the same time."""

import errno
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from bitgear.files import locked, write_atomically


def test_writers_with_one_process_id_have_files_of_their_own(tmp_path: Path) -> None:
    """Threads have one, and so have containers that share a folder: each is process 1 of its own."""
    path = tmp_path / "kept.json"

    def write_another(sibling: Path) -> None:
        write_atomically(path, b"another's")
        assert path.read_bytes() == b"another's"
        assert sibling.read_bytes() == b"mine"

    write_atomically(path, b"mine", check=write_another)
    assert path.read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_may_be_as_long_as_names_can_be(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    write_atomically(path, b"content")
    assert path.read_bytes() == b"content"


@pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_who_may_read_a_file_is_up_to_the_process(tmp_path: Path, mask: int) -> None:
    path = tmp_path / "kept.json"
    before = os.umask(mask)
    try:
        write_atomically(path, b"content")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_what_fails_its_check_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    path.write_bytes(b"old")

    def refuse(_: Path) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        write_atomically(path, b"new", check=refuse)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="links and modes are those of POSIX")
@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_its_file_is_written(tmp_path: Path, there: bool) -> None:
    file, link = tmp_path / "store" / "v1", tmp_path / "models" / "m"
    file.parent.mkdir()
    link.parent.mkdir()
    link.symlink_to("../store/v1")
    if there:
        file.write_bytes(b"old")
        file.chmod(0o640)
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert file.read_bytes() == b"new"
    assert not there or stat.S_IMODE(file.stat().st_mode) == 0o640
    assert [*file.parent.iterdir(), *link.parent.iterdir()] == [file, link]


@pytest.mark.skipif(not hasattr(os, "chown"), reason="files have no owners here")
@pytest.mark.parametrize("allowed", [True, False])
def test_a_file_keeps_its_owner_and_group_where_it_can_be_given_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: bool
) -> None:
    path = tmp_path / "kept.json"
    path.write_bytes(b"old")
    path.chmod(0o640)
    status, given = Path.stat, []

    def stat_of(self: Path, **how: Any) -> os.stat_result:
        held = status(self, **how)
        return os.stat_result((*held[:4], 1234, 5678, *held[6:])) if self == path else held

    def chown(_: Path, uid: int, gid: int) -> None:
        given.append((uid, gid))
        if not allowed:
            raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "stat", stat_of)
    monkeypatch.setattr(os, "chown", chown)
    write_atomically(path, b"new")
    assert given == [(-1, 5678), (1234, -1)]
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(OSError, match="no regular file") as caught:
        write_atomically(path, b"content")
    assert caught.value.filename == str(path)
    assert path.is_fifo()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="Windows has no locks of folders")
def test_of_two_that_lock_a_folder_the_second_waits(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with locked(tmp_path):
            order.append("second")

    with locked(tmp_path):
        other = threading.Thread(target=second)
        other.start()
        other.join(0.2)
        order.append("first")
    other.join()
    assert order == ["first", "second"]
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_locked_stops_nobody(tmp_path: Path) -> None:
    with locked(tmp_path / "none"):
        pass
