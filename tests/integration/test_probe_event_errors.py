"""Our errors for probe events against the kernel's own: each definition is written to a 6.12 guest's tracefs too.

Text, caret and errno of ``error_log`` must be ours, and what the kernel accepts we must show as it does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import pytest

from fprobe_gdb import Kernel
from fprobe_gdb.kernel.btf import Btf
from fprobe_gdb.probe_events import KernelCatalog, ProbeEventError, ProbeEvents
from tests.integration.guest_tracer import TRACING, run
from tests.unit.probe_events.error_cases import ACCEPTED, REFUSED, REFUSED_TRACEPOINTS

_DEFINED = ("f:g/one vfs_read count", "f:g/one vfs_write count", "f:two kfree%return", "f:h/two kfree a=object")
#: Lines that remove, after :data:`_DEFINED`.
REMOVALS = [
    "-:g/one", "-:g/", "-:two", "-:fprobes/two", "-:h/", "-:none", "-:none/", "-:", "-", "-two", "-:g.one",
    "-:g/one vfs_read", "-:g/one vfs_read count=count", "-:g/one vfs_read count", "-:two kfree%return", "-:two kfree",
    "-:g/one vfs_read count=count x=y", "!f:g/one", "!f:g/one vfs_write count=count", "!two", "!", "!f:", "# -:two",
]  # fmt: skip

pytestmark = pytest.mark.qemu

_RSP = {"kernel": "6.12", "backend": "rsp", "smp": 2, "breakpoint": "sw"}
_INDENT = len("  Command: ")
_MARK = "@@@"
_ERRNO = {
    "Invalid argument": "EINVAL",
    "No such file or directory": "ENOENT",
    "File exists": "EEXIST",
    "Argument list too long": "E2BIG",
    "Operation not supported": "EOPNOTSUPP",
    "Cannot allocate memory": "ENOMEM",
    "Out of memory": "ENOMEM",
    "Numerical result out of range": "ERANGE",
}
_ENTRY = re.compile(r"^\[.*?\] trace_fprobe: error: (?P<text>.*)\n  Command: (?P<command>.*)\n(?P<caret> *\^)$", re.M)

#: Lines for which our answer differs, and why. Each must differ, or does not belong here.
DIFFERENCES = {
    "f vfs_read count:ustring": "the kernel takes an integer's size for the ID of the type that it points to; of a "
    "size_t that is type 8, which is char in this kernel, so that it follows a number",
    "f vfs_read file->f_mode:string": "the kernel's caret is the low half of a difference of unrelated pointers",
}


@dataclass(frozen=True)
class Answer:
    """What became of a line."""

    #: "" when it was accepted.
    errno_name: str
    #: Text and column of each entry of the error log.
    entries: tuple[tuple[str, int], ...]
    #: All of ``dynamic_events`` afterwards.
    shown: str


# Several lines of input for each case: those before the last must be accepted.
Case = tuple[str, ...]


def script(cases: Sequence[Case]) -> str:
    """A shell script that writes each case's lines into dynamic_events and prints what came of them."""
    lines = [f"cd {TRACING}"]
    for case in cases:
        assert not any("'" in line for line in case)
        lines += [f"echo {_MARK}", ": >dynamic_events", "echo >error_log"]
        lines += [f"echo '{line}' 2>&1 >>dynamic_events" for line in case]
        lines += [f"echo {_MARK}", "cat error_log", f"echo {_MARK}", "cat dynamic_events"]
    return "\n".join([*lines, ": >dynamic_events", ":"])


def theirs(k: Kernel, cases: Sequence[Case]) -> list[Answer]:
    """The kernel's answers."""
    parts = run(k, script(cases)).split(_MARK + "\n")[1:]
    assert len(parts) == 3 * len(cases)
    found = []
    for said, log, shown in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        entries = tuple((it["text"], len(it["caret"]) - 1 - _INDENT) for it in _ENTRY.finditer(log))
        assert len(entries) == log.count("error:"), log
        found.append(Answer(_ERRNO[said.strip().rpartition(": ")[2]] if said else "", entries, shown))
    return found


def ours(catalog: KernelCatalog, case: Case) -> Answer:
    """Our answer."""
    events = ProbeEvents(catalog)
    for line in case[:-1]:
        events.add(line)
    try:
        events.add(case[-1])
    except ProbeEventError as error:
        entries = [(it.text, it.column) for it in (error, *error.later) if it.message_id and it.column is not None]
        return Answer(error.errno_name, tuple(entries), str(events))
    return Answer("", (), str(events))


@cache
def catalog(k: Kernel) -> KernelCatalog:
    return KernelCatalog(k.symbols, k.records, Btf.of_image(k.knowledge.image))


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([(*case.before, case.line) for case in REFUSED], id="refused f"),
        pytest.param([(case.line,) for case in REFUSED_TRACEPOINTS], id="refused t"),
        pytest.param([(line,) for line, _ in ACCEPTED], id="accepted"),
        pytest.param([(*_DEFINED, line) for line in REMOVALS], id="removed"),
    ],
)
def test_answers_are_the_kernels(guest: Callable[..., Kernel], lines: list[Case]) -> None:
    """Every line: accepted or not, errno, text and caret, and the list of events afterwards."""
    k = guest(**_RSP)
    different = {}
    for case, their in zip(lines, theirs(k, lines), strict=True):
        our = ours(catalog(k), case)
        if our != their:
            different[case[-1]] = f"ours   {our}\ntheirs {their}"
    unlisted = {line: both for line, both in different.items() if line not in DIFFERENCES}
    assert not unlisted, "\n\n".join(f"{line}\n{both}" for line, both in unlisted.items())
    assert {line for (*_, line) in lines if line in DIFFERENCES} == set(different)
