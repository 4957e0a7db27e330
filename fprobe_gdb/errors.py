"""Every error that the probe packages raise.

::

    FprobeGdbError
    ├── UsageError                 the call makes no sense (programming error of the caller)
    ├── ExtraMissing               an optional package is not installed; has .package and .extra
    ├── TransportError             bytes did not get through
    │   ├── ConnectionClosed       the peer (QEMU's gdbstub, gdb) is gone
    │   └── TransportTimeout       no answer in time; has .waiting_for and .waited_sec
    ├── ProtocolError              the peer answered, but not by the rules; has .raw
    ├── TargetError
    │   ├── StateError             the operation needs another target state; has .state and .required
    │   ├── MemoryFault            an address that cannot be read or written; has .addr and .size_bytes
    │   ├── BreakpointRefused      the stub cannot plant (no debug register left, ...); has .addr
    │   ├── WaitTimeout            the guest did not stop in time; has .waited_sec
    │   └── TargetLost             the guest is gone (QEMU or gdb died); has .why and .console_tail
    ├── ImageError                 not a kernel image, or a damaged one; has .path
    │   └── BtfError               its type information is missing, damaged, or newer than we know
    ├── ModuleError                a guest's modules cannot be read: no types, or damaged memory; has .addr
    ├── SymbolError
    │   ├── SymbolNotFound         has .name and .near
    │   │   └── SymbolNotCode      the name exists, but is no code that can be probed; has .why
    │   └── SymbolAmbiguous        one name, several addresses; has .name and .addrs
    ├── TypeLookupError            the kernel's types have no such thing
    │   ├── TypeNotFound           has .name and .near
    │   ├── TypeAmbiguous          one name, several different types; has .name and .choices
    │   ├── MemberNotFound         has .name, .type_name and .near; an AttributeError too
    │   └── ElementNotFound        outside an array; an IndexError too
    ├── ExprError                  a filter or key expression is wrong; has .text, .column and .near
    │   └── ExprUnfit              it fits some of the probed functions only; has .functions
    ├── NotCompiled                a pad cannot evaluate a question; has .why
    ├── WrongType                  a C type cannot do what was asked of it; a TypeError too
    ├── StaleValue                 a value of the stopped guest, used after the guest ran on
    ├── ProbeError                 what the kernel answers with an errno; has .errno_name and .errno
    │   ├── InvalidProbe           -EINVAL
    │   ├── ProbeNotFound          -ENOENT
    │   ├── ProbeBusy              -EBUSY
    │   └── TooManySites           more functions than this dispatch can serve; has .count and .limit (-E2BIG)
    ├── ZoneError                  the trampolines' landing zone cannot be had in this guest
    │   ├── ZoneNotShared          it was booted without
    │   ├── ZoneNotMapped          there is no place for it in the page tables
    │   ├── RamOutOfReach          of a guest of others: its memory cannot be reached; Ram... says why
    │   ├── LoanRefused            of a guest of others: its kernel lends none; Loan... says why
    │   └── RecordRefused          it cannot record that; Record... says what is missing
    ├── LoanStays                  a guest of others cannot have its zone back now; LoanStays... says why
    ├── PlantRefused               a function cannot be given a trampoline; has .ip
    │   ├── SiteUnmapped           its location is not mapped
    │   ├── SiteEntryCode          it runs before the kernel's stack and per-CPU data are there
    │   ├── SiteNoRoom             the landing zone has no room for its stub
    │   ├── SiteNoJournal          a lent zone has no room to note it
    │   ├── SiteNoCode             the landing zone has no room for the pad that records it
    │   ├── SiteRecorded           it is recorded by another recording probe
    │   ├── SiteNotRecorded        it has no fentry instruction, which recording needs
    │   └── SiteOutOfReach         a call from there does not reach the landing zone
    ├── GuestCallError             k.call() could not run a guest function, or it did not come back
    ├── GuestPanic                 the guest's kernel panicked; has .console_tail
    └── OutputError                events cannot be written out (disk full, ...); has .where
        └── OutputClosed           their reader went away (``| head``): a clean end, not a failure

``str(error)`` says what happened, to what, and what to try.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence

__all__ = [
    "BreakpointRefused",
    "BtfError",
    "ConnectionClosed",
    "ElementNotFound",
    "ExprError",
    "ExprUnfit",
    "ExtraMissing",
    "FprobeGdbError",
    "GuestCallError",
    "GuestPanic",
    "ImageError",
    "InvalidProbe",
    "LoanInPieces",
    "LoanNoAllocator",
    "LoanNoMemory",
    "LoanNoSymbols",
    "LoanNoTypes",
    "LoanNobody",
    "LoanNotRam",
    "LoanOtherTables",
    "LoanRefused",
    "LoanStays",
    "LoanStaysFor32Bit",
    "LoanStaysForCall",
    "LoanStaysForTask",
    "LoanStaysForTracer",
    "LoanStaysUnasked",
    "LoanUnderKvm",
    "MemberNotFound",
    "MemoryFault",
    "ModuleError",
    "NotCompiled",
    "OutputClosed",
    "OutputError",
    "PlantRefused",
    "ProbeBusy",
    "ProbeError",
    "ProbeNotFound",
    "ProtocolError",
    "RamElsewhere",
    "RamForbidden",
    "RamNotFound",
    "RamOutOfReach",
    "RamUnseen",
    "RamUntold",
    "RecordNoNodes",
    "RecordNoRing",
    "RecordNoTables",
    "RecordNoTrampolines",
    "RecordRefused",
    "RecordTooMany",
    "SiteEntryCode",
    "SiteNoCode",
    "SiteNoJournal",
    "SiteNoRoom",
    "SiteNotRecorded",
    "SiteOutOfReach",
    "SiteRecorded",
    "SiteUnmapped",
    "StaleValue",
    "StateError",
    "SymbolAmbiguous",
    "SymbolError",
    "SymbolNotCode",
    "SymbolNotFound",
    "TargetError",
    "TargetLost",
    "TooManySites",
    "TracepointError",
    "TransportError",
    "TransportTimeout",
    "TypeAmbiguous",
    "TypeLookupError",
    "TypeNotFound",
    "UsageError",
    "WaitTimeout",
    "WrongType",
    "ZoneError",
    "ZoneNotMapped",
    "ZoneNotShared",
]


class FprobeGdbError(Exception):
    """Root of all errors of the fprobe_gdb packages."""


class UsageError(FprobeGdbError):
    """The caller asked for something that makes no sense."""


class ExtraMissing(FprobeGdbError):
    """A Python package that only some need is not installed, or too old."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(f"{what} needs {package}, which is not installed; try: pip install 'fprobe-gdb[{extra}]'")
        self.package = package
        self.extra = extra


