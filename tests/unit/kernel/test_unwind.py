"""Walks of made-up stacks by ORC: every kind of frame, every end, and nothing that a bad stack could do to us."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fprobe_gdb.errors import UsageError
from fprobe_gdb.kernel.orc import OrcTable
from fprobe_gdb.kernel.unwind import FrameKind, Recover, StackTrace, Unwinder
from fprobe_gdb.registers import REGISTERS, Registers
from tests.unit.kernel.made_up_orc import END_OF_STACK, TEXT, UNDEFINED, Memory, call, kernel, regs, tables

LEAF, MIDDLE, ENTRY, NORETURN, NEXT, THREAD, IRQ, SWITCH, FRAMED, NMI, BLIND, REALIGN, HOOK, CALLER, NOT_LINKED = (
    TEXT + 0x100 * index for index in range(1, 16)
)
NAMES = ("leaf", "middle", "entry", "noreturn", "next", "thread", "irq", "switch", "framed", "nmi", "blind", "realign",
         "return_to_handler", "ftrace_caller", "odd")  # fmt: skip
CODE = bytearray(0x1000)
CODE[0xE00:0xE30] = bytes(range(0x30))
MODULE = 0xFFFFFFFFC0201000
STACK = 0xFFFFC90000010000
TOP = STACK + 0x4000
IRQ_STACK = 0xFFFFFE0000008000
KERNEL_CS, USER_CS = 0x10, 0x33

ROWS = [
    (TEXT, call(8)),
    (LEAF, call(8)),
    (LEAF + 0x10, call(16, bp="PREV_SP", bp_offset=-16)),
    (LEAF + 0x40, call(8)),
    (MIDDLE, call(8)),
    (MIDDLE + 0x10, call(32)),
    (ENTRY, regs(0)),
    (NORETURN, call(8)),
    (NORETURN + 0x10, call(24)),
    (NEXT, call(8)),
    (THREAD, END_OF_STACK),
    (IRQ, regs(0)),
    (SWITCH, call(8, "SP_INDIRECT")),
    (FRAMED, call(16, "BP", "PREV_SP", -16)),
    (NMI, regs(0, partial=True)),
    (BLIND, UNDEFINED),
    (REALIGN, call(0, "R10", "BP", 0)),
    (REALIGN + 0x20, call(0, "BP_INDIRECT")),
    (HOOK, UNDEFINED),
    (CALLER, call(8)),
    (CALLER + 0x10, call(24)),
    *[(TEXT + 0x2000 + 16 * index, call(8)) for index in range(40)],
]
IMAGE, SYMBOLS = kernel([*zip(NAMES, range(0x100, 0x1000, 0x100), strict=False), ("ftrace_caller_op_ptr", 0xE20)],
                        ROWS, bytes(CODE))  # fmt: skip
UNWINDER = Unwinder.of(IMAGE, SYMBOLS)


def pt_regs(at: int, **values: int) -> dict[int, int]:
    order = ("r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax", "cx", "dx", "si", "di", "orig_ax",
             "ip", "cs", "flags", "sp", "ss")  # fmt: skip
    values = {"cs": KERNEL_CS, **values}
    return {at + 8 * index: values.get(name, 0) for index, name in enumerate(order)}


# The part of it that the CPU pushes.
def iret(at: int, ip: int, sp: int, cs: int = KERNEL_CS) -> dict[int, int]:
    return dict(zip(range(at, at + 40, 8), (ip, cs, 0, sp, 0), strict=True))


def at(ip: int, sp: int, **more: int) -> Registers:
    return {**dict.fromkeys(REGISTERS, 0), "cs": KERNEL_CS, "ip": ip, "sp": sp, **more}


def walk(registers: Registers, words: dict[int, int], recover: Recover | None = None, limit: int = 20) -> StackTrace:
    return UNWINDER.walk(registers, Memory(words).read, recover=recover, limit=limit)


def names(trace: StackTrace) -> list[str]:
    return [UNWINDER.symbolize(frame) for frame in trace]


# A system call's stack: leaf, called by middle, called by entry code.
def syscall_stack() -> dict[int, int]:
    registers = pt_regs(TOP - 168, cs=USER_CS, ip=0x401000, sp=0x7FFF0000)
    # middle has 24 bytes of its own below its return address.
    return {TOP - 168 - 8: ENTRY + 0x50, TOP - 168 - 40: MIDDLE + 0x30, **registers}


SYSCALL_SP = TOP - 168 - 40


def test_from_a_location_to_user_mode() -> None:
    trace = walk(at(LEAF, SYSCALL_SP), syscall_stack())
    assert names(trace) == ["leaf+0x0", "middle+0x30", "entry+0x50"]
    assert (trace.complete, trace.why) == (True, "")
    assert [frame.kind for frame in trace] == [FrameKind.STOPPED, FrameKind.CALL, FrameKind.CALL]
    assert [frame.sp for frame in trace] == [SYSCALL_SP, SYSCALL_SP + 8, SYSCALL_SP + 40]
    assert all(frame.reliable for frame in trace)


def test_at_a_return_address_ip_is_what_runs_next() -> None:
    trace = walk(at(MIDDLE + 0x30, SYSCALL_SP + 8), syscall_stack())
    assert names(trace) == ["middle+0x30", "entry+0x50"]
    # At the very first instruction behind a change of the stack the new layout counts, not the one before.
    assert names(walk(at(MIDDLE + 0x10, SYSCALL_SP + 8), syscall_stack())) == ["middle+0x10", "entry+0x50"]


def test_the_whole_stack_is_one_read() -> None:
    memory = Memory(syscall_stack())
    assert len(UNWINDER.walk(at(LEAF, SYSCALL_SP), memory.read)) == 3
    assert memory.requests == [(SYSCALL_SP, TOP - SYSCALL_SP)]


def test_a_call_that_never_returns_ends_its_function() -> None:
    """The return address is in the next function, whose stack is laid out otherwise."""
    words = syscall_stack() | {SYSCALL_SP - 24: NEXT}
    trace = walk(at(LEAF, SYSCALL_SP - 24), words)
    assert names(trace) == ["leaf+0x0", "noreturn+0x100", "middle+0x30", "entry+0x50"]
    # As traces in tracefs would name it.
    assert SYMBOLS.symbolize(trace[1].ip) == "next+0x0"


def test_an_interrupt_on_a_stack_of_its_own() -> None:
    frame = SYSCALL_SP - 0x400
    words = syscall_stack() | pt_regs(frame, ip=LEAF + 0x40, sp=SYSCALL_SP, bp=77)
    words |= {IRQ_STACK + 0x3FF8: frame, IRQ_STACK + 0x3FF0: SWITCH + 0x20}
    # The word at the top of the interrupt stack holds the old stack pointer, behind it lies a return address.
    words |= {frame - 8: IRQ + 0x20, IRQ_STACK + 0x3FF8: frame - 8}
    trace = walk(at(LEAF, IRQ_STACK + 0x3FF0), words)
    assert names(trace) == ["leaf+0x0", "switch+0x20", "irq+0x20", "leaf+0x40", "middle+0x30", "entry+0x50"]
    assert [frame.kind.value for frame in trace][2:4] == ["call", "interrupted"]
    assert trace.complete


def test_a_pushed_frame_pointer_is_restored() -> None:
    """leaf has pushed rbp; its caller finds its own frame by it."""
    frame = TOP - 0x200
    words = syscall_stack() | {frame: 0, frame + 8: MIDDLE + 0x30, frame + 16 + 24: ENTRY + 0x50}
    words |= {frame - 0x40: frame, frame - 0x38: FRAMED + 0x30}
    words |= pt_regs(frame + 48, cs=USER_CS)
    trace = walk(at(LEAF + 0x20, frame - 0x40), words)
    assert names(trace) == ["leaf+0x20", "framed+0x30", "middle+0x30", "entry+0x50"]
    assert trace.complete


def test_registers_that_hold_the_stack_pointer() -> None:
    """gcc's realigned stacks: R10 at the function's start, later a word that rbp leads to."""
    words = syscall_stack()
    assert names(walk(at(REALIGN, 0xFFFF, r10=SYSCALL_SP + 8, bp=SYSCALL_SP), words))[1:] == [
        "middle+0x30",
        "entry+0x50",
    ]
    words[TOP - 0x200] = SYSCALL_SP + 8
    assert names(walk(at(REALIGN + 0x20, TOP - 0x300, bp=TOP - 0x200), words))[1:] == ["middle+0x30", "entry+0x50"]


def test_a_register_that_nobody_knows_ends_the_trace() -> None:
    words = syscall_stack() | {SYSCALL_SP - 8: REALIGN + 0x10}
    trace = walk(at(LEAF, SYSCALL_SP - 8), words)
    assert (names(trace), trace.complete) == (["leaf+0x0", "realign+0x10"], False)
    assert "R10 at realign+0x10 is not known" in trace.why


def test_what_an_nmi_interrupts_in_entry_code_has_the_registers_of_the_frame_before() -> None:
    words = syscall_stack() | iret(IRQ_STACK, REALIGN, SYSCALL_SP - 8) | {SYSCALL_SP: MIDDLE + 0x30}
    trace = walk(at(NMI + 0x10, IRQ_STACK, r10=SYSCALL_SP + 8, bp=SYSCALL_SP), words)
    assert names(trace) == ["nmi+0x10", "realign+0x0", "middle+0x30", "entry+0x50"]
    assert trace.complete


def test_the_first_function_of_a_kernel_thread_is_an_end() -> None:
    trace = walk(at(LEAF, TOP - 8), {TOP - 8: THREAD + 0x20})
    assert (names(trace), trace.complete) == (["leaf+0x0", "thread+0x20"], True)


def test_code_without_unwind_information() -> None:
    trace = walk(at(BLIND + 4, SYSCALL_SP), syscall_stack())
    assert (len(trace), trace.complete) == (1, False)
    assert "no unwind information for blind+0x4" in trace.why


def test_a_stack_that_is_not_mapped() -> None:
    trace = walk(at(LEAF, SYSCALL_SP), {})
    assert (len(trace), trace.complete) == (1, False)
    assert f"cannot be read at {SYSCALL_SP:#x}" in trace.why
    # User addresses are no stack of the kernel's, whatever is there.
    assert not walk(at(LEAF, 0x1000), {0x1000: MIDDLE + 0x30}).complete


def test_a_page_behind_the_stack_that_is_missing_does_not_matter() -> None:
    sp = STACK + 0xF00
    words = {sp: THREAD + 0x20}
    memory = Memory(words)
    assert UNWINDER.walk(at(LEAF, sp), memory.read).complete
    assert memory.requests == [(sp, 0x3100), (sp, 0x1100), (sp, 0x100)]


def test_what_is_missing_is_not_asked_for_again() -> None:
    """Two pages of a stack, and nothing behind them: each is one read more, not two."""
    sp = STACK + 0x1FF0
    memory = Memory({sp: MIDDLE + 8, sp + 8: MIDDLE + 0x30, STACK + 0x2018: THREAD + 0x20})
    trace = UNWINDER.walk(at(LEAF, sp), memory.read)
    assert (names(trace)[-1], trace.complete) == ("thread+0x20", True)
    assert memory.requests == [(sp, 0x2010), (sp, 0x10), (STACK + 0x2018, 0xFE8)]


def test_a_word_that_is_not_code() -> None:
    trace = walk(at(LEAF, TOP - 8), {TOP - 8: 0xFFFF888000001234})
    assert "0xffff888000001234 on the stack is not code" in trace.why


def test_a_stack_that_runs_in_a_circle() -> None:
    # Registers that lead back to themselves: interrupted frames may go down, but not for ever.
    trace = walk(at(IRQ + 1, STACK), pt_regs(STACK, ip=IRQ + 1, sp=STACK), limit=1000)
    assert not trace.complete
    assert "the wrong way" in trace.why
    assert len(trace) < 30
    # A caller on the same stack is always above.
    trace = walk(at(REALIGN, TOP - 8, r10=TOP - 0x100, bp=TOP - 8), {TOP - 0x108: MIDDLE + 0x30})
    assert "the wrong way" in trace.why


def test_limit() -> None:
    trace = walk(at(LEAF, SYSCALL_SP), syscall_stack(), limit=2)
    assert (len(trace), trace.complete) == (2, False)
    assert "more than the 2 frames" in trace.why
    # Just as many as there are is complete.
    assert walk(at(LEAF, SYSCALL_SP), syscall_stack(), limit=3).complete
    with pytest.raises(UsageError, match="at least 1"):
        walk(at(LEAF, SYSCALL_SP), syscall_stack(), limit=0)


def test_a_vcpu_in_user_mode_has_no_kernel_stack() -> None:
    trace = walk(at(0x401000, 0x7FFF0000, cs=USER_CS), {})
    assert (len(trace), trace.complete) == (0, True)


def test_a_call_through_null() -> None:
    assert names(walk(at(0, SYSCALL_SP), syscall_stack())) == ["0x0", "middle+0x30", "entry+0x50"]


def test_a_hooked_return_slot() -> None:
    words = syscall_stack() | {SYSCALL_SP: HOOK}
    alone = walk(at(LEAF, SYSCALL_SP), words)
    assert (names(alone), alone.complete) == (["leaf+0x0", "return_to_handler+0x0"], False)
    assert (alone[1].hooked, alone[1].reliable, alone[1].kind) == (True, False, FrameKind.HOOK)
    assert "nobody knows where return_to_handler+0x0 returns to" in alone.why

    asked = []

    def recover(slot: int, value: int) -> int | None:
        asked.append((slot, value))
        return MIDDLE + 0x30

    trace = walk(at(LEAF, SYSCALL_SP), words, recover)
    assert names(trace) == ["leaf+0x0", "middle+0x30", "entry+0x50"]
    assert (trace.complete, trace[1].hooked, trace[1].reliable, trace[2].hooked) == (True, True, True, False)
    assert asked == [(SYSCALL_SP, HOOK)]


def test_a_return_hook_of_ours_lies_outside_the_image() -> None:
    words = syscall_stack() | {SYSCALL_SP: MODULE + 0x40}
    trace = walk(at(LEAF, SYSCALL_SP), words, lambda slot, value: MIDDLE + 0x30 if slot == SYSCALL_SP else None)
    assert names(trace) == ["leaf+0x0", "middle+0x30", "entry+0x50"]
    assert trace[1].hooked


def test_through_a_trampoline_of_ftrace() -> None:
    words = syscall_stack() | {SYSCALL_SP - 24: MODULE + 0x28}
    words[SYSCALL_SP - 24 + 24] = MIDDLE + 0x30
    memory = Memory(words)
    memory.write(MODULE, bytes(CODE[0xE00:0xE20]))
    memory.write(CALLER, bytes(CODE[0xE00:0xE30]))
    trace = UNWINDER.walk(at(LEAF, SYSCALL_SP - 24), memory.read)
    assert names(trace) == ["leaf+0x0", "[FTRACE TRAMPOLINE]", "middle+0x30", "entry+0x50"]
    assert all(frame.reliable for frame in trace)


def test_generated_code_is_guessed_to_have_frame_pointers() -> None:
    frame = SYSCALL_SP - 8
    words = syscall_stack() | {frame - 16: MODULE + 0x28, frame: 0, frame + 8: MIDDLE + 0x30}
    trace = walk(at(LEAF, frame - 16, bp=frame), words)
    assert names(trace) == ["leaf+0x0", f"{MODULE + 0x28:#x}", "middle+0x30", "entry+0x50"]
    assert [frame.reliable for frame in trace] == [True, True, False, False]
    assert trace.complete


def test_a_module_with_a_table() -> None:
    unwinder = Unwinder.of(IMAGE, SYMBOLS)
    words = syscall_stack() | {SYSCALL_SP - 40: MODULE + 0x28, SYSCALL_SP: MIDDLE + 0x30}
    ips, entries = tables([(MODULE, call(40)), *((MODULE + 0x100 + at, call(8)) for at in range(20))])
    unwinder.add_module(MODULE, MODULE + 0x1000, OrcTable(0xFFFFFFFF82000000, ips, entries))
    trace = unwinder.walk(at(LEAF, SYSCALL_SP - 40), Memory(words).read)
    assert [frame.ip for frame in trace] == [LEAF, MODULE + 0x28, MIDDLE + 0x30, ENTRY + 0x50]
    assert all(frame.reliable for frame in trace)
    unwinder.remove_module(MODULE)
    assert len(unwinder.walk(at(LEAF, SYSCALL_SP - 40), Memory(words).read)) == 2


def test_a_kernel_moved_by_kaslr() -> None:
    slide = 0x1A000000
    unwinder = Unwinder.of(IMAGE, SYMBOLS, slide=slide)
    words = {addr: value + slide if TEXT <= value < TEXT + 0x4000 else value for addr, value in syscall_stack().items()}
    trace = unwinder.walk(at(LEAF + slide, SYSCALL_SP), Memory(words).read)
    assert [unwinder.symbolize(frame) for frame in trace] == ["leaf+0x0", "middle+0x30", "entry+0x50"]
    assert trace.complete


CODE_OR_STACK = st.sampled_from([TEXT + 0x30 * i for i in range(120)] + [STACK + 8 * i for i in range(0, 0x800, 9)])


@given(
    ip=st.sampled_from([TEXT + 0x10 * i for i in range(300)]),
    sp=st.integers(STACK // 8, TOP // 8 - 1),
    bp=CODE_OR_STACK,
    fill=st.lists(CODE_OR_STACK | st.integers(0, (1 << 64) - 1), min_size=1, max_size=40),
)
def test_no_stack_makes_it_hang_or_raise(ip: int, sp: int, bp: int, fill: list[int]) -> None:
    image = b"".join(value.to_bytes(8, "little") for value in fill)
    stack = (image * (0x4000 // len(image) + 1))[:0x4000]
    memory = Memory({})
    memory.pages = {(STACK >> 12) + page: bytearray(stack[page << 12 : page + 1 << 12]) for page in range(4)}
    trace = UNWINDER.walk(at(ip, 8 * sp, bp=bp, r10=bp, dx=bp, di=bp, r13=bp), memory.read, limit=4000)
    assert trace.frames[0].ip == ip
    assert trace.complete == (trace.why == "")
    assert len(trace) < 3000
