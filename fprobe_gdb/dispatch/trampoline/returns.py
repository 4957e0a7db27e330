"""Calls in flight whose return address a stub stands for: the host's side of the nodes.

One node serves a frame, however many fprobes want its return; what they want is in the probe core.
"""

from __future__ import annotations

from dataclasses import dataclass

from fprobe_gdb.dispatch.trampoline.pads import NodeField
from fprobe_gdb.dispatch.trampoline.zone import HOST_NODES, NODE_BYTES, Zone
from fprobe_gdb.target.guest_ram import GuestRam

__all__ = ["HookedCall", "Returns"]


@dataclass(frozen=True, slots=True)
class HookedCall:
    """A call whose return address is a stub."""

    node: int
    #: Where it returns to in truth.
    ret_addr: int
    #: Address of the return slot.
    frame: int
    task: int


class Returns:
    """The nodes of a zone, as far as they belong to the host."""

    def __init__(self, ram: GuestRam, zone: Zone) -> None:
        self._zone = zone
        self._bytes = ram.view
        self._stubs, self._stubs_end = zone.stubs, zone.stubs_end
        self._nodes = ram.offset(zone.physical_of(zone.nodes))
        self._free = list(range(HOST_NODES - 1, -1, -1))
        self._calls: dict[int, HookedCall] = {}
        self._by_frame: dict[int, HookedCall] = {}

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def full(self) -> bool:
        """Whether no node is left."""
        return not self._free

    def hook(self, ret_addr: int, frame: int, task: int) -> int:
        """Take a node for a call. Returns the stub's address, which has to go into the return slot."""
        if stale := self._by_frame.get(frame):
            # The call that had this frame was cut off and never returned.
            self.free(stale)
        call = HookedCall(self._free.pop(), ret_addr, frame, task)
        begin = self._nodes + call.node * NODE_BYTES
        self._bytes[begin : begin + 16] = ret_addr.to_bytes(8, "little") + bytes(8)
        self._calls[call.node] = self._by_frame[frame] = call
        return self._zone.stub(call.node)

    def find(self, addr: int) -> HookedCall | None:
        """The call that a return address stands for."""
        if not self._stubs <= addr < self._stubs_end:
            return None
        node = self._zone.node_of_stub(addr)
        return None if node is None else self._calls.get(node)

    def free(self, call: HookedCall) -> None:
        """Give a node back."""
        if self._calls.get(call.node) is call:
            del self._calls[call.node]
            self._free.append(call.node)
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
            if self._bytes[self._nodes + call.node * NODE_BYTES + NodeField.ENDED]:
                ended.append(call)
                self.free(call)
        return ended
