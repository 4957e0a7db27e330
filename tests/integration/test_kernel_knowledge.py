"""What is read from a kernel's image equals, line for line, what the booted kernel says of itself."""

from __future__ import annotations

import gzip
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import images
from emu.deadline import Deadline
from emu.machine import Machine
from emu.spec import MachineSpec
from fprobe_gdb.errors import ImageError
from fprobe_gdb.kernel.image import KernelImage
from fprobe_gdb.kernel.knowledge import KernelKnowledge
from fprobe_gdb.kernel.mcount import decode_sites, mcount_ips
from fprobe_gdb.kernel.sites import SiteKind, kind_of_site
from fprobe_gdb.kernel.symbol_sources import from_proc_kallsyms, from_system_map, load_symbols
from images import initramfs

pytestmark = pytest.mark.qemu

TRACING = "/sys/kernel/tracing"
INVALID = "__ftrace_invalid_address___"
# Times are compared with generous limits, since other work may share the machine; the fastest of some runs counts.
KALLSYMS_LIMIT_SEC = 2.0
LOAD_LIMIT_SEC = 3.0


@dataclass
class Guest:
    """A kernel and what it said when it ran."""

    vmlinuz: Path
    knowledge: KernelKnowledge
    kallsyms: str
    functions: list[str]
    #: Lines of available_filter_functions_addrs; empty before 6.5, which has no such file.
    functions_addrs: list[str]
    version: str


@pytest.fixture(scope="module", params=["6.1", "6.12"])
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    vmlinuz = images.kernel(request.param).vmlinuz
    spec = MachineSpec(vmlinuz, initramfs.build(workload=False), kaslr=False, gdbstub=False)
    deadline = Deadline(240)
    with Machine(spec) as machine:
        machine.wait_boot(deadline)

        def read(path: str) -> str:
            # Packed, because a serial port is slow.
            result = machine.agent.run(f"cat {path} 2>/dev/null | gzip -1", deadline)
            assert result.status == 0
            return gzip.decompress(result.output).decode("ascii")

        yield Guest(
            vmlinuz=vmlinuz,
            knowledge=KernelKnowledge.load(vmlinuz),
            kallsyms=read("/proc/kallsyms"),
            functions=read(f"{TRACING}/available_filter_functions").splitlines(),
            functions_addrs=read(f"{TRACING}/available_filter_functions_addrs").splitlines(),
            version=read("/proc/version"),
        )


def test_symbols_equal_the_guests_kallsyms(guest: Guest) -> None:
    # Modules, BPF programs and ftrace's own trampolines come behind the kernel's symbols, with a [name].
    theirs = [line for line in guest.kallsyms.splitlines() if "\t[" not in line]
    ours = [f"{symbol.addr:016x} {symbol.type} {symbol.name}" for symbol in guest.knowledge.symbols]
    assert len(ours) > 80_000
    assert ours == theirs


def test_the_guests_own_text_is_a_source_too(guest: Guest) -> None:
    table = from_proc_kallsyms(guest.kallsyms)
    assert [symbol for symbol in table if not symbol.module] == list(guest.knowledge.symbols)
    # System.map is sorted by address like kallsyms; aliases are put in order again.
    shuffled = sorted(guest.kallsyms.splitlines(), key=lambda line: line.split()[2])
    by_addr: dict[int, set[str]] = {}
    for symbol in from_system_map("\n".join(shuffled)):
        by_addr.setdefault(symbol.addr, set()).add(symbol.name)
    for symbol in table:
        assert symbol.name in by_addr[symbol.addr]


def test_debians_system_map_is_recognised_as_a_stub(guest: Guest) -> None:
    stub = guest.vmlinuz.with_name(guest.vmlinuz.name.replace("vmlinuz", "System.map"))
    with pytest.raises(ImageError, match="only a stub"):
        from_system_map(stub.read_text(), str(stub))
    assert load_symbols(guest.knowledge.image, system_map=stub).source == "kallsyms tables"


def test_records_equal_available_filter_functions(guest: Guest) -> None:
    locations = guest.knowledge.locations
    assert [record.name for record in locations.records] == [
        name for name in guest.functions if not name.startswith(INVALID)
    ]
    by_line = [locations.by_index(number + 1) for number in range(len(guest.functions))]
    assert [location.name if location else INVALID for location in by_line] == [
        INVALID if name.startswith(INVALID) else name for name in guest.functions
    ]
    assert locations.by_index(len(guest.functions) + 1) is None


