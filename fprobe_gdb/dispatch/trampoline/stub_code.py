"""Code of pads that looks through a stub: at the return address that it stands for in its node. Pure."""

from __future__ import annotations

from fprobe_gdb.dispatch.trampoline.assembler import Asm, at
from fprobe_gdb.dispatch.trampoline.record_format import NodeWord
from fprobe_gdb.dispatch.trampoline.zone import MAX_NODES, NODE_BYTES, STUB_BYTES, Zone

__all__ = ["NODES_BY_STUBS_SHIFT", "look_through", "offset_of_stub"]

#: From the offset of a stub to that of its node.
NODES_BY_STUBS_SHIFT = NODE_BYTES.bit_length() - STUB_BYTES.bit_length()
assert STUB_BYTES << NODES_BY_STUBS_SHIFT == NODE_BYTES
# The zone is in the upper 2 GiB.
_SIGN = 1 << 64


def offset_of_stub(asm: Asm, zone: Zone, addr: str, to: str, else_to: str) -> None:
    """How far behind the first stub an address is, into another register; on to a label if it is no stub."""
    asm.mov(to, addr)
    asm.sub_imm(to, zone.stubs - _SIGN)
    asm.cmp_imm(to, MAX_NODES * STUB_BYTES)
    asm.jcc("ae", else_to)


def look_through(asm: Asm, zone: Zone, addr: str, scratch: str, else_to: str) -> None:
    """Replace a stub by what it stands for, which may be a stub again: a tail call. On to a label if it is no stub."""
    offset_of_stub(asm, zone, addr, scratch, else_to)
    asm.shl_imm(scratch, NODES_BY_STUBS_SHIFT)
    # With the host's nodes it is the same word.
    asm.mov(addr, at(scratch, zone.nodes + NodeWord.RET_ADDR - _SIGN))
