"""Which GPUs and slices there are to choose from: this cluster's, or a table of known ones."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from modeltainer.hpc.gres import Gres
from modeltainer.hpc.mig import PROFILES, usable_mib
from modeltainer.hpc.snapshot import Snapshot


@dataclass(frozen=True)
class Device:
    """One kind of GPU or slice, as a job can have it."""

    name: str
    """The GRES type as the site spells it, or a GPU's name."""
    memory_mib: int | None
    """Usable by a job; None when the type does not tell."""
    nominal_mib: int | None
    """As the name has it, which ``resources.gpu_memory`` is compared with."""
    per_node: int
    is_slice: bool
    partitions: tuple[str, ...] = ()
    vendor_amd: bool = False
    shards: int = 0
    """Into how many parts each is divided for jobs to share; 0: it is not."""
    share: float = 1.0
    """Of the GPU, what a job has of it; the memory above is that of the part."""

    def parts(self) -> tuple[Device, ...]:
        """What a job can have of one that is divided, less than the whole, the smallest first."""
        return tuple(
            replace(
                self,
                name=f"{number}/{self.shards} {self.name}",
                memory_mib=_part(self.memory_mib, number, self.shards),
                nominal_mib=_part(self.nominal_mib, number, self.shards),
                shards=0,
                share=number / self.shards,
            )
            for number in range(1, self.shards)
        )


def _part(memory_mib: int | None, number: int, of: int) -> int | None:
    return None if memory_mib is None else memory_mib * number // of


_CAPABILITIES = (
    (60, r"p100"),
    (61, r"p40|p4"),
    (70, r"v100s?|titan.?v"),
    (75, r"t4|titan.?rtx|(?:geforce.?)?rtx.?20\d\d(?:.?ti)?|2080.?ti|(?:quadro.?)?rtx.?[68]000"),
    (80, r"a100x?|a30x?|a800"),
    (
        86,
        r"a10g?|a40|a16|a2|(?:nvidia.?)?(?:rtx.?)?a[456]\d00|(?:geforce.?)?rtx.?30\d\d(?:.?ti)?|3090",
    ),
    (89, r"l4|l40s?|(?:geforce.?)?rtx.?40\d\d|4090|rtx.?6000.?ada"),
    (90, r"h100|h200|h800|h20|gh200"),
    (100, r"b200|gb200|b100|gb300|b300"),
)
"""Ten times the compute capability, and how sites spell such GPUs (developer.nvidia.com/cuda-gpus).
"""


def compute_capability(name: str) -> int | None:
    """Ten times CUDA's compute capability of a GPU or slice by its GRES type; None if unknown."""
    for capability, pattern in _CAPABILITIES:
        if re.search(rf"(?<![a-z0-9])(?:{pattern})(?![a-z0-9])", name.lower()):
            return capability
    return None


def of_snapshot(
    snapshot: Snapshot, partition: str | None = None, *, usable: bool = False
) -> tuple[Device, ...]:
    """The kinds that a cluster's partitions have, the smallest first.

    Args:
        partition: only these (``a,b``); None takes all that are up.
        usable: leave out nodes that are down, drained or reserved.

    A kind that some nodes divide into shards stands there twice, whole and divided.
    """
    wished = set((partition or "").split(",")) - {""}
    found: dict[tuple[str | None, bool], Device] = {}
    for one in snapshot.partitions:
        if not one.up or (wished and one.name not in wished):
            continue
        for node in snapshot.nodes_of(one):
            if usable and not node.usable:
                continue
            for gres in node.gres:
                if gres.is_gpu and gres.count:
                    _add(found, gres, one.name)
            for kind in node.shared:
                _add(found, kind.gpu, one.name, kind.per_gpu)
    return tuple(
        sorted(
            found.values(),
            key=lambda one: (one.memory_mib or 1 << 40, not one.is_slice, not one.shards),
        )
    )


def _add(
    found: dict[tuple[str | None, bool], Device], gres: Gres, partition: str, shards: int = 0
) -> None:
    fresh = Device(
        gres.type or "(no type)",
        usable_mib(gres.type),
        gres.memory_mib,
        gres.count,
        gres.is_mig,
        (),
        (gres.type or "").lower().startswith("mi"),
    )
    known = found.get((gres.type, shards > 0), fresh)
    found[gres.type, shards > 0] = replace(
        known,
        per_node=max(known.per_node, gres.count),
        partitions=tuple(dict.fromkeys([*known.partitions, partition])),
        shards=max(known.shards, shards),
    )


_WHOLE = ("t4", "l4", "a30", "a100_40gb", "l40s", "a100_80gb", "h100", "h100_94gb", "h200", "b200")
_AMD = ("mi210", "mi300x")


def known() -> tuple[Device, ...]:
    """What is common: for a user without a cluster at hand, and for the cheat-sheet."""
    slices = {}
    for profile in PROFILES:
        slices[f"{profile.gpu.lower()} {profile.name}"] = Device(
            f"{profile.gpu} {profile.name}",
            profile.memory_mib,
            profile.memory_mib,
            profile.instances,
            True,
        )
    whole = [
        Device(name, usable_mib(name), usable_mib(name), 8, False, (), name in _AMD)
        for name in (*_WHOLE, *_AMD)
    ]
    return tuple(
        sorted((*slices.values(), *whole), key=lambda one: (one.memory_mib or 0, not one.is_slice))
    )
