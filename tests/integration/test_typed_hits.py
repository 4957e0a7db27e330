"""Typed arguments, return values and tasks of real hits, on stock kernels without debug information."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fprobe_gdb import EntryData, Fprobe, Kernel, PtRegs
from fprobe_gdb.errors import StaleValue, TypeLookupError
from fprobe_gdb.kernel.values import Value
from tests.integration.guest_calls import TRIGGER

pytestmark = pytest.mark.qemu

KERNELS = pytest.mark.parametrize("kernel", ["6.1", "6.12"])
Guest = Callable[..., Kernel]
EOPNOTSUPP = 95


@KERNELS
@pytest.mark.parametrize("backend", ["rsp", "gdb"])
def test_arguments_results_and_tasks_are_what_the_workload_says(guest: Guest, kernel: str, backend: str) -> None:
    """``workload args N``: fallocate with a mode, an offset and a length that follow from the number of the call."""
    k = guest(kernel=kernel, backend=backend)
    entries: list[tuple[object, ...]] = []
    results: list[object] = []
    tasks: set[tuple[str, int, int]] = set()

    def on_entry(fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: EntryData | None) -> None:
        args = k.args(regs, ip)
        name = args.file.f_path.dentry.d_name.name.string()
        entries.append((list(args), name, int(args.mode), int(args.offset), int(args["len"])))
        tasks.add((k.current.comm, k.current.pid, k.current.tgid))

    def on_exit(fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: EntryData | None) -> None:
        value = k.retval(regs, ip)
        assert value is not None
        results.append((int(value), value.error_name()))

    k.register_fprobe(Fprobe(on_entry, on_exit), "vfs_fallocate")
    shell = k.shell("sh -c 'echo $$; exec workload args 6'")
    pid = int(shell.text.split()[0])
    names = ["file", "mode", "offset", "len"]
    assert entries == [
        (names, "memfd:workload", 0x100 if i % 2 else 3, i * 4096, 8192 + i) for i in range(6)
    ]  # fmt: skip
    assert results == [(-EOPNOTSUPP, "-EOPNOTSUPP") if i % 2 else (0, None) for i in range(6)]
    assert tasks == {("workload", pid, pid)}


@KERNELS
def test_a_value_is_stale_once_the_guest_has_run(guest: Guest, kernel: str) -> None:
    """Kept longer than its stop, it says so; a copy keeps what it had."""
    k = guest(kernel=kernel)
    kept: list[Value] = []

    def on_entry(fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: EntryData | None) -> None:
        task = k.value("struct task_struct", k.task)
        kept.extend((task.comm, task.comm.copy()))

    k.register_fprobe(Fprobe(on_entry), TRIGGER)
    assert k.shell("workload calls 1").status == 0
    with pytest.raises(StaleValue):
        kept[0].string()
    assert kept[1].string() == "workload"


@KERNELS
def test_values_outside_handlers(guest: Guest, kernel: str) -> None:
    """The stopped guest can be looked into at any time: the list of all tasks, by container_of."""
    k = guest(kernel=kernel)
    init = k.value("struct task_struct", k.address("init_task"))
    names, here = [], init.tasks.next
    while int(here) != int(init.tasks.address_of()):
        task = here.container_of("struct task_struct", "tasks")
        names.append(task.comm.string())
        here = task.tasks.next
    assert names[:2] == ["init", "kthreadd"]
    assert len(names) > 20
    assert k.value("struct task_struct", 0x10).comm.string() == "(fault)"


@KERNELS
def test_stack_of_a_hit(guest: Guest, kernel: str) -> None:
    """From the probed function out to the system call's entry; at the exit, from the caller on."""
    k = guest(kernel=kernel)
    stacks: list[list[str]] = []

    def handler(*_args: object) -> None:
        stacks.append([k.symbolize(frame.ip).split("+")[0] for frame in k.stack()])

    k.register_fprobe(Fprobe(handler, handler), "vfs_fallocate")
    assert k.shell("workload args 1").status == 0
    entry, exit_ = stacks
    assert entry[0] == "vfs_fallocate"
    assert entry[-2:] == ["do_syscall_64", "entry_SYSCALL_64_after_hwframe"]
    assert exit_ == entry[1:]


def test_a_function_without_a_prototype(guest: Guest) -> None:
    k = guest()
    assert k.prototype("no_such_function") is None
    with pytest.raises(TypeLookupError):
        k.btf.function("no_such_function")
