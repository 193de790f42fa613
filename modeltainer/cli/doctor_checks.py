"""What ``mt-submit doctor`` looks at on this host. Each check is one function, and none raises.

What only a compute node can show is in :mod:`modeltainer.cli.doctor_node`.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from modeltainer.cli.text import counted

if TYPE_CHECKING:
    from modeltainer.config.schema import Config
    from modeltainer.hpc.gres import Gres

Status = Literal["ok", "warning", "failure"]
LOW_SPACE_BYTES = 20 * 1024**3
"""An image of vLLM has about 10 GB, and as much again while it is made."""
LOCAL_FILESYSTEMS = frozenset(
    {"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "ramfs", "f2fs"}
)


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str
    status: Status
    message: str
    todo: str = ""
    """What to do about it."""


@dataclass(frozen=True)
class Site:
    """What the checks look at."""

    config: Config | None
    """None when models.yaml cannot be used."""
    config_fault: str
    executor: Literal["slurm", "local"]
    partition: str | None = None
    job: bool = True
    """A job will show what a compute node sees."""

    @property
    def wants_apptainer(self) -> bool:
        """Whether a launch of some model would run in Apptainer here."""
        if self.config is None:
            return self.executor == "slurm"
        default = self.config.site.runtime or ("apptainer" if self.executor == "slurm" else "")
        runtimes = {model.runtime or default for model in self.config.models.values()} or {default}
        return "apptainer" in runtimes


def check_python(site: Site) -> Finding:
    """This Python, which the compute nodes use too."""
    message = f"Python {platform.python_version()} at {sys.executable}"
    return Finding("python", "ok", message)


def check_config(site: Site) -> Finding:
    """models.yaml, and whether each model could be launched."""
    from modeltainer.config.resolve import CannotLaunchError, launch_spec

    name = "configuration"
    if site.config is None:
        return Finding(name, "failure", site.config_fault, "mend it, then: mt-submit validate")
    faults = []
    for model in site.config.models:
        try:
            launch_spec(site.config, model, 0, executor=site.executor)
        except CannotLaunchError as error:
            faults.append(str(error))
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        return Finding(name, "warning", faults[0] + more, "mt-submit up says it for each model")
    count = len(site.config.models)
    return Finding(name, "ok" if count else "warning", counted(count, "model"))


def check_slurm(site: Site) -> Finding:
    """Slurm's commands, their version, and whether its controller answers."""
    from modeltainer.hpc.commands import SlurmError, run

    if site.executor == "local":
        forced = site.config is not None and site.config.site.executor == "local"
        why = "site.executor is local" if forced else "its commands are not on PATH"
        return Finding(
            "slurm", "ok" if forced else "warning", f"not used: {why}; jobs run on this machine"
        )
    try:
        version = run(["sinfo", "--version"]).strip()
        run(["scontrol", "ping"])
    except SlurmError as error:
        return Finding("slurm", "failure", str(error), "ask the site whether Slurm is down")
    return Finding("slurm", "ok", f"{version}, its controller answers")


def check_partitions(site: Site) -> Finding | None:
    """Partitions that take jobs; those the configuration names must be among them."""
    from modeltainer.hpc.commands import SlurmError
    from modeltainer.hpc.snapshot import take_snapshot

    if site.executor == "local":
        return None
    try:
        snapshot = take_snapshot()
    except SlurmError as error:
        return Finding("partitions", "failure", str(error))
    named: set[str | None] = {site.partition}
    if site.config is not None:
        named |= set(site.config.site.partitions) | {site.config.site.defaults.partition}
    known = {one.name for one in snapshot.partitions}
    unknown = sorted(one for one in named if one is not None and one not in known)
    if unknown:
        return Finding(
            "partitions",
            "failure",
            f"there is no partition {', '.join(unknown)}; there are {', '.join(sorted(known))}",
            "mend site.partitions and site.defaults.partition in models.yaml",
        )
    words = []
    for one in snapshot.partitions:
        usable = sum(node.usable for node in snapshot.nodes_of(one))
        words.append(
            f"{one.name} ({usable}/{len(one.nodes)} nodes usable{'' if one.up else ', down'})"
        )
    takes_jobs = any(
        one.up and any(node.usable for node in snapshot.nodes_of(one))
        for one in snapshot.partitions
    )
    return Finding(
        "partitions",
        "ok" if takes_jobs else "failure",
        ", ".join(words),
        "" if takes_jobs else "no node takes jobs now: ask the site (sinfo -R says why)",
    )