class TransportError(FprobeGdbError):
    """Bytes did not get through to the gdbstub or gdb."""


class ConnectionClosed(TransportError):
    """The peer closed the connection."""


class TransportTimeout(TransportError):
    """The peer did not answer in time."""

    def __init__(self, waiting_for: str, waited_sec: float) -> None:
        super().__init__(
            f"no answer to {waiting_for} within {waited_sec:g} s; is QEMU alive and not stopped in a monitor?"
        )
        self.waiting_for = waiting_for
        self.waited_sec = waited_sec


class ProtocolError(FprobeGdbError):
    """The peer answered, but not by the rules of its protocol.

    :param raw: what it sent, cut to a readable length.
    """

    def __init__(self, message: str, raw: bytes | str = b"") -> None:
        super().__init__(f"{message}: {raw[:200]!r}" if raw else message)
        self.raw = raw


class TargetError(FprobeGdbError):
    """Something about the guest as an executing machine."""


class StateError(TargetError):
    """The operation needs the target in another state."""

    def __init__(self, what: str, state: str, required: str) -> None:
        super().__init__(f"{what} needs the guest {required}, but it is {state}")
        self.state = state
        self.required = required


class MemoryFault(TargetError):
    """A guest address that cannot be read or written."""

    def __init__(self, addr: int, size_bytes: int, access: str = "read") -> None:
        super().__init__(f"cannot {access} {size_bytes} bytes of guest memory at {addr:#x} (not mapped)")
        self.addr = addr
        self.size_bytes = size_bytes
        self.access = access


class BreakpointRefused(TargetError):
    """The stub did not accept a breakpoint."""

    def __init__(self, addr: int, why: str) -> None:
        super().__init__(f"cannot plant a breakpoint at {addr:#x}: {why}")
        self.addr = addr
        self.why = why


class WaitTimeout(TargetError):
    """The guest did not stop before the deadline. It is still running."""

    def __init__(self, waited_sec: float, waiting_for: str = "the guest to stop") -> None:
        super().__init__(f"waited {waited_sec:g} s for {waiting_for}")
        self.waited_sec = waited_sec
        self.waiting_for = waiting_for


