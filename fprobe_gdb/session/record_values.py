"""Typed values out of records: of registers alone, since what pointers lead to has changed when a record is read."""

from __future__ import annotations

from fprobe_gdb.dispatch.trampoline.record_format import Record
from fprobe_gdb.errors import MemoryFault
from fprobe_gdb.kernel.values import GuestMemory
from fprobe_gdb.registers import ARGUMENT_REGISTERS, Registers

__all__ = ["NO_MEMORY", "argument_registers", "entry_registers", "exit_registers"]


def argument_registers(record: Record) -> Registers:
    """The argument registers of a record that has them."""
    return dict(zip(ARGUMENT_REGISTERS, record.args, strict=True))


def entry_registers(record: Record) -> Registers:
    """The registers that arguments are made of: where these lie on the stack, they cannot be read."""
    return argument_registers(record) | {"sp": 0}


def exit_registers(record: Record) -> Registers:
    """The registers that a return value is made of."""
    return {"ax": record.retval, "dx": 0}


def _no_memory(addr: int, size_bytes: int) -> bytes:
    raise MemoryFault(addr, size_bytes)


#: No address can be read.
NO_MEMORY = GuestMemory(_no_memory, lambda: 0)
