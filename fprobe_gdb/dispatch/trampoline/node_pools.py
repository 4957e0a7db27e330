"""Nodes that pads take by themselves, as the host sees them: which probe has which, and which are home.

Each recording probe has a pool of nodes, as each fprobe has in the kernel. All of this is done while the guest is
stopped: a pad that was stopped between two instructions finds a stack head that has changed, and looks again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from fprobe_gdb.dispatch.trampoline.record_format import NodeWord, ProbeWord
from fprobe_gdb.dispatch.trampoline.zone import HOST_NODES, MAX_NODES, NODE_BYTES, Zone
from fprobe_gdb.target.guest_ram import GuestRam

__all__ = ["InFlight", "NodePools"]

_NODE = struct.Struct("<8Q")
_LOW_HALF = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class InFlight:
    """A call whose return address a pad has replaced."""

    node: int
    ret_addr: int
    task: int
    frame: int


class NodePools:
    """All nodes from :data:`~.zone.HOST_NODES` on."""

    def __init__(self, ram: GuestRam, zone: Zone) -> None:
        self._zone = zone
        self._nodes = ram.part(zone.physical_of(zone.nodes), MAX_NODES * NODE_BYTES).cast("Q")
        self._probes = ram.part(zone.physical_of(zone.probe(0)), zone.nodes - zone.probe(0)).cast("Q")
        self._end = ram.part(zone.physical_of(zone.word(Zone.NODES_END)), 8).cast("Q")
        self._free = set(range(HOST_NODES, MAX_NODES))
        self._given: dict[int, set[int]] = {}

    def furnish(self) -> None:
        """The zone has been wiped: there are no nodes of probes."""
        self._end[0] = self._zone.node(HOST_NODES)

    def close(self) -> None:
        """Let go of the memory."""
        for view in (self._nodes, self._probes, self._end):
            view.release()

    @property
    def free(self) -> int:
        """How many nodes no probe has."""
        return len(self._free)

    def give(self, probe: int, count: int) -> list[int]:
        """Give nodes to a probe that has none; there must be so many. Returns them, ascending."""
        assert not self._given.get(probe)
        assert 0 < count <= len(self._free)
        nodes = sorted(self._free)[:count]
        self._free.difference_update(nodes)
        self._given[probe] = set(nodes)
        pool = self._zone.probe(probe) + ProbeWord.FREE
        lows = [self._low_half(node) for node in nodes]
        for node, following in zip(nodes, [*lows[1:], 0], strict=True):
            self._write(node, (0, following, 0, 0, 0, 0, pool, self._zone.stub(node)))
        self._set_head(probe, lows[0])
        self._end[0] = max(self._end[0], self._zone.node(nodes[-1] + 1))
        return nodes

    def out(self, probe: int) -> set[int]:
        """The nodes of a probe that are not home: each has a call in flight, or just about to be or to come home."""
        return self._given.get(probe, set()) - self._home(probe)

    def unsettled(self, probe: int) -> bool:
        """Whether a pad is about to use one of its nodes, or to give it back: it may be interrupted meanwhile."""
        return any(not self._word(node, NodeWord.TASK) for node in self.out(probe))

    def take_back(self, probe: int) -> bool:
        """Take the nodes back that are home. Returns whether none is out any more."""
        given = self._given.get(probe, set())
        home = self._home(probe)
        self._set_head(probe, 0)
        given -= home
        self._free |= home
        if not given:
            self._given.pop(probe, None)
        return not given

    def _home(self, probe: int) -> set[int]:
        low = self._head(probe)
        home = set()
        while low:
            node = (low - self._low_half(0)) // NODE_BYTES
            home.add(node)
            low = self._word(node, NodeWord.NEXT)
        return home

    def in_flight(self) -> Iterator[InFlight]:
        """All calls whose return address is replaced, or just about to be."""
        for nodes in self._given.values():
            yield from filter(None, map(self.call, nodes))

    def call(self, node: int) -> InFlight | None:
        """The call that has a node."""
        ret_addr, task, frame = (self._word(node, word) for word in (NodeWord.RET_ADDR, NodeWord.TASK, NodeWord.FRAME))
        return InFlight(node, ret_addr, task, frame) if task else None

    def _word(self, node: int, word: NodeWord) -> int:
        return self._nodes[(node * NODE_BYTES + word) // 8]

    def _write(self, node: int, words: tuple[int, ...]) -> None:
        at = node * NODE_BYTES // 8
        self._nodes[at : at + NODE_BYTES // 8] = memoryview(_NODE.pack(*words)).cast("Q")

    def _head_at(self, probe: int) -> int:
        return (self._zone.probe(probe) - self._zone.probe(0) + ProbeWord.FREE) // 8

    def _head(self, probe: int) -> int:
        return self._probes[self._head_at(probe)] & _LOW_HALF

    # The upper half changes, so that no pad takes the head that it has read before for this one.
    def _set_head(self, probe: int, low: int) -> None:
        at = self._head_at(probe)
        changed = (self._probes[at] >> 32) + 1 & _LOW_HALF
        self._probes[at] = changed << 32 | low

    # As pads link them.
    def _low_half(self, node: int) -> int:
        return self._zone.node(node) & _LOW_HALF
