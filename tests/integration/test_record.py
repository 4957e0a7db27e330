"""Record mode on real kernels: exact counts, exact pairing, exact losses, and every function at once."""

from __future__ import annotations

import io
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from fprobe_gdb import EntryData, Fprobe, Kernel, PtRegs
from fprobe_gdb.dispatch.base import RunEnd
from fprobe_gdb.dispatch.trampoline.record_format import Record, RecordKind, record_ip
from fprobe_gdb.dispatch.trampoline.recorder import RecordProbe
from fprobe_gdb.dispatch.trampoline.ring import Batch
from fprobe_gdb.dispatch.trampoline.zone import LONGEST_RECORD_BYTES
from fprobe_gdb.output.ftrace_sink import FtraceSink
from fprobe_gdb.output.jsonl import JsonlSink
from fprobe_gdb.session.judge import Judge, Questions
from fprobe_gdb.session.pad_questions import asked_by, guest_facts
from fprobe_gdb.session.record_tracer import RecordTracer
from fprobe_gdb.session.tracer import Tracer
from images.workload_counts import EXAMPLES, Count, counts
from tests.integration.guest_tracer import run
from tests.integration.tool import run_tool

pytestmark = pytest.mark.qemu
_LINE = re.compile(r"^ *(\S+)-\d+ +\[\d+\] (\S{5}) +[\d.]+: (.*)$")
_BACK = re.compile(r" <- (\w+)\)")

KERNELS = ("6.1", "6.12")
FORKS = "i=0; while [ $i -lt {} ]; do /bin/busybox true; i=$((i+1)); done"


class Recording:
    """One recording probe, its records, and their pairing."""

    def __init__(self, k: Kernel, function: str) -> None:
        self._k = k
        self.records: list[Record] = []
        ip = k.records.ftrace_location(k.address(function))
        self.probe: RecordProbe = k.record([ip], self._consume, args=True, names=True, nr_maxactive=64)

    def _consume(self, batch: Batch) -> None:
        self.records += self.probe.form.decode(batch.data)

    def check(self, count: Count) -> None:
        """Stop, and compare with what the workload says."""
        self._k.stop_recording(self.probe)
        probe = self.probe
        calls = (probe.hits, probe.exits, probe.nmissed, probe.lost, probe.lost_exits)
        assert calls == (count.entries, count.exits, 0, 0, 0)
        inside: dict[int, list[Record]] = defaultdict(list)
        deepest, retvals = 0, set()
        for record in self.records:
            calls_of_task = inside[record.task]
            if record.kind is RecordKind.ENTRY:
                calls_of_task.append(record)
                deepest = max(deepest, len(calls_of_task))
            elif record.kind is RecordKind.EXIT:
                # Within a task, calls return in the reverse order: any mistaken pair shows.
                entry = calls_of_task.pop()
                assert (entry.node, entry.tsc, entry.ret_ip) == (record.node, record.entered_tsc, record.ret_ip)
                retvals.add(record.retval & 0xFFFFFFFF)
            else:
                del inside[record.task]
        assert deepest == count.depth or count.exits < count.entries
        if count.retval is not None:
            assert retvals <= {count.retval & 0xFFFFFFFF}
        assert {record.comm for record in self.records if record.kind is not RecordKind.TASK_DEAD} <= {"workload"}


@pytest.fixture(params=KERNELS)
def recorded_guest(request: pytest.FixtureRequest, guest: Callable[..., Kernel]) -> Kernel:
    """A guest of each kernel, two CPUs, with trampolines."""
    return guest(kernel=request.param, smp=2, dispatch="trampoline")


@pytest.mark.parametrize("command", EXAMPLES, ids=" ".join)
def test_workload_is_recorded_exactly(recorded_guest: Kernel, command: tuple[str, ...]) -> None:
    """Entries, exits, return values, nesting and the task's name, of every subcommand of the workload."""
    k = recorded_guest
    recordings = [(Recording(k, count.function), count) for count in counts(command)]
    run(k, "workload " + " ".join(command))
    for recording, count in recordings:
        recording.check(count)


