"""What the kernel refuses, we refuse with its words, its caret and its errno."""

from __future__ import annotations

import pytest

from fprobe_gdb.probe_events import MESSAGES, ProbeEventError, ProbeEvents, TracepointRefused
from tests.unit.probe_events.error_cases import ACCEPTED, REFUSED, REFUSED_TRACEPOINTS, Refused
from tests.unit.probe_events.made_up_kernel import MadeUpKernel


@pytest.fixture(scope="module")
def kernel() -> MadeUpKernel:
    return MadeUpKernel()


@pytest.mark.parametrize("case", REFUSED + REFUSED_TRACEPOINTS, ids=str)
def test_refused(kernel: MadeUpKernel, case: Refused) -> None:
    events = ProbeEvents(kernel)
    for line in case.before:
        events.add(line)
    with pytest.raises(ProbeEventError) as caught:
        events.add(case.line)
    error = caught.value
    assert (error.message_id, error.column, error.errno_name) == (case.message_id, case.column, case.errno_name)
    assert tuple(it.message_id for it in error.later) == case.later
    assert len(events) == len(case.before)


@pytest.mark.parametrize(("line", "shown"), ACCEPTED)
def test_accepted(kernel: MadeUpKernel, line: str, shown: str | None) -> None:
    definition = ProbeEvents(kernel).add(line)
    if shown is not None:
        assert str(definition) == shown.format(name=40, dentry=56)


def test_an_error_prints_as_in_error_log(kernel: MadeUpKernel) -> None:
    with pytest.raises(ProbeEventError) as caught:
        ProbeEvents(kernel).add("f  vfs_read\tfile->foo")
    assert str(caught.value) == (
        "trace_fprobe: error: This field is not found.\n"
        "  Command: f vfs_read file->foo\n"
        "                            ^"
    )  # fmt: skip


def test_every_message_has_a_case() -> None:
    """But for those that take a kernel of another make."""
    shown = {case.message_id for case in REFUSED + REFUSED_TRACEPOINTS}
    assert set(MESSAGES) - shown - {"EVENT_TOO_BIG", "ARGS_2LONG"} == set()


def test_too_big(kernel: MadeUpKernel) -> None:
    words = " ".join(f"a{n}=+0(\\1):u64[64]" for n in range(7))
    with pytest.raises(ProbeEventError) as caught:
        ProbeEvents(kernel).add(f"f vfs_read {words}")
    assert caught.value.message_id == "EVENT_TOO_BIG"
    assert caught.value.command[: caught.value.column].endswith("a6=+0(")


@pytest.mark.parametrize("line", ["f", "x vfs_read", "f vfs_read " + " ".join(f"\\{n}" for n in range(129)), "f a\0b"])
def test_refused_without_a_word(kernel: MadeUpKernel, line: str) -> None:
    """The kernel logs nothing of these; we say what is wrong."""
    with pytest.raises(ProbeEventError) as caught:
        ProbeEvents(kernel).add(line)
    assert caught.value.message_id == ""
    assert caught.value.text


def test_lines_have_an_end(kernel: MadeUpKernel) -> None:
    with pytest.raises(ProbeEventError, match="at most 4094 bytes"):
        ProbeEvents(kernel).add("f vfs_read " + "x" * 4090)


@pytest.mark.parametrize(
    ("line", "why"),
    [("t sched_switch", r"has no __probestub_sched_switch\(\)"), ("t no_such", "has no tracepoint 'no_such'")],
)
def test_tracepoints_are_refused_for_a_reason(kernel: MadeUpKernel, line: str, why: str) -> None:
    with pytest.raises(TracepointRefused, match=why):
        ProbeEvents(kernel).add(line)


@pytest.mark.parametrize(("line", "names"), [("t kfree ptr", ["ptr"]), ("t:a/b kfree $arg*", ["call_site", "ptr"])])
def test_a_tracepoint_is_probed_by_the_function_that_hangs_on_it(
    kernel: MadeUpKernel, line: str, names: list[str]
) -> None:
    definition = ProbeEvents(kernel).add(line)
    assert definition is not None
    assert (definition.symbol, definition.function) == ("kfree", "__probestub_kfree")
    assert [argument.name for argument in definition.arguments] == names


def test_the_cause_says_more_than_the_kernel(kernel: MadeUpKernel) -> None:
    with pytest.raises(ProbeEventError) as caught:
        ProbeEvents(kernel).add("f no_such_function")
    assert "no_such_function matches nothing" in str(caught.value.__cause__)
