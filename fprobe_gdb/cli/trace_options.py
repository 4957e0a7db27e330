"""Options of ``trace`` and ``attach`` that say what to probe and in which form to show it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click as plain_click
import rich_click as click

from fprobe_gdb.cli.guest_command import TakesGuestCommand
from fprobe_gdb.cli.sinks import FORMATS
from fprobe_gdb.errors import UsageError
from fprobe_gdb.kernel.knowledge import KernelKnowledge
from fprobe_gdb.probe_events import EventDefinition
from fprobe_gdb.session.definitions import DefinitionLine, define, lines_of, locations_of
from fprobe_gdb.session.guest import Kernel
from fprobe_gdb.session.probe_event_runner import events_for, events_of
from fprobe_gdb.session.records import ImageRecords
from fprobe_gdb.session.selection import Selection

__all__ = ["Form", "ProbesCommand", "TraceCommand", "What", "call_options", "form_options", "what_options"]

F = TypeVar("F", bound=Callable[..., Any])

_STACK = "--stack"
#: As many as tracefs' own stack traces have at most on a stack without interrupts.
_STACK_FRAMES = 64
# What begins as a definition does, but is only the first word of one.
_BEGUN = re.compile(r"[ft][0-9]*(:\S*)?$|[-!]:\S*$")


class ProbesCommand(click.RichCommand):
    """A command with the options of this file, and ``definitions``.

    Of ``--stack[=N]`` the number, if there is one, is in the same word.
    """

    def parse_args(self, ctx: plain_click.Context, args: list[str]) -> list[str]:
        """Give ``--stack`` its default, and see that there is something to probe.

        :raise click.UsageError: there is nothing.
        """
        dashes = args.index("--") if "--" in args else len(args)
        own = [f"{_STACK}={_STACK_FRAMES}" if arg == _STACK else arg for arg in args[:dashes]]
        rest = super().parse_args(ctx, own + args[dashes:])
        given = ctx.params
        if not (given["include"] or given["definitions"] or given["events"] or ctx.resilient_parsing):
            raise plain_click.UsageError(
                "what shall be probed? Give functions (--include vfs_read), or definitions of events "
                "('f:myread vfs_read count', or -e FILE)",
                ctx,
            )
        if given["exclude"] and not given["include"]:
            raise plain_click.UsageError("--exclude leaves out functions of --include, and there is no --include", ctx)
        return rest


class TraceCommand(ProbesCommand, TakesGuestCommand):
    """A command with definitions of probe events before ``--``, and the guest's command behind it."""

    def words_before(self, ctx: plain_click.Context, words: tuple[str, ...]) -> None:
        """Take the definitions.

        :raise click.UsageError: for a word that is none.
        """
        for word in words:
            if _BEGUN.match(word):
                raise plain_click.UsageError(
                    f"{word!r} alone defines no event; quote the definition, so that it is one word: "
                    f"'{word} vfs_read count'",
                    ctx,
                )
            if not re.search(r"\s", word):
                super().words_before(ctx, (word,))
        ctx.params["definitions"] = words


@dataclass(frozen=True, slots=True)
class What:
    """What to probe."""

    include: tuple[str, ...]
    exclude: tuple[str, ...]
    lines: tuple[DefinitionLine, ...]

    @classmethod
    def take(cls, values: dict[str, Any]) -> What:
        """Take the options of :func:`what_options`, and ``definitions``, out of a command's keywords.

        :raise UsageError: a file cannot be read.
        """
        files: Sequence[str] = values.pop("events")
        lines = [DefinitionLine(text) for text in values.pop("definitions")]
        lines += [line for path in files for line in lines_of(_read(path), "stdin" if path == "-" else path)]
        return cls(values.pop("include"), values.pop("exclude"), tuple(lines))

    def functions(self, records: ImageRecords) -> list[int]:
        """Locations of the functions that patterns name.

        :raise InvalidProbe: a pattern matches nothing.
        """
        return self.selection.now(records) if self.include else []

    @property
    def selection(self) -> Selection:
        """The patterns."""
        return Selection(self.include, self.exclude)

    def definitions_in_image(self, knowledge: KernelKnowledge, records: ImageRecords) -> list[EventDefinition]:
        """The definitions, checked against a kernel that has not booted.

        :raise DefinitionRefused: one is wrong.
        """
        return self._checked(list(define(events_of(knowledge, knowledge.symbols, records), self.lines)))

    def definitions(self, k: Kernel) -> list[EventDefinition]:
        """The definitions with the addresses of a guest."""
        return list(define(events_for(k), self.lines))

    def locations(self, records: ImageRecords, definitions: Sequence[EventDefinition]) -> list[int]:
        """All that is to be planted."""
        return sorted({*self.functions(records), *locations_of(records, definitions)})

    def _checked(self, definitions: list[EventDefinition]) -> list[EventDefinition]:
        if not (self.include or definitions):
            raise click.UsageError("no event is defined: there are only comments, and lines that remove events")
        return definitions


@dataclass(frozen=True, slots=True)
class Form:
    """In which form, and how much of it."""

    format: str
    graph: bool
    stack: int
    output: str | None

    @classmethod
    def take(cls, values: dict[str, Any]) -> Form:
        """Take the options of :func:`form_options` out of a command's keywords.

        :raise click.UsageError: ``--graph`` in another format.
        """
        form = cls(values.pop("format_"), values.pop("graph"), values.pop("stack") or 0, values.pop("output"))
        if form.graph and form.format != "ftrace":
            raise click.UsageError("--graph is a form of ftrace text; add -f ftrace")
        return form


def what_options(function: F) -> F:
    """``-i``, ``-x`` and ``-e``."""
    for short, long, metavar, text in (
        ("-e", "--events", "FILE", "Definitions of events, one a line; - reads standard input."),
        ("-x", "--exclude", "PATTERN", "Functions to leave out; may be repeated."),
        ("-i", "--include", "PATTERN", "Functions to probe; may be repeated."),
    ):
        function = click.option(short, long, multiple=True, metavar=metavar, help=text)(function)
    return function


def call_options(function: F) -> F:
    """``--entry-only``, ``--maxactive`` and ``--max-hits``."""
    for option in (
        click.option("--max-hits", metavar="N", type=click.IntRange(1), help="Stop after N calls."),
        click.option(
            "--maxactive",
            "nr_maxactive",
            default=0,
            metavar="N",
            type=click.IntRange(0),
            help="Calls in flight at once; more are missed. Default: functions x CPUs x 2, as in the kernel.",
        ),
        click.option("--entry-only", is_flag=True, help="No returns: half the work."),
    ):
        function = option(function)
    return function


def form_options(function: F) -> F:
    """``--stack``, ``--graph``, ``-f`` and ``-o``."""
    for option in (
        click.option("-o", "--output", metavar="FILE", help="Write events there instead of standard output."),
        click.option("--graph", is_flag=True, help="With -f ftrace: calls as the function_graph tracer draws them."),
        click.option(
            "-f",
            "--format",
            "format_",
            type=click.Choice(FORMATS),
            default="text",
            show_default=True,
            help="Lines for people, JSON objects for programs, tracefs' text for its readers, or the summary alone.",
        ),
        click.option(
            _STACK,
            metavar="[=N]",
            type=click.IntRange(1),
            help=f"The kernel stack under each entry and event, N frames at most ({_STACK_FRAMES}).",
        ),
    ):
        function = option(function)
    return function


def _read(path: str) -> str:
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UsageError(f"-e {path}: {error.strerror or error}; give a file with a definition on each line") from error
