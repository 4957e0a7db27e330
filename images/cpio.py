"""A writer of ``newc`` cpio archives, the format of an initramfs. Pure: bytes in, bytes out.

The format is in the kernel's Documentation/driver-api/early-userspace/buffer-format.rst: per entry ``070701``, thirteen
fields of eight hex digits, the name with its NUL padded to four bytes, the content padded to four bytes.
The same calls give the same bytes: everything is root's, times are fixed, inode numbers count up.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass

from images.errors import BadGuestFile

__all__ = ["Archive", "Entry", "normal_path"]

# Seconds since 1970 of every entry; any fixed time would do.
_MTIME_SEC = 0
_MAX_FIELD = 0xFFFFFFFF
# The kernel's PATH_MAX, NUL included; init/initramfs.c refuses longer names.
_MAX_NAME_BYTES = 4096


@dataclass(frozen=True)
class Entry:
    """One thing in the archive.

    :param mode: type and permission bits, as in ``st_mode``.
    :param content: a file's bytes, or a symlink's target.
    :param rdev: major and minor number of a device node.
    """

    mode: int
    content: bytes = b""
    rdev: tuple[int, int] = (0, 0)


class Archive:
    """An archive being put together. A path that is added twice is there once, as added last.

    Folders above a path are added by themselves, with mode 0755.
    """

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def add_dir(self, path: str, mode: int = 0o755) -> None:
        """Add a folder.

        :raise BadGuestFile: a path that no archive can hold, or below something that is no folder (all ``add_*``).
        """
        self._add(path, Entry(stat.S_IFDIR | mode))

    def add_file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Add a regular file."""
        if len(content) > _MAX_FIELD:
            raise BadGuestFile(path, "newc holds files below 4 GiB only")
        self._add(path, Entry(stat.S_IFREG | mode, content))

    def add_symlink(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self._add(path, Entry(stat.S_IFLNK | 0o777, target.encode("utf-8", "surrogateescape")))

    def add_char_device(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Add a character device node."""
        self._add(path, Entry(stat.S_IFCHR | mode, rdev=(major, minor)))

    def entries(self) -> Iterator[tuple[str, Entry]]:
        """What is in so far, folders before what is in them."""
        yield from self._entries.items()

    def to_bytes(self) -> bytes:
        """The archive as bytes, uncompressed."""
        parts: list[bytes] = []
        for inode, (path, entry) in enumerate(self._entries.items(), start=1):
            parts.append(_record(path, inode, entry))
        parts.append(_record("TRAILER!!!", 0, Entry(0)))
        # The kernel skips zeros between archives; others expect whole 512-byte blocks.
        size_bytes = sum(map(len, parts))
        return b"".join((*parts, b"\0" * (-size_bytes % 512)))

    def _add(self, path: str, entry: Entry) -> None:
        name = normal_path(path)
        for end in (index for index, char in enumerate(name) if char == "/"):
            parent = self._entries.setdefault(name[:end], Entry(stat.S_IFDIR | 0o755))
            # The kernel follows a symlink when it unpacks below it.
            if not (stat.S_ISDIR(parent.mode) or stat.S_ISLNK(parent.mode)):
                raise BadGuestFile(path, f"/{name[:end]} is no folder")
        old = self._entries.get(name)
        folder_lost = old and stat.S_ISDIR(old.mode) and not stat.S_ISDIR(entry.mode)
        if folder_lost and any(other.startswith(name + "/") for other in self._entries):
            raise BadGuestFile(path, "there is a folder of this name with things in it")
        self._entries[name] = entry


def normal_path(path: str) -> str:
    """A guest path as archives have it: relative to the root, without ``.`` and doubled slashes.

    :raise BadGuestFile: empty, too long, with ``..`` or a NUL.
    """
    words = [word for word in path.split("/") if word not in ("", ".")]
    if not words:
        raise BadGuestFile(path, "give the path that it shall have in the guest")
    if ".." in words or "\0" in path:
        raise BadGuestFile(path, "a guest path has no '..' and no NUL")
    name = "/".join(words)
    if len(name.encode("utf-8", "surrogateescape")) >= _MAX_NAME_BYTES:
        raise BadGuestFile(path, f"a guest path has fewer than {_MAX_NAME_BYTES} bytes")
    return name


def _record(path: str, inode: int, entry: Entry) -> bytes:
    name = path.encode("utf-8", "surrogateescape") + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    mode_owner = (inode, entry.mode, 0, 0, links, _MTIME_SEC, len(entry.content))
    devices = (0, 0, *entry.rdev)
    # The last field is a checksum in "newcrc" and zero here.
    fields = (*mode_owner, *devices, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + name) + _padded(entry.content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
