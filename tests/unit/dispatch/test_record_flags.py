"""The state of the CPU in records: what pads put together, and what comes of it."""

from __future__ import annotations

import pytest
from unicorn import x86_const as x86

from fprobe_gdb.dispatch.trampoline.record_flags import TaskFlags, flags_of
from fprobe_gdb.dispatch.trampoline.record_format import TaskNames
from fprobe_gdb.events import CpuFlags
from tests.unit.dispatch.record_machine import FUNCTION, TASK, RecordMachine

THREAD_FLAGS, MIGRATION_DISABLED = 0x80, 0x90
#: Neither of them asks for anything; NMI, hard and soft interrupt, depths; the CPU is to be rescheduled.
COUNTS = (0x80000000, 0x80110103, 0x80F0FF7F, 0x00000201)


def flags_in_records(machine: RecordMachine, fields: TaskFlags, *, returns: bool) -> list[CpuFlags]:
    names = TaskNames(comm=0x10, pid=0x40, flags=fields)
    probe = machine.record(FUNCTION, returns=returns, args=True, names=names)
    machine.call(FUNCTION)
    records = machine.take()
    machine.remove(probe)
    assert [(record.comm, record.pid) for record in records] == [("dd", 93)] * (1 + returns)
    return [flags_of(record.flags) for record in records]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("irqs_off", [False, True])
@pytest.mark.parametrize(("thread_flags", "migration_disabled"), [(0, 0), (8, 1), (0xFFFFFFF7, 15)])
def test_flags(count: int, irqs_off: bool, thread_flags: int, migration_disabled: int) -> None:
    machine = RecordMachine(cpus=2)
    machine.set_preempt_count(count)
    machine.uc.mem_write(TASK + THREAD_FLAGS, thread_flags.to_bytes(8, "little"))
    # What lies behind it is no part of it.
    machine.uc.mem_write(TASK + MIGRATION_DISABLED, migration_disabled.to_bytes(2, "little") + b"\xff\xff")
    machine.uc.reg_write(x86.UC_X86_REG_EFLAGS, 0x2 if irqs_off else 0x202)
    expected = CpuFlags(irqs_off, count, thread_flags & 8, migration_disabled)
    fields = TaskFlags(THREAD_FLAGS, MIGRATION_DISABLED)
    assert flags_in_records(machine, fields, returns=True) == [expected] * 2


def test_what_a_kernel_has_not() -> None:
    machine = RecordMachine(cpus=1)
    machine.set_preempt_count(COUNTS[0])
    machine.uc.mem_write(TASK + THREAD_FLAGS, b"\xff" * 32)
    (flags,) = flags_in_records(machine, TaskFlags(None, None), returns=False)
    assert (flags.thread_flags, flags.migration_disabled, flags.preempt_count) == (0, 0, COUNTS[0])
