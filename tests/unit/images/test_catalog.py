"""The catalog's file, and look-ups in it."""

from __future__ import annotations

import pytest

from images import catalog
from images.errors import UnknownName


def test_the_catalog_has_what_the_project_needs() -> None:
    book = catalog.load()
    assert book.kernel() == book.kernel("6.1") == book.default_kernel
    assert [entry.name for entry in book.kernels] == ["6.1", "6.12", "5.10", "newest"]
    # Debian's security archive has newer kernels than the suite itself.
    assert book.kernel("6.1").suites == ("bookworm", "bookworm-security")
    assert book.kernel("6.12").suites == ("bookworm-backports",)
    assert book.emulator("qemu-10.0").packages[0] == "qemu-system-x86"
    hash(book)


def test_unknown_names_name_the_known_ones() -> None:
    with pytest.raises(UnknownName, match=r"no kernel '4\.19'.*6\.1, 6\.12") as caught:
        catalog.load().kernel("4.19")
    assert caught.value.known == ("6.1", "6.12", "5.10", "newest")
    with pytest.raises(UnknownName, match=r"no emulator 'bochs'.*qemu-10"):
        catalog.load().emulator("bochs")


@pytest.mark.parametrize("defaults", [0, 2])
def test_there_is_exactly_one_default(defaults: int) -> None:
    rows = "".join(
        f'[kernels.k{i}]\ndefault = {str(i < defaults).lower()}\nsuites = ["s"]\nmeta = "m"\ngood_for = "g"\n'
        for i in range(3)
    )
    with pytest.raises(ValueError, match="exactly one default"):
        catalog.parse(rows)
