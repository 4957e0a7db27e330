"""What is kept of a guest's modules from stop to stop, and when it is looked at again: over a reader that pretends."""

from __future__ import annotations

import pytest

from fprobe_gdb.errors import BtfError, InvalidProbe, MemoryFault, ModuleError
from fprobe_gdb.kernel.locations import Location
from fprobe_gdb.kernel.modules import GuestModule, ModuleHead
from fprobe_gdb.kernel.sites import SiteKind
from fprobe_gdb.kernel.symbols import Symbol, SymbolTable
from fprobe_gdb.session.modules import GuestModules
from fprobe_gdb.session.selection import Selection

TEXT = 0xFFFFFFFFC0201000
INIT = 0xFFFFFFFFC0501000
LIVE, COMING, GOING = "MODULE_STATE_LIVE", "MODULE_STATE_COMING", "MODULE_STATE_GOING"


def head(number: int, state: str = LIVE, name: str = "") -> ModuleHead:
    begin = TEXT + number * 0x10000
    init = range(INIT, INIT + 0x1000) if state == COMING else range(0)
    return ModuleHead(begin + 0x2000, name or f"m{number}", state, range(begin, begin + 0x1000), init, 0)


def module(head: ModuleHead) -> GuestModule:
    symbols = SymbolTable([Symbol(f"{head.name}_{what}", head.text.start + 0x100 * i, "t", head.name)
                           for i, what in enumerate(("xmit", "setup"))])  # fmt: skip
    if head.init_text:
        init = Symbol(f"{head.name}_init", head.init_text.start, "t", head.name)
        symbols = SymbolTable([*symbols, init])
    sites = [Location(symbol.addr, symbol.name, symbol.addr, SiteKind.FENTRY_NOP, head.name) for symbol in symbols]
    return GuestModule(head, symbols, tuple(site.ip for site in sites), tuple(sites))


class Reader:
    """Newest module first, as the kernel's list."""

    def __init__(self, *heads: ModuleHead) -> None:
        self.found = list(heads)
        self.asked = self.checked = 0
        self.reads: list[str] = []
        self.fault = False

    def heads(self) -> list[ModuleHead]:
        self.asked += 1
        if self.fault:
            raise MemoryFault(TEXT, 8)
        return self.found

    def head(self, addr: int) -> ModuleHead:
        self.checked += 1
        for one in self.found:
            if one.addr == addr:
                return one
        raise ModuleError(addr, "gone")

    def read(self, addr: int) -> GuestModule:
        found = next(one for one in self.found if one.addr == addr)
        self.reads.append(found.name)
        return module(found)

    def btf_bytes(self, head: ModuleHead) -> bytes | None:
        return None


class Guest:
    def __init__(self, *heads: ModuleHead) -> None:
        self.epoch = 0
        self.reader = Reader(*heads)
        self.modules = GuestModules(self.reader, lambda: 1 / 0, lambda: self.epoch)  # type: ignore[arg-type, return-value]

    def names(self) -> list[str]:
        return [one.name for one in self.modules.all()]


def test_in_the_order_of_their_loads_read_once() -> None:
    guest = Guest(head(2), head(1))
    assert guest.names() == ["m1", "m2"]
    guest.modules.all()
    assert (guest.reader.asked, guest.reader.reads) == (1, ["m1", "m2"])
    guest.epoch += 1
    guest.reader.found = [head(3), head(2)]
    assert guest.names() == ["m2", "m3"]
    assert (guest.reader.asked, guest.reader.reads) == (2, ["m1", "m2", "m3"])


def test_one_that_was_there_costs_one_look_a_stop() -> None:
    guest = Guest(head(1))
    assert guest.modules.at(TEXT) is None
    found = guest.modules.at(TEXT + 0x10010)
    assert found is not None
    assert found.name == "m1"
    guest.epoch += 1
    assert guest.modules.at(TEXT + 0x10010) is found
    assert guest.modules.at(TEXT + 0x10020) is found
    assert (guest.reader.asked, guest.reader.checked) == (1, 1)


