"""Adding, listing and removing events as tracefs' ``dynamic_events`` does."""

from __future__ import annotations

import pytest

from fprobe_gdb.probe_events import ProbeEventError, ProbeEvents
from tests.unit.probe_events.made_up_kernel import MadeUpKernel


@pytest.fixture
def events() -> ProbeEvents:
    made = ProbeEvents(MadeUpKernel())
    for line in ("f:g/one vfs_read count", "f:g/one vfs_read count=count:u64 # differs", "f:two kfree%return"):
        made.add(line)
    made.add("f:h/two kfree a=object")
    return made


def test_list(events: ProbeEvents) -> None:
    assert str(events) == (
        "f:g/one vfs_read count=count\n"
        "f:g/one vfs_read count=count:u64\n"
        "f:fprobes/two kfree%return\n"
        "f:h/two kfree a=object\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("-:g/one", 2),
        ("-:g/", 2),
        ("-:two", 2),
        ("-:fprobes/two", 3),
        ("-:g/one vfs_read", 2),
        ("-:g/one vfs_read count=count", 3),
        ("-:two kfree", 2),
        ("!f:h/two kfree a=object", 3),
    ],
)
def test_remove(events: ProbeEvents, line: str, left: int) -> None:
    assert events.add(line) is None
    assert len(events) == left


@pytest.mark.parametrize(
    ("line", "errno_name"),
    [
        ("-:none", "ENOENT"),
        ("-:none/", "ENOENT"),
        ("-:g/one vfs_write", "ENOENT"),
        ("-:two kfree%return", "ENOENT"),
        ("-:", "EINVAL"),
        ("-", "EINVAL"),
        ("!two", "EINVAL"),
    ],
)
def test_nothing_to_remove(events: ProbeEvents, line: str, errno_name: str) -> None:
    with pytest.raises(ProbeEventError) as caught:
        events.remove(line)
    assert caught.value.errno_name == errno_name
    assert len(events) == 4


def test_empty_lines_and_comments(events: ProbeEvents) -> None:
    assert [events.add(line) for line in ("", "   ", "# f vfs_read", "\n")] == [None] * 4
    with pytest.raises(ProbeEventError):
        events.remove("")
    events.clear()
    assert str(events) == ""
