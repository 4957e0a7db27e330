"""``python -m tests.bench.events``: what a probe event costs that fetches a number and a file's name at each call.

The same is fetched by the guest's own kprobe events, by pads into records, and by handlers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console

from fprobe_gdb.probe_events import ProbeEvents
from fprobe_gdb.session.probe_event_runner import ProbeEventRunner, events_for
from fprobe_gdb.session.record_tracer import RecordTracer
from fprobe_gdb.session.recorded_events import recorded_events
from tests.bench.guests import FUNCTION
from tests.bench.loops import NOTHING, Guest, Way, added_table, added_to_reads
from tests.bench.questions import Nowhere, own_event

REGISTERS = f"f:fetched {FUNCTION} buf count"
NAME = f"f:fetched {FUNCTION} file->f_path.dentry->d_name.name:string count"
GUEST_REGISTERS, GUEST_NAME = "kprobe event: registers", "kprobe event: name"
RECORD_REGISTERS, RECORD_NAME, SHOWN = "record: registers", "record: name", "record: name, and make text"
HANDLER_REGISTERS, HANDLER_NAME = "handler: registers", "handler: name"
#: Which way each is compared with.
AGAINST = {
    RECORD_REGISTERS: GUEST_REGISTERS,
    RECORD_NAME: GUEST_NAME,
    HANDLER_NAME: RECORD_NAME,
}


class Fetching:
    """What can fetch something at the calls of ``vfs_read``."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._k = guest.k
        file, dentry = (self._k.btf.struct(name) for name in ("file", "dentry"))
        at = file.find_member("f_path.dentry").byte_offset, dentry.find_member("d_name.name").byte_offset
        name = f"name=+0(+{at[1]}(+{at[0]}(%di))):string"
        self.guest_events = {
            GUEST_REGISTERS: f"p:asked {FUNCTION} buf=%si count=%dx",
            GUEST_NAME: f"p:asked {FUNCTION} {name} count=%dx",
        }

    @contextmanager
    def nothing(self) -> Iterator[None]:
        """Nobody fetches."""
        yield

    @contextmanager
    def own(self, name: str) -> Iterator[None]:
        """The guest's own event, into its own buffer."""
        with own_event(self._guest, self.guest_events[name], "0"):
            yield

    @contextmanager
    def by_pads(self, definition: str) -> Iterator[None]:
        """Records that nobody looks into."""
        (event,) = recorded_events(self._k, self._events(definition))
        probe = self._k.record(
            event.ips,
            lambda batch: None,
            entry_only=True,
            args=True,
            names=True,
            ordered=False,
            block=True,
            asked=event.asked,
        )
        yield
        self._k.stop_recording(probe)
        click.echo(f"  {probe.hits:,} hits, {probe.lost:,} lost", err=True)
        assert probe.hits > 1000 > probe.lost

    @contextmanager
    def shown(self, definition: str) -> Iterator[None]:
        """Records, and events of them; the guest waits for us where we are slower."""
        events = recorded_events(self._k, self._events(definition))
        tracer = RecordTracer(self._k, Nowhere(), events=events, block=True)
        tracer.register([])
        yield
        summary = tracer.finish("", 0)
        click.echo(
            f"  {summary.hits:,} hits, {summary.lost:,} lost, {summary.host_ns_per_hit} ns of ours each", err=True
        )

    @contextmanager
    def by_handlers(self, definition: str) -> Iterator[None]:
        """A handler that makes text."""
        count = 0

        def on_event(hit: object) -> None:
            nonlocal count
            count += 1

        with ProbeEventRunner(self._k, self._events(definition), on_event, flags=False):
            yield
        assert count > 1000

    def _events(self, definition: str) -> ProbeEvents:
        events = events_for(self._k)
        events.add(definition)
        return events


def in_the_guest(fetching: Fetching) -> dict[str, Way]:
    """Ways in which the guest waits for nobody."""
    return {
        NOTHING: fetching.nothing,
        GUEST_REGISTERS: lambda: fetching.own(GUEST_REGISTERS),
        GUEST_NAME: lambda: fetching.own(GUEST_NAME),
        RECORD_REGISTERS: lambda: fetching.by_pads(REGISTERS),
        RECORD_NAME: lambda: fetching.by_pads(NAME),
    }


def with_the_host(fetching: Fetching) -> dict[str, Way]:
    """Ways in which it waits for us."""
    return {
        NOTHING: fetching.nothing,
        SHOWN: lambda: fetching.shown(NAME),
        HANDLER_REGISTERS: lambda: fetching.by_handlers(REGISTERS),
        HANDLER_NAME: lambda: fetching.by_handlers(NAME),
    }


@click.command()
@click.option("--guests", default=2, show_default=True, type=click.IntRange(1))
@click.option("--rounds", default=2, show_default=True, type=click.IntRange(1), help="In each guest.")
@click.option("--reads", default=200_000, show_default=True, type=click.IntRange(1))
@click.option("--kernel", default="6.1", show_default=True)
def main(guests: int, rounds: int, reads: int, kernel: str) -> None:
    """Measure what an event costs at each call of vfs_read."""

    def ways_in(guest: Guest) -> tuple[dict[str, Way], dict[str, Way]]:
        made = Fetching(guest)
        return in_the_guest(made), with_the_host(made)

    added = added_to_reads(kernel, guests, rounds, (reads, reads // 50), ways_in)
    title = "vfs_read under dd bs=1: what an event adds to a call"
    made = added_table(title, added, lambda name: AGAINST.get(name, ""))
    Console(width=None if Console().is_terminal else 150).print(made)


if __name__ == "__main__":
    main()
