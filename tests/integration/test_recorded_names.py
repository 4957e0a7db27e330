"""Names behind arguments of recorded calls are those that handlers show, of the same calls."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence

import pytest

from fprobe_gdb import Kernel
from fprobe_gdb.events import EntryEvent
from fprobe_gdb.session.judge import Judge, Questions
from fprobe_gdb.session.pad_questions import asked_by, guest_facts
from fprobe_gdb.session.record_tracer import RecordTracer
from fprobe_gdb.session.selection import select
from fprobe_gdb.session.tracer import Tracer
from tests.integration.guest_tracer import run
from tests.integration.list_sink import ListSink

pytestmark = pytest.mark.qemu

# Files, dentries, paths, names of users and of the kernel, tasks, programs: with and without a name, of any CPU.
PATTERNS = ["vfs_*", "do_sys_openat2", "getname_flags", "d_lookup", "dput", "wake_up_new_task", "begin_new_exec"]
COMMANDS = ("cat /etc/motd", "mv /tmp/moved /tmp/" + "m" * 80, "workload fork 3", "ls /does/not/exist")

Params = dict[tuple[int | None, str], list[tuple[tuple[str, str], ...] | None]]


def params(sink: ListSink, pids: set[int]) -> Params:
    found: Params = defaultdict(list)
    for event in sink.events:
        if isinstance(event, EntryEvent) and event.pid in pids:
            found[event.pid, event.func].append(event.params)
    return found


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_names_are_those_of_handlers(guest: Callable[..., Kernel], kernel: str) -> None:
    k = guest(kernel=kernel, smp=2, dispatch="trampoline")
    run(k, "touch /tmp/moved")
    ips = list(select(k.records, PATTERNS))
    recorded, handled = ListSink(), ListSink()
    recorder, tracer = RecordTracer(k, recorded, names=True), Tracer(k, handled, entry_only=True)
    recorder.register(ips)
    tracer.register(ips)
    output = k.shell("; ".join(f"sh -c 'echo pid $$; exec {command}'" for command in COMMANDS)).text
    tracer.unregister()
    summary = recorder.finish("command finished", 0)
    assert (summary.missed, summary.lost) == (0, 0)
    pids = {int(pid) for pid in re.findall(r"^pid (\d+)$", output, re.M)}
    found = params(recorded, pids)
    assert found == params(handled, pids)
    shown = {param for calls in found.values() for call in calls for param in call or ()}
    texts = {text.partition(" ")[2] for _, text in shown}
    # As long as handlers show them; and a path of the user's.
    assert texts >= {'"motd"', '"' + "m" * 64 + '"', '"/does/not/exist"'}


def test_what_is_recorded_at_its_return_has_no_names(guest: Callable[..., Kernel]) -> None:
    """What arguments led to may be gone by then."""
    k = guest(kernel="6.1", smp=2, dispatch="trampoline")
    ips = list(select(k.records, ["vfs_fallocate"]))

    def shown(questions: Questions) -> Sequence[str]:
        judge, sink = Judge(questions, k.knowledge, ips, k.records.name_at), ListSink()
        tracer = RecordTracer(k, sink, names=True, asked=asked_by(judge, guest_facts(k)))
        tracer.register(ips)
        run(k, "workload args 4")
        tracer.finish("command finished", 0)
        return [dict(event.params or ())["file"] for event in sink.events if isinstance(event, EntryEvent)]

    at_entry, at_return = shown(Questions(filter="mode == 3")), shown(Questions(filter="retval < 0"))
    assert len(at_entry) == len(at_return) == 2
    assert all(' "memfd:' in file for file in at_entry)
    assert all(re.fullmatch("0x[0-9a-f]{16}", file) for file in at_return)


def test_many_functions_have_no_names(guest: Callable[..., Kernel]) -> None:
    k = guest(kernel="6.1", smp=2, dispatch="trampoline")
    ips = list(select(k.records, ["vfs_*", "[a-d]*"]))
    assert len(ips) > 500
    sink = ListSink()
    tracer = RecordTracer(k, sink, names=True)
    tracer.register(ips)
    run(k, "cat /etc/motd")
    tracer.finish("command finished", 0)
    of = [
        dict(event.params or ()) for event in sink.events if isinstance(event, EntryEvent) and event.func == "vfs_read"
    ]
    assert of
    assert all('"' not in call["file"] for call in of)
