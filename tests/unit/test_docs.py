"""What the documents say must be so: commands parse, links lead somewhere, lists agree with the code."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections import Counter
from io import StringIO
from pathlib import Path

import click
import pytest

from emu.__main__ import main as emu_command
from fprobe_gdb.cli.app import cli
from fprobe_gdb.cli.exits import ExitCode
from fprobe_gdb.cli.sinks import FORMATS
from fprobe_gdb.events import ExitEvent
from fprobe_gdb.output.jsonl import JsonlSink
from images.__main__ import main as images_command

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")] + sorted(ROOT.glob("*/README.md"))
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
EXAMPLE_LINES = 40
# This one shows how little it takes.
SHORTEST, SHORTEST_LINES = "opened_files.py", 30

PROGRAMS: dict[str, click.Command] = {
    "fprobe-gdb": cli,
    "python -m emu": emu_command,
    "python -m images": images_command,
}


def commands_in(text: str) -> list[str]:
    """Command lines of our programs: ``code`` spans, and lines of fenced blocks or (in docstrings) indented ones."""
    spans = re.findall(r"`([^`\n]+)`", text)
    lines: list[str] = []
    for fenced, indented in re.findall(r"^```\w*\n(.*?)^```|^    (\S.*?)$", text, re.DOTALL | re.MULTILINE):
        lines += [line.strip().removeprefix("$ ") for line in (fenced or indented).splitlines()]
    return list(dict.fromkeys(it for it in spans + lines if without_environment(it).startswith(tuple(PROGRAMS))))


def without_environment(command: str) -> str:
    """``FUNCTION=vfs_write fprobe-gdb run ...`` without the assignments."""
    return re.sub(r"^(\w+=\S+ +)+", "", command)


def parse(command: str) -> None:
    """Let click parse a command line, without running it. A bare name has only to be one of a command.

    :raise click.ClickException: for unknown options, missing arguments, values out of range.
    """
    command = without_environment(command)
    name = next(program for program in PROGRAMS if command.startswith(program))
    program, words = PROGRAMS[name], shlex.split(command, comments=True)[len(name.split()) :]
    if not words:
        return
    if isinstance(program, click.Group):
        chosen = program.get_command(click.Context(program), words[0])
        if chosen is None:
            raise click.UsageError(f"{name} has no command {words[0]}")
        program, words = chosen, words[1:]
    if words:
        program.make_context(name, words)


ALL_COMMANDS = [
    pytest.param(command, id=f"{path.relative_to(ROOT)}: {command}"[:80])
    for path in (*DOCUMENTS, *EXAMPLES)
    for command in commands_in(path.read_text("utf-8"))
]


@pytest.mark.parametrize("command", ALL_COMMANDS)
def test_command_parses(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    parse(command)


@pytest.mark.parametrize(
    "command", ["fprobe-gdb trace -i x --no-such-option -- ls", "fprobe-gdb nothing", "fprobe-gdb trace -- ls"]
)
def test_a_wrong_command_is_noticed(command: str) -> None:
    with pytest.raises(click.ClickException):
        parse(command)


def test_every_command_of_ours_is_shown() -> None:
    shown = {command.split()[1] for command in commands_in(README) if command.startswith("fprobe-gdb ")}
    assert shown >= set(cli.commands)


def test_options_in_running_text_exist() -> None:
    known = {name for command in cli.commands.values() for option in command.params for name in option.opts} | {
        "--help"
    }
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    named = {span.split()[0] for span in re.findall(r"`(--?[a-z][^`]*)`", prose)}
    assert named
    assert named <= known


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(document: Path) -> None:
    text = document.read_text("utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (document.parent / path).resolve() if path else document
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text("utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in headings}, target


def test_make_targets_exist_and_say_what_they_do() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):.*  ## \S", makefile, re.MULTILINE))
    assert {"help", "deps", "run-emu", "test", "check", "bench", "clean"} <= targets
    for document in DOCUMENTS:
        text = document.read_text("utf-8")
        named = re.findall(r"(?:^|`)make ([a-z][a-z-]*)", text, re.MULTILINE)
        assert set(named) <= targets, document
    assert "make test" in README
    assert "make test" in (ROOT / ".ci" / "run").read_text("utf-8")


def test_differences_from_the_kernel_are_listed() -> None:
    """As many items for a file as it has marks: a new mark needs a line, a line that is over must go."""
    section = README.partition("## Differences from the kernel's fprobe")[2].partition("\n## ")[0]
    listed = Counter(re.findall(r"^- \[[^]]*\]\(([^)]+)\)", section, re.MULTILINE))
    marked = Counter(
        str(path.relative_to(ROOT))
        for package in ("fprobe_gdb", "emu", "images")
        for path in (ROOT / package).rglob("*.py")
        for _ in re.finditer(r"\bDIFFERS:", path.read_text("utf-8"))
    )
    assert listed == marked
    assert marked


def test_exit_codes_are_the_real_ones() -> None:
    (sentence,) = re.findall(r"^Exit codes: (.*?)\.$", README, re.MULTILINE | re.DOTALL)
    assert {int(number) for number in re.findall(r"\b(\d+) [a-zA-Z]", sentence)} == {int(code) for code in ExitCode}


def test_json_line_has_the_fields_that_are_written() -> None:
    (block,) = re.findall(r"```json\n(.*?)\n```", README, re.DOTALL)
    stream = StringIO()
    JsonlSink(stream).write(ExitEvent("f", 1, 2, 0, 3, 4, retval=5, duration_ns=6, caller="g+0x1", depth=0))
    written = list(json.loads(stream.getvalue()))
    shown = list(json.loads(block))
    # Fields may be added; those that are shown exist, in this order.
    assert shown == [name for name in written if name in shown]
    assert "jsonl" in FORMATS


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_short_and_shows_its_command(path: Path) -> None:
    source = path.read_text("utf-8")
    tree = ast.parse(source)
    assert len(source.splitlines()) < (SHORTEST_LINES if path.name == SHORTEST else EXAMPLE_LINES)
    assert f"fprobe-gdb run examples/{path.name}" in (ast.get_docstring(tree) or "")
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    names = {
        name.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for name in node.targets
        if isinstance(name, ast.Name)
    }
    assert "probe" in functions
    assert "COMMAND" in names
    assert f"](examples/{path.name})" in README


def test_python_in_the_readme_is_python() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        ast.parse(block)
