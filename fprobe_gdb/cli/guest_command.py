"""The command for the guest: everything behind ``--``."""

from __future__ import annotations

import shlex
from collections.abc import Callable

import click as plain_click
import rich_click as click

from emu.agent import RunningCommand
from emu.deadline import Deadline
from emu.errors import CommandTimeout
from fprobe_gdb.dispatch.base import RunEnd
from fprobe_gdb.session.guest import Kernel

__all__ = ["TakesGuestCommand", "follow", "shell_text"]


class TakesGuestCommand(click.RichCommand):
    """A command whose argument ``command`` is what stands behind ``--``, untouched.

    Without ``--`` nobody could tell whose option ``-l`` is in ``trace -i vfs_read ls -l``, so it has to be there.
    """

    def parse_args(self, ctx: plain_click.Context, args: list[str]) -> list[str]:
        """Split at the first ``--`` and parse what stands before it.

        :raise click.UsageError: words of a command without ``--`` before them.
        """
        dashes = args.index("--") if "--" in args else len(args)
        behind = args[dashes + 1 :]
        try:
            rest = super().parse_args(ctx, args[:dashes])
        except plain_click.NoSuchOption as error:
            hint = "" if behind else f" The options of the guest's command come behind --, {_EXAMPLE}"
            raise plain_click.UsageError(error.format_message() + hint, ctx) from error
        self.words_before(ctx, ctx.params["command"])
        ctx.params["command"] = tuple(behind)
        return rest

    def words_before(self, ctx: plain_click.Context, words: tuple[str, ...]) -> None:
        """What to do with words before ``--`` that belong to no option: nothing good.

        :raise click.UsageError: there are any.
        """
        if words:
            raise plain_click.UsageError(f"what is {words[0]!r}? The guest's command comes behind --, {_EXAMPLE}", ctx)


_EXAMPLE = "as in: -- cat /etc/motd"


def shell_text(words: tuple[str, ...]) -> str:
    """Text for the guest's shell: one word is such a text already, several are quoted, so that they stay what they are.

    >>> shell_text(("ls | wc -l",))
    'ls | wc -l'
    >>> shell_text(("sh", "-c", "ls | wc -l"))
    "sh -c 'ls | wc -l'"
    """
    return words[0] if len(words) == 1 else shlex.join(words)


def follow(k: Kernel, running: RunningCommand, deadline: Deadline, show: Callable[[bytes], None]) -> int | None:
    """Let the guest run until a command ends, or a handler stops the run.

    :param show: gets the command's output as it comes.
    :return: the command's status; None when it still runs.
    :raise CommandTimeout: at the deadline.
    """

    def done() -> bool:
        try:
            return running.poll() is not None
        finally:
            show(running.take_output())

    if k.run(timeout_sec=deadline.remaining_sec, until=done) is RunEnd.TIMEOUT:
        raise CommandTimeout(running.command, deadline.seconds, b"")
    result = running.poll()
    return result.status if result else None
