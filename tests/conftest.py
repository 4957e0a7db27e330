"""For all tests: what needs a program that is not installed is skipped, or fails where the program is required.

``FPROBE_REQUIRE=qemu,gdb`` names what has to be there; CI sets it.
"""

from __future__ import annotations

import os
import shutil

import pytest
from hypothesis import settings

# How long a test takes says how busy the machine is. And each run tries the same: what comes up by chance, nobody can
# run again. To look for more: ``pytest --hypothesis-profile=explore``.
settings.register_profile("any machine", deadline=None, derandomize=True, database=None)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile("any machine")

# By marker: the program that such a test runs.
PROGRAMS = {"qemu": "qemu-system-x86_64", "gdb": "gdb"}


def pytest_runtest_setup(item: pytest.Item) -> None:
    required = os.environ.get("FPROBE_REQUIRE", "").split(",")
    for marker, program in PROGRAMS.items():
        if item.get_closest_marker(marker) and shutil.which(program) is None:
            why = f"no {program} on this machine; fprobe-gdb doctor says how to get it"
            (pytest.fail if marker in required else pytest.skip)(why)