class TargetLost(TargetError):
    """The guest is gone: QEMU exited or was killed, or gdb was.

    :param console_tail: the guest's last console lines, where somebody knows them.
    """

    def __init__(self, why: str, console_tail: Sequence[str] = ()) -> None:
        tail = "".join(f"\n  | {line}" for line in console_tail)
        super().__init__(f"the guest is gone: {why}" + (f"; its last console lines:{tail}" if tail else ""))
        self.why = why
        self.console_tail = tuple(console_tail)


class ImageError(FprobeGdbError):
    """A file is not a kernel image that we can read, or is damaged."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path
        self.why = why


class BtfError(ImageError):
    """Type information (BTF) that is missing, damaged, or of a form that we do not know."""


class ModuleError(FprobeGdbError):
    """A guest's modules, or one of them, cannot be read from its memory."""

    def __init__(self, addr: int, why: str) -> None:
        super().__init__(why)
        self.addr = addr


class SymbolError(FprobeGdbError):
    """A symbol look-up failed."""


class SymbolNotFound(SymbolError):
    """No symbol of this name."""

    def __init__(self, name: str, near: Sequence[str] = ()) -> None:
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        super().__init__(f"no kernel symbol {name!r}{hint}")
        self.name = name
        self.near = tuple(near)


class SymbolNotCode(SymbolNotFound):
    """The symbol exists, but there is no code at its address that can be probed."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(name)
        self.args = (f"kernel symbol {name!r} cannot be probed: {why}",)
        self.why = why


class SymbolAmbiguous(SymbolError):
    """One name, several addresses, and the caller needs one."""

    def __init__(self, name: str, addrs: Sequence[int]) -> None:
        super().__init__(f"{name!r} is at {len(addrs)} addresses: {', '.join(f'{a:#x}' for a in addrs)}; give one")
        self.name = name
        self.addrs = tuple(addrs)


class TypeLookupError(FprobeGdbError):
    """The kernel's types have no such thing."""


class TypeNotFound(TypeLookupError):
    """No C type, function or variable of this name in the kernel's type information.

    :param near: names like it, or what finds them: that takes some 50 ms, and many callers only want to know.
    """

    def __init__(self, name: str, near: Sequence[str] | Callable[[], Sequence[str]] = ()) -> None:
        super().__init__(name)
        self.name = name
        self._near = near

    @property
    def near(self) -> tuple[str, ...]:
        """Names like it that there are."""
        if callable(self._near):
            try:
                self._near = self._near()
            except BtfError:
                self._near = ()
        return tuple(self._near)

    def __str__(self) -> str:
        hint = f"; did you mean {', '.join(self.near)}?" if self.near else ""
        return f"the kernel's type information has no {self.name}{hint}"


class TypeAmbiguous(TypeLookupError):
    """One name stands for several different types, and the caller needs one.

    :param choices: the C text of each.
    """

    def __init__(self, name: str, choices: Sequence[str]) -> None:
        shown = "".join(f"\n  {choice}" for choice in choices)
        super().__init__(f"{name} is {len(choices)} different things in this kernel; choose by type ID:{shown}")
        self.name = name
        self.choices = tuple(choices)


class MemberNotFound(TypeLookupError, AttributeError):
    """A structure or union has no such member. An :class:`AttributeError`, so that ``hasattr`` works."""

    def __init__(self, name: str, type_name: str, near: Sequence[str] = ()) -> None:
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        super().__init__(f"{type_name} has no member {name!r}{hint}")
        self.name = name
        self.type_name = type_name
        self.near = tuple(near)


class ElementNotFound(TypeLookupError, IndexError):
    """An index outside an array. An :class:`IndexError`, so that Python's idioms work."""


class WrongType(FprobeGdbError, TypeError):
    """A C type cannot do what was asked of it: a member of an integer, the size of a function, ..."""


class ExprError(FprobeGdbError):
    """An expression (``--filter``, ``--hist``, ``--count-by``) that cannot be read, or does not fit the types.

    ``str()`` shows the text with a caret under the place.

    :param column: where in ``text``, in characters from 0.
    """

    def __init__(self, message: str, text: str, column: int, near: Sequence[str] = ()) -> None:
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        # A window of the text around the place, every character as wide as one column.
        start = max(0, min(column - 50, len(text) - 100))
        shown = "".join(char if char.isprintable() else " " for char in text[start : start + 100])
        super().__init__(f"{message}{hint}\n    {shown}\n    {' ' * (column - start)}^")
        self.message = message
        self.text = text
        self.column = column
        self.near = tuple(near)


