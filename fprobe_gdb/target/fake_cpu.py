"""An interpreter for the few x86-64 instructions that test programs need. Pure, deterministic, no interrupts.

Known: ENDBR64, every NOP form, PAUSE, HLT; CALL, RET, JMP, Jcc; PUSH, POP, LEA; MOV, ADD, OR, AND, SUB, XOR, CMP, TEST,
INC, DEC with 32 or 64 bits, on registers, immediates and ``[base + displacement]`` (``gs:`` and ``rip`` too).
Anything else is an :class:`UnknownInstruction`, never a guess. Encodings: Intel SDM volume 2.
"""

from __future__ import annotations

from contextlib import suppress

from fprobe_gdb.errors import MemoryFault, TargetError
from fprobe_gdb.registers import MASK64, Registers
from fprobe_gdb.target.fake_memory import FakeMemory

__all__ = ["INSTRUCTION_MAX_BYTES", "FakeCpu", "UnknownInstruction"]

INSTRUCTION_MAX_BYTES = 15

#: Registers by their number in an instruction.
NUMBERED = ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")

_CF, _PF, _ZF, _SF, _OF = 1 << 0, 1 << 2, 1 << 6, 1 << 7, 1 << 11
_STATUS = _CF | _PF | _ZF | _SF | _OF
_ADD, _OR, _AND, _SUB, _XOR, _CMP = 0, 1, 4, 5, 6, 7


class UnknownInstruction(TargetError):
    """The fake guest ran into an instruction that the interpreter does not know."""

    def __init__(self, addr: int, code: bytes) -> None:
        super().__init__(f"the fake guest does not know the instruction {code.hex(' ')} at {addr:#x}")
        self.addr = addr
        self.code = code


