"""What a record looks like: the words that a recording pad writes and the host reads. Pure.

All records of a probe have one size, so that the host can look at one word of thousands of them at once. The first
word's lower half is written last, and never 0: a record is there when it is not 0. The host leaves zeros behind.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

__all__ = [
    "FENTRY_BYTES",
    "NodeWord",
    "ProbeWord",
    "Record",
    "RecordField",
    "RecordForm",
    "RecordKind",
    "TaskNames",
    "meta_bits",
    "record_ip",
]

#: A record's ``ip`` is what the fentry call pushes, so much behind the location.
FENTRY_BYTES = 5
_KERNEL_HALF = 0xFFFFFFFF00000000


class RecordKind(IntEnum):
    """What has happened."""

    #: A function was entered.
    ENTRY = 0
    #: A call whose entry was recorded has returned.
    EXIT = 1
    #: A function was entered, and the probe had no node left for its return.
    MISSED = 2
    #: A task dies, seen by a probe that does not probe ``do_task_dead``: no call.
    TASK_DEAD = 3


class RecordField(IntEnum):
    """Offsets in a record, in bytes."""

    #: 32 bits: the address behind the location; its upper half is all ones.
    IP = 0
    #: 32 bits: CPU (8), kind (2), probe (6), node (16).
    META = 4
    TSC = 8
    TASK = 16
    RET_IP = 24
    #: Entry: six words.
    ARGS = 32
    #: Exit.
    RETVAL = 32
    #: Exit: the TSC word of the entry.
    ENTERED = 40


class NodeWord(IntEnum):
    """Offsets in a node that pads take by themselves, in bytes; 64-bit words."""

    #: The same as for the host's nodes.
    RET_ADDR = 0
    #: While it is free: number of the next free node.
    NEXT = 8
    #: While it is in use: ``struct task_struct *``; else 0.
    TASK = 16
    FRAME = 24
    IP = 32
    ENTERED = 40
    #: Set by the host: address of its probe's :attr:`ProbeWord.FREE`, and its own number.
    POOL = 48
    NUMBER = 56


class ProbeWord(IntEnum):
    """Offsets in the words of a probe."""

    #: The first free node's number (0 for none), and in the upper half a number that changes each time.
    FREE = 0
    #: Calls of functions without a counter of their own for which the ring had no room, and returns of all.
    LOST = 8
    LOST_EXITS = 16


@dataclass(frozen=True, slots=True)
class TaskNames:
    """Where ``struct task_struct`` has ``comm`` and ``pid``."""

    comm: int
    pid: int


COMM_BYTES = 16
_NAMES_BYTES = COMM_BYTES + 8
_ARGS_BYTES = 48
_EXIT_BYTES = 16


class Record(NamedTuple):
    """A record, taken apart."""

    kind: RecordKind
    #: The location.
    ip: int
    cpu: int
    node: int
    tsc: int
    task: int
    ret_ip: int
    #: The argument registers; empty where they are not recorded, and with other kinds than entries.
    args: tuple[int, ...]
    #: Exits: the register ax, and the entry's ``tsc``.
    retval: int
    entered_tsc: int
    #: None where they are not recorded.
    comm: str | None
    pid: int | None


@dataclass(frozen=True, slots=True)
class RecordForm:
    """What the records of a probe hold.

    :param returns: returns are recorded too.
    :param args: entries hold the six argument registers.
    :param names: records hold the task's name and pid.
    """

    returns: bool = False
    args: bool = False
    names: TaskNames | None = None

    @property
    def names_at(self) -> int:
        """Offset of ``comm``, with ``pid`` behind it."""
        return RecordField.ARGS + max(_ARGS_BYTES if self.args else 0, _EXIT_BYTES if self.returns else 0)

    @property
    def size_bytes(self) -> int:
        """Size of each record, a multiple of 8."""
        return self.names_at + (_NAMES_BYTES if self.names else 0)

    def decode(self, data: bytes) -> list[Record]:
        """Take records apart, as they lie in the ring."""
        body = (self.names_at - RecordField.ARGS) // 8
        layout = struct.Struct(f"<IIQQQ{body}Q" + ("16sII" if self.names else ""))
        records = []
        for ip, meta, tsc, task, ret_ip, *rest in layout.iter_unpack(data):
            kind = RecordKind(meta >> 8 & 3)
            is_exit = kind is RecordKind.EXIT
            comm, pid, _ = rest[body:] if self.names else (None, None, 0)
            records.append(
                Record(
                    kind, record_ip(ip), meta & 0xFF, meta >> 16, tsc, task, ret_ip,
                    args=tuple(rest[:6]) if self.args and kind is RecordKind.ENTRY else (),
                    retval=rest[0] if is_exit else 0,
                    entered_tsc=rest[1] if is_exit else 0,
                    comm=None if comm is None else comm.partition(b"\0")[0].decode(errors="replace"),
                    pid=pid,
                )
            )  # fmt: skip
        return records


def record_ip(word: int) -> int:
    """The location, given :attr:`RecordField.IP`."""
    return (word | _KERNEL_HALF) - FENTRY_BYTES


def meta_bits(kind: RecordKind, probe: int) -> int:
    """The constant part of :attr:`RecordField.META`."""
    return kind << 8 | probe << 10
