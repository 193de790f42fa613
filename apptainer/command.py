"""An engine's command, put into a container. Options: apptainer-exec(1), Apptainer 1.x."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from modeltainer.spec import LaunchSpec

TOOLS = ("apptainer", "singularity")
"""Sites that have not moved yet still call it singularity; the options used here are the same."""

_PASSED = (
    "NVIDIA_VISIBLE_DEVICES",
    "CUDA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
)
"""Which devices are ours; ``--containall`` would drop them."""


@dataclass(frozen=True)
class Contained:
    """A command line to run on the node, its environment, and folders to make before."""

    argv: tuple[str, ...]
    env: dict[str, str]
    folders: tuple[str, ...]


def tool(path: str | None = None) -> str:
    """``apptainer``, or ``singularity`` where only that is on ``path`` (default: PATH)."""
    return next((name for name in TOOLS if shutil.which(name, path=path)), TOOLS[0])


def containerize(
    command: Sequence[str],
    *,
    image: str,
    spec: LaunchSpec,
    env: Mapping[str, str],
    secrets: Mapping[str, str],
    environ: Mapping[str, str],
    scratch: str,
) -> Contained:
    """Wrap ``command``.

    The container sees the model, the caches, its scratch folder as /tmp, and what the site binds;
    neither the home folder nor the rest of the host. Environment goes through ``APPTAINERENV_*``
    variables, never through arguments: other users can read those.

    Args:
        image: path of a SIF file.
        env: the engine's environment.
        secrets: more of it, with the endpoint's key.
        environ: the job's environment.
        scratch: an empty folder on the node.
    """
    program = tool(environ.get("PATH"))
    cache_folders = _cache_folders(spec.site.cache, env)
    binds = [
        *_model_binds(spec),
        _bind(spec.site.cache, spec.site.cache),
        _bind(scratch, "/tmp"),  # noqa: S108
    ]
    argv = [program, "exec", "--containall", "--no-home", "--pwd", "/tmp"]  # noqa: S108
    if spec.resources.gpus:
        argv.append("--rocm" if spec.site.gpu_vendor == "amd" else "--nv")
    for bind in binds:
        argv += bind
    for wished in spec.site.binds:
        argv += ["--bind", wished]
    argv += [image, *command]
    passed = {name: environ[name] for name in _PASSED if name in environ}
    inside = {"TMPDIR": "/tmp", **passed, **env, **secrets}  # noqa: S108
    prefixes = ("APPTAINERENV_", "SINGULARITYENV_")
    outside = {name: value for name, value in environ.items() if not name.startswith(prefixes)}
    prefix = prefixes[TOOLS.index(program)]
    outside.update({prefix + name: value for name, value in inside.items()})
    # Without this, values go through a shell in the container, which runs $(…) in them.
    outside[f"{program.upper()}_NO_EVAL"] = "1"
    # Where llama.cpp's official images have their server; nothing where others do not.
    outside[f"{prefix}PREPEND_PATH"] = "/app"
    return Contained(tuple(argv), outside, cache_folders)


def _model_binds(spec: LaunchSpec) -> list[list[str]]:
    if spec.source.kind != "path":
        return []
    # A model in a hub cache is a link to a blob elsewhere in it: bind where the link leads, too.
    path = PurePosixPath(spec.source.value)
    real = PurePosixPath(os.path.realpath(path))
    folders = {path.parent, real.parent}
    return [_bind(str(folder), str(folder), read_only=True) for folder in sorted(folders)]


def _bind(source: str, destination: str, *, read_only: bool = False) -> list[str]:
    """The options that bind one folder. ``--bind`` splits at ``:`` and ``,``; a path with one of
    them goes by ``--mount``, whose fields are quoted as in CSV."""
    if not set(":,") & set(source + destination):
        return ["--bind", f"{source}:{destination}" + (":ro" if read_only else "")]
    fields = [f"source={source}", f"destination={destination}"]
    quoted = ['"' + field.replace('"', '""') + '"' for field in fields]
    return ["--mount", ",".join(["type=bind", *quoted, *(["ro"] if read_only else [])])]


def _cache_folders(cache: str, env: Mapping[str, str]) -> tuple[str, ...]:
    below = [value for value in env.values() if value.startswith(f"{cache}/")]
    return (cache, *dict.fromkeys(below))