def test_a_full_ring_is_counted_exactly(guest: Callable[..., Kernel]) -> None:
    """With a host that takes nothing, the ring overflows: what was lost and what was not are all calls there were."""
    k = guest(kernel="6.1", smp=2, dispatch="trampoline")
    calls = 700_000
    ip = k.records.ftrace_location(k.address("__x64_sys_personality"))
    seen: list[int] = []
    probe = k.record([ip], lambda batch: seen.append(len(batch.kinds)), entry_only=True)
    recorder = k._dispatch.recorder  # type: ignore[attr-defined]
    drain, recorder.drain = recorder.drain, lambda: False
    try:
        run(k, f"workload calls {calls}")
    finally:
        recorder.drain = drain
    k.stop_recording(probe)
    # Of each ring that a CPU has filled, the other one may not have been.
    ring_records = (recorder._zone.ring_bytes - LONGEST_RECORD_BYTES) // probe.form.size_bytes + 1
    assert ring_records <= probe.hits == sum(seen) <= 2 * ring_records < calls
    assert probe.hits + probe.nmissed + probe.lost == calls
    assert probe.losses == {ip: probe.lost}


def test_every_function_is_recorded_and_accounted_for(recorded_guest: Kernel) -> None:
    """All functions there are, with returns, under a loop of forks, against the guest's own count of the same calls."""
    k = recorded_guest
    ips = [location.ip for location in k.records.records]
    entered: Counter[int] = Counter()

    def consume(batch: Batch) -> None:
        entered.update(memoryview(batch.data).cast("Q")[:: probe.form.size_bytes // 8].tolist())

    code = k.read_memory(ips[0], 4096)
    # What the agent still has to do for the last command is over then: no fork is under way.
    k.run(timeout_sec=1.0)
    probe = k.record(ips, consume, ordered=False)
    # The guest is stopped now and when this is read again: all forks in between, of whomever.
    forks = k.read_u64(k.address("total_forks"))
    run(k, FORKS.format(20))
    k.run(timeout_sec=1.0)
    forks = k.read_u64(k.address("total_forks")) - forks
    k.stop_recording(probe)
    calls: Counter[str] = Counter()
    for word, number in entered.items():
        if word & 3 == RecordKind.ENTRY:
            calls[k.records.name_at(record_ip(word))] += number
    assert calls.total() == probe.hits
    assert probe.nmissed == 0
    assert sum(probe.losses.values()) == probe.lost
    assert probe.exits + probe.lost_exits <= probe.hits
    assert k.read_memory(ips[0], 4096) == code
    lost = Counter({k.records.name_at(ip): number for ip, number in probe.losses.items()})
    assert calls["kernel_clone"] + lost["kernel_clone"] == forks >= 20
    assert calls["bprm_execve"] + lost["bprm_execve"] >= 20
    run(k, "true")


def test_a_disabled_recording_is_not_there(recorded_guest: Kernel) -> None:
    """Calls meanwhile are nothing, a call in flight comes home untold, and its node is there for the next one."""
    k = recorded_guest
    place = k.records.ftrace_location(k.address("__x64_sys_personality"))
    sleeps = k.records.ftrace_location(k.address("hrtimer_nanosleep"))
    text = k.target.read_memory(place, 5)
    kinds: Counter[int] = Counter()
    # The guest's agent sleeps by that name, now and then.
    judge = Judge(Questions(filter='comm != "usleep"'), k.knowledge, [place, sleeps], k.records.name_at)
    asked = asked_by(judge, guest_facts(k))
    probe = k.record([place, sleeps], lambda batch: kinds.update(batch.kinds), nr_maxactive=1, asked=asked)
    run(k, "workload calls 3")
    run(k, "sleep 1000 </dev/null >/dev/null 2>&1 &")
    assert k.run(timeout_sec=60, until=lambda: probe.hits == 4) is RunEnd.DONE
    k.disable_recording(probe)
    k.disable_recording(probe)
    assert k.target.read_memory(place, 5) == text
    run(k, "kill $(pidof sleep); workload calls 5")
    assert (probe.hits, probe.exits) == (4, 3)
    k.enable_recording(probe)
    assert k.target.read_memory(place, 1) == b"\xe8"
    run(k, "workload calls 2; sleep 0.01")
    k.stop_recording(probe)
    assert (probe.hits, probe.exits, probe.nmissed, probe.lost, probe.lost_exits) == (7, 6, 0, 0, 0)
    told = {kind: sum(number for word, number in kinds.items() if word & 3 == kind) for kind in RecordKind}
    assert (told[RecordKind.ENTRY], told[RecordKind.EXIT], told[RecordKind.MISSED]) == (7, 6, 0)


def test_every_function_is_disabled_and_enabled(guest: Callable[..., Kernel]) -> None:
    """All functions at once, with returns: nothing but what gives nodes back is planted in between."""
    k = guest(kernel="6.1", smp=2, dispatch="trampoline")
    ips = [location.ip for location in k.records.records]
    planter = k._dispatch.planter  # type: ignore[attr-defined]
    probe = k.record(ips, lambda batch: None, ordered=False)
    run(k, FORKS.format(2))
    k.disable_recording(probe)
    assert len(planter) < 16
    # A CPU may be in a pad just now.
    k.run(timeout_sec=0.2)
    before = probe.hits, probe.exits
    assert before[0] > 1000
    run(k, FORKS.format(10))
    assert (probe.hits, probe.exits) == before
    k.enable_recording(probe)
    assert len(planter) >= len(ips)
    run(k, FORKS.format(2))
    k.stop_recording(probe)
    assert probe.hits > before[0] + 1000
    assert probe.exits > before[1] + 1000
    assert probe.nmissed == 0


def test_many_fprobes_disabled_are_not_planted(guest: Callable[..., Kernel]) -> None:
    """With handlers it is the same: nothing is planted, nothing is counted, and all is there again when enabled."""
    k = guest(kernel="6.1", smp=2, dispatch="trampoline")
    planter = k._dispatch.planter  # type: ignore[attr-defined]
    fp = Fprobe(lambda *_: None, lambda *_: None, nr_maxactive=64)
    k.register_fprobe(fp, "__x64_sys_*")
    functions = len(k.locations(fp))
    run(k, "workload calls 3")
    assert fp.hits >= 3
    assert len(planter) >= functions > 300
    k.disable_fprobe(fp)
    hits = fp.hits
    run(k, "workload calls 5")
    assert len(planter) < 16
    assert fp.hits == hits
    k.enable_fprobe(fp)
    run(k, "workload calls 4")
    assert fp.hits >= hits + 4
    assert len(planter) >= functions
    assert (fp.nmissed, fp.lost) == (0, 0)
    k.unregister_fprobe(fp)


def test_the_command_records_all_functions(tmp_path: Path) -> None:
    """Nobody asks for it: so many functions are recorded. The summary says so, and accounts for every call."""
    outcome = run_tool(
        "trace", "--backend", "rsp", "--smp", "2", "-i", "*", "-f", "summary", "--", "echo done", tmp=tmp_path
    )
    assert outcome.status == 0, outcome.err
    assert "dispatch: trampoline (record)" in outcome.lines
    assert any(line.endswith("| done") for line in outcome.lines)
    (total,) = [line.split() for line in outcome.lines if line.startswith("total ")]
    hits, missed, lost, exits = (int(word.replace(",", "")) for word in total[1:5])
    assert hits > 1000
    assert exits <= hits
    assert f"calls: {hits + missed + lost:,} = {hits:,} hits + {missed:,} missed + {lost:,} lost" in outcome.lines


def test_recorded_calls_look_like_handled_ones(guest: Callable[..., Kernel]) -> None:
    """Names of tasks, arguments and results by type, nesting and durations, as handlers show them."""
    k = guest(kernel="6.1", smp=2, dispatch="trampoline")
    stream = io.StringIO()
    tracer = RecordTracer(k, JsonlSink(stream), block=True)
    tracer.register([k.records.ftrace_location(k.address(name)) for name in ("ksys_read", "vfs_read")])
    result = k.shell("cat /etc/motd")
    tracer.finish("command finished", result.status)
    events = [event for event in map(json.loads, stream.getvalue().splitlines()) if event.get("comm") == "cat"]
    read = [event for event in events if event["func"] == "vfs_read"]
    entry, leave = read[0], read[1]
    assert (entry["type"], entry["depth"], entry["caller"].split("+")[0]) == ("entry", 1, "ksys_read")
    assert [name for name, _ in entry["params"].items()] == ["file", "buf", "count", "pos"]
    assert entry["params"]["count"] == str(int(entry["args"]["dx"], 16))
    assert (leave["type"], leave["depth"], leave["pid"]) == ("exit", 1, entry["pid"])
    assert int(leave["result"]) == int(leave["retval"], 16)
    assert 0 < leave["duration_ns"] == pytest.approx(leave["time_ns"] - entry["time_ns"], abs=2)


# __x64_sys_readv jumps to do_readv: one return slot for both.
@pytest.mark.parametrize(
    ("recorded", "handled"),
    [
        (["__x64_sys_readv"], ["do_readv"]),
        (["do_readv"], ["__x64_sys_readv"]),
        (["__x64_sys_readv", "do_readv"], ["__x64_sys_readv", "do_readv"]),
    ],
    ids=["jumps to a handled one", "is jumped to", "both"],
)
@pytest.mark.parametrize("removed_in_flight", [False, True])
def test_a_return_that_is_recorded_and_handled(
    recorded_guest: Kernel, recorded: list[str], handled: list[str], removed_in_flight: bool
) -> None:
    """Both see the real return address, and each gets each return, though stubs stand for stubs; the reads block."""
    k = recorded_guest
    records: list[Record] = []
    probe = k.record(
        [k.records.ftrace_location(k.address(name)) for name in recorded],
        lambda batch: records.extend(probe.form.decode(batch.data)),
        nr_maxactive=64,
    )
    callers: list[int] = []
    frames: dict[int, list[tuple[int, int]]] = defaultdict(list)

    def on_entry(fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: EntryData | None) -> None:
        callers.append(ret_ip)
        frames[k.task].append((ip, regs.sp))
        assert k.stack()[1].ip == ret_ip
        if removed_in_flight and fp.hits == 6 * len(handled):
            k.stop()

    def on_exit(fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: EntryData | None) -> None:
        callers.append(ret_ip)
        assert frames[k.task].pop() == (ip, regs.sp - 8)

    fp = Fprobe(on_entry, on_exit, nr_maxactive=64)
    k.register_fprobe_syms(fp, handled)
    running = k.start("workload pipe 5")
    done = k.run(timeout_sec=60, until=lambda: running.poll() is not None)
    assert done is RunEnd.DONE
    if not removed_in_flight:
        assert (fp.hits, fp.exits, fp.nmissed, fp.lost) == (10 * len(handled), 10 * len(handled), 0, 0)
        assert not any(frames.values())
    else:
        assert running.poll() is None
        k.unregister_fprobe(fp)
        k.stop_recording(probe)
        probe = k.record(probe.ips, lambda batch: None, nr_maxactive=64)
        assert k.run(timeout_sec=60, until=lambda: running.poll() is not None) is RunEnd.DONE
    result = running.poll()
    assert result is not None
    assert result.status == 0, result.text
    k.stop_recording(probe)
    calls = [record for record in records if record.kind is not RecordKind.TASK_DEAD]
    assert {k.symbolize(ret_ip).split("+")[0] for ret_ip in callers} == {"do_syscall_64"}
    assert {k.symbolize(record.ret_ip).split("+")[0] for record in calls} == {"do_syscall_64"}
    if not removed_in_flight:
        kinds = Counter(record.kind for record in calls)
        assert (kinds[RecordKind.ENTRY], kinds[RecordKind.EXIT]) == (10 * len(recorded), 10 * len(recorded))


def test_a_boot_is_recorded() -> None:
    """From the kernel's first functions on, long before it knows what time it is; and as the kernel itself lists it."""
    stream = io.StringIO()
    cmdline = ("initcall_debug", "log_buf_len=4M")
    with Kernel.boot(kernel="6.12", backend="rsp", dispatch="trampoline", smp=2, wait=False, cmdline=cmdline) as k:
        tracer = RecordTracer(k, JsonlSink(stream), block=True)
        names = ("start_kernel", "setup_arch", "setup_per_cpu_areas", "do_one_initcall", "start_secondary")
        ips = {name: k.records.ftrace_location(k.address(name)) for name in names}
        tracer.register([ip for ip in ips.values() if ip])
        assert k.wait_boot()
        told = [int(run(k, f"dmesg | grep -c '{text}'")) for text in ("initcall .* returned", "calling .* @ 0$")]
        tracer.finish("booted", None)
    events = [event for event in map(json.loads, stream.getvalue().splitlines()) if event["type"] in ("entry", "exit")]
    first = [(event["type"], event["func"]) for event in events[:5]]
    setup = [(what, func) for func in ("setup_arch", "setup_per_cpu_areas") for what in ("entry", "exit")]
    assert first == [("entry", "start_kernel"), *setup]
    times = [event["time_ns"] for event in events]
    assert times == sorted(times)
    assert times[0] > 0
    calls = Counter((event["type"], event["func"]) for event in events)
    assert calls["entry", "do_one_initcall"] == calls["exit", "do_one_initcall"] == told[0] - told[1] > 400
    probe = tracer.probe
    assert (probe.hits, probe.nmissed, probe.lost) == (sum(what == "entry" for what, _ in calls.elements()), 0, 0)


# Of lines in tracefs' form, by function and whether it returns: the task, the flags and the text.
def told_lines(text: str) -> dict[tuple[str, bool], list[tuple[str, str, str]]]:
    told = defaultdict(list)
    for line in text.splitlines():
        if found := _LINE.match(line):
            task, flags, what = found.groups()
            back = _BACK.search(what)
            told[back[1] if back else what.partition(" <-")[0], bool(back)].append((task, flags, what))
    return told


@pytest.mark.parametrize("kernel", KERNELS)
def test_recorded_lines_are_those_of_handlers(guest: Callable[..., Kernel], kernel: str) -> None:
    """In tracefs' form, from tasks, interrupts and softirqs: all but times."""
    k = guest(kernel=kernel, dispatch="trampoline")
    task_only, at_times = ("vfs_fallocate", "shmem_fallocate"), ("update_process_times", "run_timer_softirq")
    ips = [k.records.ftrace_location(k.address(name)) for name in (*task_only, *at_times)]
    ways = []
    for recorded in (True, False):
        stream = io.StringIO()
        sink = FtraceSink(stream)
        tracer = RecordTracer(k, sink, tracefs=True) if recorded else Tracer(k, sink, tracefs=True)
        tracer.register(ips)
        assert k.shell("workload args 6; sleep 0.3").status == 0
        tracer.finish("command finished", 0)
        if isinstance(tracer, Tracer):
            tracer.unregister()
        ways.append(told_lines(stream.getvalue()))
    records, handlers = ways
    for key in ((name, back) for name in task_only for back in (False, True)):
        # Whether somebody wants to reschedule is chance.
        by_pads, by_us = ([(task, flags[0] + flags[2:], what) for task, flags, what in way[key]] for way in ways)
        assert by_pads == by_us
        assert len(by_pads) == (6 if key[0] == "vfs_fallocate" else 3)
    for key in ((name, back) for name in at_times for back in (False, True)):
        # How deep it was, and whether in a softirq, depends on what was interrupted; now and then all of it does.
        states = [Counter(flags[0] + flags[2].lower() for _, flags, _ in way[key]) for way in (records, handlers)]
        usual = [of.most_common(1)[0][0] for of in states]
        assert usual == ["dh" if key[0] == "update_process_times" else ".s"] * 2


def test_the_command_draws_records(tmp_path: Path) -> None:
    """As function_graph does, of all functions; the braces fit."""
    file = tmp_path / "graph.txt"
    arguments = ("trace", "--backend", "rsp", "-i", "*", "--block", "-f", "ftrace", "--graph", "-o", str(file))
    outcome = run_tool(*arguments, "--", "workload args 4", tmp=tmp_path)
    assert outcome.status == 0, outcome.err
    lines = file.read_text().splitlines()
    assert "# dispatch: trampoline (record)" in lines
    # Another task may run within a call; its braces are its own.
    task, drawn = "", []
    for line in (line for line in lines if line.startswith(" 0) ")):
        if "=>" in line:
            task = line.partition("=>")[2].strip()
        elif "|  " in line:
            drawn.append((task, line.partition("|  ")[2]))
    calls = [(owner, text) for owner, text in drawn if "vfs_fallocate() {" in text]
    assert len(calls) == 2
    for owner, call in calls:
        begin = drawn.index((owner, call))
        indent = len(call) - len(call.lstrip())
        end = next(at for at in range(begin + 1, len(drawn)) if drawn[at] == (owner, " " * indent + "}"))
        inside = [text for other, text in drawn[begin + 1 : end] if other == owner]
        assert any("shmem_fallocate() {" in line for line in inside)
        drawn = drawn[end:]
