"""NVIDIA's MIG profiles, and the memory that a slice or a GPU really has.

Profiles and counts: NVIDIA MIG User Guide, "Supported MIG Profiles"
(docs.nvidia.com/datacenter/tesla/mig-user-guide/supported-mig-profiles.html): A30, A100 (whose
80 GB variant doubles the 40 GB one's names), H100 80 and 94 GB, H200 and B200.

A profile's name overstates: ``1g.10gb`` of an A100-80 is 9.50 GiB. The GiB here are those that
``nvidia-smi mig -lgip`` prints; where drivers differ (9.50 and 9.75), the smaller. Those for which
no listing was found are the profile's fraction of the GPU's own memory, less the same share that
the driver keeps on the others; :attr:`Profile.listed` tells which.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """One kind of slice of one GPU."""

    gpu: str
    name: str
    memory_mib: int
    instances: int
    """At most so many on one GPU."""
    listed: bool = True
    """Is the memory from a listing of the driver, or computed from its fraction?"""

    @property
    def compute(self) -> int:
        """Compute slices, sevenths of the GPU's multiprocessors (quarters on an A30)."""
        return int(self.name.partition("g")[0])


def _profiles(gpu: str, listed: bool, *rows: tuple[str, float, int]) -> tuple[Profile, ...]:
    return tuple(Profile(gpu, name, int(gib * 1024), count, listed) for name, gib, count in rows)


PROFILES: tuple[Profile, ...] = (
    *_profiles("A30", True, ("1g.6gb", 5.81, 4)),
    *_profiles("A30", False, ("2g.12gb", 11.62, 2), ("4g.24gb", 23.25, 1)),
    *_profiles(
        "A100-40",
        True,
        ("1g.5gb", 4.75, 7),
        ("1g.10gb", 9.62, 4),
        ("2g.10gb", 9.62, 3),
        ("3g.20gb", 19.50, 2),
        ("4g.20gb", 19.50, 1),
        ("7g.40gb", 39.25, 1),
    ),
    *_profiles(
        "A100-80",
        True,
        ("1g.10gb", 9.50, 7),
        ("1g.20gb", 19.50, 4),
        ("2g.20gb", 19.50, 3),
        ("3g.40gb", 39.25, 2),
        ("4g.40gb", 39.25, 1),
        ("7g.80gb", 79.12, 1),
    ),
    *_profiles(
        "H100-80",
        True,
        ("1g.10gb", 9.75, 7),
        ("1g.20gb", 19.62, 4),
        ("2g.20gb", 19.62, 3),
        ("3g.40gb", 39.50, 2),
        ("4g.40gb", 39.50, 1),
        ("7g.80gb", 79.25, 1),
    ),
    *_profiles(
        "H100-94",
        False,
        ("1g.12gb", 10.75, 7),
        ("1g.24gb", 21.50, 4),
        ("2g.24gb", 21.50, 3),
        ("3g.47gb", 46.00, 2),
        ("4g.47gb", 46.00, 1),
        ("7g.94gb", 92.75, 1),
    ),
    *_profiles(
        "H200",
        True,
        ("1g.18gb", 16.00, 7),
        ("1g.35gb", 32.50, 4),
        ("2g.35gb", 32.50, 3),
        ("3g.71gb", 69.75, 2),
        ("4g.71gb", 69.75, 1),
        ("7g.141gb", 140.00, 1),
    ),
    *_profiles(
        "B200",
        False,
        ("1g.23gb", 20.75, 7),
        ("1g.45gb", 43.00, 4),
        ("2g.45gb", 43.00, 3),
        ("3g.90gb", 88.00, 2),
        ("4g.90gb", 88.00, 1),
        ("7g.180gb", 177.00, 1),
    ),
)

_WHOLE_MIB: tuple[tuple[str, int, int], ...] = (
    (r"a100", 80, 81920),
    (r"a100", 40, 40960),
    (r"h100", 80, 81559),
    (r"h100", 94, 95830),
    (r"h200", 141, 143771),
    (r"b200", 180, 183359),
    (r"a30", 24, 24258),
    (r"l40s?", 48, 46068),
    (r"a40", 48, 46068),
    (r"l4", 24, 23034),
    (r"a10g?", 24, 23028),
    (r"t4", 16, 15360),
    (r"v100", 16, 16160),
    (r"v100", 32, 32510),
)
"""Type, nominal size and what ``nvidia-smi`` shows as total, in MiB."""

RESERVED_MIB = 640
"""Of that total the driver keeps so much for itself: 616 MiB on an H200 with driver 580
(``nvidia-smi -q``, FB Memory Usage, Reserved). cudaMemGetInfo's total is without it."""

DRIVER_SHARE = 0.05
"""Of a GPU that is not in the tables, so much is left out: with ECC and the driver's own part, the
largest gap between name and ``nvidia-smi`` in them is 6 % (L4)."""


def slice_memory_mib(profile: str, type_: str = "") -> int | None:
    """Memory of a slice that a job can use, MiB; None for a profile in no table.

    Args:
        profile: NVIDIA's name, ``1g.10gb`` or ``1g.10gb+me``.
        type_: what the site calls it; where it names the GPU, that one's slice counts, else the
            smallest of all GPUs that have such a profile.
    """
    name = re.split(r"[+-]", profile.lower())[0]
    found = [one for one in PROFILES if one.name == name]
    named = [one for one in found if one.gpu.split("-")[0].lower() in type_.lower()]
    return min((one.memory_mib for one in named or found), default=None)


def usable_mib(type_: str | None) -> int | None:
    """Memory that a job can use on one GPU or slice of a GRES type, MiB; None when the type does
    not tell. Never more than :func:`modeltainer.hpc.gres.type_memory_mib`, the name's own figure,
    which a user's ``gpu_memory`` is compared with.
    """
    from modeltainer.hpc.gres import mig_profile, type_memory_mib

    nominal = type_memory_mib(type_)
    if type_ is None or nominal is None:
        return None
    profile = mig_profile(type_)
    if profile is not None:
        return slice_memory_mib(profile, type_) or int(nominal * (1 - 2 * DRIVER_SHARE))
    name = type_.lower()
    for pattern, size, mib in _WHOLE_MIB:
        if re.search(rf"(?<![a-z0-9]){pattern}(?![a-z0-9])", name) and nominal == size * 1024:
            return min(mib - RESERVED_MIB, nominal)
    return int(nominal * (1 - DRIVER_SHARE))
