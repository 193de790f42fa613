"""What a run was made with and on, so that its figures can be believed later."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modeltainer.__about__ import __version__

if TYPE_CHECKING:
    from modeltainer.registry.layout import Layout
    from modeltainer.registry.records import Endpoint
    from modeltainer.spec import LaunchSpec

_CLOCK = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")


def client_facts() -> dict[str, Any]:
    """This process's side: host, versions, clock, Slurm job, source commit."""
    slurm = {name: os.environ[name] for name in _SLURM if name in os.environ}
    return {
        "modeltainer": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "host": socket.gethostname(),
        "cpus": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "clock": "CLOCK_MONOTONIC",
        "clock_source": _first_line(_CLOCK),
        "slurm": slurm,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


_SLURM = ("SLURM_JOB_ID", "SLURM_CLUSTER_NAME", "SLURMD_NODENAME", "SLURM_JOB_PARTITION")


def launches(layout: Layout, url: str, launch_ids: Collection[str] = ()) -> list[dict[str, Any]]:
    """How the engines that answer were started and where they run, as this registry knows it.

    Args:
        url: of the server under test; an engine that is asked directly is known by it.
        launch_ids: those that a gateway names. They are random: one that this registry has too
            is of this registry.
    """
    from modeltainer.registry.endpoints import EndpointReader
    from modeltainer.registry.launches import read_spec
    from modeltainer.registry.records import BadRecordError, State

    found = []
    for seen in EndpointReader(layout).poll():
        endpoint = seen.endpoint
        if endpoint.state is not State.READY:
            continue
        if endpoint.launch_id not in launch_ids and endpoint.url != url:
            continue
        try:
            spec = read_spec(layout.launch(endpoint.launch_id))
        except (OSError, BadRecordError):
            spec = None
        found.append(_launch(endpoint, spec))
    return found


def _launch(endpoint: Endpoint, spec: LaunchSpec | None) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "launch_id": endpoint.launch_id,
        "url": endpoint.url,
        "job_id": endpoint.job_id,
        "node": endpoint.node,
        "nodes": endpoint.nodes,
        "gres": endpoint.gres,
        "devices": list(endpoint.devices),
        "engine": endpoint.engine,
        "engine_version": endpoint.engine_version,
        "runtime": endpoint.runtime,
        "context": endpoint.context,
    }
    if spec is None:
        return facts
    source = spec.source
    return facts | {
        "source": {"value": source.value, "revision": source.revision, "file": source.file},
        "image": spec.image,
        "command": list(spec.command),
        "engine_args": {
            name: "…" if _is_secret(name) else value for name, value in spec.engine_args.items()
        },
        # Names only: somebody may have written a token there.
        "env": sorted(spec.env),
        "cpus": spec.resources.cpus,
        "memory_mib": spec.resources.memory_mib,
    }


def _is_secret(name: str) -> bool:
    return name.replace("_", "-").rpartition("-")[2].lower() in _SECRET


_SECRET = frozenset({"token", "key", "password", "secret"})


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _commit() -> str | None:
    """Of the checkout that this runs from; None for an installed package."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
