"""What the registry's files say: plain dataclasses and their JSON, checked on reading."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, TypeVar

import msgspec

from modeltainer.spec import EngineName, RuntimeName

RECORD_SCHEMA = 1
MAX_RECORD_BYTES = 64 * 1024
"""A record is a few hundred bytes; anything near this is foreign or damaged and is not read."""


class State(str, Enum):
    """Where a launch is in its life. ``submitted`` and ``queued`` are the login side's knowledge
    (Slurm), the rest is written by the agent."""

    SUBMITTED = "submitted"
    QUEUED = "queued"
    STARTING = "starting"
    PULLING = "pulling"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    ENDED = "ended"


@dataclass(frozen=True)
class Cause:
    """Why a launch ended, in words.

    ``code`` is stable, for scripts and for docs/troubleshooting.md (``out-of-memory``,
    ``gated-model``, ``port-in-use``, ``stopped``, ``walltime``, …); ``message`` says what
    happened; ``hint`` what to do next; ``log`` holds the engine's last lines.
    """

    code: str
    message: str
    hint: str = ""
    log: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """False for the endings that were asked for or planned."""
        return self.code not in {"stopped", "walltime", "drained"}


@dataclass(frozen=True)
class Clocks:
    """The separate clocks of a start, in seconds; None while not reached. Queue time is not here:
    it is Slurm's, and never counts as start-up time."""

    pulling_s: float | None = None
    staging_s: float | None = None
    """Copying image and weights to the node's own disk (``site.node_cache``)."""
    loading_s: float | None = None
    """From the engine's start to its first answered token."""
    weights_s: float | None = None
    """Of it, reading the weights, as the engine says; None where it does not, as for the next."""
    compile_s: float | None = None
    warm_up_s: float | None = None
    """Profiling, KV cache and graphs."""
    serving_s: float | None = None


@dataclass(frozen=True)
class Endpoint:
    """One agent's file: the state of one replica, and once ready its address.

    ``counter`` grows by one at each renewal, about every ``period_s`` seconds; a reader that sees
    no growth for several periods on its own monotonic clock takes the writer for dead.
    Wall-clock fields (``*_unix``) are for display and for walltime planning, never for liveness.
    """

    launch_id: str
    model: str
    replica: int
    job_id: str
    owner: str
    engine: EngineName
    runtime: RuntimeName
    state: State
    node: str
    aliases: tuple[str, ...] = ()
    host: str | None = None
    port: int | None = None
    tls: bool = False
    """It speaks TLS, with the certificate in its launch's secret."""
    served_name: str | None = None
    """The name to put into ``model`` of a request that goes to the engine."""
    engine_version: str | None = None
    context: int | None = None
    devices: tuple[str, ...] = ()
    """GPUs or slices as Slurm handed them out (indices or UUIDs); empty on CPU."""
    gres: str | None = None
    nodes: int = 1
    """How many nodes serve it together; ``node`` is the one that answers."""
    counter: int = 0
    period_s: float = 5.0
    started_unix: float = 0.0
    ready_unix: float | None = None
    ends_unix: float | None = None
    """When Slurm will end the job (None: no limit known)."""
    ended_unix: float | None = None
    """When it ended, where its agent could still say so."""
    clocks: Clocks = field(default_factory=Clocks)
    cause: Cause | None = None
    agent_pid: int = 0
    schema: int = RECORD_SCHEMA

    @property
    def key(self) -> str:
        """Names the file: ``<job>.<launch_id>``."""
        return f"{self.job_id}.{self.launch_id}"

    @property
    def url(self) -> str | None:
        """Base URL of the engine; None before it has an address."""
        if self.host is None or self.port is None:
            return None
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"


@dataclass(frozen=True)
class Submission:
    """What the login side knows after submitting: which job a launch became."""

    launch_id: str
    model: str
    replica: int
    executor: Literal["slurm", "local", "sbatch", "compose"]
    job_id: str
    submitted_unix: float
    partition: str | None = None
    gres: str | None = None
    host: str | None = None
    """Local executor: the host on which process ``job_id`` runs."""
    local_start_ticks: int | None = None
    """Local executor: start time of process ``job_id`` in clock ticks (``/proc/PID/stat`` field
    22), so that a reused pid is never signalled."""
    schema: int = RECORD_SCHEMA


@dataclass(frozen=True)
class LaunchSecret:
    """A launch's own credentials; its file is readable by its owner only.

    ``key`` is the bearer token the engine demands; ``nonce`` is a second served model name that
    only this launch's engine lists, so that a stranger's server on a reused port is never adopted.
    """

    key: str
    nonce: str
    env: dict[str, str] = field(default_factory=dict)
    """Secret environment of the engine (for example HF_TOKEN), resolved on the login side."""
    certificate: str | None = None
    """PEM; the engine speaks TLS with it, and clients trust nothing else. None: plain HTTP."""
    private_key: str | None = None
    """PEM, of the certificate."""


@dataclass(frozen=True)
class Rendezvous:
    """Where the other nodes of a launch find its head."""

    address: str
    """IPv4 address of the head."""
    port: int
    image: str | None = None
    """Path of the SIF that the head runs."""
    schema: int = RECORD_SCHEMA


@dataclass(frozen=True)
class RankRecord:
    """One of the other nodes of a launch; ``counter`` grows every ``period_s`` seconds."""

    rank: int
    node: str
    counter: int = 0
    period_s: float = 5.0
    cause: Cause | None = None
    """Why its part has ended."""
    schema: int = RECORD_SCHEMA


@dataclass(frozen=True)
class RunRecord:
    """What one job has cost, as its agent saw it."""

    job_id: str
    launch_id: str
    model: str
    owner: str
    gpus: float
    """GPUs or slices of all its nodes together; a GPU that is shared counts by its part."""
    started_unix: float
    seen_unix: float
    """When the agent last said that the job runs; once ``ended``, its end."""
    gres: str | None = None
    ended: bool = False
    schema: int = RECORD_SCHEMA


RecordT = TypeVar("RecordT", Endpoint, Submission, LaunchSecret, Rendezvous, RankRecord, RunRecord)


class BadRecordError(ValueError):
    """A registry file is half-written, foreign, oversized or of another schema."""


def encode(
    record: Endpoint | Submission | LaunchSecret | Rendezvous | RankRecord | RunRecord,
) -> bytes:
    """A record as one JSON document with a final newline (its presence shows it is whole)."""
    return msgspec.json.encode(record) + b"\n"


def decode(data: bytes, kind: type[RecordT]) -> RecordT:
    """Read a record.

    Raises:
        BadRecordError: not whole, not JSON, wrong types, oversized or of a newer schema.
    """
    if len(data) > MAX_RECORD_BYTES:
        raise BadRecordError(f"{len(data)} bytes are too many for a record")
    try:
        record = msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRecordError(str(error)) from error
    schema = getattr(record, "schema", RECORD_SCHEMA)
    if schema != RECORD_SCHEMA:
        raise BadRecordError(f"schema {schema}, this version reads {RECORD_SCHEMA}")
    return record
