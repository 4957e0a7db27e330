"""A BTF section made by hand: each method adds a type and gives its ID."""

from __future__ import annotations

import struct

from fprobe_gdb.kernel.btf import Kind


class MadeUpBtf:
    """Types and names, in the order in which they are added. ``base`` is what a module's continue."""

    def __init__(self, byte_order: str = "<", base: MadeUpBtf | None = None) -> None:
        self.mark = byte_order
        self.first_string = base.first_string + len(base.strings) if base else 0
        self.strings = b"" if base else b"\0"
        self.types = b""
        self.next_id = base.next_id if base else 1

    def name(self, text: str) -> int:
        if not text:
            return 0
        raw = text.encode() + b"\0"
        at = self.strings.find(b"\0" + raw)
        if at < 0:
            self.strings += raw
            at = len(self.strings) - len(raw) - 1
        return self.first_string + at + 1

    def words(self, *words: int) -> bytes:
        return b"".join(struct.pack(self.mark + "I", word & 0xFFFFFFFF) for word in words)

    def add(self, kind: int, name: str, size_or_type: int, *extra: int, vlen: int = 0, flag: bool = False) -> int:
        self.types += self.words(self.name(name), flag << 31 | kind << 24 | vlen, size_or_type, *extra)
        self.next_id += 1
        return self.next_id - 1

    def int(self, name: str, size: int, signed: bool = False, *, encoding: int = 0, bits: int = 0, at: int = 0) -> int:
        return self.add(Kind.INT, name, size, (signed | encoding) << 24 | at << 16 | (bits or size * 8))

    def ptr(self, target: int) -> int:
        return self.add(Kind.PTR, "", target)

    def array(self, element: int, count: int) -> int:
        return self.add(Kind.ARRAY, "", 0, element, element, count)

    # Members are (name, type, bit offset) or, for bit-fields, (name, type, bit offset, width).
    def compound(self, name: str, size: int, *members: tuple[object, ...], kind: int = Kind.STRUCT) -> int:
        flag = any(len(member) == 4 for member in members)
        words: list[int] = []
        for member in members:
            place = int(str(member[2])) | (int(str(member[3])) << 24 if len(member) == 4 else 0)
            words += [self.name(str(member[0])), int(str(member[1])), place]
        return self.add(kind, name, size, *words, vlen=len(members), flag=flag)

    def enum(self, name: str, size: int, values: dict[str, int], signed: bool = False) -> int:
        words: list[int] = []
        for key, value in values.items():
            words += [self.name(key), value] if size <= 4 else [self.name(key), value, value >> 32]
        kind = Kind.ENUM if size <= 4 else Kind.ENUM64
        return self.add(kind, name, size, *words, vlen=len(values), flag=signed)

    def typedef(self, name: str, target: int) -> int:
        return self.add(Kind.TYPEDEF, name, target)

    def qualified(self, kind: int, target: int, tag: str = "") -> int:
        return self.add(kind, tag, target)

    def proto(self, returns: int, *params: tuple[str, int]) -> int:
        words: list[int] = []
        for name, param in params:
            words += [self.name(name), param]
        return self.add(Kind.FUNC_PROTO, "", returns, *words, vlen=len(params))

    def func(self, name: str, proto: int) -> int:
        return self.add(Kind.FUNC, name, proto, vlen=1)

    def bytes(self, *, header_bytes: int = 24, version: int = 1) -> bytes:
        head = struct.pack(
            self.mark + "HBBIIIII",
            *(0xEB9F, version, 0, header_bytes, 0, len(self.types), len(self.types), len(self.strings)),
        )
        return head.ljust(header_bytes, b"\xff") + self.types + self.strings
