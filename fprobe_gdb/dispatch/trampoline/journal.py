"""What a zone in a guest of others says of itself, for whoever finds it after its host was killed.

It is part of the zone's data: a head, and an entry for each location that is planted, or about to be. An entry is
there before its location is written, and until it has its own bytes back: nothing is forgotten whenever the host dies.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from fprobe_gdb.dispatch.trampoline.zone import HUGE_BYTES, Zone
from fprobe_gdb.errors import SiteNoRoom
from fprobe_gdb.target.guest_ram import GuestRam

__all__ = ["MAX_ENTRIES", "OwnBytes", "ZoneHead", "entries_in"]

# Of the layout of zones: another one for each change of what is where, of slots and of nodes.
_VERSION = 3
_MAGIC = b"fprobe-gdb zone\n"
# Magic, version, physical address, size, code, what the guest's allocator gave, how it is freed.
_HEAD = struct.Struct("<16s6Q")
_HEAD_BYTES = 4096
# Location, count of own bytes, own bytes.
_ENTRY = struct.Struct("<QB23s")
#: Locations that can be planted at the same time in such a zone.
MAX_ENTRIES = (Zone.JOURNAL_BYTES - _HEAD_BYTES) // _ENTRY.size


@dataclass(frozen=True, slots=True)
class ZoneHead:
    """The head of a journal."""

    physical: int
    size_bytes: int
    #: Virtual address of the code.
    code: int
    #: What the guest's allocator gave for it.
    handle: int
    #: Of the layout.
    version: int = _VERSION

    def pack(self) -> bytes:
        """The bytes at the beginning of the journal."""
        return _HEAD.pack(_MAGIC, self.version, self.physical, self.size_bytes, self.code, self.handle, 0)

    @classmethod
    def unpack(cls, data: bytes) -> ZoneHead | None:
        """What :meth:`pack` has made; None when it is something else."""
        magic, version, physical, size_bytes, code, handle, _ = _HEAD.unpack_from(data)
        return cls(physical, size_bytes, code, handle, version) if magic == _MAGIC else None

    @property
    def known(self) -> bool:
        """Whether it is of this version of ours."""
        return self.version == _VERSION

    @property
    def zone(self) -> Zone:
        """The zone that it is about."""
        return Zone(self.physical, self.size_bytes, self.code, self.code + HUGE_BYTES, 0)


def entries_in(data: bytes) -> dict[int, bytes]:
    """Own bytes by location, out of a whole journal."""
    entries = (_ENTRY.unpack_from(data, _HEAD_BYTES + index * _ENTRY.size) for index in range(MAX_ENTRIES))
    return {ip: own[:count] for ip, count, own in entries if ip}


class OwnBytes:
    """The entries of a zone, which is blank."""

    def __init__(self, ram: GuestRam, zone: Zone) -> None:
        self._ram = ram
        self._first = zone.physical_of(zone.word(Zone.JOURNAL)) + _HEAD_BYTES
        self._index: dict[int, int] = {}
        self._free: list[int] = []

    def keep(self, owns: Mapping[int, bytes]) -> None:
        """These locations are about to be written, or have other own bytes from now on.

        :raise SiteNoRoom: there are too many.
        """
        new = [ip for ip in owns if ip not in self._index]
        if len(self._index) + len(new) > MAX_ENTRIES:
            raise SiteNoRoom(new[0])
        for ip in new:
            self._index[ip] = self._free.pop() if self._free else len(self._index)
        for ip, own in owns.items():
            self._write(self._index[ip], _ENTRY.pack(ip, len(own), own))

    def drop(self, ips: Iterable[int]) -> None:
        """These locations have their own bytes back."""
        for ip in ips:
            index = self._index.pop(ip)
            self._write(index, bytes(_ENTRY.size))
            self._free.append(index)

    def __contains__(self, ip: int) -> bool:
        return ip in self._index

    @property
    def ips(self) -> Collection[int]:
        """The locations."""
        return self._index.keys()

    def _write(self, index: int, entry: bytes) -> None:
        self._ram.write_physical(self._first + index * _ENTRY.size, entry)
