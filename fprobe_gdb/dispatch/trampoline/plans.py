"""How a location can be made to ask us: decided from the bytes that are there. Reads the guest, writes nothing.

A fentry NOP becomes ``call pad``. So does a call of ``__fentry__``, which does nothing but return. Everything else is
moved into a stub, which calls the pad and then does what the moved instructions did; the location gets a jump to the
stub. A call that the guest's own ftrace has put there is such an instruction, and so the two share the location. What
cannot be moved gets a breakpoint.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import NamedTuple

from fprobe_gdb.errors import MemoryFault, SiteEntryCode, SiteOutOfReach, SiteUnmapped
from fprobe_gdb.kernel.displace import JUMP_BYTES, CannotDisplace, Head, branch_into, read_head
from fprobe_gdb.kernel.patched_text import PatchedText
from fprobe_gdb.kernel.sites import SiteKind, kind_of_site
from fprobe_gdb.kernel.symbols import SymbolTable

__all__ = ["Plan", "Planner", "Way"]

_REACH = 1 << 31
# The head of a function, behind its location: four bytes of instructions and one of up to 15.
_HEAD_BYTES = 20
# Longer ones are tables of code; looking through them takes too long.
_LONGEST_BYTES = 1 << 16
_ENTRY_TEXT = (("__entry_text_start", "__entry_text_end"), ("__irqentry_text_start", "__irqentry_text_end"))
_INT3 = 0xCC
_PAGE_BYTES = 4096

Read = Callable[[int, int], bytes]


class Way(Enum):
    """What a location gets."""

    #: ``call pad``.
    CALL = "call"
    #: ``jmp stub``; the stub calls the pad, and then does what stood at the location.
    JUMP = "jump"
    #: A breakpoint; who runs into it is sent to a stub, and the instruction is stepped afterwards.
    BREAKPOINT = "breakpoint"


class Plan(NamedTuple):
    """How one location is planted."""

    ip: int
    way: Way
    #: The guest's own bytes, as many as are replaced or moved.
    own: bytes
    #: What is moved.
    head: Head | None = None
    #: Why nothing better is possible.
    why: str = ""


class Planner:
    """Decides for one kernel.

    :param read: reads kernel memory, of the running guest too; raises MemoryFault.
    :param pad: what planted locations call.
    :param symbols: at the guest's addresses.
    :param patched: at link addresses.
    :param slide: what KASLR has added to these.
    """

    def __init__(
        self, read: Read, pad: int, symbols: SymbolTable, patched: PatchedText | None = None, slide: int = 0
    ) -> None:
        #: See the parameter.
        self.read = read
        self._pad = pad
        self._symbols = symbols
        self._patched = patched
        self._slide = slide
        #: Address of ``__fentry__``; None where there is none.
        self.fentry_addr = next(iter(symbols.addresses("__fentry__")), None)
        self._entry_text = [
            (start, stop)
            for first, last in _ENTRY_TEXT
            for start, stop in zip(symbols.addresses(first), symbols.addresses(last), strict=False)
        ]
        #: Whether instructions can be moved: not while the kernel still patches itself without telling.
        self.may_move = True

    def plan(self, ip: int, own: bytes | None = None) -> Plan:
        """Decide how to plant a location.

        :param own: what the guest thinks is there, at least :data:`JUMP_BYTES`, where that is not what is there.
        :raise PlantRefused: it cannot be planted at all.
        """
        self._refuse([ip])
        code = self._code(ip)
        code = (own or b"") + code[len(own or b"") :]
        insn = code[:JUMP_BYTES]
        if why := self._patched_why(ip, JUMP_BYTES):
            return Plan(ip, Way.BREAKPOINT, insn, why=why)
        if self.fentry_addr is not None and kind_of_site(insn, ip, self.fentry_addr) in _FREE:
            return Plan(ip, Way.CALL, insn)
        try:
            head = self._head(ip, code)
        except CannotDisplace as error:
            return Plan(ip, Way.BREAKPOINT, insn, why=str(error))
        return Plan(ip, Way.JUMP, head.code, head)

    def plan_all(self, ips: Iterable[int]) -> list[Plan]:
        """The same for many, in ascending order: 2 us for each one with a fentry NOP.

        :raise PlantRefused: one of them cannot be planted at all.
        """
        ordered = sorted(ips)
        self._refuse(ordered)
        fentry_addr, slide = self.fentry_addr, self._slide
        special = self._patched.touched_by(JUMP_BYTES) if self._patched else frozenset()
        page_addr, page = 0, b""
        plans = []
        for ip in ordered:
            if ip - page_addr >= _PAGE_BYTES:
                page_addr = ip - ip % _PAGE_BYTES
                page = self._page(page_addr)
            insn = page[ip - page_addr : ip - page_addr + JUMP_BYTES]
            free = fentry_addr is not None and kind_of_site(insn, ip, fentry_addr) in _FREE
            plans.append(Plan(ip, Way.CALL, insn) if free and ip - slide not in special else self.plan(ip))
        return plans

    def is_fentry_call(self, plan: Plan) -> bool:
        """Whether the guest calls ``__fentry__`` at a location that is planted."""
        addr = self.fentry_addr
        return addr is not None and kind_of_site(plan.own[:JUMP_BYTES], plan.ip, addr) is SiteKind.FENTRY_CALL

    # Where there are no pads, or none can be called.
    def _refuse(self, ordered: Sequence[int]) -> None:
        for start, stop in self._entry_text:
            found = bisect_left(ordered, start)
            if found < len(ordered) and ordered[found] < stop:
                raise SiteEntryCode(ordered[found])
        for ip in (*ordered[:1], *ordered[-1:]):
            if not -_REACH <= self._pad - ip - JUMP_BYTES < _REACH:
                raise SiteOutOfReach(ip, self._pad)

    # A page of text; nothing where it is not mapped.
    def _page(self, addr: int) -> bytes:
        try:
            return self.read(addr, _PAGE_BYTES)
        except MemoryFault:
            return b""

    # The bytes at a location, fewer than wanted where its mapping ends.
    def _code(self, ip: int) -> bytes:
        for size_bytes in (_HEAD_BYTES, JUMP_BYTES):
            try:
                return self.read(ip, size_bytes)
            except MemoryFault:
                continue
        raise SiteUnmapped(ip)

    def _head(self, ip: int, code: bytes) -> Head:
        if code[0] == _INT3:
            raise CannotDisplace("the guest has a kprobe there, or is just patching it")
        found = self._symbols.lookup(ip)
        room_bytes = self._symbols.size(ip) - found[1] if found else _HEAD_BYTES
        head = read_head(code, ip, room_bytes)
        if not head.inner:
            return head
        if not self.may_move:
            raise CannotDisplace("the kernel has not finished patching itself")
        if why := self._patched_why(ip, len(head.code)):
            raise CannotDisplace(why)
        for start, stop in self._body(ip):
            if why := branch_into(self.read(start, stop - start).rstrip(b"\xcc"), start, head):
                raise CannotDisplace(why)
        return head

    def _patched_why(self, ip: int, size_bytes: int) -> str:
        start = ip - self._slide
        return self._patched.why(start, start + size_bytes) if self._patched else ""

    # From where in the function that a location begins to its end, and its unlikely part.
    def _body(self, ip: int) -> Sequence[tuple[int, int]]:
        found = self._symbols.lookup(ip)
        if found is None:
            raise CannotDisplace("no symbol tells where it ends")
        names = [f"{name}.cold" for name in self._symbols.names(found[0].addr)]
        starts = [ip, *(addr for name in names for addr in self._symbols.addresses(name))]
        parts = [(start, start + self._symbols.size(start) - (found[1] if start == ip else 0)) for start in starts]
        if any(stop - start > _LONGEST_BYTES for start, stop in parts):
            raise CannotDisplace("it is too long to look through for branches to its beginning")
        return parts


_FREE = (SiteKind.FENTRY_NOP, SiteKind.FENTRY_CALL)
