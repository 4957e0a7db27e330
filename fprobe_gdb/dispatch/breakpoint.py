"""The breakpoint dispatch: a breakpoint on each location, and one on each return address with a call in flight.

Guest memory is not touched. The loop is: resume, wait for a stop, handle every vCPU that stands on a planted address,
resume. It never counts stops: one stop may stand for two vCPUs, and a vCPU that was not looked at stops again.

Rule 1: no vCPU is resumed at a planted address before it was handled there and moved past it (see
:class:`~fprobe_gdb.target.base.Target`, rule 3).
Rule 2: a return belongs to the call with the same task and the same frame. Others may run through the same return
address; they are stepped over it, the other vCPUs held.
Rule 3: the guest only runs inside :meth:`BreakpointDispatch.run`, and a handler's :meth:`BreakpointDispatch.call`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from emu.deadline import Deadline
from fprobe_gdb.dispatch.advance import advance, skip_length
from fprobe_gdb.dispatch.base import RunEnd, stop_guest
from fprobe_gdb.dispatch.clock import GuestClock
from fprobe_gdb.dispatch.cpu_state import CpuState, PerCpuOffsets, read_cpu_state
from fprobe_gdb.dispatch.guest_call import GuestCall
from fprobe_gdb.dispatch.plants import Plants, Role
from fprobe_gdb.dispatch.way_back import WayBack
from fprobe_gdb.errors import GuestCallError, StateError, WaitTimeout
from fprobe_gdb.probe.core import ProbeCore
from fprobe_gdb.probe.hit import Hit, KnownHit
from fprobe_gdb.probe.recursion import context_of
from fprobe_gdb.probe.regs import PtRegs, Side
from fprobe_gdb.registers import MASK64
from fprobe_gdb.target.base import BreakpointKind, Target, TargetState

__all__ = ["BreakpointDispatch"]


# A hit whose handlers are running. ``landing`` is where a guest function that they call returns to.
@dataclass(slots=True)
class _Handling:
    state: CpuState
    hit: Hit
    landing: int


class BreakpointDispatch:
    """Feeds the hits of one guest to one probe core.

    :param target: the guest, stopped.
    :param offsets: where its per-CPU variables are.
    :param task_dead_ip: location of ``do_task_dead``, watched while calls are in flight; None when there is none, and
        calls of tasks that die then keep their nodes.
    """

    name = "breakpoint"

    def __init__(
        self,
        target: Target,
        core: ProbeCore,
        offsets: PerCpuOffsets,
        *,
        kind: BreakpointKind = BreakpointKind.SOFTWARE,
        task_dead_ip: int | None = None,
    ) -> None:
        self.target = target
        self.core = core
        self.clock = GuestClock(target)
        self.plants = Plants(target, kind)
        #: Host time during which the guest was stopped for hits.
        self.stopped_ns = 0
        #: Stops that were reported, of any kind.
        self.stops = 0
        #: A number that changes whenever the guest runs.
        self.epoch = 0
        #: To be set while no call is in flight.
        self.offsets = offsets
        #: See the parameter; to be set while no call is in flight.
        self.task_dead_ip = task_dead_ip
        #: How a vCPU that runs a function for us comes back without us, where that is known.
        self.way_back: WayBack | None = None
        #: See :attr:`.base.Dispatch.watches`.
        self.watches: Callable[[], Mapping[int, Callable[[CpuState], None]]] = dict
        self._watched: Mapping[int, Callable[[CpuState], None]] = {}
        # Hits whose handlers are running now, outermost first; more than one only through guest calls.
        self._handling: list[_Handling] = []
        self._calls: list[GuestCall] = []
        # vCPUs that stand at the end of a call, until its caller has taken the result.
        self._parked: set[int] = set()
        self._failure: BaseException | None = None
        self._stop_requested = False

    # Section: running the guest

    def run(self, deadline: Deadline, done: Callable[[], bool], wake: Sequence[int] = ()) -> RunEnd:
        """Let the stopped guest run, with probes, until ``done()``; it is stopped again afterwards.

        :param done: asked after each stop, and whenever one of the ``wake`` file descriptors is readable.
        :raise BaseException: the first exception that a handler raised; its fprobes are unregistered by then.
        """
        self._stop_requested = False
        try:
            return self._run(deadline, done, wake)
        finally:
            if failure := self._failure:
                self._failure = None
                raise failure

    def _run(self, deadline: Deadline, done: Callable[[], bool], wake: Sequence[int]) -> RunEnd:
        self.sync()
        self._drain()
        while self._failure is None and not self._stop_requested and not done():
            if deadline.expired:
                return RunEnd.TIMEOUT
            try:
                stopped = self._run_to_stop(deadline, done, wake)
            except WaitTimeout:
                self._halt()
                return RunEnd.TIMEOUT
            if not stopped:
                self._halt()
                return RunEnd.DONE
        return RunEnd.DONE

    def stop(self) -> None:
        """From a handler: end :meth:`run` behind this hit; another one of the same moment waits for the next run."""
        self._stop_requested = True

    # Resume, wait for one stop and handle it. False: done() said so while the guest was running (it still is).
    def _run_to_stop(self, deadline: Deadline, done: Callable[[], bool], wake: Sequence[int]) -> bool:
        resumed_ns = time.monotonic_ns()
        self.epoch += 1
        self.target.resume(hold=self._parked)
        while (self.target.wait(deadline, wake)) is None:
            if done():
                self._ran_since(resumed_ns)
                return False
        self._ran_since(resumed_ns)
        started_ns = time.monotonic_ns()
        self.stops += 1
        self._drain()
        if not self._handling:
            self.stopped_ns += time.monotonic_ns() - started_ns
        return True

    def _ran_since(self, resumed_ns: int) -> None:
        self.clock.ran(time.monotonic_ns() - resumed_ns)

    # Stop the running guest and handle what it ran into on the way.
    def _halt(self) -> None:
        stop_guest(self.target)
        self._drain()

    def sync(self) -> None:
        """Plant what the core asks for now, and remove what it does not. The guest is stopped.

        :raise BreakpointRefused: when the stub cannot plant.
        """
        for take, role in (
            (self.core.take_site_changes, Role.ENTRY),
            (self.core.take_return_changes, Role.RETURN),
        ):
            added, removed = take()
            for addr in removed:
                self.plants.drop(addr, role)
            for addr in added:
                self.plants.add(addr, role)
        if self.task_dead_ip is not None:
            watched = bool(self.plants.roles(self.task_dead_ip) & Role.TASK_DEAD)
            if watched != bool(self.core.calls_in_flight):
                (self.plants.drop if watched else self.plants.add)(self.task_dead_ip, Role.TASK_DEAD)
        self._sync_watches()

    def _sync_watches(self) -> None:
        wanted = self.watches()
        for addr in self._watched.keys() - wanted.keys():
            self.plants.drop(addr, Role.WATCH)
        for addr in wanted.keys() - self._watched.keys():
            self.plants.add(addr, Role.WATCH)
        self._watched = wanted

    def admit(self, ips: Collection[int], planted: Collection[int] = ()) -> None:
        """See :meth:`.base.Dispatch.admit`: breakpoints can be anywhere."""

    def withdraw(self) -> None:
        """Remove all breakpoints."""
        self.plants.clear()
        self._watched = {}

    def close(self) -> None:
        """See :meth:`.base.Dispatch.close`: nothing is held."""

    # Section: hits

    # Handle every vCPU that stands on a planted address, until none does. Handlers may run the guest, and a vCPU may
    # move from one planted address to the next, so each turn looks at all of them anew.
    def _drain(self) -> None:
        while self._wants_more and (vcpu := self._planted_vcpu()) is not None:
            self._handle(read_cpu_state(self.target, vcpu, self.offsets))

    # After stop() only what a guest call still needs.
    @property
    def _wants_more(self) -> bool:
        return not self._stop_requested or bool(self._handling)

    def _planted_vcpu(self) -> int | None:
        ips = enumerate(self.target.instruction_pointers())
        return next((vcpu for vcpu, ip in ips if ip in self.plants and vcpu not in self._parked), None)

    def _handle(self, state: CpuState) -> None:
        roles = self.plants.roles(state.ip)
        if roles & Role.RETURN and self.core.is_exit(state.task, (state.sp - 8) & MASK64, state.ip):
            # Where the address stays planted, for other calls, because a handler's call lands here, or because a
            # function starts here (behind a call that never returns), the vCPU comes here once more.
            self._exit(state)
        elif call := next((call for call in self._calls if call.ends_at(state)), None):
            call.finish(state)
            self._parked.add(state.vcpu)
        elif roles & (Role.ENTRY | Role.TASK_DEAD | Role.WATCH):
            self._entry(state, roles)
        else:
            # A breakpoint that is not meant for this task.
            advance(self.target, state, {})

    def _entry(self, state: CpuState, roles: Role) -> None:
        writes = {}
        if roles & Role.ENTRY:
            ret_ip = state.stack_word or 0
            regs = PtRegs.of(state.registers, Side.ENTRY, state.ip + skip_length(state.code))
            state = self._give(self.core.entry, self._hit(state, regs, state.sp, ret_ip), state, regs.ip)
            writes = regs.take_effective_writes(ret_ip)
        if roles & Role.TASK_DEAD:
            self.core.task_dead(state.task)
        if (roles & Role.WATCH) and (listener := self._watched.get(state.ip)):
            regs = PtRegs.of(state.registers, Side.ENTRY, state.ip + skip_length(state.code))
            hit = self._hit(state, regs, state.sp, state.stack_word or 0)
            state = self._give(lambda _: listener(self.current), hit, state, regs.ip)
        self.sync()
        advance(self.target, state, writes)

    def _exit(self, state: CpuState) -> None:
        regs = PtRegs.of(state.registers, Side.EXIT, state.ip)
        hit = self._hit(state, regs, (state.sp - 8) & MASK64, state.ip)
        state = self._give(self.core.exit, hit, state, state.ip)
        writes = regs.take_effective_writes(hit.ret_ip)
        if writes:
            self.target.write_registers(state.vcpu, writes)
        self.sync()

    def _hit(self, state: CpuState, regs: PtRegs, frame: int, ret_ip: int) -> Hit:
        return KnownHit(
            ip=state.ip,
            ret_ip=ret_ip,
            frame=frame,
            task=state.task,
            cpu=state.vcpu,
            regs=regs,
            context=context_of(state.preempt_count),
            kprobe_running=state.kprobe_running,
            time_ns=self.clock.now_ns(),
        )

    # Let the core call the handlers of a hit. What they raise is kept for run(), the first one wins; the guest goes on
    # without probes. Returns where the task is afterwards: a guest call may have moved it to another vCPU.
    def _give(self, feed: Callable[[Hit], object], hit: Hit, state: CpuState, landing: int) -> CpuState:
        self._handling.append(_Handling(state, hit, landing))
        try:
            feed(hit)
        except BaseException as error:
            if self.target.state is not TargetState.STOPPED:
                raise
            self._fail(error)
        return self._handling.pop().state

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
        self.core.unregister_all()

    # Section: for handlers

    @property
    def current(self) -> CpuState:
        """The vCPU of the hit that is being handled.

        :raise StateError: outside handlers.
        """
        if not self._handling:
            raise StateError("this", "not in a handler", "stopped in a handler")
        return self._handling[-1].state

    def now_ns(self) -> int:
        """Guest time of the hit that is being handled, or of the stopped guest outside handlers."""
        return self._handling[-1].hit.time_ns if self._handling else self.clock.now_ns()

    def read_memory(self, addr: int, size_bytes: int) -> bytes:
        """Read guest virtual memory, as the vCPU of the hit that is being handled sees it.

        :raise MemoryFault: when any of it is not mapped.
        """
        return self.target.read_memory(addr, size_bytes, vcpu=self._vcpu)

    def write_memory(self, addr: int, data: bytes) -> None:
        """Write guest virtual memory, in the same view.

        :raise MemoryFault: when any of it is not mapped.
        """
        self.target.write_memory(addr, data, vcpu=self._vcpu)

    def waited_ns(self, task: int) -> int:
        """See :meth:`.base.Dispatch.waited_ns`: guest time stands still for handlers."""
        return 0

    def recover_return(self, slot_addr: int, value: int) -> int | None:
        """What a return slot held before a dispatch replaced it: nothing is ever replaced here."""
        return None

    @property
    def _vcpu(self) -> int:
        return self._handling[-1].state.vcpu if self._handling else 0

    @property
    def in_handler(self) -> bool:
        """Whether a handler is running."""
        return bool(self._handling)

    def call(self, addr: int, args: tuple[int, ...], deadline: Deadline) -> int:
        """Run a guest function on the vCPU of the hit that is being handled, and return its ``ax``.

        The guest runs meanwhile, with all its vCPUs, and may hit probes. It is stopped at the same place afterwards;
        the function may have slept and the task may be on another vCPU then.

        :raise GuestCallError: outside handlers, or when it has not come back at the deadline (the borrowed task is then
            lost inside the function, and the guest should not be trusted any more).
        """
        if not self._handling:
            raise GuestCallError("a guest function can only be called from a handler")
        failure = self._failure
        caller, landing = self._handling[-1].state, self._handling[-1].landing
        call = GuestCall.begin(self.target, caller, landing, addr, args, self.way_back)
        landing = call.landing
        self.plants.add(landing, Role.LANDING)
        self._calls.append(call)
        try:
            self._finish_call(call, deadline)
        finally:
            self._calls.remove(call)
            if not any(other.landing == landing for other in self._calls):
                self.plants.drop(landing, Role.LANDING)
        if self._failure is not None and self._failure is not failure:
            # A handler of a hit inside the call raised; the call itself has come back.
            raise self._failure
        return call.result

    def _finish_call(self, call: GuestCall, deadline: Deadline) -> None:
        self.sync()
        self._drain()
        while call.finished_on is None:
            try:
                self._run_to_stop(deadline, lambda: False, ())
            except WaitTimeout:
                self._halt()
                if call.finished_on is None:
                    raise GuestCallError(
                        f"the guest function did not come back within {deadline.seconds:g} s; "
                        "its task is stuck in it, stop the guest"
                    ) from None
        self._parked.discard(call.finished_on)
        call.restore(self.target)
        self._handling[-1].state = read_cpu_state(self.target, call.finished_on, self.offsets)
