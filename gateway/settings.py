"""The ``gateway:`` section of models.yaml. Light to import: the CLI reads it on every start."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_WORKERS = 64


class ColdStartSettings(BaseModel):
    """What happens to a request for a model that is down. Times in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    enabled: bool = False
    """Start any model of models.yaml at its first request (those declared with ``up --keep --min
    0`` are started in any case)."""
    wait: Annotated[float, Field(ge=0, le=3600)] = 120.0
    """How long a request is held until the model serves; then it gets 503 and when to try again."""
    max_jobs: Annotated[int, Field(ge=1)] = 4
    """Models that may be up at once because they were asked for."""
    gpu_hours: Annotated[float, Field(gt=0)] | None = None
    """GPU hours a day (UTC) that each model started so may use; left out: no limit. A new value
    holds for a model from its next start."""
    total_gpu_hours: Annotated[float, Field(gt=0)] | None = None
    """GPU hours a day (UTC) that all models started so may use together: beyond them none is
    started, and those that run are let go. Models of ``up --keep`` have their own limits. A new
    value holds for a model from its next start."""
    max_held: Annotated[int, Field(ge=1)] = 256
    """Requests that are held at once."""
    idle_release: Annotated[float, Field(ge=10)] = 900.0
    """Without a request for so long, such a model is stopped."""


class BatchSettings(BaseModel):
    """``/v1/files`` and ``/v1/batches``: many requests at once, answered into a file."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    enabled: bool = True
    """Take files and batches."""
    concurrency: Annotated[int, Field(ge=1, le=4096)] = 16
    """Rows of one batch that are under way at once."""
    max_running: Annotated[int, Field(ge=1)] = 4
    """Batches under way at once; keys take turns."""
    max_open: Annotated[int, Field(ge=1)] = 64
    """Batches of one key that are not over."""
    max_file_bytes: Annotated[int, Field(ge=1024)] = 100 * 1024 * 1024
    """Largest input file; while its batch runs it takes about five times as much memory."""
    max_stored_bytes: Annotated[int, Field(ge=1024)] = 10 * 1024 * 1024 * 1024
    """All files in the registry together; beyond it, no more are taken until some are deleted."""


class GatewaySettings(BaseModel):
    """How the gateway listens, whom it lets in and how long it waits. Times in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    listen: Literal["unix", "tcp"] = "unix"
    """``unix``: a socket only you can reach (login nodes are shared); ``tcp``: host and port."""
    socket: Path | None = None
    """Path of the Unix socket, in a folder that only you can enter; left out, one is made on this
    host (``mt-submit gateway status`` says where)."""
    host: str = "127.0.0.1"
    """TCP address to listen on. Every user of a shared node can reach 127.0.0.1: keys decide."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """TCP port; 0 takes any free one (``mt-submit gateway status`` says which)."""
    auth: Literal["keys", "none"] = "keys"
    """``none`` is for a Unix socket only, where the file system already decides who may connect."""
    connect_timeout: Annotated[float, Field(gt=0, le=60)] = 2.0
    """To reach an engine; then the next replica is tried."""
    pool_timeout: Annotated[float, Field(gt=0, le=600)] = 10.0
    """To get one of an endpoint's connections when all are taken."""
    first_byte_timeout: Annotated[float, Field(gt=0)] = 600.0
    """From the request to the first byte of the answer's body, for a stream to its first event
    (long prompts take minutes); no other replica is asked then, it would take as long."""
    first_token_timeout: Annotated[float, Field(gt=0)] | None = None
    """From a streaming request to the answer's first event; then another replica is tried if there
    is one, and the last one may take ``first_byte_timeout``. Left out: no second try."""
    idle_timeout: Annotated[float, Field(gt=0)] = 120.0
    """Between two pieces of a running answer."""
    total_timeout: Annotated[float, Field(gt=0)] | None = None
    """For a request as a whole, streams included; left out: no limit."""
    ping_interval: Annotated[float, Field(ge=0)] = 0.0
    """Send ``: ping`` comments to the client of a stream while its prompt is read or its model
    starts, this often; 0 sends none. The status is then 200 even if the engine fails: the error
    comes as an event, and ``x-modeltainer-attempts`` is left out."""
    usage: bool = True
    """Count tokens by key, model and user (``mt-submit usage``): streams are asked for their token
    counts, and clients that did not ask for them do not see them."""
    routing: Literal["least_loaded", "prefix"] = "least_loaded"
    """``least_loaded``: the replica with the fewest requests under way. ``prefix``: prompts that
    begin alike go to the same replica, whose cache has their beginning, unless it has far more to
    do than the others. Requests of one session stay together in any case."""
    walltime_reserve: Annotated[float, Field(ge=0)] = 120.0
    """A replica whose job ends sooner than this gets requests only if there is no other. Where a
    request's ``max_tokens`` take longer, as fast as the model's streams are, one whose job ends
    before they have come (600 s count at most) gets it only if the others do not last either, or
    have far more to do."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 32 * 1024 * 1024
    """Largest request body."""
    max_buffered_bytes: Annotated[int, Field(ge=1024)] = 1024 * 1024 * 1024
    """Bodies of more than 1 MiB that are held at once, from their first byte to the answer's last;
    beyond this, requests wait for ``pool_timeout``, and then get 503. A key that holds some leaves
    ``max_body_bytes`` of it to the others, or half of it where that is less. Workers share it out,
    but each may hold ``max_body_bytes``."""
    max_connections: Annotated[int, Field(ge=1)] = 1024
    """Connections to one endpoint."""
    drain: Annotated[float, Field(ge=0)] = 30.0
    """How long running answers may go on after SIGTERM."""
    poll_interval: Annotated[float, Field(gt=0, le=60)] = 1.0
    """Between two looks at the registry."""
    log_max_bytes: Annotated[int, Field(ge=0)] = 100 * 1024 * 1024
    """From this size on the log's file becomes ``gateway.HOST.log.1``, what was that
    ``gateway.HOST.log.2``, and a new one is begun; 0: never, where something else sees to it (a
    file that was moved is opened again in any case)."""
    log_kept: Annotated[int, Field(ge=1, le=1000)] = 4
    """How many of those there may be; the oldest goes."""

    workers: Annotated[int, Field(ge=1, le=MAX_WORKERS)] = 1
    """Processes that share the work: one core passes on about 20,000 tokens a second. Keys' limits
    hold over all of them and metrics are their sums, but each chooses among replicas by itself."""
    tracing: bool = False
    """Send a span of each request by OpenTelemetry's OTLP, to where ``OTEL_EXPORTER_OTLP_ENDPOINT``
    says. Needs ``pip install 'modeltainer[otel]'``."""
    reconcile: bool = True
    """Keep up what ``mt-submit up --keep`` has declared, for as long as the gateway runs."""
    cold_start: ColdStartSettings = ColdStartSettings()
    """Start models at their first request."""
    batches: BatchSettings = BatchSettings()
    """Take files of requests, to be answered in the background."""

    @model_validator(mode="after")
    def _room_for_one(self) -> GatewaySettings:
        if self.max_buffered_bytes < self.max_body_bytes:
            raise ValueError("max_buffered_bytes must be at least max_body_bytes")
        return self

    @model_validator(mode="after")
    def _no_open_door(self) -> GatewaySettings:
        if self.auth == "none" and self.listen == "tcp":
            raise ValueError(
                "auth: none needs listen: unix; on a TCP port every user of this host could come in"
            )
        return self
