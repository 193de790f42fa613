"""One launch, written down: what the login node decides and the compute node carries out.

A :class:`LaunchSpec` is the only thing that crosses from ``mt-submit`` to the agent in the job.
Its JSON file is written once by the login side and read by :mod:`modeltainer.jobs.agent`; the
sbatch file and submitit's job are both rendered from it. Plain dataclasses, decoded by msgspec:
the compute node must not pay for pydantic's import from a shared filesystem.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

EngineName = Literal["vllm", "llamacpp"]
RuntimeName = Literal["apptainer", "native", "embedded", "compose"]
GpuVendor = Literal["nvidia", "amd"]

SPEC_SCHEMA = 1


@dataclass(frozen=True)
class Source:
    """Where the weights come from.

    ``hub``: a Hugging Face repository id (``value``), optionally one ``file`` in it (a GGUF);
    ``path``: a folder (safetensors) or one ``.gguf`` file on the shared filesystem.
    """

    kind: Literal["hub", "path"]
    value: str
    revision: str | None = None
    file: str | None = None


@dataclass(frozen=True)
class Resources:
    """What one replica asks of the cluster. Memory in MiB, time in seconds."""

    nodes: int = 1
    """Nodes that serve one replica together; the other fields are for each of them."""
    gpus: int = 0
    """Whole GPUs or slices; 0 is a CPU job."""
    gpu_memory_mib: int | None = None
    """Memory wanted per GPU or slice; the smallest that holds it is chosen."""
    gpu_type: str | None = None
    """A GRES type as the site spells it (``a100``, ``a100_1g.10gb``); None: placement chooses."""
    mig: bool | str = False
    """May (True), must not (False) use a MIG slice, or must use this profile (``"1g.10gb"``)."""
    shared: bool = False
    """May it have a part of a GPU of which other jobs have the rest (Slurm's shards)?"""
    cpus: int = 4
    memory_mib: int | None = None
    walltime_s: int = 4 * 3600
    time_min_s: int | None = None
    """Slurm may give the job as little as this, if it can begin earlier for it."""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    nodelist: str | None = None
    exclude: str | None = None
    """Not these nodes: they have just fallen silent, and Slurm does not know yet."""


@dataclass(frozen=True)
class Share:
    """A part of one GPU, which nothing but the engine itself holds to it."""

    part: float
    """Of the GPU, above 0 and below 1."""
    gpu_type: str | None = None
    """The GPU's GRES type, which tells its memory; None where the site gives it none."""


@dataclass(frozen=True)
class Placement:
    """Where a launch goes, as Slurm's own options, and why (see ``mt-submit up --explain``)."""

    partition: str | None
    gres: str | None
    """As ``--gres`` takes it, e.g. ``gpu:a100_1g.10gb:1``; None for a CPU job."""
    walltime_s: int
    reasons: tuple[str, ...] = ()
    share: Share | None = None
    """The part of a GPU that it may use, where other jobs have the rest."""


@dataclass(frozen=True)
class NodeCache:
    """Copies of images and weights on the nodes' own disks."""

    folder: str
    """On the compute node; ``$USER`` and other variables of the job are filled in there."""
    when: Literal["network", "always"] = "network"
    """``network``: only what the node would read over the network."""
    limit_mib: int | None = None
    """What one user's copies may take on a node; None leaves it to the disk."""


@dataclass(frozen=True)
class Site:
    """What the agent must know of the site: folders on the shared filesystem, ports, binds."""

    registry: str
    """Root of the registry (absolute path on the shared filesystem)."""
    cache: str
    """Root of writable caches (Hugging Face, Triton, torch.compile), absolute."""
    binds: tuple[str, ...] = ()
    """Extra Apptainer binds, ``src[:dest[:opts]]``."""
    ports: tuple[int, int] | None = None
    """Inclusive range the site's firewall lets through; None takes any free port."""
    host_interface: str | None = None
    """Network interface whose address is registered (``ib0``); None takes the node's host name."""
    gpu_vendor: GpuVendor = "nvidia"
    engine_tls: bool = False
    """The engine speaks TLS, with a certificate that its launch's secret has."""
    node_cache: NodeCache | None = None


@dataclass(frozen=True)
class LaunchSpec:
    """Everything the agent needs to run one replica of one model."""

    launch_id: str
    """Unique, also a file name and a Slurm job name part: ``<model-slug>-r<replica>-<random>``."""
    model: str
    """The name in models.yaml; clients ask for it, and the engine serves under it."""
    replica: int
    engine: EngineName
    runtime: RuntimeName
    source: Source
    resources: Resources
    site: Site
    aliases: tuple[str, ...] = ()
    image: str | None = None
    """Apptainer: path of a SIF on the shared filesystem, or a URI (which is pulled once)."""
    command: tuple[str, ...] = ()
    """Native runtime: the command that starts the engine, e.g. ``["llama-server"]``; empty takes
    the engine's own default."""
    prelude: tuple[str, ...] = ()
    """Shell lines run in the job before the agent (``module load cuda/12.4``)."""
    context: int | None = None
    """Context length in tokens; None leaves it to the engine."""
    engine_args: dict[str, Any] = field(default_factory=dict)
    """Engine options as YAML values; nested ones are passed as JSON where the engine takes JSON."""
    env: dict[str, str] = field(default_factory=dict)
    placement: Placement | None = None
    load_timeout_s: int = 1800
    """From the engine's start to the first answered token; queue time never counts."""
    array: tuple[str, int] | None = None
    """Name of the job array whose task it is, and which; None: it has a job of its own."""
    drain_s: int = 30
    """How long running requests may go on after a stop was asked for."""
    early_signal_s: int = 120
    """How long before the walltime Slurm sends SIGURG (``--signal``)."""
    deployment: str | None = None
    """Revision of the declaration that this launch serves; None for a one-shot ``up``."""
    spare: bool = False
    """One of the replicas beyond the declared minimum, where jobs may be preempted."""
    on_demand: bool = False
    """A gateway has declared what it serves, for a request."""
    schema: int = SPEC_SCHEMA

    @property
    def gres(self) -> str | None:
        """GPUs as ``--gres`` takes them; off a cluster only their number is known. None on CPU."""
        if self.placement is not None:
            return self.placement.gres
        return f"gpu:{self.resources.gpus}" if self.resources.gpus else None

    @property
    def gpu_count(self) -> float:
        """GPUs of all its nodes together, for accounting: a slice counts as one, a shared GPU by
        its part."""
        if self.placement is not None and self.placement.share is not None:
            return self.placement.share.part
        return float(self.resources.gpus * self.resources.nodes)


def encode(spec: LaunchSpec) -> bytes:
    """The spec as JSON, indented for people who look into the launch folder."""
    return msgspec.json.format(msgspec.json.encode(spec), indent=2) + b"\n"


def decode(data: bytes) -> LaunchSpec:
    """Read :func:`encode`'s JSON.

    Raises:
        msgspec.ValidationError: a field is missing or of the wrong type (the message says where).
        msgspec.DecodeError: not JSON, or cut off.
    """
    return msgspec.json.decode(data, type=LaunchSpec)
