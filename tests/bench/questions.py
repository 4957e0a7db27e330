"""``python -m tests.bench.questions``: what it costs to ask something of each call, for whom the answer is always no,
and to add up something of each call.

The same is asked by the guest's own filters and histograms of kprobe events, by pads, and by handlers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import click
from rich.console import Console

from fprobe_gdb.output.base import AnyEvent
from fprobe_gdb.session.judge import Judge, Questions
from fprobe_gdb.session.pad_questions import asked_by, guest_facts
from fprobe_gdb.session.pad_sums import pad_sums
from fprobe_gdb.session.tracer import Tracer
from tests.bench.guests import FUNCTION
from tests.bench.loops import NOTHING, Guest, Way, added_table, added_to_reads

TRACING = "/sys/kernel/tracing"
ENTRY, NAME, RETURN = "count == 2", 'file->f_path.dentry->d_name.name == "full"', "retval < 0"
BY_PID, BY_RETURN, TIMES = "--count-by pid", "--count-by retval", "--hist duration"
GUEST_ENTRY, GUEST_RETURN = "kprobe event, filter", "kretprobe event, filter"
GUEST_BY_PID, GUEST_BY_RETURN = "kprobe event, hist by pid", "kretprobe event, hist by return value"
QUESTIONS = {text: Questions(filter=text) for text in (ENTRY, NAME, RETURN)} | {
    BY_PID: Questions(count_by=("pid",)),
    BY_RETURN: Questions(count_by=("retval",)),
    TIMES: Questions(hist=("duration",)),
}
#: Which way of the guest's each of ours is compared with.
AGAINST = {
    ENTRY: GUEST_ENTRY,
    NAME: GUEST_ENTRY,
    RETURN: GUEST_RETURN,
    BY_PID: GUEST_BY_PID,
    BY_RETURN: GUEST_BY_RETURN,
    TIMES: GUEST_BY_RETURN,
}
_WITH_RETURNS = (RETURN, BY_RETURN, TIMES)


class Nowhere:
    """A sink that forgets all events."""

    def write(self, event: AnyEvent) -> None:
        """Forget it."""

    def close(self) -> None:
        """Nothing to do."""


@contextmanager
def own_event(guest: Guest, definition: str, filter_: str = "", hist: str = "") -> Iterator[None]:
    """The guest's own event ``asked``, with a filter (``0`` for none), or which only its histogram by a key sees."""
    event = "events/kprobes/asked"
    begin, end = f"echo '{filter_}' >{event}/filter && echo 1 >{event}/enable", f"echo 0 >{event}/enable"
    if hist:
        # A trigger alone writes nothing into the buffer.
        begin, end = (f"echo '{remove}hist:keys={hist}' >{event}/trigger" for remove in ("", "!"))
    guest.do(f"cd {TRACING} && echo '{definition}' >dynamic_events && {begin} && echo 1 >tracing_on")
    yield
    guest.do(f"cd {TRACING} && echo 0 >tracing_on && {end} && : >dynamic_events && : >trace")


class Asking:
    """What can ask something of the calls of ``vfs_read``."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self._k = guest.k
        self._ips = [self._k.records.ftrace_location(self._k.address(FUNCTION))]

    @contextmanager
    def nothing(self) -> Iterator[None]:
        """Nobody asks."""
        yield

    @contextmanager
    def by_pads(self, text: str) -> Iterator[None]:
        """A pad that answers no, or adds up."""
        judge, facts = self._judge(text), guest_facts(self._k)
        asked, tables = asked_by(judge, facts), None
        if judge.sums:
            sums = pad_sums(judge, facts, asked)
            asked, tables = dict(sums.asked), sums.tables
        probe = self._k.record(
            self._ips,
            lambda batch: None,
            entry_only=text not in _WITH_RETURNS,
            ordered=False,
            block=True,
            asked=asked,
            tables=tables,
        )
        yield
        self._k.stop_recording(probe)
        assert (probe.hits if judge.sums else probe.kept_out) > 1000
        click.echo(f"  {probe.hits:,} hits, {probe.kept_out:,} kept out, {probe.faults:,} faults", err=True)

    @contextmanager
    def by_handlers(self, text: str) -> Iterator[None]:
        """A handler that answers no, or adds up."""
        judge = self._judge(text)
        tracer = Tracer(self._k, Nowhere(), judge=judge, entry_only=text not in _WITH_RETURNS)
        tracer.register(self._ips)
        yield
        tracer.unregister()
        assert (tracer.fprobe.hits if judge.sums else judge.kept_out) > 1000

    def _judge(self, text: str) -> Judge:
        return Judge(QUESTIONS[text], self._k.knowledge, self._ips, self._k.records.name_at)


def in_the_guest(asking: Asking) -> dict[str, Way]:
    """Ways that need no host."""
    ways: dict[str, Way] = {
        NOTHING: asking.nothing,
        GUEST_ENTRY: lambda: own_event(asking.guest, f"p:asked {FUNCTION} count=%dx:u64", "count==2"),
        GUEST_RETURN: lambda: own_event(asking.guest, f"r:asked {FUNCTION} ret=$retval:s64", "ret<0"),
        GUEST_BY_PID: lambda: own_event(asking.guest, f"p:asked {FUNCTION}", hist="common_pid"),
        GUEST_BY_RETURN: lambda: own_event(asking.guest, f"r:asked {FUNCTION} ret=$retval:s64", hist="ret"),
    }
    return ways | {f"pad: {text}": partial(asking.by_pads, text) for text in AGAINST}


def on_the_host(asking: Asking) -> dict[str, Way]:
    """Ways that ask the host at each call."""
    ways: dict[str, Way] = {NOTHING: asking.nothing}
    return ways | {f"handler: {text}": partial(asking.by_handlers, text) for text in AGAINST}


@click.command()
@click.option("--guests", default=2, show_default=True, type=click.IntRange(1))
@click.option("--rounds", default=2, show_default=True, type=click.IntRange(1), help="In each guest.")
@click.option("--reads", default=400_000, show_default=True, type=click.IntRange(1))
@click.option("--kernel", default="6.1", show_default=True)
def main(guests: int, rounds: int, reads: int, kernel: str) -> None:
    """Measure what a question costs that is asked at each call of vfs_read, and what a sum costs."""

    def ways_in(guest: Guest) -> tuple[dict[str, Way], dict[str, Way]]:
        made = Asking(guest)
        return in_the_guest(made), on_the_host(made)

    added = added_to_reads(kernel, guests, rounds, (reads, reads // 100), ways_in)
    title = "vfs_read under dd bs=1: what a question adds to a call"
    made = added_table(title, added, lambda name: AGAINST.get(name.partition(": ")[2], ""))
    Console(width=None if Console().is_terminal else 150).print(made)


if __name__ == "__main__":
    main()
