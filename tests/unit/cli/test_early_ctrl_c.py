"""Ctrl-C while the command's own modules are still being read."""

from __future__ import annotations

import subprocess
import sys

# Interrupts itself when the command's modules are about to be read.
_PROGRAM = """
import os, signal, sys
import fprobe_gdb.__main__ as command

heavy = [name for name in sys.modules if name.startswith("fprobe_gdb.") and name != command.__name__]
assert not heavy, heavy

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "fprobe_gdb.cli":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
sys.argv[1:] = ["--version"]
command.main()
"""


def run(before: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", before + _PROGRAM], capture_output=True, text=True, timeout=60)


def test_ctrl_c_while_modules_are_read_is_quiet() -> None:
    ended = run()
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_who_ignores_ctrl_c_goes_on() -> None:
    ended = run("import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("fprobe-gdb")
