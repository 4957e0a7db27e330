"""A guest of Python functions that calls, returns and is stopped as a real one, in front of a real probe core.

It is its own dispatch, the smallest there can be: it plants what the core asks for, feeds a hit only where something is
planted, and carries out the register writes that the core says are effective.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fprobe_gdb.events import MissReason
from fprobe_gdb.probe.core import ProbeCore
from fprobe_gdb.probe.fprobe import Fprobe
from fprobe_gdb.probe.hit import Hit, KnownHit
from fprobe_gdb.probe.recursion import Context
from fprobe_gdb.probe.regs import PtRegs, Side
from fprobe_gdb.registers import ARGUMENT_REGISTERS, REGISTERS, Registers
from tests.unit.probe.made_up_kernel import MadeUpKernel

TASK = 0xFFFF888003A00000
OTHER_TASK = 0xFFFF888003A04000
# Where calls that nobody in the script makes return to.
OUTSIDE = 0xFFFFFFFF82000020
STACK_BYTES = 0x4000


@dataclass(frozen=True)
class TailCall:
    """What a body returns to leave by ``jmp name`` instead of ``ret``."""

    name: str
    args: tuple[int, ...] = ()


Body = Callable[..., "int | TailCall"]


@dataclass
class Call:
    """A call on its way: a frame of a task, and the vCPU's registers."""

    name: str
    task: int
    context: Context
    frame: int
    ret_ip: int
    cpu: int
    kprobe_running: bool
    vcpu: Registers = field(default_factory=dict)
    overridden: bool = False


class ScriptedGuest:
    """Calls functions of a made-up kernel. Functions without a body return 0."""

    def __init__(self, kernel: MadeUpKernel, possible_cpus: int = 2, bodies: dict[str, Body] | None = None) -> None:
        self.kernel = kernel
        self.misses: list[tuple[Fprobe, int, MissReason]] = []
        self.core = ProbeCore(kernel, possible_cpus, on_missed=self._on_missed)
        self.bodies = bodies or {}
        self.sites: set[int] = set()
        self.returns: set[int] = set()
        self._sp: dict[tuple[int, Context], int] = {}

    def _on_missed(self, fprobe: Fprobe, entry_ip: int, hit: Hit, reason: MissReason) -> None:
        self.misses.append((fprobe, entry_ip, reason))

    @property
    def reasons(self) -> list[MissReason]:
        return [reason for _, _, reason in self.misses]

    def plant(self) -> None:
        """Do what the core wants; it must never ask twice for the same thing."""
        for planted, (added, removed) in (
            (self.sites, self.core.take_site_changes()),
            (self.returns, self.core.take_return_changes()),
        ):
            assert not added & planted
            assert removed <= planted
            planted |= added
            planted -= removed

    def sp(self, task: int, context: Context = Context.NORMAL) -> int:
        """Stack pointer of a task; each task and each interrupt context has a stack of its own."""
        top = 0xFFFFC90000000000 + (len(self._sp) + 1) * 2 * STACK_BYTES + STACK_BYTES - 0x10
        return self._sp.setdefault((task, context), top)

    def set_sp(self, sp: int, task: int = TASK, context: Context = Context.NORMAL) -> None:
        """Cut the stack, as longjmp would."""
        self.sp(task, context)
        self._sp[task, context] = sp

    def enter(
        self,
        name: str,
        *args: int,
        task: int = TASK,
        context: Context = Context.NORMAL,
        cpu: int = 0,
        kprobe_running: bool = False,
        ret_ip: int = OUTSIDE,
    ) -> Call:
        """``call name``: push the return address and run the function's first instruction."""
        frame = self.sp(task, context) - 8
        self._sp[task, context] = frame
        call = Call(name, task, context, frame, ret_ip, cpu, kprobe_running)
        call.vcpu = dict.fromkeys(REGISTERS, 0) | {"sp": frame} | dict(zip(ARGUMENT_REGISTERS, args, strict=False))
        self._reach_location(call)
        return call

    def tail_call(self, call: Call, name: str, *args: int) -> None:
        """``jmp name`` out of a call: the frame and the return address stay."""
        call.name = name
        call.vcpu.update(zip(ARGUMENT_REGISTERS, args, strict=False))
        self._reach_location(call)

    def leave(self, call: Call, ax: int = 0) -> int:
        """``ret``; returns what the caller finds in ax."""
        if not call.overridden:
            call.vcpu["ax"] = ax
        call.vcpu["sp"] = self._sp[call.task, call.context] = call.frame + 8
        self.plant()
        if call.ret_ip in self.returns and self.core.is_exit(call.task, call.frame, call.ret_ip):
            regs = PtRegs.of(call.vcpu, Side.EXIT, call.ret_ip)
            self.core.exit(self._hit(call, call.ret_ip, regs))
            call.vcpu.update(regs.take_effective_writes(call.ret_ip))
        self.plant()
        return call.vcpu["ax"]

    def call(self, name: str, *args: int, **how: object) -> int:
        """Call a function from entry to return, and all that it calls."""
        task, context = how.get("task", TASK), how.get("context", Context.NORMAL)
        before = self.sp(task, context)  # type: ignore[arg-type]
        try:
            call = self.enter(name, *args, **how)  # type: ignore[arg-type]
            return self.leave(call, self._run(call))
        finally:
            self._sp[task, context] = before  # type: ignore[index]

    def _run(self, call: Call) -> int:
        while not call.overridden:
            body = self.bodies.get(call.name, lambda: 0)
            args = [call.vcpu[register] for register in ARGUMENT_REGISTERS]
            result = body(*args[: body.__code__.co_argcount])
            if not isinstance(result, TailCall):
                return result
            self.tail_call(call, result.name, *result.args)
        return call.vcpu["ax"]

    def _reach_location(self, call: Call) -> None:
        self.plant()
        location = self.kernel.ip(call.name)
        if location in self.sites:
            regs = PtRegs.of(call.vcpu, Side.ENTRY, location + 5)
            self.core.entry(self._hit(call, location, regs))
            call.vcpu.update(regs.take_effective_writes(call.ret_ip))
            call.overridden = regs.overridden
        self.plant()

    def _hit(self, call: Call, ip: int, regs: PtRegs) -> Hit:
        return KnownHit(
            ip=ip,
            ret_ip=call.ret_ip,
            frame=call.frame,
            task=call.task,
            cpu=call.cpu,
            regs=regs,
            context=call.context,
            kprobe_running=call.kprobe_running,
        )
