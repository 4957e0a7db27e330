"""Which targets the contract tests run on."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from images.fetch import emulator
from tests.contract.rigs import Rig, build_guest, fake_rig, qemu_rig

# Without a monitor beside the gdbstub is how one attaches to a guest of somebody else.
REAL = [
    pytest.param(
        (kind, qemu, monitor),
        id=f"{kind}-{qemu}" + ("" if monitor else "-no-monitor"),
        marks=[pytest.mark.qemu, *([pytest.mark.gdb] * (kind == "gdb"))],
    )
    for kind in ("rsp", "gdb")
    for qemu, monitor in (("installed", True), ("qemu-10.0", True), ("installed", False))
]


@pytest.fixture(scope="session")
def guest_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_guest(tmp_path_factory.mktemp("guest"))


@pytest.fixture(scope="session")
def qemu_argv() -> Callable[[str], list[str]]:
    known: dict[str, list[str]] = {}

    def argv(name: str) -> list[str]:
        if name not in known:
            if name == "installed":
                assert shutil.which("qemu-system-x86_64"), "install qemu-system-x86"
                known[name] = ["qemu-system-x86_64"]
            else:
                files = emulator(name)
                known[name] = [str(files.binary), *(part for path in files.data_dirs for part in ("-L", str(path)))]
        return known[name]

    return argv


@pytest.fixture(params=[pytest.param(("fake", "", False), id="fake"), *REAL])
def new_rig(
    request: pytest.FixtureRequest, guest_image: Path, qemu_argv: Callable[[str], list[str]]
) -> Iterator[Callable[[int], Rig]]:
    """Makes a rig with so many vCPUs."""
    kind, qemu, monitor = request.param
    with contextlib.ExitStack() as stack:

        def new(vcpus: int) -> Rig:
            if kind == "fake":
                return fake_rig(vcpus)
            return stack.enter_context(qemu_rig(kind, qemu_argv(qemu), guest_image, vcpus, monitor=monitor))

        yield new


@pytest.fixture
def rig(new_rig: Callable[[int], Rig]) -> Rig:
    """One vCPU, stopped at ``main``."""
    return new_rig(1)


@pytest.fixture
def smp_rig(new_rig: Callable[[int], Rig]) -> Rig:
    """Two vCPUs, each stopped at its own ``main``."""
    return new_rig(2)
