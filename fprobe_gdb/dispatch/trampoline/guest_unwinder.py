"""The guest's own stack traces see through our stubs, as they see through those of its function_graph tracer.

Where the guest's unwinder finds a return address it asks ``ftrace_graph_ret_addr(task, idx, ret, retp)`` whether a
tracer has replaced it (arch/x86/include/asm/unwind.h, unwind_recover_ret_addr, 5.10 to 7.3), and what prints a stack
passes over each word that is no ``__kernel_text_address(addr)`` (arch/x86/kernel/dumpstack.c). Both get a pad that
knows our stubs. A kernel without the function_graph tracer has no such function to ask; there a trace of the guest
ends at the first stub, as ours do not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from fprobe_gdb.dispatch.trampoline.assembler import Asm
from fprobe_gdb.dispatch.trampoline.plans import Plan, Planner, Way
from fprobe_gdb.dispatch.trampoline.stub_code import look_through, offset_of_stub
from fprobe_gdb.dispatch.trampoline.zone import Zone
from fprobe_gdb.errors import PlantRefused

__all__ = ["UNWINDER", "GuestUnwinder", "UnwinderPads"]

_RET_ADDR = "ftrace_graph_ret_addr"
_TEXT_ADDRESS = "__kernel_text_address"
#: What the guest's unwinder asks. The locations lie behind a fentry instruction, which is left to others.
UNWINDER = (_RET_ADDR, _TEXT_ADDRESS)

#: So many stubs of one return address are looked through: a function that is recorded and handled, or that jumps to one
#: that is, has more than one. What an unwinder finds in a stack may be old, and old nodes may stand for each other.
MAX_STUBS = 8


@dataclass(frozen=True, slots=True)
class UnwinderPads:
    """Code, and where its parts begin. It changes registers and flags that are dead where a function begins."""

    code: bytes
    #: Replaces a stub in the third argument by the address that the stub stands for.
    ret_addr: int
    #: Returns 1 from the function when its argument is a stub.
    text_address: int

    @classmethod
    def make(cls, zone: Zone, start: int) -> UnwinderPads:
        """Assemble them from an address on."""
        asm = Asm(start)
        asm.label("ret_addr")
        asm.movl_imm("ax", MAX_STUBS)
        asm.label("next_stub")
        look_through(asm, zone, "dx", "r11", "others")
        asm.decl("ax")
        asm.jcc("ne", "next_stub")
        asm.label("others")
        asm.ret()
        asm.label("text_address")
        offset_of_stub(asm, zone, "di", "r11", "no_stub")
        asm.movl_imm("ax", 1)
        # Not to the function, but to its caller.
        asm.add_imm("sp", 8)
        asm.label("no_stub")
        asm.ret()
        return cls(asm.finish(), asm.address_of("ret_addr"), asm.address_of("text_address"))


class GuestUnwinder:
    """Which locations get these pads.

    :param locations: of :data:`UNWINDER`, as far as this kernel has them.
    """

    def __init__(self, pads: UnwinderPads, locations: Mapping[str, int]) -> None:
        pad_of = {_RET_ADDR: pads.ret_addr, _TEXT_ADDRESS: pads.text_address}
        #: What a location calls.
        self.pads: Mapping[int, int] = {ip: pad_of[name] for name, ip in locations.items()}
        self._ips: frozenset[int] | None = None

    def ips(self, planner: Planner) -> Collection[int]:
        """The locations that can be planted without a breakpoint, which would cost the guest more than it is worth."""
        if not planner.may_move:
            return ()
        if self._ips is None:
            self._ips = frozenset(ip for ip in self.pads if _can_move(planner.plan, ip))
        return self._ips


def _can_move(plan: Callable[[int], Plan], ip: int) -> bool:
    try:
        return plan(ip).way is not Way.BREAKPOINT
    except PlantRefused:
        return False
