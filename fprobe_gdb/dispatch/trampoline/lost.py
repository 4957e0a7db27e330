"""Calls that pads have let through without us: counted in the guest, and settled with the probe core by and by."""

from __future__ import annotations

from fprobe_gdb.dispatch.clock import GuestClock
from fprobe_gdb.dispatch.trampoline.returns import Returns
from fprobe_gdb.dispatch.trampoline.shared_words import SharedWords
from fprobe_gdb.dispatch.trampoline.site_stubs import SiteStubs
from fprobe_gdb.dispatch.trampoline.sites import FENTRY_BYTES
from fprobe_gdb.dispatch.trampoline.zone import Zone
from fprobe_gdb.events import MissReason
from fprobe_gdb.probe.core import ProbeCore
from fprobe_gdb.probe.hit import KnownHit
from fprobe_gdb.probe.regs import PtRegs, Side
from fprobe_gdb.registers import REGISTERS

__all__ = ["LostCalls"]


class LostCalls:
    """The lost calls of one guest."""

    def __init__(
        self, core: ProbeCore, words: SharedWords, returns: Returns, stubs: SiteStubs, clock: GuestClock
    ) -> None:
        self._core = core
        self._words = words
        self._returns = returns
        self._stubs = stubs
        self._clock = clock
        self._seen = 0

    def settle(self) -> None:
        """Count what has been lost since the last time where it belongs. The guest is stopped."""
        entries = self._words[Zone.LOST_ENTRIES]
        for number in range(self._seen, entries):
            ip = self._words[Zone.LOST_LOG + 8 * number] - FENTRY_BYTES if number < Zone.LOST_LOG_WORDS else 0
            ip = self._stubs.ip_of(ip)
            regs = PtRegs.of(dict.fromkeys(REGISTERS, 0), Side.ENTRY, ip, 0)
            self._core.lose(KnownHit(ip, 0, 0, 0, 0, regs, time_ns=self._clock.last_ns), MissReason.HOST_AWAY)
        self._seen = entries
        for call in self._returns.take_ended():
            self._core.drop_call(call.task, call.frame, call.ret_addr)
