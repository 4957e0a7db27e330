"""First instructions in another place: they do what they did, in a CPU (Unicorn) that runs both."""

from __future__ import annotations

import pytest
import unicorn
from unicorn import x86_const as x86

from fprobe_gdb.kernel.displace import CannotDisplace, branch_into, read_head

IP = 0xFFFFFFFF81234560
TO = 0xFFFFFFFF83C80005
STACK = 0xFFFFC90000000000
DATA = 0xFFFFFFFF82000000
#: Fills up what is no longer looked at.
REST = b"\x90" * 20


def rel32(end: int, to: int) -> bytes:
    return (to - end).to_bytes(4, "little", signed=True)


HEADS = {
    "pushes": bytes.fromhex("554889e55341"),
    "one long instruction": bytes.fromhex("48b88877665544332211"),
    "load relative to rip": bytes.fromhex("488b05") + rel32(IP + 7, DATA + 8),
    "store of a constant relative to rip": bytes.fromhex("c705") + rel32(IP + 10, DATA) + bytes.fromhex("78563412"),
    "lea relative to rip behind a push": b"\x53" + bytes.fromhex("488d3d") + rel32(IP + 8, DATA + 0x10),
    "short branch, taken": bytes.fromhex("4831c0") + bytes.fromhex("7410"),
    "short branch, not taken": bytes.fromhex("4831c0") + bytes.fromhex("7510"),
    "near branch": bytes.fromhex("85ff0f84") + rel32(IP + 8, IP + 0x800),
    "call": b"\xe8" + rel32(IP + 5, IP + 0x1000),
    "call behind a push": b"\x55\xe8" + rel32(IP + 6, IP + 0x1000),
    "jump": b"\xe9" + rel32(IP + 5, IP - 0x800),
    "short jump behind a move": bytes.fromhex("4889f8") + bytes.fromhex("ebf0"),
    "short function": bytes.fromhex("31c0c3cccc"),
    "jump through memory": bytes.fromhex("ff25") + rel32(IP + 6, DATA + 0x20),
}


def run(code: bytes, at: int, ends: set[int]) -> dict[str, int | bytes]:
    """Registers, stack and data after the code at an address has run until it leaves for one of ``ends``."""
    cpu = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    cpu.ctl_set_tlb_mode(unicorn.UC_TLB_VIRTUAL)
    for page in {IP & -0x10000, TO & -0x10000}:
        cpu.mem_map(page, 0x20000)
    cpu.mem_map(STACK, 0x1000)
    cpu.mem_map(DATA, 0x1000)
    cpu.mem_write(DATA, b"".join((IP + 0x100 + number).to_bytes(8, "little") for number in range(16)))
    cpu.mem_write(STACK + 0x800, (IP + 0x300).to_bytes(8, "little"))
    cpu.mem_write(at, code)
    registers = ("RAX", "RBX", "RCX", "RDX", "RSI", "RDI", "RBP", "R8", "R12", "R13", "R14", "R15", "EFLAGS")
    for number, name in enumerate(registers[:-1]):
        cpu.reg_write(getattr(x86, f"UC_X86_REG_{name}"), 0x1111111111111111 * number & 0x7FFFFFFFFFFFFFFF)
    cpu.reg_write(x86.UC_X86_REG_RSP, STACK + 0x800)
    ip = at
    for _ in range(10):
        if ip in ends or not at <= ip < at + len(code):
            break
        cpu.emu_start(ip, (1 << 64) - 1, count=1)
        ip = cpu.reg_read(x86.UC_X86_REG_RIP)
    state: dict[str, int | bytes] = {name: cpu.reg_read(getattr(x86, f"UC_X86_REG_{name}")) for name in registers}
    state |= {"RSP": cpu.reg_read(x86.UC_X86_REG_RSP), "ip": ip}
    return state | {"stack": bytes(cpu.mem_read(STACK, 0x1000)), "data": bytes(cpu.mem_read(DATA, 0x1000))}


@pytest.mark.parametrize("code", HEADS.values(), ids=HEADS)
def test_moved_instructions_do_the_same(code: bytes) -> None:
    head = read_head(code + REST, IP, 64)
    moved = head.moved(TO)
    behind = {IP + len(head.code)}
    original = run(head.code, IP, behind)
    assert run(moved, TO, behind) == original
    assert original["ip"] != IP


@pytest.mark.parametrize("name", HEADS)
def test_where_nobody_must_stand(name: str) -> None:
    inner = {
        "pushes": (1, 4), "lea relative to rip behind a push": (1,), "short branch, taken": (3,),
        "short branch, not taken": (3,), "near branch": (2,), "call behind a push": (1,),
        "short jump behind a move": (3,), "short function": (2,),
    }  # fmt: skip
    head = read_head(HEADS[name] + REST, IP, 64)
    assert head.inner == tuple(IP + at for at in inner.get(name, ()))


@pytest.mark.parametrize(
    ("code", "room_bytes", "says"),
    [
        ("c3", 1, "only 1 bytes long"),
        ("31c0c3cccc", 4, "only 3 bytes long"),
        ("c34889e5", 64, "only 1 bytes long"),
        ("5548897df0", 4, "another function"),
        ("e2fe90909090", 64, "loop"),
        ("ffd090909090", 64, "indirect call"),
        ("ff1500000000", 64, "indirect call"),
        ("cc0f1f440000", 64, "int3"),
        ("0f0b90909090", 64, "ud2"),
        ("0f01f8909090", 64, "swapgs"),
        ("550606060606", 64, "no instruction"),
    ],
)
def test_what_has_to_stay(code: str, room_bytes: int, says: str) -> None:
    with pytest.raises(CannotDisplace, match=says):
        read_head(bytes.fromhex(code) + (REST if says != "no instruction" else b""), IP, room_bytes)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (bytes.fromhex("eb00c3"), ""),
        (bytes.fromhex("75fac3"), "branch"),  # from IP + 8 to IP + 2
        (bytes.fromhex("75f8c3"), ""),  # to its first byte
        (bytes.fromhex("0f84f8ffffffc3"), "branch"),
        (bytes.fromhex("e2fac3"), "branch"),
        (bytes.fromhex("ffe0"), "indirect jump"),
        (bytes.fromhex("ff25001000"), "no readable"),
        (bytes.fromhex("ff2500100000"), ""),
        (bytes.fromhex("0606"), "no readable"),
    ],
)
def test_branches_into_it(body: bytes, says: str) -> None:
    code = bytes.fromhex("415741564155") + body
    head = read_head(code, IP, len(code))
    assert head.inner == (IP + 2, IP + 4)
    why = branch_into(code, IP, head)
    assert (says in why) if says else not why
