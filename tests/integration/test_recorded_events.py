"""Probe events that the guest records by itself have the texts that handlers give them, in the same calls.

Both are on the same functions at the same time; and in a 6.12 guest its own events are the judge.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from fprobe_gdb import Kernel
from fprobe_gdb.errors import NotCompiled, UsageError
from fprobe_gdb.events import EntryEvent, EventField, ExitEvent
from fprobe_gdb.probe_events import symbol_text
from fprobe_gdb.session.judge import Questions
from fprobe_gdb.session.probe_event_lines import event_of
from fprobe_gdb.session.probe_event_runner import ProbeEventHit, ProbeEventRunner, events_for
from fprobe_gdb.session.record_tracer import RecordTracer
from fprobe_gdb.session.recorded_events import recorded_events
from images.workload_counts import EXAMPLES, counts
from tests.integration.guest_tracer import TRACING, run, tracing
from tests.integration.list_sink import ListSink
from tests.integration.test_probe_events import COMMANDS, DEFINITIONS, TRACEPOINTS, their_texts
from tests.integration.tool import run_tool

pytestmark = pytest.mark.qemu

KERNELS = ("6.1", "6.12")
GUEST: dict[str, Any] = {"smp": 2, "dispatch": "trampoline"}
ODD = [
    r"f:oracle/bad vfs_fallocate s=+0(\16):string ok=\0:u32 n=+0(\16):u32 deep=+8(+0(\16)):x64 i=+0(\16):x8[3]",
    # The last bytes of a page of the task's stack, and what is behind the stack: nothing.
    "f:oracle/edge vfs_fallocate last=$stack2047 out=+0x7fffffffff($stack) wrapped=-16(\\8):u8 all=+0(file):x64[64]",
    "f:oracle/names vfs_open a=path->dentry->d_name.name:string b=path->dentry->d_parent->d_name.name:string[1] $comm",
    "f:oracle/sym vfs_read $stack0:symstr $retval",
    "f:oracle/stack vfs_fallocate%return $stack $stack0:x64 $stack3 $retval mode file->f_path.dentry->d_iname:string",
    "f:oracle/none vfs_fallocate",
]

_CHAR_POINTER = re.compile(r"(?<![\w.>])((?:bprm->file|\$retval->|file)name):(u?string)")

Hit = EntryEvent | ExitEvent
# By process, and whose event: what the event shows.
Texts = dict[tuple[int | None, str | None], list[tuple[object, ...]]]


class Both:
    """The same definitions, recorded and by handlers, while commands run.

    Compared are the commands' processes, which begin and end in that time.
    """

    def __init__(
        self,
        k: Kernel,
        definitions: Sequence[str],
        commands: Sequence[str],
        shell: Callable[[str], str] | None = None,
    ) -> None:
        self._k = k
        shell = shell or (lambda command: k.shell(command).text)
        events = events_for(k)
        for definition in definitions:
            # In 6.1 char is signed, and its pointers are no text by themselves.
            is_old = k.options.kernel == "6.1"
            events.add(_CHAR_POINTER.sub(r"+0(\1):\2", definition) if is_old else definition)
        sink = ListSink()
        tracer = RecordTracer(k, sink, events=recorded_events(k, events))
        tracer.register([])
        self._hits: list[Hit] = []
        runner = ProbeEventRunner(k, events, self._on_event)
        output = shell("; ".join(f"sh -c 'echo pid $$; exec {command}'" for command in commands))
        # Of others: who waits in a read, say, is a hit that has not returned, and may do so until recording ends.
        self.in_flight = k.calls_in_flight
        runner.unregister()
        assert runner.nmissed == 0
        self.summary = tracer.finish("command finished", 0)
        self._recorded = [event for event in sink.events if isinstance(event, Hit)]
        self.pids = {int(pid) for pid in re.findall(r"^pid (\d+)$", output, re.M)}
        assert len(self.pids) == len(commands)

    def _on_event(self, hit: ProbeEventHit) -> None:
        self._hits.append(event_of(self._k, hit, None))

    @property
    def recorded(self) -> list[Hit]:
        """Hits that were recorded."""
        return [event for event in self._recorded if event.pid in self.pids]

    @property
    def handled(self) -> list[Hit]:
        """Hits of handlers."""
        return [event for event in self._hits if event.pid in self.pids]


def texts(events: Sequence[Hit]) -> Texts:
    found: Texts = defaultdict(list)
    for event in events:
        args = tuple(event.args.values()) if isinstance(event, EntryEvent) else (event.retval,)
        place = (type(event), event.func, event.entry_ip, event.ret_ip, event.cpu, event.task, event.caller)
        found[event.pid, event.probe_event].append((*place, event.comm, args, event.fields))
    return found


# Where a function's return is recorded, handlers find the stub in its return slot.
STACK = [definition for definition in DEFINITIONS if "$stack0" in definition]
OTHERS = [definition for definition in DEFINITIONS if definition not in STACK]


@pytest.mark.parametrize(
    ("kernel", "definitions"),
    [*((kernel, which) for kernel in KERNELS for which in (OTHERS, STACK, ODD)), ("6.12", TRACEPOINTS)],
    ids=[*(f"{kernel} {which}" for kernel in KERNELS for which in ("many", "stack", "odd")), "tracepoints"],
)
def test_records_show_what_handlers_show(guest: Callable[..., Kernel], kernel: str, definitions: list[str]) -> None:
    both = Both(guest(kernel=kernel, **GUEST), definitions, [*COMMANDS, "workload fork 3"])
    assert texts(both.recorded) == texts(both.handled)
    names = {re.split(r"[/ ]", definition)[1] for definition in definitions}
    assert {str(event.probe_event).partition("/")[2] for event in both.recorded} == names
    summary = both.summary
    assert (summary.missed, summary.lost, summary.kept_out) == (0, 0, 0)
    rows = {(row.func, ExitEvent if row.exits else EntryEvent): row for row in summary.functions}
    counts = Counter((event.probe_event, type(event)) for event in both._recorded)
    assert {key: row.exits or row.hits for key, row in rows.items()} == counts
    assert 0 <= sum(row.hits - row.exits for row in rows.values() if row.exits) <= both.in_flight


def test_same_text_as_the_kernel(guest: Callable[..., Kernel]) -> None:
    """The guest's own events are on the same functions. Of returns they show a stub of ours as the caller."""
    k = guest(kernel="6.12", smp=1, dispatch="trampoline")
    for definitions in (STACK, OTHERS):
        with tracing(k, events=definitions):
            both = Both(k, definitions, COMMANDS)
            run(k, f"echo 0 >{TRACING}/tracing_on")
            trace = run(k, f"cat {TRACING}/trace")
        ours: dict[tuple[int, str], list[str]] = defaultdict(list)
        for event in both.recorded:
            assert event.fields is not None
            fields = "".join(f" {field.name}={field.text}" for field in event.fields)
            name = str(event.probe_event).partition("/")[2]
            ours[event.pid or 0, name].append(f"{symbol_text(k.symbols, event.entry_ip)}){fields}")
        theirs: dict[tuple[int, str], list[str]] = {}
        for (pid, name), lines in their_texts(trace, both.pids).items():
            place = ours[pid, name][0].partition(")")[0]
            # (CALLER <- FUNCTION) of a return, (FUNCTION+0x4/0x370) of an entry.
            theirs[pid, name] = [
                (place + ")" if " <- " in line else line.partition("(")[2].partition(")")[0] + ")")
                + line.partition(")")[2]
                for line in lines
            ]
        assert ours == theirs


