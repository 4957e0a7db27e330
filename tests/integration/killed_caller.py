"""A tool that has the guest run a function for it, to be killed; says how far it is. SOCKET KERNEL BACKEND PHASE.

Phases: ``before`` the call, ``inside`` of it (in a function that sleeps), when it has ``ended`` and nobody has looked
at that yet, ``behind`` it; and ``lent``, which is ``ended`` of the allocator that a zone is borrowed from.
"""

from __future__ import annotations

import signal
import sys

from emu.deadline import Deadline
from fprobe_gdb import Fprobe, Kernel
from fprobe_gdb.dispatch.breakpoint import BreakpointDispatch
from fprobe_gdb.dispatch.guest_call import GuestCall

CALLED_MSEC = 2000
INSIDE_SEC = 0.5
WAIT_SEC = 100.0


def main(path: str, kernel: str, backend: str, phase: str) -> None:
    def say(reached: str) -> None:
        if reached == phase:
            print(reached, flush=True)
            signal.pause()

    def finish_call(dispatch: BreakpointDispatch, call: GuestCall, deadline: Deadline) -> None:
        dispatch.sync()
        dispatch.target.resume()
        dispatch.target.wait(deadline)
        say(phase)

    def on_entry(*_: object) -> None:
        say("before")
        signal.setitimer(signal.ITIMER_REAL, INSIDE_SEC)
        k.call("msleep", CALLED_MSEC, timeout_sec=WAIT_SEC)
        say("behind")

    signal.signal(signal.SIGALRM, lambda *_: say("inside"))
    if phase in ("ended", "lent"):
        BreakpointDispatch._finish_call = finish_call  # type: ignore[method-assign]
    dispatch = "trampoline" if phase == "lent" else "breakpoint"
    with Kernel.attach(path, kernel, backend=backend, dispatch=dispatch) as k:
        k.register_fprobe(Fprobe(on_entry, lambda *_: None), "__x64_sys_pread64")
        print("ready", flush=True)
        k.run(timeout_sec=WAIT_SEC)


if __name__ == "__main__":
    main(*sys.argv[1:])
