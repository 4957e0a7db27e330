"""Each script of examples/ on a real guest, started as a user starts it, says what must be in it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from images.initramfs import MOTD

pytestmark = pytest.mark.qemu

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
LIMIT_SEC = 180


def run(script: str, *words: str, **environment: str) -> str:
    """Standard output of ``fprobe-gdb run examples/SCRIPT``, which must end well."""
    done = subprocess.run(
        [sys.executable, "-m", "fprobe_gdb", "run", str(EXAMPLES / script), *words],
        capture_output=True,
        text=True,
        timeout=LIMIT_SEC,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def opened_files(kernel: str) -> None:
    lines = run("opened_files.py", "-k", kernel, "--backend", "rsp").splitlines()
    rows = [line.split() for line in lines if line.startswith("/")]
    assert ["/etc/motd", str(len(MOTD))] in rows  # read
    assert ["/tmp/x", str(len("hello\n"))] in rows  # written
    assert ["/etc/shadow", "0", "-ENOENT"] in rows
    assert ["/tmp", "0"] in rows
    assert not any(row[0].startswith("/run/agent") for row in rows)
    # The command's own output goes on beside the handlers'.
    assert MOTD.decode().strip() in lines


def who_opens(kernel: str) -> None:
    lines = run("who_opens.py", "-k", kernel, "--backend", "rsp").splitlines()
    opened = [re.sub(r"-\d+", "", line).split() for line in lines if " < " in line]
    assert ["/etc/motd", "<", "cat", "<", "sh", "<", "init", "<", "init"] in opened
    assert ["/tmp/x", "<", "sh", "<", "sh", "<", "init", "<", "init"] in opened
    assert all(line.endswith(" < init-1") for line in lines if " < " in line)


def slow_calls(kernel: str) -> None:
    output = run("slow_calls.py", "-k", kernel, "--backend", "rsp", FUNCTION="ksys_read")
    calls = re.search(r"^ksys_read: (\d+) calls$", output, re.MULTILINE)
    assert calls
    rows = [tuple(map(int, row)) for row in re.findall(r"^ *(\d+) \.\. +(\d+) us +(\d+) #*$", output, re.MULTILINE)]
    assert sum(count for _, _, count in rows) == int(calls[1]) > 0
    assert all(high == max(1, 2 * low) for low, high, _ in rows)
    # cat waits for the line that comes after 0.2 s.
    assert sum(count for low, high, count in rows if high > 200_000) >= 1


def inject_error(kernel: str) -> None:
    lines = run("inject_error.py", "-k", kernel, NTH="2").splitlines()
    assert [line for line in lines if line.startswith("made")] == ["made 1", "made 3", "made 4"]
    (injected,) = (line for line in lines if line.startswith("***"))
    assert re.fullmatch(r"\*\*\* call 2 of vfs_mkdir, from do_mkdirat\+0x[0-9a-f]+: returns -ENOMEM", injected)
    assert any("'/tmp/2': Cannot allocate memory" in line for line in lines)
    # The directory really was not made.
    assert [line for line in lines if line in "1234"] == ["1", "3", "4"]


def count_callers(kernel: str) -> None:
    output = run("count_callers.py", "-k", kernel, "--backend", "rsp")
    total, places = map(int, re.findall(r"(\d+) calls from (\d+) places", output)[0])
    rows = re.findall(r"^ *(\d+)  (kmem_cache_alloc\w*) <- [\w.]+\+0x[0-9a-f]+$", output, re.MULTILINE)
    counts = [int(count) for count, _ in rows]
    assert len(rows) == 10 <= places
    assert counts == sorted(counts, reverse=True)
    assert 100 < sum(counts) <= total


def read_files(kernel: str) -> None:
    rows = [line.split(maxsplit=1) for line in run("read_files.py", "-k", kernel, "--backend", "rsp").splitlines()]
    sizes = {path: int(size) for size, path in (row for row in rows if len(row) == 2 and row[0].isdigit())}
    assert sizes["/etc/motd"] == len(MOTD)
    assert sizes["/init"] == (ROOT / "images" / "init").stat().st_size
    assert sizes["/proc/cpuinfo"] > 0


SCRIPTS: tuple[Callable[[str], None], ...] = (
    opened_files,
    slow_calls,
    inject_error,
    count_callers,
    read_files,
    who_opens,
)


@pytest.mark.parametrize(
    ("check", "kernel"),
    [
        *(pytest.param(check, "6.1", id=check.__name__, marks=pytest.mark.gdb) for check in SCRIPTS),
        # Names and calls that changed between these kernels.
        pytest.param(read_files, "6.12", id="read_files-6.12"),
        pytest.param(opened_files, "6.12", id="opened_files-6.12"),
        pytest.param(who_opens, "6.12", id="who_opens-6.12"),
    ],
)
def test_example(check: Callable[[str], None], kernel: str) -> None:
    check(kernel)


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {check.__name__ for check in SCRIPTS}
