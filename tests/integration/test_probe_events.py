"""Probe events of ours against the same definitions in a 6.12 guest's tracefs, in the same run of one command.

What is behind the time of each line must be the same text: event, place, and all arguments.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import pytest

from fprobe_gdb import Kernel
from fprobe_gdb.probe_events import ProbeEventError
from fprobe_gdb.session.probe_event_runner import ProbeEventHit, ProbeEventRunner, events_for
from tests.integration.guest_tracer import TRACING, run, tracing

pytestmark = pytest.mark.qemu

# One CPU: with two, the guest's trace lacked some calls that ours had in about one of ten runs (with one, in none of
# six). Why is not known.
_RSP = {"kernel": "6.12", "backend": "rsp", "smp": 1, "breakpoint": "sw"}
_LINE = re.compile(r"^\s*(?P<comm>\S.*)-(?P<pid>\d+)\s+\[\d+\]\s+\S+\s+[\d.]+: (?P<text>(?P<event>\w+): \(.*)$", re.M)
COMMANDS = ("dd if=/etc/motd of=/dev/null bs=100", "workload args 6", "cat /does/not/exist")

# No "symstr": with one, Linux 6.12 puts a zero byte into what lies beside it in its own ring buffer. Then the guest's
# trace lacks a line or a letter, and now and then a process of the guest dies, with nothing of ours in it.
DEFINITIONS = [
    "f:oracle/read vfs_read file->f_path.dentry->d_name.name:string count pos +0(pos):s64 buf",
    "f:oracle/file vfs_read name=$arg1:%pD inline=file->f_path.dentry->d_iname:string $comm",
    "f64:oracle/read_ret vfs_read%return $retval $arg* name=file->f_path.dentry->d_name.name:string",
    "f:oracle/ops vfs_read ops=file->f_op:symbol bytes=+0(file):x8[4] r=file->f_op->read_iter:symbol c=+1(buf):char",
    "f:oracle/sym vfs_read $stack0:symbol mode=file->f_mode sign=file->f_mode:s8 flag=+u0(buf):u8",
    "f:oracle/open vfs_open path->dentry->d_name.name:string file->f_flags:x32 low=file->f_mode:b4@1/32 odd=path:x16",
    "f:oracle/dput dput name=$arg1:%pd dentry parent=dentry->d_parent->d_name.name:string",
    "f:oracle/path getname_flags filename:ustring flags same=filename:string",
    "f:oracle/path_ret getname_flags%return path=$retval->name:string flags old=$arg1",
    "f:oracle/args vfs_fallocate mode:x32 offset len $stack $stack1:x64 $stack2047 a9=$arg9:x64",
    'f:oracle/const vfs_fallocate \\42 \\-1:s8 t=\\"text" cmd=+0(@saved_command_line):string @linux_banner:char[5]',
    "f:oracle/wild vfs_fall* $arg1 mode=$arg2:u32 call=$stack0:symbol",
    "f:oracle/two do_sys_openat2 $comm",
    "f:oracle/two vfs_fallocate $comm",
    "f:oracle/exec begin_new_exec bprm->filename:string bprm->secureexec bprm->point_of_no_return bprm->argc",
    "f:oracle/exec_ret begin_new_exec%return $retval argc=bprm->argc name=+0(bprm->filename):string",
]

# By process id and event.
Texts = dict[tuple[int, str], list[str]]


def our_texts(hits: list[ProbeEventHit], pids: set[int]) -> Texts:
    """What our probes saw."""
    found: Texts = defaultdict(list)
    for hit in hits:
        if hit.task.pid in pids:
            found[hit.task.pid, hit.definition.event].append(hit.text)
    return found


def their_texts(trace: str, pids: set[int]) -> Texts:
    """What the guest's trace shows."""
    found: Texts = defaultdict(list)
    for line in _LINE.finditer(trace):
        if int(line["pid"]) in pids:
            found[int(line["pid"]), line["event"]].append(line["text"])
    return found


def run_both(
    k: Kernel, definitions: Sequence[str], commands: Sequence[str]
) -> tuple[list[ProbeEventHit], str, set[int]]:
    """Run commands under the same definitions, theirs and ours; our hits, their trace, and the commands' process ids.

    Only those processes begin and end in the time in which both watch.
    """
    events = events_for(k)
    for definition in definitions:
        events.add(definition)
    hits: list[ProbeEventHit] = []
    with tracing(k, events=definitions):
        assert run(k, f"cat {TRACING}/dynamic_events") == str(events)
        with ProbeEventRunner(k, events, hits.append) as runner:
            output = k.shell("; ".join(f"sh -c 'echo pid $$; exec {command}'" for command in commands)).text
            assert runner.nmissed == 0
        run(k, f"echo 0 >{TRACING}/tracing_on")
        trace = run(k, f"cat {TRACING}/trace")
    pids = {int(pid) for pid in re.findall(r"^pid (\d+)$", output, re.M)}
    assert len(pids) == len(commands)
    return hits, trace, pids


def test_same_text_as_the_kernel(guest: Callable[..., Kernel]) -> None:
    """Fields by name, pointers, strings, arrays, bit-fields, files' names, values kept from the entry to the return."""
    hits, trace, pids = run_both(guest(**_RSP), DEFINITIONS, COMMANDS)
    ours, theirs = our_texts(hits, pids), their_texts(trace, pids)
    assert ours == theirs
    seen = {event for _, event in ours}
    assert seen == {re.split(r"[/ ]", definition)[1] for definition in DEFINITIONS}


