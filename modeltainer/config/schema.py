"""The schema of ``config/models.yaml``: one file for mt-submit, the gateway and compose."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from modeltainer.config.units import parse_duration_s, parse_size_mib
from modeltainer.gateway.settings import GatewaySettings


def _expand(path: Path) -> Path:
    text = os.path.expandvars(str(path))
    if "$" in text:
        name = re.search(r"\$\{?(\w+)", text)
        raise ValueError(f"the environment variable {name[1] if name else '?'} is not set")
    return Path(text).expanduser().absolute()


FolderPath = Annotated[Path, AfterValidator(_expand)]
"""A path; ``~`` and ``$VARIABLES`` are expanded, relative ones are taken from where you stand."""

MemoryMiB = Annotated[
    int,
    BeforeValidator(parse_size_mib),
    WithJsonSchema({"type": ["string", "integer"], "examples": ["24GiB", "512M", 4096]}),
]
"""Memory in MiB, written ``24GiB`` or as a bare number of MiB."""

Seconds = Annotated[
    int,
    BeforeValidator(parse_duration_s),
    WithJsonSchema({"type": ["string", "integer"], "examples": ["4:00:00", "1-00:00:00", "90m"]}),
]
"""A time span, written as Slurm does (a bare number is minutes) or as ``90m``."""

ModelName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/+-]*$", max_length=128)
]
EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


_OWN_OPTIONS = {
    "host": "it binds the job's own address (site.host_interface)",
    "port": "it takes a free port (site.ports)",
    "api-key": "each launch has a key of its own",
    "api-key-file": "each launch has a key of its own",
    "served-model-name": "use the model's name and aliases",
    "alias": "use the model's name and aliases",
    "model": "use source",
    "model-url": "use source",
    "hf-repo": "use source",
    "hf-file": "use source.file",
    "revision": "use source.revision",
    "ssl-keyfile": "use site.engine_tls",
    "ssl-certfile": "use site.engine_tls",
    "ssl-key-file": "use site.engine_tls",
    "ssl-cert-file": "use site.engine_tls",
    "ssl-cert-reqs": "the gateway shows no certificate; each launch has a key of its own",
    "enable-ssl-refresh": "each launch has one certificate, for as long as it lives",
    "nnodes": "use resources.nodes",
    "node-rank": "use resources.nodes",
    "master-addr": "use resources.nodes",
    "master-port": "use resources.nodes",
    "headless": "use resources.nodes",
    "max-model-len": "use context",
    "ctx-size": "use context",
}
"""Engine options that would break routing or identity, and what to use instead."""


class Section(BaseModel):
    """Base of every section: no unknown fields, no changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def sharing_refusal(gpus: int | None, nodes: int | None, mig: bool | str | None) -> str | None:
    """Why a model that asks for this cannot share a GPU (``resources.shared``); None if it can."""
    if gpus not in {None, 1}:
        return f"shared is for a part of one GPU, and gpus is {gpus}; leave one of them out"
    if nodes not in {None, 1}:
        return f"shared is for one node, and nodes is {nodes}; leave one of them out"
    if isinstance(mig, str):
        return (
            f"shared is for GPUs that are not cut into slices, and mig asks for {mig}; write "
            "mig: true where either will do"
        )
    return None


