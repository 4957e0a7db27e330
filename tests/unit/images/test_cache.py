"""Where the cache is, its lock and how things get into it."""

from __future__ import annotations

from pathlib import Path

import pytest

from emu.deadline import Deadline
from images.cache import cache_dir, locked, put_file, workshop
from images.errors import FetchTimeout


@pytest.mark.parametrize(
    ("own", "xdg", "path"),
    [
        ("/own", "/xdg", "/own"),
        ("", "/xdg", "/xdg/fprobe-gdb"),
        ("", "", "/home/me/.cache/fprobe-gdb"),
        # The XDG specification: relative paths are to be ignored.
        ("", "xdg", "/home/me/.cache/fprobe-gdb"),
    ],
)
def test_where(monkeypatch: pytest.MonkeyPatch, own: str, xdg: str, path: str) -> None:
    for name, value in {"FPROBE_GDB_CACHE": own, "XDG_CACHE_HOME": xdg, "HOME": "/home/me"}.items():
        monkeypatch.setenv(name, value)
    assert cache_dir() == Path(path)


def test_a_lock_that_is_held_times_out_and_is_free_afterwards(tmp_path: Path) -> None:
    with locked(tmp_path, Deadline(1)), pytest.raises(FetchTimeout, match="lock of"), locked(tmp_path, Deadline(0)):
        pytest.fail("two held the same lock")
    with locked(tmp_path, Deadline(0)):
        pass


def test_a_workshop_clears_what_a_killed_one_left(tmp_path: Path) -> None:
    (tmp_path / "tmp-dead" / "deep").mkdir(parents=True)
    (tmp_path / "kept").mkdir()
    with workshop(tmp_path) as work:
        (work / "file").write_bytes(b"x")
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["kept", work.name])
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_put_file_replaces_whole_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    put_file(path, b"one")
    put_file(path, b"two", 0o600)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"two", 0o600)
    assert [one.name for one in path.parent.iterdir()] == ["file"]
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        put_file(tmp_path / "folder", b"x")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["folder", "new"]
