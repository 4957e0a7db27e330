"""A tiny assembler with labels, to write programs for the fake guest (and for a real one) in a test.

>>> asm = Assembler(0x1000)
>>> _ = asm.label("main").call("f").jmp("main").label("f").nop5().mov("ax", 7).ret()
>>> code = asm.assemble()
>>> hex(asm.address("f")), code[:5].hex(" ")
('0x100a', 'e8 05 00 00 00')
"""

from __future__ import annotations

from fprobe_gdb.errors import UsageError
from fprobe_gdb.registers import MASK64
from fprobe_gdb.target.fake_cpu import NUMBERED

__all__ = ["ENDBR64", "NOP5", "SEALED_ENDBR", "Assembler", "rel32"]

#: What a booted kernel has at ftrace locations (arch/x86/include/asm/nops.h, ``P6_NOP5``).
NOP5 = bytes.fromhex("0f1f440000")
ENDBR64 = bytes.fromhex("f30f1efa")
#: An ENDBR that the kernel sealed at boot (Linux 6.1 arch/x86/kernel/alternative.c, ``poison_endbr``).
SEALED_ENDBR = bytes.fromhex("660f1f00")


def rel32(opcode: int, from_addr: int, to_addr: int) -> bytes:
    """A five-byte CALL (0xe8) or JMP (0xe9) at ``from_addr``."""
    return bytes((opcode,)) + (to_addr - from_addr - 5).to_bytes(4, "little", signed=True)


