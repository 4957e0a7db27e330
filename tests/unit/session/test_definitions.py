"""Definitions as users give them: which line is wrong, and why, in the kernel's words."""

from __future__ import annotations

import pytest

from fprobe_gdb.cli.exits import ExitCode, describe, exit_code
from fprobe_gdb.errors import InvalidProbe, UsageError
from fprobe_gdb.probe_events import ProbeEvents
from fprobe_gdb.session.definitions import DefinitionLine, DefinitionRefused, define, lines_of
from tests.unit.probe_events.made_up_kernel import MadeUpKernel


class Kernel(MadeUpKernel):
    """Says of unknown functions that nothing matched, as the real catalog does."""

    def refusal(self, pattern: str) -> InvalidProbe | None:
        error = super().refusal(pattern)
        if error is not None:
            error.no_match = True
        return error


@pytest.fixture
def events() -> ProbeEvents:
    return ProbeEvents(Kernel())


def test_a_file_has_comments_blank_lines_and_removals(events: ProbeEvents) -> None:
    text = "# what\n\nf:a vfs_read count  # how much\n\tf:b vfs_read buf\n-:b\n"
    define(events, [*lines_of(text, "x"), DefinitionLine("f:c dput")])
    assert str(events) == "f:fprobes/a vfs_read count=count\nf:fprobes/c dput\n"


def test_the_caret_stands_where_the_kernel_puts_it(events: ProbeEvents) -> None:
    with pytest.raises(DefinitionRefused) as caught:
        define(events, lines_of("f dput\n  f   vfs_read  file->nope", "probes.txt"))
    assert str(caught.value) == (
        "probes.txt:2: trace_fprobe: error: This field is not found.\n"
        "  Command: f vfs_read file->nope\n"
        "                            ^"
    )
    assert exit_code(caught.value) == ExitCode.USAGE
    assert describe(caught.value) == str(caught.value)


def test_all_entries_of_the_error_log_are_shown(events: ProbeEvents) -> None:
    with pytest.raises(DefinitionRefused) as caught:
        define(events, [DefinitionLine("f vfs_read %ax")])
    assert str(caught.value).count("trace_fprobe: error: ") == 2


def test_a_function_that_is_not_there_is_no_match(events: ProbeEvents) -> None:
    with pytest.raises(DefinitionRefused, match=r"Failed to register(.*\n){3}.*vfs_reed matches") as caught:
        define(events, [DefinitionLine("f vfs_reed")])
    assert exit_code(caught.value) == ExitCode.NO_MATCH


def test_a_tracepoint_is_refused_with_the_reason(events: ProbeEvents) -> None:
    with pytest.raises(DefinitionRefused, match=r"has no __probestub_sched_switch\(\)") as caught:
        define(events, [DefinitionLine("t sched_switch")])
    assert exit_code(caught.value) == ExitCode.USAGE
    with pytest.raises(DefinitionRefused, match="no tracepoint 'no_such'"):
        define(events, [DefinitionLine("t no_such")])


def test_bytes_that_are_no_text(events: ProbeEvents) -> None:
    with pytest.raises(UsageError, match="no text in UTF-8"):
        define(events, lines_of(b"f:a vfs_read\n# \xff".decode(errors="surrogateescape"), "x"))
