"""Modules read from made-up guest memory, by made-up types of both layouts, and out of damaged memory."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import pytest

from fprobe_gdb.errors import MemoryFault, ModuleError
from fprobe_gdb.kernel.btf import Btf
from fprobe_gdb.kernel.modules import ModuleReader, in_module_area
from fprobe_gdb.kernel.symbols import Symbol, SymbolTable
from fprobe_gdb.kernel.values import GuestMemory
from tests.unit.kernel.btf.made_up_btf import MadeUpBtf

MODULES, BTF_MODULES = 0xFFFFFFFF82B27160, 0xFFFFFFFF82B44CC0
MODULE, TEXT, OTHER = 0xFFFFFFFFC0203000, 0xFFFFFFFFC0201000, 0xFFFFFFFFC0303000
KALLSYMS, SYMTAB, STRTAB, TYPETAB, CALLSITES = (MODULE + 0x1000 * n for n in range(1, 6))
ENTRY, BTF, DATA = 0xFFFF888004000000, 0xFFFF888004001000, 0xFFFF888004002000
STATE, LIST, NAME, CORE, INIT, SYMS, SITES, COUNT = 0, 8, 24, 80, 144, 176, 184, 192
INIT_TEXT = 0xFFFFFFFFC0403000
LIVE = 0


def types(layout: str) -> Btf:
    """``struct module`` with the members that are read, as of 6.1 or 6.4."""
    made = MadeUpBtf()
    u32, u64, char = made.int("unsigned int", 4), made.int("unsigned long", 8), made.int("char", 1, True)
    void = made.ptr(0)
    state = made.enum("module_state", 4, {"MODULE_STATE_LIVE": 0, "MODULE_STATE_COMING": 1})
    links = made.compound("list_head", 16, ("next", void, 0), ("prev", void, 64))
    if layout == "core_layout":
        inner = made.compound("module_layout", 16, ("base", void, 0), ("size", u32, 64), ("text_size", u32, 96))
        core = [("core_layout", inner, CORE * 8), ("init_layout", inner, INIT * 8)]
    else:
        inner = made.compound("module_memory", 16, ("base", void, 0), ("size", u32, 64))
        core = [("mem", made.array(inner, 5), CORE * 8)]
    sites = [("ftrace_callsites", made.ptr(u64), SITES * 8), ("num_ftrace_callsites", u32, COUNT * 8)]
    made.compound(
        "module", 256, ("state", state, STATE), ("list", links, LIST * 8), ("name", made.array(char, 56), NAME * 8),
        *core, ("kallsyms", void, SYMS * 8), *(sites if layout != "no ftrace" else []),
    )  # fmt: skip
    made.compound(
        "mod_kallsyms", 32,
        ("symtab", void, 0), ("num_symtab", u32, 64), ("strtab", void, 128), ("typetab", void, 192),
    )  # fmt: skip
    btf = made.compound("btf", 16, ("data", void, 0), ("data_size", u32, 64))
    made.compound("btf_module", 32, ("list", links, 0), ("module", void, 128), ("btf", made.ptr(btf), 192))
    return Btf.from_bytes(made.bytes())


@dataclass
class Memory:
    """Pieces at addresses; all else is unmapped."""

    pieces: dict[int, bytearray] = field(default_factory=dict)

    def read(self, addr: int, size_bytes: int) -> bytes:
        for begin, data in self.pieces.items():
            if begin <= addr and addr + size_bytes <= begin + len(data):
                return bytes(data[addr - begin : addr - begin + size_bytes])
        raise MemoryFault(addr, size_bytes)

    def put(self, addr: int, data: bytes) -> None:
        self.pieces[addr] = bytearray(data)

    def patch(self, addr: int, offset: int, form: str, value: int) -> None:
        struct.pack_into(form, self.pieces[addr], offset, value)


def sym(name_at: int, addr: int, section: int = 1) -> bytes:
    return struct.pack("<IBBHQQ", name_at, 0, 0, section, addr, 16)


def struct_module(layout: str, next_: int, name: bytes = b"dummy") -> bytes:
    data = bytearray(256)
    struct.pack_into("<I", data, STATE, LIVE)
    struct.pack_into("<Q", data, LIST, next_)
    data[NAME : NAME + len(name)] = name
    sizes = (0x4000, 0x1000) if layout == "core_layout" else (0x1000, 0)
    struct.pack_into("<QII", data, CORE, TEXT, *sizes)
    sizes = (0x4000, 0x800) if layout == "core_layout" else (0x800, 0)
    struct.pack_into("<QII", data, INIT, INIT_TEXT, *sizes)
    struct.pack_into("<QQI", data, SYMS, KALLSYMS, CALLSITES, 4)
    return bytes(data)


def one_module(layout: str) -> Memory:
    """Two functions, an alias, data, an undefined symbol, a mapping symbol; a site of each function, one nowhere."""
    memory = Memory()
    memory.put(MODULES, struct.pack("<QQ", MODULE + LIST, MODULE + LIST))
    memory.put(MODULE, struct_module(layout, MODULES))
    names = b"\0xmit\0xmit_alias\0setup\0stats\0printk\0.LC0\0"
    at = {name: names.index(b"\0" + name + b"\0") + 1 for name in names.split(b"\0") if name}
    entries = [
        bytes(24), sym(at[b"xmit"], TEXT + 0x40), sym(at[b"xmit_alias"], TEXT + 0x40), sym(at[b"setup"], TEXT + 0x80),
        sym(at[b"stats"], TEXT + 0x2000), sym(at[b"printk"], 0, section=0), sym(at[b".LC0"], TEXT + 0x44),
    ]  # fmt: skip
    memory.put(KALLSYMS, struct.pack("<QQQQ", SYMTAB, len(entries), STRTAB, TYPETAB))
    memory.put(SYMTAB, b"".join(entries))
    memory.put(STRTAB, names.ljust(0x1000, b"\0"))
    memory.put(TYPETAB, b"?ttTdUr")
    memory.put(CALLSITES, struct.pack("<4Q", TEXT + 0x84, 0, TEXT + 0x44, TEXT + 0x99))
    memory.put(BTF_MODULES, struct.pack("<QQ", ENTRY, ENTRY))
    memory.put(ENTRY, struct.pack("<QQQQ", BTF_MODULES, BTF_MODULES, MODULE, BTF))
    memory.put(BTF, struct.pack("<QQ", DATA, 4))
    memory.put(DATA, b"BTF!")
    return memory


def reader(memory: Memory, layout: str = "core_layout", *, has_endbr: bool = True) -> ModuleReader:
    symbols = SymbolTable([Symbol("modules", MODULES, "d"), Symbol("btf_modules", BTF_MODULES, "d")])
    return ModuleReader(types(layout), GuestMemory(memory.read), symbols, has_endbr=has_endbr)


LAYOUTS = ("core_layout", "mem")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_module(layout: str) -> None:
    (head,) = reader(one_module(layout), layout).heads()
    text, init_text = range(TEXT, TEXT + 0x1000), range(INIT_TEXT, INIT_TEXT + 0x800)
    assert head == (MODULE, "dummy", "MODULE_STATE_LIVE", text, init_text, KALLSYMS)
    module = reader(one_module(layout), layout).read(MODULE)
    assert [(s.name, s.addr, s.type, s.module) for s in module.symbols] == [
        ("xmit", TEXT + 0x40, "t", "dummy"),
        ("xmit_alias", TEXT + 0x40, "t", "dummy"),
        ("setup", TEXT + 0x80, "T", "dummy"),
        ("stats", TEXT + 0x2000, "d", "dummy"),
    ]
    assert module.ips == (TEXT + 0x44, TEXT + 0x84, TEXT + 0x99)
    assert [(one.name, one.ip, one.module) for one in module.locations] == [
        ("xmit", TEXT + 0x44, "dummy"),
        ("setup", TEXT + 0x84, "dummy"),
    ]


def test_without_endbr_a_site_is_at_the_start_of_its_function() -> None:
    module = reader(one_module("mem"), "mem", has_endbr=False).read(MODULE)
    assert not module.locations


def test_without_ftrace_there_are_no_locations() -> None:
    memory = one_module("mem")
    module = reader(memory, "no ftrace").read(MODULE)
    assert module.symbols.addresses("xmit")
    assert not module.ips


def test_several_modules_newest_first() -> None:
    memory = one_module("mem")
    memory.put(OTHER, struct_module("mem", MODULE + LIST, b"loop"))
    memory.put(MODULES, struct.pack("<QQ", OTHER + LIST, MODULE + LIST))
    assert [head.name for head in reader(memory, "mem").heads()] == ["loop", "dummy"]


def test_no_modules() -> None:
    memory = Memory()
    memory.put(MODULES, struct.pack("<QQ", MODULES, MODULES))
    assert reader(memory).heads() == []


def test_split_btf_of_the_right_module() -> None:
    one = reader(one_module("mem"), "mem")
    (head,) = one.heads()
    assert one.btf_bytes(head) == b"BTF!"
    assert one.btf_bytes(head._replace(addr=OTHER)) is None


def test_what_may_be_a_module() -> None:
    assert in_module_area(TEXT)
    assert not in_module_area(0xFFFF888004000000)


# Damaged memory. Each is a typed error that says where, never a hang or a wrong answer.


def test_a_list_that_runs_in_a_circle() -> None:
    memory = one_module("mem")
    memory.patch(MODULE, LIST, "<Q", MODULE + LIST)
    with pytest.raises(ModuleError, match="circle"):
        reader(memory, "mem").heads()


def test_a_list_that_leads_nowhere() -> None:
    memory = one_module("mem")
    memory.patch(MODULE, LIST, "<Q", 0xDEAD000000000100)
    with pytest.raises(ModuleError, match="0xdead0000000000f8") as raised:
        reader(memory, "mem").heads()
    assert raised.value.addr


@pytest.mark.parametrize(
    ("addr", "offset", "form", "value", "said"),
    [
        (MODULE, NAME, "<Q", 0, "no name"),
        (MODULE, NAME, "<Q", 0xFFFFFFFF, "no name"),
        (MODULE, CORE, "<Q", 0x1000, "code at 0x1000"),
        (MODULE, CORE + 8, "<I", 0xFFFFFFFF, "bytes of code"),
        (MODULE, SYMS, "<Q", 0xDEAD, "struct mod_kallsyms at 0xdead"),
        (KALLSYMS, 8, "<I", 0xFFFFFFFF, "symbols of dummy are said to take"),
        (KALLSYMS, 0, "<Q", 0x10, "symbols of dummy at 0x10 cannot be read"),
        (KALLSYMS, 16, "<Q", 0x10, "symbols of dummy"),
        (KALLSYMS, 24, "<Q", 0x10, "symbols of dummy"),
        (SYMTAB, 24, "<I", 0xFFFFFFF, "symbols of dummy"),
        (MODULE, COUNT, "<I", 0xFFFFFFFF, "ftrace locations of dummy are said"),
        (MODULE, SITES, "<Q", 0x10, "ftrace locations of dummy at 0x10"),
    ],
)
def test_damage(addr: int, offset: int, form: str, value: int, said: str) -> None:
    memory = one_module("mem")
    memory.patch(addr, offset, form, value)
    with pytest.raises(ModuleError, match=said):
        reader(memory, "mem").read(MODULE)


def test_btf_that_cannot_be() -> None:
    memory = one_module("mem")
    one = reader(memory, "mem")
    (head,) = one.heads()
    memory.patch(BTF, 8, "<I", 0xFFFFFFFF)
    with pytest.raises(ModuleError, match="BTF of dummy"):
        one.btf_bytes(head)


def test_a_kernel_that_does_not_tell() -> None:
    silent = ModuleReader(types("mem"), GuestMemory(Memory().read), SymbolTable([]), has_endbr=True)
    with pytest.raises(ModuleError, match="list of modules"):
        silent.heads()