TRACEPOINTS = [
    "t:oracle/fork sched_process_fork parent->comm:string child->pid $arg1",
    "t:oracle/exec sched_process_exec p->comm:string old_pid bprm->filename:string",
    "t:oracle/switch sched_switch $arg* next_comm=next->comm:string caller=$stack0:symbol $comm",
    "t:oracle/wake sched_wakeup $arg*",
    "t:oracle/enter sys_enter id nr=regs->orig_ax first=regs->di:x64",
    "f:oracle/open vfs_open path->dentry->d_name.name:string",
]


@pytest.mark.parametrize("dispatch", ["breakpoint", "trampoline"])
def test_tracepoints(guest: Callable[..., Kernel], dispatch: str) -> None:
    """While the guest's own events have them on, and by ourselves; and nothing is on when we are done."""
    k = guest(**_RSP | {"dispatch": dispatch})
    commands = ["dd if=/etc/motd of=/dev/null bs=100", "workload fork 3"]
    hits, trace, pids = run_both(k, TRACEPOINTS, commands)
    ours, theirs = our_texts(hits, pids), their_texts(trace, pids)
    assert ours == theirs
    events = events_for(k)
    for definition in TRACEPOINTS:
        events.add(definition)
    alone: list[ProbeEventHit] = []
    names = [definition.split()[1] for definition in TRACEPOINTS if definition[0] == "t"]
    # Takes a shell, which forks.
    k.tracepoints.switch_on(names)
    forks = k.read_u64(k.address("total_forks"))
    with ProbeEventRunner(k, events, alone.append):
        run(k, "workload fork 3")
    counts = Counter(hit.definition.event for hit in alone)
    assert {hit.definition.event for hit in hits} == set(counts)
    assert counts["fork"] == k.read_u64(k.address("total_forks")) - forks >= 3
    k.tracepoints.switch_off()
    enabled = k.btf.struct("tracepoint").find_member("key.enabled").bit_offset // 8
    for name in names:
        assert k.read_u64(k.address(f"__tracepoint_{name}") + enabled) & 0xFFFFFFFF == 0, name


def test_a_tracepoint_of_a_kernel_that_has_nothing_to_hang_on_it(guest: Callable[..., Kernel]) -> None:
    k = guest(kernel="6.1")
    with pytest.raises(ProbeEventError, match=r"Linux 6\.5 and later"):
        events_for(k).add("t sched_switch")


def test_what_cannot_be_read(guest: Callable[..., Kernel]) -> None:
    """Strings are "(fault)". A number is 0, where the kernel shows what its ring buffer held before."""
    definitions = ["f:oracle/bad vfs_fallocate s=+0(\\16):string ok=\\0:u32 n=+0(\\16):u32 deep=+8(+0(\\16)):x64"]
    hits, trace, pids = run_both(guest(**_RSP), definitions, ["workload args 2"])
    ours, theirs = our_texts(hits, pids), their_texts(trace, pids)
    assert {it: [text.partition(" n=")[0] for text in texts] for it, texts in ours.items()} == {
        it: [text.partition(" n=")[0] for text in texts] for it, texts in theirs.items()
    }
    assert [hit.text.partition(") ")[2] for hit in hits] == ["s=(fault) ok=0 n=0 deep=0x0"] * 2
    string, zero, number, deep = hits[0].values
    assert [string.value, zero.value, number.value, deep.value] == [None, 0, None, None]
    assert [it.is_fault for it in hits[0].values] == [True, False, True, True]


def test_whole_lines(guest: Callable[..., Kernel]) -> None:
    """Task, CPU and flags too, in tasks and in interrupts. Times are compared elsewhere."""
    definitions = [
        "f:oracle/open vfs_open file",
        "f:oracle/path getname_flags%return flags",
        "f:oracle/tick update_process_times user_tick",
        "f:oracle/softirq run_timer_softirq",
        "f:oracle/locked enqueue_task_fair flags:x32",
        "f:oracle/fork sched_cgroup_fork",
    ]
    command = "dd if=/dev/zero of=/dev/null bs=100 count=3000"
    hits, trace, pids = run_both(guest(**_RSP), definitions, [command, "workload fork 3"])
    ours, theirs = _lines([hit.line for hit in hits], pids), _lines(trace.splitlines(), pids)
    assert ours == theirs
    flags = {line.split()[2] for line in ours}
    assert {word[0] for word in flags} == {".", "d"}
    assert {word[2] for word in flags} >= {".", "h"}


# How often there is which line, without what may differ: the name (the kernel keeps one for each process, the last;
# ours is that of the hit), the time and the order (between our stop and the kernel's record an interrupt can come, and
# ask for rescheduling), and a return's preempt depth (theirs is their own handler's).
def _lines(lines: Sequence[str], pids: set[int]) -> Counter[str]:
    found: Counter[str] = Counter()
    for line in lines:
        match = _LINE.match(line)
        if match and int(match["pid"]) in pids:
            assert line[:16].strip() == match["comm"]
            pid, cpu, flags = line[16 : line.index(": ")].split()[:3]
            # Another CPU may ask for rescheduling at any moment, with interrupts off here too.
            flags = flags[0] + "_" + flags[2:]
            flags = flags[:3] + "_" + flags[4] if " <- " in line else flags
            found[f"{pid} {cpu} {flags} {match['text']}"] += 1
    return found


def test_definitions_are_checked_before_anything_is_planted(guest: Callable[..., Kernel]) -> None:
    k = guest(**_RSP)
    with pytest.raises(ProbeEventError, match="This field is not found"):
        events_for(k).add("f vfs_read file->no_such_field")
    assert k.fprobes == []
