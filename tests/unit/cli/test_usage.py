"""Wrong words on the command line: exit 2, the usage, and what to do; and the help pages."""

from __future__ import annotations

import pytest

from fprobe_gdb.cli import app
from fprobe_gdb.cli.endings import Endings
from fprobe_gdb.cli.exits import ExitCode

COMMANDS = ("list", "trace", "run", "doctor")


def run(*argv: str) -> int:
    return app._run(argv, Endings())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["list"], "PATTERN"),
        (["trace", "--", "true"], "--include"),
        (["trace", "-i", "vfs_read"], "Give a command behind --"),
        (["trace", "-i", "vfs_read", "--"], "Give a command behind --"),
        (["trace", "-i", "vfs_read", "cat", "/etc/motd"], "what is 'cat'?"),
        (["trace", "-i", "vfs_read", "ls", "-l"], "behind --, as in: -- cat /etc/motd"),
        (["trace", "-i", "vfs_read", "--nonsense", "--", "ls", "-l"], "--nonsense"),
        (["trace", "-i", "vfs_read", "--timeout", "0", "--", "true"], "--timeout"),
        (["trace", "--from-boot", "--module", "dummy", "-i", "[dummy]", "--", "true"], "once the guest is up"),
        (["trace", "-i", "vfs_read", "--max-hits", "0", "--", "true"], "--max-hits"),
        (["trace", "-i", "vfs_read", "--maxactive", "-1", "--", "true"], "--maxactive"),
        (["trace", "-i", "vfs_read", "--backend", "lldb", "--", "true"], "--backend"),
        (["trace", "-i", "vfs_read", "-f", "xml", "--", "true"], "--format"),
        (["trace", "-i", "vfs_read", "--smp", "0", "--", "true"], "--smp"),
        (["trace", "-x", "vfs_read", "f vfs_read", "--", "true"], "--exclude leaves out functions of --include"),
        (["trace", "f:myread", "vfs_read", "count", "--", "true"], "'f:myread' alone defines no event; quote"),
        (["trace", "f vfs_read", "cat", "--", "true"], "what is 'cat'?"),
        (["trace", "f vfs_read", "--entry-only", "--", "true"], "--entry-only and --maxactive"),
        (["trace", "f vfs_read", "--filter", "count > 1", "--", "true"], "ask about functions of -i"),
        (["trace", "f vfs_read", "--record", "--count-by", "comm", "--", "true"], "the first three ask about events"),
        (["trace", "-i", "vfs_read", "--graph", "--", "true"], "add -f ftrace"),
        (["trace", "-i", "x", "-f", "ftrace", "--graph", "--entry-only", "--", "true"], "--graph draws calls"),
        (["trace", "-i", "vfs_read", "--stack=0", "--", "true"], "--stack"),
        (["trace", "-i", "vfs_read", "--stack", "8", "--", "true"], "what is '8'?"),
        (
            ["trace", "-i", "x", "--record", "--stack=8", "--", "true"],
            "--record knows no --stack",
        ),
        (["attach", "./no.sock"], "what shall be probed?"),
        (["attach", "./no.sock", "f vfs_read", "--filter", "count > 1"], "ask about functions of -i"),
        (["attach", "./no.sock", "f vfs_read", "--entry-only"], "--entry-only and --maxactive"),
        (["attach", "./no.sock", "-i", "x", "--record", "--stack"], "--record knows no --stack"),
        (["attach", "./no.sock", "-i", "x", "-f", "ftrace", "--graph", "--entry-only"], "--graph draws calls"),
        (["run"], "PROBE.py"),
        (["run", "/nonexistent.py"], "/nonexistent.py"),
    ],
    ids=" ".join,
)
def test_usage_error(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*argv) == ExitCode.USAGE == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Usage: fprobe-gdb" in err
    assert message in " ".join(err.split())


def test_a_file_of_definitions_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("trace", "-e", "/no/such/file", "--", "true") == 2
    assert "-e /no/such/file: No such file or directory" in capsys.readouterr().err


def test_file_option_without_host_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("trace", "-i", "vfs_read", "--file", "/root/x", "--", "true") == 2
    assert "--file '/root/x' is not GUEST=HOST" in capsys.readouterr().err


def test_unknown_kernel(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "-k", "2.4", "vfs_read") == 2
    err = capsys.readouterr().err
    assert "2.4" in err
    assert "6.1" in err


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("columns", ["80", "250"])
def test_help_has_examples_and_fits(
    command: str, columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most 100 columns however wide the terminal is, and no example is broken at 80."""
    monkeypatch.setenv("COLUMNS", columns)
    assert run(command, "--help") == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert max(map(len, lines)) <= min(int(columns), 100)
    begin = next(i for i, line in enumerate(lines) if line.strip() == "Examples:")
    examples = [line for line in lines[begin + 1 :] if line.strip().startswith("fprobe-gdb ")]
    assert examples
    source = " ".join((app.cli.commands[command].help or "").split())
    assert all(" ".join(example.split()) in source for example in examples)
    assert len(examples) == source.count(f"fprobe-gdb {command}")
    assert "[dim]" not in out


def test_every_option_is_explained() -> None:
    for command in app.cli.commands.values():
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert parameter.help, f"{command.name} {parameter.opts}"  # type: ignore[attr-defined]


def test_group_help_names_all_commands_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    out = " ".join(capsys.readouterr().out.split())
    for code in (*map(int, ExitCode), 143, 129):
        assert str(code) in out
    assert all(f"fprobe-gdb {command}" in out for command in COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert "fprobe-gdb" in capsys.readouterr().out
