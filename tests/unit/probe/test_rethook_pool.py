"""``struct rethook`` alone: a pool that is fixed at registration, and its nodes."""

from __future__ import annotations

from fprobe_gdb.probe.fprobe import Fprobe
from fprobe_gdb.probe.rethook import Rethook, RethookNode, ShadowStacks


def pool_of(size: int) -> Rethook:
    return Rethook(Fprobe(), size, entry_data_size=0)


def test_rethook_try_get_gives_size_nodes_and_then_none_until_one_is_recycled() -> None:
    rethook = pool_of(2)
    first, second = rethook.try_get(), rethook.try_get()
    assert first is not None
    assert second is not None
    assert first is not second
    assert (rethook.try_get(), rethook.in_flight) == (None, 2)
    rethook.recycle(first)
    assert rethook.in_flight == 1
    assert rethook.try_get() is first
    assert rethook.try_get() is None


def test_rethook_try_get_gives_none_once_stopped_though_nodes_are_free() -> None:
    rethook = pool_of(2)
    rethook.stopped = True
    assert rethook.try_get() is None


def test_rethook_recycle_makes_a_node_ready_for_another_exit() -> None:
    rethook = pool_of(1)
    node = rethook.try_get()
    assert node is not None
    node.exiting = True
    rethook.recycle(node)
    assert not node.exiting


def test_shadow_stacks_hold_the_calls_of_every_task() -> None:
    stacks, rethook = ShadowStacks(), pool_of(9)
    nodes: list[RethookNode] = []
    for task, frame in ((1, 0x10), (2, 0x20), (1, 0x8)):
        node = rethook.try_get()
        assert node is not None
        node.task, node.frame, node.ret_addr = task, frame, 0x99
        stacks.push(node)
        nodes.append(node)
    assert sorted(map(id, stacks)) == sorted(map(id, nodes))
    assert len(stacks) == 3
    assert stacks.at_frame(1, 0x10, 0x99) == nodes[:1]
    assert stacks.at_frame(1, 0x20, 0x99) == []
    assert stacks.take_task(1) == [nodes[0], nodes[2]]
    assert list(stacks) == [nodes[1]]
