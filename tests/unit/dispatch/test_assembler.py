"""What we encode is what Capstone decodes, operand for operand, and where labels point."""

from __future__ import annotations

from collections.abc import Callable

import capstone
import pytest

from fprobe_gdb.dispatch.trampoline.assembler import Asm, at, gs, rip

ADDR = 0xFFFFFFFF83C00000
_decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)


def decoded(code: bytes, addr: int = ADDR) -> list[str]:
    insns = list(_decoder.disasm(code, addr))
    assert sum(insn.size for insn in insns) == len(code), code.hex()
    return [f"{insn.mnemonic} {insn.op_str}".strip() for insn in insns]


CASES: list[tuple[Callable[[Asm], None], str]] = [
    (lambda a: a.mov("ax", at("sp", 8)), "mov rax, qword ptr [rsp + 8]"),
    (lambda a: a.mov(at("r12", 0x70), "r15"), "mov qword ptr [r12 + 0x70], r15"),
    (lambda a: a.mov("r13", at("r13", -8)), "mov r13, qword ptr [r13 - 8]"),
    (lambda a: a.mov("bp", "r9"), "mov rbp, r9"),
    (lambda a: a.mov(at("bp"), "si"), "mov qword ptr [rbp], rsi"),
    (lambda a: a.mov("ax", gs(0x1FBC0)), "mov rax, qword ptr gs:[0x1fbc0]"),
    (lambda a: a.movl("cx", gs(0xFFFFFFFF82A01004)), "mov ecx, dword ptr gs:[0xffffffff82a01004]"),
    (lambda a: a.movl(at("cx", 4), "r10"), "mov dword ptr [rcx + 4], r10d"),
    (lambda a: a.movl_imm("r15", 8), "mov r15d, 8"),
    (lambda a: a.movl_imm(at("r12", 8), 1), "mov dword ptr [r12 + 8], 1"),
    (lambda a: a.movl_imm(rip(ADDR + 0x200000), 1), "mov dword ptr [rip + 0x1ffff6], 1"),
    (lambda a: a.mov_imm(at("r12", 8), -1), "mov qword ptr [r12 + 8], 0xffffffffffffffff"),
    (lambda a: a.mov_imm("di", 5), "mov rdi, 5"),
    (lambda a: a.movw(at("si", 2), "ax"), "mov word ptr [rsi + 2], ax"),
    (lambda a: a.movw(at("r12"), "r9"), "mov word ptr [r12], r9w"),
    (lambda a: a.movb(at("si", 1), "ax"), "mov byte ptr [rsi + 1], al"),
    (lambda a: a.movb_imm(at("r13"), 2), "mov byte ptr [r13], 2"),
    (lambda a: a.lea("dx", rip(ADDR - 16)), "lea rdx, [rip - 0x17]"),
    (lambda a: a.lea("sp", at("cx", -56)), "lea rsp, [rcx - 0x38]"),
    (lambda a: a.lea("si", at("dx", 0, "cx")), "lea rsi, [rdx + rcx]"),
    (lambda a: a.push("r12"), "push r12"),
    (lambda a: a.pop("dx"), "pop rdx"),
    (lambda a: a.pushfq(), "pushfq"),
    (lambda a: a.popfq(), "popfq"),
    (lambda a: a.mov_from_cr3("ax"), "mov rax, cr3"),
    (lambda a: a.add("dx", "cx"), "add rdx, rcx"),
    (lambda a: a.add("ax", at("r8", 8)), "add rax, qword ptr [r8 + 8]"),
    (lambda a: a.add(at("r8", 8), "ax"), "add qword ptr [r8 + 8], rax"),
    (lambda a: a.adc(at("r11", 8), "dx"), "adc qword ptr [r11 + 8], rdx"),
    (lambda a: a.bsr("ax", "r11"), "bsr rax, r11"),
    (lambda a: a.inc(at("r10", 8, "ax")), "inc qword ptr [r10 + rax + 8]"),
    (lambda a: a.dec(at("r10", 8, "ax")), "dec qword ptr [r10 + rax + 8]"),
    (lambda a: a.xor("ax", at("sp", 8)), "xor rax, qword ptr [rsp + 8]"),
    (lambda a: a.sub("cx", "ax"), "sub rcx, rax"),
    (lambda a: a.or_("ax", "dx"), "or rax, rdx"),
    (lambda a: a.xorl("ax", "ax"), "xor eax, eax"),
    (lambda a: a.cmp("ax", "r14"), "cmp rax, r14"),
    (lambda a: a.cmp("cx", at("r12", 0x38)), "cmp rcx, qword ptr [r12 + 0x38]"),
    (lambda a: a.add_imm("r11", -8), "add r11, -8"),
    (lambda a: a.sub_imm("ax", 5), "sub rax, 5"),
    (lambda a: a.andl_imm("cx", 255), "and ecx, 0xff"),
    (lambda a: a.cmp_imm("ax", 4096), "cmp rax, 0x1000"),
    (lambda a: a.cmpl_imm("dx", 7), "cmp edx, 7"),
    (lambda a: a.cmpl_imm(at("r12", 8), 1), "cmp dword ptr [r12 + 8], 1"),
    (lambda a: a.cmpl_imm(rip(ADDR), 0), "cmp dword ptr [rip - 0xa], 0"),
    (lambda a: a.cmpb_imm(at("r13"), 3), "cmp byte ptr [r13], 3"),
    (lambda a: a.shl_imm("r9", 3), "shl r9, 3"),
    (lambda a: a.shr_imm("cx", 32), "shr rcx, 0x20"),
    (lambda a: a.incl("cx"), "inc ecx"),
    (lambda a: a.incl(gs(0x1FBC8)), "inc dword ptr gs:[0x1fbc8]"),
    (lambda a: a.decl("r15"), "dec r15d"),
    (lambda a: a.lock_inc(at("ax")), "lock inc qword ptr [rax]"),
    (lambda a: a.lock_incl(at("dx", 0, "ax")), "lock inc dword ptr [rdx + rax]"),
    (lambda a: a.pad_to(a.here + 1), "int3"),
    (lambda a: a.movslq("r10", "ax"), "movsxd r10, eax"),
    (lambda a: a.movslq("dx", "r9"), "movsxd rdx, r9d"),
    (lambda a: a.xadd(at("dx", -8), "ax"), "xadd qword ptr [rdx - 8], rax"),
    (lambda a: a.cmpxchg(rip(ADDR), "r11"), "cmpxchg qword ptr [rip - 8], r11"),
    (lambda a: a.lock_cmpxchg(at("r9", 8), "r10"), "lock cmpxchg qword ptr [r9 + 8], r10"),
    (lambda a: a.lock_cmpxchgb(at("dx", 0, "cx"), "bx"), "lock cmpxchg byte ptr [rdx + rcx], bl"),
    (lambda a: a.fence(), "lock or dword ptr [rsp], 0"),
    (lambda a: a.jmp(ADDR + 0x100), f"jmp {ADDR + 0x100:#x}"),
    (lambda a: a.call(ADDR - 0x100), f"call {ADDR - 0x100:#x}"),
    (lambda a: a.call_mem(at("r12", 0xF0)), "call qword ptr [r12 + 0xf0]"),
    (lambda a: a.ret(), "ret"),
    (lambda a: a.jmp_mem(at("di", 8)), "jmp qword ptr [rdi + 8]"),
    (lambda a: a.mov_imm64("r11", 0x123456789ABCDEF0), "movabs r11, 0x123456789abcdef0"),
    (lambda a: a.movzwl("r11", at("ax", 2)), "movzx r11d, word ptr [rax + 2]"),
    (lambda a: a.movzbl("ax", at("r11", 1)), "movzx eax, byte ptr [r11 + 1]"),
    (lambda a: a.and_("ax", "r11"), "and rax, r11"),
    (lambda a: a.xor("r11", "ax"), "xor r11, rax"),
    (lambda a: a.sar_imm("ax", 32), "sar rax, 0x20"),
    (lambda a: a.shl_cl("ax"), "shl rax, cl"),
    (lambda a: a.shr_cl("r11"), "shr r11, cl"),
    (lambda a: a.sar_cl("ax"), "sar rax, cl"),
    (lambda a: a.imul("ax", "r11"), "imul rax, r11"),
    (lambda a: a.imul("r11", "ax"), "imul r11, rax"),
    (lambda a: a.neg("ax"), "neg rax"),
    (lambda a: a.mul("r11"), "mul r11"),
    (lambda a: a.div("r11"), "div r11"),
    (lambda a: a.idiv("r11"), "idiv r11"),
    (lambda a: a.cqo(), "cqo"),
    (lambda a: a.stc(), "stc"),
    (lambda a: a.clc(), "clc"),
    (lambda a: a.testl_imm("r11", 128), "test r11d, 0x80"),
    (lambda a: a.data(b"\xc3"), "ret"),
    (lambda a: a.rdtsc(), "rdtsc"),
    (lambda a: a.pause(), "pause"),
    (lambda a: a.out_al(0xE9), "out 0xe9, al"),
]


