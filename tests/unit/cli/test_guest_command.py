"""What stands behind --, and following a command to its end."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import rich_click as click
from hypothesis import given
from hypothesis import strategies as st

from emu.agent import CommandResult
from emu.deadline import Deadline
from emu.errors import AgentLost, CommandTimeout
from fprobe_gdb.cli.guest_command import TakesGuestCommand, follow, shell_text
from fprobe_gdb.dispatch.base import RunEnd

WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)


@given(st.lists(WORDS, min_size=2, max_size=5))
def test_several_words_reach_the_guest_as_they_are(words: list[str]) -> None:
    assert shlex.split(shell_text(tuple(words))) == words


@given(WORDS)
def test_one_word_is_text_for_the_shell(word: str) -> None:
    assert shell_text((word,)) == word


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["--", "ls", "-l"], ("ls", "-l")),
        (["-n", "3", "--", "-n", "4"], ("-n", "4")),
        (["--", "a", "--", "b"], ("a", "--", "b")),
        (["--", "--", "b"], ("--", "b")),
        (["--", "--help"], ("--help",)),
        (["--"], ()),
        ([], ()),
    ],
)
def test_all_behind_the_first_dashes_is_the_guests(argv: list[str], command: tuple[str, ...]) -> None:
    @click.command(cls=TakesGuestCommand)
    @click.option("-n", type=int)
    @click.argument("command", nargs=-1)
    def tool(n: int | None, command: tuple[str, ...]) -> tuple[str, ...]:
        return command

    assert tool.main(argv, standalone_mode=False) == command


@dataclass
class FakeCommand:
    """Gives its output piece by piece, one a poll, then its status."""

    pieces: list[bytes]
    status: int | None
    error: Exception | None = None
    command: str = "the command"
    fresh: bytes = b""

    def poll(self) -> CommandResult | None:
        if self.pieces:
            self.fresh += self.pieces.pop(0)
            return None
        if self.error:
            raise self.error
        return None if self.status is None else CommandResult(self.status, b"")

    def take_output(self) -> bytes:
        fresh, self.fresh = self.fresh, b""
        return fresh


@dataclass
class FakeKernel:
    """Asks as often as it is told to whether it is done."""

    turns: int = 10
    end: RunEnd = RunEnd.TIMEOUT
    timeouts: list[float] = field(default_factory=list)

    def run(self, *, timeout_sec: float, until: Callable[[], bool]) -> RunEnd:
        self.timeouts.append(timeout_sec)
        for _ in range(self.turns):
            if until():
                return RunEnd.DONE
        return self.end


def run(k: FakeKernel, command: FakeCommand, shown: list[bytes]) -> int | None:
    return follow(cast(Any, k), cast(Any, command), Deadline(100), shown.append)


def test_follow_shows_all_output_and_returns_the_status() -> None:
    shown: list[bytes] = []
    k = FakeKernel()
    assert run(k, FakeCommand([b"a", b"b"], 7), shown) == 7
    assert b"".join(shown) == b"ab"
    assert 99 < k.timeouts[0] <= 100


def test_follow_a_run_that_a_handler_stopped() -> None:
    assert run(FakeKernel(turns=1, end=RunEnd.DONE), FakeCommand([b"a"] * 5, None), []) is None


def test_follow_until_the_deadline() -> None:
    with pytest.raises(CommandTimeout, match="'the command' has not ended after 100 s"):
        run(FakeKernel(), FakeCommand([], None), [])


def test_output_before_the_agents_end_is_shown() -> None:
    shown: list[bytes] = []
    with pytest.raises(AgentLost):
        run(FakeKernel(), FakeCommand([b"last words"], None, AgentLost("died")), shown)
    assert b"".join(shown) == b"last words"