def test_text_is_cut_at_a_bound(guest: Callable[..., Kernel]) -> None:
    """Names of files are not; longer text has dots behind, where it is quoted as where it is not."""
    name, path = "n" * 255, "/etc" + "/" * 300 + "motd"
    definitions = [
        "f:oracle/name vfs_open path->dentry->d_name.name:string",
        "f:oracle/path do_sys_openat2 text=+0(filename):ustring",
    ]
    both = Both(guest(kernel="6.1", **GUEST), definitions, [f"touch /tmp/{name}", f"cat {path}"])
    recorded, handled = (
        [event.fields[0] for event in events if event.fields] for events in (both.recorded, both.handled)
    )
    assert EventField("arg1", f'"{name}"', name) in recorded
    assert [field for field in handled if field.name == "arg1"] == [field for field in recorded if field.name == "arg1"]
    assert EventField("text", f'"{path}"', path) in handled
    assert EventField("text", f'"{path[:256]}"...', f"{path[:256]}...") in recorded


@pytest.mark.parametrize("kernel", KERNELS)
def test_counts_of_the_workload(guest: Callable[..., Kernel], kernel: str) -> None:
    """Two recordings of each function, of entries and of returns, on two CPUs."""
    k = guest(kernel=kernel, **GUEST)
    for command in EXAMPLES:
        events, of = events_for(k), counts(command)
        for count in of:
            events.add(f"f:oracle/e_{count.function} {count.function} $comm")
            events.add(f"f64:oracle/r_{count.function} {count.function}%return ret=$retval:s32 $comm")
        sink = ListSink()
        tracer = RecordTracer(k, sink, events=recorded_events(k, events))
        tracer.register([])
        run(k, "workload " + " ".join(command))
        rows = {row.func: row for row in tracer.finish("command finished", 0).functions}
        hits = [event for event in sink.events if isinstance(event, Hit)]
        assert {event.fields[-1].value for event in hits if event.fields} == {"workload"}
        for count in of:
            entries, returns = rows[f"oracle/e_{count.function}"], rows[f"oracle/r_{count.function}"]
            assert (entries.hits, entries.exits, entries.missed, entries.lost) == (count.entries, 0, 0, 0)
            assert (returns.hits, returns.exits, returns.missed, returns.lost) == (count.entries, count.exits, 0, 0)
            retvals = {event.fields[0].value for event in hits if event.fields and event.probe_event == returns.func}
            assert count.retval is None or retvals <= {str(count.retval)}


