"""The catalog: which kernels and emulators we know by name, and where the Debian archive keeps them.

The data is in ``catalog.toml``; this module reads it and knows nothing of apt or the network.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any

from images.errors import UnknownName

__all__ = ["Catalog", "EmulatorEntry", "KernelEntry", "load", "parse"]


@dataclass(frozen=True)
class KernelEntry:
    """A kernel of the Debian archive.

    :param name: what users call it, e.g. ``6.1``.
    :param suites: Debian suites to read; the newest version in any of them wins.
    :param meta: the package that depends on the newest real kernel package.
    """

    name: str
    suites: tuple[str, ...]
    meta: str
    good_for: str
    default: bool = False


@dataclass(frozen=True)
class EmulatorEntry:
    """A QEMU of the Debian archive, run from where it is unpacked.

    :param packages: all are unpacked into one tree; the first one's version names it.
    :param binary: the program, relative to that tree.
    :param data: firmware and keymaps, relative to that tree.
    """

    name: str
    suites: tuple[str, ...]
    packages: tuple[str, ...]
    binary: str
    data: tuple[str, ...]
    good_for: str


@dataclass(frozen=True)
class Catalog:
    """All entries, in the order of the file."""

    kernels: tuple[KernelEntry, ...]
    emulators: tuple[EmulatorEntry, ...]

    @property
    def default_kernel(self) -> KernelEntry:
        """The kernel that is meant when none is named."""
        return next(entry for entry in self.kernels if entry.default)

    def kernel(self, name: str | None = None) -> KernelEntry:
        """The kernel of this name, or the default one.

        :raise UnknownName: when the catalog has none of this name.
        """
        if name is None:
            return self.default_kernel
        for entry in self.kernels:
            if entry.name == name:
                return entry
        raise UnknownName("kernel", name, [entry.name for entry in self.kernels])

    def emulator(self, name: str) -> EmulatorEntry:
        """The emulator of this name.

        :raise UnknownName: when the catalog has none of this name.
        """
        for entry in self.emulators:
            if entry.name == name:
                return entry
        raise UnknownName("emulator", name, [entry.name for entry in self.emulators])


def load() -> Catalog:
    """Read the catalog that comes with this package."""
    return parse(resources.files("images").joinpath("catalog.toml").read_text(encoding="utf-8"))


def parse(text: str) -> Catalog:
    """Make a catalog from the text of such a file.

    :raise ValueError: not exactly one default kernel (the file is ours: a bug, not a user's mistake).
    """
    data = tomllib.loads(text)
    catalog = Catalog(
        kernels=tuple(KernelEntry(name=name, **_tuples(row)) for name, row in data.get("kernels", {}).items()),
        emulators=tuple(EmulatorEntry(name=name, **_tuples(row)) for name, row in data.get("emulators", {}).items()),
    )
    if sum(entry.default for entry in catalog.kernels) != 1:
        raise ValueError("the catalog must have exactly one default kernel")
    return catalog


# TOML arrays become tuples, so that the entries are frozen through and through.
def _tuples(row: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
