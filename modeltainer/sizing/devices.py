"""Which GPUs and slices there are to choose from: this cluster's, or a table of known ones."""

from __future__ import annotations

import re
from dataclasses import dataclass

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
    """
    wished = set((partition or "").split(",")) - {""}
    found: dict[str | None, tuple[int, list[str], bool, int | None]] = {}
    for one in snapshot.partitions:
        if not one.up or (wished and one.name not in wished):
            continue
        for node in snapshot.nodes_of(one):
            for gres in node.gres if node.usable or not usable else ():
                if not gres.is_gpu or not gres.count:
                    continue
                count, names, _, _ = found.get(gres.type, (0, [], False, None))
                if one.name not in names:
                    names.append(one.name)
                found[gres.type] = (max(count, gres.count), names, gres.is_mig, gres.memory_mib)
    devices = [
        Device(
            kind or "(no type)",
            usable_mib(kind),
            nominal,
            count,
            is_slice,
            tuple(names),
            (kind or "").lower().startswith("mi"),
        )
        for kind, (count, names, is_slice, nominal) in found.items()
    ]
    return tuple(sorted(devices, key=lambda one: (one.memory_mib or 1 << 40, not one.is_slice)))


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