class SourceSection(Section):
    """Where the weights come from. Short forms: ``org/name`` for a hub id, or a path."""

    hub: Annotated[str, StringConstraints(pattern=r"^[\w.-]+/[\w.-]+$")] | None = None
    """Hugging Face repository id, ``org/name``."""
    path: FolderPath | None = None
    """A folder with safetensors, or one .gguf file, on the shared filesystem."""
    revision: str | None = None
    """Branch, tag or commit of the hub repository; pin a commit for repeatable answers."""
    file: str | None = None
    """One file of the hub repository (a GGUF), where it has several."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        long_form = handler.resolve_ref_schema(handler(core_schema))
        return {"anyOf": [{"type": "string"}, long_form]}

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value.startswith(("/", "~", ".", "$")) or value.endswith(".gguf"):
            return {"path": value}
        return {"hub": value}

    @model_validator(mode="after")
    def _one_kind(self) -> SourceSection:
        if (self.hub is None) == (self.path is None):
            raise ValueError("give either hub (a Hugging Face id) or path (a folder or .gguf file)")
        if self.path is not None and (self.revision or self.file):
            raise ValueError("revision and file belong to hub, not to path")
        return self


class ResourcesSection(Section):
    """What one replica asks for. Unset fields come from the site's defaults."""

    nodes: Annotated[int, Field(ge=1, le=64)] | None = None
    """Nodes that serve one replica together (vLLM on a cluster); the rest is for each of them."""
    gpus: Annotated[int, Field(ge=0, le=64)] | None = None
    """Whole GPUs or MIG slices; 0 for a CPU job."""
    gpu_memory: MemoryMiB | None = None
    """Memory needed per GPU or slice; the smallest that holds it is chosen."""
    gpu_type: str | None = None
    """A GRES type as the site spells it (``a100``); left out, placement chooses."""
    mig: bool | Annotated[str, StringConstraints(pattern=r"^\d+g\.\d+gb(\+me)?$")] | None = None
    """``true``: a MIG slice will do, ``false``: whole GPUs only, ``"1g.10gb"``: this profile."""
    shared: bool | None = None
    """``true``: a part of one GPU will do, where the site divides GPUs into Slurm's shards. Other
    jobs have the rest, and nothing keeps them from its memory."""
    cpus: Annotated[int, Field(ge=1, le=1024)] | None = None
    """CPU cores of the job."""
    memory: MemoryMiB | None = None
    """Host memory of the job."""
    walltime: Seconds | None = None
    """How long the job may run (Slurm's ``--time``)."""
    time_min: Seconds | None = None
    """Slurm may shorten the walltime to no less than this, if the job can begin earlier for it:
    before a maintenance, or in a gap between other jobs (Slurm's ``--time-min``)."""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    """Node features, as ``sbatch --constraint`` takes them."""
    nodelist: str | None = None
    """Only these nodes, as ``sbatch --nodelist`` takes them."""

    @model_validator(mode="after")
    def _shared_alone(self) -> ResourcesSection:
        refusal = sharing_refusal(self.gpus, self.nodes, self.mig) if self.shared else None
        if refusal is not None:
            raise ValueError(refusal)
        return self


