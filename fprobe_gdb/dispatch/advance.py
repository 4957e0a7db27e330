"""Getting a vCPU past the location that it was stopped at, as if the breakpoint were not there."""

from __future__ import annotations

from emu.deadline import Deadline
from fprobe_gdb.dispatch.cpu_state import CpuState
from fprobe_gdb.registers import MASK64, Registers
from fprobe_gdb.target.base import Target

__all__ = ["advance", "skip_length"]

# The 5-byte NOPs that a fentry call can become (arch/x86/include/asm/nops.h: P6, K8 and generic forms).
_NOPS = (bytes.fromhex("0f1f440000"), bytes.fromhex("6666666690"), bytes.fromhex("3e8d742600"))
_CALL_REL32 = b"\xe8"
_INT3 = b"\xcc"
_STEP_SEC = 10.0


def skip_length(code: bytes) -> int:
    """How far a handler sees ``regs.ip`` behind the location: 5 for a fentry instruction, else 0.

    An int3 is one too: the kernel is just patching it (text_poke_bp()), and no function begins with an int3.
    """
    return 5 if code in _NOPS or code[:1] in (_CALL_REL32, _INT3) else 0


def advance(target: Target, state: CpuState, writes: Registers) -> None:
    """Write the registers that handlers changed, and execute the instruction at the location unless they moved ``ip``.

    A NOP is passed by writing ``ip``: no step, which would be one more stop. A call (``call __fentry__`` before
    ftrace_init() has run, or the guest's own tracer on this function) is carried out by hand for the same reason.
    Anything else is stepped, all other vCPUs held.
    """
    ip = state.ip
    if "ip" not in writes:
        if state.code in _NOPS:
            writes = writes | {"ip": ip + 5}
        elif state.code[:1] == _CALL_REL32:
            sp = (state.sp - 8) & MASK64
            target.write_memory(sp, (ip + 5).to_bytes(8, "little"), vcpu=state.vcpu)
            offset = int.from_bytes(state.code[1:5], "little", signed=True)
            writes = writes | {"ip": (ip + 5 + offset) & MASK64, "sp": sp}
    if writes:
        target.write_registers(state.vcpu, writes)
    if "ip" not in writes:
        target.step(state.vcpu, Deadline(_STEP_SEC))
