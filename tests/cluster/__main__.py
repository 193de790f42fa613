"""``python -m tests.cluster``: bring a cluster up, use it by hand, record it, take it down."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable

from tests.cluster.cluster import Cluster, ClusterError, clusters_dir, remove, running
from tests.cluster.host import HostError
from tests.cluster.layers import BuildError
from tests.cluster.machine import install, missing
from tests.cluster.rootfs import FLAVOURS, USERS


def main() -> int:
    """Run one command; returns the exit status."""
    arguments = _parser().parse_args()
    lacking = [] if arguments.action == "install" else missing()
    if lacking:
        print("\n".join(lacking), file=sys.stderr)
        return 2
    try:
        return int(arguments.run(arguments))
    except (ClusterError, HostError, BuildError) as error:
        print(error, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)

    def action(
        name: str, run: Callable[[argparse.Namespace], int], text: str, *, flavour: bool = True
    ) -> argparse.ArgumentParser:
        added = actions.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        if flavour:
            added.add_argument("--flavour", choices=sorted(FLAVOURS), default="sid")
        return added

    action("install", _install, "install what the cluster needs, by apt-get", flavour=False)
    action("build", _build, "build what is not cached yet, and start nothing")
    up = action("up", _up, "bring a cluster up")
    up.add_argument("--nodes", type=int, default=2, help="compute nodes (default 2)")
    down = action("down", _down, "take a cluster down, whole or half-made")
    down.add_argument("--all", action="store_true", help="every cluster of this machine")
    action("status", _status, "list the clusters that are up", flavour=False)
    enter = action("enter", _enter, "a login shell on a host")
    execute = action("exec", _exec, "run a command on a host")
    for command in (enter, execute):
        command.add_argument("host", help="login, c1, c2, … or laptop")
        command.add_argument("--user", choices=["root", *USERS], default="alice")
    execute.add_argument("argv", nargs="+", metavar="CMD")
    action("record", _record, "record what Slurm's commands print into tests/fixtures/slurm")
    sites = action(
        "record-sites",
        _record_sites,
        "record clusters of different makes into tests/fixtures/clusters",
        flavour=False,
    )
    sites.add_argument("sites", nargs="*", metavar="SITE", help="by default all")
    return parser


def _install(_: argparse.Namespace) -> int:
    install()
    return 0


def _build(arguments: argparse.Namespace) -> int:
    Cluster.build(arguments.flavour)
    return 0


def _up(arguments: argparse.Namespace) -> int:
    cluster = Cluster.up(arguments.flavour, nodes=arguments.nodes)
    print(f"cluster {cluster.name} is up: Slurm {cluster.slurm_version}")
    print(f"python -m tests.cluster enter login --flavour {arguments.flavour}")
    return 0


def _down(arguments: argparse.Namespace) -> int:
    for name in running() if arguments.all else [arguments.flavour]:
        remove(clusters_dir() / name)
    return 0


def _status(_: argparse.Namespace) -> int:
    for name in running():
        try:
            cluster = Cluster.find(name)
        except ClusterError:
            print(f"{name}: half-made")
            continue
        print(f"{name}: Slurm {cluster.slurm_version}, shared folder {cluster.shared}")
        states = cluster.node_states() if cluster.hosts["login"].alive else {}
        for host in cluster.hosts.values():
            alive = "up" if host.alive else "killed"
            print(f"  {host.name:8} {host.address:12} {alive:7} {states.get(host.name, '')}")
    return 0


def _enter(arguments: argparse.Namespace) -> int:
    host = Cluster.find(arguments.flavour).hosts[arguments.host]
    term = {"TERM": os.environ.get("TERM", "dumb")}
    return subprocess.call(host.command(["bash", "--login"], arguments.user, term))


def _exec(arguments: argparse.Namespace) -> int:
    host = Cluster.find(arguments.flavour).hosts[arguments.host]
    return subprocess.call(host.command(arguments.argv, arguments.user))


def _record(arguments: argparse.Namespace) -> int:
    name = arguments.flavour
    if name in running():
        print(_record_to(Cluster.find(name)))
        return 0
    cluster = Cluster.up(name)
    try:
        print(_record_to(cluster))
    finally:
        cluster.down()
    return 0


def _record_sites(arguments: argparse.Namespace) -> int:
    from tests.cluster.record_sites import record_sites

    for path in record_sites(arguments.sites):
        print(path)
    return 0


def _record_to(cluster: Cluster) -> str:
    from tests.cluster.record import record

    return str(record(cluster))


if __name__ == "__main__":
    sys.exit(main())