class SecretSection(Section):
    """A secret by reference, never inline: exactly one of ``env`` and ``file``."""

    env: EnvName | None = None
    """Name of an environment variable of the shell that runs mt-submit."""
    file: FolderPath | None = None
    """A file that only you can read; its content without the final newline is the secret."""

    @model_validator(mode="before")
    @classmethod
    def _no_inline(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError(
                "a secret is never written into this file: use {env: NAME} or {file: PATH}"
            )
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> SecretSection:
        if (self.env is None) == (self.file is None):
            raise ValueError("give either env (a variable's name) or file (a path)")
        return self


class ModelSection(Section):
    """One model that can be brought up by its name."""

    engine: Literal["vllm", "llamacpp"]
    """The server that runs it."""
    source: SourceSection
    """The weights: ``org/name``, a path, or the long form."""
    aliases: tuple[ModelName, ...] = ()
    """Other names that clients may ask for."""
    description: str = ""
    """One line for people; shown by ``mt-submit models``."""
    context: Annotated[int, Field(ge=16)] | None = None
    """Context length in tokens; left out, the engine takes the model's own."""
    replicas: Annotated[int, Field(ge=1, le=256)] = 1
    """How many jobs serve it."""
    resources: ResourcesSection = ResourcesSection()
    """What one replica asks for; over the site's defaults."""
    runtime: Literal["apptainer", "native", "embedded"] | None = None
    """Left out: apptainer on a cluster; on a bare machine embedded (llama.cpp) or native (vLLM)."""
    image: str | None = None
    """A .sif path or an image URI (``docker://…``); left out, the site's image for the engine."""
    command: tuple[str, ...] = ()
    """Native runtime: how the engine is started, e.g. ``[llama-server]``."""
    prelude: tuple[str, ...] = ()
    """Shell lines before the engine in the job, e.g. ``module load cuda``."""
    engine_args: dict[str, Any] = Field(default_factory=dict)
    """The engine's own options by their long name, as YAML values; nested ones become JSON."""
    env: dict[EnvName, str] = Field(default_factory=dict)
    """Plain environment of the engine; for secrets use ``secrets``."""
    secrets: dict[EnvName, SecretSection] = Field(default_factory=dict)
    """Secret environment of the engine by reference, e.g. ``HF_TOKEN: {env: HF_TOKEN}``."""
    load_timeout: Seconds = 1800
    """How long loading may take, from the engine's start to its first token."""
    drain: Seconds = 30
    """How long running requests may go on after a stop."""

    @field_validator("engine_args")
    @classmethod
    def _option_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*", name):
                raise ValueError(
                    f"{name!r} is not an option's name; write it without leading dashes, "
                    "for example max-num-seqs: 64"
                )
        return value

    @field_validator("env", mode="before")
    @classmethod
    def _env_as_text(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {
            name: (
                str(item) if isinstance(item, (int, float)) and not isinstance(item, bool) else item
            )
            for name, item in value.items()
        }

    @model_validator(mode="after")
    def _fits_together(self) -> ModelSection:
        if self.runtime == "embedded" and self.engine != "llamacpp":
            raise ValueError("runtime embedded runs llama.cpp only; use engine: llamacpp")
        gguf = (self.source.path is not None and self.source.path.suffix == ".gguf") or (
            self.source.file or ""
        ).endswith(".gguf")
        if self.engine == "vllm" and gguf:
            raise ValueError("vLLM is given a hub id or a folder; for a .gguf use engine: llamacpp")
        if self.engine == "llamacpp" and self.source.path is not None and not gguf:
            raise ValueError("llama.cpp loads one .gguf file; source is not one")
        for name in self.engine_args:
            field = _OWN_OPTIONS.get(name.replace("_", "-"))
            if field is not None:
                raise ValueError(f"engine_args.{name} is set by mt-submit itself; {field}")
        clash = sorted(set(self.env) & set(self.secrets))
        if clash:
            raise ValueError(f"{clash[0]} is in env and in secrets; keep it in secrets only")
        return self

    def jobs_digest(self) -> str:
        """Differs when jobs of this entry would: another number of replicas does not."""
        document = self.model_dump_json(exclude={"replicas", "aliases"})
        return hashlib.sha256(document.encode()).hexdigest()[:16]


class PartitionSection(Section):
    """What submitting to one partition needs on this site."""

    account: str | None = None
    qos: str | None = None


class NodeCacheSection(Section):
    """Copies of images and weights on the nodes' own disks, made at a launch and used by the next
    ones on the same node."""

    folder: str
    """On the compute nodes, ``/scratch/$USER/modeltainer``; variables are filled in there."""
    when: Literal["network", "always"] = "network"
    """``network``: copy only what is on a network filesystem; ``always``: anything."""
    limit: MemoryMiB | None = None
    """What your copies may take on one node, ``500GiB``; left out, as much as the disk has."""

    @field_validator("folder")
    @classmethod
    def _absolute(cls, value: str) -> str:
        if not value.startswith(("/", "$")):
            raise ValueError("the folder must be an absolute path on the compute nodes")
        return value


class SiteSection(Section):
    """What is true of the cluster, whichever model. ``~/.config/modeltainer/site.yaml`` and
    ``MODELTAINER_*`` environment variables override it."""

    registry: FolderPath = Field(
        default=Path("~/.local/share/modeltainer/registry"), validate_default=True
    )
    """Folder on the shared filesystem that login and compute nodes see at the same path."""
    cache: FolderPath = Field(default=Path("~/.cache/modeltainer"), validate_default=True)
    """Shared caches: images (SIF), Hugging Face, compile caches."""
    executor: Literal["auto", "slurm", "local"] = "auto"
    """``auto``: Slurm where its commands are, else this machine."""
    runtime: Literal["apptainer", "native", "embedded"] | None = None
    """Default runtime of all models."""
    images: dict[Literal["vllm", "llamacpp"], str] = Field(default_factory=dict)
    """Default image per engine: a .sif path or a URI."""
    binds: tuple[str, ...] = ()
    """Extra Apptainer binds for every engine, ``/scratch`` or ``/a:/b:ro``."""
    prelude: tuple[str, ...] = ()
    """Shell lines at the start of every job, e.g. ``module load apptainer``."""
    ports: Annotated[str, StringConstraints(pattern=r"^\d{2,5}-\d{2,5}$")] | None = None
    """Ports the site lets through between nodes, ``20000-29999``; left out, any free port."""
    host_interface: str | None = None
    """Network interface to serve on (``ib0``); left out, the node's host name."""
    gpu_vendor: Literal["nvidia", "amd"] = "nvidia"
    engine_tls: bool = False
    """TLS from the gateway to the engines, each with a certificate of its own launch. Needs
    ``pip install 'modeltainer[tls]'``."""
    node_cache: NodeCacheSection | None = None
    """Copy images and weights to the compute nodes' own disks; left out, they are read where they
    are."""
    defaults: ResourcesSection = ResourcesSection()
    """Resources of every model that does not say otherwise."""
    partitions: dict[str, PartitionSection] = Field(default_factory=dict)
    """Partitions to prefer, best first, with the account or QOS each needs."""

    @field_validator("ports")
    @classmethod
    def _port_order(cls, value: str | None) -> str | None:
        if value is not None:
            low, high = (int(part) for part in value.split("-"))
            if not 1024 <= low <= high <= 65535:
                raise ValueError("ports must rise and lie between 1024 and 65535")
        return value


class Config(Section):
    """A whole configuration file."""

    site: SiteSection = SiteSection()
    """The cluster, or this machine."""
    gateway: GatewaySettings = GatewaySettings()
    """The one URL over all models."""
    models: dict[ModelName, ModelSection] = Field(default_factory=dict)
    """The models by name."""
    splits: dict[ModelName, dict[ModelName, Annotated[int, Field(ge=0)]]] = Field(
        default_factory=dict
    )
    """Names under which several models answer, with the weight of each: ``chat: {new: 10, old:
    90}``. The answer's header ``x-modeltainer-model`` tells which one it was."""

    @field_validator("splits")
    @classmethod
    def _splits_lead_to_models(
        cls, value: dict[str, dict[str, int]], info: ValidationInfo
    ) -> dict[str, dict[str, int]]:
        models: Mapping[str, ModelSection] | None = info.data.get("models")
        if models is None:
            return value  # their own faults come first
        taken = {*models, *(alias for model in models.values() for alias in model.aliases)}
        for name, arms in value.items():
            if name in taken:
                raise ValueError(f"{name!r} is a model's name or alias; a split needs its own")
            for model in arms:
                if model not in models:
                    near = difflib.get_close_matches(model, models, n=1, cutoff=0.4)
                    hint = f"; did you mean {near[0]!r}?" if near else ""
                    raise ValueError(f"{name}: there is no model {model!r}{hint}")
            if not any(arms.values()):
                raise ValueError(f"{name}: at least one model needs a weight above 0")
        return value

    @model_validator(mode="after")
    def _names_are_unique(self) -> Config:
        taken = {name: name for name in self.models}
        for name, model in self.models.items():
            for alias in model.aliases:
                other = taken.setdefault(alias, name)
                if other != name or alias in self.models:
                    raise ValueError(f"alias {alias!r} of {name!r} is already taken by {other!r}")
        return self

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The JSON schema of a file, for editors."""
        dialect = "https://json-schema.org/draft/2020-12/schema"
        return {"$schema": dialect, **cls.model_json_schema()}

    def model_named(self, name: str) -> str | None:
        """The model behind a name or alias; None when there is none."""
        if name in self.models:
            return name
        return next((key for key, model in self.models.items() if name in model.aliases), None)
