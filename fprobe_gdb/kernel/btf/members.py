"""Members of structures and unions: where they are, and how C's names lead to them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

from fprobe_gdb.errors import ElementNotFound, MemberNotFound, WrongType
from fprobe_gdb.kernel.btf.types import MAX_DEPTH, ArrayType, CompoundType, IntType, Type, TypeTable

__all__ = ["Member", "find_member", "flat_members"]

_STEP = re.compile(r"\s*(?:(?P<dot>\.)?\s*(?P<name>[A-Za-z_]\w*)|\[\s*(?P<index>\d+|0[xX][0-9a-fA-F]+)\s*\])")
# More than any kernel's structure has with all anonymous ones; only damaged data, nested crosswise, reaches it.
_MAX_FLAT_MEMBERS = 100_000
_MAX_NEAR = 3
_MAX_PATH_CHARS = 4096


class Member:
    """A member, or what a path of members leads to: ``name``, ``type`` and a place counted from the start."""

    __slots__ = ("_bit_offset", "_bit_size", "_table", "_type", "name")

    def __init__(self, table: TypeTable, name: str, type_: int | Type, bit_offset: int, bit_size: int | None) -> None:
        self._table = table
        #: "" for an anonymous structure or union.
        self.name = name
        self._type = type_
        self._bit_offset = bit_offset
        # None: the encoder had no room to say, and the type must be asked.
        self._bit_size = bit_size

    @property
    def type(self) -> Type:
        """The type that it is declared with.

        :raise BtfError: it does not exist.
        """
        return self._table.by_id(self._type) if isinstance(self._type, int) else self._type

    @property
    def bit_offset(self) -> int:
        """Bits from the start of the structure to the lowest bit of the member."""
        odd = self._odd_int()
        return self._bit_offset + (odd.bit_offset if odd else 0)

    @property
    def byte_offset(self) -> int:
        """Whole bytes from the start of the structure; of a bit-field, to the byte that holds its lowest bit."""
        return self.bit_offset // 8

    @property
    def bit_size(self) -> int:
        """Width of a bit-field in bits, 0 for other members."""
        if self._bit_size is not None:
            return self._bit_size
        odd = self._odd_int()
        return odd.bit_size if odd else 0

    @property
    def is_bitfield(self) -> bool:
        """Whether it is a bit-field."""
        return self.bit_size != 0

    # Encoders before v5.0's kind_flag wrote a bit-field's place into an integer type of its own.
    def _odd_int(self) -> IntType | None:
        if self._bit_size is not None:
            return None
        found = self.type.resolve()
        if isinstance(found, IntType) and (found.bit_offset or found.bit_size != found.size_bytes * 8):
            return found
        return None

    def moved(self, name: str, by_bits: int) -> Member:
        """The same member as seen from an enclosing structure."""
        return Member(self._table, name, self._type, self._bit_offset + by_bits, self._bit_size)

    def __str__(self) -> str:
        return self.type.c_text(self.name) + (f":{self.bit_size}" if self.is_bitfield else "")

    def __repr__(self) -> str:
        return f"<Member {self} at byte {self.byte_offset}, bit {self.bit_offset % 8}>"


def flat_members(of: CompoundType) -> Mapping[str, Member]:
    """All members that C reaches by a single name: the type's own, and those of its anonymous members.

    Where damaged data has a name twice, the first counts.

    :raise BtfError: anonymous members contain each other, or are endlessly many.
    """
    found: dict[str, Member] = {}
    budget = _MAX_FLAT_MEMBERS
    # (type, bit offset, depth), first in, first out: a type's own names come before those nested deeper.
    waiting: list[tuple[CompoundType, int, int]] = [(of, 0, 0)]
    for compound, base_bits, depth in waiting:
        if depth > MAX_DEPTH:
            raise of.table.error(f"type {of.id} has anonymous members nested too deeply; damaged")
        budget -= len(compound.members)
        if budget < 0:
            raise of.table.error(f"type {of.id} has more than {_MAX_FLAT_MEMBERS} members; damaged")
        for member in compound.members:
            if member.name:
                found.setdefault(member.name, member.moved(member.name, base_bits))
            elif isinstance(inner := member.type.resolve(), CompoundType):
                waiting.append((inner, base_bits + member.bit_offset, depth + 1))
    return found


def find_member(of: CompoundType, path: str) -> Member:
    """What :meth:`CompoundType.find_member` promises."""
    if len(path) > _MAX_PATH_CHARS:
        raise MemberNotFound(f"{path[:40]}...", str(of))
    found = Member(of.table, "", of, 0, None)
    at = 0
    while at < len(path):
        step = _STEP.match(path, at)
        if step is None or (bool(step["dot"]) == (at == 0) and not step["index"]):
            raise MemberNotFound(path, str(of))
        found = _element(found, int(step["index"], 0)) if step["index"] else _named(found, step["name"])
        at = step.end() + len(path[step.end() :]) - len(path[step.end() :].lstrip())
    if not at:
        raise MemberNotFound(path, str(of))
    return found.moved(path, 0)


def _named(outer: Member, name: str) -> Member:
    compound = outer.type.resolve()
    if not isinstance(compound, CompoundType):
        what = f"member {outer.name!r} is {outer.type.c_text()}"
        raise WrongType(f"{what}, which has no members of its own at a fixed place; {name!r} cannot be found in it")
    found = compound.flat_members.get(name)
    if found is None:
        near = difflib.get_close_matches(name, list(compound.flat_members), _MAX_NEAR)
        raise MemberNotFound(name, str(outer.type), near)
    return found.moved(name, outer.bit_offset)


def _element(outer: Member, index: int) -> Member:
    array = outer.type.resolve()
    if not isinstance(array, ArrayType):
        raise WrongType(f"member {outer.name!r} is {outer.type.c_text()}, which is no array; it has no [{index}]")
    if array.count and index >= array.count:
        raise ElementNotFound(f"member {outer.name!r} is {outer.type.c_text()}; it has no [{index}]")
    offset = outer.bit_offset + index * array.target.size_bytes * 8
    return Member(array.table, f"{outer.name}[{index}]", array.target, offset, None)
