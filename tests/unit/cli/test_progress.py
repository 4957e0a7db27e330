"""Progress away from a terminal; on one, tests/integration/test_cli.py looks at it."""

from __future__ import annotations

import pytest

from fprobe_gdb.cli.progress import working
from images.progress import Progress


@pytest.mark.parametrize("env", [{}, {"FORCE_COLOR": "1"}, {"TTY_COMPATIBLE": "1"}], ids=str)
def test_silent_away_from_a_terminal(
    env: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with working("booting") as report:
        report(Progress("fetching", 0.5))
        report(Progress("unpacking"))
    assert capsys.readouterr() == ("", "")


def test_notices_are_for_later_too(capsys: pytest.CaptureFixture[str]) -> None:
    with working("booting") as report:
        report(Progress("no network: [the] cache is used", notice=True))
    assert capsys.readouterr() == ("", "no network: [the] cache is used\n")
