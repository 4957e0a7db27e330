"""Debian's archive, through apt's own verification, in an apt root of our own.

The machine's sources, lists and dpkg database are neither changed nor needed; its ``apt.conf.d`` and ``auth.conf.d``
still count, since that is where proxies and credentials are. Works as root and as an ordinary user.
Rule 1: nothing is installed; a package is only unpacked, its scripts never run.
Rule 2: the caller holds the lock of the root's folder.
"""

from __future__ import annotations

import os
import re
import selectors
import shutil
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from emu.deadline import Deadline
from images.errors import AptFailed, FetchTimeout, MissingProgram, PackageNotFound
from images.mirror import DEFAULT_MIRROR, mirror_for, read_machine_sources

__all__ = ["KEYRING", "AptRoot", "Candidate"]

#: The keys that sign Debian's archive.
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

_TAIL_LINES = 12

# Read after the machine's own configuration (apt-get -c), so that lists of hooks can be cleared: they would tell the
# desktop about an update of indexes that are not the machine's.
_CONF = """\
Dir::State "{root}/state";
Dir::State::lists "{root}/lists";
Dir::State::status "{root}/status";
Dir::Cache "{root}/cache";
Dir::Etc::sourcelist "{root}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::trustedparts "/dev/null";
#clear APT::Update;
#clear DPkg::Post-Invoke;
#clear DPkg::Pre-Invoke;
#clear APT::Architectures;
#clear Acquire::IndexTargets::deb::DEP-11;
APT::Update::Error-Mode "any";
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Sandbox::User "root";
APT::Install-Recommends "false";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
"""


@dataclass(frozen=True)
class Candidate:
    """The newest version of a package in the root's suites."""

    package: str
    version: str
    depends: str


