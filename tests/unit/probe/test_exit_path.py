"""``rethook_trampoline_handler()`` and ``fprobe_exit_handler()``: which calls a return ends, in which order."""

from __future__ import annotations

from fprobe_gdb.events import MissReason
from fprobe_gdb.probe.fprobe import ExitHandler, Fprobe
from fprobe_gdb.probe.regs import PtRegs
from tests.unit.probe.scripted_guest import OTHER_TASK, TASK, Call, ScriptedGuest, TailCall


def ignore(*_: object) -> None:
    """A handler."""


def noting(log: list[str], text: str) -> ExitHandler:
    return lambda *_: log.append(text)


def probe(guest: ScriptedGuest, pattern: str, log: list[str], text: str, nr_maxactive: int = 0) -> Fprobe:
    """Register an fprobe that notes its entries as ``+text`` and its exits as ``-text``."""
    fprobe = Fprobe(noting(log, "+" + text), noting(log, "-" + text), nr_maxactive=nr_maxactive)
    guest.core.register_fprobe(fprobe, pattern)
    return fprobe


# Section: arguments


def test_exit_handler_gets_the_saved_entry_ip_the_return_address_and_ax(guest: ScriptedGuest) -> None:
    seen: list[tuple[object, ...]] = []
    fprobe = Fprobe(
        exit_handler=lambda fp, ip, ret, regs, data: seen.append(
            (fp, ip, ret, regs.ip, regs.return_value(), regs.sp, data)
        )
    )
    guest.core.register_fprobe(fprobe, "g")
    call = guest.enter("g", ret_ip=0x1234)
    guest.leave(call, 9)
    assert seen == [(fprobe, guest.kernel.ip("g"), 0x1234, 0x1234, 9, call.frame + 8, None)]


