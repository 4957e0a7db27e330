"""Where a C compiler would put members by itself: alignment, packed structures, and the gaps that must be written out.

BTF has offsets but no alignments. Those of the System V ABI for x86_64 explain most structures; where they do not, the
source had ``packed`` or ``aligned`` attributes.
"""

from __future__ import annotations

from fprobe_gdb.kernel.btf.types import (
    MAX_DEPTH,
    ArrayType,
    CompoundType,
    EnumType,
    FloatType,
    IntType,
    PointerType,
    Type,
)

__all__ = ["align_bytes", "is_packed", "paddings"]

_WORD_BITS = 64
# A gap is written in words; nobody reads more lines than this, and only damaged data has such gaps.
_MAX_FILLERS = 8192


def align_bytes(of: Type) -> int:
    """The alignment that the ABI gives a type, without attributes of the source.

    :raise BtfError: a structure that contains itself.
    """
    return _Aligner().of(of)


def is_packed(of: CompoundType) -> bool:
    """Whether a structure breaks the ABI's alignment, so that its source must have had ``packed``.

    :raise BtfError: a structure that contains itself.
    """
    return _Aligner().is_packed(of)


def paddings(of: CompoundType) -> list[list[str]]:
    """For each member, and for the structure's end: the nameless bit-fields to be written before it.

    :raise BtfError: damaged data.
    """
    gaps: list[list[str]] = [[] for _ in range(len(of.members) + 1)]
    if of.is_union:
        return gaps
    aligner = _Aligner()
    packed = aligner.is_packed(of)
    at_bit = 0
    for gap, member in zip(gaps, of.members, strict=False):
        size_bits = member.type.size_bytes * 8
        if packed:
            natural = at_bit if member.is_bitfield else _round_up(at_bit, 8)
        elif member.is_bitfield:
            fits = at_bit % size_bits + member.bit_size <= size_bits
            natural = at_bit if fits else _round_up(at_bit, size_bits)
        else:
            natural = _round_up(at_bit, aligner.of(member.type) * 8)
        if natural < member.bit_offset:
            gap += _fill(of, at_bit, member.bit_offset, packed)
        at_bit = max(at_bit, member.bit_offset + (member.bit_size or size_bits))
    natural = _round_up(at_bit, 8 if packed else aligner.of(of) * 8)
    # A structure without members may have a size: nameless bit-fields (struct bpf_dynptr of Linux 6.1) leave no trace.
    if natural < of.size_bytes * 8:
        gaps[-1] += _fill(of, at_bit, of.size_bytes * 8, packed)
    return gaps


def _fill(of: CompoundType, start_bit: int, stop_bit: int, packed: bool) -> list[str]:
    if stop_bit - start_bit > _MAX_FILLERS * _WORD_BITS:
        return [f"char: 8 /* and {(stop_bit - start_bit) // 8 - 1} more bytes of padding */"]
    widths = []
    while start_bit < stop_bit:
        stop = min(stop_bit, _round_up(start_bit + 1, _WORD_BITS))
        widths.append(stop - start_bit)
        start_bit = stop
    # The first whole word finds its place without what comes before it.
    if not packed and len(widths) > 1 and widths[0] < _WORD_BITS == widths[1]:
        del widths[0]
    return [f"long: {width}" for width in widths]


def _round_up(value: int, to: int) -> int:
    return -(-value // to) * to if to else value


class _Aligner:
    # Remembers what it has seen, so that structures nested crosswise cost no more than once each.
    def __init__(self) -> None:
        self._known: dict[int, int] = {}
        self._packed: dict[int, bool] = {}
        self._depth = 0

    def of(self, of: Type) -> int:
        found = of.resolve()
        for _ in range(MAX_DEPTH):
            if not isinstance(found, ArrayType):
                break
            found = found.target.resolve()
        if isinstance(found, CompoundType):
            return self._compound(found)
        if isinstance(found, (IntType, FloatType, EnumType, PointerType)):
            # An x87 long double has 10 bytes of value in 16; sizes here are powers of two.
            return min(found.size_bytes, 16)
        return 1

    def is_packed(self, of: CompoundType) -> bool:
        self._compound(of)
        return self._packed[of.id]

    def _compound(self, of: CompoundType) -> int:
        if of.id in self._known:
            return self._known[of.id]
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise of.table.error(f"type {of.id} contains itself, or is nested too deeply; damaged")
        largest, packed = 1, False
        for member in of.members:
            align = self.of(member.type)
            largest = max(largest, align)
            if member.is_bitfield:
                unit = member.type.size_bytes * 8
                packed |= member.bit_offset % unit + member.bit_size > unit
            else:
                packed |= bool(member.bit_offset % (align * 8))
        packed |= bool(of.size_bytes % largest)
        self._depth -= 1
        self._packed[of.id] = packed
        self._known[of.id] = 1 if packed else largest
        return self._known[of.id]
