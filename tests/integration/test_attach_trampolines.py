"""Trampolines in guests that somebody else started: exact counts, nothing left behind, and orphans of a killed tool."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.deadline import Deadline
from fprobe_gdb import Fprobe
from fprobe_gdb.dispatch.base import RunEnd
from fprobe_gdb.errors import RamNotFound, RecordNoRing
from fprobe_gdb.session import attached
from fprobe_gdb.session.record_tracer import RecordTracer
from fprobe_gdb.session.selection import Selection
from fprobe_gdb.session.zone_loan import ZoneLoans
from images.workload_counts import counts
from tests.integration.list_sink import ListSink
from tests.integration.stranger import BUSY, NOT_BUSY, Stranger
from tests.integration.tool import Tool, run_tool

pytestmark = pytest.mark.qemu

SPIN = "(while :; do :; done) </dev/null >/dev/null 2>&1 &"
COMMANDS = (("calls", "300"), ("recursive", "4", "2"), ("pipe", "10"), ("interleave", "10"), ("exit_in", "3"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stranger]:
    """Two CPUs, and RAM that is QEMU's own."""
    guest = Stranger("6.1", tmp_path_factory.mktemp("own") / "gdb.sock", smp=2)
    with guest.machine as machine:
        machine.wait_boot(Deadline(120))
        yield guest


@pytest.fixture(scope="module")
def sharer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stranger]:
    """The other kernel, and RAM that QEMU shares."""
    shared = ("-object", "memory-backend-memfd,id=lent,share=on,size=512M", "-machine", "memory-backend=lent")
    guest = Stranger("6.12", tmp_path_factory.mktemp("shared") / "gdb.sock", extra_args=shared)
    with guest.machine as machine:
        machine.wait_boot(Deadline(120))
        yield guest


@pytest.mark.parametrize("whose", ["stranger", "sharer"])
def test_counts_are_exact_and_nothing_is_left(whose: str, request: pytest.FixtureRequest) -> None:
    guest: Stranger = request.getfixturevalue(whose)
    before, free_mib = guest.text(), guest.free_mib()
    for command in COMMANDS if guest.machine.spec.smp > 1 else COMMANDS[:1]:
        wanted = counts(command)
        with guest.attach() as k:
            probes = [Fprobe(None, lambda *_: None, nr_maxactive=64, name=count.function) for count in wanted]
            for probe, count in zip(probes, wanted, strict=True):
                k.register_fprobe_syms(probe, [count.function])
            running = guest.machine.agent.start("workload " + " ".join(command))
            assert k.run(timeout_sec=120, until=guest.ended(running)) is RunEnd.DONE
            # One by breakpoint, where an interrupt of long ago has left an address inside instructions to be moved.
            assert k.dispatch_name.startswith("trampoline (rsp)")
        for probe, count in zip(probes, wanted, strict=True):
            seen = (probe.name, probe.hits, probe.exits, probe.nmissed, probe.lost)
            assert seen == (count.function, count.entries, count.exits, 0, 0)
    assert guest.text() == before
    assert guest.free_mib() >= free_mib - 3, "each zone takes 4"


def test_calls_in_flight_return_past_us(stranger: Stranger) -> None:
    """Who sleeps in a probed function while we leave comes back to where he was called from."""
    before = stranger.text()
    with stranger.attach() as k:
        running = stranger.fall_asleep(k, 4)
    # The shell may say before what has become of the commands of other tests.
    assert running.wait(Deadline(60)).output.endswith(b"woken\n")
    assert stranger.text() == before


def test_a_tracer_of_the_guest_that_has_our_return_addresses_is_waited_for(stranger: Stranger) -> None:
    """Its shadow stack leads through the zone until the call is over."""
    before = stranger.text()
    stranger.shell(
        "mount -t tracefs none /sys/kernel/tracing; cd /sys/kernel/tracing && "
        "echo hrtimer_nanosleep > set_graph_function && echo hrtimer_nanosleep > set_ftrace_filter && "
        "echo function_graph > current_tracer"
    )
    notes: list[str] = []
    with stranger.attach(on_note=notes.append) as k:
        running = stranger.fall_asleep(k, 4)
    assert notes == []
    assert running.wait(Deadline(60)).output.endswith(b"woken\n")
    stranger.shell("cd /sys/kernel/tracing && echo nop > current_tracer && echo > set_ftrace_filter")
    assert stranger.text() == before


def test_a_killed_tool_is_cleaned_up_after(stranger: Stranger, tmp_path: Path) -> None:
    before = stranger.text()
    stranger.shell(BUSY)
    where = (str(stranger.path), "-k", "6.1", "-f", "jsonl", "--dispatch", "trampoline")
    with Tool("attach", *where, "-i", "vfs_*", "-i", "do_wait", "--answer-within", "1", tmp=tmp_path) as tool:
        tool.until_output('"exit"')
        tool.kill()
    # Whatever waits in a pad goes on by itself.
    assert "alive" in stranger.shell("cat /etc/motd; echo alive")
    done = run_tool("attach", *where, "-i", "__x64_sys_personality", "--max-hits", "5", "--timeout", "60")
    assert done.status == 0, done.err
    assert done.err == "note: a landing zone that a killed fprobe-gdb has left in the guest was removed\n"
    summary = json.loads(done.lines[-1])
    assert (summary["dispatch"], summary["ended"], summary["lost"]) == ("trampoline (rsp)", "max-hits", 0)
    stranger.shell(NOT_BUSY)
    assert stranger.text() == before
    assert "alive" in stranger.shell("cat /etc/motd; echo alive")


