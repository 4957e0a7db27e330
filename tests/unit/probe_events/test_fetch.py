"""Compiled arguments run on made-up registers and memory, and the text of what they give."""

from __future__ import annotations

import pytest

from fprobe_gdb.errors import MemoryFault
from fprobe_gdb.kernel.symbols import Symbol, SymbolTable
from fprobe_gdb.probe_events import (
    FetchContext,
    Fetched,
    ProbeEvents,
    arguments_text,
    entry_words,
    event_text,
    fetch,
    symbol_text,
)
from fprobe_gdb.registers import GENERAL_REGISTERS
from tests.unit.probe_events.made_up_kernel import MadeUpKernel

STACK, FILE, DENTRY, TEXT, USER = 0xFFFFC90000003F00, 0x888000001000, 0x888000002000, 0x888000003FFC, 0x7F0000000000
LONG = 0x888000100000
VFS_READ = 0xFFFFFFFF81000000

SYMBOLS = SymbolTable(
    [
        Symbol("_stext", VFS_READ - 0x1000, "T"),
        Symbol("vfs_read", VFS_READ, "T"),
        Symbol("ksys_read", VFS_READ + 0x100, "T"),
        Symbol("_end", VFS_READ + 0x10000, "B"),
    ]
)
REGS = dict.fromkeys(GENERAL_REGISTERS, 0) | {
    "di": FILE, "si": USER, "dx": 4096, "cx": (1 << 64) - 2, "r8": 5, "r9": 6, "sp": STACK, "ax": (1 << 64) - 2,
}  # fmt: skip


def _word(value: int) -> bytes:
    return value.to_bytes(8, "little")


MEMORY = {
    STACK: b"".join(map(_word, (VFS_READ + 0x155, 7, 8))),
    # f_mode, bit-fields 5:3 and 0x1e:5, a union, an enum, f_path
    FILE: bytes([0x1D, 0, 0, 0, 0xF5, 0x34, 0x12, 0]) + _word(3) + _word(1) + bytes(24) + bytes(8) + _word(DENTRY),
    DENTRY: bytes(40) + _word(TEXT) + b"inline\0".ljust(40, b"x"),
    TEXT: b"motd",
    # The next page, where the string ends.
    0x888000004000: b".txt\0rest",
    USER: b"\xc3\xa4\xff\0" + b"?" * 4 + _word(TEXT) + _word(0x10) + _word(USER),
    LONG: b"y" * 8192,
}


def read(addr: int, size_bytes: int) -> bytes:
    for start, data in MEMORY.items():
        # Behind a block zeros follow to the end of its page.
        page_end = (start | 0xFFF) + 1
        data = data.ljust(page_end - start, b"\0")
        if start <= addr and addr + size_bytes <= start + len(data):
            return data[addr - start :][:size_bytes]
    raise MemoryFault(addr, size_bytes)