class Assembler:
    """Collects instructions from an address on. Every instruction returns the assembler, for chaining.

    Registers go by :data:`~fprobe_gdb.registers.GENERAL_REGISTERS` names and are 64 bits wide.

    :param origin: the address of the first byte.
    """

    def __init__(self, origin: int) -> None:
        self.origin = origin
        self._code = bytearray()
        self._labels: dict[str, int] = {}
        # (where the displacement is, its label or address)
        self._fixups: list[tuple[int, str | int]] = []

    @property
    def here(self) -> int:
        """The address of the next byte."""
        return self.origin + len(self._code)

    def label(self, name: str) -> Assembler:
        """Name this place."""
        if name in self._labels:
            raise UsageError(f"label {name!r} is defined twice")
        self._labels[name] = self.here
        return self

    def address(self, name: str) -> int:
        """The address of a label."""
        try:
            return self._labels[name]
        except KeyError:
            raise UsageError(f"no label {name!r}; there are: {', '.join(self._labels) or 'none'}") from None

    def assemble(self) -> bytes:
        """The code, all references resolved."""
        code = bytearray(self._code)
        for at, target in self._fixups:
            addr = self.address(target) if isinstance(target, str) else target
            code[at : at + 4] = (addr - (self.origin + at + 4)).to_bytes(4, "little", signed=True)
        return bytes(code)

    def raw(self, data: bytes) -> Assembler:
        """Any bytes."""
        self._code += data
        return self

    def align(self, size_bytes: int, fill: int = 0xCC) -> Assembler:
        """Fill up to a multiple of ``size_bytes``."""
        return self.raw(bytes((fill,)) * (-self.here % size_bytes))

    def nop5(self) -> Assembler:
        """The fentry NOP."""
        return self.raw(NOP5)

    def endbr(self) -> Assembler:
        """ENDBR64."""
        return self.raw(ENDBR64)

    def nop(self) -> Assembler:
        """The one-byte NOP."""
        return self.raw(b"\x90")

    def pause(self) -> Assembler:
        """PAUSE."""
        return self.raw(b"\xf3\x90")

    def hlt(self) -> Assembler:
        """HLT: the vCPU idles."""
        return self.raw(b"\xf4")

    def ret(self) -> Assembler:
        """Near RET."""
        return self.raw(b"\xc3")

    def call(self, target: str | int) -> Assembler:
        """CALL rel32 of a label or an address."""
        return self._branch(b"\xe8", target)

    def jmp(self, target: str | int) -> Assembler:
        """JMP rel32."""
        return self._branch(b"\xe9", target)

    def jz(self, target: str | int) -> Assembler:
        """JZ rel32."""
        return self._branch(b"\x0f\x84", target)

    def jnz(self, target: str | int) -> Assembler:
        """JNZ rel32."""
        return self._branch(b"\x0f\x85", target)

    def push(self, register: str) -> Assembler:
        """PUSH of a register."""
        number = _number(register)
        return self.raw((b"\x41" if number > 7 else b"") + bytes((0x50 | number & 7,)))

    def pop(self, register: str) -> Assembler:
        """POP into a register."""
        number = _number(register)
        return self.raw((b"\x41" if number > 7 else b"") + bytes((0x58 | number & 7,)))

    def mov(self, register: str, source: str | int) -> Assembler:
        """MOV of a register or of a 64-bit constant."""
        if isinstance(source, str):
            return self._two(0x89, register, source)
        number = _number(register)
        return self.raw(bytes((0x48 | number >> 3, 0xB8 | number & 7)) + (source & MASK64).to_bytes(8, "little"))

    def load(self, register: str, base: str, displacement: int = 0) -> Assembler:
        """MOV register, [base + displacement]."""
        return self._memory(0x8B, register, base, displacement)

    def store(self, base: str, displacement: int, register: str) -> Assembler:
        """MOV [base + displacement], register."""
        return self._memory(0x89, register, base, displacement)

    def add(self, register: str, source: str | int) -> Assembler:
        """ADD of a register or a 32-bit constant."""
        return self._two(0x01, register, source) if isinstance(source, str) else self._constant(0, register, source)

    def sub(self, register: str, source: str | int) -> Assembler:
        """SUB of a register or a 32-bit constant."""
        return self._two(0x29, register, source) if isinstance(source, str) else self._constant(5, register, source)

    def cmp(self, register: str, source: str | int) -> Assembler:
        """CMP with a register or a 32-bit constant."""
        return self._two(0x39, register, source) if isinstance(source, str) else self._constant(7, register, source)

    def test(self, register: str, other: str) -> Assembler:
        """TEST of two registers."""
        return self._two(0x85, register, other)

    def inc(self, register: str) -> Assembler:
        """INC."""
        number = _number(register)
        return self.raw(bytes((0x48 | number >> 3, 0xFF, 0xC0 | number & 7)))

    def dec(self, register: str) -> Assembler:
        """DEC."""
        number = _number(register)
        return self.raw(bytes((0x48 | number >> 3, 0xFF, 0xC8 | number & 7)))

    def _branch(self, opcode: bytes, target: str | int) -> Assembler:
        self._code += opcode
        self._fixups.append((len(self._code), target))
        return self.raw(bytes(4))

    def _two(self, opcode: int, into: str, source: str) -> Assembler:
        dst, src = _number(into), _number(source)
        return self.raw(bytes((0x48 | src >> 3 << 2 | dst >> 3, opcode, 0xC0 | (src & 7) << 3 | dst & 7)))

    def _constant(self, operation: int, register: str, value: int) -> Assembler:
        number = _number(register)
        head = bytes((0x48 | number >> 3, 0x81, 0xC0 | operation << 3 | number & 7))
        return self.raw(head + value.to_bytes(4, "little", signed=True))

    def _memory(self, opcode: int, register: str, base: str, displacement: int) -> Assembler:
        reg, rm = _number(register), _number(base)
        head = bytes((0x48 | reg >> 3 << 2 | rm >> 3, opcode, 0x80 | (reg & 7) << 3 | rm & 7))
        sib = b"\x24" if rm & 7 == 4 else b""
        return self.raw(head + sib + displacement.to_bytes(4, "little", signed=True))


def _number(register: str) -> int:
    try:
        return NUMBERED.index(register)
    except ValueError:
        raise UsageError(f"no general register {register!r}; there are: {', '.join(NUMBERED)}") from None
