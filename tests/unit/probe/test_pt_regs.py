"""``struct pt_regs`` as handlers see it, and which of their writes reach the guest."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

from fprobe_gdb.probe.fprobe import Fprobe
from fprobe_gdb.probe.regs import PtRegs, Side
from fprobe_gdb.registers import ARGUMENT_REGISTERS, GENERAL_REGISTERS, REGISTERS
from tests.unit.probe.scripted_guest import ScriptedGuest

VCPU = {name: 0x100 + i for i, name in enumerate(REGISTERS)}
LOCATION_BEHIND, RET_ADDR = 0x9005, 0x7000


def regs_at(side: Side) -> PtRegs:
    return PtRegs.of(VCPU, side, LOCATION_BEHIND if side is Side.ENTRY else RET_ADDR)


@pytest.mark.parametrize("side", Side)
def test_regs_show_all_general_registers_and_flags_as_the_vcpu_has_them(side: Side) -> None:
    regs = regs_at(side)
    for name in (*GENERAL_REGISTERS, "flags"):
        assert getattr(regs, name) == VCPU[name]
    assert regs.arguments == tuple(VCPU[name] for name in ARGUMENT_REGISTERS)
    assert regs.return_value() == VCPU["ax"]
    assert regs.side is side


@pytest.mark.parametrize(
    ("side", "ip", "orig_ax"), [(Side.ENTRY, LOCATION_BEHIND, 0), (Side.EXIT, RET_ADDR, 0xFFFFFFFFFFFFFFFF)]
)
def test_regs_show_ip_orig_ax_and_the_kernels_segments(side: Side, ip: int, orig_ax: int) -> None:
    regs = regs_at(side)
    assert (regs.ip, regs.orig_ax, regs.cs, regs.ss) == (ip, orig_ax, 0x10, 0x18)


def test_sp_is_the_slot_at_entry_and_above_it_at_exit(guest: ScriptedGuest) -> None:
    seen: list[int] = []
    note = lambda fp, ip, ret, regs, data: seen.append(regs.sp)  # noqa: E731
    guest.core.register_fprobe(Fprobe(note, note), "f")
    call = guest.enter("f")
    guest.leave(call)
    assert seen == [call.frame, call.frame + 8]


EFFECTIVE = {
    Side.ENTRY: {
        "ax", "bx", "cx", "dx", "si", "di", "bp", "r8", "r9", "r10", "r12", "r13", "r14", "r15", "flags", "ip",
    },
    Side.EXIT: {
        "ax", "bx", "cx", "dx", "si", "di", "bp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "flags",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", [*GENERAL_REGISTERS, "ip", "flags", "cs", "ss", "orig_ax"])
@pytest.mark.parametrize("side", Side)
def test_write_is_seen_by_later_handlers_and_takes_effect_where_the_kernel_restores_it(side: Side, name: str) -> None:
    regs = regs_at(side)
    setattr(regs, name, 0xABCDEF)
    assert getattr(regs, name) == 0xABCDEF
    assert regs.take_effective_writes(RET_ADDR) == ({name: 0xABCDEF} if name in EFFECTIVE[side] else {})


@pytest.mark.parametrize("side", Side)
def test_unwritten_registers_are_not_sent_to_the_guest(side: Side) -> None:
    regs = regs_at(side)
    regs.di = VCPU["di"]
    assert regs.take_effective_writes(RET_ADDR) == {}


def test_written_values_are_unsigned_64_bits() -> None:
    regs = regs_at(Side.EXIT)
    regs.ax = -22
    regs.dx = 1 << 64 | 5
    assert regs.take_effective_writes(RET_ADDR) == {"ax": (1 << 64) - 22, "dx": 5}


def test_unknown_register_is_an_AttributeError_that_lists_the_known_ones() -> None:
    regs = regs_at(Side.ENTRY)
    with pytest.raises(AttributeError, match="no 'rdi'; it has ax, bx"):
        _ = regs.rdi  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="no 'rdi'; it has ax, bx"):
        regs.rdi = 1  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        regs.side = Side.EXIT  # type: ignore[misc]
    assert "di=0x105" in repr(regs)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_copy_is_a_snapshot_that_later_writes_do_not_reach(copied: Callable[[PtRegs], PtRegs]) -> None:
    regs = regs_at(Side.ENTRY)
    kept = copied(regs)
    regs.di = 1
    kept.si = 2
    assert (kept.di, regs.si, kept.side) == (VCPU["di"], VCPU["si"], Side.ENTRY)
    assert regs.take_effective_writes(RET_ADDR) == {"di": 1}


# Section: override_return


def test_override_return_at_entry_pops_the_slot_and_goes_to_the_return_address() -> None:
    regs = regs_at(Side.ENTRY)
    assert not regs.overridden
    regs.override_return(-1)
    assert regs.overridden
    assert regs.take_effective_writes(RET_ADDR) == {"ax": (1 << 64) - 1, "ip": RET_ADDR, "sp": VCPU["sp"] + 8}


def test_override_return_keeps_other_writes_but_not_ip_and_sp() -> None:
    regs = regs_at(Side.ENTRY)
    regs.di, regs.sp, regs.ip, regs.r11 = 1, 2, 3, 4
    regs.override_return(VCPU["ax"])
    assert regs.take_effective_writes(RET_ADDR) == {"di": 1, "ip": RET_ADDR, "sp": VCPU["sp"] + 8}


def test_override_return_by_a_later_handler_wins() -> None:
    regs = regs_at(Side.ENTRY)
    regs.override_return(1)
    regs.override_return(2)
    assert regs.take_effective_writes(RET_ADDR)["ax"] == 2


def test_override_return_at_exit_is_a_written_ax() -> None:
    regs = regs_at(Side.EXIT)
    regs.override_return(5)
    assert not regs.overridden
    assert regs.take_effective_writes(RET_ADDR) == {"ax": 5}


def test_override_return_skips_the_function_and_exit_handlers_see_the_value(guest: ScriptedGuest) -> None:
    """As the kernel's bpf_override_return(): the return is hooked all the same."""
    seen: list[int] = []

    def entry(fp: Fprobe, ip: int, ret: int, regs: PtRegs, data: object) -> None:
        if regs.di == 1:
            regs.override_return(77)

    ran: list[int] = []
    guest.bodies["f"] = lambda a: ran.append(a) or 5
    exits = Fprobe(entry, lambda fp, ip, ret, regs, data: seen.append(regs.ax))
    guest.core.register_fprobe(exits, "f")
    assert [guest.call("f", 0), guest.call("f", 1), guest.call("f", 2)] == [5, 77, 5]
    assert (ran, seen) == ([0, 2], [5, 77, 5])


# Section: writes that reach a running guest


def test_written_argument_is_what_the_function_gets(guest: ScriptedGuest) -> None:
    def entry(fp: Fprobe, ip: int, ret: int, regs: PtRegs, data: object) -> None:
        regs.si = 5

    guest.bodies["f"] = lambda a, b: 10 * a + b
    guest.core.register_fprobe(Fprobe(entry), "f")
    assert guest.call("f", 1, 2) == 15


def test_written_return_value_is_what_the_caller_gets(guest: ScriptedGuest) -> None:
    def exit_(fp: Fprobe, ip: int, ret: int, regs: PtRegs, data: object) -> None:
        regs.ax = 4242

    guest.bodies |= {"f": lambda: 1, "g": lambda: guest.call("f") + 1}
    guest.core.register_fprobe(Fprobe(exit_handler=exit_), "f")
    assert guest.call("g") == 4243