def fetch_line(line: str, entry_data: tuple[int, ...] = ()) -> tuple[Fetched, ...]:
    definition = ProbeEvents(MadeUpKernel()).add(line)
    assert definition is not None
    context = FetchContext(REGS, read, lambda: "cat", entry_data)
    return fetch(definition, context, lambda addr: symbol_text(SYMBOLS, addr))


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("file", f"file={FILE:#x}"),
        ("count", "count=4096"),
        ("pos", "pos=0xfffffffffffffffe"),
        ("+0(pos)", "arg1=0x0"),
        ("count:x16", "count=0x1000"),
        ("count:u8", "count=0"),
        ("a=pos:s32", "a=-2"),
        ("a=pos:u32", "a=4294967294"),
        ("a=pos:s64", "a=-2"),
        ("$stack", f"arg1={STACK:#x}"),
        ("$stack1", "arg1=0x7"),
        ("$stack40", "arg1=0x0"),
        ("a=$arg7", "a=0x7"),
        ("a=$arg8:u8", "a=8"),
        ("$stack0:symbol", "arg1=ksys_read+0x55/0xff00"),
        ("$stack0:symstr", 'arg1="ksys_read+0x55/0xff00"'),
        ("a=count:symbol", "a=0x1000"),
        ("$comm", 'arg1="cat"'),
        ('\\"hi"', 'arg1="hi"'),
        ("\\-5", "arg1=0xfffffffffffffffb"),
        ("\\-5:s8", "arg1=-5"),
        ("\\65:char", "arg1='A'"),
        ("file->f_mode", "arg1=29"),
        ("file->f_mode:b3@2/8", "arg1=7"),
        ("file->low", "arg1=5"),
        ("file->neg", "arg1=30"),
        # 24 bits, but the kernel takes fields of whole bytes as wide as their type, with what follows them.
        ("file->wide", "arg1=50336308"),
        ("file->f_count", "arg1=3"),
        ("file->m", "arg1=1"),
        ("file->f_path.dentry", f"arg1={DENTRY:#x}"),
        ("file->f_path.dentry->d_name.name:string", 'arg1="motd.txt"'),
        ("file->f_path.dentry->d_iname:string", 'arg1="inline"'),
        ("a=$arg1:%pD", 'a="motd.txt"'),
        ("+0(file):x8[4]", "arg1={0x1d,0x0,0x0,0x0}"),
        ("+0(file):b4@0/8[2]", "arg1={13,0}"),
        ("buf:ustring", 'buf="ä\\xff"'),
        ("+u8(buf):x64", f"arg1={TEXT:#x}"),
        ("+8(buf):string[3]", 'arg1={"motd.txt",(fault),"ä\\xff"}'),
        ("+0(\\16):string", "arg1=(fault)"),
        ("+0(\\16):u32", "arg1=0"),
        ("+0(+8(\\16)):string", "arg1=(fault)"),
        ("-8(\\0):u8", "arg1=0"),
        ("\\16:string[2]", "arg1={(fault),(fault)}"),
        ("@0x888000001000:u8", "arg1=29"),
        ("@jiffies+0x10:u8", "arg1=0"),
    ],
)
def test_text(argument: str, text: str) -> None:
    assert arguments_text(fetch_line(f"f vfs_read {argument}"), SYMBOLS) == " " + text


def test_values_tell_faults_from_zeros() -> None:
    zero, fault, string, numbers = fetch_line("f vfs_read \\0 +0(\\16):u32 a=+0(\\16):string b=+0xffe(buf):u16[2]")
    assert (zero.value, zero.is_fault) == (0, False)
    assert (fault.value, fault.is_fault) == (None, True)
    assert (string.value, string.is_fault) == (None, True)
    assert (numbers.value, numbers.is_fault) == ([0, 0], True)


def test_long_strings_end() -> None:
    (fetched,) = fetch_line(f"f vfs_read @{LONG:#x}:string")
    assert fetched.value == "y" * 4095


def test_entry_values_reach_the_return() -> None:
    definition = ProbeEvents(MadeUpKernel()).add(
        "f vfs_read%return $retval count n=$arg7 name=$arg1:%pD again=count:u8"
    )
    assert definition is not None
    assert definition.entry_args == (2, 6, 0)
    words = entry_words(definition, FetchContext(REGS, read, str))
    assert words == (4096, 7, FILE)
    after = FetchContext(REGS | {"di": 0, "dx": 0, "sp": STACK + 8}, read, str, words)
    values = fetch(definition, after, hex)
    assert arguments_text(values, SYMBOLS) == ' arg1=-2 count=4096 n=0x7 name="motd.txt" again=0'


def test_event_text() -> None:
    events = ProbeEvents(MadeUpKernel())
    for line, text in (
        ("f:e vfs_read", "e: (vfs_read+0x4/0x100)"),
        ("f:e2 vfs_read%return", "e2: (ksys_read+0x55/0xff00 <- vfs_read)"),
    ):
        definition = events.add(line)
        assert definition is not None
        assert event_text(definition, VFS_READ + 4, VFS_READ + 0x155, (), SYMBOLS) == text


def test_unknown_addresses_are_bare() -> None:
    assert symbol_text(SYMBOLS, 0x1234) == "0x1234"
    assert symbol_text(SYMBOLS, VFS_READ + 4, offset=False) == "vfs_read"
