"""From a model's section, the site and the command line's wishes to one :class:`LaunchSpec`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from modeltainer.apptainer.image import ImageError, check_file, is_uri
from modeltainer.config.schema import (
    Config,
    ModelSection,
    NodeCacheSection,
    SecretSection,
    sharing_refusal,
)
from modeltainer.registry.layout import new_launch_id
from modeltainer.spec import LaunchSpec, NodeCache, Resources, RuntimeName, Site, Source
from modeltainer.weights.gguf import BadGgufError, read_header

Executor = Literal["slurm", "local"]

DEFAULT_IMAGES: Mapping[str, str] = {
    "vllm": "docker://vllm/vllm-openai:v0.11.0",
    "llamacpp": "docker://ghcr.io/ggml-org/llama.cpp:server",
}
"""Images when neither model nor site names one; llama.cpp's is the CPU build, and a GPU takes
``server-cuda`` or ``server-rocm`` (docs/docker.md of ggml-org/llama.cpp)."""

DEFAULT_CPUS = 4
DEFAULT_WALLTIME_S = 4 * 3600


class CannotLaunchError(ValueError):
    """The configuration is sound, but this launch is not possible; says why and what to do."""


@dataclass(frozen=True)
class Overrides:
    """What a command line may change for one launch; None leaves the configuration's value."""

    nodes: int | None = None
    gpus: int | None = None
    gpu_type: str | None = None
    gpu_memory_mib: int | None = None
    mig: bool | str | None = None
    shared: bool | None = None
    cpus: int | None = None
    memory_mib: int | None = None
    walltime_s: int | None = None
    time_min_s: int | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    nodelist: str | None = None
    runtime: RuntimeName | None = None


def launch_spec(
    config: Config,
    model: str,
    replica: int,
    *,
    executor: Executor,
    overrides: Overrides | None = None,
) -> LaunchSpec:
    """The spec of one replica, still without a placement.

    Args:
        model: a name in models.yaml (not an alias).
        executor: where it will run; decides the default runtime.

    Raises:
        CannotLaunchError: the source is not there, or runtime and engine do not go together.
    """
    section = config.models[model]
    site = config.site
    overrides = overrides or Overrides()
    runtime = (
        overrides.runtime or section.runtime or site.runtime or _default_runtime(section, executor)
    )
    if runtime == "embedded" and section.engine != "llamacpp":
        raise CannotLaunchError(
            f"{model}: the embedded runtime runs llama.cpp only; set runtime: apptainer or native"
        )
    if runtime == "embedded" and section.source.hub is not None:
        raise CannotLaunchError(
            f"{model}: the embedded runtime loads a local file; download the .gguf and give its "
            f"path in models.{model}.source"
        )
    if runtime == "embedded" and site.engine_tls:
        raise CannotLaunchError(
            f"{model}: the embedded runtime has no TLS; leave site.engine_tls out, or set runtime: "
            "apptainer or native"
        )
    if section.engine == "llamacpp" and section.source.hub and section.source.revision:
        raise CannotLaunchError(
            f"{model}: llama-server downloads a repository's main revision only; download the "
            ".gguf of that revision and give its path"
        )
    resources = _resources(model, config, section, overrides)
    if resources.nodes > 1:
        _check_nodes(model, section, resources, runtime, executor)
    image = _image(config, section, resources) if runtime == "apptainer" else None
    if image is not None and not is_uri(image):
        try:
            check_file(Path(image))
        except ImageError as error:
            raise CannotLaunchError(f"{model}: {error}") from error
    return LaunchSpec(
        launch_id=new_launch_id(model, replica),
        model=model,
        replica=replica,
        engine=section.engine,
        runtime=runtime,
        source=_source(model, section),
        resources=resources,
        site=Site(
            registry=str(site.registry),
            cache=str(site.cache),
            binds=site.binds,
            ports=_ports(site.ports),
            host_interface=site.host_interface,
            gpu_vendor=site.gpu_vendor,
            engine_tls=site.engine_tls,
            node_cache=_node_cache(site.node_cache),
        ),
        aliases=section.aliases,
        image=image,
        command=section.command,
        prelude=(*site.prelude, *section.prelude),
        context=section.context,
        engine_args=section.engine_args,
        env=dict(section.env),
        load_timeout_s=section.load_timeout,
        drain_s=section.drain,
    )


def _check_nodes(
    model: str,
    section: ModelSection,
    resources: Resources,
    runtime: RuntimeName,
    executor: Executor,
) -> None:
    """Raises CannotLaunchError where one replica cannot be spread over nodes."""
    several = f"{model}: resources.nodes is {resources.nodes}, but"
    if section.engine != "vllm":
        raise CannotLaunchError(
            f"{several} llama.cpp runs on one node: its RPC server obeys whoever reaches its port, "
            "which is no thing for a shared cluster; use engine: vllm"
        )
    if executor != "slurm" or runtime == "compose":
        raise CannotLaunchError(f"{several} several nodes need Slurm; leave nodes out here")
    given = {name.replace("_", "-"): value for name, value in section.engine_args.items()}
    sizes = [given.get(f"{name}-parallel-size") for name in ("tensor", "pipeline")]
    world = resources.nodes * max(1, resources.gpus)
    product = 1
    for size in sizes:
        product *= size if isinstance(size, int) and size > 0 else 1
    # What one of the two leaves open, the other fills up.
    fits = world % product == 0 if None in sizes else product == world
    if not fits and "data-parallel-size" not in given:
        raise CannotLaunchError(
            f"{several} tensor_parallel_size times pipeline_parallel_size makes {product}, and "
            f"{resources.nodes} nodes with {max(1, resources.gpus)} each make {world}; mend "
            "engine_args, or leave both out"
        )


