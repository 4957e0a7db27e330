"""Walks along frame pointers, for kernels that have no ORC tables."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from fprobe_gdb.kernel.unwind import FrameKind, StackTrace, Unwinder
from tests.unit.kernel.made_up_orc import TEXT, Memory, kernel
from tests.unit.kernel.test_unwind import TOP, USER_CS, at, pt_regs

# endbr64; nop (fentry); push %rbp; mov %rsp,%rbp
HEAD = bytes.fromhex("f30f1efa 0f1f440000 55 4889e5")
CODE = bytearray(0x600)
for start in (0x100, 0x200, 0x400):
    CODE[start : start + len(HEAD)] = HEAD
CODE[0x300:0x304] = bytes.fromhex("31c0c390")
LEAF, MIDDLE, FRAMELESS, IRQ, ENTRY = (TEXT + 0x100 * index for index in range(1, 6))
IMAGE, SYMBOLS = kernel(
    [("leaf", 0x100), ("middle", 0x200), ("frameless", 0x300), ("irq", 0x400), ("entry", 0x500),
     ("arch_rethook_trampoline", 0x580)], None, bytes(CODE),
)  # fmt: skip
UNWINDER = Unwinder.of(IMAGE, SYMBOLS)
HOOK = TEXT + 0x580
BP = TOP - 168 - 16
# middle's frame, below the registers of a system call, whose entry code has cleared rbp.
STACK = {BP: 0, BP + 8: ENTRY + 0x20, **pt_regs(TOP - 168, cs=USER_CS)}


def walk(ip: int, sp: int, bp: int, words: dict[int, int]) -> StackTrace:
    return UNWINDER.walk(at(ip, sp, bp=bp), Memory(words).read, limit=50)


def names(trace: StackTrace) -> list[str]:
    return [UNWINDER.symbolize(frame) for frame in trace]


def test_method() -> None:
    assert UNWINDER.method == "frame pointers"


def test_at_a_location_the_caller_is_not_lost() -> None:
    """The frame is not there yet: before the push, after it, and once it stands."""
    slot = BP - 0x30
    words = STACK | {slot: MIDDLE + 0x30}
    expected = ["middle+0x30", "entry+0x20"]
    for offset in (0, 4, 9):
        trace = walk(LEAF + offset, slot, BP, words)
        assert names(trace) == [f"leaf+{offset:#x}", *expected]
        assert trace.complete
        assert trace[1].sp == slot + 8
    pushed = words | {slot - 8: BP}
    assert names(walk(LEAF + 10, slot - 8, BP, pushed))[1:] == expected
    assert names(walk(LEAF + 13, slot - 8, slot - 8, pushed))[1:] == expected
    assert names(walk(LEAF + 0x50, slot - 0x28, slot - 8, pushed))[1:] == expected


def test_a_function_without_a_frame() -> None:
    words = STACK | {BP - 0x30: MIDDLE + 0x30}
    assert names(walk(FRAMELESS, BP - 0x30, BP, words)) == ["frameless+0x0", "middle+0x30", "entry+0x20"]


def test_a_return_address() -> None:
    assert names(walk(MIDDLE + 0x30, BP - 0x20, BP, STACK)) == ["middle+0x30", "entry+0x20"]


def test_an_interrupt_is_found_by_its_encoded_registers() -> None:
    """The interrupted function had not set up its frame either."""
    slot = BP - 0x30
    saved = slot - 168
    frame = saved - 16
    words = STACK | {slot: MIDDLE + 0x30} | pt_regs(saved, ip=LEAF, sp=slot, bp=BP)
    words |= {frame: saved + 1, frame + 8: IRQ + 0x40}
    trace = walk(IRQ + 0x80, frame - 0x20, frame, words)
    assert names(trace) == ["irq+0x80", "irq+0x40", "leaf+0x0", "middle+0x30", "entry+0x20"]
    assert trace[2].kind is FrameKind.INTERRUPTED
    assert trace.complete


def test_ends() -> None:
    user = pt_regs(TOP - 168, cs=USER_CS) | {BP: TOP - 168 + 1, BP + 8: IRQ + 0x40}
    thread = pt_regs(TOP - 168) | {BP: TOP - 168 + 1, BP + 8: ENTRY + 0x20}
    for words in (user, thread):
        trace = walk(MIDDLE + 0x30, BP - 0x20, BP, words)
        assert (len(trace), trace.complete) == (2, True)


def test_bad_frame_pointers() -> None:
    assert "below the stack" in walk(MIDDLE + 0x30, BP - 0x20, BP - 0x100, STACK).why
    assert "cannot be read" in walk(MIDDLE + 0x30, BP - 0x20, TOP + 0x10000, STACK).why
    circle = pt_regs(TOP - 168, ip=IRQ + 0x40, sp=BP, bp=TOP - 168 + 1)
    assert "the wrong way" in UNWINDER.walk(at(IRQ + 0x40, TOP - 168, bp=TOP - 168 + 1), Memory(circle).read).why
    assert "below the stack" in walk(MIDDLE + 0x30, BP - 0x20, BP, {BP: BP, BP + 8: ENTRY}).why
    assert "is not code" in walk(MIDDLE + 0x30, BP - 0x20, BP, {BP: 0, BP + 8: 42}).why


def test_a_hooked_return_slot() -> None:
    words = STACK | {BP - 0x30: HOOK}
    trace = walk(LEAF, BP - 0x30, BP, words)
    assert (names(trace)[-1], trace[-1].kind, trace.complete) == ("arch_rethook_trampoline+0x0", FrameKind.HOOK, False)
    trace = UNWINDER.walk(at(LEAF, BP - 0x30, bp=BP), Memory(words).read, recover=lambda slot, value: MIDDLE + 0x30)
    assert (names(trace)[1:], trace.complete) == (["middle+0x30", "entry+0x20"], True)


def test_an_interrupt_stack_above_the_tasks() -> None:
    """The frame pointer leads down to the stack that was left."""
    above = TOP + 0x8000
    words = STACK | {above - 16: BP, above - 8: IRQ + 0x40}
    trace = walk(IRQ + 0x80, above - 0x20, above - 16, words)
    assert names(trace) == ["irq+0x80", "irq+0x40", "entry+0x20"]
    assert trace.complete


@settings(max_examples=40)
@given(
    st.integers(0, 0x5FF),
    st.lists(st.integers(TOP - 0x400, TOP) | st.integers(TEXT, TEXT + 0x600), min_size=1),
    st.data(),
)
def test_no_stack_makes_it_hang_or_raise(offset: int, values: list[int], data: st.DataObject) -> None:
    words = {TOP - 0x1000 + 8 * index: values[index * 7 % len(values)] for index in range(0x200)}
    bp = data.draw(st.sampled_from(values))
    trace = walk(TEXT + offset, TOP - 0x400, bp, words)
    assert 1 <= len(trace) <= 50
    assert trace.complete == (trace.why == "")
