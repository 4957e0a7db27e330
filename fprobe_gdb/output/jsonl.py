"""One JSON object a line, for programs. This form is stable: fields may be added, none is renamed or removed.

Numbers: addresses, registers and return values are strings of lower-case hexadecimal digits behind ``0x`` (64 bits do
not fit into the numbers of many JSON readers); counts and times are integers. Times are nanoseconds; ``time_ns`` is
guest time, a clock that stands still while the guest is stopped. All lines are plain ASCII. Characters that are no
Unicode scalar values (a guest's console may print any bytes) appear as text of the form ``\\xff`` or ``\\ud800``.

Every object begins with ``type``. In this order:

``entry``, a probed function was entered:

============== ======= ==================================================================================
``type``       string  ``"entry"``
``func``       string  symbol of the probed function
``entry_ip``   hex     its ftrace location (the 5-byte fentry instruction; with IBT symbol + 4)
``ret_ip``     hex     address that the call returns to
``cpu``        integer number of the CPU
``task``       hex     ``struct task_struct *`` of the running task
``time_ns``    integer guest time
``args``       object  argument registers by pt_regs' names (``di si dx cx r8 r9``), each hex
``caller``     string  ``ret_ip`` as symbol+offset
``depth``      integer probed calls of this task in flight around this one
``comm``       string  name of the task, null where the kernel's types are unknown
``pid``        integer its pid, or null
``params``     object  arguments by name as text (``"count": "4096"``), or null
============== ======= ==================================================================================

``exit``, a probed function returned: ``type`` to ``time_ns`` as above, then:

=============== ======= =================================================================================
``retval``      hex     return value (the register ax, all 64 bits)
``duration_ns`` integer guest time from entry to exit
``caller``      string  ``ret_ip`` as symbol+offset
``depth``       integer the same as of its entry
``comm``        string  as of an entry
``pid``         integer as of an entry
``result``      string  return value by its type as text (``"-2 (-ENOENT)"``), empty for void; null where unknown
=============== ======= =================================================================================

``missed``, fprobe's rules gave a hit to no handler: ``type`` to ``time_ns`` as above, then:

============== ======= ==================================================================================
``reason``     string  ``"pool"`` (no free rethook node), ``"recursion"``, ``"kprobe"`` (a kprobe was running), or
                       ``"exit-recursion"``: the call was a hit already and only its exit handler did not run
``depth``      integer as of an entry
============== ======= ==================================================================================

``lost``, hits that are neither given to a handler nor in the kernel's ``nmissed``: ``type`` to ``time_ns``, then:

============== ======= ==================================================================================
``reason``     string  ``"list-recursion"`` (several fprobes at one function), ``"host-away"`` (let through, since
                       the host did not answer in time), or ``"ring-full"`` (record mode: at the end of the trace, a
                       line for each function, with zeros in place of addresses)
``count``      integer calls that this line stands for
``depth``      integer as of an entry
============== ======= ==================================================================================

``event``, and what else ``entry``, ``exit``, ``missed`` and ``lost`` have, at last, where they are of a probe event
(``fprobe-gdb trace 'f:myread vfs_read count'``); ``params`` and ``result`` are null there:

============== ======= ==================================================================================
``event``      string  ``GROUP/EVENT`` of the definition
``fields``     object  its arguments by name; in ``entry`` and ``exit`` only. Strings as they are, all else as text in
                       the kernel's form (``"4096"``, ``"0xffff888005cf9a80"``, ``"vfs_read+0x4/0x370"``), arrays as
                       arrays of these, null for what could not be read
``stack``      array   with ``--stack``: kernel stack as symbol+offset, innermost first; also of an ``entry`` that is no
                       probe event's. One that broke off ends with the reason, in parentheses
============== ======= ==================================================================================

``console``, a line of text from the guest:

============== ======= ==================================================================================
``type``       string  ``"console"``
``source``     string  ``"console"`` (kernel messages), ``"command"`` (output of the traced command) or ``"module"``
                       (a module was loaded or unloaded, and how many of its functions are probed)
``line``       string  the text
``time_ns``    integer guest time
============== ======= ==================================================================================

``summary``, the last line of a trace:

=================== =============== =====================================================================
``type``            string          ``"summary"``
``functions``       array           an object for each probed function, most hits first: ``func`` (string), ``hits``,
                                    ``missed``, ``lost``, ``exits``, ``exits_missed`` (integers), ``min_ns``,
                                    ``mean_ns``, ``max_ns`` (integers, null where no call returned). Functions of one
                                    name share one. For each probe event too: ``func`` is its ``GROUP/EVENT``
``hits``            integer         calls that were given to handlers
``missed``          integer         calls that fprobe's rules refused; hits + missed + lost = calls
``lost``            integer         calls that got lost
``exits``           integer         returns that were seen
``exits_missed``    integer         hits whose exit handler was refused; the kernel's ``nmissed`` is missed +
                                    exits_missed
``host_ns_per_hit`` integer or null host time to handle one entry or one exit; null where there was none
``ended``           string          ``"command finished"``, ``"max-hits"``, ``"timeout"``, ``"interrupted"`` or
                                    ``"guest died"``
``command_status``  integer or null exit status of the command in the guest
``dispatch``        string          dispatch, target and breakpoint kind
``aggregates``      array           an object for each ``--hist`` and ``--count-by``
``kept_out``        integer         calls that filters kept out, which are in none of the counts above
``undecided``       integer         calls that a filter was to judge at their return, which had not come; in none of the
                                    counts above either
``faults``          integer         evaluations of a filter that ran into memory that cannot be read
``cpus``            integer         CPUs of the guest
=================== =============== =====================================================================
"""

from __future__ import annotations

