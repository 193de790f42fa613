"""A running cluster: login, compute nodes, and a laptop that reaches login by ssh only."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from tests.cluster import images, process, slurm
from tests.cluster.environment import SOURCE, SOURCE_THERE, environment_layer
from tests.cluster.host import Bind, Host, Role, start_host
from tests.cluster.network import Network, address
from tests.cluster.rootfs import FLAVOURS, USERS, Flavour

STATE = "state.json"
LAPTOP, LOGIN, FIRST_NODE = 9, 10, 11
"""The last parts of the hosts' addresses."""
SMALL, SMALL_MIB = "small", 64
"""``/shared/small``: a shared file system that a test can fill."""


class ClusterError(RuntimeError):
    """A cluster is not there, is there already, or does not come up."""


def clusters_dir() -> Path:
    """Where running clusters live: ``$MODELTAINER_CLUSTER_RUN``, else below /var/tmp."""
    return Path(os.environ.get("MODELTAINER_CLUSTER_RUN", "/var/tmp/modeltainer-cluster"))


@dataclass(frozen=True)
class Cluster:
    """A cluster that is up. Make one with :meth:`up`, or find a running one with :meth:`find`."""

    name: str
    flavour: str
    folder: Path
    network: Network
    hosts: dict[str, Host]
    slurm_version: str

    # -- coming and going --

    @classmethod
    def up(cls, flavour: str = "sid", nodes: int = 2, name: str | None = None) -> Cluster:
        """Bring a cluster up and wait until Slurm calls every node idle.

        Raises ClusterError if one of this name runs; leaves nothing behind when it fails.
        """
        name = name or flavour
        folder = clusters_dir() / name
        if folder.exists():
            raise ClusterError(f"cluster {name} is up (or half of it is): take it down first")
        stack = cls.build(flavour)
        folder.mkdir(parents=True)
        try:
            (folder / "shared" / "home").mkdir(parents=True)
            _mount_small(folder / "shared" / SMALL)
            network = _start_network(folder)
            hosts = _start_hosts(folder, flavour, network, nodes, stack)
            _configure(folder, hosts, FLAVOURS[flavour])
            version = _start_slurm(hosts, FLAVOURS[flavour])
            cluster = cls(name, flavour, folder, network, hosts, version)
            cluster.wait_idle()
            cluster._write_state()
        except BaseException:
            remove(folder)
            raise
        return cluster

    @staticmethod
    def build(flavour: str) -> tuple[Path, ...]:
        """Build whatever a cluster needs and is not cached; returns the layers of its hosts."""
        images.binds(with_apptainer=FLAVOURS[flavour].has_apptainer)
        return environment_layer(FLAVOURS[flavour].system).stack

    @classmethod
    def find(cls, name: str) -> Cluster:
        """The running cluster of this name. Raises ClusterError if there is none."""
        folder = clusters_dir() / name
        try:
            state = json.loads((folder / STATE).read_text())
        except FileNotFoundError:
            hint = "see `python -m tests.cluster up`"
            raise ClusterError(f"no cluster {name} is up; {hint}") from None
        hosts = {host["name"]: Host(**host) for host in state.pop("hosts")}
        return cls(folder=folder, hosts=hosts, network=Network(state.pop("network")), **state)

    def down(self) -> None:
        """End every process of the cluster and remove its folder."""
        remove(self.folder)

    def _write_state(self) -> None:
        state = {
            "name": self.name,
            "flavour": self.flavour,
            "network": self.network.pid,
            "hosts": [asdict(host) for host in self.hosts.values()],
            "slurm_version": self.slurm_version,
        }
        part = self.folder / f".{STATE}.part"
        part.write_text(json.dumps(state, indent=2) + "\n")
        part.rename(self.folder / STATE)

    # -- use --

    @property
    def shared(self) -> Path:
        """The shared file system (``/shared`` on the hosts), as this machine sees it."""
        return self.folder / "shared"

    @property
    def nodes(self) -> list[str]:
        """The compute nodes' names."""
        return [host.name for host in self.hosts.values() if host.role == "compute"]

    def run(
        self,
        host: str,
        argv: list[str],
        user: str = "alice",
        *,
        check: bool = True,
        timeout: float | None = 120,
        env: dict[str, str] | None = None,
        input: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host as ``user``, in a login's environment, from their home.

        Standard error is kept apart. With ``check``, a failure raises ClusterError which shows
        both outputs; subprocess.TimeoutExpired after ``timeout`` seconds.
        """
        done = subprocess.run(
            self.hosts[host].command(argv, user, env),
            input="" if input is None else input,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise ClusterError(
                f"{user}@{host}: {argv} failed ({done.returncode}):\n{done.stdout}{done.stderr}"
            )
        return done

    def popen(
        self,
        host: str,
        argv: list[str],
        user: str = "alice",
        *,
        env: dict[str, str] | None = None,
        stdin: int | IO[str] | None = subprocess.DEVNULL,
        stdout: int | IO[str] | None = subprocess.PIPE,
        stderr: int | IO[str] | None = subprocess.STDOUT,
    ) -> subprocess.Popen[str]:
        """Start a command as :meth:`run` does.

        Killing the handle sends the command SIGTERM; any other signal goes to
        :meth:`command_pid`.
        """
        return subprocess.Popen(
            self.hosts[host].command(argv, user, env),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=True,
        )

    @staticmethod
    def command_pid(handle: subprocess.Popen[str], timeout: float = 10) -> int:
        """The PID, on this machine, of the command behind :meth:`popen`'s handle."""
        _wait(lambda: bool(process.children(handle.pid)), "the command's start", timeout)
        return process.children(handle.pid)[0]

    def kill_host(self, host: str) -> None:
        """End every process of the host at once, as if its power were cut."""
        self.hosts[host].kill()

    def restart_host(self, host: str) -> None:
        """Power a killed host on again: its disk and name are as they were, its memory is not."""
        old = self.hosts[host]
        self.hosts[host] = start_host(
            old.name,
            old.role,
            old.number,
            folder=self.folder,
            network=self.network,
            stack=self.build(self.flavour),
            binds=_binds(self.folder, self.flavour, old.role),
        )
        self._write_state()
        controller = slurm.start_controller(books=FLAVOURS[self.flavour].has_books)
        services = {"login": controller + START_SSHD, "compute": slurm.START_NODE}
        self.hosts[host].script(services.get(old.role, ""))

    def cut_network(self, host: str) -> None:
        """Take the host off the network; its processes go on."""
        self.network.cut(host)

    def restore_network(self, host: str) -> None:
        """Undo :meth:`cut_network`, and tell Slurm.

        It asks a node that is down once in 20 pings, but one that was resumed (scontrol(1)) at
        once; it refuses for one that it has not missed.
        """
        self.network.restore(host)
        self._resume(host, check=False)

    def resume_nodes(self) -> None:
        """Have every node take jobs again, as an admin does after troubles: one that Slurm missed
        just when its network came back stays down for minutes otherwise."""
        for node, state in self.node_states().items():
            if state.startswith(("down", "drain", "drng")):
                self._resume(node)
        self.wait_idle()

    def _resume(self, node: str, *, check: bool = True) -> None:
        resume = ["scontrol", "update", f"nodename={node}", "state=resume"]
        self.run("login", resume, "root", check=check)

    def node_states(self) -> dict[str, str]:
        """Slurm's word for each compute node, such as ``idle`` or ``down*``."""
        listed = self.run("login", ["sinfo", "-h", "-N", "-o", "%N %t"], user="root").stdout
        return dict(re.findall(r"^(\S+) (\S+)$", listed, re.MULTILINE))

    def wait_idle(self, timeout: float = 60) -> None:
        """Wait until Slurm calls every compute node idle."""

        def idle() -> bool:
            states = self.node_states()
            return all(states.get(node) == "idle" for node in self.nodes)

        try:
            _wait(idle, f"idle nodes of {self.name}", timeout)
        except ClusterError as error:
            nodes = self.run("login", ["scontrol", "show", "nodes"], "root").stdout
            raise ClusterError(f"{error}:\n{nodes}") from None


def remove(folder: Path) -> None:
    """Take down the cluster in ``folder``, whole or half-made; nothing is left of it.

    Its mounts are in its hosts' own namespaces, so they go with the processes; all but the small
    file system.
    """
    process.kill_marked(folder)
    if os.path.ismount(small := folder / "shared" / SMALL):
        subprocess.run(["umount", "--lazy", small], check=True)
    if folder.exists():
        shutil.rmtree(folder)


def running() -> list[str]:
    """Names of the clusters that are up or half-made."""
    return sorted(path.name for path in clusters_dir().glob("*") if path.is_dir())


def _mount_small(where: Path) -> None:
    where.mkdir()
    options = f"size={SMALL_MIB}m,mode=1777"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", where], check=True)


def _start_network(folder: Path) -> Network:
    pid = process.start(["unshare", "--net", "sleep", "infinity"], folder, folder / "network.log")
    _wait(lambda: _own_network(pid), "the outer network namespace", 10)
    network = Network(pid)
    network.create()
    return network


def _start_hosts(
    folder: Path, flavour: str, network: Network, nodes: int, stack: tuple[Path, ...]
) -> dict[str, Host]:
    roles: dict[str, tuple[Role, int]] = {"laptop": ("laptop", LAPTOP), "login": ("login", LOGIN)}
    for index in range(nodes):
        roles[f"c{index + 1}"] = ("compute", FIRST_NODE + index)
    return {
        name: start_host(
            name,
            role,
            number,
            folder=folder,
            network=network,
            stack=stack,
            binds=_binds(folder, flavour, role),
        )
        for name, (role, number) in roles.items()
    }


def _binds(folder: Path, flavour: str, role: Role) -> list[Bind]:
    if role == "laptop":
        # It has neither the shared folder nor what lies in it.
        return []
    return [
        Bind(folder / "shared", "/shared"),
        Bind(folder / "shared" / SMALL, f"/shared/{SMALL}"),
        Bind(SOURCE, SOURCE_THERE, read_only=True),
        *images.binds(with_apptainer=FLAVOURS[flavour].has_apptainer),
    ]


def _start_slurm(hosts: dict[str, Host], flavour: Flavour) -> str:
    """Start the controller and the nodes' daemons; returns Slurm's version."""
    login = hosts["login"]
    login.script(slurm.start_controller(books=flavour.has_books, members=USERS))
    for host in hosts.values():
        if host.role == "compute":
            host.script(slurm.START_NODE)
    login.script(COMPILE)
    return login.script("sinfo --version").split()[-1]


def _configure(folder: Path, hosts: dict[str, Host], flavour: Flavour) -> None:
    """Names, keys, Slurm's configuration and ssh, before any service starts."""
    numbers = {host.name: host.number for host in hosts.values()}
    nodes = [host.name for host in hosts.values() if host.role == "compute"]
    names = "127.0.0.1 localhost\n" + "".join(
        f"{address(number)} {name}\n" for name, number in numbers.items()
    )
    munge_key = secrets.token_hex(64)
    slurm_conf = slurm.slurm_conf(nodes, numbers, books=flavour.has_books)
    for host in hosts.values():
        host.script(f"printf %s '{names}' >/etc/hosts; : >/etc/resolv.conf")
        if host.role == "laptop":
            continue
        host.script(
            f"printf %s '{munge_key}' >/etc/munge/munge.key\n"
            "chown munge:munge /etc/munge/munge.key\nchmod 400 /etc/munge/munge.key\n"
            f"printf %s '{slurm_conf}' >/etc/slurm/slurm.conf\n"
            f"printf %s '{slurm.gres_conf()}' >/etc/slurm/gres.conf\n"
            f"printf %s '{slurm.cgroup_conf(flavour.slurm)}' >/etc/slurm/cgroup.conf\n"
        )
    if flavour.has_books:
        text = slurm.slurmdbd_conf()
        hosts["login"].script(f"umask 077; printf %s '{text}' >/etc/slurm/slurmdbd.conf")
    hosts["login"].script("".join(map(_home_script, USERS)) + START_SSHD)
    for user, uid in USERS.items():
        home = folder / "shared" / "home" / user / ".ssh"
        key = (home / "id_ed25519").read_text()
        hosts["laptop"].script(
            f"usermod --home /home/{user} {user}\n"
            f"install -d -m 700 -o {uid} -g {uid} /home/{user} /home/{user}/.ssh\n"
            f"cd /home/{user}/.ssh\n"
            f"printf %s '{key}' >id_ed25519\n{SSH_CONFIG}"
            f"chmod 600 id_ed25519\nchown {uid}:{uid} *"
        )


# Users cannot write beside the sources, so root does: else each start compiles them anew. A file
# that does not compile is for its own tests to tell.
COMPILE = f"""
unshare --mount bash -c '
mount -o remount,bind,rw {SOURCE_THERE}
cd {SOURCE_THERE}
/opt/modeltainer/bin/python -m compileall -q modeltainer modeltainer/*/ || true'
"""
SSH_CONFIG = "echo 'StrictHostKeyChecking accept-new' >config\n"
START_SSHD = f"""
test -f /etc/ssh/ssh_host_ed25519_key ||
    ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
/usr/sbin/sshd -o ListenAddress={address(LOGIN)} -o PasswordAuthentication=no -o UseDNS=no
"""


def _home_script(user: str) -> str:
    """A home folder on the shared file system, with a key that opens login."""
    home, uid = f"/shared/home/{user}", USERS[user]
    return f"""
install -d -m 700 {home} {home}/.ssh
cp /etc/skel/.[!.]* {home}/
cd {home}/.ssh
ssh-keygen -q -t ed25519 -N '' -C {user} -f id_ed25519
cp id_ed25519.pub authorized_keys
{SSH_CONFIG}
chown -R {uid}:{uid} {home}
"""


def _own_network(pid: int) -> bool:
    return Path(f"/proc/{pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()


def _wait(ready: Callable[[], bool], what: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > deadline:
            raise ClusterError(f"waited {timeout:.0f} s for {what}")
        time.sleep(0.1)
