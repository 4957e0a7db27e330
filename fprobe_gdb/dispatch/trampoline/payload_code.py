"""The part of a recording pad that fetches a :class:`~.payload.Payload`. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fprobe_gdb.dispatch.trampoline.assembler import Asm, at
from fprobe_gdb.dispatch.trampoline.pad_expr_code import ExprCode, Seat
from fprobe_gdb.dispatch.trampoline.payload import Items, Payload, Place, Text

__all__ = ["PayloadCode"]

_WORD_BYTES = 8
#: Words on the stack: the record, and the register r10.
_SAVED_BYTES = 16


@dataclass(slots=True)
class PayloadCode:
    """Fetches everything into the record at r11, while r10 stays as it is; clobbers ax and dx.

    It can be interrupted at any instruction. :meth:`finish` is for where control does not come by itself.

    :param at_bytes: where the payload begins in the record.
    :param seat: what expressions find where, given how many bytes of the stack are taken.
    :param scope: what its labels begin with.
    """

    asm: Asm
    payload: Payload
    at_bytes: int
    seat: Callable[[int], Seat]
    scope: str

    def emit(self) -> None:
        """The code."""
        asm = self.asm
        trial = ExprCode(Asm(asm.here), self.seat(0), self.scope, "")
        for place in self.payload.places():
            trial.value(place.field.expr)
        kept_bytes = _WORD_BYTES * trial.most_kept
        asm.lea("sp", at("sp", -kept_bytes - _SAVED_BYTES))
        asm.mov(at("sp", kept_bytes), "r11")
        asm.mov(at("sp", kept_bytes + _WORD_BYTES), "r10")
        code = ExprCode(asm, self.seat(kept_bytes + _SAVED_BYTES), self.scope, "")
        for number, place in enumerate(self.payload.places()):
            self._fetch(code, place, f"{self.scope}field{number}.", kept_bytes)
        asm.mov("r11", at("sp", kept_bytes))
        asm.mov("r10", at("sp", kept_bytes + _WORD_BYTES))
        asm.lea("sp", at("sp", kept_bytes + _SAVED_BYTES))

    def _fetch(self, code: ExprCode, place: Place, scope: str, kept_bytes: int) -> None:
        asm, fault, done = self.asm, scope + "fault", scope + "done"
        code.fault = fault
        code.value(place.field.expr)
        values, flags, peeks = self.at_bytes + place.values, self.at_bytes + place.flags, code.seat.peeks
        match place.field:
            case Items(size_bytes=size_bytes, count=count):
                assert peeks is not None
                asm.mov("r11", at("sp", kept_bytes))
                asm.lea("r10", at("r11", values))
                asm.add_imm("r11", flags)
                asm.movl_imm("dx", count)
                asm.call(peeks.items[size_bytes])
            case Text(limit_bytes=limit_bytes):
                assert peeks is not None
                asm.mov("r10", at("sp", kept_bytes))
                asm.add_imm("r10", values)
                asm.movl_imm("dx", limit_bytes)
                asm.call(peeks.text)
                asm.jcc("b", fault)
            case _:
                asm.mov("r11", at("sp", kept_bytes))
                asm.mov(at("r11", values), "ax")
        asm.label(done)

        def unreadable() -> None:
            asm.label(fault)
            asm.mov("r11", at("sp", kept_bytes))
            for value in range(place.field.values):
                asm.movb_imm(at("r11", flags + value), 1)
            asm.jmp(done)

        asm.aside(unreadable)
