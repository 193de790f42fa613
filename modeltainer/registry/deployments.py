"""Declarations: what should run, whichever job carries it; and what the reconciler remembers.

``deployments/<name>.json`` is written by whoever declares (mt-submit, or the gateway at a cold
start), ``reconcile/<name>.json`` by the one reconciler that holds the lease.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from modeltainer.registry.atomic import read_bounded, write_whole
from modeltainer.registry.layout import Layout
from modeltainer.registry.records import MAX_RECORD_BYTES, Clocks

DEPLOYMENT_SCHEMA = 1
RECONCILER_LOCK = "reconciler.lock"


@dataclass(frozen=True)
class Deployment:
    """One model that should be served until it is stopped. Times in seconds."""

    model: str
    """The name in models.yaml."""
    revision: str
    """New whenever the jobs themselves should look different; launches carry it."""
    minimum: int = 1
    """Replicas that are always there; 0 starts with the first request."""
    maximum: int = 1
    """Replicas under load."""
    spare_partition: str | None = None
    """Where replicas beyond the minimum go, to be preempted there; None: where all go."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """The command line's wishes over models.yaml (fields of ``Overrides``)."""
    model_digest: str = ""
    """Of the model's entry in models.yaml, as it was when declared."""
    idle_release_s: float = 900.0
    """With a minimum of 0: without a request for so long, the last replica is let go."""
    target_in_flight: int = 8
    """Requests at once that one replica is meant to carry."""
    target_first_token_s: float = 10.0
    """Longest that streams (the 90th percentile) should wait for their first token."""
    gpu_hours_per_day: float | None = None
    """Beyond this nothing of it runs until the next day (UTC)."""
    on_demand: bool = False
    """A gateway has declared it, for a request."""
    shared_gpu_hours_per_day: float | None = None
    """When all models on demand have used so many together, nothing of it runs until the next day
    (UTC)."""
    created_unix: float = 0.0
    """When it was last declared; failures before that are forgiven."""
    schema: int = DEPLOYMENT_SCHEMA


@dataclass(frozen=True)
class History:
    """What the reconciler has learned about one model; survives the launches. Times in seconds."""

    model: str
    load_s: tuple[float, ...] = ()
    """The latest starts, from the job's start to ready."""
    queue_s: tuple[float, ...] = ()
    """The latest waits in the queue."""
    start: Clocks | None = None
    """The parts of the latest start."""
    failures: int = 0
    """Failed attempts in a row."""
    cause_code: str = ""
    cause: str = ""
    """Why the last one failed, in words."""
    failed_unix: float = 0.0
    gpu_seconds: dict[str, float] = field(default_factory=dict)
    """Per day (UTC, ``2026-01-31``): of launches that have ended."""
    on_demand_gpu_seconds: dict[str, float] = field(default_factory=dict)
    """The part of them that launches on demand have used."""
    measured: tuple[str, ...] = ()
    """Launches whose start is in :attr:`load_s` already."""
    counted: tuple[str, ...] = ()
    """Launches whose end is accounted for already."""
    wanted: int = 0
    """Replicas that the last look found right."""
    spent_day: str = ""
    """The day (UTC) whose GPU hours it has used up, if any."""
    shared_spent_day: str = ""
    """The day (UTC) whose GPU hours all models on demand have used up, if any."""
    note: str = ""
    """What holds the reconciler back, in words."""
    schema: int = DEPLOYMENT_SCHEMA


RecordT = TypeVar("RecordT", Deployment, History)


def file_name(model: str) -> str:
    """The records' file name: readable, and as unique as the model's name."""
    slug = re.sub(r"[^a-z0-9._-]+", "-", model.lower()).strip("-._")[:60] or "model"
    return f"{slug}-{hashlib.sha256(model.encode()).hexdigest()[:8]}.json"


def declare(layout: Layout, wished: Deployment) -> Deployment:
    """Write a declaration; what is declared already keeps its revision unless the jobs change.

    Args:
        wished: its ``revision`` is not looked at.

    Raises:
        OSError: the registry cannot be written.
    """
    layout.create()
    known = read(layout, wished.model)
    same = known is not None and _jobs_of(known) == _jobs_of(wished)
    revision = known.revision if known is not None and same else secrets.token_hex(6)
    made = replace(wished, revision=revision)
    write_whole(layout.deployments / file_name(wished.model), _encode(made))
    return made


def _jobs_of(declared: Deployment) -> tuple[object, ...]:
    return declared.overrides, declared.spare_partition, declared.model_digest


def read(layout: Layout, model: str) -> Deployment | None:
    """The declaration of a model; None when there is none (or it is damaged)."""
    found = _read(layout.deployments / file_name(model), Deployment)
    return found if found is not None and found.model == model else None


def read_all(layout: Layout) -> dict[str, Deployment]:
    """Every readable declaration by model, in order of the names.

    Raises:
        OSError: the folder is out of reach: nothing is known, and nothing may be taken as
            undeclared.
    """
    try:
        names = sorted(name for name in os.listdir(layout.deployments) if _is_record(name))
    except FileNotFoundError:
        return {}
    found = {}
    for name in names:
        try:
            one = _decode(read_bounded(layout.deployments / name, MAX_RECORD_BYTES)[0], Deployment)
        except FileNotFoundError:
            continue
        if one is not None and file_name(one.model) == name:
            found[one.model] = one
    return found


def withdraw(layout: Layout, model: str) -> bool:
    """Remove a declaration; False when there was none. What was learned stays.

    Raises:
        OSError: the registry cannot be written.
    """
    try:
        (layout.deployments / file_name(model)).unlink()
    except FileNotFoundError:
        return False
    return True


def read_history(layout: Layout, model: str) -> History:
    """What is remembered of a model; an empty record when there is nothing."""
    found = _read(layout.reconcile / file_name(model), History)
    return found if found is not None and found.model == model else History(model)


def read_histories(layout: Layout) -> dict[str, History]:
    """What is remembered, by model, of those too that are declared no more.

    Raises:
        OSError: the folder is out of reach.
    """
    try:
        names = sorted(name for name in os.listdir(layout.reconcile) if _is_record(name))
    except FileNotFoundError:
        return {}
    read = {name: _read(layout.reconcile / name, History) for name in names}
    return {
        one.model: one
        for name, one in read.items()
        if one is not None and file_name(one.model) == name
    }


def write_history(layout: Layout, history: History) -> None:
    """Remember.

    Raises:
        OSError: the registry cannot be written.
    """
    write_whole(layout.reconcile / file_name(history.model), _encode(history))


def reconciler(layout: Layout) -> str | None:
    """Who reconciles this registry (``host pid``); None when nobody claims to."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        words = (layout.reconcile / RECONCILER_LOCK).read_text().split()
        if len(words) >= 2:
            return f"{words[0]} pid {words[1]}"
    return None


def plain_overrides(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Wishes without those that were not made."""
    return {name: value for name, value in overrides.items() if value is not None}


def _is_record(name: str) -> bool:
    return name.endswith(".json") and not name.startswith(".")


def _encode(record: Deployment | History) -> bytes:
    return msgspec.json.encode(record) + b"\n"


def _decode(data: bytes, kind: type[RecordT]) -> RecordT | None:
    if len(data) > MAX_RECORD_BYTES:
        return None
    try:
        record = msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return record if record.schema == DEPLOYMENT_SCHEMA else None


def _read(path: Path, kind: type[RecordT]) -> RecordT | None:
    try:
        data, stat = read_bounded(path, MAX_RECORD_BYTES)
    except OSError:
        return None
    return _decode(data, kind) if stat.st_uid == os.getuid() else None
