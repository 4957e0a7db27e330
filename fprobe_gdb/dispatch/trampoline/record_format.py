"""What a record looks like: the words that a recording pad writes and the host reads. Pure.

All records of a probe have one size, so that the host can look at one byte of thousands of them at once. The first word
is written last, and its lowest byte is never 0: a record is there when that is not 0. The host leaves zeros behind.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from fprobe_gdb.dispatch.trampoline.record_flags import TaskFlags

__all__ = [
    "FENTRY_BYTES",
    "IP_SHIFT",
    "NodeWord",
    "ProbeWord",
    "Record",
    "RecordField",
    "RecordForm",
    "RecordKind",
    "RingWord",
    "TaskNames",
    "record_bits",
    "record_ip",
]

#: ``call pad``, ``call __fentry__`` and the NOP. What the call pushes, and a record's ``ip``, is behind it.
FENTRY_BYTES = 5
#: Where it begins in the record's first word.
IP_SHIFT = 16
_KERNEL_HALF = ((1 << 16) - 1) << 48


class RecordKind(IntEnum):
    """What has happened."""

    #: A function was entered.
    ENTRY = 0
    #: A call whose entry was recorded has returned; or, where calls are recorded at their return, a call.
    EXIT = 1
    #: A function was entered, and the probe had no node left for its return.
    MISSED = 2
    #: A task dies, seen by a probe that does not probe ``do_task_dead``: no call.
    TASK_DEAD = 3


class RecordField(IntEnum):
    """Offsets in a record, in bytes; all are 64-bit words. Behind them is what :class:`RecordForm` says."""

    #: From below: kind (2 bits), probe (6), 0 for the CPU (8), which the host fills in, and the location as the fentry
    #: call pushes it (48). So it says which function of which probe, and is the same whenever that is.
    WORD = 0
    TSC = 8
    TASK = 16
    RET_IP = 24
    #: Where returns are recorded: the address of the call's node, 0 where there is none.
    NODE = 32


class NodeWord(IntEnum):
    """Offsets in a node that pads take by themselves, in bytes; 64-bit words."""

    #: The same as for the host's nodes.
    RET_ADDR = 0
    #: While it is free: lower half of the address of the next free node, 0 for none.
    NEXT = 8
    #: While it is in use, and its call is recorded at its return: which part of the exit pad does that.
    DECIDE = 8
    #: While it is in use: ``struct task_struct *``; else 0.
    TASK = 16
    FRAME = 24
    #: :attr:`RecordField.WORD` and :attr:`RecordField.TSC` of the entry.
    WORD = 32
    ENTERED = 40
    #: Set by the host: address of its probe's :attr:`ProbeWord.FREE`, and its stub.
    POOL = 48
    STUB = 56


class ProbeWord(IntEnum):
    """Offsets in the words of a probe."""

    #: Lower half of the address of the first free node, 0 for none. In the upper half is a number that changes whenever
    #: a node is taken.
    FREE = 0
    #: Calls of functions without a counter of their own for which the ring had no room, and returns of all.
    LOST = 8
    LOST_EXITS = 16
    #: Calls that were asked something, and are not recorded for their answer; and for how many there was none.
    KEPT_OUT = 24
    FAULTS = 32
    #: Of a probe that adds up: not 0 when returns are no longer counted.
    CLOSED = 40
    #: Where all calls are recorded at their return: calls that have got a node for that.
    AWAITED = 48
    #: Calls that will not return, or return while nobody counts that.
    UNSEEN = 56


class RingWord(IntEnum):
    """Offsets in the words of a ring."""

    #: Bytes of records that pads have reserved since the beginning; for a moment more than there is room for.
    HEAD = 0
    #: The host's: a record must not begin behind this position.
    LIMIT = 8
    #: Address of the ring.
    RING = 16
    #: Address of the CPU's part of the tables.
    TABLES = 24
    #: Hits that are being added up there: one, and those that have interrupted it.
    ADDING = 32


@dataclass(frozen=True, slots=True)
class TaskNames:
    """Where ``struct task_struct`` has ``comm`` and ``pid``; and flags, where records hold the CPU's too."""

    comm: int
    pid: int
    flags: TaskFlags | None = None


COMM_BYTES = 16
_NAMES_BYTES = COMM_BYTES + 8
_ARGS_BYTES = 48
_EXIT_BYTES = 16
_DECIDED_BYTES = 24


