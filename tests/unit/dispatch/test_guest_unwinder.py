"""Pads for the guest's unwinder, run by Unicorn."""

from __future__ import annotations

import pytest
import unicorn
from unicorn import x86_const as x86

from fprobe_gdb.dispatch.trampoline.guest_unwinder import MAX_STUBS, UnwinderPads
from fprobe_gdb.dispatch.trampoline.zone import HUGE_BYTES, MAX_NODES, Zone

CODE = 0xFFFFFFFF83C00000
STACK = 0xFFFFC90000000000
#: Who calls the function, and the stub of the location, which calls the pad.
CALLER, STUB = 0xFFFFFFFF81345005, 0xFFFFFFFF81346005
ZONE = Zone(0, 2 * HUGE_BYTES, CODE, CODE + HUGE_BYTES, 1)
PADS = UnwinderPads.make(ZONE, ZONE.site_stubs)
REAL = 0xFFFFFFFF81234567
NODES = (0, 1, 4711, MAX_NODES - 1)
NO_STUBS = (0, 1, REAL, ZONE.stubs - 1, ZONE.stubs + 8 * MAX_NODES, (1 << 64) - 1)


def run(pad: int, *, nodes: dict[int, int] | None = None, **registers: int) -> tuple[int, dict[str, int]]:
    """Where a pad goes, and all registers that it must not change, and ax.

    :param nodes: return addresses, by node.
    """
    cpu = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    cpu.ctl_set_tlb_mode(unicorn.UC_TLB_VIRTUAL)
    for addr, size_bytes in ((CODE, 2 * HUGE_BYTES), (STACK, 0x1000), (CALLER & -0x1000, 0x2000)):
        cpu.mem_map(addr, size_bytes)
    cpu.mem_write(ZONE.site_stubs, PADS.code)
    for node, ret_addr in (nodes or {node: REAL + node for node in NODES}).items():
        cpu.mem_write(ZONE.node(node), ret_addr.to_bytes(8, "little"))
    cpu.mem_write(STACK + 0x800, STUB.to_bytes(8, "little") + CALLER.to_bytes(8, "little"))
    names = ("AX", "BX", "CX", "DX", "SI", "DI", "BP", "SP", "8", "9", "12", "13", "14", "15")
    ids = {name.lower(): getattr(x86, f"UC_X86_REG_R{name}") for name in names}
    for number, (name, register) in enumerate(ids.items()):
        cpu.reg_write(register, {"sp": STACK + 0x800, **registers}.get(name, number))
    ip = pad
    while ip not in (STUB, CALLER):
        cpu.emu_start(ip, (1 << 64) - 1, count=1)
        ip = cpu.reg_read(x86.UC_X86_REG_RIP)
    return ip, {name: cpu.reg_read(register) for name, register in ids.items()}


@pytest.mark.parametrize("node", NODES)
def test_a_stub_stands_for_its_nodes_return_address(node: int) -> None:
    _, plain = run(PADS.ret_addr, dx=REAL)
    ip, registers = run(PADS.ret_addr, dx=ZONE.stub(node))
    assert ip == STUB
    assert registers == plain | {"dx": REAL + node, "ax": MAX_STUBS - 1}


def test_a_stub_that_stands_for_a_stub() -> None:
    ip, registers = run(PADS.ret_addr, dx=ZONE.stub(1), nodes={1: ZONE.stub(0), 0: ZONE.stub(4711), 4711: REAL})
    assert (ip, registers["dx"]) == (STUB, REAL)


def test_stubs_that_stand_for_each_other_have_an_end() -> None:
    ip, registers = run(PADS.ret_addr, dx=ZONE.stub(1), nodes={1: ZONE.stub(0), 0: ZONE.stub(1)})
    assert (ip, registers["dx"]) == (STUB, ZONE.stub(1))


@pytest.mark.parametrize("addr", NO_STUBS)
def test_other_return_addresses_stay(addr: int) -> None:
    ip, registers = run(PADS.ret_addr, dx=addr)
    assert (ip, registers["dx"], registers["sp"]) == (STUB, addr, STACK + 0x808)


@pytest.mark.parametrize("node", NODES)
def test_a_stub_is_kernel_text(node: int) -> None:
    ip, registers = run(PADS.text_address, di=ZONE.stub(node))
    assert (ip, registers["ax"], registers["sp"]) == (CALLER, 1, STACK + 0x810)


@pytest.mark.parametrize("addr", NO_STUBS)
def test_the_function_decides_about_other_addresses(addr: int) -> None:
    ip, registers = run(PADS.text_address, di=addr)
    assert (ip, registers["di"], registers["sp"]) == (STUB, addr, STACK + 0x808)
