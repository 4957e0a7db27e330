"""What a zone in a guest of others says of itself, for whoever finds it after its host was killed.

It is part of the zone's data: a head, and an entry for each location that is planted, or about to be. An entry is
there before its location is written, and until it has its own bytes back: nothing is forgotten whenever the host dies.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from fprobe_gdb.dispatch.trampoline.zone import HUGE_BYTES, PIECE_BYTES, Zone
from fprobe_gdb.errors import SiteNoJournal
from fprobe_gdb.target.guest_ram import GuestRam

__all__ = ["HEAD_BYTES", "OwnBytes", "ZoneHead", "entries_in", "entries_place", "max_entries"]

# Of the layout of zones: another one for each change of what is where, of slots and of nodes, and of what leads to it.
_VERSION = 5
_MAGIC = b"fprobe-gdb zone\n"
# Magic, version, physical address, size, code, size of the part for entries, number of pieces. The first five are
# those of every version.
_HEAD = struct.Struct("<16s6Q")
# Of each piece: physical address, what the guest's allocator gave.
_PIECE = struct.Struct("<2Q")
#: How long a head may be.
HEAD_BYTES = 4096
# So many entries are kept for functions that we listen to for ourselves.
_OURS = 64
# Location, count of own bytes, own bytes.
_ENTRY = struct.Struct("<QB23s")


@dataclass(frozen=True, slots=True)
class ZoneHead:
    """The head of a journal."""

    physical: int
    size_bytes: int
    #: Virtual address of the code.
    code: int
    #: See :attr:`.Zone.journal_bytes`.
    journal_bytes: int
    #: Physical address of each piece, and what the guest's allocator gave for it; nothing in another version.
    pieces: tuple[tuple[int, int], ...]
    #: Of the layout.
    version: int = _VERSION

    @classmethod
    def of(cls, zone: Zone, handles: Sequence[int]) -> ZoneHead:
        """The head of a zone.

        :param handles: what the guest's allocator gave for its pieces.
        """
        physicals = zone.pieces or (zone.physical,)
        pieces = tuple(zip(physicals, handles, strict=True))
        return cls(zone.physical, zone.size_bytes, zone.code, zone.journal_bytes, pieces)

    def pack(self) -> bytes:
        """The bytes at the beginning of the journal."""
        count = len(self.pieces)
        head = (_MAGIC, self.version, self.physical, self.size_bytes, self.code, self.journal_bytes, count)
        return _HEAD.pack(*head) + b"".join(_PIECE.pack(*piece) for piece in self.pieces)

    @classmethod
    def unpack(cls, data: bytes) -> ZoneHead | None:
        """What :meth:`pack` has made; None when it is something else.

        :param data: :data:`HEAD_BYTES`.
        """
        magic, version, physical, size_bytes, code, journal_bytes, count = _HEAD.unpack_from(data)
        if magic != _MAGIC:
            return None
        if version != _VERSION:
            return cls(physical, size_bytes, code, 0, (), version)
        end = _HEAD.size + count * _PIECE.size
        pieces = tuple(_PIECE.iter_unpack(data[_HEAD.size : end]))
        return cls(physical, size_bytes, code, journal_bytes, pieces, version)

    @property
    def known(self) -> bool:
        """Whether it is of this version of ours."""
        return self.version == _VERSION

    @property
    def zone(self) -> Zone:
        """The zone that it is about, but for its rings."""
        pieces = tuple(physical for physical, _ in self.pieces) if self.size_bytes > PIECE_BYTES else ()
        data = self.code + HUGE_BYTES
        return Zone(self.physical, self.size_bytes, self.code, data, 0, self.journal_bytes, pieces)


def entries_place(zone: Zone) -> tuple[int, int]:
    """Where entries are: virtual address, and size in bytes."""
    if zone.journal_bytes:
        return zone.journal, zone.journal_bytes
    return zone.word(Zone.JOURNAL) + HEAD_BYTES, Zone.JOURNAL_BYTES - HEAD_BYTES


def max_entries(zone: Zone) -> int:
    """How many locations can be planted at the same time in such a zone."""
    return entries_place(zone)[1] // _ENTRY.size


def entries_in(data: bytes) -> dict[int, bytes]:
    """Own bytes by location, out of all entries."""
    used = len(data) // _ENTRY.size * _ENTRY.size
    return {ip: own[:count] for ip, count, own in _ENTRY.iter_unpack(data[:used]) if ip}


class OwnBytes:
    """The entries of a zone, which is blank."""

    def __init__(self, ram: GuestRam, zone: Zone) -> None:
        self._ram = ram
        self._first = zone.physical_of(entries_place(zone)[0])
        self._room = max_entries(zone)
        self._index: dict[int, int] = {}
        self._free: list[int] = []

    def check_room(self, ips: Collection[int], others: Collection[int]) -> None:
        """Check that there is room for these locations, beside others and those that are kept.

        :raise SiteNoJournal: there is not.
        """
        limit = self._room - _OURS
        if ips and len({*ips, *others} | self._index.keys()) > limit:
            raise SiteNoJournal(min(ips), limit)

    def keep(self, owns: Mapping[int, bytes]) -> None:
        """These locations are about to be written, or have other own bytes from now on.

        :raise SiteNoJournal: there are too many.
        """
        new = [ip for ip in owns if ip not in self._index]
        if len(self._index) + len(new) > self._room:
            raise SiteNoJournal(new[0], self._room)
        for ip in new:
            self._index[ip] = self._free.pop() if self._free else len(self._index)
        self._write({self._index[ip]: _ENTRY.pack(ip, len(own), own) for ip, own in owns.items()})

    def drop(self, ips: Iterable[int]) -> None:
        """These locations have their own bytes back."""
        free = [self._index.pop(ip) for ip in ips]
        self._write(dict.fromkeys(free, bytes(_ENTRY.size)))
        self._free += free

    def __contains__(self, ip: int) -> bool:
        return ip in self._index

    @property
    def ips(self) -> Collection[int]:
        """The locations."""
        return self._index.keys()

    # Neighbours in one go.
    def _write(self, entries: Mapping[int, bytes]) -> None:
        run: list[bytes] = []
        for index in sorted(entries):
            run.append(entries[index])
            if index + 1 not in entries:
                first = index + 1 - len(run)
                self._ram.write_physical(self._first + first * _ENTRY.size, b"".join(run))
                run.clear()