def check_gpus(site: Site) -> Finding | None:
    """GPUs and MIG slices that Slurm offers, by type, and shards of GPUs."""
    from modeltainer.hpc.commands import SlurmError
    from modeltainer.hpc.snapshot import take_snapshot

    if site.executor == "local":
        return None
    try:
        nodes = take_snapshot().nodes
    except SlurmError as error:
        return Finding("gpus", "failure", str(error))
    total: Counter[str] = Counter()
    free: Counter[str] = Counter()
    for node in nodes:
        for gres in node.gres:
            total[_label(gres)] += gres.count
        for gres in node.gres_free if node.usable else ():
            free[_label(gres)] += gres.count
    if not total:
        return Finding(
            "gpus", "warning", "Slurm offers no GPUs", "only models with gpus: 0 can be launched"
        )
    words = [
        f"{kind} ({free[kind]} of {count} free)" for kind, count in sorted(total.items()) if count
    ]
    return Finding("gpus", "ok", ", ".join(words))


def _label(gres: Gres) -> str:
    if gres.is_gpu:
        return gres.type or gres.name
    return f"{gres.name} of {gres.type}" if gres.type else gres.name


def check_apptainer(site: Site) -> Finding:
    """Apptainer on this host: mt-submit pull needs it here, launches on the compute node."""
    program = shutil.which("apptainer") or shutil.which("singularity")
    name = "apptainer"
    if program is None:
        if not site.wants_apptainer:
            return Finding(name, "ok", "not on PATH, and no model needs it")
        status: Status = "failure" if site.executor == "local" else "warning"
        return Finding(
            name,
            status,
            "not on PATH on this host",
            "module load apptainer; on compute nodes: site.prelude: [module load apptainer]",
        )
    version = _first_line([program, "--version"])
    if version is None:
        return Finding(name, "failure", f"{program} does not run", f"try: {program} --version")
    return Finding(name, "ok", f"{version} at {program}")


def check_user_namespaces(site: Site) -> Finding:
    """Apptainer without setuid needs them."""
    works = user_namespaces_work()
    name = "user namespaces"
    if works or not site.wants_apptainer:
        return Finding(name, "ok", "allowed" if works else "not allowed, and no model needs them")
    return Finding(
        name,
        "warning",
        "not allowed on this host",
        "Apptainer then needs its setuid part: ask the site (sysctl user.max_user_namespaces)",
    )


def user_namespaces_work() -> bool:
    """Whether an ordinary process may make one, by doing so."""
    return _first_line(["unshare", "--user", "--map-root-user", "echo", "yes"]) == "yes"


def check_squashfuse(site: Site) -> Finding:
    """Without it a SIF is unpacked at every start."""
    found = squashfuse()
    name = "squashfuse"
    if found is not None or not site.wants_apptainer:
        return Finding(name, "ok", found or "not found, and no model needs it")
    return Finding(
        name,
        "warning",
        "not found on this host: images are unpacked at each start, which takes minutes",
        "ask the site to install squashfuse, or give image: a sandbox folder",
    )


def squashfuse() -> str | None:
    """Its path: on PATH, or beside Apptainer, which brings its own."""
    beside = Path(shutil.which("apptainer") or "/usr/bin/apptainer").resolve().parent.parent
    own = beside / "libexec" / "apptainer" / "bin" / "squashfuse_ll"
    found = shutil.which("squashfuse_ll") or shutil.which("squashfuse")
    return found or (str(own) if own.is_file() else None)


