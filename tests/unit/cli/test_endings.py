"""SIGTERM and SIGHUP take the way of Ctrl-C."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator

import pytest

from fprobe_gdb.cli.endings import endings
from fprobe_gdb.session.sigint import deferred_sigint

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    hook = sys.unraisablehook
    yield
    sys.unraisablehook = hook
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.parametrize(
    ("signum", "code", "by"), [(signal.SIGTERM, 143, " by SIGTERM"), (signal.SIGHUP, 129, " by SIGHUP")]
)
def test_signal_is_an_interrupt(signum: signal.Signals, code: int, by: str) -> None:
    ended = endings()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signum)
    assert (ended.exit_code, ended.by) == (code, by)


def test_ctrl_c_is_130() -> None:
    ended = endings()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert (ended.exit_code, ended.by) == (130, "")


def test_first_signal_names_the_end_and_the_third_changes_nothing() -> None:
    ended = endings()
    for signum in (signal.SIGHUP, signal.SIGTERM):
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signum)
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGTERM)
    assert ended.exit_code == 129


def test_nothing_is_raised_once_it_is_over() -> None:
    ended = endings()
    ended.over = True
    for signum in SIGNALS:
        signal.raise_signal(signum)


class Dying:
    """Is interrupted where Python prints exceptions and goes on."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


def test_an_interrupt_that_python_ignores_comes_again(capsys: pytest.CaptureFixture[str]) -> None:
    ended = endings()

    # It comes while this waits, or before: on a busy machine it may be some time until then.
    def die_and_wait() -> None:
        Dying()
        threading.Event().wait(30)

    with pytest.raises(KeyboardInterrupt):
        die_and_wait()
    assert (ended.exit_code, capsys.readouterr().err) == (143, "")


def test_an_interrupt_that_comes_again_too_soon_comes_once_more(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While its coming is still being seen to."""
    early = iter([True])

    class Timer(threading.Timer):
        def start(self) -> None:
            if next(early, False):
                signal.raise_signal(signal.SIGTERM)
            super().start()

    monkeypatch.setattr(threading, "Timer", Timer)
    test_an_interrupt_that_python_ignores_comes_again(capsys)


def test_other_exceptions_that_python_ignores_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    class Failing:
        def __del__(self) -> None:
            raise ValueError("told")

    endings()
    Failing()
    assert "ValueError: told" in capsys.readouterr().err


def test_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    ended = endings()
    signal.raise_signal(signal.SIGHUP)
    assert ended.signal is None


def in_exchange(*signums: signal.Signals) -> list[str]:
    """What happens when signals come in the middle of an exchange with the debugger."""
    log = []
    try:
        with deferred_sigint() as interrupt:
            for signum in signums:
                try:
                    signal.raise_signal(signum)
                except KeyboardInterrupt:
                    log.append("raised at once")
                else:
                    log.append("noted" if interrupt.pending else "ignored")
    except KeyboardInterrupt:
        log.append("raised at the end")
    return log


def test_first_signal_is_deferred_and_the_second_is_not() -> None:
    ended = endings()
    log = in_exchange(signal.SIGTERM, signal.SIGINT)
    assert log == ["noted", "raised at once", "raised at the end"]
    assert ended.exit_code == 143


def test_background_job_ignores_ctrl_c_but_not_sigterm() -> None:
    """A shell starts background jobs of scripts with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    endings()
    assert in_exchange(signal.SIGINT) == ["ignored"]
    assert in_exchange(signal.SIGINT, signal.SIGTERM) == ["ignored", "noted", "raised at the end"]
