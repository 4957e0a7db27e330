"""When the archive is asked, and what happens when it does not answer: with an apt root that only pretends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import images
from emu.deadline import Deadline
from images import fetch
from images.apt import Candidate
from images.errors import AptFailed, BadPackage, PackageNotFound
from images.progress import Progress

RELEASE = "6.1.0-9-cloud-amd64"


class PretendedArchive:
    """Stands in for ``AptRoot``; every instance shares what the test sets on the class."""

    def __init__(self) -> None:
        self.version = "6.1.9-1"
        self.online = True
        self.holds_kernel = True
        self.is_split = False
        self.packages: list[str] = []
        self.asked = 0
        self.unpacked: list[str] = []

    def __call__(self, folder: Path, suites: Sequence[str]) -> PretendedArchive:
        self.folder, self.suites = folder, tuple(suites)
        return self

    def update(self, deadline: Deadline, on_fraction: Callable[[float], None]) -> None:
        self.asked += 1
        if not self.online:
            raise AptFailed(["apt-get", "update"], 100, ["no route to host"])
        on_fraction(1.0)

    def candidate(self, package: str, deadline: Deadline) -> Candidate:
        depends = f"linux-image-{RELEASE} (= {self.version})" if package == "linux-image-cloud-amd64" else "kmod"
        if self.is_split and package == f"linux-image-{RELEASE}":
            depends = f"dracut | initramfs-tools, linux-binary-{RELEASE} (= 1), linux-modules-{RELEASE} (= 1)"
        return Candidate(package, self.version, depends)

    def unpack(
        self, packages: Sequence[Candidate], into: Path, deadline: Deadline, on_fraction: Callable[[float], None]
    ) -> None:
        self.packages = [one.package for one in packages]
        if self.is_split:
            folder = into / "usr/lib/modules" / RELEASE
            folder.mkdir(parents=True)
            for name in ("vmlinuz", "config", "System.map"):
                (folder / name).write_text("")
            return
        (into / "boot").mkdir()
        (into / "lib/modules" / RELEASE).mkdir(parents=True)
        (into / "boot" / f"System.map-{RELEASE}").write_text("see the debug package\n")
        (into / "boot" / f"config-{RELEASE}").write_text("")
        if self.holds_kernel:
            (into / "boot" / f"vmlinuz-{RELEASE}").write_text("")
        if not self.online:
            raise KeyboardInterrupt
        self.unpacked.append(packages[0].version)


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> PretendedArchive:
    pretended = PretendedArchive()
    monkeypatch.setenv("FPROBE_GDB_CACHE", str(tmp_path))
    monkeypatch.setattr(fetch, "AptRoot", pretended)
    monkeypatch.setattr(fetch.time, "time", lambda: pretended_now_sec[0])
    pretended_now_sec[0] = 1e9
    return pretended


pretended_now_sec = [0.0]


def test_fetched_once_trusted_for_a_day_then_asked_again(archive: PretendedArchive) -> None:
    steps: list[Progress] = []
    files = images.kernel(progress=steps.append)
    assert (files.name, files.release, files.version) == ("6.1", RELEASE, "6.1.9-1")
    assert files.vmlinuz.is_file()
    assert files.modules.is_dir()
    assert files.system_map is None
    assert [step.text.split()[0] for step in steps if step.fraction is None] == ["reading", "fetching"]
    pretended_now_sec[0] += fetch.TRUST_SEC - 1
    assert images.kernel() == files
    assert archive.asked == 1
    pretended_now_sec[0] += 2
    assert images.kernel() == files
    assert (archive.asked, archive.unpacked) == (2, ["6.1.9-1"])


def test_a_kernel_in_several_packages_without_boot_folder(archive: PretendedArchive) -> None:
    archive.is_split = True
    files = images.kernel()
    assert archive.packages == [f"linux-{part}-{RELEASE}" for part in ("image", "binary", "modules")]
    assert files.package == f"linux-image-{RELEASE}"
    assert files.vmlinuz == files.modules / "vmlinuz"
    assert files.config == files.modules / "config"
    assert files.system_map is None


def test_a_clock_that_was_set_back_asks_again(archive: PretendedArchive) -> None:
    images.kernel()
    pretended_now_sec[0] -= 10
    images.kernel()
    assert archive.asked == 2


def test_refresh_brings_a_newer_version_and_keeps_the_old(archive: PretendedArchive, tmp_path: Path) -> None:
    old = images.kernel()
    archive.version = "6.1.10-1"
    assert images.kernel().version == "6.1.9-1"
    assert images.kernel(refresh=True).version == "6.1.10-1"
    assert old.vmlinuz.is_file()
    assert not list(tmp_path.rglob("tmp-*"))


def test_without_network_the_cache_serves_says_so_and_is_not_slow_again(archive: PretendedArchive) -> None:
    files = images.kernel()
    archive.online = False
    pretended_now_sec[0] += fetch.TRUST_SEC + 1
    notices: list[Progress] = []
    assert images.kernel(progress=notices.append) == files
    assert "cannot reach" in next(step.text for step in notices if step.notice)
    images.kernel()
    assert archive.asked == 2


def test_without_network_and_cache_the_words_of_apt_are_shown(archive: PretendedArchive) -> None:
    archive.online = False
    with pytest.raises(AptFailed, match="no route to host"):
        images.kernel()


def test_an_interrupted_unpacking_is_not_taken_for_good(archive: PretendedArchive, tmp_path: Path) -> None:
    archive.update = lambda deadline, on_fraction: None  # type: ignore[method-assign]
    archive.online = False
    with pytest.raises(KeyboardInterrupt):
        images.kernel()
    assert not list((tmp_path / "fetched").iterdir())
    archive.online = True
    assert images.kernel().vmlinuz.is_file()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"packages": []}', b'{"packages": [1]}', b"\xff"])
def test_a_damaged_record_only_costs_a_question(archive: PretendedArchive, tmp_path: Path, damage: bytes) -> None:
    files = images.kernel()
    (tmp_path / "resolved" / "kernel-6.1.json").write_bytes(damage)
    assert images.kernel() == files
    assert (archive.asked, len(archive.unpacked)) == (2, 1)


def test_a_package_without_a_kernel_is_refused(archive: PretendedArchive) -> None:
    archive.holds_kernel = False
    with pytest.raises(BadPackage, match=f"vmlinuz-{RELEASE}"):
        images.kernel()


def test_a_meta_package_that_names_no_kernel_is_refused(archive: PretendedArchive) -> None:
    def gone(package: str, deadline: Deadline) -> Candidate:
        if package != "linux-image-cloud-amd64":
            raise PackageNotFound(package, archive.suites)
        return Candidate(package, "1", "linux-headers-cloud-amd64")

    archive.candidate = gone  # type: ignore[method-assign]
    with pytest.raises(BadPackage, match="linux-headers"):
        images.kernel()
