"""One engine as a compose service: the agent's own command line, inside a hardened container."""

from __future__ import annotations

from typing import Any

from modeltainer.compose.hardening import hardened
from modeltainer.compose.plan import Replica
from modeltainer.compose.project import Project
from modeltainer.jobs.engines import EngineStart, engine_for

DEFAULT_MEMORY_MIB = 16 * 1024
"""Where models.yaml does not say resources.memory."""

WITH_SECRETS = (
    'for name in $MODELTAINER_SECRETS; do export "$name=$(cat "/run/secrets/$name")"; done; '
    'exec "$@"'
)
"""Engines take their key from the environment, compose gives secrets as files: this joins them, so
that no secret is in the compose file, in ``docker inspect`` or in a command line."""


def engine_services(replica: Replica, project: Project) -> dict[str, dict[str, Any]]:
    """The services of one replica: one, or for a CPU engine one per processor family, of which
    the profile starts one; both answer to the same host name."""
    service = _service(replica, project)
    if replica.gpus:
        return {replica.service: service}
    alias = {"aliases": [replica.service]}
    found = {}
    for suffix, profile, platform in (
        ("", "cpu", "linux/amd64"),
        ("-arm", "arm", "linux/arm64"),
    ):
        networks = {**service["networks"], "engines": alias}
        found[replica.service + suffix] = {
            **service,
            "platform": platform,
            "profiles": [profile],
            "networks": networks,
        }
    return found


def key_variable(replica: Replica) -> str:
    """The environment variable from which this engine takes its key."""
    return engine_for(replica.spec.engine, replica.spec.runtime).key_variable


def key_secret(replica: Replica) -> str:
    """Name of the compose secret with the engine's key."""
    return f"{replica.service}-key"


def _service(replica: Replica, project: Project) -> dict[str, Any]:
    spec = replica.spec
    engine = engine_for(spec.engine, spec.runtime)
    nonce = project.identities[replica.service].nonce
    bind = "0.0.0.0"  # noqa: S104 (of a container without published ports)
    command = engine.command(EngineStart(spec, bind, replica.port, nonce))
    key = {"source": key_secret(replica), "target": engine.key_variable}
    secrets = [key] + [
        {"source": f"{replica.service}-{name.lower()}", "target": name} for name in replica.secrets
    ]
    service: dict[str, Any] = {
        "image": replica.image,
        "profiles": list(replica.profiles),
        **hardened(
            project.user,
            cpus=float(spec.resources.cpus),
            memory_mib=spec.resources.memory_mib or DEFAULT_MEMORY_MIB,
            pids=4096 if spec.engine == "vllm" else 512,
            scratch="2g",
        ),
        "entrypoint": ["/bin/sh", "-c", WITH_SECRETS, replica.service],
        "command": list(command.argv),
        "environment": {
            "HOME": "/tmp",  # noqa: S108
            **command.env,
            **spec.env,
            "MODELTAINER_SECRETS": " ".join(one["target"] for one in secrets),
        },
        "secrets": secrets,
        "volumes": _volumes(replica, project),
        "expose": [str(replica.port)],
        # engines has no way out; only what downloads its weights gets one.
        "networks": {"engines": {}, **({"download": {}} if spec.source.kind == "hub" else {})},
        "healthcheck": _healthcheck(replica),
        "stop_grace_period": f"{spec.drain_s + 5}s",
    }
    if spec.engine == "vllm":
        # torch's processes exchange tensors there; tensor parallelism needs more than Docker's 64m.
        service["shm_size"] = "8g" if spec.resources.gpus > 1 else "1g"
    if replica.gpus:
        device = {
            "driver": "nvidia",
            "device_ids": list(replica.gpus),
            "capabilities": ["gpu"],
        }
        service["deploy"] = {"resources": {"reservations": {"devices": [device]}}}
    return service


def _volumes(replica: Replica, project: Project) -> list[dict[str, Any]]:
    volumes: list[dict[str, Any]] = [
        {"type": "bind", "source": str(project.cache), "target": "/cache"}
    ]
    if replica.model_path is not None:
        volumes.append(
            {
                "type": "bind",
                "source": replica.model_path,
                "target": replica.spec.source.value,
                "read_only": True,
            }
        )
    return volumes


def _healthcheck(replica: Replica) -> dict[str, Any]:
    """By what each official image has: curl in llama.cpp's, Python in vLLM's."""
    url = f"http://127.0.0.1:{replica.port}/health"
    if replica.spec.engine == "vllm":
        code = f"import urllib.request as r; r.urlopen('{url}', timeout=4)"
        test = ["CMD", "python3", "-c", code]
    else:
        test = ["CMD", "curl", "--fail", "--silent", "--max-time", "4", url]
    return {
        "test": test,
        "interval": "10s",
        "timeout": "5s",
        "retries": 3,
        "start_period": f"{replica.spec.load_timeout_s}s",
    }
