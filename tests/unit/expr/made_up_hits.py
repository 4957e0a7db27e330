"""Hits of made-up functions over the made-up memory, which count what an expression asks of them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import cached_property

from fprobe_gdb.expr import Predicate, Scope, compile_filter, compile_quantity
from fprobe_gdb.expr.check import check
from fprobe_gdb.expr.parser import parse
from fprobe_gdb.expr.typed import Typed
from fprobe_gdb.kernel.values import Arguments, GuestMemory, Value, arguments, return_value
from tests.unit.kernel.values.made_up_memory import FILE, STACK, Rig

RIG = Rig()
MASK64 = (1 << 64) - 1


def scope(func: str = "vfs_read", *, is_exit: bool = True) -> Scope:
    return Scope(func, RIG.btf, RIG.btf.function(func), is_exit)


#: A function of which nothing is known.
BARE = Scope("mystery", is_exit=False)


class Hit:
    """A call of ``vfs_read(FILE, 2, 4096, 4)`` by cat, 7 us long, unless told otherwise."""

    pid = 71
    tgid = 70
    cpu = 1
    caller = "ksys_read"
    caller_ip = 0xFFFFFFFF81000010
    duration_ns = 7000
    func = "vfs_read"
    ip = 0xFFFFFFFF81000000
    task = 0xFFFF888000042000

    def __init__(self, func: str = "vfs_read", *, comm: str = "cat", rig: Rig = RIG, **regs: int) -> None:
        #: The attributes that cost something to find out, in the order in which they were asked for.
        self.asked: list[str] = []
        self.epoch = rig.memory.epoch
        self._proto = rig.btf.function(func)
        self.rig = rig
        self._comm = comm
        given = {"di": FILE, "si": 2, "dx": 4096, "cx": 4, "r8": 5, "r9": 6, "sp": STACK, "ax": 13} | regs
        self._regs = {name: value & MASK64 for name, value in given.items()}

    @cached_property
    def args(self) -> Arguments:
        self.asked.append("args")
        return arguments(self.rig.btf, self._proto, self._regs, self.rig.memory)

    @cached_property
    def retval(self) -> Value | int | None:
        self.asked.append("retval")
        return return_value(self.rig.btf, self._proto, self._regs, self.rig.memory)

    @cached_property
    def comm(self) -> str:
        self.asked.append("comm")
        return self._comm

    @property
    def memory(self) -> GuestMemory:
        return self.rig.memory

    @property
    def regs(self) -> Mapping[str, int]:
        self.asked.append("regs")
        return self._regs


def typed(text: str, where: Scope | None = None) -> Typed:
    return check(parse(text), where or scope(), text)


def predicate(text: str, where: Scope | None = None) -> Predicate:
    return compile_filter(text, {"f": where or scope()}).predicates["f"]


def holds(text: str, hit: Hit | None = None, where: Scope | None = None) -> bool:
    found = predicate(text, where)
    result = found(hit or Hit())
    assert not found.faults, f"{text} cannot be evaluated"
    return result


def number_of(text: str, hit: Hit | None = None, where: Scope | None = None) -> int:
    found = compile_quantity(text, {"f": where or scope()}).extractors["f"](hit or Hit())
    assert found is not None, f"{text} cannot be evaluated"
    return found


def put_ints(rig: Rig, addr: int, *values: int) -> None:
    rig.raw.put(addr, struct.pack(f"<{len(values)}i", *values))
