"""The few x86_64 instructions that pads are made of, encoded. Pure.

Names are the mnemonics; operands are in Intel's order. Registers go by pt_regs' names. Only 64-bit operands unless the
method's name ends in ``l`` (32 bits) or ``b`` (8 bits). Encodings: Intel SDM volume 2. Tests disassemble all of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

__all__ = ["Asm", "Mem", "at", "gs", "rip"]

_NUMBERS = {
    "ax": 0, "cx": 1, "dx": 2, "bx": 3, "sp": 4, "bp": 5, "si": 6, "di": 7,
    "r8": 8, "r9": 9, "r10": 10, "r11": 11, "r12": 12, "r13": 13, "r14": 14, "r15": 15,
}  # fmt: skip
_CONDITIONS = {"b": 2, "ae": 3, "e": 4, "ne": 5, "be": 6, "a": 7, "l": 12, "ge": 13, "le": 14, "g": 15}
_MASK32 = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Mem:
    """A memory operand: base register (or none), index register, displacement; or relative to rip; or behind gs."""

    base: str | None = None
    disp: int = 0
    index: str | None = None
    #: An absolute address, reached relative to rip.
    target: int | None = None
    gs: bool = False


def at(base: str, disp: int = 0, index: str | None = None) -> Mem:
    """``[base + index + disp]``."""
    return Mem(base, disp, index)


def rip(target: int) -> Mem:
    """``[rip + ...]``, for an address within 2 GiB."""
    return Mem(target=target)


def gs(offset: int) -> Mem:
    """``gs:[offset]``: a per-CPU variable. Offsets are modulo 2^64 and sign-extended from 32 bits."""
    return Mem(disp=offset, gs=True)


class Asm:
    """Instructions one after the other, from an address on. Labels may be used before they are set."""

    def __init__(self, addr: int) -> None:
        self.addr = addr
        self._code = bytearray()
        self._labels: dict[str, int] = {}
        # Position of each rel32 that waits for a label.
        self._waiting: list[tuple[int, str]] = []
        self._aside: list[Callable[[], None]] = []

    @property
    def here(self) -> int:
        """Address of the next instruction."""
        return self.addr + len(self._code)

    def label(self, name: str) -> None:
        """Name this place."""
        assert name not in self._labels, name
        self._labels[name] = len(self._code)

    def address_of(self, label: str) -> int:
        """Where a label is."""
        return self.addr + self._labels[label]

    def aside(self, emit: Callable[[], None]) -> None:
        """Let :meth:`finish` emit what is rarely needed, behind all else, where control does not come by itself."""
        self._aside.append(emit)

    def finish(self) -> bytes:
        """The code, with all labels filled in."""
        # Each may set more aside.
        while self._aside:
            self._aside.pop(0)()
        for place, label in self._waiting:
            self._code[place : place + 4] = _signed32(self._labels[label] - place - 4)
        self._waiting.clear()
        return bytes(self._code)

    @contextlib.contextmanager
    def preserving(self, *registers: str) -> Iterator[None]:
        """Around a subroutine: these registers are on the stack within; it returns at the end of the block."""
        for register in registers:
            self.push(register)
        yield
        for register in reversed(registers):
            self.pop(register)
        self.ret()

    # Section: moves

    def mov(self, to: str | Mem, source: str | Mem) -> None:
        """``mov r64, m64``, ``mov m64, r64`` or ``mov r64, r64``."""
        self._two(to, source, b"\x8b", b"\x89", wide=True)

    def movl(self, to: str | Mem, source: str | Mem) -> None:
        """The same with 32 bits; a register's upper half becomes zero."""
        self._two(to, source, b"\x8b", b"\x89", wide=False)

    def movslq(self, to: str, source: str) -> None:
        """``movsxd r64, r32``: sign-extended."""
        self._registers(b"\x63", _NUMBERS[to], source, wide=True)

    def movl_imm(self, to: str | Mem, value: int) -> None:
        """``mov r32, imm32`` or ``mov m32, imm32``."""
        if isinstance(to, Mem):
            self._memory(b"\xc7", 0, to, wide=False, imm=_unsigned32(value))
        else:
            number = _NUMBERS[to]
            self._code += (b"\x41" if number >= 8 else b"") + bytes([0xB8 | number & 7]) + _unsigned32(value)

    def mov_imm(self, to: str | Mem, value: int) -> None:
        """``mov r64, imm32`` or ``mov m64, imm32``, sign-extended."""
        if isinstance(to, Mem):
            self._memory(b"\xc7", 0, to, wide=True, imm=_signed32(value))
        else:
            self._registers(b"\xc7", 0, to, wide=True, imm=_signed32(value))

    def mov_imm64(self, to: str, value: int) -> None:
        """``mov r64, imm64``."""
        number = _NUMBERS[to]
        self._code += bytes([0x48 | number >> 3, 0xB8 | number & 7]) + value.to_bytes(8, "little")

    def movzwl(self, to: str, source: Mem) -> None:
        """``movzx r32, m16``."""
        self._memory(b"\x0f\xb7", _NUMBERS[to], source, wide=False)

    def movzbl(self, to: str, source: Mem) -> None:
        """``movzx r32, m8``."""
        self._memory(b"\x0f\xb6", _NUMBERS[to], source, wide=False)

    def movw(self, to: Mem, source: str) -> None:
        """``mov m16, r16``."""
        self._memory(b"\x89", _NUMBERS[source], to, wide=False, prefix=b"\x66")

    def movb(self, to: Mem, source: str) -> None:
        """``mov m8, r8``; ``ax`` to ``dx`` only."""
        self._memory(b"\x88", _NUMBERS[source], to, wide=False)

    def movb_imm(self, to: Mem, value: int) -> None:
        """``mov m8, imm8``."""
        self._memory(b"\xc6", 0, to, wide=False, imm=bytes([value]))

    def lea(self, to: str, source: Mem) -> None:
        """``lea r64, m``."""
        self._memory(b"\x8d", _NUMBERS[to], source, wide=True)

    def push(self, register: str) -> None:
        """``push r64``."""
        number = _NUMBERS[register]
        self._code += (b"\x41" if number >= 8 else b"") + bytes([0x50 | number & 7])

    def pop(self, register: str) -> None:
        """``pop r64``."""
        number = _NUMBERS[register]
        self._code += (b"\x41" if number >= 8 else b"") + bytes([0x58 | number & 7])

    def pushfq(self) -> None:
        """``pushfq``."""
        self._code += b"\x9c"

    def popfq(self) -> None:
        """``popfq``."""
        self._code += b"\x9d"

    def stc(self) -> None:
        """``stc``: the carry flag is set."""
        self._code += b"\xf9"

    def clc(self) -> None:
        """``clc``: the carry flag is not set."""
        self._code += b"\xf8"

    def mov_from_cr3(self, to: str) -> None:
        """``mov r64, cr3``; ``ax`` to ``di`` only."""
        self._code += b"\x0f\x20" + bytes([0xC0 | 3 << 3 | _NUMBERS[to]])

    # Section: arithmetic

    def add(self, to: str | Mem, source: str | Mem) -> None:
        """``add r64, r64``, ``add r64, m64`` or ``add m64, r64``."""
        self._two(to, source, b"\x03", b"\x01", wide=True)

    def adc(self, to: Mem, source: str) -> None:
        """``adc m64, r64``: with the carry flag."""
        self._memory(b"\x11", _NUMBERS[source], to, wide=True)

    def sub(self, to: str, source: str | Mem) -> None:
        """``sub r64, r64`` or ``sub r64, m64``."""
        self._two(to, source, b"\x2b", b"\x29", wide=True)

    def or_(self, to: str, source: str | Mem) -> None:
        """``or r64, r64``."""
        self._two(to, source, b"\x0b", b"\x09", wide=True)

    def and_(self, to: str, source: str | Mem) -> None:
        """``and r64, r64``."""
        self._two(to, source, b"\x23", b"\x21", wide=True)

    def xor(self, to: str, source: str | Mem) -> None:
        """``xor r64, r64``."""
        self._two(to, source, b"\x33", b"\x31", wide=True)

    def xorl(self, to: str, source: str) -> None:
        """``xor r32, r32``."""
        self._two(to, source, b"\x33", b"\x31", wide=False)

    def cmp(self, left: str, right: str | Mem) -> None:
        """``cmp r64, r64`` or ``cmp r64, m64``."""
        self._two(left, right, b"\x3b", b"\x39", wide=True)

    def add_imm(self, to: str, value: int) -> None:
        """``add r64, imm32``, sign-extended."""
        self._registers(b"\x81", 0, to, wide=True, imm=_signed32(value))

    def sub_imm(self, to: str, value: int) -> None:
        """``sub r64, imm32``, sign-extended."""
        self._registers(b"\x81", 5, to, wide=True, imm=_signed32(value))

    def andl_imm(self, to: str, value: int) -> None:
        """``and r32, imm32``."""
        self._registers(b"\x81", 4, to, wide=False, imm=_unsigned32(value))

    def cmp_imm(self, left: str, value: int) -> None:
        """``cmp r64, imm32``, sign-extended."""
        self._registers(b"\x81", 7, left, wide=True, imm=_signed32(value))

    def testl_imm(self, left: str, value: int) -> None:
        """``test r32, imm32``."""
        self._registers(b"\xf7", 0, left, wide=False, imm=_unsigned32(value))

    def cmpl_imm(self, left: str | Mem, value: int) -> None:
        """``cmp r32, imm32`` or ``cmp m32, imm32``."""
        if isinstance(left, Mem):
            self._memory(b"\x81", 7, left, wide=False, imm=_unsigned32(value))
        else:
            self._registers(b"\x81", 7, left, wide=False, imm=_unsigned32(value))

    def cmpb_imm(self, left: Mem, value: int) -> None:
        """``cmp m8, imm8``."""
        self._memory(b"\x80", 7, left, wide=False, imm=bytes([value]))

    def shl_imm(self, to: str, count: int) -> None:
        """``shl r64, imm8``."""
        self._registers(b"\xc1", 4, to, wide=True, imm=bytes([count]))

    def shr_imm(self, to: str, count: int) -> None:
        """``shr r64, imm8``."""
        self._registers(b"\xc1", 5, to, wide=True, imm=bytes([count]))

    def sar_imm(self, to: str, count: int) -> None:
        """``sar r64, imm8``."""
        self._registers(b"\xc1", 7, to, wide=True, imm=bytes([count]))

    def shl_cl(self, to: str) -> None:
        """``shl r64, cl``."""
        self._registers(b"\xd3", 4, to, wide=True)

    def shr_cl(self, to: str) -> None:
        """``shr r64, cl``."""
        self._registers(b"\xd3", 5, to, wide=True)

    def sar_cl(self, to: str) -> None:
        """``sar r64, cl``."""
        self._registers(b"\xd3", 7, to, wide=True)

    def imul(self, to: str, source: str) -> None:
        """``imul r64, r64``."""
        self._registers(b"\x0f\xaf", _NUMBERS[to], source, wide=True)

    def neg(self, to: str) -> None:
        """``neg r64``."""
        self._registers(b"\xf7", 3, to, wide=True)

    def mul(self, source: str) -> None:
        """``mul r64``: rdx:rax is rax times it."""
        self._registers(b"\xf7", 4, source, wide=True)

    def div(self, source: str) -> None:
        """``div r64``: rdx:rax by it; rax is the quotient, rdx the rest."""
        self._registers(b"\xf7", 6, source, wide=True)

    def idiv(self, source: str) -> None:
        """``idiv r64``: the same of signed numbers."""
        self._registers(b"\xf7", 7, source, wide=True)

    def bsr(self, to: str, source: str) -> None:
        """``bsr r64, r64``: the number of the highest bit that is set; equal when none is, and then undefined."""
        self._registers(b"\x0f\xbd", _NUMBERS[to], source, wide=True)

    def cqo(self) -> None:
        """``cqo``: rdx gets the sign of rax."""
        self._code += b"\x48\x99"

    def incl(self, to: str | Mem) -> None:
        """``inc r32`` or ``inc m32``; one instruction, so no interrupt of the same CPU can come in between."""
        self._unary(b"\xff", 0, to, wide=False)

    def decl(self, to: str | Mem) -> None:
        """``dec r32`` or ``dec m32``."""
        self._unary(b"\xff", 1, to, wide=False)

    # Section: against interrupts of the same CPU

    def inc(self, to: Mem) -> None:
        """``inc m64``."""
        self._unary(b"\xff", 0, to, wide=True)

    def dec(self, to: Mem) -> None:
        """``dec m64``."""
        self._unary(b"\xff", 1, to, wide=True)

    def xadd(self, to: Mem, source: str) -> None:
        """``xadd m64, r64``: the register gets the old value."""
        self._memory(b"\x0f\xc1", _NUMBERS[source], to, wide=True)

    def cmpxchg(self, to: Mem, source: str) -> None:
        """``cmpxchg m64, r64``: equal to rax, it gets the register, else rax gets it."""
        self._memory(b"\x0f\xb1", _NUMBERS[source], to, wide=True)

    # Section: between CPUs

    def lock_inc(self, to: Mem) -> None:
        """``lock inc m64``."""
        self._memory(b"\xff", 0, to, wide=True, prefix=b"\xf0")

    def lock_incl(self, to: Mem) -> None:
        """``lock inc m32``."""
        self._memory(b"\xff", 0, to, wide=False, prefix=b"\xf0")

    def lock_cmpxchg(self, to: Mem, source: str) -> None:
        """``lock cmpxchg m64, r64``: equal to rax, it gets the register, else rax gets it."""
        self._memory(b"\x0f\xb1", _NUMBERS[source], to, wide=True, prefix=b"\xf0")

    def lock_cmpxchgb(self, to: Mem, source: str) -> None:
        """``lock cmpxchg m8, r8`` with al."""
        self._memory(b"\x0f\xb0", _NUMBERS[source], to, wide=False, prefix=b"\xf0")

    def fence(self) -> None:
        """``lock or dword [rsp], 0``: all earlier stores are visible before any later load."""
        self._code += b"\xf0\x83\x0c\x24\x00"

    # Section: flow

    def jmp(self, to: str | int) -> None:
        """``jmp rel32`` to a label or an address."""
        self._branch(b"\xe9", to)

    def jcc(self, condition: str, label: str) -> None:
        """``jCC rel32``; conditions by the names of the mnemonics, those of signed numbers too."""
        self._branch(bytes([0x0F, 0x80 | _CONDITIONS[condition]]), label)

    def jmp_mem(self, source: Mem) -> None:
        """``jmp m64``."""
        self._memory(b"\xff", 4, source, wide=False)

    def call(self, to: str | int) -> None:
        """``call rel32``."""
        self._branch(b"\xe8", to)

    def call_mem(self, source: Mem) -> None:
        """``call m64``."""
        self._memory(b"\xff", 2, source, wide=False)

    def ret(self) -> None:
        """``ret``."""
        self._code += b"\xc3"

    def rdtsc(self) -> None:
        """``rdtsc``: edx:eax."""
        self._code += b"\x0f\x31"

    def pause(self) -> None:
        """``pause``: under TCG with one thread the next vCPU runs."""
        self._code += b"\xf3\x90"

    def data(self, data: bytes) -> None:
        """Bytes that are no instructions."""
        self._code += data

    def pad_to(self, addr: int) -> None:
        """``int3`` up to an address."""
        self._code += b"\xcc" * (addr - self.here)

    def out_al(self, port: int) -> None:
        """``out imm8, al``."""
        self._code += bytes([0xE6, port])

    # Private parts

    def _two(self, to: str | Mem, source: str | Mem, load: bytes, store: bytes, *, wide: bool) -> None:
        if isinstance(to, Mem):
            assert isinstance(source, str)
            self._memory(store, _NUMBERS[source], to, wide=wide)
        elif isinstance(source, Mem):
            self._memory(load, _NUMBERS[to], source, wide=wide)
        else:
            self._registers(store, _NUMBERS[source], to, wide=wide)

    def _unary(self, opcode: bytes, extension: int, to: str | Mem, *, wide: bool) -> None:
        if isinstance(to, Mem):
            self._memory(opcode, extension, to, wide=wide)
        else:
            self._registers(opcode, extension, to, wide=wide)

    def _registers(self, opcode: bytes, reg: int, rm: str, *, wide: bool, imm: bytes = b"") -> None:
        number = _NUMBERS[rm]
        rex = 0x40 | wide << 3 | (reg >> 3) << 2 | number >> 3
        self._code += (bytes([rex]) if rex != 0x40 else b"") + opcode
        self._code += bytes([0xC0 | (reg & 7) << 3 | number & 7]) + imm

    def _memory(self, opcode: bytes, reg: int, mem: Mem, *, wide: bool, imm: bytes = b"", prefix: bytes = b"") -> None:
        base = _NUMBERS[mem.base] if mem.base else 0
        index = _NUMBERS[mem.index] if mem.index else 0
        rex = 0x40 | wide << 3 | (reg >> 3) << 2 | (index >> 3) << 1 | base >> 3
        self._code += prefix + (b"\x65" if mem.gs else b"") + (bytes([rex]) if rex != 0x40 else b"") + opcode
        field = (reg & 7) << 3
        if mem.target is not None:
            end = self.here + 5 + len(imm)
            self._code += bytes([field | 5]) + _signed32(mem.target - end)
        elif mem.base is None:
            # No base, no index: [disp32], sign-extended.
            self._code += bytes([field | 4, 0x25]) + _unsigned32(mem.disp)
        elif mem.index or base & 7 == 4:
            sib = (index & 7) << 3 | base & 7 if mem.index else 0x24 | base & 7
            self._code += bytes([0x80 | field | 4, sib]) + _signed32(mem.disp)
        else:
            self._code += bytes([0x80 | field | base & 7]) + _signed32(mem.disp)
        self._code += imm

    def _branch(self, opcode: bytes, to: str | int) -> None:
        self._code += opcode
        if isinstance(to, str):
            self._waiting.append((len(self._code), to))
            self._code += bytes(4)
        else:
            self._code += _signed32(to - self.here - 4)


def _signed32(value: int) -> bytes:
    return value.to_bytes(4, "little", signed=True)


def _unsigned32(value: int) -> bytes:
    return (value & _MASK32).to_bytes(4, "little")
