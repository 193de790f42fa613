"""Layers: folders that overlayfs stacks into one root file system, each built once by a script."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from shlex import quote

from tests.cluster import archive
from tests.cluster.cache import cached, recipe_key

BUILD = Path(__file__).with_name("build_layer.sh")
QUIET_DPKG = """
path-exclude=/usr/share/man/*
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/locale/*
force-unsafe-io
"""


# A build resolves names as this machine does.
NETWORK_FILES = (
    (Path("/etc/resolv.conf"), "/etc/resolv.conf"),
    (Path("/etc/hosts"), "/etc/hosts"),
)


class BuildError(RuntimeError):
    """A step of a build failed; the message ends with the last lines it wrote."""


@dataclass(frozen=True)
class Base:
    """The smallest Debian of one suite, by debootstrap."""

    suite: str

    @cached_property
    def key(self) -> str:
        """What this layer depends on."""
        return recipe_key("base", self.suite, QUIET_DPKG)

    @cached_property
    def stack(self) -> tuple[Path, ...]:
        """The folders to mount, topmost first; built now if they are not cached."""
        return (cached(f"{self.suite}-base", self.key, self._build) / "tree",)

    def _build(self, part: Path) -> None:
        tree = part / "tree"
        mirror = archive.mirror()
        command = ["debootstrap", "--variant=minbase", "--include=ca-certificates"]
        if archive.KEYRING.exists():
            command.append(f"--keyring={archive.KEYRING}")
        run_logged(
            [*command, self.suite, str(tree), mirror],
            part / "log",
            env={**os.environ, **archive.proxy_environment()},
        )
        shutil.rmtree(tree / "var/cache/apt/archives")
        (tree / "var/cache/apt/archives/partial").mkdir(parents=True)
        (tree / "etc/dpkg/dpkg.cfg.d/cluster").write_text(QUIET_DPKG)
        # Packages must not start their services in a chroot.
        policy = tree / "usr/sbin/policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)


@dataclass(frozen=True)
class Layer:
    """What ``script`` (bash, as root, in a chroot) writes on top of ``below``."""

    name: str
    below: Base | Layer
    script: str
    binds: tuple[tuple[Path, str], ...] = ()
    """Paths of this machine that the script sees while it runs: (here, there)."""
    prelude: str = ""
    """Run before ``script``: this machine's settings, which do not decide what is built."""

    @cached_property
    def key(self) -> str:
        """What this layer depends on."""
        return recipe_key(self.name, self.below.key, self.script)

    @cached_property
    def stack(self) -> tuple[Path, ...]:
        """The folders to mount, topmost first; built now if they are not cached."""
        below = self.below.stack
        return (cached(self.name, self.key, self._build) / "tree", *below)

    def _build(self, part: Path) -> None:
        build_on(self.below.stack, part, self.prelude + self.script, self.binds)


def build_on(
    stack: tuple[Path, ...],
    part: Path,
    script: str,
    binds: tuple[tuple[Path, str], ...] = (),
    image: tuple[Path, ...] = (),
) -> None:
    """Run ``script`` in a chroot on ``stack``; what it writes stays in ``part/tree``.

    The layers of ``image``, if any, are mounted together at ``/mnt/image`` in there.
    """
    settings = f"mirror={quote(archive.mirror())}\nsettings={quote(archive.apt_settings())}\n"
    run_logged(
        ["bash", str(BUILD), _joined(stack), str(part), _joined(image)]
        + [f"{here}:{there}" for here, there in (*NETWORK_FILES, *binds)],
        part / "log",
        stdin=settings + script,
    )
    # Only mount points: what was mounted there went with the namespace.
    for scratch in ("work", "root"):
        shutil.rmtree(part / scratch)


def _joined(stack: tuple[Path, ...]) -> str:
    return ":".join(map(str, stack))


def apt_install(suite: str, packages: tuple[str, ...], from_sid: tuple[str, ...] = ()) -> str:
    """The script that installs packages of ``suite`` without their recommendations.

    ``from_sid``: what the suite itself does not have; its dependencies still come from the suite.
    """
    suites = [suite, "sid"] if from_sid else [suite]
    wanted = [*packages, *(f"{package}/sid" for package in from_sid)]
    return f"""
echo "$settings" >/etc/apt/apt.conf.d/zz-host
rm -f /etc/apt/sources.list
for suite in {" ".join(suites)}; do
    echo "deb [signed-by={archive.KEYRING}] $mirror $suite main" >>/etc/apt/sources.list
done
apt-get -q -o Acquire::Languages=none update
apt-get -q -o APT::Default-Release={suite} install -y --no-install-recommends {" ".join(wanted)}
apt-get clean
rm -rf /var/lib/apt/lists/* /etc/apt/apt.conf.d/zz-host
"""


# What a step mounts or starts goes with it, and the step with this process, whatever ends it:
# nothing writes into a folder any more once its lock is free.
CONTAINED = (
    *("setpriv", "--pdeathsig=KILL"),
    *("unshare", "--mount", "--propagation=private", "--pid", "--mount-proc"),
    *("--fork", "--kill-child", "--"),
)


def run_logged(
    command: list[str], log: Path, *, stdin: str = "", env: Mapping[str, str] | None = None
) -> None:
    """Run ``command`` as a step of a build, its output in ``log``.

    Raises BuildError with the log's end.
    """
    with log.open("a+b") as file:
        done = subprocess.run(
            [*CONTAINED, *command],
            input=stdin.encode(),
            stdout=file,
            stderr=file,
            env=env,
            check=False,
        )
        if done.returncode:
            tail = log.read_bytes()[-4000:].decode(errors="replace")
            raise BuildError(f"{command[0]} failed ({done.returncode}), see {log}:\n{tail}")
