"""Probe events on the command line. Where the kernel can do the same, its own text is the judge of ours, in one run.

The guest's command switches its own tracefs on, works, and prints ``trace``: so that is in our file too, in comments.
"""

from __future__ import annotations

import re
import signal
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from images.workload_counts import counts
from tests.integration.guest_tracer import TRACING
from tests.integration.test_cli import NO_BOOT, events_of
from tests.integration.tool import Tool, run_tool

pytestmark = pytest.mark.qemu

#: The guest traces the same sites itself, which breakpoints do not mind. One CPU, so that both see one order.
_ORACLE = ("--backend", "rsp", "--dispatch", "breakpoint", "--smp", "1", "-f", "ftrace")

DEFINITIONS = r"""
# Comments and blank lines, as tracefs takes them.

f:oracle/read vfs_read file->f_path.dentry->d_name.name:string count +0(pos):s64 buf  # behind a definition too
f64:oracle/read_ret vfs_read%return $retval count name=$arg1:%pD
f:oracle/gone vfs_read
f:oracle/ops vfs_fallocate ops=file->f_op:symbol bytes=+0(file):x8[4] low=file->f_mode:b4@1/32 $comm
-:oracle/gone
"""
#: What ``-i vfs_fallocate`` shows, in tracefs' own words.
FUNCTION = "f:oracle/vfs_fallocate__exit vfs_fallocate%return retval=$retval:x64"
_LINE = re.compile(
    r"^\s*\S.*-(?P<pid>\d+)\s+(?P<cpu>\[\d+\]) (?P<flags>\S{5}) +\d+\.\d{6}: (?P<text>(?P<name>\S+):? [(<].*)$"
)
_COMMAND = "# command | "


def both(text: str) -> tuple[list[str], list[str]]:
    """Our lines, and those that the guest printed."""
    lines = text.splitlines()
    ours = [line for line in lines if not line.startswith("# ") or not line.startswith(_COMMAND)]
    return ours, [line.removeprefix(_COMMAND) for line in lines if line.startswith(_COMMAND)]


def by_task(lines: Sequence[str], pids: set[int]) -> dict[tuple[int, str], list[str]]:
    """Lines without times, by task and event. Left out is what test_probe_events.py says may differ."""
    found: dict[tuple[int, str], list[str]] = defaultdict(list)
    for line in lines:
        match = _LINE.match(line)
        if match and int(match["pid"]) in pids:
            # Need-resched and preempt depth: the latter is that of the guest's own handlers, where they are several.
            flags = "".join(match["flags"][i] for i in (0, 2, 4))
            found[int(match["pid"]), match["name"]].append(f"{match['cpu']} {flags} {match['text']}")
    return found


def test_the_trace_file_is_the_kernels(tmp_path: Path) -> None:
    """One file of definitions for both, and a function; everything but times, and the header too."""
    events, script, out = tmp_path / "events", tmp_path / "script", tmp_path / "trace.txt"
    events.write_text(DEFINITIONS)
    script.write_text(f"""cd {TRACING}; echo 0 >tracing_on; : >trace
cat /root/events >dynamic_events
echo '{FUNCTION}' >>dynamic_events
echo vfs_fallocate >set_ftrace_filter
echo function >current_tracer
echo 1 >events/oracle/enable
echo 1 >tracing_on
sh -c 'echo pid $$; exec workload args 6'
sh -c 'echo pid $$; exec dd if=/etc/motd of=/dev/null bs=10'
echo 0 >tracing_on
cat trace
""")
    outcome = run_tool(
        "trace", "-k", "6.12", *_ORACLE, "-o", str(out), "-e", str(events), "-i", "vfs_fallocate",
        "--file", f"/root/events={events}", "--file", f"/root/script={script}", "--", "sh /root/script",
    )  # fmt: skip
    assert (outcome.status, outcome.out, outcome.err) == (0, "", "")
    ours, theirs = both(out.read_text())
    pids = {int(line.split()[1]) for line in theirs if line.startswith("pid ")}
    assert len(pids) == 2
    found = by_task(ours, pids)
    # Our event of a return has the default name; theirs had to be defined.
    assert found == by_task(theirs, pids)
    names = {re.split(r"[/ ]", line)[1] for line in DEFINITIONS.splitlines() if line.startswith("f")} - {"gone"}
    assert {name.rstrip(":") for _, name in found} == names | {"vfs_fallocate", "vfs_fallocate__exit"}
    begin = theirs.index("# tracer: function")
    assert ours[:2] == theirs[begin : begin + 2]
    assert ours[3:12] == theirs[begin + 3 : begin + 12]
    entries = sum(bool(re.match(r"^ .*-\d+ +\[\d+\] ", line)) for line in ours)
    assert ours[2].rstrip() == f"# entries-in-buffer/entries-written: {entries}/{entries}   #P:1"


