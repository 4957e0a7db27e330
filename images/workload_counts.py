"""What the workload program does, as data: which kernel function each subcommand calls how often.

The table is for tests: ``counts(["nested", "3"])`` says what a tracer must see while ``workload nested 3`` runs. Every
function named here exists and is traceable in both catalog kernels, and nothing else in our guest calls it.
Checked against the guest's own tracers by ``tests/integration/test_images.py``; the same table is a comment at the top
of ``workload/main.c``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["EXAMPLES", "Count", "counts"]

_ERESTARTSYS = 512
# Messages per sendmmsg, as in workload/calls.c.
_MESSAGES = 4


@dataclass(frozen=True)
class Count:
    """What a tracer must see of one kernel function.

    :param function: the symbol to probe.
    :param entries: how often it is entered, in the whole guest.
    :param exits: how often it returns; less than ``entries`` when tasks die inside.
    :param retval: what each call returns (signed), None when they differ or do not matter.
    :param depth: how deep the calls nest within one task (recursion).
    """

    function: str
    entries: int
    exits: int
    retval: int | None = None
    depth: int = 1


# A command line that exercises each subcommand, small enough to trace by breakpoints.
EXAMPLES: tuple[tuple[str, ...], ...] = (
    ("calls", "20"),
    ("args", "20"),
    ("read", "20", "1000"),
    ("nested", "5"),
    ("recursive", "4", "3"),
    ("pipe", "10"),
    ("threads", "4", "5"),
    ("fork", "5"),
    ("exit", "5"),
    ("exit_in", "5"),
    ("killed", "5"),
    ("migrate", "10"),
    ("interleave", "10"),
)


def counts(command: Sequence[str]) -> tuple[Count, ...]:
    """What ``workload`` with these words does in the kernel.

    :param command: the subcommand and its numbers, e.g. ``["recursive", "4", "1"]``.
    :raise ValueError: no such subcommand, or not its numbers.
    """
    name, *numbers = command
    if name not in _TABLE:
        raise ValueError(f"the workload has no subcommand {name!r}; it has {', '.join(_TABLE)}")
    try:
        return _TABLE[name](*map(int, numbers))
    except TypeError:
        raise ValueError(f"workload {name}: wrong number of arguments: {numbers}") from None


def _all_return(function: str, calls: int, retval: int | None = None, depth: int = 1) -> Count:
    return Count(function, calls, calls, retval, depth)


_TABLE: dict[str, Callable[..., tuple[Count, ...]]] = {
    "calls": lambda n: (_all_return("__x64_sys_personality", n, 0),),
    # Even calls return 0, odd ones -EOPNOTSUPP.
    "args": lambda n: (_all_return("vfs_fallocate", n, None if n > 1 else 0),),
    "read": lambda n, size: (_all_return("__x64_sys_pread64", n, size),),
    "nested": lambda n: (
        _all_return("__sys_sendmmsg", n, _MESSAGES),
        _all_return("___sys_sendmsg", _MESSAGES * n, 1),
        _all_return("unix_dgram_sendmsg", _MESSAGES * n, 1),
    ),
    "recursive": lambda depth, n: (_all_return("ep_loop_check_proc", depth - 1 + n * depth, depth=depth),),
    "pipe": lambda n: (_all_return("vfs_readv", 2 * n, 1),),
    "threads": lambda t, n: (_all_return("__x64_sys_personality", t * n, 0), Count("__x64_sys_exit", t, 0)),
    "fork": lambda n: (_all_return("__x64_sys_clone3", n), _all_return("kernel_waitid", n)),
    "exit": lambda n: (Count("__x64_sys_exit", n, 0),),
    "exit_in": lambda n: (Count("__secure_computing", n, 0),),
    "killed": lambda n: (_all_return("vfs_readv", n, -_ERESTARTSYS),),
    "migrate": lambda n: (_all_return("vfs_readv", n, 1),),
    "interleave": lambda n: (_all_return("vfs_readv", 2 * n, 1),),
}
