"""What the kernel says of a probe event that it does not accept: the entries of tracefs' ``error_log``.

Texts and rules are those of kernel/trace/trace_probe.h, trace_probe.c and trace_fprobe.c, Linux 6.12.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from fprobe_gdb.errors import FprobeGdbError

__all__ = ["MESSAGES", "ErrorLog", "ProbeEventError", "TracepointRefused"]

#: The kernel's message of each error, by the name of its constant (``TP_ERR_...``).
MESSAGES = {
    "BAD_MAXACT_TYPE": "Maxactive is only for function exit",
    "BAD_MAXACT": "Invalid maxactive number",
    "MAXACT_TOO_BIG": "Maxactive is too big",
    "BAD_PROBE_ADDR": "Invalid probed address or symbol",
    "BAD_TP_NAME": "Invalid character in tracepoint name",
    "BAD_ADDR_SUFFIX": "Invalid probed address suffix",
    "NO_GROUP_NAME": "Group name is not specified",
    "GROUP_TOO_LONG": "Group name is too long",
    "BAD_GROUP_NAME": "Group name must follow the same rules as C identifiers",
    "NO_EVENT_NAME": "Event name is not specified",
    "EVENT_TOO_LONG": "Event name is too long",
    "BAD_EVENT_NAME": "Event name must follow the same rules as C identifiers",
    "FAIL_REG_PROBE": "Failed to register probe event",
    "DIFF_PROBE_TYPE": "Probe type is different from existing probe",
    "DIFF_ARG_TYPE": "Argument type or name is different from existing probe",
    "SAME_PROBE": "There is already the exact same probe event",
    "RETVAL_ON_PROBE": "$retval is not available on probe",
    "NO_RETVAL": "This function returns 'void' type",
    "BAD_STACK_NUM": "Invalid stack number",
    "BAD_ARG_NUM": "Invalid argument number",
    # The misspelling is the kernel's (corrected in later versions).
    "BAD_VAR": "Invalid $-valiable specified",
    "BAD_MEM_ADDR": "Invalid memory address",
    "BAD_IMM": "Invalid immediate value",
    "IMMSTR_NO_CLOSE": "String is not closed with '\"'",
    "FILE_ON_KPROBE": "File offset is not available with kprobe",
    "TOO_MANY_OPS": "Dereference is too much nested",
    "DEREF_NEED_BRACE": "Dereference needs a brace",
    "BAD_DEREF_OFFS": "Invalid dereference offset",
    "DEREF_OPEN_BRACE": "Dereference brace is not closed",
    "COMM_CANT_DEREF": "$comm can not be dereferenced",
    "BAD_FETCH_ARG": "Invalid fetch argument",
    "ARRAY_NO_CLOSE": "Array is not closed",
    "BAD_ARRAY_SUFFIX": "Array has wrong suffix",
    "BAD_ARRAY_NUM": "Invalid array size",
    "ARRAY_TOO_BIG": "Array number is too big",
    "BAD_TYPE": "Unknown type is specified",
    "BAD_STRING": "String accepts only memory argument",
    "BAD_SYMSTRING": "Symbol String doesn't accept data/userdata",
    "BAD_BITFIELD": "Invalid bitfield",
    "ARG_NAME_TOO_LONG": "Argument name is too long",
    "NO_ARG_NAME": "Argument name is not specified",
    "BAD_ARG_NAME": "Argument name must follow the same rules as C identifiers",
    "USED_ARG_NAME": "This argument name is already used",
    "ARG_TOO_LONG": "Argument expression is too long",
    "NO_ARG_BODY": "No argument expression",
    "NEED_STRING_TYPE": "$comm and immediate-string only accepts string type",
    "EVENT_TOO_BIG": "Event too big (too many fields?)",
    "NOSUP_BTFARG": "BTF is not available or not supported",
    "NO_BTFARG": "This variable is not found at this probe point",
    "NO_BTF_ENTRY": "No BTF entry for this probe point",
    "DOUBLE_ARGS": "$arg* can be used only once in the parameters",
    "ARGS_2LONG": "$arg* failed because the argument list is too long",
    "NO_PTR_STRCT": "This is not a pointer to union/structure.",
    "NOSUP_DAT_ARG": "Non pointer structure/union argument is not supported.",
    "BAD_HYPHEN": "Failed to parse single hyphen. Forgot '>'?",
    "NO_BTF_FIELD": "This field is not found.",
    "BAD_BTF_TID": "Failed to get BTF type info.",
    "BAD_TYPE4STR": "This type does not fit for string.",
}


class ProbeEventError(FprobeGdbError):
    """A probe event that the kernel would not accept. ``str()`` is its entry of ``error_log``, without the time.

    :param errno_name: what ``write()`` fails with, such as ``"EINVAL"``.
    :param message_id: a key of :data:`MESSAGES`; "" where the kernel logs nothing and the text is ours.
    :param text: the message.
    :param command: the definition, its words joined by single spaces.
    :param column: offset in ``command`` that the caret stands under; None where there is nothing to point at.
    """

    def __init__(self, errno_name: str, message_id: str, text: str, command: str, column: int | None = None) -> None:
        caret = "" if column is None else "\n" + " " * (len("  Command: ") + column) + "^"
        super().__init__(f"trace_fprobe: error: {text}\n  Command: {command}{caret}")
        self.errno_name = errno_name
        self.message_id = message_id
        self.text = text
        self.command = command
        self.column = column
        #: Further entries that the kernel logs for the same definition.
        self.later: tuple[ProbeEventError, ...] = ()

    @property
    def errno(self) -> int:
        """The kernel's errno number, positive."""
        return int(getattr(errno, self.errno_name))


class TracepointRefused(ProbeEventError):
    """A correct ``t:`` definition, for a kernel that has no such tracepoint, or no function to probe in its place."""


class ErrorLog:
    """Makes the errors of one definition, and knows which of its words is being looked at.

    :param words: the definition.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._words = tuple(words)
        self._noted: list[ProbeEventError] = []
        #: The word that errors are about.
        self.index = 0

    @property
    def command(self) -> str:
        """The definition as ``error_log`` shows it."""
        return " ".join(self._words)

    def note(self, offset: int, message_id: str) -> None:
        """Log an error behind which the kernel goes on."""
        self._noted.append(self._entry(offset, message_id, "EINVAL"))

    def error(self, offset: int, message_id: str, errno_name: str = "EINVAL") -> ProbeEventError:
        """The error that ends the parsing, to be raised. What was noted comes first, as in the log."""
        entries = [*self._noted, self._entry(offset, message_id, errno_name)]
        first = entries[0]
        first.errno_name = errno_name
        first.later = tuple(entries[1:])
        return first

    def unlogged(self, errno_name: str, text: str) -> ProbeEventError:
        """An error of which the kernel logs nothing, to be raised; the text is ours."""
        return ProbeEventError(errno_name, "", text, self.command)

    def _entry(self, offset: int, message_id: str, errno_name: str) -> ProbeEventError:
        if self.index >= len(self._words):
            # Something is missing: one behind the last word and its space.
            column = sum(len(word) + 1 for word in self._words)
        else:
            column = sum(len(word) + 1 for word in self._words[: self.index]) + offset
        return ProbeEventError(errno_name, message_id, MESSAGES[message_id], self.command, column)