def test_lines_of_the_trace_file_come_at_once() -> None:
    """To a pipe, as of trace_pipe; and it ends well when the user has seen enough."""
    with Tool(
        "trace", "--backend", "rsp", "-f", "ftrace", "-i", "vfs_fallocate", "--", "workload args 6; sleep 1000"
    ) as tool:
        tool.until_output("vfs_fallocate__exit: (")
        tool.kill(signal.SIGINT)
        outcome = tool.finish()
    assert outcome.status == 130
    assert outcome.lines[0] == "# tracer: function"
    assert "entries-in-buffer" not in outcome.out
    entries = [line for line in outcome.lines if " vfs_fallocate <-" in line]
    assert 1 <= len(entries) <= 6
    assert "# ended: interrupted" in outcome.lines


GRAPHED = (
    "vfs_fallocate", "shmem_fallocate", "ep_loop_check_proc", "__sys_sendmmsg", "___sys_sendmsg", "unix_dgram_sendmsg"
)  # fmt: skip


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_the_graph_is_the_kernels(kernel: str, tmp_path: Path) -> None:
    """Nesting, leaves, recursion, and changes of tasks, line by line."""
    script = tmp_path / "script"
    script.write_text(f"""cd {TRACING}; echo 0 >tracing_on; : >set_ftrace_filter
for f in {" ".join(GRAPHED)}; do echo $f >>set_ftrace_filter; done
echo function_graph >current_tracer; : >trace
echo 1 >tracing_on
workload args 4; workload recursive 4 2; workload nested 2
echo 0 >tracing_on
cat trace
""")
    functions = [word for name in GRAPHED for word in ("-i", name)]
    outcome = run_tool(
        "trace", "-k", kernel, *_ORACLE, "--graph", *functions, "--file", f"/root/script={script}", "--",
        "sh /root/script",
    )  # fmt: skip
    assert (outcome.status, outcome.err) == (0, "")
    ours, theirs = both(outcome.out)
    theirs = theirs[theirs.index("# tracer: function_graph") :]
    assert ours[:4] == theirs[:4]
    drawn = [shape(line) for line in ours[4:] if not line.startswith("#")]
    assert drawn == [shape(line) for line in theirs[4:]]
    text = "\n".join(drawn)
    assert len(re.findall(r"vfs_fallocate\(\);", text)) == 2
    assert len(re.findall(r"vfs_fallocate\(\) \{", text)) == 2
    assert text.count("ep_loop_check_proc()") == counts(["recursive", "4", "2"])[0].entries
    assert text.count("=>") == 2


# A line without the figures of a duration, and without names of tasks, which both may know at different times.
def shape(line: str) -> str:
    line = re.sub(r"(\) )[ +!#*@$] *[\d.]+ us +\|", r"\1duration |", line)
    return re.sub(r" +\S+-(\d+) +=> +\S+-(\d+) *", r" \1 => \2", line)


