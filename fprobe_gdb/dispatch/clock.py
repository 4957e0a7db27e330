"""Guest time: a virtual clock that stands still while the guest is stopped, so that handlers cost no guest time.

QEMU derives the HPET and the ACPI PM timer from ``QEMU_CLOCK_VIRTUAL``, which ``vm_stop()`` freezes (QEMU 7.2
softmmu/cpus.c). Both can be read from outside without a word to the guest.
"""

from __future__ import annotations

import struct

from fprobe_gdb.errors import MemoryFault, ProtocolError
from fprobe_gdb.target.base import Target

__all__ = ["GuestClock"]

# hw/timer/hpet.c, QEMU 7.2 and 10.0: where a PC has its HPET, and the registers that we read.
_HPET_BASE = 0xFED00000
_HPET_PERIOD = _HPET_BASE + 0x4
_HPET_CONFIG = _HPET_BASE + 0x10
_HPET_COUNTER = _HPET_BASE + 0xF0
_HPET_ENABLED = 1
_FS_PER_NS = 1_000_000
# hw/acpi/core.c: a 24-bit counter; SeaBIOS puts the PM block of pc and q35 at 0x600, the timer at +8.
_PM_TIMER_PORT = 0x608
_PM_TIMER_HZ = 3_579_545
_PM_TIMER_WRAP = 1 << 24


class GuestClock:
    """Nanoseconds of guest time, from a start of its own; never goes back.

    Before Linux enables the HPET (in the first second of boot), and on guests without one, the PM timer is read; it
    wraps every 4.7 s, and :meth:`ran` tells how often that may have happened.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._period_fs = 0
        # Guest time at which the HPET counter would have been zero.
        self._hpet_base_ns = 0
        self._pm_ticks = 0
        self._pm_last: int | None = None
        self._ran_ns = 0
        #: The last result of :meth:`now_ns`.
        self.last_ns = 0

    def ran(self, host_ns: int) -> None:
        """The guest has run for this long by the host's clock since the last call."""
        self._ran_ns += host_ns

    def now_ns(self) -> int:
        """Guest time of the stopped guest. One or two exchanges with the target."""
        if not self._period_fs:
            self._find_hpet()
        now_ns = self._hpet_base_ns + self._hpet_ns() if self._period_fs else self._pm_ns()
        self.last_ns = max(self.last_ns, now_ns)
        return self.last_ns

    def _hpet_ns(self) -> int:
        (counter,) = struct.unpack("<Q", self._target.read_physical(_HPET_COUNTER, 8))
        return int(counter) * self._period_fs // _FS_PER_NS

    def _find_hpet(self) -> None:
        try:
            (config,) = struct.unpack("<I", self._target.read_physical(_HPET_CONFIG, 4))
            (period_fs,) = struct.unpack("<I", self._target.read_physical(_HPET_PERIOD, 4))
        except MemoryFault:
            return
        # The specification allows at most 100 ns; something else answers where there is no HPET.
        if config & _HPET_ENABLED and 0 < period_fs <= 100 * _FS_PER_NS:
            before_ns = self._pm_ns() if self._pm_last is not None else 0
            self._period_fs = period_fs
            self._hpet_base_ns = max(0, before_ns - self._hpet_ns())

    def _pm_ns(self) -> int:
        answer = self._target.monitor(f"i /wx {_PM_TIMER_PORT:#x}")
        try:
            raw = int(answer.split("=")[1].split()[0], 0) % _PM_TIMER_WRAP
        except (IndexError, ValueError):
            raise ProtocolError("the monitor's answer to a port read is not understood", answer) from None
        if self._pm_last is not None:
            step = (raw - self._pm_last) % _PM_TIMER_WRAP
            # Whole wraps that went unseen: as many as bring us nearest to the time that the host saw it run.
            expected = self._ran_ns * _PM_TIMER_HZ // 1_000_000_000
            self._pm_ticks += step + max(0, round((expected - step) / _PM_TIMER_WRAP)) * _PM_TIMER_WRAP
        self._pm_last = raw
        self._ran_ns = 0
        return self._pm_ticks * 1_000_000_000 // _PM_TIMER_HZ
