"""Run a piece of a test inside a handler, where guest functions can be called."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from fprobe_gdb import Fprobe, Kernel

T = TypeVar("T")

#: A system call's function that nothing but the workload calls.
TRIGGER = "__x64_sys_personality"


def settle(k: Kernel) -> None:
    """Let calls end that were in flight when the guest was last stopped, so that nothing of ours is needed any more.

    A return that still comes keeps what it needs planted. The first command lets it come; the second one is only there
    to be told of what is not needed any more.
    """
    for _ in range(2):
        result = k.shell("true")
        assert result.status == 0, result.text


def in_handler(k: Kernel, body: Callable[[], T]) -> T:
    """Run ``body`` in the entry handler of one hit of a function of its own, and return what it returns.

    It runs where a kernel's fprobe handler does: on the vCPU of the hit, with the recursion guard taken once.
    """
    results: list[T] = []

    def on_entry(*_args: object) -> None:
        results.append(body())

    trigger = Fprobe(on_entry, name="trigger")
    k.register_fprobe(trigger, TRIGGER)
    try:
        result = k.shell("workload calls 1")
    finally:
        if trigger in k.fprobes:
            k.unregister_fprobe(trigger)
    assert result.status == 0, result.text
    assert trigger.hits == 1
    return results[0]
