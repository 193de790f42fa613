"""From models.yaml to the engines of a workstation, or to every reason why not. Pure but for
looking whether a model's file is there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from modeltainer.compose import images
from modeltainer.config.resolve import CannotLaunchError, Overrides, launch_spec
from modeltainer.config.schema import Config, ModelSection
from modeltainer.spec import LaunchSpec, Source

FIRST_PORT = 8101
"""Engines listen on ports of their own from here on, inside the project's networks only."""
PROFILES = ("gpu", "cpu", "arm", "observability", "tls")
_SLURM_ONLY = ("nodes", "partition", "account", "qos", "constraint", "nodelist")


class CannotComposeError(ValueError):
    """Docker Compose cannot serve these models; ``problems`` has every reason, one line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class Replica:
    """One engine: what runs in it, and where in the project."""

    service: str
    """Name of the compose service, and its host name for the gateway."""
    spec: LaunchSpec
    """As the engine's command needs it: paths are those inside the container."""
    image: str
    port: int
    profiles: tuple[str, ...]
    gpus: tuple[str, ...] = ()
    """GPU indices, each given to one service only."""
    model_path: str | None = None
    """The weights on this machine, where they are a file or a folder."""
    secrets: tuple[str, ...] = ()
    """Names of the engine's secret environment variables (its key is not among them)."""


def plan(
    config: Config, models: Sequence[str] = (), profiles: Sequence[str] | None = None
) -> list[Replica]:
    """The engines of these models (default: all), in the order of models.yaml.

    Args:
        models: names or aliases.
        profiles: those that will be started; None takes what the models need.

    Raises:
        CannotComposeError: with all reasons: unknown models, Slurm-only settings, a missing file,
            or a model whose profile is not among ``profiles``.
    """
    problems = []
    chosen = []
    for wished in models or config.models:
        name = config.model_named(wished)
        if name is None:
            known = ", ".join(config.models)
            problems.append(f"there is no model {wished!r} in the configuration; known: {known}")
        elif name not in chosen:
            chosen.append(name)
    unknown = sorted(set(profiles or ()) - set(PROFILES))
    if unknown:
        problems.append(f"there is no profile {unknown[0]!r}; known: {', '.join(PROFILES)}")
    if not chosen and not problems:
        problems.append("models.yaml has no models")
    if config.site.engine_tls:
        problems.append(
            "site.engine_tls is for engines on other nodes; Docker Compose's are on this machine's "
            "internal network, without TLS: set it in your cluster's site.yaml, not in models.yaml"
        )
    replicas: list[Replica] = []
    for name in chosen:
        found = _slurm_only(name, config, config.models[name])
        if found:
            problems += found
            continue
        try:
            replicas += _replicas(config, name, len(replicas), _gpus_taken(replicas))
        except CannotLaunchError as error:
            problems.append(str(error))
    if profiles is not None and not unknown:
        problems += _without_profile(replicas, profiles)
    if problems:
        raise CannotComposeError(problems)
    return replicas


def _slurm_only(name: str, config: Config, section: ModelSection) -> list[str]:
    """What this model's section asks for that only a cluster has."""
    wanted = section.resources
    problems = [
        f"{name}: resources.{field} is Slurm's; Docker Compose has no such thing"
        for field in _SLURM_ONLY
        if getattr(wanted, field) not in {None, 1}  # one node is what there is
    ]
    if isinstance(wanted.mig, str):
        problems.append(
            f"{name}: resources.mig: {wanted.mig} asks Slurm for a slice of this very profile; "
            "for Docker Compose write mig: true or leave it out"
        )
    if wanted.gpu_type is not None:
        problems.append(
            f"{name}: resources.gpu_type is a GRES type of Slurm; leave it out, a workstation's "
            "GPUs are counted only"
        )
    if section.runtime is not None:
        problems.append(
            f"{name}: runtime: {section.runtime} is not Docker's; leave runtime out of the model"
        )
    if section.prelude:
        problems.append(f"{name}: prelude is for a job's shell; use an image that needs none")
    if section.command:
        problems.append(
            f"{name}: command starts an engine on a node; name an image instead (image: docker://…)"
        )
    image = section.image or config.site.images.get(section.engine)
    if section.engine == "vllm" and wanted.gpus == 0 and image is None:
        problems.append(
            f"{name}: vLLM's own image needs an NVIDIA GPU; set resources.gpus, or name an image "
            "built for processors (image: docker://…)"
        )
    if image is not None and not image.startswith("docker://"):
        problems.append(f"{name}: the image {image} is not a Docker image; give docker://NAME:TAG")
    elif image is not None and (":" not in image[9:].rpartition("/")[2] and "@" not in image):
        problems.append(f"{name}: the image {image} has no tag; pin one, as in {image}:TAG")
    if config.site.gpu_vendor != "nvidia" and (section.engine == "vllm" or wanted.gpus):
        problems.append(f"{name}: the gpu profile is for NVIDIA; site.gpu_vendor says otherwise")
    return problems


def _gpus_taken(replicas: Sequence[Replica]) -> int:
    return sum(len(replica.gpus) for replica in replicas)


def _replicas(config: Config, name: str, before: int, first_gpu: int) -> list[Replica]:
    section = config.models[name]
    found = []
    for number in range(section.replicas):
        spec = launch_spec(
            config, name, number, executor="local", overrides=Overrides(runtime="apptainer")
        )
        count = spec.resources.gpus
        start = first_gpu + number * count
        path = spec.source.value if spec.source.kind == "path" else None
        found.append(
            Replica(
                service=_service_name(spec),
                spec=_inside(spec),
                image=_image(config, section, gpu=bool(count)),
                port=FIRST_PORT + before + number,
                profiles=("gpu",) if count else ("cpu", "arm"),
                gpus=tuple(str(index) for index in range(start, start + count)),
                model_path=os.path.realpath(path) if path is not None else None,
                secrets=tuple(section.secrets),
            )
        )
    return found


def _service_name(spec: LaunchSpec) -> str:
    # Host names take no dots or underscores (RFC 1123), and launch ids are slugs already.
    slug = spec.launch_id[: -len("-xxxxxx")]
    return "engine-" + slug.replace(".", "-").replace("_", "-")


def _inside(spec: LaunchSpec) -> LaunchSpec:
    """The spec with the container's paths."""
    source = spec.source
    if source.kind == "path":
        source = Source("path", f"/models/{Path(source.value).name}")
    command = ("/app/llama-server",) if spec.engine == "llamacpp" else ()
    return replace(
        spec,
        source=source,
        command=command,
        runtime="compose",
        image=None,
        site=replace(spec.site, registry="/registry", cache="/cache", ports=None),
    )


def _image(config: Config, section: ModelSection, *, gpu: bool) -> str:
    named = section.image or config.site.images.get(section.engine)
    if named is not None:
        return named.removeprefix("docker://")
    if section.engine == "vllm":
        return images.VLLM
    return images.LLAMACPP_CUDA if gpu else images.LLAMACPP_CPU


def _without_profile(replicas: Sequence[Replica], profiles: Sequence[str]) -> list[str]:
    problems = {}
    for replica in replicas:
        if not set(replica.profiles) & set(profiles):
            needed = " or ".join(replica.profiles)
            problems[replica.spec.model] = (
                f"{replica.spec.model}: needs profile {needed}, which is not among "
                f"{', '.join(profiles)}; add --profile {replica.profiles[0]}, or name the other "
                "models only"
            )
    return list(problems.values())
