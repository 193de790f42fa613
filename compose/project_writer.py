"""Writes a project's folder: compose.yaml, secrets, settings, and folders for data."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from modeltainer.compose.engine_service import key_secret
from modeltainer.compose.engines_file import EngineEntry, encode_engines, read_engines
from modeltainer.compose.observability import prometheus_settings
from modeltainer.compose.plan import Replica
from modeltainer.compose.project import GATEWAY_PORT, Identity, Project
from modeltainer.compose.render import render, to_yaml
from modeltainer.registry import keys, launches
from modeltainer.registry.atomic import write_whole
from modeltainer.registry.layout import Layout

_HERE = Path(__file__).parent
_ENGINES = "engines.json"
_STACK = {
    "Caddyfile": "proxy/Caddyfile",
    "alerts.yml": "prometheus/alerts.yml",
    "loki.yml": "loki/loki.yml",
    "config.alloy": "loki/config.alloy",
    "grafana": "grafana",
}
_DATA = ("caddy", "caddy-config", "prometheus", "grafana", "loki", "alloy")


def with_identities(replicas: Sequence[Replica], project: Project) -> tuple[list[Replica], Project]:
    """The replicas with the launch ids, and the project with the identities, that it already has;
    new ones where it has none. So a project rendered again does not restart engines for nothing."""
    before: dict[str, EngineEntry] = {}
    with contextlib.suppress(OSError, ValueError):
        before = {entry.service: entry for entry in read_engines(project.folder / _ENGINES)}
    identities = {}
    renamed = []
    for one in replicas:
        known = before.get(one.service)
        if known is not None and known.spec.model == one.spec.model:
            identity = known.identity
        else:
            identity = Identity(one.spec.launch_id, launches.new_secret().nonce)
        identities[one.service] = identity
        renamed.append(replace(one, spec=replace(one.spec, launch_id=identity.launch_id)))
    return renamed, replace(project, identities=identities)


def write_project(
    replicas: Sequence[Replica],
    project: Project,
    *,
    models: Mapping[str, Any],
    secret_values: Mapping[str, Mapping[str, str]],
) -> None:
    """Write everything. Keys that are there stay as they are.

    Args:
        replicas, project: as :func:`with_identities` gives them.
        models: models.yaml for the gateway (:func:`gateway_models`).
        secret_values: by model: the engine's secret environment.

    Raises:
        OSError: the folder cannot be written.
    """
    owner = _Owner(project.user)
    layout = Layout(project.registry)
    folders = [project.folder, project.secrets, project.logs, project.cache]
    folders += [project.folder / "data", *(project.folder / "data" / name for name in _DATA)]
    for folder in folders:
        owner.folder(folder)
    layout.create()
    for folder in (layout.root, layout.launches, layout.endpoints, layout.gateway, layout.keys):
        owner.give(folder)
    for one in replicas:
        key_file = project.secrets / key_secret(one)
        if not key_file.exists():
            owner.file(key_file, launches.new_secret().key.encode())
        for name, value in secret_values.get(one.spec.model, {}).items():
            owner.file(project.secrets / f"{one.service}-{name.lower()}", value.encode())
    _keep_metrics_key(project, layout, owner)
    password = project.secrets / "grafana-password"
    if not password.exists():
        owner.file(password, secrets.token_urlsafe(24).encode())
    entries = [
        EngineEntry(
            one.service, one.port, key_secret(one), project.identities[one.service], one.spec
        )
        for one in replicas
    ]
    owner.file(project.folder / _ENGINES, encode_engines(entries))
    owner.file(project.folder / "models.yaml", _yaml(models))
    etc = project.folder / "etc"
    owner.folder(etc)
    for name, source in _STACK.items():
        _copy(_HERE / source, etc / name, owner)
    owner.file(etc / "prometheus.yml", _yaml(prometheus_settings(replicas)))
    owner.file(project.file, to_yaml(render(replicas, project)).encode())


def gateway_models(data: Mapping[str, Any], replicas: Sequence[Replica]) -> dict[str, Any]:
    """models.yaml as the gateway's container needs it: the rendered models only, with the
    container's paths; secrets and the site's own settings are left out.

    Args:
        data: the file's own values (:func:`modeltainer.config.document.read_document`).
    """
    served = {one.spec.model: one for one in replicas}
    models = {}
    for name, section in data.get("models", {}).items():
        if name in served:
            kept = {key: value for key, value in section.items() if key != "secrets"}
            path = served[name].model_path
            if path is not None:
                kept["source"] = {"path": served[name].spec.source.value}
            models[name] = kept
    gateway = {key: value for key, value in (data.get("gateway") or {}).items() if key != "socket"}
    ours = {"site", "gateway", "models", "splits"}
    others = {key: value for key, value in data.items() if key not in ours}
    return {
        "site": {"registry": "/registry", "cache": "/tmp/cache", "executor": "local"},  # noqa: S108
        "gateway": {
            **gateway,
            "listen": "tcp",
            "host": "0.0.0.0",  # noqa: S104 (in the container; the project publishes on loopback)
            "port": GATEWAY_PORT,
            "auth": "keys",
        },
        **others,
        "models": models,
        "splits": _splits_among(models, data.get("splits") or {}),
    }


def _splits_among(
    models: Collection[str], splits: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, int]]:
    """Names that are split, with the arms that are here; those of which none is are left out."""
    here = {
        name: {model: weight for model, weight in arms.items() if model in models}
        for name, arms in splits.items()
    }
    return {name: arms for name, arms in here.items() if any(arms.values())}


class _Owner:
    """Makes files and folders for the user of the services; root gives them away."""

    def __init__(self, user: str) -> None:
        self._uid, self._gid = (int(part) for part in user.split(":"))

    def folder(self, path: Path) -> None:
        if not path.is_dir():
            path.mkdir(parents=True, mode=0o700)
            self.give(path)

    def file(self, path: Path, data: bytes) -> None:
        write_whole(path, data)
        self.give(path)

    def give(self, path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, self._uid, self._gid, follow_symlinks=False)


def _keep_metrics_key(project: Project, layout: Layout, owner: _Owner) -> None:
    """Prometheus is a client of the gateway like any other, with a key of its own."""
    file = project.secrets / "metrics-key"
    if file.exists():
        return
    record, plain = keys.create(layout, "prometheus")
    owner.give(layout.keys / f"{record.id}.json")
    owner.file(file, plain.encode())


def _copy(source: Path, target: Path, owner: _Owner) -> None:
    if source.is_file():
        owner.file(target, source.read_bytes())
        return
    owner.folder(target)
    for below in source.iterdir():
        if below.is_dir() or below.name.endswith((".json", ".yml")):
            _copy(below, target / below.name, owner)


def _yaml(data: Mapping[str, Any]) -> bytes:
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True).encode()