def test_calls_without_a_node_are_missed(guest: Callable[..., Kernel]) -> None:
    k = guest(kernel="6.1", **GUEST)
    command = ("recursive", "4", "3")
    (count,) = counts(command)
    events = events_for(k)
    for number, maxactive in enumerate((1, 64)):
        events.add(f"f{maxactive}:oracle/rec{number} {count.function}%return $retval")
    tracer = RecordTracer(k, ListSink(), events=recorded_events(k, events))
    tracer.register([])
    run(k, "workload " + " ".join(command))
    rows = {row.func: row for row in tracer.finish("command finished", 0).functions}
    assert rows["oracle/rec0"].hits + rows["oracle/rec0"].missed == rows["oracle/rec1"].hits == count.entries
    assert 0 < rows["oracle/rec0"].missed < count.entries


def test_the_command(tmp_path: Path) -> None:
    """Events and functions in one order; each in its own row of the summary."""
    arguments = ("trace", "--backend", "rsp", "--smp", "2", "--record", "-f", "jsonl", "-i", "vfs_fallocate")
    definitions = ("f:oracle/fall vfs_fallocate mode name=$arg1:%pD", "f:oracle/ret vfs_fallocate%return $retval len")
    outcome = run_tool(*arguments, *definitions, "--", "workload args 6", tmp=tmp_path)
    assert outcome.status == 0, outcome.err
    *events, summary = [event for event in map(json.loads, outcome.lines) if event["type"] != "console"]
    assert summary["dispatch"] == "trampoline (record)"
    found = [(event["type"], event.get("event")) for event in events]
    assert found == [("entry", "oracle/fall"), ("entry", None), ("exit", None), ("exit", "oracle/ret")] * 6
    for number, event in enumerate(events[::4]):
        assert event["fields"]["mode"] == ("3", "256")[number % 2]
        assert event["fields"]["name"].startswith("memfd:")
    assert [event["fields"] for event in events[3::4]] == [
        {"arg1": ("0", "-95")[number % 2], "len": str(8192 + number)} for number in range(6)
    ]
    assert {row["func"]: row["hits"] for row in summary["functions"]} == dict.fromkeys(
        ("vfs_fallocate", "oracle/fall", "oracle/ret"), 6
    )


def test_questions_about_events(guest: Callable[..., Kernel]) -> None:
    """Each call is a hit or kept out; what needs the return is asked there."""
    k = guest(kernel="6.1", **GUEST)
    for filter_, of_entries, of_returns in (
        ("mode == 3", 10, 10),
        ('comm == "workload" && file->f_path.dentry->d_name.name ~ "memfd:*" && len > 8204', 7, 7),
        ("retval < 0 && offset >= 40960", None, 5),
    ):
        events = events_for(k)
        events.add("f:oracle/ret vfs_fallocate%return $retval mode len")
        if of_entries is not None:
            events.add("f:oracle/fall vfs_fallocate mode len name=$arg1:%pD")
        sink = ListSink()
        tracer = RecordTracer(k, sink, events=recorded_events(k, events, Questions(filter=filter_)))
        tracer.register([])
        run(k, "workload args 20")
        summary = tracer.finish("command finished", 0)
        hits = Counter(event.probe_event for event in sink.events if isinstance(event, Hit))
        assert (hits["oracle/ret"], hits.get("oracle/fall")) == (of_returns, of_entries)
        assert summary.hits + summary.kept_out == 20 * len(events)
        assert (summary.faults, summary.missed, summary.lost) == (0, 0, 0)
    events = events_for(k)
    events.add("f:oracle/fall vfs_fallocate")
    with pytest.raises(UsageError, match="fall is an event at an entry"):
        recorded_events(k, events, Questions(errors=()))


def test_a_boot_has_handlers_for_what_is_behind_pointers(tmp_path: Path) -> None:
    """The kernel looks through its page tables while it boots; the window must not be there yet."""
    arguments = ("trace", "--backend", "rsp", "--from-boot", "--record")
    definition = "f:oracle/open vfs_open path->dentry->d_name.name:string"
    outcome = run_tool(*arguments, definition, "--", "cat /etc/motd", tmp=tmp_path)
    assert outcome.status == 0, outcome.err
    assert 'open: vfs_open(arg1="motd")' in outcome.out
    (line,) = [line for line in outcome.lines if line.startswith("dispatch: ")]
    assert "not recorded, since an argument follows pointers" in line


def test_what_does_not_fit_is_handled(guest: Callable[..., Kernel]) -> None:
    k = guest(kernel="6.1", **GUEST)
    events = events_for(k)
    events.add("f:oracle/many vfs_open " + " ".join(f"a{i}=path->dentry->d_name.name:string" for i in range(20)))
    with pytest.raises(NotCompiled, match="do not fit"):
        recorded_events(k, events)
