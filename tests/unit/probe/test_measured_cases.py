"""The cases that were measured on a live 6.12 kernel beside the KUnit ones ("Extra cases" of the reference)."""

from __future__ import annotations

import pytest

from fprobe_gdb.probe.fprobe import Fprobe
from fprobe_gdb.probe.regs import PtRegs
from tests.unit.probe.made_up_kernel import kernel_of
from tests.unit.probe.scripted_guest import ScriptedGuest, TailCall


@pytest.fixture
def guest() -> ScriptedGuest:
    guest = ScriptedGuest(kernel_of("fpt_args", "fpt_tail", "fpt_tailed", "fpt_rec"))
    guest.bodies |= {
        # f(a .. h) = 2a + g + h; g and h are passed on the stack, which no handler writes.
        "fpt_args": lambda a: 2 * a + 77 + 88,
        "fpt_tail": lambda: TailCall("fpt_tailed"),
        "fpt_tailed": lambda: 9,
        "fpt_rec": lambda n: n + guest.call("fpt_rec", n - 1) if n else 0,
    }
    return guest


def test_four_fprobes_enter_D_C_B_A_and_exit_A_B_C_D(guest: ScriptedGuest) -> None:
    entries, exits = [], []
    for name in "ABCD":
        guest.core.register_fprobe(
            Fprobe(lambda fp, *_: entries.append(fp.name), lambda fp, *_: exits.append(fp.name), name=name), "fpt_args"
        )
    guest.call("fpt_args", 11)
    assert (entries, exits) == (list("DCBA"), list("ABCD"))


def test_ax_4242_at_exit_is_what_the_caller_gets(guest: ScriptedGuest) -> None:
    def exit_(fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: object) -> None:
        regs.ax = 4242

    guest.core.register_fprobe(Fprobe(exit_handler=exit_), "fpt_args")
    assert guest.call("fpt_args", 11) == 4242


def test_di_100_at_entry_makes_187_a_365(guest: ScriptedGuest) -> None:
    def entry(fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: object) -> None:
        regs.di = 100

    assert guest.call("fpt_args", 11) == 187
    guest.core.register_fprobe(Fprobe(entry), "fpt_args")
    assert guest.call("fpt_args", 11) == 365


def test_tail_call_enters_tail_tailed_and_exits_tailed_tail_both_with_ax_9(guest: ScriptedGuest) -> None:
    entries, exits = [], []
    for name in ("fpt_tail", "fpt_tailed"):
        guest.core.register_fprobe(
            Fprobe(
                lambda fp, *_: entries.append(fp.name),
                lambda fp, ip, ret_ip, regs, data: exits.append((fp.name, regs.ax, ret_ip)),
                name=name,
            ),
            name,
        )
    assert guest.call("fpt_tail", ret_ip=0x1234) == 9
    assert entries == ["fpt_tail", "fpt_tailed"]
    assert exits == [("fpt_tailed", 9, 0x1234), ("fpt_tail", 9, 0x1234)]


def test_pool_2_and_rec_3_is_2_entries_2_exits_nmissed_2_for_the_outermost_and_again(guest: ScriptedGuest) -> None:
    log: list[tuple[str, int]] = []
    fprobe = Fprobe(
        lambda fp, ip, ret_ip, regs, data: log.append(("+", regs.di)),
        lambda fp, ip, ret_ip, regs, data: log.append(("-", regs.ax)),
        nr_maxactive=2,
    )
    guest.core.register_fprobe(fprobe, "fpt_rec")
    for nmissed in (2, 4):
        assert guest.call("fpt_rec", 3) == 6
        assert log == [("+", 3), ("+", 2), ("-", 3), ("-", 6)]
        assert fprobe.nmissed == nmissed
        log.clear()


def test_nested_self_call_is_2_runs_nmissed_1(guest: ScriptedGuest) -> None:
    runs: list[int] = []

    def entry(fp: Fprobe, *_: object) -> None:
        runs.append(1)
        guest.call("fpt_args")

    fprobe = Fprobe(entry)
    guest.core.register_fprobe(fprobe, "fpt_args")
    guest.call("fpt_args")
    assert (len(runs), fprobe.nmissed) == (2, 1)


def test_list_path_nested_is_6_runs_nmissed_0_and_0(guest: ScriptedGuest) -> None:
    runs: list[int] = []

    def entry(fp: Fprobe, *_: object) -> None:
        runs.append(1)
        guest.call("fpt_args")

    fprobes = [Fprobe(entry), Fprobe(entry)]
    for fprobe in fprobes:
        guest.core.register_fprobe(fprobe, "fpt_args")
    guest.call("fpt_args")
    assert (len(runs), [fprobe.nmissed for fprobe in fprobes]) == (6, [0, 0])


def test_pool_1_nested_in_entry_is_ent_1_ex_1_nmissed_1(guest: ScriptedGuest) -> None:
    ran: list[str] = []

    def entry(*_: object) -> None:
        ran.append("ent")
        guest.call("fpt_args")

    fprobe = Fprobe(entry, lambda *_: ran.append("ex"), nr_maxactive=1)
    guest.core.register_fprobe(fprobe, "fpt_args")
    guest.call("fpt_args")
    assert (ran, fprobe.nmissed) == (["ent", "ex"], 1)


def test_unregister_in_flight_is_0_and_ex_stays_0(guest: ScriptedGuest) -> None:
    ran: list[str] = []
    fprobe = Fprobe(lambda *_: ran.append("ent"), lambda *_: ran.append("ex"))
    guest.core.register_fprobe(fprobe, "fpt_args")
    guest.bodies["fpt_args"] = lambda: guest.core.unregister_fprobe(fprobe) or 5
    assert guest.call("fpt_args") == 5
    assert ran == ["ent"]