class AptRoot:
    """An apt root for some suites.

    :param folder: where it keeps its lists; made if need be.
    :param suites: Debian suites, e.g. ``("bookworm", "bookworm-security")``.
    """

    def __init__(self, folder: Path, suites: Sequence[str]) -> None:
        self.folder = folder
        self.suites = tuple(suites)

    def update(self, deadline: Deadline, on_fraction: Callable[[float], None]) -> None:
        """Fetch and verify the suites' indexes (9 MB for bookworm). Falls back to the default mirror.

        :raise AptFailed: no index, or one that is not signed by Debian.
        :raise MissingProgram: no apt or no keyring.
        """
        if not KEYRING.is_file():
            raise MissingProgram(str(KEYRING), "debian-archive-keyring", "to verify what the Debian archive sends")
        sources = read_machine_sources()
        machine = self._source_lines(lambda archive: mirror_for(archive, sources))
        default = self._source_lines(lambda archive: f"{DEFAULT_MIRROR}/{archive}")
        self._configure(machine)
        try:
            self._run(self._apt("apt-get", "update"), deadline, on_fraction)
        except AptFailed:
            if machine == default:
                raise
            self._configure(default)
            self._run(self._apt("apt-get", "update"), deadline, on_fraction)

    def candidate(self, package: str, deadline: Deadline) -> Candidate:
        """The newest version of a package by the indexes at hand; no network.

        :raise PackageNotFound: the suites have none.
        """
        argv = self._apt("apt-cache", "show", "--no-all-versions", package)
        try:
            lines = self._run(argv, deadline)
        except AptFailed as error:
            raise PackageNotFound(package, self.suites) from error
        fields = dict(re.findall(r"^(Package|Version|Depends): *(.*)$", "\n".join(lines), re.MULTILINE))
        if fields.get("Package") != package or "Version" not in fields:
            raise PackageNotFound(package, self.suites)
        return Candidate(package, fields["Version"], fields.get("Depends", ""))

    def unpack(
        self, packages: Sequence[Candidate], into: Path, deadline: Deadline, on_fraction: Callable[[float], None]
    ) -> None:
        """Download, verify and unpack packages into one tree, without installing.

        :param into: an existing folder, a ``tmp-*`` of the caller's; also holds the ``.deb`` files for a while.
        :raise AptFailed: the download or its verification failed.
        """
        debs = into / ".debs"
        debs.mkdir()
        wanted = [f"{one.package}={one.version}" for one in packages]
        self._run(self._apt("apt-get", "download", *wanted), deadline, on_fraction, cwd=debs)
        for deb in sorted(debs.iterdir()):
            self._unpack_one(deb, into, deadline)
        shutil.rmtree(debs)

    # Not dpkg-deb -x: that forks a tar of its own, which outlives us when we are killed. Through this pipe everything
    # ends when we end.
    def _unpack_one(self, deb: Path, into: Path, deadline: Deadline) -> None:
        argv = _found("dpkg-deb", "dpkg", "--fsys-tarfile", str(deb))
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as source:
            assert source.stdout is not None
            try:
                self._run(_found("tar", "tar", "-x", "--no-same-owner", "-C", str(into)), deadline, stdin=source.stdout)
            except BaseException:
                source.kill()
                raise
        if source.returncode != 0:
            raise AptFailed(argv[3:], source.returncode, [])

    def _apt(self, program: str, *words: str) -> list[str]:
        status = ["-o", "APT::Status-Fd=1"] if program == "apt-get" else []
        return _found(program, "apt", "-c", str(self.folder / "apt.conf"), "-q", *status, *words)

    def _source_lines(self, mirror: Callable[[str], str]) -> str:
        lines = []
        for suite in self.suites:
            uri = mirror("debian-security" if suite.endswith("-security") else "debian")
            lines.append(f"deb [arch=amd64 signed-by={KEYRING}] {uri} {suite} main\n")
        return "".join(lines)

    def _configure(self, source_lines: str) -> None:
        for part in ("state", "lists/partial", "cache/archives/partial"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        (self.folder / "status").write_bytes(b"")
        (self.folder / "sources.list").write_text(source_lines, encoding="utf-8")
        (self.folder / "apt.conf").write_text(_CONF.format(root=self.folder), encoding="utf-8")

    def _run(
        self,
        argv: list[str],
        deadline: Deadline,
        on_fraction: Callable[[float], None] | None = None,
        cwd: Path | None = None,
        stdin: IO[bytes] | int = subprocess.DEVNULL,
    ) -> list[str]:
        lines: list[str] = []
        process = subprocess.Popen(
            argv,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd or self.folder,
            env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
        )
        with process:
            try:
                for line in _lines(process, deadline, " ".join(argv[-3:])):
                    # apt's README.progress-reporting: dlstatus:item:percent:text
                    if match := re.match(r"dlstatus:\d+:([\d.]+):", line):
                        if on_fraction:
                            on_fraction(min(1.0, float(match[1]) / 100))
                    else:
                        lines.append(line)
            except BaseException:
                process.kill()
                raise
        if process.returncode != 0:
            raise AptFailed(argv[3:], process.returncode, deque((line for line in lines if line.strip()), _TAIL_LINES))
        return lines


# The program with its arguments, made to die with us: apt must not go on writing where a later fetch tidies up.
def _found(program: str, package: str, *words: str) -> list[str]:
    for name, brought_by in ((program, package), ("setpriv", "util-linux")):
        if shutil.which(name) is None:
            raise MissingProgram(name, brought_by, "to fetch from the Debian archive")
    return ["setpriv", "--pdeathsig", "KILL", program, *words]


# The lines that a process writes, until it closes its output.
def _lines(process: subprocess.Popen[bytes], deadline: Deadline, what: str) -> Iterator[str]:
    assert process.stdout is not None
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(deadline.timeout_sec()):
                raise FetchTimeout(what, deadline.seconds)
            chunk = os.read(process.stdout.fileno(), 1 << 16)
            *whole, rest = (rest + chunk).split(b"\n")
            yield from (line.decode(errors="replace") for line in whole)
            if not chunk:
                yield rest.decode(errors="replace")
                return
