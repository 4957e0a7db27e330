"""Kernels and emulators by catalog name: resolved, fetched once, kept by version.

Layout of the cache folder::

    apt/SUITE/            an apt root of our own per set of suites, with its lock
    fetched/PACKAGE_VERSION/   unpacked packages; complete by being there
    resolved/NAME.json    which packages a name meant, and until when that is trusted
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from emu.deadline import Deadline
from images.apt import AptRoot, Candidate
from images.cache import cache_dir, locked, put_file, workshop
from images.catalog import load
from images.errors import AptFailed, BadPackage, FetchTimeout
from images.progress import Progress, Report, silent

__all__ = ["EmulatorFiles", "KernelFiles", "emulator", "kernel"]

_log = logging.getLogger(__name__)
_log.addHandler(logging.NullHandler())

#: How long a resolved version is trusted before the archive is asked again.
TRUST_SEC = 24 * 3600
# After a failed attempt (no network) do not make every run wait for the same time-outs.
_TRUST_OFFLINE_SEC = 600
_DEFAULT_DEADLINE_SEC = 900


@dataclass(frozen=True)
class KernelFiles:
    """A kernel of the catalog, on this machine.

    :param name: its catalog name, e.g. ``6.1``.
    :param package: e.g. ``linux-image-6.1.0-56-cloud-amd64``.
    :param version: the Debian version, e.g. ``6.1.192-2``.
    :param release: what ``uname -r`` says in the guest, e.g. ``6.1.0-56-cloud-amd64``.
    :param modules: the folder ``lib/modules/RELEASE``.
    :param system_map: None when the package has none, or (Debian's since 5.0) only a stub that says where it went.
    """

    name: str
    package: str
    version: str
    release: str
    vmlinuz: Path
    config: Path
    modules: Path
    system_map: Path | None


@dataclass(frozen=True)
class EmulatorFiles:
    """A QEMU of the catalog, runnable from where it is.

    :param binary: the program.
    :param data_dirs: to be given with ``-L``, in this order.
    :param version: the Debian version.
    """

    name: str
    binary: Path
    data_dirs: tuple[Path, ...]
    version: str


@dataclass(frozen=True)
class _Resolved:
    packages: tuple[Candidate, ...]
    trusted_until_sec: float
    checked_at_sec: float

    @property
    def tree(self) -> Path:
        first = self.packages[0]
        # A colon (epoch) would be read as a separator in search paths.
        return cache_dir() / "fetched" / f"{first.package}_{first.version}".replace(":", "%3a")

    @property
    def trusted(self) -> bool:
        # A clock that was set back makes a check lie in the future: ask again.
        return self.checked_at_sec <= time.time() < self.trusted_until_sec


def kernel(
    name: str | None = None, *, progress: Report | None = None, refresh: bool = False, deadline: Deadline | None = None
) -> KernelFiles:
    """A catalog kernel, fetched when it is not in the cache (27 to 34 MB, and the suite's index).
    May take minutes the first time.

    Without the network the version in the cache is used; a notice says so.

    :param name: catalog name; None is the default kernel.
    :param progress: is told what goes on.
    :param refresh: ask the archive for the newest version even if that was done within a day.
    :param deadline: limit for everything, 15 minutes by default.
    :raise UnknownName: not in the catalog.
    :raise FetchError: not in the cache and not to be had.
    """
    entry = load().kernel(name)

    def resolve(root: AptRoot, limit: Deadline) -> list[Candidate]:
        meta = root.candidate(entry.meta, limit)
        match = re.search(r"\blinux-image-\d[^\s,|]*", meta.depends)
        if match is None:
            raise BadPackage(entry.meta, f"depends on no kernel package, but on {meta.depends!r}")
        image = root.candidate(match[0], limit)
        # Since 7.3 or so the image package is empty, and what was in it is in packages of their own.
        parts = re.findall(r"\blinux-(?:binary|modules|base)-\d[^\s,|]*", image.depends)
        return [image, *(root.candidate(part, limit) for part in parts)]

    found = _fetch(f"kernel-{entry.name}", entry.suites, resolve, progress or silent, refresh, deadline)
    package = found.packages[0]
    release = package.package.removeprefix("linux-image-")
    modules = _there(_modules(found.tree, release), package.package)

    def file(name: str) -> Path:
        beside_modules = modules / name
        return beside_modules if beside_modules.exists() else found.tree / "boot" / f"{name}-{release}"

    system_map = file("System.map")
    return KernelFiles(
        name=entry.name,
        package=package.package,
        version=package.version,
        release=release,
        vmlinuz=_there(file("vmlinuz"), package.package),
        config=_there(file("config"), package.package),
        modules=modules,
        # Debian's is a line of text that names the debug package; a real one has megabytes.
        system_map=system_map if system_map.is_file() and system_map.stat().st_size > 4096 else None,
    )


def emulator(
    name: str, *, progress: Report | None = None, refresh: bool = False, deadline: Deadline | None = None
) -> EmulatorFiles:
    """A catalog emulator, fetched when it is not in the cache (13 MB, and the suite's index).

    Parameters as for :func:`kernel`.

    :raise UnknownName: not in the catalog.
    :raise FetchError: not in the cache and not to be had.
    :raise BadPackage: it does not run here, mostly for want of a shared library.
    """
    entry = load().emulator(name)

    def resolve(root: AptRoot, limit: Deadline) -> list[Candidate]:
        return [root.candidate(package, limit) for package in entry.packages]

    found = _fetch(f"emulator-{entry.name}", entry.suites, resolve, progress or silent, refresh, deadline)
    package = found.packages[0]
    binary = _there(found.tree / entry.binary, package.package)
    _must_run(binary, package.package)
    # seabios is a package of its own that the machine's QEMU brings.
    firmware = [path for path in (Path("/usr/share/seabios"),) if path.is_dir()]
    data = [_there(found.tree / part, package.package) for part in entry.data]
    return EmulatorFiles(entry.name, binary, (*firmware, *data), package.version)


# Its shared libraries come from this machine: an installed QEMU of any version has brought most of them.
def _must_run(binary: Path, package: str) -> None:
    try:
        run = subprocess.run(
            [binary, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )
        why = "" if run.returncode == 0 else (run.stderr.strip() or "no message").splitlines()[-1]
    except (OSError, subprocess.TimeoutExpired) as error:
        why = str(error)
    if why:
        raise BadPackage(package, f"does not run here ({why}); installing qemu-system-x86 brings its libraries")


# The packages of a catalog name, unpacked: from the cache, or fetched now.
def _fetch(
    key: str,
    suites: Sequence[str],
    resolve: Callable[[AptRoot, Deadline], list[Candidate]],
    report: Report,
    refresh: bool,
    deadline: Deadline | None,
) -> _Resolved:
    known = _read_record(key)
    if known and known.tree.is_dir() and known.trusted and not refresh:
        return known
    limit = deadline or Deadline(_DEFAULT_DEADLINE_SEC)
    root = AptRoot(cache_dir() / "apt" / suites[0], suites)
    asked_at_sec = time.time()
    with locked(root.folder, limit):
        # Somebody may have fetched it while we waited for the lock.
        fresh = _read_record(key)
        if fresh and fresh.tree.is_dir() and fresh.trusted and (not refresh or fresh.checked_at_sec > asked_at_sec):
            return fresh
        try:
            return _fetch_now(key, root, resolve, report, limit)
        except (AptFailed, FetchTimeout) as error:
            if fresh is None or not fresh.tree.is_dir():
                raise
            package = fresh.packages[0]
            message = f"cannot reach the Debian archive; using {package.package} {package.version} from the cache"
            _log.warning("%s (%s)", message, error)
            report(Progress(message, notice=True))
            return _write_record(key, fresh.packages, _TRUST_OFFLINE_SEC)


def _fetch_now(
    key: str,
    root: AptRoot,
    resolve: Callable[[AptRoot, Deadline], list[Candidate]],
    report: Report,
    limit: Deadline,
) -> _Resolved:
    def step(text: str) -> Callable[[float], None]:
        report(Progress(text))
        return lambda fraction: report(Progress(text, fraction))

    root.update(limit, step(f"reading the index of {root.suites[0]}"))
    packages = tuple(resolve(root, limit))
    found = _Resolved(packages, 0, 0)
    if not found.tree.is_dir():
        found.tree.parent.mkdir(parents=True, exist_ok=True)
        with workshop(root.folder) as work:
            root.unpack(packages, work, limit, step(f"fetching {packages[0].package}"))
            os.chmod(work, 0o755)
            os.rename(work, found.tree)
    return _write_record(key, packages, TRUST_SEC)


def _record_path(key: str) -> Path:
    return cache_dir() / "resolved" / f"{key}.json"


def _read_record(key: str) -> _Resolved | None:
    try:
        data = json.loads(_record_path(key).read_bytes())
        packages = tuple(Candidate(**row) for row in data["packages"])
        return (
            _Resolved(packages, float(data["trusted_until_sec"]), float(data["checked_at_sec"])) if packages else None
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        # A damaged record only costs another question to the archive.
        _log.warning("ignoring the damaged record %s: %s", _record_path(key), error)
        return None


def _write_record(key: str, packages: tuple[Candidate, ...], trust_sec: float) -> _Resolved:
    now_sec = time.time()
    found = _Resolved(packages, now_sec + trust_sec, now_sec)
    put_file(_record_path(key), json.dumps(asdict(found), indent=1).encode())
    return found


# Debian moved /lib into /usr; newer packages ship the files there.
def _modules(tree: Path, release: str) -> Path:
    plain = tree / "lib" / "modules" / release
    return plain if plain.is_dir() else tree / "usr" / "lib" / "modules" / release


def _there(path: Path, package: str) -> Path:
    if not path.exists():
        raise BadPackage(package, f"has no {path.name} where Debian's packages have it")
    return path