def secret_environment(
    model: str, secrets: Mapping[str, SecretSection], environ: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The secrets' values, read now on the login side, to go into the launch's own 0600 file.

    Raises:
        CannotLaunchError: a variable is not set, or a file cannot be read or is open to others.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, str] = {}
    for name, reference in secrets.items():
        if reference.env is not None:
            if not environ.get(reference.env):
                raise CannotLaunchError(
                    f"{model}: secret {name} is taken from ${reference.env}, which is not set; "
                    f"run: export {reference.env}=…"
                )
            values[name] = environ[reference.env]
            continue
        file = reference.file
        assert file is not None
        try:
            mode = file.stat().st_mode
            values[name] = file.read_text().rstrip("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise CannotLaunchError(
                f"{model}: secret {name}: cannot read {file}: {error}"
            ) from error
        if mode & 0o077:
            raise CannotLaunchError(
                f"{model}: secret {name}: {file} is open to others; run: chmod 600 {file}"
            )
    return values


def _default_runtime(section: ModelSection, executor: Executor) -> RuntimeName:
    if executor == "slurm":
        return "apptainer"
    return "embedded" if section.engine == "llamacpp" and not section.command else "native"


def _source(model: str, section: ModelSection) -> Source:
    source = section.source
    if source.path is None:
        assert source.hub is not None
        return Source("hub", source.hub, source.revision, source.file)
    if not source.path.exists():
        raise CannotLaunchError(
            f"{model}: {source.path} does not exist; download the model there, or mend "
            f"models.{model}.source"
        )
    if source.path.suffix == ".gguf":
        try:
            read_header(source.path)
        except BadGgufError as error:
            raise CannotLaunchError(
                f"{model}: {source.path} cannot be loaded: {error}; download it again"
            ) from error
        except OSError as error:
            raise CannotLaunchError(
                f"{model}: {source.path} cannot be read: {error.strerror or error}"
            ) from error
    return Source("path", str(source.path))


def _resources(
    model: str, config: Config, section: ModelSection, overrides: Overrides
) -> Resources:
    """Command line over model over site defaults; the partition's own account and QOS last.

    Raises:
        CannotLaunchError: this model shall share a GPU and cannot, or its times contradict.
    """
    merged: dict[str, Any] = {}
    for layer in (config.site.defaults, section.resources):
        merged.update(layer.model_dump(exclude_none=True))
    wished = {
        "nodes": overrides.nodes,
        "gpus": overrides.gpus,
        "gpu_type": overrides.gpu_type,
        "gpu_memory": overrides.gpu_memory_mib,
        "mig": overrides.mig,
        "shared": overrides.shared,
        "cpus": overrides.cpus,
        "memory": overrides.memory_mib,
        "walltime": overrides.walltime_s,
        "time_min": overrides.time_min_s,
        "partition": overrides.partition,
        "account": overrides.account,
        "qos": overrides.qos,
        "nodelist": overrides.nodelist,
    }
    merged.update({name: value for name, value in wished.items() if value is not None})
    at = config.site.partitions.get(merged.get("partition") or "")
    if at is not None:
        merged.setdefault("account", at.account)
        merged.setdefault("qos", at.qos)
    asks_gpu = section.engine == "vllm" or any(
        merged.get(name) for name in ("gpu_memory", "gpu_type", "mig", "shared")
    )
    refusal = sharing_refusal(merged.get("gpus"), merged.get("nodes"), merged.get("mig"))
    if merged.get("shared") and refusal is not None:
        if overrides.shared or section.resources.shared:
            raise CannotLaunchError(f"{model}: resources.{refusal}")
        merged["shared"] = False  # the site's default, which is for the models that can
    walltime_s, time_min_s = merged.get("walltime", DEFAULT_WALLTIME_S), merged.get("time_min")
    if time_min_s is not None and time_min_s > walltime_s:
        raise CannotLaunchError(
            f"{model}: resources.time_min ({time_min_s} s) is longer than the walltime "
            f"({walltime_s} s)"
        )
    return Resources(
        nodes=merged.get("nodes", 1),
        gpus=merged.get("gpus", 1 if asks_gpu else 0),
        gpu_memory_mib=merged.get("gpu_memory"),
        gpu_type=merged.get("gpu_type"),
        mig=merged.get("mig", False),
        shared=merged.get("shared", False),
        cpus=merged.get("cpus", DEFAULT_CPUS),
        memory_mib=merged.get("memory"),
        walltime_s=walltime_s,
        time_min_s=time_min_s,
        partition=merged.get("partition"),
        account=merged.get("account"),
        qos=merged.get("qos"),
        constraint=merged.get("constraint"),
        nodelist=merged.get("nodelist"),
    )


def _image(config: Config, section: ModelSection, resources: Resources) -> str:
    image = section.image or config.site.images.get(section.engine)
    if image is not None:
        return str(Path(os.path.expandvars(image)).expanduser()) if "://" not in image else image
    default = DEFAULT_IMAGES[section.engine]
    if section.engine == "llamacpp" and resources.gpus:
        return f"{default}-{'rocm' if config.site.gpu_vendor == 'amd' else 'cuda'}"
    return default


def _node_cache(section: NodeCacheSection | None) -> NodeCache | None:
    if section is None:
        return None
    return NodeCache(section.folder, section.when, section.limit)


def _ports(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    low, high = text.split("-")
    return int(low), int(high)
