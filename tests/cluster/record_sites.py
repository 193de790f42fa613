"""Record what a real controller says of each site's nodes and partitions, with jobs on them."""

from __future__ import annotations

import re
import shlex
import time
from pathlib import Path

from tests.cluster import slurm
from tests.cluster.cluster import Cluster, ClusterError
from tests.cluster.host import Host
from tests.cluster.rootfs import FLAVOURS
from tests.cluster.sites import DEFAULTS, SITES, Site

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "clusters"
COMMANDS = (
    ("scontrol", "show", "node", "--oneliner", "--details"),
    ("scontrol", "show", "partition", "--oneliner"),
)
"""Those of modeltainer.hpc.snapshot."""
PATIENCE_S = 120.0
STOP = """
pkill -KILL -x 'slurmctld|slurmd|slurmstepd|slurm_script' || true
pkill -KILL -u alice || true
while pgrep -x 'slurmctld|slurmd|slurmstepd' >/dev/null; do sleep 0.1; done
rm -rf /var/spool/slurmctld/* /var/spool/slurmd/*
"""


def record_sites(names: list[str]) -> list[Path]:
    """Write ``tests/fixtures/clusters/NAME.txt`` for these sites, by default for all.

    One cluster for each Slurm release is brought up, and becomes one site after the other.
    """
    if unknown := set(names) - {site.name for site in SITES}:
        raise ClusterError(f"no site {', '.join(sorted(unknown))} in sites.py")
    wanted = [site for site in SITES if not names or site.name in names]
    written = []
    for flavour in dict.fromkeys(site.flavour for site in wanted):
        sites = [site for site in wanted if site.flavour == flavour]
        most = max(len(site.nodes) for site in sites)
        cluster = Cluster.up(flavour, nodes=most, name=f"sites-{flavour}")
        try:
            written += [_record(cluster, site) for site in sites]
        finally:
            cluster.down()
    return written


def _record(cluster: Cluster, site: Site) -> Path:
    computes = [cluster.hosts[name] for name in cluster.nodes]
    hosts = dict(zip(site.nodes, computes, strict=False))
    for host in (cluster.hosts["login"], *computes):
        host.script(STOP)
    _start(cluster, site, hosts)
    _wait(cluster, dict.fromkeys(set(site.nodes) - set(site.never_up), "IDLE"))
    for line in site.admin:
        cluster.hosts["login"].script(line)
    for name in site.lost:
        hosts[name].script("pkill -KILL -x slurmd")
    # Before the jobs: what asks a lost node asks others through it, and misses these for a moment.
    _wait(cluster, {name: site.state_of[name] for name in (*site.never_up, *site.lost)})
    for options in site.jobs:
        _run_job(cluster, options)
    _wait(cluster, site.state_of)
    path = FIXTURES / f"{site.name}.txt"
    answers = [cluster.run("login", [*command]).stdout for command in COMMANDS]
    said = ", then ".join(" ".join(command) for command in COMMANDS)
    head = (
        f"# {site.about} Recorded from slurmctld {cluster.slurm_version} by "
        f"`python -m tests.cluster record-sites {site.name}`: {said}.\n"
    )
    path.write_text(head + "\n".join(answers))
    return path


def _start(cluster: Cluster, site: Site, hosts: dict[str, Host]) -> None:
    """Give each host the name of a node, all of them the site's configuration, and start Slurm."""
    flavour, login = FLAVOURS[cluster.flavour], cluster.hosts["login"]
    if flavour.has_books:
        for command in site.books:
            login.script(f"sacctmgr -i {command}")
    types = "gpu,shard" if "shard:" in site.slurm else "gpu"
    daemons = slurm.daemon_lines(login.number, books=flavour.has_books)
    conf = "".join(f"{line}\n" for line in (*daemons, f"GresTypes={types}"))
    addresses = f"127.0.0.1 localhost\n{login.address} login\n" + "".join(
        f"{host.address} {name}\n" for name, host in hosts.items()
    )
    for name, host in {"login": login, **hosts}.items():
        host.script(f"""
hostname {name}
printf %s {shlex.quote(addresses)} >/etc/hosts
printf %s {shlex.quote(conf + DEFAULTS + site.slurm)} >/etc/slurm/slurm.conf
printf %s {shlex.quote("AutoDetect=off" + chr(10) + site.gres)} >/etc/slurm/gres.conf
""")
    login.script("slurmctld")
    for name, host in hosts.items():
        if name not in site.never_up:
            host.script("slurmd")


def _run_job(cluster: Cluster, options: str) -> None:
    """Submit a sleeping job and wait until it runs, so that the next one finds it there."""
    command = ["sbatch", "--parsable", "--output=/dev/null", "--mem=8G", *shlex.split(options)]
    job = cluster.run("login", [*command, "--wrap", "sleep 3600"]).stdout.strip()
    deadline = time.monotonic() + PATIENCE_S
    state = "PENDING"
    while state != "RUNNING":
        if state != "PENDING" or time.monotonic() > deadline:
            raise ClusterError(f"sbatch {options}: {state}")
        time.sleep(0.5)
        state = cluster.run("login", ["squeue", "-h", "-j", job, "-o", "%T"]).stdout.strip()


def _wait(cluster: Cluster, wanted: dict[str, str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        shown = cluster.run("login", [*COMMANDS[0]], user="root", check=False).stdout
        states = dict(re.findall(r"^NodeName=(\S+) .*? State=(\S+)", shown, re.MULTILINE))
        # A node that is asked or planned for something for a moment says so by a mark.
        if all(states.get(name, "").rstrip("*") == state for name, state in wanted.items()):
            return
        if time.monotonic() > deadline:
            raise ClusterError(f"the nodes are {states}, not {wanted}")
        time.sleep(0.5)
