"""Which Debian mirror this machine uses, read from its own apt sources. Pure but for :func:`read_machine_sources`.

Both forms of sources are read: one-line (``*.list``) and deb822 (``*.sources``), see sources.list(5).
A source counts when it carries ``main`` of a Debian suite, ends in the archive's usual folder name and is not signed by
somebody else's key: third parties call their suites ``bookworm`` too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DEFAULT_MIRROR", "Source", "mirror_for", "parse_deb822", "parse_one_line", "read_machine_sources"]

#: Where to fetch when the machine's sources name no Debian mirror; redirects to a near one.
DEFAULT_MIRROR = "http://deb.debian.org"

_SUITES = re.compile(
    r"^(bookworm|trixie|forky|sid|stable|oldstable|testing|unstable)(-updates|-backports|-security)?/?$"
)


@dataclass(frozen=True)
class Source:
    """One archive of the machine's apt sources."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""


def parse_one_line(text: str) -> Iterator[Source]:
    """Read the one-line form: ``deb [option=value ...] uri suite component...``."""
    for line in text.splitlines():
        match = re.match(r"^\s*deb\s+(?:\[(?P<options>[^\]]*)\]\s*)?(?P<rest>[^#]*)", line)
        words = match["rest"].split() if match else []
        if match and len(words) >= 2:
            options = dict(option.split("=", 1) for option in (match["options"] or "").split() if "=" in option)
            yield Source(words[0], (words[1],), tuple(words[2:]), options.get("signed-by", ""))


def parse_deb822(text: str) -> Iterator[Source]:
    """Read the deb822 form: paragraphs of ``Types:``, ``URIs:``, ``Suites:``, ``Components:``, ``Signed-By:``."""
    without_comments = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for paragraph in re.split(r"\n\s*\n", without_comments):
        # A line that starts with a blank continues the field above.
        unfolded = re.sub(r"\n[ \t]+", " ", paragraph)
        fields = {
            key.strip().lower(): value.strip()
            for key, colon, value in (line.partition(":") for line in unfolded.splitlines())
            if colon
        }
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        suites, components = tuple(fields.get("suites", "").split()), tuple(fields.get("components", "").split())
        for uri in fields.get("uris", "").split():
            yield Source(uri, suites, components, fields.get("signed-by", ""))


def mirror_for(archive: str, sources: Iterable[Source]) -> str:
    """The URI to fetch an archive from.

    :param archive: ``debian`` or ``debian-security``.
    :param sources: the machine's, in its order; the first that fits wins.
    :return: a URI, the default mirror's when no source fits.
    """
    for source in sources:
        uri = source.uri.rstrip("/")
        last = uri.rsplit("/", 1)[-1]
        # A snapshot mirror puts a time behind the archive's name.
        named = last == archive or re.search(rf"/archive/{archive}/\d+T\d+Z$", uri)
        ours = not source.signed_by or "debian-archive" in source.signed_by
        plain = re.match(r"^(https?|tor\+https?|file|copy):", uri)
        if named and ours and plain and "main" in source.components and any(map(_SUITES.match, source.suites)):
            return uri
    return f"{DEFAULT_MIRROR}/{archive}"


def read_machine_sources(etc_apt: Path = Path("/etc/apt")) -> list[Source]:
    """Read the machine's apt sources. What cannot be read is left out: the default mirror serves as well."""
    found: list[Source] = []
    parts = sorted((etc_apt / "sources.list.d").glob("*")) if (etc_apt / "sources.list.d").is_dir() else []
    for path in [etc_apt / "sources.list", *parts]:
        parse = {".list": parse_one_line, ".sources": parse_deb822}.get(path.suffix)
        if parse is None:
            continue
        try:
            found.extend(parse(path.read_text(encoding="utf-8", errors="replace")))
        except OSError:
            continue
    return found
