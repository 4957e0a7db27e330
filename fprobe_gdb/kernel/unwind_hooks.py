"""Return slots whose return address somebody has replaced: function graph tracer, rethook, kretprobe, we ourselves."""

from __future__ import annotations

from collections.abc import Callable

from fprobe_gdb.kernel.unwind_code import KernelCode

__all__ = ["Recover", "ReturnSlots"]

#: ``recover(slot_addr, value)``: the return address that was in the slot before ``value`` was put there, or None.
Recover = Callable[[int, int], int | None]


class ReturnSlots:
    """Says what return slots held before they were hooked.

    :param recover: asked for each value that is a hook of the kernel's own tracers, or no address in the image's text.
    """

    def __init__(self, code: KernelCode, recover: Recover | None) -> None:
        self._code = code
        self._recover = recover
        #: Whether the last slot was hooked.
        self.hooked = False
        #: Whether it was, and nobody knows what it held.
        self.lost = False

    def true_ip(self, ip: int, slot_addr: int, *, interrupted: bool = False) -> int:
        """The return address that belongs into a slot, given what is there.

        :param interrupted: ``ip`` is no return address but that of an interrupted instruction, perhaps a hook's first.
        """
        is_hook = self._code.is_hook(ip)
        found = None
        if self._recover and (is_hook or not (interrupted or self._code.is_text(ip))):
            found = self._recover(slot_addr, ip)
        self.hooked = is_hook or found is not None
        self.lost = is_hook and found is None
        return ip if found is None else found