def record_all_functions(guest: Stranger) -> None:
    (count,) = counts(("calls", "300"))
    with guest.attach(recording=True) as k:
        tracer = RecordTracer(k, ListSink(), quiet=True, block=True)
        functions = Selection(("*",), ()).now(k.records)
        tracer.register(functions)
        running = guest.machine.agent.start("workload calls 300")
        assert k.run(timeout_sec=120, until=guest.ended(running)) is RunEnd.DONE
        summary = tracer.finish("done", None)
    assert len(functions) > 30_000
    seen = {row.func: (row.hits, row.exits, row.missed, row.lost) for row in summary.functions}
    assert seen[count.function] == (count.entries, count.exits, 0, 0)
    assert summary.hits > 10 * count.entries


@pytest.mark.parametrize("whose", ["stranger", "sharer"])
def test_all_functions_are_recorded_and_nothing_is_left(whose: str, request: pytest.FixtureRequest) -> None:
    guest: Stranger = request.getfixturevalue(whose)
    before, free_mib = guest.text(), guest.free_mib()
    record_all_functions(guest)
    assert guest.text() == before
    assert guest.free_mib() >= free_mib - 3, "the zone takes 36"


def test_a_recording_tool_that_is_killed_is_cleaned_up_after(stranger: Stranger, tmp_path: Path) -> None:
    """All functions are planted, and thousands of calls are in flight."""
    before, free_mib = stranger.text(), stranger.free_mib()
    stranger.shell(BUSY)
    where = (str(stranger.path), "-k", "6.1", "-f", "jsonl")
    with Tool("attach", *where, "-i", "*", "--record", "--timeout", "100", tmp=tmp_path) as tool:
        tool.until_output('"exit"')
        tool.kill()
    assert "alive" in stranger.shell("cat /etc/motd; echo alive")
    done = run_tool("attach", *where, "-i", "__x64_sys_personality", "--max-hits", "5", "--record", "--timeout", "60")
    assert done.status == 0, done.err
    assert done.err == "note: a landing zone that a killed fprobe-gdb has left in the guest was removed\n"
    summary = json.loads(done.lines[-1])
    assert (summary["dispatch"], summary["ended"], summary["lost"]) == ("trampoline (record)", "max-hits", 0)
    stranger.shell(NOT_BUSY)
    assert stranger.text() == before
    assert stranger.free_mib() >= free_mib - 3


def test_memory_that_was_lent_and_never_mapped_is_given_back(
    stranger: Stranger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the next tool: the one that has borrowed it comes to its end as if it had been killed there."""
    free_mib = stranger.free_mib()

    def die(*_args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ZoneLoans, "_prepare", die)
        patch.setattr(ZoneLoans, "_free", lambda *_: False)
        with pytest.raises(KeyboardInterrupt):
            stranger.attach(recording=True)
    assert stranger.free_mib() < free_mib - 32
    notes: list[str] = []
    for _ in range(2):
        with stranger.attach(dispatch="breakpoint", on_note=notes.append):
            pass
    assert notes == ["36 MiB that a killed fprobe-gdb had borrowed were given back to the guest"]
    assert stranger.free_mib() >= free_mib - 3
    assert "alive" in stranger.shell("echo alive")


def test_recording_takes_more_memory(stranger: Stranger) -> None:
    with stranger.attach() as k, pytest.raises(RecordNoRing, match="attach with recording=True"):
        k.record([k.records.ftrace_location(k.address("vfs_read"))], lambda _: None)


def test_a_process_that_is_not_the_guest_is_found_out(stranger: Stranger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attached, "peer_pid", lambda sock: os.getpid())
    with pytest.raises(RamNotFound, match=f"process {os.getpid()} has no memory that holds what"):
        stranger.attach()
    with stranger.attach(dispatch="auto") as k:
        assert k.dispatch_name.startswith("breakpoint (rsp, sw), since the memory of a guest that was attached to")
    assert "alive" in stranger.shell("echo alive")


def test_isolated_page_tables(tmp_path: Path) -> None:
    """Its CPUs are in user mode nearly always, and have page tables then that do not map the kernel."""
    guest = Stranger("6.1", tmp_path / "gdb.sock", smp=2, cmdline=("pti=on",))
    with guest.machine as machine:
        machine.wait_boot(Deadline(120))
        assert "isolation: enabled" in guest.shell("dmesg")
        guest.shell(f"{SPIN}\n{SPIN}")
        before, free_mib = guest.text(), guest.free_mib()
        record_all_functions(guest)
        assert guest.opened("cat /etc/motd") >= {"motd", "/etc/motd"}
        with guest.attach(backend="gdb") as k:
            probe = Fprobe(lambda *_: None)
            k.register_fprobe(probe, "__x64_sys_personality")
            running = machine.agent.start("workload calls 300")
            assert k.run(timeout_sec=120, until=guest.ended(running)) is RunEnd.DONE
            assert (k.can_record, probe.hits) == (True, 300)
        assert guest.text() == before
        assert guest.free_mib() >= free_mib - 3
