"""Stubs of single locations: a call of the pad, and then what the location itself did before it was planted.

::

    jump:   call pad; the moved instructions; jmp behind them       planted by ``jmp stub``
    stop:   call pad; jmp location                                  for vCPUs that hit a breakpoint there

In front of them are the filters: pads of functions that touch text (:mod:`.text_guard`).

To the pad a stub looks as a fentry instruction does: it is called from it, and returns behind it. A stub is written
before anybody can come there, never changes, and stays: somebody may be on the way through it at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fprobe_gdb.dispatch.trampoline.assembler import Asm
from fprobe_gdb.dispatch.trampoline.zone import Zone
from fprobe_gdb.errors import SiteNoRoom
from fprobe_gdb.kernel.displace import JUMP_BYTES, Head
from fprobe_gdb.target.guest_ram import GuestRam

__all__ = ["SiteStubs"]

_ALIGN = 16


class SiteStubs:
    """The stubs in a zone.

    :param pads: what a location calls.
    :param start: where there is room for them, up to :attr:`.Zone.site_stubs_end`.
    """

    def __init__(self, ram: GuestRam, zone: Zone, pads: Callable[[int], int], start: int) -> None:
        self._ram = ram
        self._zone = zone
        self._pads = pads
        # Stubs that vCPUs run through grow from below, those with a breakpoint in them from above: a breakpoint makes
        # QEMU run its whole page instruction by instruction.
        self._low = start
        self._high = zone.site_stubs_end
        self._jumps: dict[tuple[int, bytes, int], int] = {}
        self._stops: dict[tuple[int, int], int] = {}
        self._ips: dict[int, int] = {}

    def jump(self, head: Head) -> int:
        """The stub for a location whose first instructions are moved.

        :raise SiteNoRoom: no more stubs fit into the zone.
        """
        key = (head.ip, head.code, self._pads(head.ip))
        if key not in self._jumps:
            stub = self._low
            code = self._call(head.ip, stub) + head.moved(stub + JUMP_BYTES)
            self._low = self._room(head.ip, stub + len(code), self._high)
            self._write(stub, code)
            self._jumps[key] = stub
            self._ips[stub] = head.ip
        return self._jumps[key]

    def stop(self, ip: int) -> int:
        """The stub for a location with a breakpoint; :meth:`tail` of it needs a breakpoint, too.

        :raise SiteNoRoom: no more stubs fit into the zone.
        """
        key = (ip, self._pads(ip))
        if key not in self._stops:
            stub = self._high - _ALIGN
            self._high = self._room(ip, self._low, stub)
            asm = Asm(stub)
            asm.call(self._pads(ip))
            asm.jmp(ip)
            self._write(stub, asm.finish())
            self._stops[key] = stub
            self._ips[stub] = ip
        return self._stops[key]

    @staticmethod
    def tail(stub: int) -> int:
        """Where the pad of a stub for a breakpoint returns to."""
        return stub + JUMP_BYTES

    def ip_of(self, addr: int) -> int:
        """The location of a stub, given what a pad takes for the location; any other address as it is."""
        return self._ips.get(addr, addr)

    def check_room(self, wanted: Iterable[tuple[int, Head | None]]) -> None:
        """Check that stubs for so many locations fit: their addresses, and what is moved there.

        :raise SiteNoRoom: they do not.
        """
        low = self._low
        for ip, head in wanted:
            pad = self._pads(ip)
            if head and (ip, head.code, pad) not in self._jumps:
                low = _aligned(low + JUMP_BYTES + len(head.moved(low + JUMP_BYTES)))
            elif not head and (ip, pad) not in self._stops:
                low += _ALIGN
            if low > self._high:
                raise SiteNoRoom(ip)

    # Check that there is room below a limit, and return where the next stub on this side begins, or the limit.
    def _room(self, ip: int, end: int, limit: int) -> int:
        aligned = _aligned(end)
        if aligned > limit:
            raise SiteNoRoom(ip)
        return aligned if limit == self._high else limit

    def _call(self, ip: int, stub: int) -> bytes:
        asm = Asm(stub)
        asm.call(self._pads(ip))
        return asm.finish()

    def _write(self, addr: int, code: bytes) -> None:
        self._ram.write_physical(self._zone.physical_of(addr), code)


def _aligned(addr: int) -> int:
    return -(-addr // _ALIGN) * _ALIGN