class ExprUnfit(ExprError):
    """An expression that fits some of the probed functions, but not all.

    :param functions: those that it does not fit.
    """

    def __init__(self, message: str, text: str, column: int, functions: Sequence[str]) -> None:
        super().__init__(message, text, column)
        self.functions = tuple(functions)


class NotCompiled(FprobeGdbError):
    """A question about calls that pads in the guest cannot evaluate; handlers can."""

    def __init__(self, why: str) -> None:
        super().__init__(f"{why}, so pads cannot answer this; let handlers do it (--no-record)")
        self.why = why


class StaleValue(FprobeGdbError):
    """A value of the stopped guest was used after the guest ran on; its memory may hold anything now."""


class ProbeError(FprobeGdbError):
    """What the kernel's fprobe API answers with a negative errno."""

    #: The kernel's errno for this, e.g. ``"EINVAL"``.
    errno_name = "EINVAL"

    @property
    def errno(self) -> int:
        """The kernel's errno number, positive."""
        return int(getattr(errno, self.errno_name))

    def __str__(self) -> str:
        return f"{super().__str__()} (-{self.errno_name})"


class InvalidProbe(ProbeError):
    """-EINVAL: a missing or meaningless argument, or a filter that matches nothing."""

    #: Names close to what was asked for, when nothing matched.
    near: tuple[str, ...] = ()
    #: Whether the reason is that nothing matched.
    no_match = False


class ProbeNotFound(ProbeError):
    """-ENOENT: a name of ``register_fprobe_syms`` that is unknown, untraceable or given twice."""

    errno_name = "ENOENT"

    near: tuple[str, ...] = ()
    no_match = True


class ProbeBusy(ProbeError):
    """-EBUSY: the fprobe is registered already."""

    errno_name = "EBUSY"


class TooManySites(ProbeError):
    """-E2BIG: more functions than this dispatch can serve."""

    errno_name = "E2BIG"

    def __init__(self, count: int, limit: int, why: str) -> None:
        super().__init__(f"{count} functions match, but {why}")
        self.count = count
        self.limit = limit


class ZoneError(FprobeGdbError):
    """The landing zone of trampolines cannot be had in this guest. Nothing has been changed in it."""


class RamOutOfReach(ZoneError):
    """The RAM of a guest that somebody else started cannot be read and written from here."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the memory of a guest that was attached to is not shared with us, and QEMU's: {why}")


class RamUnseen(RamOutOfReach):
    """Which process the guest's QEMU is cannot be seen."""

    def __init__(self) -> None:
        super().__init__("its process is not to be seen from here; is it in another container?")


class RamUntold(RamOutOfReach):
    """QEMU's monitor does not tell of the guest's RAM."""

    def __init__(self) -> None:
        super().__init__("its monitor does not tell of the guest's RAM; is it a QEMU?")


class RamElsewhere(RamOutOfReach):
    """The guest's RAM does not lie as in a PC."""


class RamForbidden(RamOutOfReach):
    """We have not the right to look into QEMU's process."""

    def __init__(self, path: str, why: str | None) -> None:
        super().__init__(
            f"{path} cannot be opened ({why}): that takes the right to trace its process (the same user and "
            "kernel.yama.ptrace_scope=0, or CAP_SYS_PTRACE); or start QEMU with its RAM shared (-object "
            "memory-backend-memfd,id=ram,share=on,size=... -machine memory-backend=ram)"
        )


class RamNotFound(RamOutOfReach):
    """No memory of the process holds what the guest's RAM holds."""


class ZoneNotShared(ZoneError):
    """The guest was booted without memory that is shared with us, or with none set aside for the zone."""

    def __init__(self) -> None:
        super().__init__("this guest's memory is not shared with us; boot it with dispatch='trampoline' or 'auto'")


class ZoneNotMapped(ZoneError):
    """The guest's page tables have no place where the zone, or the window onto all memory, could be seen."""


class LoanRefused(ZoneError):
    """The kernel of a guest that somebody else started lends us no zone. What it had lent it has back."""


class LoanNoTypes(LoanRefused):
    """The kernel has no type information."""

    def __init__(self) -> None:
        super().__init__("this kernel has no types (BTF), which it takes to know when nobody is in a pad any more")


