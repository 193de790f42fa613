"""Can this machine start the project? Asked before anything starts."""

from __future__ import annotations

import errno
import shutil
import socket
import subprocess
from collections.abc import Sequence

from modeltainer.compose.plan import Replica
from modeltainer.compose.project import Project

_TIMEOUT_S = 20


def problems(
    replicas: Sequence[Replica], project: Project, profiles: Sequence[str] | None
) -> list[str]:
    """What is wanting here, one line each: Docker with Compose v2, GPUs, the published ports."""
    found = []
    if shutil.which("docker") is None:
        found.append("docker is not on PATH; install Docker Engine with its compose plugin")
    elif not _succeeds(["docker", "compose", "version"]):
        found.append("docker has no compose plugin; install docker-compose-plugin (v2)")
    wanted = sum(len(one.gpus) for one in replicas)
    here = _gpu_count() if wanted else 0
    if wanted > here:
        found.append(
            f"the models want {wanted} GPU(s), nvidia-smi lists {here} on this machine; name fewer "
            "models, or those without GPUs"
        )
    ports = {"the gateway": project.port}
    if profiles and "tls" in profiles:
        ports["the TLS proxy"] = project.tls_port
    if profiles and "observability" in profiles:
        ports["Grafana"] = project.grafana_port
    for what, port in ports.items():
        reason = _cannot_bind(project.bind, port)
        if reason is not None:
            found.append(f"{what} cannot have {project.bind}:{port}: {reason}; choose another port")
    return found


def _gpu_count() -> int:
    try:
        done = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines())


def _succeeds(command: Sequence[str]) -> bool:
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _cannot_bind(address: str, port: int) -> str | None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((address, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return "another program listens there"
            return error.strerror
    return None
