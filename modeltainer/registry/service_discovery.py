"""The registry as Prometheus reads targets: file-based service discovery.

Format: prometheus.io/docs/prometheus/latest/configuration/configuration/#file_sd_config. The file
holds addresses and labels, and no keys.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from modeltainer.gateway.address import GatewayAddress
from modeltainer.registry.atomic import write_whole
from modeltainer.registry.endpoints import Sighting
from modeltainer.registry.records import State

GATEWAY_JOB = "modeltainer-gateway"
ENGINE_JOB = "modeltainer-engine"
OPEN_METRICS = frozenset({"vllm"})
"""Engines whose ``/metrics`` asks for no key. llama-server's wants its launch's own, which a target
file cannot carry: what concerns its requests is in the gateway's metrics."""


def target_groups(
    gateway: GatewayAddress | None, sightings: Iterable[Sighting]
) -> list[dict[str, Any]]:
    """Targets with their labels: the gateway, and each ready engine with open metrics.

    Args:
        gateway: as its state file tells; one on a Unix socket cannot be scraped and is left out.
        sightings: what the registry shows.
    """
    groups = []
    if gateway is not None and gateway.socket is None and gateway.alive is not False:
        groups.append(_group(gateway.url.removeprefix("http://"), job=GATEWAY_JOB))
    for seen in sightings:
        one = seen.endpoint
        ready = seen.alive and one.state in {State.READY, State.DRAINING}
        if not ready or one.engine not in OPEN_METRICS or one.host is None or one.port is None:
            continue
        host = f"[{one.host}]" if ":" in one.host else one.host
        groups.append(
            _group(
                f"{host}:{one.port}",
                job=ENGINE_JOB,
                model=one.model,
                engine=one.engine,
                replica=str(one.replica),
                node=one.node,
                slurm_job=one.job_id,
                **({"__scheme__": "https"} if one.tls else {}),
            )
        )
    return groups


def _group(address: str, **labels: str) -> dict[str, Any]:
    return {"targets": [address], "labels": labels}


def write_targets(file: Path, groups: list[dict[str, Any]]) -> bool:
    """Replace the file as a whole, if anything has changed; True if it has.

    It is readable by all who can reach its folder: Prometheus is another user.

    Raises:
        OSError: it cannot be written.
    """
    data = json.dumps(groups, indent=2).encode() + b"\n"
    try:
        if file.read_bytes() == data:
            return False
    except FileNotFoundError:
        pass
    write_whole(file, data)
    file.chmod(0o644)
    return True
