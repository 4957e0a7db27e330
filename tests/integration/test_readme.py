"""The README's first command and its Python run, and give what the README shows."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.qemu

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
LIMIT_SEC = 180


def output_of(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT_SEC, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


# What a line says, whatever its numbers, columns and addresses are this time: of an event its mark, its function and
# the error that it returns; of the summary everything but digits.
def shape(line: str) -> str:
    if event := re.search(r"([→←]) (\w+)", line):
        error = re.search(r"= .*(-E[A-Z]+)", line)
        return f"column {event.start()} {event[1]} {event[2]} {error[1] if error else ''}"
    return re.sub(r"\s+", " ", re.sub(r"[\d.]+(us|ms|ns|s)?", "N", line)).strip()


@pytest.mark.gdb
def test_first_command_gives_what_is_shown() -> None:
    session, *_ = re.findall(r"```console\n\$ fprobe-gdb (.*?)```", README, re.DOTALL)
    command, *shown = session.splitlines()
    output = output_of([sys.executable, "-m", "fprobe_gdb", *shlex.split(command)]).splitlines()
    shapes = [shape(line) for line in output]
    position = 0
    for line in shown:
        if line == "...":
            continue
        assert shape(line) in shapes[position:], line
        position = shapes.index(shape(line), position) + 1


def test_python_gives_what_is_shown() -> None:
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (shown,) = re.findall(r"```text\n(.*?)```", README, re.DOTALL)

    def without_offsets(text: str) -> str:
        return re.sub(r"\+0x[0-9a-f]+", "", text).strip()

    assert without_offsets(output_of([sys.executable, "-c", program])) == without_offsets(shown)
