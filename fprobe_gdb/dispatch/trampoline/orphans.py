"""Taking a zone out of a stopped guest by what is written in it alone. See :mod:`.journal`."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Collection, Iterator

from fprobe_gdb.dispatch.trampoline.pads import Field, NodeField, State
from fprobe_gdb.dispatch.trampoline.record_format import NodeWord
from fprobe_gdb.dispatch.trampoline.zone import HOST_NODES, HUGE_BYTES, MAX_NODES, NODE_BYTES, SLOT_BYTES, SLOTS, Zone
from fprobe_gdb.errors import MemoryFault
from fprobe_gdb.kernel.displace import JUMP_BYTES

__all__ = ["hand_back", "held_by_tracers", "owns_text"]

_BRANCHES = (0xE8, 0xE9)
_NODE_WORDS = NODE_BYTES // 8
assert NodeField.RET_ADDR.value == NodeWord.RET_ADDR.value

Read = Callable[[int, int], bytes]
Write = Callable[[int, bytes], None]


def owns_text(zone: Zone, ip: int, code: bytes) -> bool:
    """Whether what is at a location leads into a zone.

    :param code: what is there.
    """
    if len(code) < JUMP_BYTES or code[0] not in _BRANCHES:
        return False
    to = ip + JUMP_BYTES + int.from_bytes(code[1:JUMP_BYTES], "little", signed=True)
    return zone.code <= to < zone.code + HUGE_BYTES


def hand_back(zone: Zone, read: Read, write: Write) -> None:
    """Let calls in flight return past the zone, and those that wait in a pad go on without their handler.

    :param read, write: kernel memory.
    """
    write(zone.word(Zone.HOST_AWAY), (1).to_bytes(8, "little"))
    _give_returns_back(zone, read, write)
    _answer(zone, read, write)


def held_by_tracers(zone: Zone, read: Read, hooks: Collection[int]) -> bool:
    """Whether a tracer of the guest keeps a stub for a call in flight: it has replaced the return address after us.

    :param hooks: what such tracers put into return slots.
    """
    return any(word in hooks for _, _, word, _ in _in_flight(zone, read))


def _give_returns_back(zone: Zone, read: Read, write: Write) -> None:
    for node, frame, word, ret_addr in _in_flight(zone, read):
        if word == zone.stub(node):
            write(frame, struct.pack("<Q", ret_addr))


# Nodes that have a call, where its return slot is, what is there, and what belongs there.
def _in_flight(zone: Zone, read: Read) -> Iterator[tuple[int, int, int, int]]:
    end = int.from_bytes(read(zone.word(Zone.NODES_END), 8), "little")
    count = min(max(HOST_NODES, (end - zone.nodes) // NODE_BYTES), MAX_NODES)
    words = memoryview(read(zone.nodes, count * NODE_BYTES)).cast("Q")
    for node in range(count):
        frame = _frame(words[node * _NODE_WORDS : (node + 1) * _NODE_WORDS], node)
        if not frame:
            continue
        # The stack of a task that is gone may be, too.
        with contextlib.suppress(MemoryFault):
            word = int.from_bytes(read(frame, 8), "little")
            yield node, frame, word, _real_return(zone, words, node)


# Where the return slot of a node's call is; 0 when it has none.
def _frame(words: memoryview, node: int) -> int:
    if node < HOST_NODES:
        return 0 if words[NodeField.ENDED // 8] else int(words[NodeField.FRAME // 8])
    return int(words[NodeWord.FRAME // 8]) if words[NodeWord.TASK // 8] else 0


# What a node keeps may be the stub of another one, which has got the slot before.
def _real_return(zone: Zone, words: memoryview, node: int) -> int:
    count = len(words) // _NODE_WORDS
    for _ in range(count):
        addr = int(words[node * _NODE_WORDS + NodeField.RET_ADDR // 8])
        following = zone.node_of_stub(addr)
        if following is None or following >= count:
            return addr
        node = following
    return addr


# A pad has in its slot all that it needs to go on by itself.
def _answer(zone: Zone, read: Read, write: Write) -> None:
    states = read(zone.word(Zone.STATES), SLOTS)
    for slot, state in enumerate(states):
        if state in (State.POSTED, State.LEAVING):
            at = zone.slots + slot * SLOT_BYTES
            write(at + Field.CHANGED, bytes(8))
            write(at + Field.ANSWERED, read(at + Field.USE, 8))
