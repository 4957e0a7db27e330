"""Planting: ``call pad`` over fentry instructions, in a stopped guest, and the guest's own bytes back.

All or nothing: every location of a request is read and checked before the first one is written. Each write goes through
the debugger, so that QEMU drops what it has translated of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from fprobe_gdb.errors import MemoryFault, SiteInUse, SiteNoFentry, SiteOutOfReach, SiteUnmapped
from fprobe_gdb.target.base import Target

__all__ = ["Planter"]

_INSN_BYTES = 5
_CALL = 0xE8
# arch/x86/include/asm/nops.h, 5.10 to 6.18: what ftrace leaves at a fentry call that it does not use.
_NOPS = (bytes.fromhex("0f1f440000"), bytes.fromhex("6666666690"), bytes.fromhex("3e8d742600"))
_REACH = 1 << 31


class Planter:
    """The planted locations of one guest.

    :param read: reads kernel memory, of the running guest too; raises MemoryFault.
    :param pad: what planted locations call.
    :param fentry_addr: address of ``__fentry__``: a call to it is a fentry instruction that ftrace has not seen yet.
    """

    def __init__(
        self, target: Target, read: Callable[[int, int], bytes], pad: int, fentry_addr: int | None = None
    ) -> None:
        self._target = target
        self._read = read
        self._pad = pad
        self._fentry_addr = fentry_addr
        self._original: dict[int, bytes] = {}

    def __contains__(self, ip: int) -> bool:
        return ip in self._original

    def __len__(self) -> int:
        return len(self._original)

    @property
    def ips(self) -> Collection[int]:
        """All planted locations."""
        return self._original.keys()

    def check(self, ips: Iterable[int]) -> dict[int, bytes]:
        """Check that these locations can be planted: their own bytes. The guest may run.

        :raise PlantRefused: one of them cannot.
        """
        return {ip: self._check(ip) for ip in ips if ip not in self._original}

    def plant(self, ips: Iterable[int]) -> None:
        """Let these locations call the pad. The guest is stopped.

        :raise PlantRefused: one of them cannot be planted; nothing has been written then.
        """
        original = self.check(ips)
        self._target.write_many([(ip, _call(ip, self._pad)) for ip in sorted(original)])
        self._original.update(original)

    def unplant(self, ips: Iterable[int]) -> None:
        """Give these locations their own bytes back. The guest is stopped."""
        wanted = sorted(ip for ip in ips if ip in self._original)
        self._target.write_many([(ip, self._original[ip]) for ip in wanted])
        for ip in wanted:
            del self._original[ip]

    def unplant_all(self) -> None:
        """The same for all that are planted."""
        self.unplant(list(self._original))

    def _check(self, ip: int) -> bytes:
        try:
            code = self._read(ip, _INSN_BYTES)
        except MemoryFault:
            raise SiteUnmapped(ip) from None
        if not -_REACH <= self._pad - ip - _INSN_BYTES < _REACH:
            raise SiteOutOfReach(ip, self._pad)
        if code in _NOPS:
            return code
        if code[0] == _CALL:
            to = ip + _INSN_BYTES + int.from_bytes(code[1:], "little", signed=True)
            if to == self._fentry_addr:
                return code
            raise SiteInUse(ip, to)
        raise SiteNoFentry(ip, code)


def _call(ip: int, pad: int) -> bytes:
    return bytes([_CALL]) + (pad - ip - _INSN_BYTES).to_bytes(4, "little", signed=True)
