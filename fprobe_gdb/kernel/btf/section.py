"""A ``.BTF`` section as numbered records and strings: the bytes, checked, but not yet understood.

The format is Documentation/bpf/btf.rst (Linux 6.12). Types have no index on disk and different lengths, so one pass
over all of them finds where each starts. That takes about 40 ms for a distribution kernel's 100,000 types, the table of
their names another 30 ms (measured on Linux 6.1 and 6.12, Python 3.11), so nothing needs to be cached on disk.

What is checked here, once: header, bounds, kinds, that records fill the type section exactly, that strings end. Type
IDs and string offsets inside the records are checked when they are used.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

from fprobe_gdb.errors import BtfError

__all__ = ["BtfSection", "Kind", "Record"]

_MAGIC = 0xEB9F
_VERSION = 1
_HEADER = "HBBIIIII"
_HEADER_BYTES = struct.calcsize("<" + _HEADER)
_WORD_BYTES = 4
_MAX_NAME_BYTES = 4096


class Kind:
    """The values of ``BTF_KIND_*`` (include/uapi/linux/btf.h, Linux 6.12)."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


# What follows the three words of struct btf_type, in words: a fixed part, and a part for each of the vlen entries.
_LAYOUT = {
    Kind.INT: (1, 0),
    Kind.PTR: (0, 0),
    Kind.ARRAY: (3, 0),
    Kind.STRUCT: (0, 3),
    Kind.UNION: (0, 3),
    Kind.ENUM: (0, 2),
    Kind.FWD: (0, 0),
    Kind.TYPEDEF: (0, 0),
    Kind.VOLATILE: (0, 0),
    Kind.CONST: (0, 0),
    Kind.RESTRICT: (0, 0),
    Kind.FUNC: (0, 0),
    Kind.FUNC_PROTO: (0, 2),
    Kind.VAR: (1, 0),
    Kind.DATASEC: (0, 3),
    Kind.FLOAT: (0, 0),
    Kind.DECL_TAG: (1, 0),
    Kind.TYPE_TAG: (0, 0),
    Kind.ENUM64: (0, 3),
}
_TYPE_WORDS = 3
# Who asks for more names than this has all strings put in a table, which takes as long as a hundred searches.
_FEW_SEARCHES = 200
# Indexed by kind. A kind that we do not know has length 0, which stops the pass: its true length is written nowhere.
_FIXED_WORDS = [_TYPE_WORDS + _LAYOUT[kind][0] if kind in _LAYOUT else 0 for kind in range(32)]
_ENTRY_WORDS = [_LAYOUT[kind][1] if kind in _LAYOUT else 0 for kind in range(32)]


class Record(NamedTuple):
    """One ``struct btf_type`` and the words behind it."""

    kind: int
    kind_flag: bool
    vlen: int
    name_offset: int
    #: ``size`` or ``type``, as the kind has it.
    size_or_type: int
    #: All words that follow.
    extra: Sequence[int]