class Record(NamedTuple):
    """A record, taken apart."""

    kind: RecordKind
    #: The location.
    ip: int
    cpu: int
    #: Address of the call's node; 0 where there is none.
    node: int
    tsc: int
    task: int
    ret_ip: int
    #: The argument registers; empty where they are not recorded, and with other kinds than entries and decided calls.
    args: tuple[int, ...]
    #: Exits: the register ax, and the entry's ``tsc``.
    retval: int
    entered_tsc: int
    #: Exits: the counter value by which the call's duration goes.
    left_tsc: int
    #: None where they are not recorded.
    comm: str | None
    pid: int | None
    #: See :func:`.record_flags.flags_of`; 0 where they are not recorded.
    flags: int
    #: What was fetched for it; empty where nothing is, and with the same kinds as ``args``.
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class RecordForm:
    """What the records of a probe hold.

    :param returns: returns are recorded too.
    :param args: entries hold the six argument registers.
    :param names: records hold the task's name and pid.
    :param decided: a call is recorded once, at its return, which decides whether it is.
    :param always: with ``decided``: all are. They are hits from their entry on, also those that never return.
    :param payload_bytes: room for what is fetched, a multiple of 8 (:mod:`~fprobe_gdb.dispatch.trampoline.payload`).
    """

    returns: bool = False
    args: bool = False
    names: TaskNames | None = None
    decided: bool = False
    always: bool = False
    payload_bytes: int = 0

    @property
    def args_at(self) -> int:
        """Offset of the argument registers."""
        return self.retval_at + (_DECIDED_BYTES if self.decided else 0)

    @property
    def retval_at(self) -> int:
        """Offset of what an exit has: the register ax, its entry's ``tsc``, and that by which it was decided."""
        return RecordField.NODE + (8 if self.returns else 0)

    @property
    def entered_tsc_at(self) -> int:
        """Offset of the ``tsc`` of an exit's entry."""
        return self.retval_at + 8

    @property
    def left_tsc_at(self) -> int:
        """Offset of the counter value by which an exit's duration goes."""
        return self.retval_at + 16 if self.decided else RecordField.TSC

    @property
    def names_at(self) -> int:
        """Offset of ``comm``, with ``pid`` behind it."""
        args_bytes = _ARGS_BYTES if self.args else 0
        if self.decided:
            return self.args_at + args_bytes
        return self.args_at + max(args_bytes, _EXIT_BYTES if self.returns else 0)

    @property
    def payload_at(self) -> int:
        """Offset of what is fetched."""
        return self.names_at + (_NAMES_BYTES if self.names else 0)

    @property
    def size_bytes(self) -> int:
        """Size of each record, a multiple of 8."""
        return self.payload_at + self.payload_bytes

    def decode(self, data: bytes) -> list[Record]:
        """Take records apart, as they lie in the ring."""
        body = (self.names_at - self.retval_at) // 8
        first_arg = (self.args_at - self.retval_at) // 8
        with_args = RecordKind.EXIT if self.decided else RecordKind.ENTRY
        names, fetched = "16sII" if self.names else "", f"{self.payload_bytes}s" if self.payload_bytes else ""
        layout = struct.Struct(f"<QQQQ{'Q' if self.returns else ''}{body}Q{names}{fetched}")
        records = []
        for word, tsc, task, ret_ip, *rest in layout.iter_unpack(data):
            node = rest.pop(0) if self.returns else 0
            kind = RecordKind(word & 3)
            is_exit = kind is RecordKind.EXIT
            payload = rest.pop() if self.payload_bytes else b""
            comm, pid, flags = rest[body:] if self.names else (None, None, 0)
            records.append(
                Record(
                    kind, record_ip(word), word >> 8 & 0xFF, node, tsc, task, ret_ip,
                    args=tuple(rest[first_arg : first_arg + 6]) if self.args and kind is with_args else (),
                    retval=rest[0] if is_exit else 0,
                    entered_tsc=rest[1] if is_exit else 0,
                    left_tsc=(rest[2] if self.decided else tsc) if is_exit else 0,
                    comm=None if comm is None else comm.partition(b"\0")[0].decode(errors="backslashreplace"),
                    pid=pid,
                    flags=flags,
                    payload=payload if kind is with_args else b"",
                )
            )  # fmt: skip
        return records


def record_ip(word: int) -> int:
    """The location, given :attr:`RecordField.WORD`."""
    return (word >> IP_SHIFT | _KERNEL_HALF) - FENTRY_BYTES


def record_bits(kind: RecordKind, probe: int) -> int:
    """The constant part of :attr:`RecordField.WORD`, and what :attr:`.ring.Batch.kinds` has."""
    return kind | probe << 2
