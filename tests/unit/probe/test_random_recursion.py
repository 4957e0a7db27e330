"""Random handlers that call probed functions in random contexts, against a transcript of trace_recursion.h.

The model is one integer of bits a task, as in the kernel (``current->trace_recursion``), and plain recursion in Python.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from fprobe_gdb.probe.fprobe import Fprobe
from fprobe_gdb.probe.recursion import Context
from fprobe_gdb.probe.regs import PtRegs
from tests.unit.probe.made_up_kernel import kernel_of
from tests.unit.probe.scripted_guest import ScriptedGuest

KERNEL = kernel_of("f", "g")
# Handlers stop calling after that many calls in all, or the tree would have thousands.
CALLS = 40
FTRACE_START, LIST_START, TRANSITION = 0, 8, 4

Step = tuple[str, Context]
STEPS = st.lists(st.tuples(st.sampled_from("fg"), st.sampled_from(Context)), max_size=2)


@dataclass
class Plan:
    """One fprobe: where it is, how many nodes it has (None: no exit handler), what its handlers call."""

    functions: str
    maxactive: int | None
    at_entry: list[Step]
    at_exit: list[Step]


PLANS = st.builds(Plan, st.sampled_from(["f", "g", "fg"]), st.sampled_from([None, 1, 3, 9]), STEPS, STEPS)


@dataclass
class Model:
    """The kernel's C, read aloud."""

    plans: list[Plan]
    bits: int = 0
    made: int = 0
    log: list[tuple[str, int]] = field(default_factory=list)
    calls: dict[int, int] = field(default_factory=dict)
    nmissed: dict[int, int] = field(default_factory=dict)
    lost: dict[int, int] = field(default_factory=dict)
    taken: dict[int, int] = field(default_factory=dict)

    def call(self, name: str, context: Context) -> None:
        self.made += 1
        ops = [i for i in reversed(range(len(self.plans))) if name in self.plans[i].functions]
        for i in ops:
            self.calls[i] = self.calls.get(i, 0) + 1
        hooked: list[int] = []
        bit = self.trylock(context, LIST_START) if len(ops) > 1 else -1
        for i in ops:
            if bit is None:
                self.lost[i] = self.lost.get(i, 0) + 1
            else:
                self.fprobe_handler(i, context, hooked)
        self.unlock(bit)
        for i in reversed(hooked):
            self.fprobe_exit_handler(i, context)
        for i in hooked:
            self.taken[i] -= 1

    def fprobe_handler(self, i: int, context: Context, hooked: list[int]) -> None:
        bit = self.trylock(context, FTRACE_START)
        if bit is None:
            self.nmissed[i] = self.nmissed.get(i, 0) + 1
            return
        pool = self.plans[i].maxactive
        if pool is not None and self.taken.get(i, 0) == pool:
            self.nmissed[i] = self.nmissed.get(i, 0) + 1
        else:
            self.taken[i] = self.taken.get(i, 0) + 1
            self.log.append(("entry", i))
            self.run(self.plans[i].at_entry)
            if pool is not None:
                hooked.append(i)
        self.unlock(bit)

    def fprobe_exit_handler(self, i: int, context: Context) -> None:
        bit = self.trylock(context, FTRACE_START)
        if bit is None:
            self.nmissed[i] = self.nmissed.get(i, 0) + 1
            # Not a call of its own.
            self.calls[i] += 1
            return
        self.log.append(("exit", i))
        self.run(self.plans[i].at_exit)
        self.unlock(bit)

    def run(self, steps: list[Step]) -> None:
        for name, context in steps:
            if self.made < CALLS:
                self.call(name, context)

    def trylock(self, context: Context, start: int) -> int | None:
        bit = start + int(context)
        if self.bits >> bit & 1:
            bit = start + TRANSITION
            if self.bits >> bit & 1:
                return None
        self.bits |= 1 << bit
        return bit

    def unlock(self, bit: int | None) -> None:
        if bit is not None and bit >= 0:
            self.bits &= ~(1 << bit)


class Player:
    """The same plans on the core."""

    def __init__(self, plans: list[Plan]) -> None:
        self.guest = ScriptedGuest(KERNEL)
        self.made = 0
        self.log: list[tuple[str, int]] = []
        self.fprobes = [self._register(i, plan) for i, plan in enumerate(plans)]

    def _register(self, i: int, plan: Plan) -> Fprobe:
        def entry(fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: object) -> None:
            self.log.append(("entry", i))
            self._run(plan.at_entry)

        def exit_(fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: object) -> None:
            self.log.append(("exit", i))
            self._run(plan.at_exit)

        fprobe = Fprobe(entry, None if plan.maxactive is None else exit_, nr_maxactive=plan.maxactive or 0)
        self.guest.core.register_fprobe(fprobe, f"[{plan.functions}]")
        return fprobe

    def call(self, name: str, context: Context) -> None:
        self.made += 1
        self.guest.call(name, context=context)

    def _run(self, steps: list[Step]) -> None:
        for name, context in steps:
            if self.made < CALLS:
                self.call(name, context)


@given(plans=st.lists(PLANS, min_size=1, max_size=3), name=st.sampled_from("fg"), context=st.sampled_from(Context))
@settings(max_examples=60)
def test_random_recursion_agrees_with_trace_recursion(plans: list[Plan], name: str, context: Context) -> None:
    model, player = Model(plans), Player(plans)
    model.call(name, context)
    player.call(name, context)
    assert player.log == model.log
    for i, fprobe in enumerate(player.fprobes):
        assert fprobe.nmissed == model.nmissed.get(i, 0)
        assert fprobe.lost == model.lost.get(i, 0)
        assert fprobe.hits + fprobe.nmissed + fprobe.lost == model.calls.get(i, 0)
        assert fprobe.hits == model.log.count(("entry", i))
        assert fprobe.exits == model.log.count(("exit", i))
    assert player.guest.core.calls_in_flight == 0
    assert player.guest.returns == set()
    assert model.bits == 0