def test_jsonl_with_events_functions_and_stacks(tmp_path: Path) -> None:
    """Fields, stacks, and the sums of all three kinds of probes; misses have their event's name."""
    path = tmp_path / "events"
    path.write_text("# what\nf:oracle/fall vfs_fallocate mode:x32 offset n=file->f_path.dentry->d_name.name:string\n")
    recursion = ("recursive", "4", "3")
    outcome = run_tool(
        "trace", "--backend", "rsp", "-f", "jsonl", "--stack=3", "-i", "vfs_fallocate", "-e", str(path),
        r"f:oracle/ret vfs_fallocate%return $retval bad=+0(\16):u32 two=+0(file):x8[2] s=+0(\16):string",
        "f1:oracle/rec ep_loop_check_proc%return $retval", "--", f"workload args 6; workload {' '.join(recursion)}",
    )  # fmt: skip
    assert (outcome.status, outcome.err) == (0, "")
    events = events_of(outcome.out)
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        if event["type"] in ("entry", "exit", "missed", "lost"):
            found[event["type"], event.get("event", "")].append(event)
    rows = {row["func"]: row for row in events[-1]["functions"]}
    calls = {"vfs_fallocate": 6, "oracle/fall": 6, "oracle/ret": 6, "oracle/rec": counts(recursion)[0].entries}
    assert {name: row["hits"] + row["missed"] + row["lost"] for name, row in rows.items()} == calls
    assert rows["oracle/rec"]["missed"] == len(found["missed", "oracle/rec"]) > 0
    assert rows["oracle/fall"]["exits"] == 0 < rows["oracle/fall"]["hits"] == len(found["entry", "oracle/fall"])
    for name in ("ret", "rec"):
        row = rows[f"oracle/{name}"]
        assert row["hits"] == row["exits"] == len(found["exit", f"oracle/{name}"])
        assert row["min_ns"] > 0
    for event in found["entry", "oracle/fall"]:
        i = int(event["fields"]["offset"]) // 4096
        assert event["fields"]["mode"] == ("0x3", "0x100")[i % 2]
        assert event["fields"]["n"].startswith("memfd:")
        assert event["params"] is None
        assert event["stack"][0].startswith("vfs_fallocate+")
        assert event["stack"][1] == event["caller"]
    for event in found["exit", "oracle/ret"]:
        fields = event["fields"]
        assert (fields["arg1"], fields["bad"], fields["s"], len(fields["two"])) in (
            ("0", None, None, 2), ("-95", None, None, 2),
        )  # fmt: skip
        assert event["stack"][0] == event["caller"]
    assert all(len(event["stack"]) == 3 for event in found["entry", ""])
    assert all("stack" not in event for event in found["exit", ""])


@pytest.mark.parametrize(
    ("definition", "status", "message"),
    [
        (
            "f:a  vfs_read  count file->nope", 2,
            "trace_fprobe: error: This field is not found.\n  Command: f:a vfs_read count file->nope\n"
            "                                    ^\n",
        ),
        ("f no_such_function_", 3, "trace_fprobe: error: Failed to register probe event\n"),
        ("t:a sched_switch", 2, "trace_fprobe: error: tracepoint 'sched_switch' cannot be probed: this kernel has no "),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_anything_boots(definition: str, status: int, message: str) -> None:
    outcome = run_tool("trace", *NO_BOOT, definition, "--", "true")
    assert (outcome.status, outcome.out) == (status, "")
    assert outcome.err.startswith(f"fprobe-gdb: {message}")


def test_dry_run_names_the_functions_of_events() -> None:
    outcome = run_tool("trace", *NO_BOOT, "--dry-run", "-i", "dput", "f:a vfs_rea?v", "f vfs_read%return", "--", "true")
    assert outcome.status == 0
    assert set(outcome.lines[-1].removeprefix("# 3 functions: ").split(", ")) == {"vfs_read", "vfs_readv", "dput"}
    assert "qemu" in outcome.out
