"""A guest of others that lends no zone, or cannot have it back: each way has an error of its own, and changes nothing.

What does not happen to a stock kernel by itself is brought about by telling the tool something else of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from emu.deadline import Deadline
from fprobe_gdb import Fprobe, Kernel
from fprobe_gdb.dispatch.base import RunEnd
from fprobe_gdb.dispatch.trampoline.dispatch import TrampolineDispatch
from fprobe_gdb.dispatch.trampoline.pads import State
from fprobe_gdb.dispatch.trampoline.zone import SLOTS, Zone
from fprobe_gdb.errors import (
    LoanInPieces,
    LoanNoAllocator,
    LoanNobody,
    LoanNoSymbols,
    LoanNotRam,
    LoanNoTypes,
    LoanOtherTables,
    LoanUnderKvm,
    MemoryFault,
    SiteNoJournal,
    ZoneError,
    ZoneNotMapped,
)
from fprobe_gdb.session import zone_loan
from fprobe_gdb.session.live_stacks import LiveStacks
from fprobe_gdb.session.view import GuestView
from fprobe_gdb.target.page_table import PRESENT
from fprobe_gdb.target.rsp import RspTarget
from tests.integration.stranger import Stranger

pytestmark = pytest.mark.qemu

Patch = pytest.MonkeyPatch
# Never called.
NEVER = "do_coredump"
FREED = "a landing zone that a killed fprobe-gdb has left in the guest was removed"
STAYS = "the landing zone stays in the guest, 4 MiB that nothing leads to: "


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stranger]:
    guest = Stranger("6.1", tmp_path_factory.mktemp("refused") / "gdb.sock", smp=2)
    with guest.machine as machine:
        machine.wait_boot(Deadline(120))
        yield guest


def no_types(patch: Patch) -> None:
    patch.setattr(GuestView, "has_types", False)


def kvm(patch: Patch) -> None:
    ask = RspTarget.monitor
    said = {"info kvm": "kvm support: enabled\n"}
    patch.setattr(RspTarget, "monitor", lambda self, command: said.get(command) or ask(self, command))


def no_symbols(patch: Patch) -> None:
    patch.setattr(zone_loan, "_UPPER", "no_such_table")


def no_allocator(patch: Patch) -> None:
    patch.setattr(zone_loan, "_ALLOCATORS", ("no_such_function",))


def nobody(patch: Patch) -> None:
    patch.setattr(zone_loan, "TICK", NEVER)
    patch.setattr(zone_loan, "SLEEPERS", (NEVER,))
    patch.setattr(zone_loan, "_TICK_SEC", 0.2)
    patch.setattr(zone_loan, "_SLEEPER_SEC", 0.2)


def other_tables(patch: Patch) -> None:
    read = zone_loan.read_directory
    patch.setattr(zone_loan, "read_directory", lambda *where: (read(*where)[0] + 4096, read(*where)[1]))


def full_tables(patch: Patch) -> None:
    read = zone_loan.read_directory
    patch.setattr(zone_loan, "read_directory", lambda *where: (read(*where)[0], [PRESENT] * 512))


def not_ram(patch: Patch) -> None:
    find = zone_loan.ZoneLoans._piece

    class Nowhere:
        @staticmethod
        def translate(cr3: int, addr: int) -> int:
            raise MemoryFault(addr, 1)

    patch.setattr(zone_loan.ZoneLoans, "_piece", lambda self, ram, *where: find(self, Nowhere, *where))  # type: ignore[arg-type]


def in_pieces(patch: Patch) -> None:
    patch.setattr(zone_loan, "_ORDER", 9)


@pytest.mark.parametrize(
    ("error", "bring_about"),
    [
        (LoanNoTypes, no_types),
        (LoanUnderKvm, kvm),
        (LoanNoSymbols, no_symbols),
        (LoanNoAllocator, no_allocator),
        (LoanNobody, nobody),
        (LoanOtherTables, other_tables),
        (ZoneNotMapped, full_tables),
        (LoanNotRam, not_ram),
        (LoanInPieces, in_pieces),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_loan_that_is_refused(
    stranger: Stranger, monkeypatch: Patch, error: type[ZoneError], bring_about: Callable[[Patch], None]
) -> None:
    """Breakpoints serve, and the summary says why; who has asked for trampolines is told."""
    before, free_mib = stranger.text(), stranger.free_mib()
    with monkeypatch.context() as patch:
        bring_about(patch)
        with pytest.raises(error) as caught:
            stranger.attach(recording=True)
        assert type(caught.value) is error
        with stranger.attach(dispatch="auto", recording=True) as k:
            assert k.dispatch_name.startswith("breakpoint (rsp, sw), since ")
            assert not k.can_record
    assert stranger.text() == before
    assert stranger.free_mib() >= free_mib - 3


def held_call(k: Kernel, patch: Patch) -> None:
    # A slot that nobody has, as a pad that never comes to its end would leave it.
    dispatch = k._dispatch
    assert isinstance(dispatch, TrampolineDispatch)
    place = dispatch.zone.physical_of(dispatch.zone.word(Zone.STATES) + SLOTS - 1)
    dispatch.ram.write_physical(place, bytes([State.OWNED]))


def task_inside(k: Kernel, patch: Patch) -> None:
    patch.setattr(LiveStacks, "somebody_in", lambda self, begin, end: "sh-92 is")


def all_32_bit(k: Kernel, patch: Patch) -> None:
    patch.setattr(zone_loan, "_ABOVE_32_BITS", 1 << 64)


def nobody_there(k: Kernel, patch: Patch) -> None:
    patch.setattr(zone_loan, "TICK", NEVER)


@pytest.mark.parametrize(
    ("why", "bring_about"),
    [
        ("a call is in a pad", held_call),
        ("sh-92 is in a pad", task_inside),
        ("a CPU runs 32-bit code", all_32_bit),
        (f"no CPU of the guest came by where its allocator may be called ({NEVER})", nobody_there),
    ],
)
def test_a_zone_that_stays(
    stranger: Stranger, monkeypatch: Patch, why: str, bring_about: Callable[[Kernel, Patch], None]
) -> None:
    """Nothing leads to it, the guest runs on, and the next tool takes it out."""
    before, free_mib = stranger.text(), stranger.free_mib()
    notes: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(zone_loan, "_TICK_SEC", 1.0)
        with stranger.attach(on_note=notes.append) as k:
            probe = Fprobe(None, lambda *_: None)
            k.register_fprobe_syms(probe, ["__x64_sys_personality"])
            running = stranger.machine.agent.start("workload calls 20")
            assert k.run(timeout_sec=120, until=stranger.ended(running)) is RunEnd.DONE
            states = k._dispatch.zone.word(Zone.STATES)  # type: ignore[attr-defined]
            bring_about(k, patch)
    assert notes == [STAYS + why]
    assert (probe.hits, probe.exits) == (20, 20)
    assert "alive" in stranger.shell("workload calls 3; echo alive")
    assert stranger.free_mib() < free_mib - 2, "it takes 4"
    if bring_about is held_call:
        with monkeypatch.context() as patch:
            patch.setattr(zone_loan, "_TICK_SEC", 0.2)
            with stranger.attach(dispatch="breakpoint") as k:
                k.target.write_memory(states, bytes(SLOTS))
    with stranger.attach(dispatch="breakpoint", on_note=notes.append):
        pass
    assert notes[1:] in ([FREED], [])
    assert stranger.text() == before
    assert stranger.free_mib() >= free_mib - 3


def test_a_tracer_that_holds_a_return_address_for_longer(stranger: Stranger, monkeypatch: Patch) -> None:
    before = stranger.text()
    stranger.shell(
        "cd /sys/kernel/tracing && echo hrtimer_nanosleep > set_graph_function && "
        "echo hrtimer_nanosleep > set_ftrace_filter && echo function_graph > current_tracer"
    )
    notes: list[str] = []
    with monkeypatch.context() as patch:
        # Time for the pad of the hit to come to its end.
        patch.setattr(zone_loan, "_TICK_SEC", 3.0)
        with stranger.attach(on_note=notes.append) as k:
            running = stranger.fall_asleep(k, 8)
    assert notes == [STAYS + "a tracer of the guest has its return addresses"]
    assert running.wait(Deadline(60)).output.endswith(b"woken\n")
    stranger.shell("cd /sys/kernel/tracing && echo nop > current_tracer && echo > set_ftrace_filter")
    with stranger.attach(dispatch="breakpoint", on_note=notes.append):
        pass
    assert notes[1:] == [FREED]
    assert stranger.text() == before


def test_more_functions_than_a_small_zone_can_note(stranger: Stranger) -> None:
    before = stranger.text()
    with stranger.attach() as k:
        many = [location.ip for location in k.records.records][:8000]
        with pytest.raises(SiteNoJournal, match=r"room for what \d+ locations are.*--record"):
            k.register_fprobe_ips(Fprobe(lambda *_: None), many)
        assert k.fprobes == []
        probe = Fprobe(lambda *_: None)
        k.register_fprobe_syms(probe, ["__x64_sys_personality"])
        running = stranger.machine.agent.start("workload calls 20")
        assert k.run(timeout_sec=120, until=stranger.ended(running)) is RunEnd.DONE
        assert probe.hits == 20
    assert stranger.text() == before