import json
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import TextIO, assert_never

from fprobe_gdb.events import (
    ConsoleEvent,
    EntryEvent,
    Event,
    EventField,
    ExitEvent,
    LostEvent,
    MissedEvent,
    SummaryEvent,
)
from fprobe_gdb.output.base import AnyEvent, LineWriter
from fprobe_gdb.output.escape import scalar_values

__all__ = ["JsonlSink"]


class JsonlSink:
    """Events as JSON lines. See the module's docstring for every field.

    :param live: make every line visible at once; otherwise in blocks and at :meth:`flush`.
    """

    def __init__(self, stream: TextIO, *, live: bool = True) -> None:
        self._out = LineWriter(stream, live=live)

    def write(self, event: AnyEvent) -> None:
        """Write one event. See :meth:`EventSink.write <fprobe_gdb.output.base.EventSink.write>`."""
        self._out.line(_object(event))

    def flush(self) -> None:
        """Make all lines written so far visible."""
        self._out.flush()

    def close(self) -> None:
        """Make all lines visible; the stream stays open."""
        self._out.flush()


# Objects are put together by hand, which takes a third of the time of json.dumps().
def _object(event: AnyEvent) -> str:
    match event:
        case EntryEvent():
            args = _args_template(tuple(event.args)) % tuple(event.args.values())
            params = "null" if event.params is None else _params(event.params)
            return (
                f'{_start("entry", event)},"args":{{{args}}},"caller":{_name(event.caller)},"depth":{event.depth}'
                f',{_task(event)},"params":{params}{_more(event)}}}'
            )
        case ExitEvent():
            return (
                f'{_start("exit", event)},"retval":"{event.retval:#x}","duration_ns":{event.duration_ns}'
                f',"caller":{_name(event.caller)},"depth":{event.depth},{_task(event)}'
                f',"result":{"null" if event.result is None else _string(event.result)}{_more(event)}}}'
            )
        case MissedEvent():
            reason = _string(event.reason.value)
            return f'{_start("missed", event)},"reason":{reason},"depth":{event.depth}{_event_name(event)}}}'
        case LostEvent():
            reason = _string(event.reason.value)
            counts = f'"count":{event.count},"depth":{event.depth}'
            return f'{_start("lost", event)},"reason":{reason},{counts}{_event_name(event)}}}'
        case ConsoleEvent():
            source, line = _string(event.source), _string(event.line)
            return f'{{"type":"console","source":{source},"line":{line},"time_ns":{event.time_ns}}}'
        case SummaryEvent():
            return json.dumps(_summary(event), separators=(",", ":"))
        case _:
            assert_never(event)


# What all events of hits begin with; the brace stays open.
def _start(type_: str, event: Event) -> str:
    return (
        f'{{"type":"{type_}","func":{_name(event.func)},"entry_ip":"{event.entry_ip:#x}","ret_ip":"{event.ret_ip:#x}"'
        f',"cpu":{event.cpu},"task":"{event.task:#x}","time_ns":{event.time_ns}'
    )


def _string(text: str) -> str:
    return encode_basestring_ascii(scalar_values(text))


# The same for symbols, of which a trace has few but each many times.
_name = lru_cache(maxsize=8192)(_string)


def _task(event: EntryEvent | ExitEvent) -> str:
    comm = "null" if event.comm is None else _name(event.comm)
    return f'"comm":{comm},"pid":{"null" if event.pid is None else event.pid}'


def _params(params: tuple[tuple[str, str], ...]) -> str:
    return "{" + ",".join(f"{_name(name)}:{_string(text)}" for name, text in params) + "}"


# What only some lines have: of probe events, and with stacks.
def _more(event: EntryEvent | ExitEvent) -> str:
    fields = "" if event.fields is None else f',"fields":{{{",".join(map(_field, event.fields))}}}'
    stack = "" if event.stack is None else f',"stack":[{",".join(map(_name, event.stack))}]'
    return f"{_event_name(event)}{fields}{stack}"


def _event_name(event: Event) -> str:
    return "" if event.probe_event is None else f',"event":{_name(event.probe_event)}'


def _field(field: EventField) -> str:
    if isinstance(field.value, tuple):
        return f"{_name(field.name)}:[{','.join(map(_string_or_null, field.value))}]"
    return f"{_name(field.name)}:{_string_or_null(field.value)}"


def _string_or_null(text: str | None) -> str:
    return "null" if text is None else _string(text)


# What is the same in the arguments of every entry, with places for the values; twice as fast as joining the pieces.
@lru_cache(maxsize=64)
def _args_template(names: tuple[str, ...]) -> str:
    return ",".join(_string(name).replace("%", "%%") + ':"%#x"' for name in names)


def _summary(event: SummaryEvent) -> dict[str, object]:
    return {
        "type": "summary",
        "functions": [
            {
                "func": scalar_values(row.func),
                "hits": row.hits,
                "missed": row.missed,
                "lost": row.lost,
                "exits": row.exits,
                "exits_missed": row.exits_missed,
                "min_ns": row.min_ns,
                "mean_ns": row.mean_ns,
                "max_ns": row.max_ns,
            }
            for row in event.functions
        ],
        "hits": event.hits,
        "missed": event.missed,
        "lost": event.lost,
        "exits": event.exits,
        "exits_missed": event.exits_missed,
        "host_ns_per_hit": event.host_ns_per_hit,
        "ended": scalar_values(event.ended),
        "command_status": event.command_status,
        "dispatch": scalar_values(event.dispatch),
        "aggregates": [aggregate.as_dict() for aggregate in event.aggregates],
        "kept_out": event.kept_out,
        "undecided": event.undecided,
        "faults": event.faults,
        "cpus": event.cpus,
    }
