"""The Debian archive is the one that this machine's apt uses, in either format of its sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster import archive
from tests.cluster.archive import NoArchiveError, mirror

DEB822 = """\
# comment
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm
 bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://other.example/debian
Suites: bookworm
Components: main
"""


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "sources.list.d").mkdir()
    monkeypatch.setattr(archive, "APT", tmp_path)
    monkeypatch.delenv("MODELTAINER_DEBIAN_MIRROR", raising=False)
    return tmp_path


def test_deb822(apt: Path) -> None:
    (apt / "sources.list.d" / "debian.sources").write_text(DEB822)
    assert mirror() == "http://mirror.example/debian"


def test_disabled_stanza_is_passed_over(apt: Path) -> None:
    (apt / "sources.list.d" / "debian.sources").write_text(
        DEB822.replace("Signed-By", "Enabled: no\nSigned-By")
    )
    assert mirror() == "http://other.example/debian"


def test_one_line_format_skips_other_archives(apt: Path) -> None:
    (apt / "sources.list").write_text(
        "# deb http://off.example/debian trixie main\n"
        "deb https://packages.example.com tools main\n"
        "deb http://security.example/debian-security trixie-security main\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian trixie main contrib # x\n"
    )
    assert mirror() == "http://mirror.example/debian"


def test_none_is_said(apt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (apt / "sources.list").write_text("deb http://ubuntu.example/ubuntu noble main\n")
    with pytest.raises(NoArchiveError, match="MODELTAINER_DEBIAN_MIRROR"):
        mirror()
    monkeypatch.setenv("MODELTAINER_DEBIAN_MIRROR", "http://chosen.example/debian")
    assert mirror() == "http://chosen.example/debian"