class LoanUnderKvm(LoanRefused):
    """The guest's CPUs are real ones."""

    def __init__(self) -> None:
        super().__init__("under KVM nobody can make the guest's CPUs forget a mapping from outside, as with TCG")


class LoanNoSymbols(LoanRefused):
    """The kernel's symbols do not tell where its page tables are."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(
            f"this kernel's symbols do not tell where its page tables are ({', '.join(names)}), as those of a kernel "
            "with CONFIG_KALLSYMS_ALL, or its vmlinux, do"
        )


class LoanNoAllocator(LoanRefused):
    """The kernel has no function that we know how to ask for memory."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"this kernel has no function to borrow memory by ({' or '.join(names)})")


class LoanNobody(LoanRefused):
    """No CPU came by where the kernel's allocator may be called."""

    def __init__(self, function: str) -> None:
        super().__init__(f"no CPU of the guest came by where its allocator may be called ({function}); is it stuck?")


class LoanNoMemory(LoanRefused):
    """The guest's kernel has not enough memory to lend, in pieces of the size that we need.

    :param pieces: how many are needed, of so many bytes each.
    :param lent: how many it had; it has them back.
    """

    def __init__(self, pieces: int, piece_bytes: int, lent: int) -> None:
        size_mib = piece_bytes >> 20
        had = f"; it had {lent} of {pieces}" if lent else ""
        super().__init__(f"the guest has no {size_mib * pieces} MiB of memory to lend in pieces of {size_mib}{had}")
        self.pieces = pieces
        self.lent = lent


class LoanOtherTables(LoanRefused):
    """The guest's CPUs have other page tables than those of its kernel: we would map the zone where nobody sees it."""

    def __init__(self) -> None:
        super().__init__("the guest's page tables are not those that its kernel was booted with")


class LoanNotRam(LoanRefused):
    """What the allocator gave is not in the guest's RAM."""

    def __init__(self, handle: int, fault: MemoryFault) -> None:
        super().__init__(f"what the guest has allocated at {handle:#x} is not in its RAM: {fault}")


class LoanInPieces(LoanRefused):
    """What the allocator gave is not one piece of physical memory that begins at a multiple of its size."""

    def __init__(self, handle: int) -> None:
        super().__init__(f"what the guest has allocated at {handle:#x} is not in one piece")


class LoanStays(FprobeGdbError):
    """The guest cannot have a zone back now. Nothing leads to it any more; the next tool gives it back.

    :param why: as a clause.
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)


class LoanStaysForCall(LoanStays):
    """A call is in a pad, and does not come out of it."""

    def __init__(self) -> None:
        super().__init__("a call is in a pad")


class LoanStaysForTracer(LoanStays):
    """A tracer of the guest has return addresses of ours."""

    def __init__(self) -> None:
        super().__init__("a tracer of the guest has its return addresses")


class LoanStaysForTask(LoanStays):
    """Somebody's stack leads into a pad, or may do so."""

    def __init__(self, who: str) -> None:
        super().__init__(f"{who} in a pad")


class LoanStaysFor32Bit(LoanStays):
    """A CPU runs 32-bit code: of its registers gdbstubs write only one half."""

    def __init__(self) -> None:
        super().__init__("a CPU runs 32-bit code")


class LoanStaysUnasked(LoanStays):
    """No CPU came by where the kernel's allocator may be called."""

    def __init__(self, function: str) -> None:
        super().__init__(f"no CPU of the guest came by where its allocator may be called ({function})")


class RecordRefused(ZoneError):
    """A recording cannot be had in this zone. No function of the same request is recorded; handlers can do it.

    :param why: as a clause.
    :param advice: what to do about it.
    """

    def __init__(self, why: str, advice: str) -> None:
        super().__init__(f"{why}; {advice}")
        self.why = why


class RecordNoTrampolines(RecordRefused):
    """The guest has breakpoints.

    :param reason: why it has no trampolines, as a clause.
    """

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__("recording needs trampolines", advice)
        self.args = (f"recording needs trampolines, but {reason}; {advice}",)


class RecordNoRing(RecordRefused):
    """The zone has no room for a ring of records for each CPU.

    :param reason: why it has none, as a clause, where that is known.
    """

    def __init__(self, cpus: int, advice: str = "give the guest more memory", reason: str = "") -> None:
        since = f", since {reason}" if reason else ""
        super().__init__(f"the landing zone has no room for a ring of records for each of {cpus} CPUs{since}", advice)