def test_exit_handler_alone_is_hooked_without_an_entry_handler(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(exit_handler=ignore)
    guest.core.register_fprobe(fprobe, "f")
    guest.call("f")
    assert (fprobe.hits, fprobe.exits, fprobe.nmissed) == (1, 1, 0)


def test_written_ax_is_the_return_value_that_the_caller_and_later_handlers_see(guest: ScriptedGuest) -> None:
    seen: list[int] = []

    def write(fp: Fprobe, ip: int, ret: int, regs: PtRegs, data: object) -> None:
        seen.append(regs.ax)
        regs.ax += 1

    for _ in range(2):
        guest.core.register_fprobe(Fprobe(exit_handler=write), "f")
    guest.bodies["f"] = lambda: 7
    assert guest.call("f") == 9
    assert seen == [7, 8]


def test_written_ip_is_seen_by_the_next_exit_handler_while_its_ret_ip_stays_right(guest: ScriptedGuest) -> None:
    seen: list[tuple[int, int]] = []

    def write(fp: Fprobe, ip: int, ret: int, regs: PtRegs, data: object) -> None:
        seen.append((ret, regs.ip))
        regs.ip = 0x666

    for _ in range(2):
        guest.core.register_fprobe(Fprobe(exit_handler=write), "f")
    call = guest.enter("f", ret_ip=0x1234)
    guest.leave(call)
    assert seen == [(0x1234, 0x1234), (0x1234, 0x666)]
    assert call.vcpu["ip"] == 0


# Section: order and pairing


def test_exit_order_is_oldest_first_the_mirror_of_entry(guest: ScriptedGuest) -> None:
    log: list[str] = []
    for name in "ABC":
        probe(guest, "f", log, name)
    guest.call("f")
    assert log == ["+C", "+B", "+A", "-A", "-B", "-C"]


def test_recursion_is_paired_last_in_first_out(guest: ScriptedGuest) -> None:
    seen: list[tuple[int, int]] = []

    def entry(fp: Fprobe, ip: int, ret: int, regs: PtRegs, data: object) -> None:
        data[0] = regs.di  # type: ignore[index]

    def exit_(fp: Fprobe, ip: int, ret: int, regs: PtRegs, data: object) -> None:
        seen.append((data[0], regs.ax))  # type: ignore[index]

    guest.core.register_fprobe(Fprobe(entry, exit_, entry_data_size=1), "f")
    guest.bodies["f"] = lambda n: n + guest.call("f", n - 1) if n else 0
    assert guest.call("f", 3) == 6
    assert seen == [(0, 0), (1, 1), (2, 3), (3, 6)]


def test_return_address_that_many_calls_share_is_planted_once_until_the_last_is_back(guest: ScriptedGuest) -> None:
    probe(guest, "f", [], "f")
    outer, inner, elsewhere = guest.enter("f"), guest.enter("f"), guest.enter("f", task=OTHER_TASK)
    assert guest.returns == {outer.ret_ip}
    for call in (inner, outer):
        guest.leave(call)
        assert guest.returns == {outer.ret_ip}
    guest.leave(elsewhere)
    assert guest.returns == set()


def test_same_return_address_in_another_task_or_frame_ends_no_call(guest: ScriptedGuest) -> None:
    fprobe = probe(guest, "f", [], "f")
    call = guest.enter("f")
    core = guest.core
    assert core.is_exit(TASK, call.frame, call.ret_ip)
    assert not core.is_exit(OTHER_TASK, call.frame, call.ret_ip)
    assert not core.is_exit(TASK, call.frame - 8, call.ret_ip)
    assert not core.is_exit(TASK, call.frame, call.ret_ip + 1)
    # An unprobed function called from the same place returns through the planted address.
    guest.leave(guest.enter("g"))
    guest.leave(guest.enter("f", task=OTHER_TASK))
    assert (fprobe.exits, core.calls_in_flight) == (1, 1)


def test_call_that_sleeps_and_returns_on_another_cpu_is_paired(guest: ScriptedGuest) -> None:
    log: list[str] = []
    probe(guest, "f", log, "f")
    sleeper = guest.enter("f", cpu=0)
    guest.leave(guest.enter("f", task=OTHER_TASK, cpu=0))
    assert log == ["+f", "+f", "-f"]
    sleeper.cpu = 1
    guest.leave(sleeper)
    assert log == ["+f", "+f", "-f", "-f"]


def test_depth_counts_calls_not_fprobes(guest: ScriptedGuest) -> None:
    probe(guest, "f", [], "1")
    probe(guest, "f", [], "2")
    assert guest.core.depth(TASK) == 0
    outer = guest.enter("f")
    guest.enter("f", task=OTHER_TASK)
    guest.enter("f")
    assert (guest.core.depth(TASK), guest.core.depth(OTHER_TASK), guest.core.calls_in_flight) == (2, 1, 6)
    guest.leave(outer)
    assert guest.core.depth(TASK) == 0


# Section: tail calls


def test_tail_call_has_one_return_and_exits_run_innermost_first(guest: ScriptedGuest) -> None:
    log: list[str] = []
    rets: list[int] = []
    for name in "fg":
        probe(guest, name, log, name + "1")
        probe(guest, name, log, name + "2")
    guest.core.register_fprobe(Fprobe(exit_handler=lambda fp, ip, ret, regs, data: rets.append(ret)), "[fg]")
    guest.bodies |= {"f": lambda: TailCall("g"), "g": lambda: 9}
    assert guest.call("f", ret_ip=0x1234) == 9
    assert log == ["+f2", "+f1", "+g2", "+g1", "-g1", "-g2", "-f1", "-f2"]
    assert rets == [0x1234, 0x1234]


def test_tail_called_entry_gets_the_real_return_address_DIFFERS(guest: ScriptedGuest) -> None:
    """The kernel's own ret_ip is its trampoline there."""
    rets: list[int] = []
    guest.core.register_fprobe(Fprobe(lambda fp, ip, ret, regs, data: rets.append(ret), ignore), "[fg]")
    guest.bodies["f"] = lambda: TailCall("g")
    guest.call("f", ret_ip=0x1234)
    assert rets == [0x1234, 0x1234]


def test_tail_call_into_a_probed_function_from_an_unprobed_one(guest: ScriptedGuest) -> None:
    log: list[str] = []
    probe(guest, "g", log, "g")
    guest.bodies["f"] = lambda: TailCall("g")
    guest.call("f")
    assert log == ["+g", "-g"]


# Section: calls that never return


def test_dead_task_frees_its_nodes_without_exits_or_misses(guest: ScriptedGuest) -> None:
    fprobe = probe(guest, "f", [], "f", nr_maxactive=2)
    guest.enter("f")
    alive = guest.enter("f", task=OTHER_TASK)
    guest.core.task_dead(TASK)
    guest.plant()
    assert (fprobe.exits, fprobe.nmissed, guest.core.calls_in_flight) == (0, 0, 1)
    assert guest.returns == {alive.ret_ip}
    guest.leave(alive)
    for _ in range(2):
        guest.enter("f", task=OTHER_TASK)
    assert (fprobe.hits, fprobe.nmissed) == (4, 0)


def test_pool_of_2_serves_four_threads_that_exit_one_after_another(guest: ScriptedGuest) -> None:
    fprobe = probe(guest, "f", [], "f", nr_maxactive=2)
    for thread in range(4):
        guest.enter("f", task=TASK + thread * 0x4000)
        guest.core.task_dead(TASK + thread * 0x4000)
    assert (fprobe.hits, fprobe.nmissed) == (4, 0)


def test_new_task_at_the_address_of_a_dead_one_starts_without_calls(guest: ScriptedGuest) -> None:
    fprobe = probe(guest, "f", [], "f")
    old = guest.enter("f")
    guest.core.task_dead(TASK)
    guest.leave(old)
    assert fprobe.exits == 0


def test_task_without_calls_may_die(guest: ScriptedGuest) -> None:
    guest.core.task_dead(TASK)
    assert guest.core.calls_in_flight == 0


def test_function_that_never_returns_keeps_its_node_while_the_task_lives(guest: ScriptedGuest) -> None:
    fprobe = probe(guest, "f", [], "f", nr_maxactive=1)
    guest.enter("f")
    guest.call("f")
    guest.call("f", task=OTHER_TASK)
    assert (fprobe.hits, fprobe.exits, fprobe.nmissed) == (1, 0, 2)


def cut_off(guest: ScriptedGuest) -> tuple[Call, Call]:
    """A call of h around a call of f that is cut off, as by longjmp into h's caller."""
    outer = guest.enter("h")
    return outer, guest.enter("f", ret_ip=0x4321)


def test_entry_discards_nodes_below_its_stack_pointer_DIFFERS(guest: ScriptedGuest) -> None:
    """The kernel warns and calls no handlers any more."""
    log: list[str] = []
    fprobe = probe(guest, "f", log, "f", nr_maxactive=1)
    outer, _ = cut_off(guest)
    guest.set_sp(outer.frame + 8)
    assert 0x4321 in guest.returns
    guest.call("f")
    assert (log, fprobe.nmissed) == (["+f", "+f", "-f"], 0)
    assert guest.returns == set()


def test_exit_discards_nodes_below_its_frame_DIFFERS(guest: ScriptedGuest) -> None:
    log: list[str] = []
    fprobe = probe(guest, "f", log, "f")
    probe(guest, "h", log, "h")
    outer, _ = cut_off(guest)
    guest.leave(outer)
    assert log == ["+h", "+f", "-h"]
    assert (fprobe.exits, fprobe.nmissed, guest.core.calls_in_flight, guest.returns) == (0, 0, 0, set())


def test_cut_off_call_does_not_end_with_a_later_one_at_its_frame(guest: ScriptedGuest) -> None:
    """A return is its own call's by return address too: the new call in the same slot came from elsewhere."""
    log: list[str] = []
    probe(guest, "f", log, "f")
    probe(guest, "g", log, "g")
    cut = guest.enter("f", ret_ip=0x4321)
    guest.set_sp(cut.frame + 8)
    again = guest.enter("g", ret_ip=0x1234)
    assert again.frame == cut.frame
    guest.leave(again)
    assert log == ["+f", "+g", "-g"]


def test_nodes_on_another_stack_or_of_another_task_are_not_discarded(guest: ScriptedGuest) -> None:
    """Interrupts have stacks of their own; a higher address there says nothing."""
    log: list[str] = []
    probe(guest, "[fg]", log, "x")
    waiting = guest.enter("f")
    other = guest.enter("f", task=OTHER_TASK)
    for start in (0xFFFFC80000003FF0, 0xFFFFCA0000003FF0):
        for task in (TASK, OTHER_TASK):
            before = guest.sp(task)
            guest.set_sp(start, task)
            guest.call("g", task=task)
            guest.set_sp(before, task)
    log.clear()
    guest.leave(waiting)
    guest.leave(other)
    assert log == ["-x", "-x"]


# Section: exit handlers and the core


def test_handler_may_call_a_function_whose_frame_is_the_returning_one(guest: ScriptedGuest) -> None:
    """The stack pointer is above the slot already, so the next call is pushed into it."""
    log: list[str] = []

    def exit_(fp: Fprobe, ip: int, ret: int, regs: PtRegs, data: object) -> None:
        log.append("-f")
        assert guest.call("g") == 3

    guest.core.register_fprobe(Fprobe(exit_handler=exit_), "f")
    probe(guest, "g", log, "g")
    guest.bodies["g"] = lambda: 3
    guest.call("f")
    assert log == ["-f", "+g", "-g"]
    assert guest.core.calls_in_flight == 0


def test_node_is_taken_while_its_exit_handler_runs(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(exit_handler=lambda *_: guest.call("f"), nr_maxactive=1)
    guest.core.register_fprobe(fprobe, "f")
    guest.call("f")
    assert (fprobe.hits, fprobe.exits, guest.reasons) == (1, 1, [MissReason.POOL])
    guest.call("f")
    assert (fprobe.hits, fprobe.exits, fprobe.nmissed) == (2, 2, 2)


def test_task_that_dies_inside_an_exit_handler_gives_its_node_back_once(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(exit_handler=lambda *_: guest.core.task_dead(TASK), nr_maxactive=2)
    guest.core.register_fprobe(fprobe, "f")
    guest.enter("f")
    guest.call("f")
    assert (guest.core.calls_in_flight, guest.returns) == (0, set())
    for _ in range(3):
        guest.enter("f", task=OTHER_TASK)
    assert (fprobe.hits, fprobe.nmissed) == (4, 1)


def test_handler_that_calls_from_higher_up_its_stack_does_not_free_the_node_under_it(guest: ScriptedGuest) -> None:
    """The node of a running exit handler is no cut-off call, wherever the next call's frame is."""

    def exit_(*_: object) -> None:
        guest.set_sp(outer.frame)
        guest.call("g")

    outer = guest.enter("h")
    fprobe = Fprobe(exit_handler=exit_, nr_maxactive=2)
    guest.core.register_fprobe(fprobe, "f")
    guest.core.register_fprobe(Fprobe(), "g")
    guest.set_sp(outer.frame - 0x80)
    guest.leave(guest.enter("f"))
    assert (fprobe.exits, guest.core.calls_in_flight, guest.returns) == (1, 0, set())
    for _ in range(3):
        guest.enter("f", task=OTHER_TASK)
    assert (fprobe.hits, fprobe.nmissed) == (3, 1)


def test_return_that_ends_no_call_is_nobodys(guest: ScriptedGuest) -> None:
    fprobe = probe(guest, "f", [], "f")
    call = guest.enter("f")
    guest.leave(call)
    guest.returns.add(call.ret_ip)
    guest.core.exit(guest._hit(call, call.ret_ip, None))  # type: ignore[arg-type]
    assert fprobe.exits == 1
