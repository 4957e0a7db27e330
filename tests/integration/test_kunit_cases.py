"""The six KUnit cases of lib/test_fprobe.c on a real guest.

``fprobe_selftest_target(v) = v/3`` and ``..._nest_target(v, fn) = fn(v + 2)`` become functions of lib/math that
every kernel has: ``gcd(a, b)``, ``lcm(a, b)``, which calls gcd, and ``lcm_not_zero(a, b)``. Called in the guest through
``k.call``; nothing else calls them there.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from fprobe_gdb import Fprobe, Kernel, PtRegs
from fprobe_gdb.errors import InvalidProbe
from tests.integration.guest_calls import in_handler

pytestmark = pytest.mark.qemu

KERNELS = pytest.mark.parametrize("kernel", ["6.1", "6.12"])


class Case:
    """The handlers of the KUnit test, with its variables."""

    def __init__(self, k: Kernel, *, entry_data_size: int = 0, skip: bool = False) -> None:
        self.k = k
        self.rand1 = random.Random(7).randrange(4, 1 << 30)
        self.skip = skip
        self.entry_val = self.exit_val = 0
        self.entries: list[int] = []
        self.exits: list[tuple[int, int]] = []
        self.fp = Fprobe(self.on_entry, entry_data_size=entry_data_size, nr_maxactive=0)

    def on_entry(self, fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: bytearray | None) -> int:
        assert ip in self.k.locations(fp)
        assert (data is not None) == bool(fp.entry_data_size)
        self.entries.append(ip)
        self.entry_val = self.rand1 // 3
        if data is not None:
            data[:] = self.entry_val.to_bytes(4, "little")
        return int(self.skip)

    def on_exit(self, fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: bytearray | None) -> None:
        assert (data is not None) == bool(fp.entry_data_size)
        if data is not None:
            assert int.from_bytes(data, "little") == self.entry_val
        self.exits.append((ip, regs.ax))
        self.exit_val = self.entry_val + 3

    def ip(self, name: str) -> int:
        location = self.k.records.ftrace_location(self.k.address(name))
        assert location
        return location

    def call(self, name: str) -> int:
        """Call a function in the guest, with the KUnit test's fresh values before it."""
        self.entry_val = self.exit_val = 0
        return self.k.call(name, 12, 18)


@KERNELS
def test_entry(guest_of_each_dispatch: Callable[..., Kernel], kernel: str) -> None:
    """``test_fprobe_entry``: an entry handler alone, by filter, on two functions."""
    k = guest_of_each_dispatch(kernel=kernel)
    case = Case(k)
    with pytest.raises(InvalidProbe):
        k.unregister_fprobe(case.fp)
    k.register_fprobe(case.fp, "lcm*")

    def body() -> None:
        for name in ("lcm", "lcm_not_zero"):
            case.call(name)
            assert case.entry_val == case.rand1 // 3
            assert case.exit_val == 0

    in_handler(k, body)
    k.unregister_fprobe(case.fp)
    assert case.entries == [case.ip("lcm"), case.ip("lcm_not_zero")]


@KERNELS
@pytest.mark.parametrize("way", ["filter", "syms"])
def test_fprobe_and_syms(guest_of_each_dispatch: Callable[..., Kernel], kernel: str, way: str) -> None:
    """``test_fprobe`` and ``test_fprobe_syms``: entry and exit, with the functions' return values."""
    k = guest_of_each_dispatch(kernel=kernel)
    case = Case(k)
    case.fp.exit_handler = case.on_exit
    if way == "filter":
        k.register_fprobe(case.fp, "gc[d]")
    else:
        names = ["lcm", "gcd"]
        k.register_fprobe_syms(case.fp, names)
        assert names == ["gcd", "lcm"]

    def body() -> None:
        assert case.call("gcd") == 6
        assert case.exit_val == case.entry_val + 3
        assert case.entry_val == case.rand1 // 3
        assert case.call("lcm") == 36
        assert case.exit_val == case.entry_val + 3

    in_handler(k, body)
    gcd, lcm = case.ip("gcd"), case.ip("lcm")
    assert case.exits == ([(gcd, 6), (gcd, 6)] if way == "filter" else [(gcd, 6), (gcd, 6), (lcm, 36)])
    assert case.fp.nmissed == 0


@KERNELS
def test_data(guest_of_each_dispatch: Callable[..., Kernel], kernel: str) -> None:
    """``test_fprobe_data``: what the entry handler writes is what the exit handler reads."""
    k = guest_of_each_dispatch(kernel=kernel)
    case = Case(k, entry_data_size=4)
    case.fp.exit_handler = case.on_exit
    k.register_fprobe(case.fp, "gcd")
    assert in_handler(k, lambda: case.call("gcd")) == 6
    assert len(case.exits) == 1


@KERNELS
def test_nest(guest_of_each_dispatch: Callable[..., Kernel], kernel: str) -> None:
    """``test_fprobe_nest``: one node; the inner call is missed, entry and exit alike."""
    k = guest_of_each_dispatch(kernel=kernel)
    case = Case(k)
    case.fp.exit_handler = case.on_exit
    case.fp.nr_maxactive = 1
    k.register_fprobe_syms(case.fp, ["gcd", "lcm"])
    assert in_handler(k, lambda: case.call("lcm")) == 36
    assert case.fp.nmissed == 1
    assert case.entries == [case.ip("lcm")]
    assert case.exits == [(case.ip("lcm"), 36)]


@KERNELS
def test_skip(guest_of_each_dispatch: Callable[..., Kernel], kernel: str) -> None:
    """``test_fprobe_skip``: a nonzero result of the entry handler cancels the exit, and is no miss."""
    k = guest_of_each_dispatch(kernel=kernel)
    case = Case(k, skip=True)
    case.fp.exit_handler = case.on_exit
    k.register_fprobe(case.fp, "gcd")
    assert in_handler(k, lambda: case.call("gcd")) == 6
    assert case.entry_val
    assert not case.exit_val
    assert case.fp.nmissed == 0
    assert case.exits == []
