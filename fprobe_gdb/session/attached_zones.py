"""The landing zone of a guest that was attached to: borrowed where trampolines are taken, given back when we leave; and
those that tools before us have left there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from emu.deadline import Deadline
from fprobe_gdb.dispatch.base import RunEnd
from fprobe_gdb.dispatch.breakpoint import BreakpointDispatch
from fprobe_gdb.dispatch.trampoline.dispatch import TrampolineDispatch
from fprobe_gdb.errors import (
    LoanNoMemory,
    LoanNoTypes,
    LoanStays,
    MemoryFault,
    TypeLookupError,
    ZoneError,
    ZoneNotMapped,
)
from fprobe_gdb.kernel.percpu import PerCpuLayout
from fprobe_gdb.probe.core import ProbeCore
from fprobe_gdb.session.live_stacks import LiveStacks
from fprobe_gdb.session.passing_cpus import PassingCpus
from fprobe_gdb.session.trampolines import furnish_trampolines, location_of, percpu_offsets
from fprobe_gdb.session.view import GuestView
from fprobe_gdb.session.zone_loan import LoanedZone, ZoneLoans
from fprobe_gdb.target.guest_ram import GuestRam
from fprobe_gdb.target.qemu_ram import find_ram

__all__ = ["AttachedZones"]

Read = Callable[[int, int], bytes]


class AttachedZones:
    """The zones of one guest, which is stopped before and after each method and runs meanwhile.

    :param qemu_pid: the process of its QEMU; 0 when that is not to be seen.
    :param view: the guest: its kernel is known, and where it is.
    :param percpu: of the kernel where it is.
    :param read: reads kernel memory through the debugger.
    :param run: lets the guest run until a deadline, or until something is true.
    :param note: told what was found, and what stays.
    """

    def __init__(
        self,
        qemu_pid: int,
        view: GuestView,
        percpu: PerCpuLayout,
        read: Read,
        run: Callable[[Deadline, Callable[[], bool]], RunEnd],
        note: Callable[[str], None],
    ) -> None:
        self._qemu_pid = qemu_pid
        self._view = view
        self._percpu = percpu
        self._read = read
        self._run = run
        self._note = note
        #: Why the zone has no rings of records, as a clause, where they were asked for.
        self.why_no_rings = ""

    def trampolines(
        self, breakpoints: BreakpointDispatch, core: ProbeCore, *, recording: bool, answer_sec: float
    ) -> TrampolineDispatch:
        """Borrow a zone and make a dispatch of it.

        :param breakpoints: the dispatch that the guest has now.
        :param recording: with rings of records, and room for all functions, if the guest has so much memory to lend.
        :raise ZoneError: why that cannot be. The guest is as it was.
        """
        view = self._view
        loans = self._loans(breakpoints, self._read)
        ram = find_ram(self._qemu_pid, view.target)
        try:
            loan = self._borrow(loans, ram, core.possible_cpus if recording else 0)
        except BaseException:
            ram.close()
            raise
        stacks = self._stacks(lambda *where: ram.read(loan.cr3, *where))
        return furnish_trampolines(
            view.target, core, view.records, view.knowledge, view.slide, self._percpu, ram, loan.zone, loan.cr3,
            doorbell=None, answer_sec=answer_sec, journal=loan.journal, standing=stacks.standing_at,
        )  # fmt: skip

    # With rings, or as a small zone, which handlers can do with.
    def _borrow(self, loans: ZoneLoans, ram: GuestRam, rings: int) -> LoanedZone:
        try:
            return loans.borrow(ram, rings)
        except (LoanNoMemory, ZoneNotMapped) as error:
            if not rings:
                raise
            self.why_no_rings = str(error)
            return loans.borrow(ram, 0)

    def give_back(self, breakpoints: BreakpointDispatch, trampolines: TrampolineDispatch | None) -> None:
        """Take our own zone out, from which nothing is planted any more.

        :param breakpoints: the dispatch that the guest has now.
        :param trampolines: the one that it had; None where there may be a zone whose set-up has failed half-way.
        """
        read = self._read
        if trampolines is not None:
            ram, cr3 = trampolines.ram, trampolines.kernel_cr3

            def read(addr: int, size_bytes: int) -> bytes:
                return ram.read(cr3, addr, size_bytes)

        self._remove(breakpoints, read, orphaned=False)

    def remove_orphans(self, breakpoints: BreakpointDispatch) -> None:
        """Take out what tools have left that were killed, as far as it can be done.

        :param breakpoints: the dispatch that the guest has.
        """
        self._remove(breakpoints, self._read, orphaned=True)
        with contextlib.suppress(ZoneError):
            loans = self._loans(breakpoints, self._read)
            ram = find_ram(self._qemu_pid, self._view.target)
            try:
                size_bytes = loans.give_marked_back(ram)
            finally:
                ram.close()
            if size_bytes:
                self._note(f"{size_bytes >> 20} MiB that a killed fprobe-gdb had borrowed were given back to the guest")

    def _remove(self, breakpoints: BreakpointDispatch, read: Read, *, orphaned: bool) -> None:
        try:
            loans = self._loans(breakpoints, read)
        except ZoneError:
            # Then there cannot be any.
            return
        whose = "a landing zone that a killed fprobe-gdb has left" if orphaned else "the landing zone"
        for head in loans.orphans():
            if not head.known:
                if orphaned:
                    self._note(f"{whose} stays in the guest: only that version of fprobe-gdb knows how to remove it")
                continue
            try:
                loans.give_back(head)
            except LoanStays as why:
                self._note(f"{whose} stays in the guest, {head.size_bytes >> 20} MiB that nothing leads to: {why}")
                continue
            if orphaned:
                self._note(f"{whose} in the guest was removed")

    def _loans(self, breakpoints: BreakpointDispatch, read: Read) -> ZoneLoans:
        view = self._view
        if not view.has_types:
            raise LoanNoTypes
        cpus = PassingCpus(breakpoints, self._run, lambda name: location_of(view.records, name))
        return ZoneLoans(view.target, view.symbols, cpus, self._stacks(read), read, self._boot())

    # A number that is another one after each boot; 0 where the kernel draws none.
    def _boot(self) -> int:
        with contextlib.suppress(TypeLookupError, MemoryFault):
            offset = self._view.btf.struct("task_struct").find_member("stack_canary").byte_offset
            return int.from_bytes(self._read(self._view.symbols.one("init_task") + offset, 8), "little")
        return 0

    def _stacks(self, read: Read) -> LiveStacks:
        view = self._view
        init_task = view.symbols.one("init_task")
        return LiveStacks(view.btf, init_task, view.target, percpu_offsets(self._percpu), read)
