"""Who has which part of each CPU's room for tables, and what they say: the host's side of :mod:`.tables`."""

from __future__ import annotations

from collections.abc import Sequence

from fprobe_gdb.dispatch.trampoline.table_counts import TableCounts, read_tables
from fprobe_gdb.dispatch.trampoline.tables import ProbeTables, TableForm, blank_tables, place_tables
from fprobe_gdb.dispatch.trampoline.zone import Zone
from fprobe_gdb.errors import RecordNoTables
from fprobe_gdb.target.guest_ram import GuestRam

__all__ = ["TableRoom"]


class TableRoom:
    """The tables of all probes of a zone; at the same offsets in each CPU's part."""

    def __init__(self, ram: GuestRam, zone: Zone) -> None:
        self._ram = ram
        self._zone = zone
        self._size_bytes = zone.tables_bytes
        self._cpus = range(zone.rings if self._size_bytes else 0)
        self._taken: dict[int, ProbeTables] = {}

    def place(self, probe: int, functions: int, forms: Sequence[TableForm]) -> ProbeTables:
        """Give a probe tables, which are empty. The fewer are left, the fewer rows they have.

        :param functions: how many functions it has.
        :raise RecordNoTables: there is no room for tables of any use.
        """
        begin, end = self._gap()
        tables = place_tables(begin, end - begin, functions, forms)
        if tables is None:
            raise RecordNoTables
        self._taken[probe] = tables
        blank = blank_tables(tables)
        for cpu in self._cpus:
            done = 0
            for physical, size_bytes in self._zone.runs(self._zone.tables(cpu) + begin, len(blank)):
                self._ram.write_physical(physical, blank[done : done + size_bytes])
                done += size_bytes
        return tables

    def give_back(self, probe: int) -> None:
        """A probe that is removed needs its tables no longer; once no vCPU is in its pads."""
        self._taken.pop(probe, None)

    def read(self, tables: ProbeTables) -> TableCounts:
        """What a probe's tables say. Of a guest that runs, something may be missing."""
        return read_tables(tables, [memoryview(self._part(cpu, tables.end)).cast("Q") for cpu in self._cpus])

    # The beginning of a CPU's part.
    def _part(self, cpu: int, size_bytes: int) -> bytes:
        runs = self._zone.runs(self._zone.tables(cpu), size_bytes)
        return b"".join(self._ram.read_physical(physical, size) for physical, size in runs)

    # The longest piece that nobody has.
    def _gap(self) -> tuple[int, int]:
        taken = sorted((tables.functions.at, tables.end) for tables in self._taken.values())
        begins = [0, *(end for _, end in taken)]
        ends = [*(begin for begin, _ in taken), self._size_bytes]
        return max(zip(begins, ends, strict=True), key=lambda gap: gap[1] - gap[0])
