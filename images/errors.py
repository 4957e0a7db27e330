"""Every error that the images package raises.

::

    ImagesError
    ├── UnknownName            not in the catalog; has .name and .known
    ├── MissingProgram         a program or file that a Debian package brings; has .program and .package
    ├── FetchError
    │   ├── AptFailed          apt-get or dpkg-deb gave up; has .argv, .exit_code and .output_tail
    │   ├── PackageNotFound    the archive has no such package; has .package
    │   ├── FetchTimeout       has .waiting_for and .waited_sec
    │   └── BadPackage         the package came, but what we need is not in it; has .package and .why
    └── BuildError
        ├── BadGuestFile       a file that cannot go into the initramfs; has .guest_path and .why
        ├── NotStatic          a program needs shared libraries, which the guest has not; has .path
        └── CompileFailed      gcc refused; has .argv and .output_tail

``str(error)`` says what happened, to what, and what to try.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

__all__ = [
    "AptFailed",
    "BadGuestFile",
    "BadPackage",
    "BuildError",
    "CompileFailed",
    "FetchError",
    "FetchTimeout",
    "ImagesError",
    "MissingProgram",
    "NotStatic",
    "PackageNotFound",
    "UnknownName",
]


class ImagesError(Exception):
    """Root of all errors of the images package."""


class UnknownName(ImagesError):
    """The catalog has no entry of this name."""

    def __init__(self, kind: str, name: str, known: Sequence[str]) -> None:
        super().__init__(f"no {kind} {name!r} in the catalog; it has {', '.join(known)}")
        self.kind = kind
        self.name = name
        self.known = tuple(known)


class MissingProgram(ImagesError):
    """Something that a Debian package brings is not on this machine."""

    def __init__(self, program: str, package: str, needed_for: str) -> None:
        super().__init__(f"{program} is missing, needed {needed_for}; try: apt-get install {package}")
        self.program = program
        self.package = package


class FetchError(ImagesError):
    """Something could not be had from the Debian archive."""


class AptFailed(FetchError):
    """apt or dpkg-deb ended with an error."""

    def __init__(self, argv: Sequence[str], exit_code: int, output_tail: Sequence[str]) -> None:
        tail = "".join(f"\n  | {line}" for line in output_tail)
        super().__init__(
            f"{shlex.join(argv)} ended with {exit_code}; is the network up and the mirror right? It said:"
            f"{tail or ' (nothing)'}"
        )
        self.argv = tuple(argv)
        self.exit_code = exit_code
        self.output_tail = tuple(output_tail)


class PackageNotFound(FetchError):
    """The archive does not have the package."""

    def __init__(self, package: str, suites: Sequence[str]) -> None:
        super().__init__(f"{', '.join(suites)} has no package {package!r}; is the mirror complete? Try a refresh")
        self.package = package


class FetchTimeout(FetchError):
    """The download, or another process that fetches the same, took too long."""

    def __init__(self, waiting_for: str, waited_sec: float) -> None:
        super().__init__(
            f"waited {waited_sec:g} s for {waiting_for}; try again with more time, or stop the other process"
        )
        self.waiting_for = waiting_for
        self.waited_sec = waited_sec


class BadPackage(FetchError):
    """The package was fetched and verified, but does not hold what we need, or does not run here."""

    def __init__(self, package: str, why: str) -> None:
        super().__init__(f"{package}: {why}")
        self.package = package
        self.why = why


class BuildError(ImagesError):
    """An initramfs or the workload could not be built."""


class BadGuestFile(BuildError):
    """A file that cannot go into the initramfs."""

    def __init__(self, guest_path: str, why: str) -> None:
        super().__init__(f"cannot put {guest_path!r} into the initramfs: {why}")
        self.guest_path = guest_path
        self.why = why


class NotStatic(BuildError):
    """A program needs shared libraries; the guest has none."""

    def __init__(self, path: str, package: str) -> None:
        super().__init__(f"{path} is not a static x86_64 program, and the guest has no libraries; try: {package}")
        self.path = path


class CompileFailed(BuildError):
    """The compiler refused."""

    def __init__(self, argv: Sequence[str], output_tail: Sequence[str]) -> None:
        tail = "".join(f"\n  | {line}" for line in output_tail)
        super().__init__(f"{shlex.join(argv)} failed; is libc6-dev installed? It said:{tail or ' (nothing)'}")
        self.argv = tuple(argv)
        self.output_tail = tuple(output_tail)