def check_registry(site: Site) -> Finding | None:
    """The registry's folder: writable, closed to others, on what kind of filesystem."""
    from modeltainer.registry.atomic import write_whole
    from modeltainer.registry.layout import Layout

    if site.config is None:
        return None
    root = site.config.site.registry
    name = "registry"
    probe = root / f"doctor-{os.getpid()}.probe"
    try:
        Layout(root).create()
        write_whole(probe, b"doctor\n")
        probe.unlink()
        mode = stat.S_IMODE(root.stat().st_mode)
    except OSError as error:
        return Finding(
            name,
            "failure",
            f"{root} cannot be written: {error.strerror or error}",
            "free space or quota, or set site.registry (or MODELTAINER_REGISTRY) to another folder",
        )
    kind = filesystem_of(root, _mountinfo())
    where = f"{root} is writable" + (f", on {kind}" if kind else "")
    if mode & 0o077:
        return Finding(
            name, "failure", f"{where}, but open to others (mode {mode:o})", f"chmod 700 {root}"
        )
    if site.executor == "slurm" and not site.job and kind in LOCAL_FILESYSTEMS:
        return Finding(
            name,
            "warning",
            f"{where}: the compute nodes hardly see that",
            "set site.registry to a folder that all nodes share; a job tries it (no --no-job)",
        )
    return Finding(name, "ok", where)


def filesystem_of(path: Path, mountinfo: str) -> str | None:
    """Type of the filesystem a path lies on, from ``/proc/self/mountinfo`` (proc(5)): the longest
    mount point wins, and of equal ones the last, which covers the others."""
    best, kind = -1, None
    for line in mountinfo.splitlines():
        head, _, tail = line.partition(" - ")
        fields, types = head.split(" "), tail.split(" ")
        if len(fields) < 5 or not types[0]:
            continue
        point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        if (path == Path(point) or Path(point) in path.parents) and len(point) >= best:
            best, kind = len(point), types[0]
    return kind


def _mountinfo() -> str:
    try:
        return Path("/proc/self/mountinfo").read_text(errors="replace")
    except OSError:
        return ""


def check_space(site: Site) -> Finding | None:
    """Room for images and weights in the cache, and the user's quota where there is one."""
    if site.config is None:
        return None
    cache = site.config.site.cache
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    words = f"{free / 1024**3:.0f} GiB free at {cache}"
    over = _first_line(["quota", "-q"])  # quota(1): prints only what is over its limit
    if over:
        return Finding("space", "warning", f"{words}; {over}", "delete something, or ask for more")
    if free < LOW_SPACE_BYTES:
        return Finding("space", "warning", words, "images have 10 GB and more: set site.cache")
    return Finding("space", "ok", words)


def check_ports(site: Site) -> Finding | None:
    """A free port in the site's range, on this host."""
    from modeltainer.jobs.ports import NoFreePortError, hold_port

    text = site.config.site.ports if site.config is not None else None
    try:
        hold_port("127.0.0.1", port_range(text)).release()
    except (NoFreePortError, OSError) as error:
        return Finding("ports", "failure", str(error), "widen site.ports")
    return Finding("ports", "ok", f"free ports in {text}" if text else "any free port may be taken")


def port_range(text: str | None) -> tuple[int, int] | None:
    """``site.ports`` as numbers, both ends included."""
    low, _, high = (text or "").partition("-")
    return (int(low), int(high)) if text else None


def check_gateway(site: Site) -> Finding | None:
    """Whether the gateway runs and answers."""
    from modeltainer.cli.gateway_client import status
    from modeltainer.gateway import address
    from modeltainer.registry.layout import Layout

    if site.config is None:
        return None
    layout = Layout(site.config.site.registry)
    found = address.read(layout)
    if found is None or found.alive is False:
        return Finding("gateway", "ok", "not running (mt-submit gateway start)")
    where = f"on {found.host}, {found.socket or found.url}"
    if status(layout) is None:
        return Finding(
            "gateway", "warning", f"{where}: does not answer from here", "mt-submit gateway status"
        )
    return Finding("gateway", "ok", f"answers {where}")


def _first_line(argv: list[str]) -> str | None:
    """First line of a command's output; None when it is missing, fails or hangs."""
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.strip().splitlines()
    return None if done.returncode else (lines[0] if lines else "")


CHECKS: tuple[Callable[[Site], Finding | None], ...] = (
    check_python,
    check_config,
    check_slurm,
    check_partitions,
    check_gpus,
    check_apptainer,
    check_user_namespaces,
    check_squashfuse,
    check_registry,
    check_space,
    check_ports,
    check_gateway,
)
"""In the order of the report; a check that does not apply gives None."""
