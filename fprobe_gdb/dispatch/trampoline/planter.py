"""Planting: locations that ask us, in a stopped guest, and the guest's own bytes back.

All or nothing: every location of a request is read and checked before the first one is written. Each write goes through
the debugger, so that QEMU drops what it has translated of it.

What the guest has at a location is kept beside (*its own bytes*): it is what the guest is shown when it reads there
(:mod:`.text_guard`), what it changes when it writes there, and what it gets back.
"""

from __future__ import annotations

import contextlib
import gc
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from struct import Struct

from fprobe_gdb.dispatch.trampoline.joined_writes import joined_writes
from fprobe_gdb.dispatch.trampoline.journal import OwnBytes
from fprobe_gdb.dispatch.trampoline.plans import Plan, Planner, Way
from fprobe_gdb.dispatch.trampoline.site_stubs import SiteStubs
from fprobe_gdb.errors import PlantRefused
from fprobe_gdb.kernel.displace import JUMP_BYTES
from fprobe_gdb.target.base import BreakpointKind, Target

__all__ = ["LONGEST_OWN", "Planter"]

_CALL = 0xE8
_JMP = 0xE9
_BRANCH = Struct("<Bi")
_NOP = bytes.fromhex("0f1f440000")
#: Bytes of the guest that one location can take: four, and one instruction.
LONGEST_OWN = 20
_KIND = BreakpointKind.SOFTWARE
_STANDS = "a CPU or a task is just inside its first instructions"


@dataclass(slots=True)
class _Site:
    plan: Plan
    #: What is written there; the guest's own bytes for a breakpoint.
    code: bytes
    #: Not for :attr:`.Way.CALL`.
    stub: int = 0


