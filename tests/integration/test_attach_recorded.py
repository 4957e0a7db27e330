"""What recording comes to in guests of others is what it comes to in our own; and where it cannot be had, handlers
serve, and the summary says why.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from emu.deadline import Deadline
from fprobe_gdb import Fprobe
from fprobe_gdb.dispatch.base import RunEnd
from fprobe_gdb.errors import RecordNoRing, RecordNoTrampolines, SiteNoCode
from tests.integration.stranger import BUSY, NOT_BUSY, Stranger
from tests.integration.tool import run_tool

pytestmark = pytest.mark.qemu

# What the loop of BUSY calls.
CALLED = "__x64_sys_personality"
PROBED = ("-i", CALLED)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stranger]:
    guest = Stranger("6.1", tmp_path_factory.mktemp("recorded") / "gdb.sock", smp=2)
    with guest.machine as machine:
        machine.wait_boot(Deadline(120))
        yield guest


@pytest.fixture
def busy(stranger: Stranger) -> Iterator[Stranger]:
    """The guest with a loop of calls in it."""
    stranger.shell(BUSY)
    yield stranger
    stranger.shell(NOT_BUSY)


def attach(guest: Stranger, *arguments: str) -> list[str]:
    """Lines of a trace by the command, which must have gone well."""
    done = run_tool("attach", str(guest.path), "-k", guest.kernel, *arguments)
    assert done.status == 0, done.err
    assert done.err == ""
    return done.lines


def dispatch(lines: list[str]) -> str:
    (line,) = [line for line in lines if line.startswith("dispatch: ")]
    return line.removeprefix("dispatch: ")


def calls(lines: list[str]) -> tuple[int, int, int, int]:
    """Calls, hits, missed and lost."""
    (found,) = filter(None, (re.match(r"calls: (\d+) = (\d+) hits \+ (\d+) missed \+ (\d+) lost", x) for x in lines))
    all_calls, hits, missed, lost = map(int, found.groups())
    return all_calls, hits, missed, lost


def test_what_pads_cannot_ask_is_asked_by_handlers(busy: Stranger) -> None:
    lines = attach(busy, *PROBED, "--record", "--filter", 'comm ~ "*load"', "--max-hits", "5", "--timeout", "60")
    assert dispatch(lines).startswith("trampoline (rsp); not recorded, since the pattern '*load' is more than")
    assert calls(lines) == (5, 5, 0, 0)


def test_what_has_no_room_is_handled(busy: Stranger) -> None:
    """Each function is asked something else, so each has a pad of its own."""
    before = busy.text()
    lines = attach(busy, "-i", "s*", *PROBED, "-f", "summary", "--filter", "$ip != caller_ip", "--timeout", "3")
    assert dispatch(lines) == f"trampoline (rsp); not recorded, since {SiteNoCode.why}"
    all_calls, *parts = calls(lines)
    assert all_calls == sum(parts) > 100
    assert busy.text() == before


def test_without_trampolines_breakpoints_serve(busy: Stranger) -> None:
    lines = attach(busy, *PROBED, "--record", "--dispatch", "breakpoint", "--max-hits", "5", "--timeout", "60")
    assert dispatch(lines) == "breakpoint (rsp, sw); not recorded, since recording needs trampolines"
    assert calls(lines) == (5, 5, 0, 0)
    with busy.attach(dispatch="breakpoint") as k, pytest.raises(RecordNoTrampolines, match="attach with dispatch="):
        k.record([k.records.ftrace_location(k.address(CALLED))], lambda _: None)


def test_a_function_without_fentry_is_handled(busy: Stranger) -> None:
    lines = attach(busy, "-i", "__schedule", "--record", "--max-hits", "5", "--timeout", "60")
    assert dispatch(lines) == "trampoline (rsp); not recorded, since a function has no fentry instruction"
    # Other CPUs may be in it while the fifth hit is handled, and when we leave.
    all_calls, hits, *others = calls(lines)
    assert all_calls == hits + sum(others)
    assert hits >= 5


def test_a_guest_with_little_memory_lends_less(stranger: Stranger) -> None:
    """Handlers can do with that, exactly; and it has all of it back."""
    before, free_mib = stranger.text(), stranger.free_mib()
    hog = "mkdir -p /hog && mount -t tmpfs -o size=100% none /hog && dd if=/dev/zero of=/hog/file bs=1M"
    stranger.shell(f"{hog} count={free_mib - 20}")
    try:
        left_mib = stranger.free_mib()
        why = r"room for a ring of records for each of 2 CPUs, since the guest has no \d+ MiB of memory to lend"
        with stranger.attach(recording=True) as k:
            with pytest.raises(RecordNoRing, match=why):
                k.record([k.records.ftrace_location(k.address(CALLED))], lambda _: None)
            probe = Fprobe(None, lambda *_: None)
            k.register_fprobe_syms(probe, [CALLED])
            running = stranger.machine.agent.start("workload calls 300")
            assert k.run(timeout_sec=120, until=stranger.ended(running)) is RunEnd.DONE
            assert (probe.hits, probe.exits, probe.nmissed, probe.lost) == (300, 300, 0, 0)
        assert stranger.free_mib() >= left_mib - 3
        stranger.shell(BUSY)
        lines = attach(stranger, *PROBED, "--record", "--max-hits", "5", "--timeout", "60")
        stranger.shell(NOT_BUSY)
        assert re.match(rf"trampoline \(rsp\); not recorded, since the landing zone has no {why}", dispatch(lines))
        assert calls(lines) == (5, 5, 0, 0)
    finally:
        stranger.shell("umount /hog")
    assert stranger.text() == before
    assert stranger.free_mib() >= free_mib - 3
