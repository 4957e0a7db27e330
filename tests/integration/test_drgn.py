"""drgn and its helpers on stopped guests: on stock kernels by BTF, and on a small image with DWARF. The guest's own
``/proc`` is the judge."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import drgn
import pytest
from drgn.helpers.linux.cpumask import for_each_online_cpu
from drgn.helpers.linux.fs import d_path, for_each_file, for_each_mount, mount_dst
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.mm import cmdline, totalram_pages
from drgn.helpers.linux.module import address_to_module, find_module, for_each_module
from drgn.helpers.linux.net import for_each_netdev
from drgn.helpers.linux.percpu import per_cpu
from drgn.helpers.linux.pid import find_task, for_each_task
from drgn.helpers.linux.sched import cpu_curr, task_state_to_char
from drgn.helpers.linux.slab import for_each_slab_cache

from fprobe_gdb import EntryData, Fprobe, Kernel, PtRegs
from fprobe_gdb.errors import MemoryFault, StaleValue
from fprobe_gdb.kernel.btf import ArrayType, CompoundType, ForwardType
from fprobe_gdb.kernel.drgn import DrgnPrograms, Guest
from fprobe_gdb.kernel.drgn.types import DrgnTypes
from fprobe_gdb.kernel.drgn.variables import VARIABLE_TYPES
from fprobe_gdb.kernel.image import KernelImage
from fprobe_gdb.kernel.symbols import Symbol, SymbolTable
from fprobe_gdb.kernel.values import GuestMemory
from tests.integration.guest_calls import TRIGGER

pytestmark = pytest.mark.qemu

Boot = Callable[..., Kernel]
# One is where it was linked and served by breakpoints, the other has KASLR and trampolines.
GUESTS: dict[str, dict[str, object]] = {
    "6.1": {"kernel": "6.1", "dispatch": "breakpoint", "kaslr": False},
    "6.12": {"kernel": "6.12", "dispatch": "trampoline"},
}
# A process that is asleep, and no longer on its way through fork and exec; its pid.
SLEEPER = """sleep 1000 &
    while ! grep -q sleep /proc/$!/comm || ! grep -q 'State:.S' /proc/$!/status; do true; done
    echo $!"""
# A network device without hardware, and a block device.
MODULES = ("dummy", "loop")
KERNELS = pytest.mark.parametrize("kernel", GUESTS)


@pytest.fixture
def k(guest: Boot, kernel: str) -> Kernel:
    return guest(**GUESTS[kernel])


@KERNELS
def test_helpers_in_a_handler(k: Kernel) -> None:
    seen: dict[str, object] = {}

    def on_entry(fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: EntryData | None) -> None:
        prog = k.drgn()
        seen["exe"] = d_path(drgn.Object(prog, "struct task_struct *", k.task).mm.exe_file.f_path)
        seen["current"] = [
            task.value_() == k.task
            for task in (
                cpu_curr(prog, k.cpu),
                per_cpu(prog["current_task"], k.cpu),
                find_task(prog, k.current.pid),
            )
        ]
        seen["cmdline"] = cmdline(cpu_curr(prog, k.cpu))
        seen["symbol"] = prog.symbol(ip).name
        assert k.drgn() is prog

    k.register_fprobe(Fprobe(on_entry), "vfs_fallocate")
    assert k.shell("workload args 1").status == 0
    assert seen == {
        "exe": k.shell("readlink -f $(which workload)").text.strip().encode(),
        "current": [True, True, True],
        "cmdline": [b"workload", b"args", b"1"],
        "symbol": "vfs_fallocate",
    }


@KERNELS
def test_helpers_between_runs(k: Kernel) -> None:
    """Lists, trees and per-CPU variables of the stopped guest, beside what it says of itself."""
    pids = {int(pid) for pid in k.shell("cd /proc; echo [0-9]*").text.split()}
    mounts = [line.split()[1] for line in k.shell("cat /proc/mounts").text.splitlines()]
    sleeper = int(k.shell(SLEEPER).text)
    stack = [line.split()[1].split("+")[0] for line in k.shell(f"cat /proc/{sleeper}/stack").text.splitlines()]
    links = set(k.shell("for f in /proc/1/fd/*; do readlink $f; done").text.split())
    prog = k.drgn()
    tasks = {task.pid.value_(): task.comm.string_() for task in for_each_task(prog)}
    assert (tasks[1], tasks[2]) == (b"init", b"kthreadd")
    # The shell that wrote the list is gone; kernel threads may come and go.
    assert len(pids & tasks.keys()) > 20
    assert [mount_dst(mount).decode() for mount in for_each_mount(prog)] == mounts
    assert list(for_each_online_cpu(prog)) == [0, 1]
    init = find_task(prog, 1)
    assert {d_path(file.f_path).decode() for _, file in for_each_file(init)} == links
    names = [frame.name for frame in prog.stack_trace(sleeper)]
    assert names[:2] == ["__schedule", "schedule"]
    # /proc leaves out all of the scheduler's text, and the address in user space at the end.
    assert names[-1 - len(stack) : -1] == stack
    assert task_state_to_char(find_task(prog, sleeper)) == "S"
    assert [dev.name.string_() for dev in for_each_netdev(prog["init_net"].address_of_())] == [b"lo"]
    assert b"task_struct" in {cache.name.string_() for cache in for_each_slab_cache(prog)}
    assert not list(list_for_each_entry("struct module", prog["modules"].address_of_(), "list"))
    memory_kib = int(k.shell(f"kill {sleeper}; grep MemTotal /proc/meminfo").text.split()[1])
    assert totalram_pages(k.drgn()) * 4 == memory_kib


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_modules(guest: Boot, kernel: str) -> None:
    """Names, addresses, symbols, functions and types of what is loaded at this stop, and of nothing else."""
    k = guest(kernel=kernel, modules=MODULES)
    with pytest.raises(LookupError):
        k.drgn().symbol("dummy_xmit")
    k.shell("modprobe dummy; modprobe loop")
    addr = int(k.shell("grep ' dummy_xmit' /proc/kallsyms").text.split()[0], 16)
    prog = k.drgn()
    assert {module.name.string_().decode() for module in for_each_module(prog)} == {"dummy", "loop"}
    assert prog.symbol("dummy_xmit").address == addr
    assert prog.symbol(addr + 4).name == "dummy_xmit"
    assert address_to_module(prog, addr) == find_module(prog, "dummy")
    # Just before the code of a module is nobody's.
    before = min(module.text.start for module in k.modules) - 1
    with pytest.raises(LookupError):
        prog.symbol(before)
    # By their own types: BTF has "struct loop_device" in this module alone.
    assert prog["dummy_xmit"].address_ == addr
    assert [parameter.name for parameter in prog["dummy_xmit"].type_.parameters] == ["skb", "dev"]
    assert prog.type("struct loop_device").member("lo_number").offset == 0
    assert prog.type("struct loop_device").member("lo_queue").type.type_name() == "struct request_queue *"
    k.shell("rmmod dummy")
    with pytest.raises(LookupError):
        k.drgn().symbol("dummy_xmit")
    assert not find_module(k.drgn(), "dummy")
    k.shell("rmmod loop")


def test_stacks_of_tasks_with_calls_in_flight(guest: Boot) -> None:
    """Trampolines have hooked the return address; drgn sees through that: the stack is the same as without a probe."""
    k = guest(**GUESTS["6.12"])
    plain = int(k.shell(SLEEPER).text)
    k.register_fprobe(Fprobe(lambda *_: None, lambda *_: None), "hrtimer_nanosleep")
    hooked = int(k.shell(SLEEPER).text)
    assert k.calls_in_flight == 1
    stacks = [[frame.name for frame in k.drgn().stack_trace(pid)][:-1] for pid in (plain, hooked)]
    assert stacks[0] == stacks[1]
    assert "hrtimer_nanosleep" in stacks[0]
    assert stacks[0][-1] == "entry_SYSCALL_64_after_hwframe"
    k.unregister_all()
    k.shell(f"kill {plain} {hooked}")


@KERNELS
def test_a_program_is_stale_once_the_guest_has_run(k: Kernel) -> None:
    kept: list[drgn.Object] = []

    def on_entry(fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: EntryData | None) -> None:
        kept.append(find_task(k.drgn(), k.current.pid))

    k.register_fprobe(Fprobe(on_entry), TRIGGER)
    assert k.shell("workload calls 2").status == 0
    for task in kept:
        with pytest.raises(StaleValue, match=r"k\.drgn\(\)"):
            task.comm.string_()
    assert len(kept) == 2


@KERNELS
def test_well_known_variables(k: Kernel) -> None:
    """Most are in each kernel, and hold what can be known of them from elsewhere."""
    prog = k.drgn()
    found = {}
    for name in VARIABLE_TYPES:
        try:
            found[name] = prog.variable(name)
        except drgn.ObjectNotFoundError:
            continue
    # What a stock kernel lacks: names of other versions, and what its configuration leaves out.
    missing = VARIABLE_TYPES.keys() - found.keys()
    assert len(missing) < len(VARIABLE_TYPES) // 5, missing
    assert found["linux_banner"].string_().decode().strip() == k.knowledge.banner
    assert found["init_task"].comm.string_() == b"swapper/0"
    assert found["nr_cpu_ids"].value_() == 2
    assert found["init_pid_ns"].level.value_() == 0
    assert found["system_state"].format_(type_name=False) == "SYSTEM_RUNNING"
    assert found["iomem_resource"].name.string_() == b"PCI mem"
    assert found["init_uts_ns"].name.release.string_().decode() == k.knowledge.banner.split()[2]
    assert found["__per_cpu_offset"][1].value_() != found["__per_cpu_offset"][0].value_()
    assert found["saved_command_line"].string_().decode() in k.shell("cat /proc/cmdline").text


def test_every_structure_has_the_layout_of_btf(guest: Boot) -> None:
    """Sizes, offsets and widths of all structures and unions, and that the types of their members can be made."""
    k = guest(**GUESTS["6.12"])
    types = DrgnTypes(k.drgn(), k.btf)
    compounds = [one for one in k.btf if isinstance(one, CompoundType)]
    assert len(compounds) > 5000
    for one in compounds:
        check_layout(types.drgn_type(one), one)


def check_layout(found: drgn.Type, of: CompoundType) -> None:
    assert found.size == of.size_bytes
    assert len(found.members) == len(of.members)
    for member, wanted in zip(found.members, of.members, strict=True):
        place = (member.name or "", member.bit_offset, member.bit_field_size or 0)
        assert place == (wanted.name, wanted.bit_offset, wanted.bit_size), of
        kind = wanted.type.resolve()
        if isinstance(kind, ForwardType) or (isinstance(kind, ArrayType) and not kind.count):
            continue
        assert drgn.sizeof(member.type) == kind.size_bytes, of


SOURCE = """
struct list_head { struct list_head *next, *prev; };
struct made_up { int answer; unsigned low : 3, high : 5; struct list_head list; char name[8]; long tail[]; };
struct made_up first = { .answer = 42, .low = 5, .high = 17, .name = "motd" };
enum color { RED = 1, GREEN = 7 } shade = GREEN;
int made_up_read(struct made_up *m) { return m->answer; }
void _start(void) { made_up_read(&first); }
"""
LINKED_AT = 0xFFFFFFFF81000000


@pytest.mark.parametrize("slide", [0, 0x1000000])
def test_types_and_variables_by_dwarf(tmp_path: Path, slide: int) -> None:
    """A vmlinux without BTF but with DWARF: one program for all stops, which k.drgn() makes valid anew."""
    path = tmp_path / "vmlinux"
    options = ["-g", "-O0", "-nostdlib", "-static", "-fno-pic", "-no-pie", "-mcmodel=kernel", "-Wl,--build-id=none"]
    link = f"-Wl,-Ttext={LINKED_AT:#x}"
    subprocess.run(["gcc", *options, link, "-x", "c", "-", "-o", str(path)], input=SOURCE.encode(), check=True)
    image = KernelImage.open(path)
    epoch = 1

    def read(addr: int, size_bytes: int) -> bytes:
        try:
            return image.read(addr - slide, size_bytes)
        except Exception:
            raise MemoryFault(addr, size_bytes) from None

    symbols = SymbolTable([Symbol("_stext", LINKED_AT + slide, "T"), Symbol("_end", LINKED_AT + slide + 0x10000, "B")])
    programs = DrgnPrograms(Guest(GuestMemory(read, lambda: epoch), symbols, image, None, slide))
    prog = programs.program()
    first = prog["first"]
    assert first.address_ - slide >= LINKED_AT
    assert (first.answer.value_(), first.low.value_(), first.high.value_()) == (42, 5, 17)
    assert first.name.string_() == b"motd"
    assert prog["shade"].format_(type_name=False) == "GREEN"
    assert prog["made_up_read"].address_ == LINKED_AT + slide
    assert [member.name for member in prog.type("struct list_head").members] == ["next", "prev"]
    epoch += 1
    with pytest.raises(StaleValue):
        first.answer.value_()
    assert programs.program() is prog
    assert first.answer.value_() == 42
