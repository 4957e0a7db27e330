"""The catalog's kernels boot our initramfs, and the workload makes exactly the calls that its table promises.

The judge is the guest's own tracer: entries by the function tracer, exits and return values by kretprobe events, with
unrelated programs running beside, so that a function that others call too would show.
"""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from dataclasses import dataclass

import pytest

import images
from images import initramfs
from images.workload_counts import EXAMPLES, Count, counts
from tests.integration.conftest import CATALOG

pytestmark = pytest.mark.qemu

FUNCTIONS = sorted({count.function for command in EXAMPLES for count in counts(command)})
BOOT_LIMIT_SEC = 180

INIT = """#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t tracefs tracefs /sys/kernel/tracing
cd /sys/kernel/tracing; exec >/dev/ttyS1 2>&1; stty -opost </dev/ttyS1
echo 8192 >buffer_size_kb
for f in $FUNCTIONS; do
  echo $f >>set_ftrace_filter
  echo "r100:r_$f $f ret=\\$retval:s32" >>kprobe_events
done
echo function >current_tracer
echo 1 >events/kprobes/enable
(while :; do ls / | cat >/dev/null; sh -c 'uname | wc' >/dev/null; done) &
while read command; do
  echo 0 >tracing_on; echo >trace; echo 1 >tracing_on
  out=$(workload $command 2>&1); status=$?
  echo 0 >tracing_on
  echo "=== $command = $status: $out"; cat trace
done </commands
echo "=== end"
cat /etc/motd; ls -ld /tmp /bin/sh /own /own/link; cat /own/file
poweroff -f
"""


@dataclass
class Seen:
    """What one workload command printed, and the tracer's lines: (pid, function, None or return value)."""

    status: int
    output: str
    calls: list[tuple[int, str, int | None]]

    def of(self, function: str) -> tuple[int, list[int]]:
        entries = sum(1 for _, name, value in self.calls if name == function and value is None)
        return entries, [value for _, name, value in self.calls if name == function and value is not None]

    def depth(self, function: str) -> int:
        now: dict[int, int] = defaultdict(int)
        deepest = 0
        for pid, name, value in self.calls:
            if name == function:
                now[pid] += 1 if value is None else -1
                deepest = max(deepest, now[pid])
        return deepest


@dataclass
class Guest:
    seen: dict[str, Seen]
    rest: str


def parse(text: str) -> Guest:
    """Read what the init above wrote to the second serial port."""
    *parts, rest = re.split(r"^=== ", text.replace("\r", ""), flags=re.MULTILINE)
    seen = {}
    for part in parts[1:]:
        head, _, trace = part.partition("\n")
        match = re.fullmatch(r"(.*) = (\d+): (.*)", head)
        assert match, head
        calls: list[tuple[int, str, int | None]] = []
        for line in trace.splitlines():
            if entry := re.search(r"-(\d+) .*: ([\w.]+) <-", line):
                calls.append((int(entry[1]), entry[2], None))
            elif leave := re.search(r"-(\d+) .*: r_(\S+): .* ret=(-?\d+)", line):
                calls.append((int(leave[1]), leave[2], int(leave[3])))
        seen[match[1]] = Seen(int(match[2]), match[3], calls)
    return Guest(seen, rest)


@pytest.fixture(scope="module", params=CATALOG)
def guest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Guest:
    folder = tmp_path_factory.mktemp("guest")
    tree = folder / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(b"own file\n")
    (tree / "link").symlink_to("file")
    root = initramfs.build(
        init=INIT.replace("$FUNCTIONS", " ".join(FUNCTIONS)).encode(),
        files={"/commands": "".join(" ".join(c) + "\n" for c in EXAMPLES).encode(), "/own": tree},
    )
    initrd, answer = folder / "initrd", folder / "ttyS1"
    initrd.write_bytes(root)
    kernel = images.kernel(request.param)
    # By hand: this test must not depend on emu.
    machine = ["qemu-system-x86_64", "-m", "512", "-smp", "2", "-nodefaults", "-display", "none", "-no-reboot"]
    # Debian 12's QEMU 7.2 gets cmpxchg16b wrong (TCG): 6.12 mostly dies of it at boot.
    machine += ["-cpu", "qemu64,-cx16"]
    serial = ["-serial", "stdio", "-serial", f"file:{answer}"]
    boot = ["-kernel", str(kernel.vmlinuz), "-initrd", str(initrd), "-append", "console=ttyS0 nokaslr quiet panic=-1"]
    run = subprocess.run(
        ["setpriv", "--pdeathsig", "KILL", *machine, *serial, *boot],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=BOOT_LIMIT_SEC,
    )
    text = answer.read_text(errors="replace")
    assert "=== end" in text, f"{run.stderr!r} {run.stdout[-600:]!r} {text[-600:]}"
    return parse(text)


@pytest.mark.parametrize("command", EXAMPLES, ids=lambda command: command[0])
def test_workload_makes_exactly_the_calls_of_its_table(guest: Guest, command: tuple[str, ...]) -> None:
    seen = guest.seen[" ".join(command)]
    assert (seen.status, seen.output.split()[0]) == (0, "done"), seen.output
    expected = counts(command)
    found = []
    for count in expected:
        entries, values = seen.of(count.function)
        same = values[0] if len(set(values)) == 1 and count.retval is not None else None
        depth = seen.depth(count.function) if count.depth > 1 else 1
        found.append(Count(count.function, entries, len(values), same, depth))
    assert tuple(found) == expected


def test_args_alternate_between_success_and_eopnotsupp(guest: Guest) -> None:
    assert guest.seen["args 20"].of("vfs_fallocate")[1] == [0, -95] * 10


def test_initramfs_has_users_files_modes_and_motd(guest: Guest) -> None:
    assert initramfs.MOTD.decode() in guest.rest
    assert "drwxrwxrwt" in guest.rest
    assert "/bin/sh -> busybox" in guest.rest
    assert "/own/link -> file" in guest.rest
    assert "own file" in guest.rest
