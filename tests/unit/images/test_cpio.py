"""The cpio writer, read back by a reader written from the format's description."""

from __future__ import annotations

import stat
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from images.cpio import Archive, normal_path
from images.errors import BadGuestFile


@dataclass
class Read:
    inode: int
    mode: int
    links: int
    mtime_sec: int
    rdev: tuple[int, int]
    content: bytes


def read(data: bytes) -> dict[str, Read]:
    """Parse a newc archive, insisting on alignment and on the trailer."""
    found: dict[str, Read] = {}
    at = 0
    while True:
        assert at % 4 == 0
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        inode, mode, uid, gid, links, mtime_sec, size = fields[:7]
        name_end = at + 110 + fields[11]
        name = data[at + 110 : name_end]
        assert name.endswith(b"\0")
        assert (uid, gid, fields[12]) == (0, 0, 0)
        start = name_end + -name_end % 4
        content = data[start : start + size]
        assert len(content) == size
        at = start + size + -size % 4
        if name == b"TRAILER!!!\0":
            assert not data[at:].strip(b"\0")
            return found
        path = name[:-1].decode("utf-8", "surrogateescape")
        assert path not in found
        found[path] = Read(inode, mode, links, mtime_sec, (fields[9], fields[10]), content)


def test_each_kind_reads_back() -> None:
    archive = Archive()
    archive.add_dir("/tmp", 0o1777)
    archive.add_file("/bin/tool", b"\x7fELF..", 0o755)
    archive.add_symlink("/bin/sh", "tool")
    archive.add_char_device("/dev/ttyS1", 4, 65)
    found = read(archive.to_bytes())
    assert {path: (stat.filemode(one.mode), one.content, one.rdev) for path, one in found.items()} == {
        "tmp": ("drwxrwxrwt", b"", (0, 0)),
        "bin": ("drwxr-xr-x", b"", (0, 0)),
        "bin/tool": ("-rwxr-xr-x", b"\x7fELF..", (0, 0)),
        "bin/sh": ("lrwxrwxrwx", b"tool", (0, 0)),
        "dev": ("drwxr-xr-x", b"", (0, 0)),
        "dev/ttyS1": ("crw-------", b"", (4, 65)),
    }
    assert [found["bin"].links, found["bin/tool"].links] == [2, 1]


@settings(max_examples=50)
@given(st.dictionaries(st.from_regex(r"[a-z]{1,9}(/[a-z]{1,9}){0,3}", fullmatch=True), st.binary(max_size=20)))
def test_any_set_of_files_reads_back_with_parents_first_and_unique_inodes(files: dict[str, bytes]) -> None:
    archive = Archive()
    kept: dict[str, bytes] = {}
    for path, content in files.items():
        try:
            archive.add_file(path, content)
        except BadGuestFile:
            # "a" and "a/b" cannot both be files.
            assert any(path.startswith(f"{other}/") or other.startswith(f"{path}/") for other in kept)
        else:
            kept[path] = content
    data = archive.to_bytes()
    assert len(data) % 512 == 0
    found = read(data)
    assert {path: one.content for path, one in found.items() if stat.S_ISREG(one.mode)} == kept
    assert len({one.inode for one in found.values()}) == len(found)
    order = list(found)
    for path in order:
        assert "/" not in path or order.index(path.rpartition("/")[0]) < order.index(path)


def test_the_same_calls_give_the_same_bytes_and_the_last_of_a_path_wins() -> None:
    def one() -> bytes:
        archive = Archive()
        archive.add_file("etc/motd", b"old")
        archive.add_file("/etc//./motd", b"new")
        return archive.to_bytes()

    assert one() == one()
    assert read(one())["etc/motd"].content == b"new"


def test_files_below_a_symlink_are_left_to_the_kernel() -> None:
    archive = Archive()
    archive.add_symlink("sbin", "bin")
    archive.add_file("sbin/tool", b"x")
    assert list(read(archive.to_bytes())) == ["sbin", "sbin/tool"]


@pytest.mark.parametrize("path", ["", "/", "a/../b", "a\0b", "x" * 4096])
def test_paths_that_no_archive_holds(path: str) -> None:
    with pytest.raises(BadGuestFile) as caught:
        normal_path(path)
    assert caught.value.guest_path == path


def test_a_folder_with_things_in_it_cannot_become_a_file() -> None:
    archive = Archive()
    archive.add_file("a/b", b"")
    with pytest.raises(BadGuestFile, match="folder of this name"):
        archive.add_file("a", b"")
