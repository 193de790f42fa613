"""Which Debian archive this machine uses, read from its own apt settings."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

APT = Path("/etc/apt")
ARCHIVE_SUITES = frozenset(
    ["bullseye", "bookworm", "trixie", "forky", "sid", "stable", "testing", "unstable", "oldstable"]
)
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
KEPT_SETTINGS = re.compile(r"Acquire::(https?::|ftp::|Check-|Retries|Proxy)", re.IGNORECASE)


class NoArchiveError(RuntimeError):
    """apt's sources name no Debian archive."""


@dataclass(frozen=True)
class Source:
    """One line of apt's sources: where, which suites, which components."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]


def mirror() -> str:
    """The Debian archive of this machine: ``$MODELTAINER_DEBIAN_MIRROR``, else apt's sources."""
    chosen = os.environ.get("MODELTAINER_DEBIAN_MIRROR")
    if chosen:
        return chosen
    for source in apt_sources(APT):
        if "main" in source.components and ARCHIVE_SUITES.intersection(source.suites):
            return source.uri
    raise NoArchiveError(
        f"no Debian archive in {APT}/sources.list*; name one in MODELTAINER_DEBIAN_MIRROR"
    )


def apt_sources(folder: Path) -> Iterator[Source]:
    """All binary sources in both of sources.list(5)'s formats."""
    for path in [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*.list"))]:
        if path.is_file():
            yield from _one_line_format(path.read_text())
    for path in sorted((folder / "sources.list.d").glob("*.sources")):
        yield from _deb822_format(path.read_text())


def _one_line_format(text: str) -> Iterator[Source]:
    for line in text.splitlines():
        words = re.sub(r"\[[^]]*\]", "", line.partition("#")[0]).split()
        if len(words) >= 3 and words[0] == "deb":
            yield Source(words[1], (words[2],), tuple(words[3:]))


def _deb822_format(text: str) -> Iterator[Source]:
    text = re.sub(r"^#.*\n?", "", text, flags=re.MULTILINE)
    for stanza in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"^([\w-]+):[ \t]*(.*(?:\n[ \t].*)*)", stanza, re.MULTILINE))
        if "deb" in fields.get("Types", "").split() and fields.get("Enabled", "yes") != "no":
            for uri in fields.get("URIs", "").split():
                suites, components = fields.get("Suites", ""), fields.get("Components", "")
                yield Source(uri, tuple(suites.split()), tuple(components.split()))


def apt_settings() -> str:
    """This machine's proxy, retry and date settings, as lines of an apt.conf(5)."""
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True)
    return "".join(f"{line}\n" for line in dump.stdout.splitlines() if KEPT_SETTINGS.match(line))


def proxy_environment() -> dict[str, str]:
    """Proxy variables for debootstrap, which does not read apt's own settings."""
    found = subprocess.run(
        [
            *("apt-config", "shell", "http_proxy", "Acquire::http::Proxy"),
            *("https_proxy", "Acquire::https::Proxy"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(word.split("=", 1) for word in shlex.split(found.stdout) if "=" in word)