class BtfSection:
    """The records and strings of one BTF blob; a module's continue those of the kernel (split BTF).

    :param data: the section's bytes.
    :param path: what it came from, for messages.
    :param base: the kernel's section when ``data`` is a module's.
    :raise BtfError: it is damaged, truncated, or has kinds that we do not know.
    """

    def __init__(self, data: bytes, path: str, base: BtfSection | None = None) -> None:
        self.path = path
        self.base = base
        #: ID of the first type of this section. ID 0 is ``void`` and has no record.
        self.first_id: int = base.end_id if base else 1
        self._first_string: int = base.strings_end if base else 0
        types, self._strings = self._split(data)
        self._ids_by_name: dict[str, Sequence[int]] = {}
        self._searches = 0

        self._words = array("I", types)
        if self.byte_order != sys.byteorder:
            self._words.byteswap()
        self._starts, self._kinds = self._scan()
        #: One more than the highest type ID.
        self.end_id: int = self.first_id + len(self._starts)
        self.strings_end: int = self._first_string + len(self._strings)

    def error(self, why: str) -> BtfError:
        """A :class:`~fprobe_gdb.errors.BtfError` about this section, for the caller to raise."""
        return BtfError(self.path, f"BTF: {why}")

    # The bytes of the two parts, as the header says where they are.
    def _split(self, data: bytes) -> tuple[bytes, bytes]:
        if len(data) < _HEADER_BYTES:
            raise self.error(f"{len(data)} bytes are too few for its header; truncated")
        self.byte_order = "little" if data[:2] == _MAGIC.to_bytes(2, "little") else "big"
        mark = "<" if self.byte_order == "little" else ">"
        magic, version, _flags, header_bytes, *places = struct.unpack_from(mark + _HEADER, data)
        type_at, type_bytes, string_at, string_bytes = places
        if magic != _MAGIC:
            raise self.error(f"starts with {data[:2].hex()}, not with the magic eb9f; not BTF, or damaged")
        if version != _VERSION:
            raise self.error(f"version {version}; only version {_VERSION} is known")
        # A longer header is of a newer format with more fields; those that we know stay where they are.
        if not _HEADER_BYTES <= header_bytes <= len(data):
            raise self.error(f"its header claims {header_bytes} bytes of {len(data)}; damaged")
        for name, at, size_bytes in (("type", type_at, type_bytes), ("string", string_at, string_bytes)):
            if header_bytes + at + size_bytes > len(data):
                raise self.error(f"its {name} section ends behind the data ({len(data)} bytes); truncated")
        if type_bytes % _WORD_BYTES:
            raise self.error(f"its type section has {type_bytes} bytes, which is no multiple of 4; damaged")
        strings = data[header_bytes + string_at :][:string_bytes]
        # A module without names of its own has an empty string section.
        if (strings or not self.base) and (not strings.endswith(b"\0") or (not self.base and strings[0])):
            raise self.error("its string section does not start and end with a zero byte; damaged")
        return data[header_bytes + type_at :][:type_bytes], strings

    # Where each record starts (in words), and its kind.
    def _scan(self) -> tuple[list[int], bytes]:
        words, fixed, per_entry = self._words, _FIXED_WORDS, _ENTRY_WORDS
        starts: list[int] = []
        kinds = bytearray()
        at, end = 0, len(words)
        add_start, add_kind = starts.append, kinds.append
        try:
            while at < end:
                info = words[at + 1]
                kind = info >> 24 & 0x1F
                length = fixed[kind]
                if not length:
                    raise self.error(
                        f"type {self.first_id + len(starts)} has kind {kind}, which is not known and cannot be "
                        "skipped; damaged, or newer than this program"
                    )
                add_start(at)
                add_kind(kind)
                at += length + per_entry[kind] * (info & 0xFFFF)
        except IndexError:
            at = end + 1
        if at != end:
            raise self.error(f"type {self.first_id + len(starts) - 1} ends behind the type section; damaged")
        return starts, bytes(kinds)

    def record(self, type_id: int) -> Record:
        """The record of a type.

        :raise BtfError: there is no such ID.
        """
        if self.base and type_id < self.first_id:
            return self.base.record(type_id)
        index = type_id - self.first_id
        if not 0 <= index < len(self._starts):
            raise self.error(f"refers to type {type_id}, but has {self.end_id - 1}; damaged")
        start = self._starts[index]
        stop = self._starts[index + 1] if index + 1 < len(self._starts) else len(self._words)
        name_offset, info, size_or_type = self._words[start : start + _TYPE_WORDS]
        extra = self._words[start + _TYPE_WORDS : stop]
        return Record(info >> 24 & 0x1F, bool(info >> 31), info & 0xFFFF, name_offset, size_or_type, extra)

    def kind(self, type_id: int) -> int:
        """The kind of a type; 0 for ``void``.

        :raise BtfError: there is no such ID.
        """
        if type_id == 0:
            return Kind.VOID
        if self.base and type_id < self.first_id:
            return self.base.kind(type_id)
        if not 0 <= type_id - self.first_id < len(self._kinds):
            raise self.error(f"refers to type {type_id}, but has {self.end_id - 1}; damaged")
        return self._kinds[type_id - self.first_id]

    def string(self, offset: int) -> str:
        """The string at an offset; "" at 0.

        :raise BtfError: there is no such offset.
        """
        if self.base and offset < self._first_string:
            return self.base.string(offset)
        start = offset - self._first_string
        if not 0 <= start < len(self._strings):
            raise self.error(f"refers to a name at {offset}, but has {self.strings_end} bytes of names; damaged")
        stop = self._strings.find(b"\0", start, start + _MAX_NAME_BYTES)
        if stop < 0:
            raise self.error(f"has a name of more than {_MAX_NAME_BYTES} bytes at {offset}; damaged")
        return self._strings[start:stop].decode("utf-8", "backslashreplace")

    def ids_named(self, name: str) -> Sequence[int]:
        """The IDs of all types of a name, of any kind, ascending. Under 3 ms the first time, then kept."""
        known = self._ids_by_name.get(name)
        if known is not None:
            return known
        found: list[int] = []
        offsets = self._offsets_of(name.encode("utf-8", "surrogatepass"))
        section: BtfSection | None = self
        while section is not None:
            for offset in offsets:
                found += section._ids_at(offset)
            section = section.base
        found.sort()
        self._ids_by_name[name] = found
        return found

    def ids_of(self, kind: int) -> list[int]:
        """The IDs of all types of a kind, ascending, the base's first."""
        own = [self.first_id + index for index, known in enumerate(self._kinds) if known == kind]
        return self.base.ids_of(kind) + own if self.base else own

    # Offsets at which a name can be meant. A string may be used from its middle too, though no known writer does that.
    def _offsets_of(self, name: bytes) -> list[int]:
        if not name or b"\0" in name:
            return []
        found = self.base._offsets_of(name) if self.base else []
        self._searches += 1
        if self._searches > _FEW_SEARCHES and not self._has_tails:
            return found + self._offsets_by_string.get(name, [])
        wanted = name + b"\0" if self._has_tails else b"\0" + name + b"\0"
        skip = 0 if self._has_tails else 1
        if not self._has_tails and self._strings.startswith(wanted[1:]):
            found.append(self._first_string)
        at = -1
        while (at := self._strings.find(wanted, at + 1)) >= 0:
            found.append(self._first_string + at + skip)
        return found

    # Of each string where it begins.
    @cached_property
    def _offsets_by_string(self) -> dict[bytes, list[int]]:
        offsets: dict[bytes, list[int]] = {}
        at = self._first_string
        for string in self._strings.split(b"\0")[:-1]:
            offsets.setdefault(string, []).append(at)
            at += len(string) + 1
        return offsets

    def _ids_at(self, offset: int) -> list[int]:
        first = self._first_by_name.get(offset)
        if first is None:
            return []
        return [self.first_id + index for index in (first, *self._others_by_name.get(offset, ()))]

    @cached_property
    def _name_offsets(self) -> list[int]:
        return list(map(self._words.__getitem__, self._starts))

    # Name offset to the lowest index that has it.
    @cached_property
    def _first_by_name(self) -> dict[int, int]:
        names = self._name_offsets
        return dict(zip(reversed(names), range(len(names) - 1, -1, -1), strict=True))

    # The further ones, ascending. Most names have none, and the nameless are not wanted.
    @cached_property
    def _others_by_name(self) -> dict[int, list[int]]:
        first = self._first_by_name
        others: dict[int, list[int]] = {}
        for index, offset in enumerate(self._name_offsets):
            if offset and first[offset] != index:
                others.setdefault(offset, []).append(index)
        return others

    # Whether any type's name is the tail of another string.
    @cached_property
    def _has_tails(self) -> bool:
        strings, start, stop = self._strings, self._first_string, self.strings_end
        return any(strings[offset - start - 1] for offset in self._first_by_name if start < offset < stop)

    def prepare(self) -> None:
        """Make the tables of names now instead of at the first look-up."""
        _ = self._others_by_name, self._has_tails
