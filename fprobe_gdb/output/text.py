"""One line an event, for people, live; then a table::

    #       TIME CPU   TASK              FUNCTION
        1.234568 [000] cat-71            → ksys_read(fd=3, buf=0x7ffc12345678, count=1024) <- do_syscall_64+0x35
        1.234571 [000] cat-71              → vfs_read(file=0xffff8880 "motd", ..., count=1024) <- ksys_read+0x75
        1.234584 [000] cat-71              ← vfs_read = -5 (-EIO) 12.9us
        1.234590 [000] ffff888003a4b100    × vfs_read missed (pool)
        1.234600 console | a line of the guest's console

Probe events stand where their hits are, under their names; a stack under its entry::

        1.234571 [000] cat-71              → myread: vfs_read(name="motd" count=1024) <- ksys_read+0x75
                                               => vfs_read+0x4
                                               => ksys_read+0x75
        1.234584 [000] cat-71              ← vfs_read__exit: vfs_read(arg1=36) 12.9us

Guest time is absolute, in ftrace's form. TASK is name and pid, or the ``struct task_struct *`` where the kernel's types
are unknown; arguments are registers then, and return values hexadecimal. A call inside a probed call of the same task
is two columns to the right. A console line never looks like an event: its text stands behind ``|``, stays on one
line and has no control characters (:mod:`fprobe_gdb.output.escape`).
"""  # noqa: RUF002

from __future__ import annotations

import codecs
from functools import lru_cache
from itertools import islice
from typing import TextIO, assert_never

from fprobe_gdb.errors import UsageError
from fprobe_gdb.events import (
    ConsoleEvent,
    EntryEvent,
    Event,
    EventField,
    ExitEvent,
    LostEvent,
    MissedEvent,
    MissReason,
    SummaryEvent,
)
from fprobe_gdb.output.base import AnyEvent, LineWriter
from fprobe_gdb.output.color import COLORED, PLAIN
from fprobe_gdb.output.escape import encodable, printable
from fprobe_gdb.output.quantities import duration, error_code, guest_time, retval
from fprobe_gdb.output.table import summary_lines
from fprobe_gdb.registers import ARGUMENT_REGISTERS

__all__ = ["TextSink"]

# Marks of entry, exit and miss.
_ARROWS = ("→", "←", "×")  # noqa: RUF001
# Of the stack of a call at depth 0: behind time, CPU, task and mark, and a little to the right.
_STACK_COLUMN = 41
_ASCII_ARROWS = ("->", "<-", "x ")


