"""The compose file: from planned engines to one document. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from modeltainer.compose import images
from modeltainer.compose.engine_service import engine_services, key_secret
from modeltainer.compose.hardening import hardened
from modeltainer.compose.observability import observability_services
from modeltainer.compose.plan import Replica
from modeltainer.compose.project import GATEWAY_PORT, Project, bind_mount, published

HEADER = "# Written by `mt-submit compose`; change models.yaml and render it again.\n"


def render(replicas: Sequence[Replica], project: Project) -> dict[str, Any]:
    """The whole document, as plain YAML types."""
    services: dict[str, Any] = {
        "gateway": _gateway(project),
        "registrar": _registrar(replicas, project),
    }
    secrets: dict[str, Any] = {}
    for replica in replicas:
        services.update(engine_services(replica, project))
        names = [key_secret(replica)]
        names += [f"{replica.service}-{name.lower()}" for name in replica.secrets]
        secrets.update({name: {"file": str(project.secrets / name)} for name in names})
    services.update(observability_services(replicas, project))
    secrets["metrics-key"] = {"file": str(project.secrets / "metrics-key")}
    secrets["grafana-password"] = {"file": str(project.secrets / "grafana-password")}
    services["proxy"] = _proxy(project)
    document = {
        "name": "modeltainer",
        "services": services,
        "networks": {
            "front": {},
            "download": {},
            "engines": {"internal": True},
            "observe": {"internal": True},
        },
        "secrets": secrets,
    }
    escaped: dict[str, Any] = _escaped(document)
    return escaped


def to_yaml(document: dict[str, Any]) -> str:
    """The document as text, its services in the order they were put in."""
    return HEADER + yaml.dump(
        document, Dumper=_NoAliases, sort_keys=False, allow_unicode=True, width=100
    )


class _NoAliases(yaml.SafeDumper):
    """Writes shared values out: anchors named id001 help nobody who reads the file."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _escaped(value: Any) -> Any:
    """Compose reads ``$`` as the start of a variable; twice, it is itself."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    if isinstance(value, dict):
        return {name: _escaped(item) for name, item in value.items()}
    return value


def _own_image(project: Project) -> dict[str, Any]:
    own: dict[str, Any] = {"image": images.GATEWAY}
    if project.build_context is not None:
        own["build"] = {
            "context": str(project.build_context),
            "dockerfile": "compose/Dockerfile",
        }
    return own


def _gateway(project: Project) -> dict[str, Any]:
    check = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{GATEWAY_PORT}/ready')"
    return {
        **_own_image(project),
        **hardened(project.user, cpus=2.0, memory_mib=1024),
        "command": [
            *("mt-submit", "gateway", "start", "--foreground", "--listen", "tcp"),
            *("--host", "0.0.0.0", "--port", str(GATEWAY_PORT)),  # noqa: S104
            *("--log", "/logs/gateway.jsonl"),
        ],
        "environment": {
            "HOME": "/tmp",  # noqa: S108
            "MODELTAINER_CONFIG": "/etc/modeltainer/models.yaml",
            "MODELTAINER_REGISTRY": "/registry",
        },
        "volumes": [
            bind_mount(project.folder / "models.yaml", "/etc/modeltainer/models.yaml"),
            bind_mount(project.registry, "/registry", read_only=False),
            bind_mount(project.logs, "/logs", read_only=False),
        ],
        "ports": [published(project.bind, project.port, GATEWAY_PORT)],
        "networks": ["front", "engines", "observe"],
        "healthcheck": {
            "test": ["CMD", "/opt/modeltainer/bin/python", "-c", check],
            "interval": "10s",
            "timeout": "5s",
            "retries": 3,
            "start_period": "20s",
        },
        "stop_grace_period": "40s",
    }


def _registrar(replicas: Sequence[Replica], project: Project) -> dict[str, Any]:
    keys = [{"source": key_secret(one), "target": key_secret(one)} for one in replicas]
    return {
        **_own_image(project),
        **hardened(project.user, cpus=0.5, memory_mib=256),
        "command": [
            *("python", "-m", "modeltainer.compose.registrar"),
            *("--engines", "/etc/modeltainer/engines.json"),
            *("--registry", "/registry"),
            *("--keys", "/run/secrets"),
        ],
        "environment": {"HOME": "/tmp"},  # noqa: S108
        "secrets": keys,
        "volumes": [
            bind_mount(project.folder / "engines.json", "/etc/modeltainer/engines.json"),
            bind_mount(project.registry, "/registry", read_only=False),
        ],
        "networks": ["engines"],
        "stop_grace_period": "10s",
    }


def _proxy(project: Project) -> dict[str, Any]:
    return {
        "image": images.CADDY,
        "profiles": ["tls"],
        **hardened(project.user, cpus=1.0, memory_mib=256),
        # The image's caddy carries this as a file capability; without it the kernel will not even
        # start the program (capabilities(7)).
        "cap_add": ["NET_BIND_SERVICE"],
        "command": ["caddy", "run", "--config", "/etc/caddy/Caddyfile"],
        "environment": {
            "MODELTAINER_UPSTREAM": f"gateway:{GATEWAY_PORT}",
            "MODELTAINER_TLS": "internal",
            "MODELTAINER_SITE": f"https://localhost:{project.tls_port}",
            "XDG_DATA_HOME": "/data",
            "XDG_CONFIG_HOME": "/config",
        },
        "volumes": [
            bind_mount(project.folder / "etc" / "Caddyfile", "/etc/caddy/Caddyfile"),
            bind_mount(project.folder / "data" / "caddy", "/data", read_only=False),
            bind_mount(project.folder / "data" / "caddy-config", "/config", read_only=False),
        ],
        "ports": [published(project.bind, project.tls_port, project.tls_port)],
        "networks": ["front"],
        "depends_on": {"gateway": {"condition": "service_healthy"}},
    }
