"""Imports point down only, and what comes from outside comes in through one door. Read from the source with ast.

The layers, top first; a module imports its own layer and lower ones. README.md draws the same picture.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("fprobe_gdb", "emu", "images")

LAYERS = (
    {"cli", "__main__"},
    {"", "session"},  # "" is fprobe_gdb/__init__.py, which only passes on what users import
    {"output"},
    {"dispatch", "expr"},
    {"probe_events"},
    {"probe"},
    {"kernel"},
    {"target"},
    {"transport"},
    {"errors", "events", "registers", "error_names"},
)
# Lower layers that are none of a layer's business all the same.
FORBIDDEN = {
    "output": {"dispatch", "expr", "probe", "kernel", "target", "transport"},  # it sees events only
    "expr": {"dispatch", "target", "transport"},  # pure
    "dispatch": {"expr"},
    "probe_events": {"target", "transport"},  # reads through what it is given
    "probe": {"kernel", "target", "transport"},  # pure
    "kernel": {"target", "transport"},
    "cli": {"transport", "probe.core"},
}
# What the engine may know of emu: deadlines, and that a child process must not outlive us.
ENGINE = (
    "dispatch",
    "expr",
    "probe",
    "kernel",
    "target",
    "transport",
    "output",
    "errors",
    "events",
    "registers",
    "error_names",
)
EMU_FOR_ENGINE = {"dispatch": {"emu.deadline"}, "target": {"emu.deadline"}, "kernel": {"emu.deadline"},
                  "transport": {"emu.deadline", "emu.pdeathsig"}}  # fmt: skip
# Libraries that one place of ours wraps.
DOORS = {
    "capstone": {"fprobe_gdb/kernel/sites.py", "fprobe_gdb/kernel/displace.py"},
    "drgn": {f"fprobe_gdb/kernel/drgn/{name}.py" for name in ("types", "objects", "symbols", "program")},
    "pygdbmi": {"fprobe_gdb/transport/mi.py", "fprobe_gdb/transport/mi_session.py"},
    "pexpect": {"emu/console.py"},
    "qemu.qmp": {"emu/qmp.py"},
}
# The command lines wire everything together; `python -m emu` boots what images has fetched.
FRONT_ENDS = {"emu/__main__.py"}

Import = tuple[str, str]


def imports_of(source: str) -> set[str]:
    """Absolute names of the modules that a source file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which layer they reach"
            assert node.module is not None
            # `from fprobe_gdb import errors` imports a module, `from fprobe_gdb.errors import X` a name.
            found |= {f"{node.module}.{alias.name}" for alias in node.names if node.module in PACKAGES} or {node.module}
    return found


def all_imports() -> list[Import]:
    files = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return [(str(path.relative_to(ROOT)), name) for path in files for name in imports_of(path.read_text("utf-8"))]


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    return all_imports()


def layer(module: str) -> str:
    """``fprobe_gdb/probe/core.py`` and ``fprobe_gdb.probe.core`` are of the layer ``probe``."""
    parts = module.removesuffix(".py").replace("/", ".").split(".")[1:]
    name = parts[0] if parts else ""
    known = {name for level in LAYERS for name in level}
    return name if name in known else ""


def height(name: str) -> int:
    return next(i for i, level in enumerate(LAYERS[::-1]) if name in level)


def upward(imports: list[Import]) -> list[Import]:
    return [
        (path, name)
        for path, name in imports
        if path.startswith("fprobe_gdb/")
        and name.startswith("fprobe_gdb")
        and not path.endswith("cli/__init__.py")
        and height(layer(name)) > height(layer(path))
    ]


def test_every_folder_has_a_layer() -> None:
    folders = {path.parent.name for path in (ROOT / "fprobe_gdb").glob("*/__init__.py")}
    modules = {path.stem for path in (ROOT / "fprobe_gdb").glob("*.py")} - {"__init__"}
    assert folders | modules == {name for level in LAYERS for name in level} - {""}


def test_imports_point_down(imports: list[Import]) -> None:
    assert not upward(imports)


def test_the_check_sees_an_upward_import() -> None:
    wrong = [("fprobe_gdb/probe/core.py", "fprobe_gdb.dispatch.breakpoint"), ("fprobe_gdb/errors.py", "fprobe_gdb")]
    assert upward(wrong) == wrong
    assert imports_of("def f():\n    import a.b\n    from fprobe_gdb import errors") == {"a.b", "fprobe_gdb.errors"}


def test_what_a_layer_must_not_know(imports: list[Import]) -> None:
    for upper, unknown in FORBIDDEN.items():
        seen = [
            (path, name)
            for path, name in imports
            if path.startswith(f"fprobe_gdb/{upper}/")
            and any(name == f"fprobe_gdb.{it}" or name.startswith(f"fprobe_gdb.{it}.") for it in unknown)
        ]
        assert not seen


def test_emu_and_images_know_nothing_of_probes(imports: list[Import]) -> None:
    assert not [(path, name) for path, name in imports if path.startswith(("emu/", "images/")) and "fprobe_gdb" in name]


def test_emu_and_images_are_useful_alone(imports: list[Import]) -> None:
    assert not [
        (path, name)
        for path, name in imports
        if path.startswith("emu/") and name.split(".")[0] == "images" and path not in FRONT_ENDS
    ]
    assert {name for path, name in imports if path.startswith("images/") and name.split(".")[0] == "emu"} <= {
        "emu.deadline"
    }


def test_the_engine_can_do_without_qemu(imports: list[Import]) -> None:
    for name in ENGINE:
        used = {
            module
            for path, module in imports
            if path.startswith((f"fprobe_gdb/{name}/", f"fprobe_gdb/{name}.py"))
            and module.split(".")[0] in ("emu", "images")
        }
        assert used <= EMU_FOR_ENGINE.get(name, set()), name


@pytest.mark.parametrize(("library", "doors"), DOORS.items(), ids=DOORS)
def test_one_door_for_each_library(imports: list[Import], library: str, doors: set[str]) -> None:
    users = {path for path, name in imports if name == library or name.startswith(library + ".")}
    assert users, f"nothing uses {library} any more: drop it from pyproject.toml"
    assert users <= doors
