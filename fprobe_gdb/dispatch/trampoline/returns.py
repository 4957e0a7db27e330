"""Calls in flight whose return address a stub stands for: the host's side of the nodes.

One node serves a frame, however many fprobes want its return; what they want is in the probe core.
"""

from __future__ import annotations

from dataclasses import dataclass

from fprobe_gdb.dispatch.trampoline.pads import NodeField
from fprobe_gdb.dispatch.trampoline.zone import HOST_NODES, NODE_BYTES, STUB_BYTES, Zone
from fprobe_gdb.target.guest_ram import GuestRam

__all__ = ["HookedCall", "Returns"]

_NODE_WORDS = NODE_BYTES // 8
_RET_ADDR, _ENDED, _FRAME = NodeField.RET_ADDR // 8, NodeField.ENDED // 8, NodeField.FRAME // 8


@dataclass(slots=True, eq=False)
class HookedCall:
    """A call whose return address is a stub."""

    node: int
    #: What was in the return slot: the return address, or the stub of a node of record mode that stands for it.
    slot_word: int
    #: Where it returns to in truth.
    ret_addr: int
    #: Address of the return slot.
    frame: int
    task: int


class Returns:
    """The nodes of a zone, as far as they belong to the host."""

    def __init__(self, ram: GuestRam, zone: Zone) -> None:
        self._words = ram.words
        #: Addresses of stubs are from the one to below the other.
        self.begin, self.end = zone.stubs, zone.stubs_end
        self._nodes = ram.offset(zone.physical_of(zone.nodes)) >> 3
        #: Nodes that are left; to be looked at only.
        self.left = list(range(HOST_NODES - 1, -1, -1))
        self._calls: dict[int, HookedCall] = {}
        self._by_frame: dict[int, HookedCall] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def hook(self, slot_word: int, ret_addr: int, frame: int, task: int) -> int:
        """Take a node for a call. Returns the stub's address, which has to go into the return slot.

        :param slot_word: what is there now.
        :param ret_addr: what :meth:`look_through` says of it.
        """
        if stale := self._by_frame.get(frame):
            # The call that had this frame was cut off and never returned.
            self.free(stale)
        call = HookedCall(self.left.pop(), slot_word, ret_addr, frame, task)
        first = self._nodes + call.node * _NODE_WORDS
        self._words[first + _RET_ADDR] = slot_word
        self._words[first + _ENDED] = 0
        self._words[first + _FRAME] = frame
        self._calls[call.node] = self._by_frame[frame] = call
        return self.begin + call.node * STUB_BYTES

    def find(self, addr: int) -> HookedCall | None:
        """The call that a return address stands for."""
        if not self.begin <= addr < self.end:
            return None
        node, rest = divmod(addr - self.begin, STUB_BYTES)
        return None if rest else self._calls.get(node)

    def look_through(self, slot_word: int) -> tuple[HookedCall | None, int]:
        """The call of ours that a word in a return slot stands for, if any, and the return address in truth.

        A function that is recorded as well, or that a recorded one has jumped to, finds the stub of a node of record
        mode, behind which ours may be. Its call must be in flight: else nothing is known of the node.
        """
        addr = slot_word
        while self.begin <= addr < self.end:
            call = self.find(addr)
            if call is not None:
                return call, call.ret_addr
            addr = self._words[self._nodes + (addr - self.begin) // STUB_BYTES * _NODE_WORDS + _RET_ADDR]
        return None, addr

    def free(self, call: HookedCall) -> None:
        """Give a node back."""
        if self._calls.get(call.node) is call:
            del self._calls[call.node]
            self._words[self._nodes + call.node * _NODE_WORDS + _FRAME] = 0
            self.left.append(call.node)
            if self._by_frame.get(call.frame) is call:
                del self._by_frame[call.frame]

    def of_task(self, task: int) -> list[HookedCall]:
        """The calls of a task."""
        return [call for call in self._calls.values() if call.task == task]

    def all(self) -> list[HookedCall]:
        """All calls."""
        return list(self._calls.values())

    def take_ended(self) -> list[HookedCall]:
        """Free the nodes whose calls returned without us, and tell which they were."""
        ended = []
        for call in self.all():
            if self._words[self._nodes + call.node * _NODE_WORDS + _ENDED]:
                ended.append(call)
                self.free(call)
        return ended
