"""The guest's own tracers (tracefs) as the judge of ours: switched on, read and taken apart.

The text is the kernel's default one (kernel/trace/trace_output.c; the same in 6.1 and 6.12)::

            workload-113     [001] ...1.     2.967762: vfs_write <-ksys_write
            workload-113     [001] .....     2.967972: x_vfs_write: (ksys_write+0xb7/0xf0 <- vfs_write) ret=1

Both ends of a trace lie in shell commands of ours, whose own calls are traced too. A test that looks at functions which
others call as well cuts them off: see :func:`between_marks`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from fprobe_gdb import Kernel

TRACING = "/sys/kernel/tracing"
#: Of the events that we define.
GROUP = "oracle"
#: In KiB for each CPU: many times what any test writes.
_BUFFER_KIB = 8192

_RECORD = re.compile(
    r"^\s*(?P<comm>\S.*)-(?P<pid>\d+)\s+\[(?P<cpu>\d+)\]\s+(?P<flags>\S{5})\s+"
    r"(?P<sec>\d+)\.(?P<usec>\d+): (?P<text>.*)$"
)
_CALL = re.compile(r"^(?P<function>\S+) <-(?P<parent>\S+)$")
_EVENT = re.compile(r"^(?P<event>\w+): \((?P<where>[^)]*)\)(?P<fields>.*)$")
_FIELD = re.compile(r"(\w+)=(\S+)")
_COUNTS = re.compile(r"^# entries-in-buffer/entries-written: (\d+)/(\d+)", re.MULTILINE)

#: Removes every trace of tracing: all is as after a boot, but for the size of the buffer.
_RESET = f"""cd {TRACING}
echo 0 >tracing_on
echo nop >current_tracer
[ ! -e events/{GROUP} ] || echo 0 >events/{GROUP}/enable
: >dynamic_events
: >set_ftrace_filter
echo global >trace_clock
: >trace
echo 1 >tracing_on
"""


@dataclass(frozen=True)
class Record:
    """One line of the guest's trace."""

    pid: int
    cpu: int
    #: The third of the five flags: ``h`` in a hard interrupt, ``s`` in a soft one, ``.`` in a task.
    context: str
    time_ns: int
    #: The function that was entered (function tracer), or the event.
    name: str
    #: Empty for the function tracer.
    fields: dict[str, int]
    #: The function tracer's record of an entry; else an event.
    is_call: bool


def parse(text: str) -> list[Record]:
    """Take a trace apart. Every line must be understood, and the ring buffer must not have overflowed."""
    counts = _COUNTS.search(text)
    assert counts, f"not a trace: {text[:200]!r}"
    in_buffer, written = map(int, counts.groups())
    assert in_buffer == written, f"the guest's ring buffer has lost records: {in_buffer} of {written} are left"
    records = [_record(line) for line in text.splitlines() if line and not line.startswith("#")]
    assert len(records) == in_buffer
    return records


def _record(line: str) -> Record:
    match = _RECORD.match(line)
    assert match, f"this line of the guest's trace is not understood: {line!r}"
    call, event = _CALL.match(match["text"]), _EVENT.match(match["text"])
    assert call or event, f"neither a call nor an event: {line!r}"
    return Record(
        pid=int(match["pid"]),
        cpu=int(match["cpu"]),
        context=match["flags"][2],
        time_ns=int(match["sec"]) * 1_000_000_000 + int(match["usec"]) * 1000,
        name=call["function"] if call else event["event"] if event else "",
        fields={name: int(value, 0) for name, value in _FIELD.findall(event["fields"])} if event else {},
        is_call=call is not None,
    )


class GuestTracer:
    """Tracing that is switched on; made by :func:`tracing`."""

    def __init__(self, k: Kernel) -> None:
        self._k = k

    def stop(self) -> list[Record]:
        """Stop tracing, and return what was traced so far. The definitions stay until :func:`tracing` ends."""
        run(self._k, f"echo 0 >{TRACING}/tracing_on")
        return parse(run(self._k, f"cat {TRACING}/trace"))

    def kprobe_misses(self) -> dict[str, int]:
        """``kprobe_profile``: the misses of each kprobe event (fprobe events are not in there)."""
        rows = [line.split() for line in run(self._k, f"cat {TRACING}/kprobe_profile").splitlines()]
        return {name: int(missed) for name, _hits, missed in rows}


@contextmanager
def tracing(
    k: Kernel, functions: Sequence[str] = (), events: Sequence[str] = (), clock: str = "global"
) -> Iterator[GuestTracer]:
    """Switch the guest's tracers on, and off again at the end.

    :param functions: for the function tracer: exact names.
    :param events: definitions for ``dynamic_events``, in the group :data:`GROUP`.
    :param clock: a word of ``trace_clock``.
    """
    setup = [_RESET, "echo 0 >tracing_on", f"echo {_BUFFER_KIB} >buffer_size_kb", f"echo {clock} >trace_clock"]
    setup += [f"echo {name} >>set_ftrace_filter" for name in functions]
    setup += [f"echo '{definition}' >>dynamic_events" for definition in events]
    setup += [f"echo 1 >events/{GROUP}/enable"] if events else []
    setup += ["echo function >current_tracer"] if functions else []
    try:
        run(k, "set -e\n" + "\n".join(setup) + "\necho 1 >tracing_on")
        yield GuestTracer(k)
    finally:
        run(k, _RESET)


def run(k: Kernel, command: str, timeout_sec: float = 120.0) -> str:
    """Run a shell command in the guest that must succeed, and return its output."""
    result = k.shell(command, timeout_sec=timeout_sec)
    assert result.status == 0, f"{command!r} ended with {result.status}: {result.text}"
    return result.text
