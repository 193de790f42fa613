"""Docker Compose without Docker: its plugin lints and normalises a compose file by itself.

The plugin on this machine is used, else Debian's package is fetched through this machine's apt and
kept in the cluster's cache; nothing is installed.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import archive
from tests.cluster.cache import cached, recipe_key
from tests.cluster.fixtures import must_not_skip

SUITE = "trixie"
_PLACES = ("/usr/libexec", "/usr/lib", "/usr/local/lib", "/usr/local/libexec")


def plugin() -> Path:
    """The plugin's executable; skips the test where it cannot be had (see must_not_skip)."""
    for place in _PLACES:
        installed = Path(place) / "docker/cli-plugins/docker-compose"
        if installed.exists():
            return installed
    try:
        folder = cached("docker-compose", recipe_key(SUITE), _fetch)
    except (OSError, subprocess.CalledProcessError, archive.NoArchiveError) as error:
        reason = f"the docker compose plugin cannot be fetched: {error}"
        if must_not_skip():
            pytest.fail(reason)
        pytest.skip(reason)
    return folder / "usr/libexec/docker/cli-plugins/docker-compose"


def _fetch(part: Path) -> None:
    sources, lists, cache = part / "sources.list", part / "lists", part / "cache"
    (lists / "partial").mkdir(parents=True)
    (cache / "archives/partial").mkdir(parents=True)
    sources.write_text(f"deb [signed-by={archive.KEYRING}] {archive.mirror()} {SUITE} main\n")
    options = [
        f"-oDir::Etc::sourcelist={sources}",
        "-oDir::Etc::sourceparts=-",
        f"-oDir::State::lists={lists}",
        f"-oDir::Cache={cache}",
        "-oAcquire::Languages=none",
    ]
    for words in (["update"], ["download", "docker-compose"]):
        subprocess.run(
            ["apt-get", "-q", *options, *words], check=True, cwd=part, capture_output=True
        )
    [package] = part.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", str(package), str(part)], check=True)
    package.unlink()


def config(file: Path, profiles: Sequence[str] = ()) -> dict[str, Any]:
    """What Compose makes of a file with these profiles. Fails the test with its own words."""
    command = [str(plugin()), "--file", str(file)]
    for name in profiles:
        command += ["--profile", name]
    done = subprocess.run(
        [*command, "config", "--format", "json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    # Compose writes its own escapes back, so that what it prints is a compose file again.
    found: dict[str, Any] = json.loads(done.stdout.replace("$$", "$"))
    return found
