"""Tracepoints of the guest, switched on for probe events (``t:``) as the kernel itself switches them on for its own.

Without a probe a tracepoint's call sites are NOPs. The kernel's ``t:`` events register an empty function with it,
``__probestub_NAME``, and put an fprobe on that (kernel/trace/trace_fprobe.c, Linux 6.5 to 6.13). So do we: by a call of
the guest's own ``tracepoint_probe_register_prio_may_exist()``. That takes a mutex and sleeps, so it is made in a task.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from emu.machine import Machine
from fprobe_gdb.errors import TracepointError
from fprobe_gdb.session.errand import run_errand

if TYPE_CHECKING:
    from fprobe_gdb.session.guest import Kernel

__all__ = ["Tracepoints"]

_REGISTER, _UNREGISTER = "tracepoint_probe_register_prio_may_exist", "tracepoint_probe_unregister"
# Of the fprobe that the kernel would put there: it needs no data, and is in no hurry.
_DATA, _PRIO = 0, 0


class Tracepoints:
    """The tracepoints of one guest."""

    def __init__(self, k: Kernel) -> None:
        self._k = k
        # Those that nobody else had switched on in that way.
        self._ours: set[str] = set()

    def switch_on(self, names: Iterable[str]) -> None:
        """Let ``__probestub_NAME()`` be called for each. The guest is stopped; it runs meanwhile, and probes fire.

        They stay on until :meth:`switch_off`, at the cost of a call of an empty function for each event.

        :raise TracepointError: there is none of that name, the kernel refuses, or the guest is not up.
        :raise GuestCallError: in a guest of others, no task makes a system call in time.
        :raise AgentError: when the shell of a guest of ours runs a command: it has to make a system call for us.
        """
        wanted = sorted(set(names) - self._ours)
        if not wanted:
            return
        k = self._k
        if isinstance(k.machine, Machine) and not k.machine.agent.ready:
            raise TracepointError(wanted[0], "the guest has not booted yet, and no task of it can do that")
        places = {name: self._places(name) for name in wanted}

        def register() -> dict[str, int]:
            return {name: k.call(_REGISTER, *place, _DATA, _PRIO) for name, place in places.items()}

        codes = {name: -result & 0xFFFFFFFF for name, result in run_errand(k, register).items()}
        # All that is on has to be known, whatever became of the others.
        self._ours.update(name for name, code in codes.items() if code == 0)
        for name, code in codes.items():
            if code not in (0, errno.EEXIST):
                raise TracepointError(name, f"the kernel says -{errno.errorcode.get(code, code)}")

    @property
    def ours(self) -> Collection[str]:
        """Names of those that :meth:`switch_on` has switched on."""
        return self._ours

    def switch_off(self, *, timeout_sec: float = 60.0) -> None:
        """Undo :meth:`switch_on`; what others have switched on stays so. The guest as there.

        :raise AgentError, GuestCallError: as there.
        """
        if not self._ours:
            return
        k = self._k
        places = [self._places(name) for name in sorted(self._ours)]
        run_errand(k, lambda: [k.call(_UNREGISTER, *place, _DATA) for place in places], timeout_sec=timeout_sec)
        self._ours.clear()

    # The tracepoint, and the function that is registered with it.
    def _places(self, name: str) -> tuple[int, int]:
        symbols = self._k.symbols
        found = [symbols.addresses(f"__{part}_{name}") for part in ("tracepoint", "probestub")]
        if not all(found):
            raise TracepointError(name, "this kernel has none of that name, or no function to hang on it (Linux 6.5)")
        return found[0][0], found[1][0]
