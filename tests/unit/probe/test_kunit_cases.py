"""The six KUnit cases of lib/test_fprobe.c (Linux 6.12), on the core and a guest of its three functions."""

from __future__ import annotations

import pytest

from fprobe_gdb.errors import InvalidProbe
from fprobe_gdb.probe.fprobe import Fprobe
from fprobe_gdb.probe.regs import PtRegs
from fprobe_gdb.probe.rethook import EntryData
from tests.unit.probe.made_up_kernel import kernel_of
from tests.unit.probe.scripted_guest import ScriptedGuest

TARGET, TARGET2, NEST_TARGET = "fprobe_selftest_target", "fprobe_selftest_target2", "fprobe_selftest_nest_target"
RAND1 = 92_821


class Selftest:
    """The file's handlers and the variables that they set."""

    def __init__(self) -> None:
        self.guest = ScriptedGuest(kernel_of(TARGET, TARGET2, NEST_TARGET), possible_cpus=2)
        self.guest.bodies |= {
            TARGET: lambda value: value // 3,
            TARGET2: lambda value: value // 3 + 1,
            # nest_target(value, nest) calls what it is given; here that is always target.
            NEST_TARGET: lambda value: self.guest.call(TARGET, value + 2),
        }
        self.core = self.guest.core
        self.entry_val = self.exit_val = 0
        self.exit_ips: list[int] = []
        self.entry_return_value = 0

    def ips(self, *names: str) -> set[int]:
        return {self.guest.kernel.ip(name) for name in names}

    def entry(self, fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: EntryData | None) -> int:
        assert ip in self.ips(TARGET, TARGET2)
        self.entry_val = RAND1 // 3
        assert (data is not None) == bool(fp.entry_data_size)
        if data is not None:
            data[:] = self.entry_val.to_bytes(4, "little")
        return self.entry_return_value

    def exit(self, fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: EntryData | None) -> None:
        assert regs.return_value() == RAND1 // 3 + (ip in self.ips(TARGET2))
        assert ip in self.ips(TARGET, TARGET2)
        self.exit_val = self.entry_val + 3
        assert (data is not None) == bool(fp.entry_data_size)
        if data is not None:
            assert int.from_bytes(data, "little") == self.entry_val

    def nest_entry(self, fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: EntryData | None) -> int:
        assert ip in self.ips(NEST_TARGET)
        return 0

    def nest_exit(self, fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: EntryData | None) -> None:
        self.exit_ips.append(ip)

    def run(self, name: str) -> tuple[int, int]:
        """Call a function with fresh variables: (entry_val, exit_val) afterwards."""
        self.entry_val = self.exit_val = 0
        self.guest.call(name, RAND1)
        return self.entry_val, self.exit_val


@pytest.fixture
def selftest() -> Selftest:
    return Selftest()


HIT_BOTH = (RAND1 // 3, RAND1 // 3 + 3)
HIT_ENTRY = (RAND1 // 3, 0)


def test_kunit_entry(selftest: Selftest) -> None:
    fp = Fprobe(selftest.entry)
    with pytest.raises(InvalidProbe):
        selftest.core.unregister_fprobe(fp)
    selftest.core.register_fprobe(fp, "fprobe_selftest_target*")
    assert selftest.run(TARGET) == HIT_ENTRY
    assert selftest.run(TARGET2) == HIT_ENTRY
    selftest.core.unregister_fprobe(fp)
    assert selftest.run(TARGET) == (0, 0)


def test_kunit_fprobe(selftest: Selftest) -> None:
    fp = Fprobe(selftest.entry, selftest.exit)
    selftest.core.register_fprobe(fp, "fprobe_selftest_target*")
    # The glob does not take nest_target in.
    assert set(selftest.core.locations(fp)) == selftest.ips(TARGET, TARGET2)
    assert selftest.run(TARGET) == HIT_BOTH
    assert selftest.run(TARGET2) == HIT_BOTH
    selftest.core.unregister_fprobe(fp)
    assert selftest.run(TARGET2) == (0, 0)


def test_kunit_syms(selftest: Selftest) -> None:
    fp = Fprobe(selftest.entry, selftest.exit)
    selftest.core.register_fprobe_syms(fp, [TARGET, TARGET2], 2)
    assert selftest.run(TARGET) == HIT_BOTH
    assert selftest.run(TARGET2) == HIT_BOTH
    selftest.core.unregister_fprobe(fp)


def test_kunit_data(selftest: Selftest) -> None:
    fp = Fprobe(selftest.entry, selftest.exit, entry_data_size=4)
    selftest.core.register_fprobe(fp, TARGET)
    assert selftest.run(TARGET) == HIT_BOTH
    assert selftest.run(TARGET2) == (0, 0)
    selftest.core.unregister_fprobe(fp)


def test_kunit_nest(selftest: Selftest) -> None:
    fp = Fprobe(selftest.nest_entry, selftest.nest_exit, nr_maxactive=1)
    selftest.core.register_fprobe_syms(fp, [TARGET, NEST_TARGET], 2)
    assert selftest.guest.call(NEST_TARGET, RAND1) == (RAND1 + 2) // 3
    assert fp.nmissed == 1
    assert selftest.exit_ips == [selftest.guest.kernel.ip(NEST_TARGET)]
    selftest.core.unregister_fprobe(fp)


def test_kunit_skip(selftest: Selftest) -> None:
    fp = Fprobe(selftest.entry, selftest.exit)
    selftest.core.register_fprobe_syms(fp, [TARGET], 1)
    selftest.entry_return_value = 1
    assert selftest.run(TARGET) == HIT_ENTRY
    assert fp.nmissed == 0
    selftest.core.unregister_fprobe(fp)
    assert fp.nmissed == 0
