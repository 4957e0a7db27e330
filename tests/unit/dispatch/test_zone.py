"""Where the zone is mapped, by whose page tables, and how an address in it leads to RAM."""

from __future__ import annotations

import mmap

import pytest

from fprobe_gdb.dispatch.trampoline.mapping import IMAGE_BASE, place_zone, read_directory, zone_entries
from fprobe_gdb.dispatch.trampoline.tsc_clock import TscClock
from fprobe_gdb.dispatch.trampoline.zone import HUGE_BYTES, MAX_NODES, STUB_BYTES, Zone
from fprobe_gdb.errors import MemoryFault, ZoneError
from fprobe_gdb.target.guest_ram import GuestRam

ROOT, UPPER, DIRECTORY, TABLE = 0x1000, 0x2000, 0x3000, 0x4000
ZONE_AT = 0x800000
IMAGE = IMAGE_BASE + 0x1000000, IMAGE_BASE + 0x3800000


class Guest:
    """Page tables as head_64.S leaves them: the image's first 2 MiB, and one page of a stack."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 16 << 20)
        self.ram = GuestRam(self.memory)
        self.put(ROOT + 511 * 8, UPPER | 0x63)
        self.put(UPPER + 510 * 8, DIRECTORY | 0x63)
        self.put(DIRECTORY, 0x200000 | 0x1E3)
        self.put(ROOT + 402 * 8, UPPER | 0x63)
        self.put(UPPER, TABLE | 0x63)
        self.put(TABLE, 0x5000 | 0x63)
        self.put(0x5000 + 7 * 8, 0x6000 | 0x63)

    def put(self, addr: int, value: int) -> None:
        self.ram.write_physical(addr, value.to_bytes(8, "little"))


@pytest.fixture
def guest() -> Guest:
    return Guest()


def test_the_zone_is_reached_through_the_tables_that_map_it(guest: Guest) -> None:
    table, entries = read_directory(ROOT, guest.ram.read_physical)
    assert table == DIRECTORY
    zone = place_zone(entries, IMAGE, ZONE_AT, 8 << 20, 1)
    index, mapped = zone_entries(zone)
    guest.ram.write_physical(table + 8 * index, mapped)
    assert zone.code >= IMAGE[1] + HUGE_BYTES
    for addr in (zone.code, zone.stubs, zone.data, zone.nodes, zone.ring(0), zone.ring(0) + zone.ring_bytes + 1016):
        assert guest.ram.translate(ROOT, addr) == zone.physical_of(addr)
    entries = [int.from_bytes(mapped[at : at + 8], "little") for at in range(0, len(mapped), 8)]
    writable, no_exec = 2, 1 << 63
    assert [bool(entry & writable) for entry in entries] == [False, True, True, True]
    assert [bool(entry & no_exec) for entry in entries] == [False, True, True, True]


@pytest.mark.parametrize(
    ("mib", "rings", "losses_mib", "ring_kib"),
    [(4, 1, 0, 0), (6, 1, 0, 1024), (10, 1, 0, 4096), (16, 1, 4, 4096), (26, 1, 4, 16384), (26, 2, 4, 8192),
     (26, 3, 4, 4096), (26, 8, 4, 2048), (138, 64, 4, 2048), (26, 256, 4, 64), (6, 128, 0, 0), (26, 0, 4, 0)],
)  # fmt: skip
def test_rings_of_zones_of_all_sizes(guest: Guest, mib: int, rings: int, losses_mib: int, ring_kib: int) -> None:
    _, entries = read_directory(ROOT, guest.ram.read_physical)
    zone = place_zone(entries, IMAGE, ZONE_AT, mib << 20, rings)
    assert (zone.losses_bytes >> 20, zone.ring_bytes >> 10) == (losses_mib, ring_kib)
    assert [zone.ring(cpu + 1) - zone.ring(cpu) for cpu in range(rings)] == [zone.ring_stride_bytes] * rings
    assert zone.ring(rings) <= zone.code + zone.size_bytes or not zone.ring_bytes


def test_entries_that_are_taken_are_stepped_over(guest: Guest) -> None:
    _, entries = read_directory(ROOT, guest.ram.read_physical)
    free = (IMAGE[1] - IMAGE_BASE) // HUGE_BYTES + 1
    entries[free + 2] = 1
    assert place_zone(entries, IMAGE, ZONE_AT, 8 << 20, 1).code == IMAGE_BASE + (free + 3) * HUGE_BYTES


def test_before_an_image_at_the_end(guest: Guest) -> None:
    """KASLR may leave no room behind it."""
    _, entries = read_directory(ROOT, guest.ram.read_physical)
    image = IMAGE_BASE + (960 << 20), IMAGE_BASE + (1 << 30) - HUGE_BYTES
    zone = place_zone(entries, image, ZONE_AT, 8 << 20, 1)
    assert zone.code == image[0] - HUGE_BYTES - (8 << 20)
    entries[(zone.code - IMAGE_BASE) // HUGE_BYTES + 3] = 1
    assert place_zone(entries, image, ZONE_AT, 8 << 20, 1).code == zone.code - HUGE_BYTES


def test_no_room(guest: Guest) -> None:
    _, entries = read_directory(ROOT, guest.ram.read_physical)
    with pytest.raises(ZoneError, match="no room for 8 MiB around the kernel's image"):
        place_zone(entries, (IMAGE_BASE + (4 << 20), IMAGE_BASE + (1 << 30) - HUGE_BYTES), ZONE_AT, 8 << 20, 1)


def test_a_kernel_without_page_tables_yet(guest: Guest) -> None:
    with pytest.raises(ZoneError, match="page tables"):
        read_directory(0x7000, guest.ram.read_physical)


def test_stubs_and_nodes() -> None:
    zone = Zone(ZONE_AT, 8 << 20, IMAGE_BASE, IMAGE_BASE + HUGE_BYTES, 1)
    assert [zone.node_of_stub(zone.stub(node)) for node in (0, 1, MAX_NODES - 1)] == [0, 1, MAX_NODES - 1]
    assert zone.node_of_stub(zone.stub(0) + 1) is None
    assert zone.node_of_stub(zone.stub(MAX_NODES - 1) + STUB_BYTES) is None
    assert zone.node_of_stub(zone.stub(0) - STUB_BYTES) is None


# Section: reading through page tables

STACK = 0xFFFFC90000000000 + 7 * 4096


def test_reads_and_writes_across_pages(guest: Guest) -> None:
    guest.put(0x5000 + 8 * 8, 0x9000 | 0x63)
    guest.ram.write(ROOT, STACK + 4090, b"twelve bytes")
    assert guest.ram.read(ROOT, STACK + 4090, 12) == b"twelve bytes"
    assert guest.ram.read_physical(0x6000 + 4090, 6) == b"twelve"
    assert guest.ram.read_physical(0x9000, 6) == b" bytes"


@pytest.mark.parametrize("addr", [STACK - 4096, STACK + 4096, 0, 0xFFFF_FFFF_FFFF_F000, 0xDEAD_0000_0000_0000])
def test_what_is_not_mapped_is_a_fault(guest: Guest, addr: int) -> None:
    with pytest.raises(MemoryFault) as caught:
        guest.ram.read(ROOT, addr, 8)
    assert (caught.value.addr, caught.value.size_bytes) == (addr, 8)


def test_a_write_that_faults_writes_nothing(guest: Guest) -> None:
    with pytest.raises(MemoryFault):
        guest.ram.write(ROOT, STACK + 4092, b"too long")
    assert guest.ram.read(ROOT, STACK + 4092, 4) == bytes(4)


def test_page_tables_that_lead_out_of_ram_are_a_fault(guest: Guest) -> None:
    guest.put(0x5000 + 7 * 8, 0xFED00000 | 0x63)
    with pytest.raises(MemoryFault):
        guest.ram.read(ROOT, STACK, 8)
    guest.put(TABLE, 0x7FFF_F000_0000 | 0x63)
    with pytest.raises(MemoryFault):
        guest.ram.read(ROOT, STACK, 8)


# Section: time


def test_counts_become_guest_time() -> None:
    clock = TscClock(2_500_000)
    assert not clock.anchored
    clock.anchor(1_000_000, 5_000)
    assert clock.time_ns(1_000_000) == 5_000
    assert clock.time_ns(1_000_250) == 5_100
    # A vCPU's counter that lags does not turn time back.
    assert clock.time_ns(999_000) == 5_100
    assert clock.counts(1_000_000_000) == 2_500_000_000
    clock.forget()
    assert not clock.anchored