class FakeCpu:
    """One vCPU.

    :ivar registers: all of :data:`~fprobe_gdb.registers.REGISTERS`; change them at will between instructions.
    :ivar halted: it executed HLT and idles until somebody clears this.
    """

    def __init__(self, memory: FakeMemory, registers: Registers) -> None:
        self.registers = registers
        self.halted = False
        self._memory = memory
        # The instruction that is being decoded.
        self._code = b""
        self._at = 0
        self._rex = 0
        self._segment_base = 0

    def execute_one(self) -> None:
        """Run the instruction at ``ip``.

        :raise UnknownInstruction: when it is none of ours; nothing has changed.
        :raise MemoryFault: when code or data is not mapped.
        """
        start = self.registers["ip"]
        before = dict(self.registers)
        try:
            self._code = self._fetch(start)
            self._at = 0
            opcode = self._prefixes()
            self._run(opcode)
        except BaseException:
            self.registers.update(before)
            raise

    # Decoding.

    def _fetch(self, addr: int) -> bytes:
        here = min(INSTRUCTION_MAX_BYTES, 4096 - addr % 4096)
        code = self._memory.read(addr, here)
        if here < INSTRUCTION_MAX_BYTES:
            # The instruction may well end on this page.
            with suppress(MemoryFault):
                code += self._memory.read(addr + here, INSTRUCTION_MAX_BYTES - here)
        return code

    def _unknown(self) -> UnknownInstruction:
        return UnknownInstruction(self.registers["ip"], self._code)

    def _byte(self) -> int:
        if self._at >= len(self._code):
            raise self._unknown()
        self._at += 1
        return self._code[self._at - 1]

    def _signed(self, size_bytes: int) -> int:
        raw = bytes(self._byte() for _ in range(size_bytes))
        return int.from_bytes(raw, "little", signed=True)

    def _prefixes(self) -> int:
        self._rex = self._segment_base = 0
        self._legacy: set[int] = set()
        while (byte := self._byte()) in (0x66, 0xF2, 0xF3, 0x2E, 0x3E, 0x65):
            self._legacy.add(byte)
        if 0x65 in self._legacy:
            self._segment_base = self.registers["gs_base"]
        if byte & 0xF0 == 0x40:
            self._rex = byte
            byte = self._byte()
        return byte << 8 | self._byte() | 0x10000 if byte == 0x0F else byte

    @property
    def _size_bits(self) -> int:
        return 64 if self._rex & 8 else 32

    # Reads ModRM (and SIB, displacement): the reg field, and the operand as a register name or an address.
    def _modrm(self) -> tuple[int, str | int]:
        modrm = self._byte()
        mod, reg, rm = modrm >> 6, (modrm >> 3 & 7) | (self._rex & 4) << 1, modrm & 7
        if mod == 3:
            return reg, NUMBERED[rm | (self._rex & 1) << 3]
        base: int | None = None
        index = 0
        if rm == 4:
            sib = self._byte()
            rm = sib & 7
            index_number = (sib >> 3 & 7) | (self._rex & 2) << 2
            index = 0 if index_number == 4 else self.registers[NUMBERED[index_number]] << (sib >> 6)
            base = 0 if rm == 5 and mod == 0 else None
            displacement = self._signed(4) if base == 0 else 0
        elif rm == 5 and mod == 0:
            displacement = self._signed(4)
            # Relative to the next instruction, which is where we are unless an immediate follows.
            base = self.registers["ip"] + self._at
        else:
            displacement = 0
        if base is None:
            base = self.registers[NUMBERED[rm | (self._rex & 1) << 3]]
        displacement += self._signed({0: 0, 1: 1, 2: 4}[mod])
        return reg, (base + index + displacement + self._segment_base) & MASK64

    # Operands.

    def _get(self, operand: str | int) -> int:
        mask = (1 << self._size_bits) - 1
        if isinstance(operand, str):
            return self.registers[operand] & mask
        return int.from_bytes(self._memory.read(operand, self._size_bits // 8), "little")

    def _set(self, operand: str | int, value: int) -> None:
        value &= (1 << self._size_bits) - 1
        if isinstance(operand, str):
            self.registers[operand] = value  # 32-bit writes clear the upper half
        else:
            self._memory.write(operand, value.to_bytes(self._size_bits // 8, "little"))

    def _push(self, value: int) -> None:
        sp = (self.registers["sp"] - 8) & MASK64
        self._memory.write(sp, (value & MASK64).to_bytes(8, "little"))
        self.registers["sp"] = sp

    def _pop(self) -> int:
        value = int.from_bytes(self._memory.read(self.registers["sp"], 8), "little")
        self.registers["sp"] = (self.registers["sp"] + 8) & MASK64
        return value

    # Execution.

    def _run(self, opcode: int) -> None:
        start = self.registers["ip"]
        target: int | None = None
        low = opcode & 0xFF
        # 66 makes 16-bit operands, F2/F3 other instructions, except in front of NOPs, PAUSE, ENDBR64, CALL and RET.
        if self._legacy & {0x66, 0xF2, 0xF3} and opcode not in (0x90, 0x10F1F, 0x10F1E, 0xC3, 0xE8):
            raise self._unknown()
        if opcode in (0x10F1F, 0x10F1E):
            self._modrm()
        elif opcode == 0x90 and not self._rex & 1:
            pass
        elif opcode == 0xF4:
            self.halted = True
        elif opcode in (0xE8, 0xE9, 0xEB, 0xC3) or opcode >> 4 in (0x7, 0x10F8):
            target = self._branch(opcode)
        elif opcode == 0xFF:
            target = self._group5()
        elif opcode < 0x10000 and self._data(low):
            pass
        else:
            raise self._unknown()
        self.registers["ip"] = (start + self._at if target is None else target) & MASK64

    # CALL, JMP, RET, Jcc: the new ip, or None where not taken.
    def _branch(self, opcode: int) -> int | None:
        if opcode == 0xC3:
            return self._pop()
        short = opcode == 0xEB or opcode >> 4 == 0x7
        displacement = self._signed(1 if short else 4)
        next_ip = self.registers["ip"] + self._at
        if opcode == 0xE8:
            self._push(next_ip)
        elif opcode not in (0xE9, 0xEB) and not self._condition(opcode & 0xF):
            return None
        return next_ip + displacement

    def _condition(self, code: int) -> bool:
        flags = self.registers["flags"]
        below, zero, sign = bool(flags & _CF), bool(flags & _ZF), bool(flags & _SF)
        less = sign != bool(flags & _OF)
        truth = (bool(flags & _OF), below, zero, below or zero, sign, bool(flags & _PF), less, less or zero)
        return truth[code >> 1] != bool(code & 1)

    # FF: INC, DEC, CALL, JMP, PUSH of a register or memory word.
    def _group5(self) -> int | None:
        reg, operand = self._modrm()
        reg &= 7
        if reg in (0, 1):
            carry = self.registers["flags"] & _CF
            self._set(operand, self._arithmetic(_ADD if reg == 0 else _SUB, self._get(operand), 1))
            self.registers["flags"] = self.registers["flags"] & ~_CF | carry
            return None
        if reg not in (2, 4, 6):
            raise self._unknown()
        self._rex |= 8  # these are always 64 bits wide
        value = self._get(operand)
        if reg == 6:
            self._push(value)
            return None
        if reg == 2:
            self._push(self.registers["ip"] + self._at)
        return value

    # Moves and arithmetic; False where the opcode is none of them.
    def _data(self, opcode: int) -> bool:
        by_number = NUMBERED[(opcode & 7) | (self._rex & 1) << 3]
        if opcode >> 3 == 0x50 >> 3:
            self._push(self.registers[by_number])
        elif opcode >> 3 == 0x58 >> 3:
            self.registers[by_number] = self._pop()
        elif opcode in (0x6A, 0x68):
            self._push(self._signed(1 if opcode == 0x6A else 4))
        elif opcode >> 3 == 0xB8 >> 3:
            self._set(by_number, self._signed(self._size_bits // 8))
        elif opcode in (0x89, 0x8B, 0x8D, 0x85) or (opcode < 0x40 and opcode & 7 in (1, 3)):
            self._two_operands(opcode)
        elif opcode in (0x81, 0x83, 0xC7):
            self._immediate(opcode)
        else:
            return False
        return True

    def _two_operands(self, opcode: int) -> None:
        reg, operand = self._modrm()
        register = NUMBERED[reg]
        if opcode == 0x89:
            self._set(operand, self._get(register))
        elif opcode == 0x8B:
            self._set(register, self._get(operand))
        elif opcode == 0x8D:
            if isinstance(operand, str):
                raise self._unknown()
            self._set(register, operand - self._segment_base)
        elif opcode == 0x85:
            self._arithmetic(_AND, self._get(operand), self._get(register))
        else:
            into, other = (operand, register) if opcode & 7 == 1 else (register, operand)
            self._operate(opcode >> 3, into, self._get(other))

    def _immediate(self, opcode: int) -> None:
        if self._code[self._at] & 0xC7 == 0x05:
            raise self._unknown()  # rip-relative with an immediate behind: our displacement would be off
        reg, operand = self._modrm()
        value = self._signed(1 if opcode == 0x83 else 4)
        if opcode != 0xC7:
            self._operate(reg & 7, operand, value)
        elif reg & 7 == 0:
            self._set(operand, value)
        else:
            raise self._unknown()

    def _operate(self, operation: int, into: str | int, value: int) -> None:
        if operation not in (_ADD, _OR, _AND, _SUB, _XOR, _CMP):
            raise self._unknown()
        result = self._arithmetic(operation, self._get(into), value)
        if operation != _CMP:
            self._set(into, result)

    # The result, and the flags as the manual says.
    def _arithmetic(self, operation: int, left: int, right: int) -> int:
        bits = self._size_bits
        mask, top = (1 << bits) - 1, 1 << (bits - 1)
        left, right = left & mask, right & mask
        carry = overflow = False
        if operation == _ADD:
            result = left + right
            carry, overflow = result > mask, bool((left ^ result) & (right ^ result) & top)
        elif operation in (_SUB, _CMP):
            result = left - right
            carry, overflow = left < right, bool((left ^ right) & (left ^ result) & top)
        else:
            result = left | right if operation == _OR else left & right if operation == _AND else left ^ right
        result &= mask
        flags = self.registers["flags"] & ~_STATUS
        flags |= _CF * carry | _OF * overflow | _ZF * (result == 0) | _SF * bool(result & top)
        self.registers["flags"] = flags | _PF * ((result & 0xFF).bit_count() % 2 == 0)
        return result