def test_one_that_has_gone_and_another_in_its_place() -> None:
    guest = Guest(head(1))
    guest.modules.all()
    guest.epoch += 1
    guest.reader.found = [head(1, name="other")]
    found = guest.modules.at(TEXT + 0x10010)
    assert found is not None
    assert found.name == "other"
    guest.epoch += 1
    guest.reader.found = []
    assert guest.modules.at(TEXT + 0x10010) is None


def test_while_it_is_watched_nothing_is_looked_at_again() -> None:
    guest = Guest(head(1))
    guest.modules.watched = True
    for _ in range(3):
        guest.epoch += 1
        assert guest.modules.at(TEXT + 0x10000)
        assert guest.names() == ["m1"]
    assert (guest.reader.asked, guest.reader.checked) == (1, 0)
    guest.reader.found = [head(2, COMING), head(1)]
    loaded = guest.modules.init_entered(head(2).addr)
    assert loaded is not None
    assert guest.names() == ["m1", "m2"]
    gone = guest.modules.gone(head(2).addr)
    assert gone is loaded
    assert guest.names() == ["m1"]
    assert guest.modules.gone(head(2).addr) is None


def test_a_module_counts_from_the_entry_of_its_init_function_until_it_is_freed() -> None:
    guest = Guest(head(1, COMING))
    assert guest.names() == []
    guest.modules.init_entered(head(1).addr)
    assert guest.names() == ["m1"]
    for state in (LIVE, GOING):
        guest.epoch += 1
        guest.reader.found = [head(1, state)]
        assert guest.names() == ["m1"]
    # One that was never seen alive is about to go, and of no interest.
    assert Guest(head(1, GOING)).names() == []


def test_code_of_an_init_function_belongs_to_it_while_it_is_there() -> None:
    guest = Guest(head(1, COMING))
    guest.modules.watched = True
    guest.modules.init_entered(head(1).addr)
    assert guest.modules.at(INIT + 0x10)
    guest.epoch += 1
    guest.reader.found = [head(1)]
    assert guest.modules.at(INIT + 0x10) is None
    assert guest.modules.at(TEXT + 0x10000)


def test_init_functions_are_there_until_they_are_freed() -> None:
    guest = Guest(head(1, COMING))
    guest.modules.watched = True
    coming = guest.modules.init_entered(head(1).addr)
    assert coming is not None
    assert coming.ips[-1] == INIT
    assert coming.holds(INIT)
    assert guest.modules.init_returned(head(1).addr) is coming
    (left,) = guest.modules.all()
    assert (left.ips, left.locations) == (coming.ips[:-1], coming.locations[:-1])
    assert not left.symbols.addresses("m1_init")
    assert not left.holds(INIT)
    # Its memory may be anybody's now.
    assert guest.modules.at(INIT) is None
    assert guest.modules.init_returned(head(2).addr) is None


def test_unreadable_memory() -> None:
    guest = Guest(head(1))
    guest.modules.all()
    guest.epoch += 1
    guest.reader.fault = True
    with pytest.raises(ModuleError, match="cannot be read now"):
        guest.modules.all()
    assert [one.name for one in guest.modules.known()] == ["m1"]


def test_a_module_without_types() -> None:
    guest = Guest(head(1))
    with pytest.raises(BtfError, match="no type information"):
        guest.modules.btf(guest.modules.all()[0])


def test_a_guest_whose_modules_cannot_be_read_has_none() -> None:
    none = GuestModules(None, lambda: 1 / 0, lambda: 0)  # type: ignore[arg-type, return-value]
    assert not none.readable
    assert none.all() == ()
    assert none.at(TEXT) is None


def test_what_a_load_adds_to_a_selection() -> None:
    m1 = module(head(1))
    xmit, setup = m1.ips
    assert Selection(("[m1]",)).of(m1) == {xmit, setup}
    assert Selection(("*_xmit [m*]", "vfs_read")).of(m1) == {xmit}
    assert Selection(("[m1]",), ("m1_x*",)).of(m1) == {setup}
    assert Selection(("[m1]",), ("*:mod:m1",)).of(m1) == set()
    assert Selection(("[m1]",), ("*:mod:m2",)).of(m1) == {xmit, setup}
    assert Selection(("[m2]", "m1_xmit")).of(m1) == set()
    with pytest.raises(InvalidProbe, match="no traceable function of m1"):
        Selection(("nope [m1]",)).of(m1)