def test_addresses_equal_the_guests(guest: Guest) -> None:
    if not guest.functions_addrs:
        assert "6.1.0" in guest.version  # the file came with 6.5
        return
    assert [f"{record.ip:x} {record.name}" for record in guest.knowledge.locations.records] == guest.functions_addrs


def test_capstone_and_mcount_loc_agree(guest: Guest) -> None:
    """No site is extra. Only ``__mcount_loc`` has overridden weak functions, whose code is there without a symbol."""
    image, symbols = guest.knowledge.image, guest.knowledge.symbols
    table = set(mcount_ips(image, symbols) or ())
    decoded = {symbol.addr + site.offset: site.kind for symbol, site in decode_sites(image, symbols)}
    assert len(decoded) > 30_000
    assert set(decoded.values()) == {SiteKind.FENTRY_CALL}
    assert decoded.keys() - table == set()
    fentry = symbols.one("__fentry__")
    for ip in table - decoded.keys():
        found = symbols.lookup(ip)
        assert found is not None
        assert found[1] > 4
        assert kind_of_site(image.read(ip, 5), ip, fentry) is SiteKind.FENTRY_CALL
    # 6.12's build has zeroed them; in 6.1 each of them that is not __init is a line of the guest's list.
    valid = {record.ip for record in guest.knowledge.boot_locations.records}
    assert valid == set(decoded)


def test_the_banner_is_what_the_guest_says(guest: Guest) -> None:
    assert guest.knowledge.banner == guest.version.strip()


def test_the_per_cpu_layout_is_what_the_code_uses(guest: Guest) -> None:
    """Of all 8-byte loads through gs most read current, of all increments and decrements most the preempt count."""
    image, percpu = guest.knowledge.image, guest.knowledge.percpu
    load = rb"\x65[\x48\x4c]\x8b"
    loads = _gs_operands(image, load + rb"[\x04\x0c\x14\x1c\x24\x2c\x34\x3c]\x25(....)", rip_relative=False)
    loads += _gs_operands(image, load + rb"[\x05\x0d\x15\x1d\x25\x2d\x35\x3d](....)", rip_relative=True)
    del loads[0x28]  # the stack protector's canary, by the compiler's ABI
    counts = _gs_operands(image, rb"\x65\xff[\x05\x0d](....)", rip_relative=True)
    assert [offset for offset, _ in loads.most_common(1)] == [percpu.current_task]
    assert [offset for offset, _ in counts.most_common(1)] == [percpu.preempt_count]
    assert percpu.cpu_number is not None
    assert percpu.current_kprobe is not None


# How often each address is an operand of the instructions that match.
def _gs_operands(image: KernelImage, pattern: bytes, *, rip_relative: bool) -> Counter[int]:
    text = image.section(".text")
    assert text is not None
    found: Counter[int] = Counter()
    for match in re.finditer(pattern, image.section_bytes(text), re.DOTALL):
        operand = int.from_bytes(match[1], "little", signed=True)
        found[(operand + (text.addr + match.end() if rip_relative else 0)) % (1 << 64)] += 1
    return found


def test_no_function_goes_without_location_or_reason(guest: Guest) -> None:
    locations = guest.knowledge.locations
    names = {record.name for record in locations.records}
    for symbol in guest.knowledge.symbols:
        assert (locations.why_not(symbol.name) == "") == (symbol.name in names), symbol


def test_it_is_quick(guest: Guest) -> None:
    kallsyms_sec, load_sec = [], []
    for _ in range(3):
        start = time.process_time()
        image = KernelImage.open(guest.vmlinuz)
        opened = time.process_time()
        load_symbols(image)
        kallsyms_sec.append(time.process_time() - opened)
        _ = KernelKnowledge(image, load_symbols(image)).locations
        load_sec.append(time.process_time() - start - kallsyms_sec[-1])
    assert min(kallsyms_sec) < KALLSYMS_LIMIT_SEC
    assert min(load_sec) < LOAD_LIMIT_SEC
