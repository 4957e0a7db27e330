"""The body of a fetch argument, such as ``+8(file->f_path.dentry)``: text to steps.

This follows the order of checks of ``parse_probe_arg()`` and what it calls (kernel/trace/trace_probe.c, Linux 6.12),
since it decides which error is reported, and where the caret stands.
"""

from __future__ import annotations

from fprobe_gdb.kernel.btf import Type
from fprobe_gdb.probe_events.numbers import NotANumber, kstrtol, kstrtoul
from fprobe_gdb.probe_events.probe_point import ProbePoint
from fprobe_gdb.probe_events.program import Op, OpKind

__all__ = ["ExpressionParser"]

_MASK64 = (1 << 64) - 1
# FETCH_INSN_MAX less the one that ends a program.
_MAX_STEPS = 15
# THREAD_SIZE of x86_64 without KASAN, in words.
_MAX_STACK_WORDS = (16 << 10) // 8


class ExpressionParser:
    """Parses one argument's body.

    :param offset: where the body is in its word.
    """

    def __init__(self, at: ProbePoint, offset: int) -> None:
        self._at = at
        #: What errors from now on point at; it moves behind each bracket and field that was understood.
        self.offset = offset
        self.ops: list[Op] = []
        #: C type of the value, if it is known.
        self.last_type: Type | None = None
        #: Bit-field that the value lies in.
        self.last_bit_offset = 0
        self.last_bit_size = 0

    def push(self, op: Op) -> None:
        """Add a step.

        :raise ProbeEventError: there are too many.
        """
        if len(self.ops) >= _MAX_STEPS:
            raise self._at.log.error(self.offset, "TOO_MANY_OPS")
        self.ops.append(op)

    def parse(self, text: str) -> None:
        """Understand a body, or what stands in brackets."""
        match text[:1]:
            case "$":
                self._variable(text)
            case "%":
                # A register. The kernel logs this, and goes on to the general complaint below.
                self._at.log.note(self.offset, "BAD_VAR")
            case "@":
                self._memory(text)
            case "+" | "-":
                self._dereference(text)
            case "\\":
                self._immediate(text)
            case first if first.isascii() and (first.isalpha() or first == "_"):
                # Circular otherwise: C names of arguments live in a file of their own.
                from fprobe_gdb.probe_events.c_names import parse_c_name

                parse_c_name(self, self._at, text)
        if not self.ops:
            raise self._at.log.error(self.offset, "BAD_FETCH_ARG")

    def push_argument(self, number: int) -> None:
        """Add a step that gives argument ``number``, from 0, of the function; on return, what it was at entry."""
        if self._at.is_return:
            self.push(Op(OpKind.EDATA, self._at.keep_at_entry(number)))
        else:
            self.push(Op(OpKind.ARG, number + self._at.hidden_params))

    def _variable(self, text: str) -> None:
        from fprobe_gdb.probe_events.c_names import parse_c_name

        log, name = self._at.log, text[1:]
        if name.startswith("retval"):
            if not self._at.is_return:
                raise log.error(self.offset, "RETVAL_ON_PROBE")
            if self._at.catalog.btf is None:
                self.push(Op(OpKind.RETVAL))
            else:
                parse_c_name(self, self._at, text)
        elif name.startswith("stack"):
            self._stack(name.removeprefix("stack"))
        elif name in ("comm", "COMM"):
            self.push(Op(OpKind.COMM))
        elif name.startswith("arg"):
            number = self._index(name.removeprefix("arg"))
            if not 1 <= number <= _MAX_STACK_WORDS:
                raise log.error(self.offset, "BAD_ARG_NUM")
            self.push_argument(number - 1)
        else:
            raise log.error(self.offset, "BAD_VAR")

    def _stack(self, number_text: str) -> None:
        if not number_text:
            self.push(Op(OpKind.STACKP))
            return
        # "+1" would be a number to the kernel, but it asks for a digit first.
        number = self._index(number_text if number_text[0] in "0123456789" else "")
        if number > _MAX_STACK_WORDS:
            raise self._at.log.error(self.offset, "BAD_STACK_NUM")
        self.push(Op(OpKind.STACK, number))

    def _index(self, text: str) -> int:
        try:
            return kstrtoul(text, 10)
        except NotANumber as error:
            raise self._at.log.error(self.offset, "BAD_VAR") from error

    def _memory(self, text: str) -> None:
        log, place = self._at.log, text[1:]
        if place[:1] and place[0] in "0123456789":
            try:
                self.push(Op(OpKind.IMM, kstrtoul(place)))
            except NotANumber as error:
                raise log.error(self.offset, "BAD_MEM_ADDR", error.errno_name) from error
        elif place.startswith("+"):
            raise log.error(self.offset, "FILE_ON_KPROBE")
        else:
            # Looked up when the event is registered, as in the kernel.
            self.push(Op(OpKind.SYMBOL, text=place))
            self.push(Op(OpKind.IMM))
        self.push(Op(OpKind.DEREF))

    def _dereference(self, text: str) -> None:
        log, kind = self._at.log, OpKind.DEREF
        if text[1:2] == "u":
            kind, text = OpKind.UDEREF, text[0] + text[2:]
        if text[0] == "+":
            text = text[1:]
        number, bracket, inner = text.partition("(")
        if not bracket:
            raise log.error(self.offset, "DEREF_NEED_BRACE")
        try:
            offset = kstrtol(number)
        except NotANumber as error:
            raise log.error(self.offset, "BAD_DEREF_OFFS", error.errno_name) from error
        # The kernel counts the sign, but not a "u".
        self.offset += len(number) + 1 + (0 if text[0] == "-" else 1)
        inner_offset = self.offset
        inner, closing, _ = inner.rpartition(")") if ")" in inner else (inner, "", "")
        if not closing:
            raise log.error(self.offset + len(inner), "DEREF_OPEN_BRACE")
        self.parse(inner)
        self.offset = inner_offset
        if self.ops[-1].kind in (OpKind.COMM, OpKind.DATA):
            raise log.error(self.offset, "COMM_CANT_DEREF")
        self.push(Op(kind, offset))
        self.last_type = None

    def _immediate(self, text: str) -> None:
        log, value = self._at.log, text[1:]
        if value.startswith('"'):
            if len(value) < 2 or not value.endswith('"'):
                raise log.error(self.offset + 1 + len(value), "IMMSTR_NO_CLOSE")
            self.push(Op(OpKind.DATA, text=value[1:-1]))
            return
        try:
            self.push(Op(OpKind.IMM, _immediate_number(value) & _MASK64))
        except NotANumber as error:
            raise log.error(self.offset + 1, "BAD_IMM", error.errno_name) from error


def _immediate_number(text: str) -> int:
    if text[:1] and text[0] in "0123456789":
        return kstrtoul(text)
    return kstrtol(text.removeprefix("+")) if text[:1] in ("-", "+") else kstrtol("")
