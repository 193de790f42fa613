"""Prometheus, Grafana, Loki and the log collector, as services of the profile ``observability``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modeltainer.compose import images
from modeltainer.compose.engine_service import key_secret
from modeltainer.compose.hardening import hardened
from modeltainer.compose.plan import Replica
from modeltainer.compose.project import GATEWAY_PORT, Project, bind_mount, published

PROFILE = "observability"


def observability_services(replicas: Sequence[Replica], project: Project) -> dict[str, Any]:
    """The four services. Only Grafana is published, on the project's own address."""
    etc, data = project.folder / "etc", project.folder / "data"
    common = {"profiles": [PROFILE], "networks": ["observe"]}
    return {
        "prometheus": {
            "image": images.PROMETHEUS,
            **common,
            **hardened(project.user, cpus=1.0, memory_mib=1024),
            "command": [
                "--config.file=/etc/prometheus/prometheus.yml",
                "--storage.tsdb.path=/prometheus",
                "--storage.tsdb.retention.time=15d",
            ],
            "volumes": [
                bind_mount(etc / "prometheus.yml", "/etc/prometheus/prometheus.yml"),
                bind_mount(etc / "alerts.yml", "/etc/prometheus/alerts.yml"),
                bind_mount(data / "prometheus", "/prometheus", read_only=False),
            ],
            "secrets": ["metrics-key", *(key_secret(one) for one in replicas)],
            "networks": ["observe", "engines"],
        },
        "grafana": {
            "image": images.GRAFANA,
            **common,
            **hardened(project.user, cpus=1.0, memory_mib=512),
            "environment": {
                "GF_SECURITY_ADMIN_PASSWORD__FILE": "/run/secrets/grafana-password",
                "GF_ANALYTICS_REPORTING_ENABLED": "false",
                "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
                "GF_USERS_ALLOW_SIGN_UP": "false",
                "GF_PATHS_PROVISIONING": "/etc/grafana/provisioning",
            },
            "volumes": [
                bind_mount(etc / "grafana" / "provisioning", "/etc/grafana/provisioning"),
                bind_mount(etc / "grafana" / "dashboards", "/etc/grafana/dashboards"),
                bind_mount(data / "grafana", "/var/lib/grafana", read_only=False),
            ],
            "secrets": ["grafana-password"],
            "ports": [published(project.bind, project.grafana_port, 3000)],
            "networks": ["observe", "front"],
        },
        "loki": {
            "image": images.LOKI,
            **common,
            **hardened(project.user, cpus=1.0, memory_mib=1024),
            "command": ["-config.file=/etc/loki/loki.yml"],
            "volumes": [
                bind_mount(etc / "loki.yml", "/etc/loki/loki.yml"),
                bind_mount(data / "loki", "/loki", read_only=False),
            ],
        },
        "collector": {
            "image": images.ALLOY,
            **common,
            **hardened(project.user, cpus=0.5, memory_mib=512),
            # It reads files and not Docker's socket, which would be as good as root.
            "command": [
                *("run", "--disable-reporting", "--storage.path=/data"),
                "/etc/alloy/config.alloy",
            ],
            "volumes": [
                bind_mount(etc / "config.alloy", "/etc/alloy/config.alloy"),
                bind_mount(project.logs, "/logs"),
                bind_mount(data / "alloy", "/data", read_only=False),
            ],
        },
    }


def prometheus_settings(replicas: Sequence[Replica]) -> dict[str, Any]:
    """``prometheus.yml``: the gateway, with a client key of its own, and each engine with its."""
    return {
        "global": {"scrape_interval": "15s", "evaluation_interval": "15s"},
        "rule_files": ["alerts.yml"],
        "scrape_configs": [
            {
                "job_name": "modeltainer-gateway",
                "authorization": {"credentials_file": "/run/secrets/metrics-key"},
                "static_configs": [{"targets": [f"gateway:{GATEWAY_PORT}"]}],
            },
            *(
                {
                    "job_name": replica.service,
                    "authorization": {"credentials_file": f"/run/secrets/{key_secret(replica)}"},
                    "static_configs": [
                        {
                            "targets": [f"{replica.service}:{replica.port}"],
                            "labels": {
                                "model": replica.spec.model,
                                "engine": replica.spec.engine,
                            },
                        }
                    ],
                }
                for replica in replicas
            ),
        ],
    }
