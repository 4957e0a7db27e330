"""Which mirror is found in what apt sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from images.mirror import Source, mirror_for, parse_deb822, parse_one_line, read_machine_sources

DEB822 = """\
Types: deb deb-src
# a comment in between
URIs: http://near.example/debian/
 http://far.example/debian
Suites: bookworm bookworm-updates
Components: main
 contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb-src
URIs: http://source.example/debian
Suites: bookworm
Components: main
"""


def test_deb822_folding_comments_and_disabled_paragraphs() -> None:
    near, far = parse_deb822(DEB822)
    assert near == Source(
        "http://near.example/debian/",
        ("bookworm", "bookworm-updates"),
        ("main", "contrib"),
        "/usr/share/keyrings/debian-archive-keyring.gpg",
    )
    assert far.uri == "http://far.example/debian"


def test_one_line_with_options_and_comments() -> None:
    text = """
    # deb http://off.example/debian bookworm main
    deb [ arch=amd64 signed-by=/k.gpg ] https://a.example/debian bookworm main contrib # here
    deb-src http://a.example/debian bookworm main
    deb http://b.example/debian bookworm main
    deb broken
    """
    assert list(parse_one_line(text)) == [
        Source("https://a.example/debian", ("bookworm",), ("main", "contrib"), "/k.gpg"),
        Source("http://b.example/debian", ("bookworm",), ("main",)),
    ]


OURS = Source("http://near.example/debian/", ("trixie",), ("main",))


@pytest.mark.parametrize(
    ("archive", "sources", "uri"),
    [
        ("debian", [], "http://deb.debian.org/debian"),
        ("debian", [OURS], "http://near.example/debian"),
        ("debian-security", [OURS], "http://deb.debian.org/debian-security"),
        (
            "debian-security",
            [Source("http://s.example/debian-security", ("bookworm-security",), ("main",))],
            "http://s.example/debian-security",
        ),
        # Third parties: another key, another suite, no main.
        ("debian", [Source("http://x/debian", ("bookworm",), ("main",), "/x.gpg"), OURS], "http://near.example/debian"),
        ("debian", [Source("http://x/debian", ("nodistro",), ("main",)), OURS], "http://near.example/debian"),
        ("debian", [Source("http://x/debian", ("bookworm",), ("extra",)), OURS], "http://near.example/debian"),
        ("debian", [Source("cdrom:[Debian]/debian", ("bookworm",), ("main",)), OURS], "http://near.example/debian"),
        (
            "debian",
            [Source("http://snapshot.debian.org/archive/debian/20250520T000000Z", ("bookworm",), ("main",))],
            "http://snapshot.debian.org/archive/debian/20250520T000000Z",
        ),
    ],
)
def test_which_mirror(archive: str, sources: list[Source], uri: str) -> None:
    assert mirror_for(archive, sources) == uri


def test_machine_sources_of_both_forms_in_order(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text("deb http://first.example/debian bookworm main\n")
    (parts / "debian.sources").write_text(DEB822)
    (parts / "off.list.save").write_text("deb http://never.example/debian bookworm main\n")
    (parts / "gone.list").symlink_to("nowhere")
    uris = [source.uri for source in read_machine_sources(tmp_path)]
    assert uris == ["http://first.example/debian", "http://near.example/debian/", "http://far.example/debian"]
    assert read_machine_sources(tmp_path / "nothing") == []
