"""A child that the kernel kills when its parent dies, however the parent dies."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable

__all__ = ["die_with_parent"]

_PR_SET_PDEATHSIG = 1  # Linux, include/uapi/linux/prctl.h


def die_with_parent() -> Callable[[], None]:
    """A ``preexec_fn`` after which the child gets SIGKILL when the thread that started it ends (prctl(2)).

    libc is looked up here, before the fork, where taking locks and memory is allowed.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def in_child() -> None:
        if prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
        # The parent may have died before the prctl; then nobody would ever send the signal.
        if os.getppid() != parent:
            os._exit(1)

    return in_child