@pytest.mark.parametrize(("emit", "text"), CASES, ids=[text for _, text in CASES])
def test_capstone_reads_what_we_meant(emit: Callable[[Asm], None], text: str) -> None:
    asm = Asm(ADDR)
    emit(asm)
    assert decoded(asm.finish()) == [text]


def test_every_method_is_tried() -> None:
    tried = {name for emit, _ in CASES for name in emit.__code__.co_names} | {"jcc", "label"}
    public = {name for name in vars(Asm) if not name.startswith("_")}
    assert public - {"address_of", "aside", "finish", "here", "preserving"} <= tried


@pytest.mark.parametrize("condition", ["b", "ae", "e", "ne", "be", "a", "l", "ge", "le", "g"])
def test_labels_before_and_after(condition: str) -> None:
    asm = Asm(ADDR)
    asm.label("back")
    asm.jcc(condition, "forth")
    asm.jmp("back")
    asm.label("forth")
    asm.ret()
    assert decoded(asm.finish()) == [f"j{condition} {ADDR + 11:#x}", f"jmp {ADDR:#x}", "ret"]
    assert asm.address_of("forth") == ADDR + 11


def test_what_is_set_aside_comes_behind_all_else() -> None:
    asm = Asm(ADDR)

    def rarely() -> None:
        asm.label("rare")
        asm.jmp("rarer")
        asm.aside(more_rarely)

    def more_rarely() -> None:
        asm.label("rarer")
        asm.ret()

    asm.aside(rarely)
    asm.jcc("e", "rare")
    asm.pause()
    assert decoded(asm.finish()) == [f"je {ADDR + 8:#x}", "pause", f"jmp {ADDR + 13:#x}", "ret"]


def test_registers_that_a_subroutine_preserves() -> None:
    asm = Asm(ADDR)
    with asm.preserving("di", "r8"):
        asm.pause()
    assert decoded(asm.finish()) == ["push rdi", "push r8", "pause", "pop r8", "pop rdi", "ret"]


def test_what_is_out_of_reach_is_not_encoded() -> None:
    with pytest.raises(OverflowError):
        Asm(ADDR).call(0)
