"""What goes into the root filesystem, and what is refused. The applets and the programs are made up: nothing runs."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from images import initramfs
from images.cpio import Archive, Entry
from images.errors import BadGuestFile, BuildError, MissingProgram, NotStatic
from images.workload_counts import EXAMPLES, counts


@pytest.fixture
def busybox(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "busybox"
    path.write_bytes(b"program")
    monkeypatch.setattr(initramfs, "_applets", lambda busybox, mtime_ns: ("busybox", "sh", "["))
    monkeypatch.setattr(initramfs, "_static_program", Path.read_bytes)
    return path


def build(monkeypatch: pytest.MonkeyPatch, busybox: Path, **given: object) -> dict[str, Entry]:
    kept: list[Archive] = []
    monkeypatch.setattr(Archive, "to_bytes", lambda self: kept.append(self) or b"")
    initramfs.build(init=b"#!/bin/sh\n", busybox=busybox, workload=False, **given)  # type: ignore[arg-type]
    return dict(kept[0].entries())


def test_what_is_always_in(monkeypatch: pytest.MonkeyPatch, busybox: Path) -> None:
    found = build(monkeypatch, busybox)
    assert {"dev/console", "dev/null", "dev/ttyS0", "dev/ttyS1", "proc", "sys", "tmp", "etc/motd"} <= set(found)
    assert (stat.filemode(found["init"].mode), found["init"].content) == ("-rwxr-xr-x", b"#!/bin/sh\n")
    assert found["bin/busybox"].content == b"program"
    assert [found[f"bin/{name}"].content for name in ("sh", "[")] == [b"busybox"] * 2
    assert stat.S_ISREG(found["bin/busybox"].mode)


def test_users_files_keep_modes_links_and_win(monkeypatch: pytest.MonkeyPatch, busybox: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep" / "tool").write_bytes(b"t")
    (tree / "deep" / "tool").chmod(0o711)
    (tree / "link").symlink_to("deep/tool")
    files = {"/own": tree, "/etc/motd": b"mine", "/run.sh": b"#!/bin/sh", "one": tree / "link"}
    found = build(monkeypatch, busybox, files=files)
    assert stat.filemode(found["own/deep/tool"].mode) == "-rwx--x--x"
    assert (stat.filemode(found["own/link"].mode), found["own/link"].content) == ("lrwxrwxrwx", b"deep/tool")
    # A link that is given by itself means what it points to.
    assert (stat.filemode(found["one"].mode), found["one"].content) == ("-rwx--x--x", b"t")
    assert [stat.filemode(found[name].mode) for name in ("etc/motd", "run.sh")] == ["-rw-r--r--", "-rwxr-xr-x"]
    assert found["etc/motd"].content == b"mine"


def test_host_files_that_cannot_go_in(busybox: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for source, why in {tmp_path / "gone": "No such file", tmp_path / "fifo": "neither a file nor a folder"}.items():
        with pytest.raises(BadGuestFile, match=why):
            initramfs.build(init=b"", busybox=busybox, workload=False, files={"/x": source})
    with pytest.raises(BadGuestFile, match=r"'\.\.'"):
        initramfs.build(init=b"", busybox=busybox, workload=False, files={"/../x": b""})


def test_busybox_missing_not_a_program_or_dynamic(tmp_path: Path) -> None:
    with pytest.raises(MissingProgram, match="apt-get install busybox-static"):
        initramfs.build(init=b"", busybox=tmp_path / "none", workload=False)
    (tmp_path / "text").write_bytes(b"#!/bin/sh\n")
    for path in (tmp_path / "text", Path("/bin/sh")):
        with pytest.raises(NotStatic, match="busybox-static"):
            initramfs.build(init=b"", busybox=path, workload=False)


def test_a_missing_init_is_a_typed_error(monkeypatch: pytest.MonkeyPatch, busybox: Path, tmp_path: Path) -> None:
    monkeypatch.setattr(initramfs.resources, "files", lambda package: tmp_path)
    with pytest.raises(BuildError, match="images/init"):
        initramfs.build(busybox=busybox, workload=False)


def test_workload_counts_know_every_example_and_refuse_others() -> None:
    for command in EXAMPLES:
        for count in counts(command):
            assert 0 <= count.exits <= count.entries
            assert count.entries > 0
    assert counts(["recursive", "4", "2"])[0].entries == 11
    for wrong in (["dance", "1"], ["calls"], ["calls", "1", "2"], ["calls", "x"]):
        with pytest.raises(ValueError, match=r"workload|invalid literal"):
            counts(wrong)
