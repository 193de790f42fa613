"""Slurm's shards: GPUs of which several jobs may have a part each.

Facts are from slurm.schedmd.com/gres.html#Sharding and what Slurm 22.05, 24.11 and 26.05 were seen
to do:

- A site divides GPUs into shards (``Gres=gpu:a100:2,shard:8``: four of each); a job asks
  ``--gres=shard:N``. All of a job's shards on a node are of one GPU, unless the site sets
  MULTIPLE_SHARING_GRES_PJ; a request that is larger than one GPU waits for ever.
- Nothing fences the jobs on a GPU: memory is not limited by Slurm, so each engine must keep to its
  part by itself.
- A GPU is handed out whole or in shards, never both at once. While it is in shards, it is not
  shown as used (``GresUsed=gpu:a100:0(IDX:N/A),shard:a100:3(3/4,0/4)``).
- 22.05 does not say how many are in use, only of which GPUs (``shard:a100:1(IDX:1)``); accounting
  says how many, and not of which.
- Types of shards are those of their GPUs; a node that has not registered yet shows them untyped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from modeltainer.hpc.gres import Gres, free

NAME = "shard"


@dataclass(frozen=True)
class SharedGpus:
    """GPUs of one kind on one node that are divided into shards."""

    gpu: Gres
    type: str | None
    """Of the shards, as the node shows them."""
    per_gpu: int
    """Shards of one of them; where they differ, of the one with most."""
    free: int
    """Shards that are surely free on one and the same of them."""

    def shards_for(self, memory_mib: int | None) -> int | None:
        """How many of one GPU's shards hold so much memory; one where none is asked for.

        None where it takes the whole GPU, or where the GPU's memory is not known.
        """
        if memory_mib is None:
            wanted = 1
        elif self.gpu.memory_mib is None:
            return None
        else:
            wanted = max(1, math.ceil(memory_mib * self.per_gpu / self.gpu.memory_mib))
        return wanted if wanted < self.per_gpu else None


def shared_gpus(gres: Iterable[Gres], used: Iterable[Gres]) -> tuple[SharedGpus, ...]:
    """The kinds of whole GPUs that a node gives away in shards. Pure.

    Args:
        gres: what the node has (``Gres`` in ``scontrol show node``).
        used: what is in use of it (``GresUsed``, which also tells how each GPU is divided).
    """
    having, using = tuple(gres), tuple(used)
    gpus = [one for one in having if one.is_gpu and one.count > 0]
    shards = {one.type: one for one in having if one.name == NAME and one.count > 0}
    in_use = {one.type: one for one in using if one.name == NAME}
    idle = {one.type: one.count for one in without_shared(free(gpus, using), using)}
    found = []
    for gpu in gpus:
        kind = gpu.type if gpu.type in shards else None
        if kind not in shards or gpu.is_mig:
            continue
        # Untyped shards are spread evenly over all GPUs of the node.
        number = gpu.count if kind is not None else sum(one.count for one in gpus)
        taken = in_use.get(kind)
        if taken is not None and any(has for _, has in taken.parts):
            per_gpu = max(has for _, has in taken.parts)
            left = max((has - busy for busy, has in taken.parts if busy is not None), default=0)
        else:
            per_gpu = max(1, shards[kind].count // number)
            left = per_gpu if idle[gpu.type] else 0
        found.append(SharedGpus(gpu, kind, per_gpu, left))
    return tuple(found)


def without_shared(left: Iterable[Gres], used: Iterable[Gres]) -> tuple[Gres, ...]:
    """GPUs that are free as a whole: those with a shard in use are not, though Slurm counts them as
    unused. Where only a number is known, each may be of another GPU."""
    shared = {
        one.type: sum(bool(busy) for busy, _ in one.parts) if one.parts else one.count
        for one in used
        if one.name == NAME
    }
    return tuple(
        replace(one, count=max(0, one.count - shared.get(one.type, 0))) if one.is_gpu else one
        for one in left
    )
