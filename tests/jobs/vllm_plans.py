"""Launches of vLLM and what is planned for them, for whoever reads their command lines: a test
without vLLM (:mod:`tests.jobs.test_vllm_command`) and vLLM's own parser (:mod:`tests.vllm`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from modeltainer.jobs.engines.base import EngineStart, Rank
from modeltainer.spec import Placement, Resources, Share, Site, Source
from tests.launch_spec import launch_spec

HEAD = Rank(0, 2, "10.0.0.1", 29500, "10.0.0.1")
OTHER = Rank(1, 2, "10.0.0.1", 29500, "10.0.0.2")


def start(
    wanted: Resources,
    rank: Rank | None = None,
    interface: str | None = None,
    placement: Placement | None = None,
    source: str = "/models/m",
    **options: Any,
) -> EngineStart:
    """A launch of model ``m`` on port 8000; the options are its ``engine_args``."""
    spec = launch_spec(
        engine="vllm",
        source=Source("path", source),
        resources=wanted,
        site=Site(registry="/r", cache="/c", host_interface=interface),
        engine_args=options,
        placement=placement,
    )
    return EngineStart(spec, "0.0.0.0", 8000, "nonce", rank=rank)


@dataclass(frozen=True)
class Sharing:
    """How a model is shared among GPUs and nodes; None leaves a size to vLLM: 1."""

    wanted: Resources
    tensor: int | None
    pipeline: int | None
    options: dict[str, Any] = field(default_factory=dict)


SHARING = (
    Sharing(Resources(gpus=1), None, None),
    Sharing(Resources(gpus=4), 4, None),
    Sharing(Resources(gpus=4), None, 4, {"pipeline_parallel_size": 4}),
    # vLLM's docs: tensor parallel within a node, pipeline parallel across them.
    Sharing(Resources(gpus=4, nodes=2), 4, 2),
    Sharing(Resources(gpus=1, nodes=2), None, 2),
    Sharing(Resources(gpus=4, nodes=2), 8, None, {"tensor_parallel_size": 8}),
    Sharing(Resources(gpus=4, nodes=2), 2, 4, {"tensor_parallel_size": 2}),
    Sharing(Resources(gpus=4, nodes=2), 2, 4, {"pipeline-parallel-size": 4}),
    Sharing(Resources(gpus=4, nodes=2), None, None, {"data-parallel-size": 8}),
    Sharing(Resources(gpus=0, nodes=2), 2, None),
)


@dataclass(frozen=True)
class Fraction:
    """How much of a GPU is taken; None leaves it to vLLM."""

    gres: str
    share: Share | None
    fraction: str | None

    @property
    def placement(self) -> Placement:
        return Placement("gpu", self.gres, 3600, share=self.share)


FRACTIONS = (
    Fraction("gpu:a100:1", None, None),
    Fraction("gpu:a100_1g.5gb:1", None, "0.84"),
    # Of the whole GPU, since that is what vLLM sees: a half of it, less what is left free.
    Fraction("shard:2", Share(1 / 2, "a100"), "0.460"),
    Fraction("shard:1", Share(1 / 4, "a100"), "0.230"),
    # On a small part the CUDA context weighs more than 8 %.
    Fraction("shard:1", Share(1 / 8, "a100"), "0.105"),
    Fraction("shard:l4:1", Share(1 / 2, "l4"), "0.460"),
    # Nobody tells the memory: as on a GPU of 16 GiB.
    Fraction("shard:1", Share(1 / 4, None), "0.203"),
)
