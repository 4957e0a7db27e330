"""Modules for a guest: found by name, unpacked, with what they need, and a modules.dep that modprobe understands."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from images.errors import BadPackage, UnknownName
from images.fetch import KernelFiles
from images.modules import module_bytes, module_files
from tests.unit.kernel.made_up_image import Part, elf


def ko(*depends: str) -> bytes:
    return elf([Part(".modinfo", 0, b"license=GPL\0depends=" + ",".join(depends).encode() + b"\0", 0)])


@pytest.fixture
def kernel(tmp_path: Path) -> KernelFiles:
    for name, data in {
        "net/dummy.ko": ko(),
        "net/snd-fancy.ko.xz": lzma.compress(ko("snd-core", "common")),
        "snd-core.ko": ko("common"),
        "common.ko": ko(),
        "broken.ko.xz": b"no xz",
        "text.ko": b"no ELF",
    }.items():
        path = tmp_path / "kernel" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return KernelFiles("6.1", "linux-image", "6.1-1", "6.1-amd64", tmp_path, tmp_path, tmp_path, None)


def test_one_module(kernel: KernelFiles) -> None:
    assert module_files(kernel, ["dummy"]) == {
        "lib/modules/6.1-amd64/dummy.ko": ko(),
        "lib/modules/6.1-amd64/modules.dep": b"dummy.ko:\n",
    }


def test_what_it_needs_comes_along_each_once_and_in_the_order_of_modules_dep(kernel: KernelFiles) -> None:
    files = module_files(kernel, ["snd_fancy", "common"])
    assert set(files) == {
        f"lib/modules/6.1-amd64/{name}" for name in ("snd_fancy.ko", "snd_core.ko", "common.ko", "modules.dep")
    }
    assert files["lib/modules/6.1-amd64/snd_fancy.ko"] == ko("snd-core", "common")
    assert files["lib/modules/6.1-amd64/modules.dep"].decode().splitlines() == [
        "common.ko:",
        "snd_core.ko: common.ko",
        "snd_fancy.ko: snd_core.ko common.ko",
    ]


def test_no_modules_no_files(kernel: KernelFiles) -> None:
    assert module_files(kernel, []) == {}


def test_an_unknown_module_and_what_is_near(kernel: KernelFiles) -> None:
    with pytest.raises(UnknownName, match=r"no module of kernel 6.1 'dumm' .*dummy"):
        module_files(kernel, ["dumm"])


@pytest.mark.parametrize(("name", "why"), [("broken", "cannot be read"), ("text", "no ELF file")])
def test_damaged_files(kernel: KernelFiles, name: str, why: str) -> None:
    with pytest.raises(BadPackage, match=why):
        module_files(kernel, [name])


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(BadPackage, match="cannot be read"):
        module_bytes(tmp_path / "gone.ko")
