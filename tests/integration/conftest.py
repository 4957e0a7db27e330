"""Guests for the integration tests: booted once a session for each way to run them, shared by the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fprobe_gdb import Kernel
from fprobe_gdb.kernel.knowledge import KernelKnowledge
from fprobe_gdb.session.options import BootOptions

CATALOG = ("6.1", "6.12")


class GuestPool:
    """Boots a guest at its first use and keeps the last few. Between tests they are stopped, and cost memory alone."""

    # As many as a file needs by turns: two kernels, two backends, two dispatches. 230 MB each.
    LIMIT = 8

    def __init__(self) -> None:
        self._guests: dict[str, Kernel] = {}
        self._knowledge: dict[Path, KernelKnowledge] = {}

    def get(self, **fields: object) -> Kernel:
        """A guest booted with these options, alive and without probes."""
        options = BootOptions(**fields)  # type: ignore[arg-type]
        # What is said and what is so by default is the same guest.
        key = repr(options)
        k = self._guests.pop(key, None)
        if k is not None and k.machine.poll() is not None:
            k.close()
            k = None
        if k is None:
            while len(self._guests) >= self.LIMIT:
                self._guests.pop(next(iter(self._guests))).close()
            k = Kernel.boot(options=options, knowledge=self._known(options.kernel_path()))
        self._guests[key] = k
        return k

    def _known(self, path: Path) -> KernelKnowledge:
        if path not in self._knowledge:
            self._knowledge[path] = KernelKnowledge.load(path)
        return self._knowledge[path]

    def close(self) -> None:
        for k in self._guests.values():
            k.close()


@pytest.fixture(scope="session")
def pool() -> Iterator[GuestPool]:
    guests = GuestPool()
    yield guests
    guests.close()


# Module scope, so that one guest serves all its tests before the next one is booted.
@pytest.fixture(scope="module", params=["breakpoint", "trampoline"])
def dispatch(request: pytest.FixtureRequest) -> str:
    """Both dispatches, one after the other."""
    name: str = request.param
    return name


@pytest.fixture
def guest_of_each_dispatch(guest: Callable[..., Kernel], dispatch: str) -> Callable[..., Kernel]:
    """As ``guest``, for tests that hold whatever the dispatch."""
    return lambda **options: guest(**{"dispatch": dispatch, **options})


@pytest.fixture
def guest(pool: GuestPool) -> Iterator[Callable[..., Kernel]]:
    """``guest(kernel="6.1", smp=2, ...)``: a shared guest; its probes are removed after the test."""
    used: list[Kernel] = []

    def get(**options: object) -> Kernel:
        k = pool.get(**{"backend": "rsp", "dispatch": "breakpoint", "smp": 2, "kernel": "6.1", **options})
        used.append(k)
        return k

    yield get
    for k in used:
        k.unregister_all()
        k.on_missed = k.on_console = None
