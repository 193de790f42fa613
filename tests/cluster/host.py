"""One host of the cluster: its own root file system, processes, name and network address."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.cluster import process
from tests.cluster.network import Network, address

Role = Literal["login", "compute", "laptop"]
INIT = Path(__file__).with_name("host_init.sh")
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"


class HostError(RuntimeError):
    """A host did not come up, or is down."""


@dataclass(frozen=True)
class Bind:
    """A folder of this machine that hosts see at ``there``."""

    here: Path
    there: str
    read_only: bool = False

    def __str__(self) -> str:
        return f"{self.here}:{self.there}" + (":ro" if self.read_only else "")


@dataclass(frozen=True)
class Host:
    """A running host: ``init`` is its PID 1 as this machine numbers it."""

    name: str
    role: Role
    number: int
    """The last part of its address."""
    init: int
    holder: int
    """The process on this machine that waits for the host's end."""

    @property
    def address(self) -> str:
        """Its IPv4 address on the cluster's network."""
        return address(self.number)

    @property
    def alive(self) -> bool:
        """Is its init running?"""
        return self.init in process.children(self.holder)

    def command(
        self, argv: list[str], user: str = "root", env: dict[str, str] | None = None
    ) -> list[str]:
        """The command that runs ``argv`` on this host as ``user`` would after logging in."""
        if not self.alive:
            raise HostError(f"host {self.name} is down")
        home = self.home(user)
        environment = {
            "HOME": home,
            "LANG": "C.UTF-8",
            "LOGNAME": user,
            "PATH": f"/opt/modeltainer/bin:{PATH}",
            "SHELL": "/bin/bash",
            "USER": user,
            **(env or {}),
        }
        return [
            *self.enter(),
            # When the caller's nsenter is killed, what it started here is asked to end too.
            *("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"),
            "--pdeathsig=TERM",
            *("env", "-i", f"--chdir={home}", *(f"{k}={v}" for k, v in environment.items())),
            *argv,
        ]

    def enter(self) -> list[str]:
        """The command prefix that moves a process of this machine, as root, onto the host."""
        return [
            "nsenter",
            f"--target={self.init}",
            *["-m", "-u", "-i", "-p", "-n", "-r", "-w", "--"],
        ]

    def home(self, user: str) -> str:
        """The user's home folder: on the shared file system, but for the laptop's."""
        if user == "root":
            return "/root"
        return f"/home/{user}" if self.role == "laptop" else f"/shared/home/{user}"

    def script(self, text: str) -> str:
        """Run a bash script as root; returns its output. Raises HostError with it on failure."""
        done = subprocess.run(
            [
                *(*self.enter(), "env", "-i", f"PATH={PATH}", "HOME=/root", "LC_ALL=C.UTF-8"),
                *("bash", "-euo", "pipefail", "-c", text),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise HostError(f"{self.name}: script failed ({done.returncode}):\n{done.stdout}")
        return done.stdout

    def kill(self) -> None:
        """As if its power were cut: every process of the host ends at once."""
        process.kill(self.init)
        process.reap(self.holder)


def start_host(
    name: str,
    role: Role,
    number: int,
    *,
    folder: Path,
    network: Network,
    stack: tuple[Path, ...],
    binds: list[Bind],
) -> Host:
    """Start a host of the cluster in ``folder`` and join it to the network."""
    own = folder / "hosts" / name
    for part in ("root", "changes", "work"):
        (own / part).mkdir(parents=True, exist_ok=True)
    log = own / "init.log"
    read_fd, write_fd = os.pipe()
    with os.fdopen(read_fd) as ready:
        holder = process.start(
            [
                *("nsenter", f"--net=/proc/{network.pid}/ns/net"),
                *("unshare", "--mount", "--propagation", "private", "--uts", "--ipc", "--net"),
                *("--pid", "--fork", "--kill-child"),
                *("bash", str(INIT), name, ":".join(map(str, stack)), str(own)),
                *map(str, binds),
            ],
            folder,
            log,
            write_fd,
        )
        os.close(write_fd)
        # unshare keeps its copy open, so wait for a line and not for the end of file.
        if ready.readline() != "ready\n":
            raise HostError(f"{name} did not come up:\n{log.read_text()}")
    (init,) = process.children(holder)
    network.join(name, init, number)
    return Host(name, role, number, init, holder)
