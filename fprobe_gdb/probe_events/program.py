"""What a fetch argument is compiled to: where a value comes from, which pointers to follow, and how to keep it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["Bits", "Deref", "FetchProgram", "Op", "OpKind", "Source"]


class OpKind(Enum):
    """The ``FETCH_OP_*`` of kernel/trace/trace_probe.h (Linux 6.12) that fprobe events use."""

    #: Register or stack argument ``value``, from 0.
    ARG = "arg"
    #: Word ``value`` of what was kept at entry.
    EDATA = "edata"
    RETVAL = "retval"
    STACK = "stack"
    STACKP = "stackp"
    COMM = "comm"
    IMM = "imm"
    #: Immediate string ``text``.
    DATA = "data"
    #: ``text`` is ``SYM[+|-off]``; an IMM with its address follows.
    SYMBOL = "symbol"
    DEREF = "deref"
    UDEREF = "uderef"
    ST_RAW = "st_raw"
    ST_MEM = "st_mem"
    ST_UMEM = "st_umem"
    ST_STRING = "st_string"
    ST_USTRING = "st_ustring"
    ST_SYMSTR = "st_symstr"
    MOD_BF = "mod_bf"
    LP_ARRAY = "lp_array"


@dataclass(frozen=True, slots=True)
class Op:
    """One step, as the parser puts them together."""

    kind: OpKind
    value: int = 0
    text: str = ""


#: The first step of a program.
Source = Op


@dataclass(frozen=True, slots=True)
class Deref:
    """Follow a pointer: the value becomes the word at value + offset."""

    offset: int
    is_user: bool = False


@dataclass(frozen=True, slots=True)
class Bits:
    """Bit-field: ``width`` bits from bit ``shift``."""

    shift: int
    width: int

    def of(self, value: int) -> int:
        """The field of a container's value."""
        return value >> self.shift & ((1 << self.width) - 1)


@dataclass(frozen=True, slots=True)
class FetchProgram:
    """One argument."""

    source: Source
    derefs: tuple[Deref, ...]
    #: ST_RAW keeps the value itself, ST_MEM and ST_UMEM what it points to, the others a string.
    store: OpKind
    #: Added to the value where the store reads memory.
    offset: int = 0
    size_bytes: int = 8
    bits: Bits | None = None
    #: Elements of an array, 0 for none.
    count: int = 0

    def slot_of(self, word: int) -> int:
        """Of a word that holds the value, what the record keeps of it: as many bytes, or the bits asked for."""
        word &= (1 << self.size_bytes * 8) - 1
        return self.bits.of(word) if self.bits else word
