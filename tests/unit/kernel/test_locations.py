"""ftrace records out of a made-up kernel, and why other symbols have none."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import pytest

from fprobe_gdb.errors import ImageError, SymbolNotCode, SymbolNotFound
from fprobe_gdb.kernel.image import KernelImage
from fprobe_gdb.kernel.locations import LocationTable
from fprobe_gdb.kernel.mcount import decode_sites, mcount_ips, site_ips
from fprobe_gdb.kernel.sites import SiteKind
from fprobe_gdb.kernel.symbols import Symbol, SymbolTable
from tests.unit.kernel.made_up_image import ALLOC, EXEC, WRITE, Part, elf

TEXT = 0xFFFFFFFF81000000
INIT = 0xFFFFFFFF83000000
TABLE = 0xFFFFFFFF83100000
FENTRY = TEXT
ENDBR = b"\xf3\x0f\x1e\xfa"
NOP = b"\x0f\x1f\x44\x00\x00"


@dataclass
class MadeUpKernel:
    """Functions of 64 bytes, each with the head that a test gives it."""

    text: bytearray = field(default_factory=lambda: bytearray(b"\xc3".ljust(64, b"\xcc")))
    init: bytearray = field(default_factory=bytearray)
    symbols: list[Symbol] = field(
        default_factory=lambda: [Symbol(name, TEXT, "T") for name in ("_stext", "__fentry__")]
    )
    mcount: list[int] = field(default_factory=list)

    def add(self, name: str, *, endbr: bool = False, site: str = "call", init: bool = False, kind: str = "T") -> int:
        """Append a function and return its address; ``site`` is call, nop or none."""
        place, base = (self.init, INIT) if init else (self.text, TEXT)
        addr = base + len(place)
        head = ENDBR if endbr else b""
        ip = addr + len(head)
        head += {"call": b"\xe8" + struct.pack("<i", FENTRY - ip - 5), "nop": NOP, "none": b"\x55"}[site]
        if site != "none":
            self.mcount.append(ip)
        place += (head + b"\x90\xc3").ljust(64, b"\xcc")
        self.symbols.append(Symbol(name, addr, kind))
        return addr

    def build(self, *, with_mcount: bool = True, extra: tuple[Symbol, ...] = ()) -> tuple[KernelImage, SymbolTable]:
        table = struct.pack(f"<{len(self.mcount)}Q", *self.mcount)
        parts = [
            Part(".text", TEXT, bytes(self.text), ALLOC | EXEC),
            Part(".init.text", INIT, bytes(self.init) or b"\xcc", ALLOC | EXEC),
            Part(".init.data", TABLE, table or b"\0", ALLOC | WRITE),
        ]
        symbols = [*self.symbols, *extra, Symbol("_end", TABLE + 0x100000, "B")]
        if with_mcount:
            symbols.append(Symbol("__start_mcount_loc", TABLE, "D"))
            symbols.append(Symbol("__stop_mcount_loc", TABLE + len(table), "D"))
        symbols += [Symbol("_sinittext", INIT, "T"), Symbol("_einittext", INIT + max(len(self.init), 1), "T")]
        return KernelImage.from_bytes(elf(parts)), SymbolTable(sorted(symbols, key=lambda symbol: symbol.addr))

    def locations(self, *, boot: bool = False, **how: bool) -> LocationTable:
        return LocationTable.build(*self.build(**how), boot=boot)  # type: ignore[arg-type]


@pytest.fixture
def kernel() -> MadeUpKernel:
    kernel = MadeUpKernel()
    kernel.add("vfs_read")
    kernel.add("vfs_write", endbr=True)
    kernel.add("do_notrace", site="none")
    kernel.add("do_notrace_ibt", endbr=True, site="none")
    kernel.symbols.append(Symbol("__x64_sys_fork", kernel.add("__do_sys_fork", endbr=True), "T"))
    kernel.add("start_kernel", init=True)
    return kernel


@pytest.mark.parametrize("with_mcount", [True, False], ids=["mcount_loc", "decoded"])
def test_records(kernel: MadeUpKernel, with_mcount: bool) -> None:
    locations = kernel.locations(with_mcount=with_mcount)
    assert [(r.name, r.ip - r.sym_addr, r.kind) for r in locations.records] == [
        ("vfs_read", 0, SiteKind.FENTRY_CALL),
        ("vfs_write", 4, SiteKind.FENTRY_CALL),
        ("__do_sys_fork", 4, SiteKind.FENTRY_CALL),
    ]
    assert [r.name for r in kernel.locations(with_mcount=with_mcount, boot=True).records][3:] == ["start_kernel"]
    assert all(r.has_fentry for r in locations.records)


def test_zero_entries_and_entries_outside_code_are_passed_over(kernel: MadeUpKernel) -> None:
    expected = [r.ip for r in kernel.locations().records]
    kernel.mcount[:0] = [0, 0, 0x1234, TEXT - 8]
    assert [r.ip for r in kernel.locations().records] == expected


def test_the_leftover_of_an_overridden_weak_function_is_no_record(kernel: MadeUpKernel) -> None:
    kernel.add("overridden")
    kernel.symbols.pop()
    kernel.add("after")
    locations = kernel.locations()
    assert [r.name for r in locations.records][-2:] == ["__do_sys_fork", "after"]
    # ... but it keeps its line in available_filter_functions, and lines are counted with it.
    assert locations.by_index(4) is None
    assert [r.name if (r := locations.by_index(n)) else None for n in (1, 3, 5, 6, 0, -1)] == [
        "vfs_read",
        "__do_sys_fork",
        "after",
        None,
        None,
        None,
    ]


def test_a_site_at_sym_plus_4_needs_endbr_in_front(kernel: MadeUpKernel) -> None:
    addr = kernel.add("odd", site="none")
    kernel.text[-64:] = b"\x90" * 4 + NOP + b"\xc3" * 55
    kernel.mcount.append(addr + 4)
    assert "odd" not in [r.name for r in kernel.locations().records]


def test_at_and_ftrace_location(kernel: MadeUpKernel) -> None:
    locations = kernel.locations()
    _, symbols = kernel.build()
    read, write = symbols.one("vfs_read"), symbols.one("vfs_write")
    for ip in range(read, read + 5):
        assert locations.ftrace_location(ip) == read
        assert locations.at(ip) is locations.location_of(read)
    assert locations.ftrace_location(read + 5) == locations.ftrace_location(read - 1) == 0
    assert locations.at(read + 5) is None
    # sym+0 and any byte of the site, but not the rest of ENDBR
    assert [locations.ftrace_location(write + n) - write for n in (0, 4, 5, 8)] == [4, 4, 4, 4]
    assert [locations.ftrace_location(write + n) for n in (1, 2, 3, 9)] == [0, 0, 0, 0]
    assert locations.at(write) is None
    assert locations.ftrace_location(symbols.one("do_notrace")) == locations.ftrace_location(0) == 0
    assert locations.ftrace_location(symbols.one("__x64_sys_fork")) == symbols.one("__do_sys_fork") + 4


def test_functions_without_a_site_are_probed_at_their_first_instruction(kernel: MadeUpKernel) -> None:
    locations = kernel.locations()
    for name, offset, kind in (
        ("do_notrace", 0, SiteKind.FIRST_INSN),
        ("do_notrace_ibt", 4, SiteKind.FIRST_INSN),
        ("vfs_write", 4, SiteKind.FENTRY_CALL),
    ):
        location = locations.first_insn(name)
        assert (location.name, location.ip - location.sym_addr, location.kind) == (name, offset, kind)
    assert locations.first_insn("__x64_sys_fork").name == "__do_sys_fork"
    with pytest.raises(SymbolNotFound, match="did you mean do_notrace"):
        locations.first_insn("do_notrac")


def test_what_is_no_function_is_refused(kernel: MadeUpKernel) -> None:
    for name, kind in (("jiffies", "D"), ("__pfx_f", "t"), ("__cfi_f", "t"), ("f.cold", "t"), ("f.cold.3", "t")):
        kernel.add(name, site="none", kind=kind)
    locations = kernel.locations()
    for name in ("jiffies", "__pfx_f", "__cfi_f", "f.cold", "f.cold.3", "start_kernel"):
        with pytest.raises(SymbolNotCode, match=name) as caught:
            locations.first_insn(name)
        assert caught.value.why == locations.why_not(name)
    assert kernel.locations(boot=True).first_insn("start_kernel").name == "start_kernel"


def test_why_not(kernel: MadeUpKernel) -> None:
    for name in ("noinstr_f", "entry_f"):
        kernel.add(name, site="none")
    noinstr, entry = (symbol.addr for symbol in kernel.symbols[-2:])
    for name, kind in (("jiffies", "D"), ("__pfx_f", "t"), ("__cfi_f", "t"), ("f.cold", "t")):
        kernel.add(name, site="none", kind=kind)
    extra = (
        Symbol("__noinstr_text_start", noinstr, "T"),
        Symbol("__noinstr_text_end", entry, "T"),
        Symbol("__entry_text_start", entry, "T"),
        Symbol("__entry_text_end", entry + 64, "T"),
        Symbol("nf_hook", 0xFFFFFFFFC0000000, "t", "netfilter"),
    )
    locations = LocationTable.build(*kernel.build(extra=extra))
    for name, words in {
        "vfs_read": "",
        "__x64_sys_fork": "as '__do_sys_fork'",
        "vfs_raed": "no such kernel symbol; did you mean vfs_read",
        "start_kernel": "__init",
        "noinstr_f": "noinstr",
        "entry_f": "entry code",
        "jiffies": "data",
        "__pfx_f": "padding before 'f'",
        "__cfi_f": "type hash before 'f'",
        "f.cold": "unlikely part of 'f'",
        "do_notrace": "no fentry call",
        "nf_hook": "module netfilter",
    }.items():
        why = locations.why_not(name)
        assert words in why if words else why == ""


def test_several_functions_of_one_name(kernel: MadeUpKernel) -> None:
    first, second = kernel.add("dup"), kernel.add("dup", endbr=True)
    locations = kernel.locations()
    assert [location.ip for location in locations.named("dup")] == [first, second + 4]
    assert locations.why_not("dup") == ""
    assert locations.named("__x64_sys_fork") == ()


def test_a_kernel_without_ftrace_has_no_records() -> None:
    kernel = MadeUpKernel()
    kernel.symbols.pop()  # __fentry__
    kernel.add("vfs_read", site="none")
    kernel.add("nop_first", site="nop")
    kernel.mcount.clear()
    locations = kernel.locations(with_mcount=False)
    assert locations.records == ()
    assert not locations.has_ftrace
    assert "without ftrace" in locations.why_not("vfs_read")
    assert locations.first_insn("vfs_read").kind is SiteKind.FIRST_INSN


def test_nops_on_disk_count_only_where_nothing_calls_fentry(kernel: MadeUpKernel) -> None:
    kernel.add("static_branch", site="nop")
    names = [symbol.name for symbol, _ in decode_sites(*kernel.build())]
    assert names == ["vfs_read", "vfs_write", "__do_sys_fork", "start_kernel"]
    objtool = MadeUpKernel()
    objtool.add("f", site="nop")
    objtool.add("g", site="nop", endbr=True)
    assert [r.kind for r in objtool.locations(with_mcount=False).records] == [SiteKind.FENTRY_NOP] * 2
    assert objtool.locations().records == objtool.locations(with_mcount=False).records


def test_damaged_tables_are_an_image_error(kernel: MadeUpKernel) -> None:
    image, symbols = kernel.build()
    for start, stop in ((TABLE + 8, TABLE), (TABLE, TABLE + 9), (TABLE, TABLE + 8000)):
        moved = [s for s in symbols if "mcount_loc" not in s.name]
        moved += [Symbol("__start_mcount_loc", start, "D"), Symbol("__stop_mcount_loc", stop, "D")]
        with pytest.raises(ImageError):
            mcount_ips(image, SymbolTable(moved))


def test_an_empty_table(kernel: MadeUpKernel) -> None:
    kernel.mcount.clear()
    assert site_ips(*kernel.build()) == []
