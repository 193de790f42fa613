"""What the agent needs of an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Protocol

from modeltainer.jobs.probe import Target
from modeltainer.spec import LaunchSpec

CERTIFICATE_FILE = "endpoint.crt"
PRIVATE_KEY_FILE = "endpoint.key"


@dataclass(frozen=True)
class Rank:
    """One node's part in an engine that runs on several."""

    number: int
    """0 is the head: it serves, the others compute."""
    nodes: int
    head_address: str
    """IPv4 address at which the ranks meet."""
    head_port: int
    address: str
    """This node's own IPv4 address, as the others reach it."""


@dataclass(frozen=True)
class EngineStart:
    """What is known when the engine's command is built."""

    spec: LaunchSpec
    bind: str
    port: int
    nonce: str
    internal_port: int | None = None
    cuda_visible_devices: str | None = None
    private_folder: str | None = None
    """A folder that only the job's user can read, as the engine sees it; there the command's
    ``files`` will be. None where there is none."""
    tls: bool = False
    """Serve TLS with :data:`CERTIFICATE_FILE` and :data:`PRIVATE_KEY_FILE` of that folder."""
    rank: Rank | None = None
    """None: the engine runs on this node alone."""
    weights_from_network: bool = False
    """The weights are read over the network, and not from the node's own disk."""

    def tls_options(self, certificate: str, private_key: str) -> tuple[str, ...]:
        """The options that name the two files, spelt as given; none without TLS."""
        if not self.tls:
            return ()
        return (
            *(certificate, f"{self.private_folder}/{CERTIFICATE_FILE}"),
            *(private_key, f"{self.private_folder}/{PRIVATE_KEY_FILE}"),
        )


@dataclass(frozen=True)
class EngineCommand:
    """A command line without secrets, and its environment beyond what the job has."""

    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    """Content of files in the private folder, by name: what other users of the node must not read
    in the argument list, such as the nonce."""


class Engine(Protocol):
    """One kind of inference server."""

    key_variable: str
    """Environment variable from which the server takes the key it demands."""
    needs_internal_ports: bool

    def command(self, start: EngineStart) -> EngineCommand:
        """The command inside the runtime.

        Raises:
            BadOptionError: an engine argument cannot be put on a command line.
        """
        ...

    def requests_running(self, target: Target) -> int | None:
        """Requests in work or waiting inside the engine; None when it does not say."""
        ...

    def start_split(self, log: str) -> dict[str, float]:
        """What its log tells of the parts of its start in seconds, by fields of
        :class:`modeltainer.registry.records.Clocks`."""
        ...

    def version(self, target: Target) -> str | None:
        """The engine's own version, once it is up."""
        ...


def metric_sum(metrics: str, names: Sequence[str]) -> int | None:
    """Sum of Prometheus samples with these names, over all labels; None when none is there."""
    total, found = 0.0, False
    for line in metrics.splitlines():
        name = line.partition("{")[0].partition(" ")[0]
        if name in names:
            try:
                total += float(line.rpartition(" ")[2])
            except ValueError:
                continue
            found = True
    return int(total) if found else None


def cache_environment(cache: str, engine: str) -> dict[str, str]:
    """Folders for what engines download and compile, on the site's shared cache.

    Variables: huggingface_hub's HF_HOME; llama.cpp's LLAMA_CACHE; vLLM's VLLM_CACHE_ROOT and
    VLLM_CONFIG_ROOT (vllm/envs.py); TRITON_CACHE_DIR; TORCHINDUCTOR_CACHE_DIR; CUDA_CACHE_PATH.
    """
    root = PurePosixPath(cache)
    shared = {"HF_HOME": str(root / "huggingface"), "XDG_CACHE_HOME": str(root / "xdg")}
    if engine == "llamacpp":
        return {**shared, "LLAMA_CACHE": str(root / "llama.cpp")}
    return {
        **shared,
        "VLLM_CACHE_ROOT": str(root / "vllm"),
        "VLLM_CONFIG_ROOT": str(root / "vllm" / "config"),
        "TRITON_CACHE_DIR": str(root / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(root / "torchinductor"),
        "FLASHINFER_WORKSPACE_BASE": str(root / "flashinfer"),
        "CUDA_CACHE_PATH": str(root / "cuda"),
    }