class Planter:
    """The planted locations of one guest.

    :param pads: what a location calls.
    :param find_words: which of some addresses are in the guest's memory: whoever was interrupted has the address where
        he goes on there.
    :param journal: keeps the guest's own bytes where others find them, in a guest that outlives us.
    :param taken: locations at which the guest has put a NOP since the last time, without asking.
    """

    def __init__(
        self,
        target: Target,
        planner: Planner,
        stubs: SiteStubs,
        pads: Callable[[int], int],
        find_words: Callable[[Set[int]], set[int]],
        journal: OwnBytes | None = None,
        taken: Callable[[], Iterable[int]] = tuple,
    ) -> None:
        self._journal = journal
        self._taken = taken
        self._target = target
        self._planner = planner
        self._stubs = stubs
        self._pads = pads
        self._find_words = find_words
        self._sites: dict[int, _Site] = {}
        self._sorted: list[int] | None = None
        # Locations with a breakpoint. The tails of their stubs keep theirs: somebody may still be in the pad.
        self._stops: set[int] = set()
        self._tails: dict[int, int] = {}

    def __contains__(self, ip: int) -> bool:
        return ip in self._sites

    def __len__(self) -> int:
        return len(self._sites)

    @property
    def ips(self) -> Collection[int]:
        """All planted locations."""
        return self._sites.keys()

    @property
    def slow(self) -> dict[int, str]:
        """The locations that have a breakpoint, and why each one has."""
        return {ip: self._sites[ip].plan.why for ip in self._stops}

    def own(self, ip: int) -> bytes:
        """The guest's own instruction at a location, a NOP where nothing is planted (any more)."""
        self._catch_up()
        site = self._sites.get(ip)
        return site.plan.own[:JUMP_BYTES] if site else _NOP

    def check(self, ips: Collection[int], others: Collection[int] = ()) -> None:
        """Check that these locations can be planted. The guest may run.

        :param others: what is planted as well then, or is already.
        :raise PlantRefused: one of them cannot.
        """
        if self._journal is not None:
            self._journal.check_room(ips, others)
        self._stubs.check_room((plan.ip, plan.head) for plan in self._plan_others(ips) if plan.way is not Way.CALL)

    # How to plant these, without those that are.
    def _plan_others(self, ips: Iterable[int]) -> list[Plan]:
        return self._planner.plan_all(ip for ip in ips if ip not in self._sites)

    def plant(self, ips: Iterable[int]) -> None:
        """Let these locations ask us. The guest is stopped.

        :raise PlantRefused: one of them cannot be planted; nothing has been written then.
        """
        self.change((), ips)

    def unplant(self, ips: Iterable[int]) -> None:
        """Give these locations their own bytes back. The guest is stopped."""
        wanted = sorted(ip for ip in ips if ip in self._sites)
        self._write([(ip, self.own(ip)) for ip in wanted])
        for ip in wanted:
            self._forget(ip)
        self._drop(wanted)

    def change(self, gone: Iterable[int], wanted: Iterable[int]) -> None:
        """Unplant and plant; what is both has another pad than before. The guest is stopped.

        :raise PlantRefused: one of them cannot be planted; nothing has been planted then, and those that are to be
            planted anew are as they were.
        """
        self._catch_up()
        gone, wanted = set(gone), set(wanted)
        self.unplant(gone - wanted)
        again = gone & wanted & self._sites.keys()
        with _uncollected():
            # A breakpoint may have become unnecessary.
            fresh = self._planner.plan_all((wanted - self._sites.keys()) | (again & self._stops))
            kept = [self._sites[ip].plan for ip in again - self._stops]
            self._plant([*fresh, *kept], standing=self._standing(fresh))

    def unplant_all(self) -> None:
        """The same for all that are planted, and no breakpoint stays behind."""
        self.unplant(list(self._sites))
        # Without a breakpoint a tail leads on to the location.
        for tail in self._tails:
            self._target.remove_breakpoint(tail, _KIND)
        self._tails.clear()

    def drop(self, start: int, stop: int) -> list[int]:
        """Unplant what lies between two addresses, before the guest frees it. It is stopped. Tells what was there."""
        gone = [ip for ip in self._sites if start <= ip < stop]
        self.unplant(gone)
        return gone

    # Section: the guest reads and writes its text

    def overlaps(self, addr: int, size_bytes: int) -> list[int]:
        """Planted locations of whose own bytes some lie in a piece of memory, ascending."""
        if self._sorted is None:
            self._sorted = sorted(self._sites)
        index = bisect_left(self._sorted, addr - LONGEST_OWN)
        found = []
        while index < len(self._sorted) and (ip := self._sorted[index]) < addr + size_bytes:
            if ip + len(self._sites[ip].plan.own) > addr:
                found.append(ip)
            index += 1
        return found

    def spans(self, ips: Iterable[int] | None = None) -> Iterator[tuple[int, int]]:
        """Planted locations, or some of them, and how many of the guest's own bytes they take."""
        sites = self._sites.values() if ips is None else [self._sites[ip] for ip in ips]
        return ((site.plan.ip, len(site.plan.own)) for site in sites)

    def unchanged(self) -> tuple[int, int]:
        """Between which addresses, ends excluded, the guest has its call of ``__fentry__`` at whatever calls a pad."""
        self._catch_up()
        calls = [site.plan for site in self._sites.values() if site.plan.way is Way.CALL]
        changed = (plan.ip for plan in calls if not self._planner.is_fentry_call(plan))
        return max(changed, default=0), max((plan.ip for plan in calls), default=0) + 1

    def as_guest_sees(self, addr: int, data: bytes) -> bytes:
        """A piece of memory with the guest's own bytes in place of ours."""
        for ip in self.overlaps(addr, len(data)):
            data = _overlay(addr, data, ip, self.own(ip))
        return data

    def changes(self, addr: int, data: bytes) -> bool:
        """Whether :meth:`rewrite` would have to write for this."""
        return not self._only_noted(addr, data)

    def note(self, addr: int, data: bytes) -> None:
        """The guest changes its own bytes, so that what is planted stays as it is. The guest may run."""
        self._catch_up()
        assert self._only_noted(addr, data)
        site = self._sites[addr]
        site.plan = site.plan._replace(own=data)
        if self._journal is not None:
            self._journal.keep({addr: data})

    def rewrite(self, pokes: Sequence[tuple[int, bytes]]) -> None:
        """The guest changes its text: let its own bytes be these, and plant anew. The guest is stopped.

        :raise PlantRefused: a location cannot be planted any more. The guest has its bytes; these locations are not
            planted then.
        """
        self._catch_up()
        whole = {addr: data for addr, data in pokes if self._is_whole(addr, data)}
        rest = [(addr, data) for addr, data in pokes if not self._is_whole(addr, data)]
        others = sorted({ip for addr, data in rest for ip in self.overlaps(addr, len(data))} - whole.keys())
        self.unplant(others)
        self._target.write_many(rest)
        for ip in whole:
            self._forget(ip)
        try:
            plans = [self._planner.plan(ip, data) for ip, data in whole.items()] + self._plan_others(others)
            self._plant(plans, standing=self._standing(plans))
        except PlantRefused:
            self._target.write_many(list(whole.items()))
            self._drop(whole)
            raise

    # Whether a write replaces just the one instruction of a location.
    def _is_whole(self, addr: int, data: bytes) -> bool:
        site = self._sites.get(addr)
        return site is not None and len(data) == len(site.plan.own) == JUMP_BYTES

    def _only_noted(self, addr: int, data: bytes) -> bool:
        if not self._is_whole(addr, data) or self._sites[addr].plan.way is not Way.CALL:
            return False
        return self._planner.plan(addr, data).way is Way.CALL

    # Section: vCPUs at breakpoints

    def pass_on(self, ip: int) -> tuple[int, bool] | None:
        """What has to become of a vCPU of the stopped guest that stands here: its next address, and whether to step it.

        :return: None when it stands at no breakpoint of ours.
        """
        if ip in self._stops:
            return self._sites[ip].stub, False
        location = self._tails.get(ip)
        if location is None:
            return None
        # It was here, and has to do now what the guest has there now, which may have changed meanwhile.
        site = self._sites.get(location)
        if site is None:
            return location, False
        match site.plan.way:
            case Way.CALL:
                return location + JUMP_BYTES, False
            case Way.JUMP:
                return site.stub + JUMP_BYTES, False
            case Way.BREAKPOINT:
                return location, True

    @property
    def has_breakpoints(self) -> bool:
        """Whether any vCPU can stand at one."""
        return bool(self._tails)

    # Section: private

    # Note what the guest has changed without asking.
    def _catch_up(self) -> None:
        for ip in self._taken():
            site = self._sites[ip]
            site.plan = site.plan._replace(own=_NOP)

    def _plant(self, plans: Sequence[Plan], *, standing: Set[int]) -> None:
        sites = sorted((self._site(_settled(plan, standing)) for plan in plans), key=_ip_of)
        if self._journal is not None:
            changed = [site.plan for site in sites if site.plan.way is not Way.BREAKPOINT]
            self._journal.keep({plan.ip: plan.own[:JUMP_BYTES] for plan in changed})
        self._write([(site.plan.ip, site.code) for site in sites])
        for site in sites:
            if site.plan.ip in self._stops:
                self._forget(site.plan.ip)
            self._sites[site.plan.ip] = site
            if site.plan.way is Way.BREAKPOINT:
                self._break(site)
        self._sorted = None

    def _write(self, writes: Sequence[tuple[int, bytes]]) -> None:
        self._target.write_many(joined_writes(writes, self._planner.read))

    def _site(self, plan: Plan) -> _Site:
        match plan.way:
            case Way.CALL:
                return _Site(plan, _branch(_CALL, plan.ip, self._pads(plan.ip)))
            case Way.JUMP:
                assert plan.head is not None
                stub = self._stubs.jump(plan.head)
                return _Site(plan, _branch(_JMP, plan.ip, stub), stub)
            case Way.BREAKPOINT:
                return _Site(plan, plan.own[:JUMP_BYTES], self._stubs.stop(plan.ip))

    def _break(self, site: _Site) -> None:
        ip, tail = site.plan.ip, self._stubs.tail(site.stub)
        self._stops.add(ip)
        self._target.insert_breakpoint(ip, _KIND)
        if tail not in self._tails:
            self._tails[tail] = ip
            self._target.insert_breakpoint(tail, _KIND)

    def _forget(self, ip: int) -> None:
        del self._sites[ip]
        self._sorted = None
        if ip in self._stops:
            self._stops.remove(ip)
            self._target.remove_breakpoint(ip, _KIND)

    # These have their own bytes back.
    def _drop(self, ips: Iterable[int]) -> None:
        if self._journal is not None:
            self._journal.drop(ip for ip in ips if ip in self._journal)

    # Addresses inside the instructions to be moved, at which somebody goes on once he runs.
    def _standing(self, plans: Sequence[Plan]) -> set[int]:
        inner = {addr for plan in plans if plan.head for addr in plan.head.inner}
        if not inner:
            return set()
        return inner.intersection(self._target.instruction_pointers()) | self._find_words(inner)


# What is made here stays, and Python's collector would look through all of it again and again: a fifth of the time.
@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _settled(plan: Plan, standing: Set[int]) -> Plan:
    if plan.head and not standing.isdisjoint(plan.head.inner):
        return Plan(plan.ip, Way.BREAKPOINT, plan.own[:JUMP_BYTES], why=_STANDS)
    return plan


def _ip_of(site: _Site) -> int:
    return site.plan.ip


def _branch(opcode: int, ip: int, to: int) -> bytes:
    return _BRANCH.pack(opcode, to - ip - JUMP_BYTES)


# Lay one piece of memory over another.
def _overlay(addr: int, data: bytes, over_addr: int, over: bytes) -> bytes:
    begin, end = max(addr, over_addr), min(addr + len(data), over_addr + len(over))
    if begin >= end:
        return data
    return data[: begin - addr] + over[begin - over_addr : end - over_addr] + data[end - addr :]
