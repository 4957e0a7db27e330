"""Moving a function's first instructions elsewhere, so that a jump has room in their place. Pure; Capstone decodes.

It is what kprobes' jump optimisation does in the kernel (arch/x86/kernel/kprobes/opt.c), with its rules: nothing may
lead into the middle of the jump, and what is moved must do the same in its new place.
"""

from __future__ import annotations

from typing import NamedTuple

import capstone

__all__ = ["JUMP_BYTES", "CannotDisplace", "Head", "branch_into", "read_head"]

#: ``jmp rel32``.
JUMP_BYTES = 5
_INSN_BYTES = 15
_LINK_BASE = 0xFFFFFFFF80000000
# What has an address of its own in a table, or changes where gs or the stack are.
_UNMOVABLE = frozenset({"ud2", "ud1", "ud0", "syscall", "sysret", "sysretq", "sysexit", "swapgs", "hlt", "xbegin"})
_PADDING = (b"\xcc", b"\x90")

_decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
_decoder.detail = True
_plain_decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)


class CannotDisplace(Exception):
    """These instructions have to stay where they are; the text is a clause that says why."""


class Head(NamedTuple):
    """The first instructions of a function, as many as a jump needs room for."""

    ip: int
    code: bytes
    #: Addresses inside at which an instruction begins and over which the jump goes: nobody must stand there, or jump
    #: there.
    inner: tuple[int, ...]
    #: Whether the last of them goes somewhere else for good.
    ends: bool

    def moved(self, to: int) -> bytes:
        """Machine code that does the same at another address, at most 2 GiB away, and goes on behind the head."""
        made = bytearray()
        for insn in _decoder.disasm(self.code, self.ip):
            made += _moved(insn, to + len(made))
            if _ends(insn):
                break
        if not self.ends:
            made += _jmp(to + len(made), self.ip + len(self.code))
        return bytes(made)


def read_head(code: bytes, ip: int, room_bytes: int) -> Head:
    """Find the instructions that a jump at ``ip`` replaces.

    :param code: bytes from ``ip`` on; 20 are enough.
    :param room_bytes: how many bytes there are before the next function.
    :raise CannotDisplace: they cannot be moved.
    """
    starts: list[int] = []
    at = 0
    while at < JUMP_BYTES:
        insn = next(_decoder.disasm(code[at : at + _INSN_BYTES], ip + at, 1), None)
        if insn is None:
            raise CannotDisplace(f"there is no instruction at {ip + at:#x}")
        _check(insn)
        starts.append(ip + at)
        at += insn.size
        if _ends(insn):
            if at < JUMP_BYTES and not _is_padding(code[at:JUMP_BYTES], room_bytes - at):
                raise CannotDisplace(f"it is only {at} bytes long")
            return Head(ip, code[: max(at, JUMP_BYTES)], tuple(starts[1:]), True)
    if at > room_bytes:
        raise CannotDisplace("another function begins inside its first instructions")
    return Head(ip, code[:at], tuple(starts[1:]), False)


def branch_into(code: bytes, addr: int, head: Head) -> str:
    """Why something in a piece of code may lead into the middle of a head, as a clause; "" when nothing does.

    :param code: a whole function, from ``addr`` on.
    """
    at = 0
    for place, size_bytes, mnemonic, operands in _plain_decoder.disasm_lite(code, addr):
        at += size_bytes
        if mnemonic[0] not in "jlx":
            continue
        if operands.startswith("0x"):
            if int(operands, 16) in head.inner:
                return f"the branch at {place:#x} leads to its second instruction or a near one"
        elif mnemonic == "jmp" and not operands.startswith("qword ptr [rip"):
            return f"the indirect jump at {place:#x} may lead anywhere in it"
    return "" if at == len(code) else f"it has no readable instruction at {addr + at:#x}"


def _check(insn: capstone.CsInsn) -> None:
    text = f"{insn.mnemonic} {insn.op_str}".strip()
    if insn.group(capstone.CS_GRP_INT) or insn.group(capstone.CS_GRP_IRET) or insn.mnemonic in _UNMOVABLE:
        raise CannotDisplace(f"{text!r} at {insn.address:#x} cannot be moved")
    if insn.group(capstone.CS_GRP_CALL) and not insn.group(capstone.CS_GRP_BRANCH_RELATIVE):
        raise CannotDisplace(f"the indirect call {text!r} at {insn.address:#x} would return to another place")
    if insn.group(capstone.CS_GRP_BRANCH_RELATIVE) and not (_is_call(insn) or _is_jump(insn) or _condition(insn)):
        raise CannotDisplace(f"{text!r} at {insn.address:#x} does not reach far enough")


def _ends(insn: capstone.CsInsn) -> bool:
    if insn.group(capstone.CS_GRP_RET) or _is_call(insn):
        return True
    return bool(insn.group(capstone.CS_GRP_JUMP)) and not _condition(insn)


def _is_padding(rest: bytes, room_bytes: int) -> bool:
    return room_bytes >= len(rest) and all(rest[at : at + 1] in _PADDING for at in range(len(rest)))


def _is_call(insn: capstone.CsInsn) -> bool:
    return bool(insn.opcode[0] == 0xE8 and insn.size == JUMP_BYTES)


def _is_jump(insn: capstone.CsInsn) -> bool:
    return insn.opcode[0] in (0xE9, 0xEB)


# The condition code of jCC rel8 or rel32, plus 0x80; 0 for anything else.
def _condition(insn: capstone.CsInsn) -> int:
    first, second = insn.opcode[0], insn.opcode[1]
    if 0x70 <= first <= 0x7F:
        return 0x80 | int(first & 0xF)
    return int(second) if first == 0x0F and 0x80 <= second <= 0x8F else 0


def _moved(insn: capstone.CsInsn, to: int) -> bytes:
    if insn.group(capstone.CS_GRP_BRANCH_RELATIVE):
        target = insn.operands[0].imm & (1 << 64) - 1
        if _is_call(insn):
            # The call has to come back to where it always has.
            pushed = _push(insn.address + insn.size)
            return pushed + _jmp(to + len(pushed), target)
        if _is_jump(insn):
            return _jmp(to, target)
        return bytes([0x0F, _condition(insn)]) + _rel32(to + 6, target)
    code = bytearray(insn.bytes)
    if insn.disp_size == 4 and insn.modrm & 0xC7 == 0x05:
        at = insn.disp_offset
        disp = int.from_bytes(code[at : at + 4], "little", signed=True)
        code[at : at + 4] = _rel32(to + insn.size, insn.address + insn.size + disp)
    return bytes(code)


# push imm32, sign-extended: good for all addresses of the kernel's image and its modules.
def _push(addr: int) -> bytes:
    assert addr >= _LINK_BASE, hex(addr)
    return b"\x68" + (addr - (1 << 64)).to_bytes(4, "little", signed=True)


def _jmp(at: int, to: int) -> bytes:
    return b"\xe9" + _rel32(at + JUMP_BYTES, to)


def _rel32(end: int, to: int) -> bytes:
    return (to - end).to_bytes(4, "little", signed=True)
