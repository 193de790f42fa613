"""Shares of one GPU, where the site has divided its GPUs into shards.

Slurm's "Sharding" (slurm.schedmd.com/gres.html): ``GresTypes=gpu,shard`` and, for a node,
``Gres=gpu:a100:2,shard:8``. A job asks ``--gres=shard:N``; all of them are of one GPU, unless the
site sets ``MULTIPLE_SHARING_GRES_PJ``, and ``CUDA_VISIBLE_DEVICES`` names it. Slurm only counts: it
keeps no job from taking the memory of its neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

from modeltainer.hpc.gres import Gres
from modeltainer.hpc.snapshot import Node


@dataclass(frozen=True)
class Share:
    """So many of a GPU's shards."""

    shards: int
    of: int
    """Shards of the whole GPU."""
    memory_mib: int
    """The GPU's memory in the same proportion."""
    option: str
    """As ``--gres`` takes it, ``shard:2``."""

    @property
    def fraction(self) -> float:
        """Of the GPU, in 0 < … <= 1."""
        return self.shards / self.of


def smallest_share(node: Node, gpu: Gres, wanted_mib: int) -> Share | None:
    """The smallest share of one of these GPUs that has so much memory.

    None where the node has no shards, or where it cannot be told how many a GPU has (slices, types
    of unknown memory, shards without a type beside GPUs of several) or none has that much.
    """
    memory = gpu.memory_mib
    whole = [one for one in node.gres if one.is_gpu and not one.is_mig and one.count > 0]
    if gpu not in whole or memory is None:
        return None
    found = [one for one in node.gres if one.name == "shard" and one.count > 0]
    mine = [one for one in found if one.type == gpu.type] or (found if len(whole) == 1 else [])
    if len(mine) != 1 or mine[0].count % gpu.count:
        return None
    each = mine[0].count // gpu.count
    needed = max(1, -(-wanted_mib * each // memory))
    if needed > each:
        return None
    return Share(needed, each, memory * needed // each, mine[0].option(needed))


def free_shards(node: Node) -> int:
    """Shards of the node that no job has."""
    return sum(one.count for one in node.gres_free if one.name == "shard")
