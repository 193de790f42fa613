"""The images of a compose project without Docker: their steps, run in chroots on Debian.

compose/Dockerfile is read and each of its RUN and COPY steps is carried out as it stands, on
debootstrap's trixie in place of ``debian:13.1-slim``.
"""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.cache import cached, recipe_key
from tests.cluster.environment import pip_paths, pip_settings
from tests.cluster.images import LLAMA
from tests.cluster.layers import Base, Layer, apt_install, build_on
from tests.cluster.rootfs import FLAVOURS

SOURCE = Path(__file__).resolve().parents[2]
DOCKERFILE = SOURCE / "compose" / "Dockerfile"
KNOWN = {"ARG", "FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "EXPOSE", "HEALTHCHECK", "CMD"}
APT = 'echo "$settings" >/etc/apt/apt.conf.d/zz-host\n'


@dataclass
class Stage:
    """One stage of a Dockerfile: its name and its instructions in order."""

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def last(self, instruction: str) -> str | None:
        """The argument of the instruction that counts; None without one."""
        return next((text for name, text in reversed(self.steps) if name == instruction), None)


def stages(text: str) -> list[Stage]:
    """The stages of a Dockerfile (docs.docker.com/reference/dockerfile)."""
    found: list[Stage] = []
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    for line in filter(None, (line.strip() for line in joined.splitlines())):
        instruction, _, rest = line.partition(" ")
        assert instruction in KNOWN, f"unknown instruction {instruction}"
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            found.append(Stage(name, base))
        elif found:
            found[-1].steps.append((instruction, rest.strip()))
    return found


def script(stage: Stage) -> str:
    """A stage's RUN and COPY steps as a shell script, with the context at /run/context and the
    other stage at /mnt/image."""
    lines = []
    for instruction, rest in stage.steps:
        if instruction == "RUN":
            lines.append(rest)
        elif instruction == "WORKDIR":
            lines.append(f"mkdir -p {rest} && cd {rest}")
        elif instruction == "COPY":
            words = shlex.split(rest)
            root = "/mnt/image" if words[0].startswith("--from=") else "/run/context/"
            *sources, target = [word for word in words if not word.startswith("--")]
            lines.append(f"mkdir -p {target if len(sources) > 1 else Path(target).parent}")
            lines += [f"cp -a {root}{source} {target}" for source in sources]
    return "\n".join(lines) + "\n"


def gateway_layers() -> tuple[Path, ...]:
    """The gateway's image, built now if this source is not built yet."""
    build, run = stages(DOCKERFILE.read_text())
    base = Base("trixie")
    copied = [
        word
        for instruction, rest in build.steps
        if instruction == "COPY"
        for word in shlex.split(rest)[:-1]
    ]
    key = recipe_key(base.key, DOCKERFILE.read_text(), _content(copied))
    binds = (
        *((SOURCE / name, f"/run/context/{name}") for name in copied),
        *((path, str(path)) for path in pip_paths()),
    )

    def make(part: Path) -> None:
        built = part / "build"
        built.mkdir()
        build_on(base.stack, built, APT + pip_settings() + script(build), binds)
        build_on(base.stack, part, APT + script(run), image=(built / "tree", *base.stack))
        shutil.rmtree(built)

    return (cached("gateway-image", key, make) / "tree", *base.stack)


def llama_layers() -> tuple[Path, ...]:
    """llama.cpp's server where the official image has it, and the curl of its health check."""
    layer = Layer(
        "llama-compose",
        LLAMA,
        apt_install("sid", ("curl",)) + "mkdir -p /app\nln -s /usr/bin/llama-server /app/\n",
    )
    return layer.stack


def vllm_layers() -> tuple[Path, ...]:
    """A Debian whose Python is that of the cached vLLM, and the ``vllm`` command; the packages are
    to be mounted at ``/opt/vllm``."""
    script = (
        "printf '#!/bin/sh\\nexec python3 -m vllm.entrypoints.cli.main \"$@\"\\n' "
        ">/usr/local/bin/vllm\nchmod 755 /usr/local/bin/vllm\nmkdir -p /opt/vllm\n"
    )
    return Layer("vllm-compose", FLAVOURS["bookworm"].system, script).stack


def _content(names: list[str]) -> list[tuple[str, str]]:
    found = []
    for name in names:
        path = SOURCE / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                found.append((str(file.relative_to(SOURCE)), file.read_bytes().hex()))
    return found