class TextSink:
    """Events as text. See the module's docstring for the form.

    :param stream: a text stream; its encoding decides whether arrows are drawn or spelled (``->``, ``<-``).
    :param color: see :func:`~fprobe_gdb.output.color.use_color`.
    :param args: how many argument registers of an entry to show, 0 to 6, where its arguments' names are unknown.
    :param live: show every line at once; otherwise in blocks and at :meth:`flush`.
    :param header: begin with a line that names the columns.
    :raise UsageError: ``args`` out of range.
    """

    def __init__(self, stream: TextIO, *, color: bool, args: int = 3, live: bool = True, header: bool = True) -> None:
        if not 0 <= args <= len(ARGUMENT_REGISTERS):
            raise UsageError(f"cannot show {args} arguments: 0 to {len(ARGUMENT_REGISTERS)} are passed in registers")
        self._out = LineWriter(stream, live=live)
        self._colors = COLORED if color else PLAIN
        self._args = args
        self._header_due = header
        # None where the stream takes every character.
        self._encoding = _limited_encoding(stream)
        self._entry, self._exit, self._miss = (
            _ARROWS if _can_encode("".join(_ARROWS), self._encoding) else _ASCII_ARROWS
        )

    def write(self, event: AnyEvent) -> None:
        """Write one event. See :meth:`EventSink.write <fprobe_gdb.output.base.EventSink.write>`."""
        if self._header_due:
            self._header_due = False
            columns = f"#{'TIME':>11} {'CPU':<5} {'TASK':<16}  FUNCTION"
            self._line(f"{self._colors.dim}{columns}{self._colors.reset}")
        self._line(self._text(event))

    def flush(self) -> None:
        """Show all lines written so far."""
        self._out.flush()

    def close(self) -> None:
        """Show all lines; the stream stays open."""
        self._out.flush()

    def _line(self, text: str) -> None:
        self._out.line(encodable(text, self._encoding) if self._encoding else text)

    def _text(self, event: AnyEvent) -> str:
        match event:
            case EntryEvent():
                return self._entry_text(event)
            case ExitEvent():
                return self._exit_text(event)
            case MissedEvent():
                return self._missed_text(event)
            case LostEvent():
                return self._lost_text(event)
            case ConsoleEvent():
                return self._console_text(event)
            case SummaryEvent():
                return "\n".join(summary_lines(event, self._colors))
            case _:
                assert_never(event)

    # Time, CPU, task, nesting, mark and function: what all lines of hits begin with.
    def _start(self, event: Event, depth: int, mark_color: str, mark: str) -> str:
        colors = self._colors
        task = _task_text(event)
        return (
            f"{colors.dim}{guest_time(event.time_ns)} [{event.cpu:03d}] {task:<16}{colors.reset}  {'  ' * depth}"
            f"{mark_color}{mark}{colors.reset} {_event_name(event)}{colors.func}{printable(event.func)}{colors.reset}"
        )

    def _entry_text(self, event: EntryEvent) -> str:
        colors = self._colors
        if event.fields is not None:
            args = _fields_text(event.fields)
        elif event.params is not None:
            args = ", ".join(f"{printable(name)}={printable(text)}" for name, text in event.params)
        else:
            names = tuple(islice(event.args, self._args))
            args = _args_template(names) % tuple(islice(event.args.values(), self._args))
        return (
            f"{self._start(event, event.depth, colors.entry, self._entry)}({args})"
            f"{colors.dim} <- {printable(event.caller)}{colors.reset}{self._stack_text(event)}"
        )

    def _exit_text(self, event: ExitEvent) -> str:
        colors = self._colors
        if event.fields is not None:
            start = self._start(event, event.depth, colors.exit, self._exit)
            return f"{start}({_fields_text(event.fields)}) {duration(event.duration_ns)}{self._stack_text(event)}"
        value = retval(event.retval) if event.result is None else printable(event.result)
        value_color = colors.error if error_code(event.retval) and event.result != "" else ""
        return (
            f"{self._start(event, event.depth, colors.exit, self._exit)}{' = ' if value else ''}"
            f"{value_color}{value}{colors.reset if value_color else ''} {duration(event.duration_ns)}"
        )

    def _stack_text(self, event: EntryEvent | ExitEvent) -> str:
        colors = self._colors
        indent = " " * (_STACK_COLUMN + 2 * event.depth)
        return "".join(f"\n{indent}{colors.dim}=> {printable(line)}{colors.reset}" for line in event.stack or ())

    def _missed_text(self, event: MissedEvent) -> str:
        what = "exit missed" if event.reason is MissReason.EXIT_RECURSION else "missed"
        return f"{self._start(event, event.depth, self._colors.missed, self._miss)} {what} ({event.reason.value})"

    def _lost_text(self, event: LostEvent) -> str:
        times = f" {event.count} times" if event.count != 1 else ""
        start = self._start(event, event.depth, self._colors.lost, self._miss)
        return f"{start} lost{times} ({event.reason.value})"

    def _console_text(self, event: ConsoleEvent) -> str:
        colors = self._colors
        text = f"{guest_time(event.time_ns)} {printable(event.source)} | {printable(event.line)}"
        return f"{colors.dim}{text}{colors.reset}"


# "myread: ", without its group, as the kernel has it.
def _event_name(event: Event) -> str:
    return f"{printable(event.probe_event.rpartition('/')[2])}: " if event.probe_event is not None else ""


def _fields_text(fields: tuple[EventField, ...]) -> str:
    return " ".join(f"{field.name}={printable(field.text)}" for field in fields)


def _task_text(event: Event) -> str:
    if isinstance(event, EntryEvent | ExitEvent) and event.comm is not None:
        return f"{printable(event.comm)}-{event.pid}"
    return f"{event.task:016x}"


# The argument registers of an entry with places for their values; as it is nearly always the same, it is kept.
@lru_cache(maxsize=64)
def _args_template(names: tuple[str, ...]) -> str:
    return ", ".join(printable(name).replace("%", "%%") + "=%#x" for name in names)


# The stream's encoding when it lacks some characters, else None (also for streams in memory, which have none).
def _limited_encoding(stream: TextIO) -> str | None:
    encoding: str | None = getattr(stream, "encoding", None)
    if encoding is None:
        return None
    try:
        name = codecs.lookup(encoding).name
    except LookupError:
        return "ascii"
    return None if name.startswith("utf-8") else name


def _can_encode(text: str, encoding: str | None) -> bool:
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True