class RecordTooMany(RecordRefused):
    """There are as many recording probes as there can be, or some of their calls are still in flight."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} recording probes are there, or some of their calls are", "remove one")


class RecordNoNodes(RecordRefused):
    """Other recording probes have all nodes, one of which each call takes whose return is recorded."""

    def __init__(self) -> None:
        super().__init__(
            "the landing zone has no node left for returns", "remove a recording probe, or record entries only"
        )


class RecordNoTables(RecordRefused):
    """The zone has no room for tables in which pads add up calls."""

    def __init__(self) -> None:
        super().__init__(
            "the landing zone has no room for tables", "remove a recording probe, or let handlers do it (--no-record)"
        )


class PlantRefused(FprobeGdbError):
    """A function cannot be given a trampoline. No function of the same request has been given one.

    :param ip: its location.
    """

    def __init__(self, ip: int, why: str) -> None:
        super().__init__(f"no trampoline can be planted at {ip:#x}: {why}")
        self.ip = ip


class SiteUnmapped(PlantRefused):
    """The location is not mapped: the function's memory was freed, or the address belongs to no kernel."""

    def __init__(self, ip: int) -> None:
        super().__init__(ip, "there is no memory; was it freed after boot (__init), or its module unloaded?")


class SiteEntryCode(PlantRefused):
    """The location is in the kernel's entry code, where a pad could not work."""

    def __init__(self, ip: int) -> None:
        super().__init__(
            ip,
            "it is entry code, which runs before the kernel's own stack and per-CPU data are there; such code needs "
            'breakpoints (--dispatch breakpoint, dispatch="breakpoint")',
        )


class SiteNoRoom(PlantRefused):
    """The landing zone has no room left for the stub of a function without a free fentry instruction."""

    def __init__(self, ip: int) -> None:
        super().__init__(ip, "the landing zone has no room for its stub; probe fewer functions at once")


class SiteNoJournal(PlantRefused):
    """The zone in a guest of others has no room left to note what whoever finds it has to put back.

    :param limit: of so many locations it can.
    """

    def __init__(self, ip: int, limit: int) -> None:
        super().__init__(
            ip,
            f"the memory that the guest has lent has room for what {limit} locations are without us; probe fewer "
            "functions at once, or attach with --record (recording=True)",
        )
        self.limit = limit


class SiteNoCode(PlantRefused):
    """The landing zone has no room left for the code of a recording pad; each question that is asked has its own."""

    why = "the landing zone has no room for the pads of so many different questions and recordings"

    def __init__(self, ip: int) -> None:
        super().__init__(ip, f"{self.why}; ask fewer functions at once, or let handlers do it (--no-record, Fprobe)")


class SiteRecorded(PlantRefused):
    """The function is recorded by another recording probe."""

    def __init__(self, ip: int) -> None:
        super().__init__(ip, "it is recorded already; stop the other recording first, or record both in one go")


class SiteNotRecorded(PlantRefused):
    """The function has no fentry instruction; a recording pad has to be called from one."""

    why = "a function has no fentry instruction"

    def __init__(self, ip: int) -> None:
        super().__init__(
            ip, "it has no fentry instruction, so it cannot be recorded; a handler can probe it (--no-record, Fprobe)"
        )


class SiteOutOfReach(PlantRefused):
    """The location is more than 2 GiB away from the landing zone."""

    def __init__(self, ip: int, pad: int) -> None:
        super().__init__(ip, f"the landing zone at {pad:#x} is more than 2 GiB away")


class GuestCallError(FprobeGdbError):
    """A guest function that a handler called could not be run, or did not come back."""


class TracepointError(UsageError):
    """A tracepoint of the guest cannot be switched on or off."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"tracepoint {name!r} cannot be switched on: {why}")
        self.name = name


class GuestPanic(FprobeGdbError):
    """The guest's kernel panicked."""

    def __init__(self, console_tail: Sequence[str]) -> None:
        tail = "".join(f"\n  | {line}" for line in console_tail)
        super().__init__(f"the guest's kernel panicked; its last console lines:{tail or ' (none)'}")
        self.console_tail = tuple(console_tail)


class OutputError(FprobeGdbError):
    """Events cannot be written out: the disk is full, the file is gone, ..."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"cannot write events to {where}: {why}")
        self.where = where


class OutputClosed(OutputError):
    """The reader of the events went away, as ``| head`` does. A clean end of a trace, not a failure."""

    def __init__(self, where: str) -> None:
        super().__init__(where, "its reader has gone")
