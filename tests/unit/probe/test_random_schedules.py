"""Random well-formed schedules of calls and returns, against a naive model of fprobe's counting and pairing.

The model keeps one record a call and looks everything up anew; it shares no code and no data structure with the core.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from fprobe_gdb.probe.fprobe import Fprobe
from fprobe_gdb.probe.regs import PtRegs
from fprobe_gdb.probe.rethook import EntryData
from tests.unit.probe.made_up_kernel import MadeUpKernel, kernel_of
from tests.unit.probe.scripted_guest import TASK, Call, ScriptedGuest

KERNEL = kernel_of("f", "g", "h")
TASKS = [TASK + i * 0x4000 for i in range(3)]
RET_IPS = [0xFFFFFFFF82000010, 0xFFFFFFFF82000020]
FAST = settings(max_examples=60)


@dataclass
class Plan:
    """How one fprobe is registered. ``maxactive`` None: no exit handler."""

    functions: str
    maxactive: int | None
    # Calls whose serial number this divides are cancelled by the entry handler; 0: none.
    skip: int


PLANS = st.builds(
    Plan,
    functions=st.sampled_from(["f", "g", "fg", "fgh"]),
    maxactive=st.sampled_from([None, 1, 2, 4]),
    skip=st.sampled_from([0, 0, 2, 3]),
)

# (what, which task, which function, which return address or which fprobe)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["call", "call", "call", "return", "return", "tail", "die", "disable", "enable", "unregister"]),
        st.integers(0, 2),
        st.sampled_from("fgh"),
        st.integers(0, 2),
    ),
    max_size=40,
)


@dataclass
class Model:
    """What ought to happen."""

    plans: list[Plan]
    registered: list[bool] = field(default_factory=list)
    enabled: list[bool] = field(default_factory=list)
    # Hooked calls: (task, frame, serial, fprobe, ret_ip), in the order of hooking.
    hooked: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    log: list[tuple[str, int, int, int]] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    nmissed: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.registered, self.enabled = [True] * len(self.plans), [True] * len(self.plans)
        self.calls, self.nmissed = [0] * len(self.plans), [0] * len(self.plans)

    def enter(self, task: int, name: str, frame: int, serial: int, ret_ip: int) -> None:
        for i in reversed(range(len(self.plans))):
            plan = self.plans[i]
            if not (self.registered[i] and self.enabled[i] and name in plan.functions):
                continue
            self.calls[i] += 1
            if plan.maxactive is not None and sum(hook[3] == i for hook in self.hooked) >= plan.maxactive:
                self.nmissed[i] += 1
                continue
            self.log.append(("entry", i, serial, ret_ip))
            if plan.maxactive is not None and not (plan.skip and serial % plan.skip == 0):
                self.hooked.append((task, frame, serial, i, ret_ip))

    def leave(self, task: int, frame: int) -> None:
        ending = [hook for hook in self.hooked if hook[:2] == (task, frame)]
        for _, _, serial, i, ret_ip in reversed(ending):
            if self.enabled[i]:
                self.log.append(("exit", i, serial, ret_ip))
        self.hooked = [hook for hook in self.hooked if hook not in ending]

    def forget(self, *, task: int | None = None, fprobe: int | None = None) -> None:
        self.hooked = [hook for hook in self.hooked if hook[0] != task and hook[3] != fprobe]


class Player:
    """Plays a schedule on the core and on the model."""

    def __init__(self, kernel: MadeUpKernel, plans: list[Plan]) -> None:
        self.guest = ScriptedGuest(kernel)
        self.model = Model(plans)
        self.log: list[tuple[str, int, int, int]] = []
        self.fprobes = [self._register(i, plan) for i, plan in enumerate(plans)]
        self.stacks: dict[int, list[Call]] = {task: [] for task in TASKS}
        self.serial = 0

    def _register(self, i: int, plan: Plan) -> Fprobe:
        def entry(fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: EntryData | None) -> bool:
            self.log.append(("entry", i, regs.di, ret_ip))
            if data is not None:
                data[:] = regs.di.to_bytes(4, "little")
            return bool(plan.skip) and regs.di % plan.skip == 0

        def exit_(fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: EntryData | None) -> None:
            assert data is not None
            self.log.append(("exit", i, int.from_bytes(data, "little"), ret_ip))

        fprobe = Fprobe(
            entry,
            None if plan.maxactive is None else exit_,
            nr_maxactive=plan.maxactive or 0,
            entry_data_size=4,
        )
        self.guest.core.register_fprobe(fprobe, f"[{plan.functions}]")
        return fprobe

    def step(self, what: str, task: int, name: str, number: int) -> None:
        stack = self.stacks[task]
        if what == "call":
            self._call(task, name, RET_IPS[number % 2])
        elif what == "tail" and stack:
            self._tail_call(stack[-1], name)
        elif what == "return" and stack:
            call = stack.pop()
            call.cpu ^= 1
            self.model.leave(task, call.frame)
            self.guest.leave(call)
        elif what == "die":
            self.model.forget(task=task)
            self.guest.core.task_dead(task)
            self.stacks[task] = []
        elif number < len(self.fprobes):
            self._control(what, number)

    # The serial number of a call travels in its first argument.
    def _call(self, task: int, name: str, ret_ip: int) -> None:
        self.serial += 1
        self.model.enter(task, name, self.guest.sp(task) - 8, self.serial, ret_ip)
        self.stacks[task].append(self.guest.enter(name, self.serial, task=task, ret_ip=ret_ip))

    def _tail_call(self, call: Call, name: str) -> None:
        self.serial += 1
        self.model.enter(call.task, name, call.frame, self.serial, call.ret_ip)
        self.guest.tail_call(call, name, self.serial)

    def _control(self, what: str, number: int) -> None:
        core, fprobe = self.guest.core, self.fprobes[number]
        if what == "disable":
            core.disable_fprobe(fprobe)
            self.model.enabled[number] = False
        elif what == "enable":
            core.enable_fprobe(fprobe)
            self.model.enabled[number] = True
        elif what == "unregister" and self.model.registered[number]:
            core.unregister_fprobe(fprobe)
            self.model.registered[number] = False
            self.model.forget(fprobe=number)

    def check(self) -> None:
        self.guest.plant()
        model = self.model
        assert self.log == model.log
        assert self.guest.returns == {hook[4] for hook in model.hooked}
        assert self.guest.core.calls_in_flight == len(model.hooked)
        assert [fprobe.nmissed for fprobe in self.fprobes] == model.nmissed
        for fprobe, calls in zip(self.fprobes, model.calls, strict=True):
            assert fprobe.hits + fprobe.nmissed + fprobe.lost == calls == fprobe.calls
            assert fprobe.exits <= fprobe.hits
        wanted = [i for i, _ in enumerate(model.plans) if model.registered[i] and model.enabled[i]]
        assert self.guest.sites == {KERNEL.ip(name) for i in wanted for name in model.plans[i].functions}


@given(plans=st.lists(PLANS, min_size=1, max_size=3), steps=STEPS)
@FAST
def test_random_schedules_over_tasks_frames_and_pools_agree_with_the_model(
    plans: list[Plan], steps: list[tuple[str, int, str, int]]
) -> None:
    player = Player(KERNEL, plans)
    for what, task, name, number in steps:
        player.step(what, TASKS[task], name, number)
        player.check()


def test_the_schedules_reach_what_they_are_for() -> None:
    """One schedule by hand: interleaved tasks, a shared return address, an empty pool, a skip, a tail call, a death."""
    player = Player(KERNEL, [Plan("fg", 2, 3), Plan("f", 1, 0)])
    for what, task, name, number in [
        ("call", 0, "f", 0), ("call", 1, "f", 0), ("tail", 0, "g", 0), ("return", 1, "", 0), ("call", 2, "f", 0),
        ("return", 0, "", 0), ("die", 2, "", 0), ("call", 1, "f", 0), ("return", 1, "", 0),
    ]:  # fmt: skip
        player.step(what, TASKS[task], name, number)
        player.check()
    assert player.log == [
        ("entry", 1, 1, RET_IPS[0]), ("entry", 0, 1, RET_IPS[0]),
        ("entry", 0, 2, RET_IPS[0]),
        ("exit", 0, 2, RET_IPS[0]),
        ("entry", 0, 4, RET_IPS[0]),
        ("exit", 0, 1, RET_IPS[0]), ("exit", 1, 1, RET_IPS[0]),
        ("entry", 1, 5, RET_IPS[0]), ("entry", 0, 5, RET_IPS[0]),
        ("exit", 0, 5, RET_IPS[0]), ("exit", 1, 5, RET_IPS[0]),
    ]  # fmt: skip
    assert [fprobe.nmissed for fprobe in player.fprobes] == [1, 2]
