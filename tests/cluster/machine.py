"""What the machine that carries the cluster must have."""

from __future__ import annotations

import os
import shutil
import subprocess

PACKAGES = {
    "debootstrap": "debootstrap",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
}
"""Commands and the Debian packages that have them."""

SERVERS = ("caddy", "haproxy", "jq", "nginx-light", "prometheus")
"""Debian packages of what tests put around the gateway; no test of the cluster needs them."""


def missing() -> list[str]:
    """What is wanting, in words; empty if the cluster can run here."""
    if os.geteuid() != 0:
        return ["the cluster needs root, for namespaces and mounts"]
    lacking = [command for command in PACKAGES if shutil.which(command) is None]
    if lacking:
        return [f"missing {', '.join(lacking)}: run `python -m tests.cluster install`"]
    return []


def install() -> None:
    """Install the packages, and the servers of the tests marked ``proxy`` and of
    tests/observability. ``debian-archive-keyring``: a Debian that is not the host's own."""
    wanted = sorted({*PACKAGES.values(), "debian-archive-keyring", *SERVERS})
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *wanted]):
        subprocess.run(["apt-get", "-q", *command], check=True, env=environment)
