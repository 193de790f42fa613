"""GPUs as Slurm writes them, in all of the sites' spellings, and how much memory they have.

A site chooses its own type names: ``gpu:a100:4``, ``gpu:nvidia_a100_1g.10gb:2``, ``gpu:1g.10gb:7``,
``gpu:a100-mig-1g.10gb:2`` or no type at all. The grammar is that of gres.conf(5), slurm.conf(5)
(``Gres=name[:type][:no_consume]:count``), and of what ``scontrol show node`` adds to it: sockets
(``(S:0-1)``) or, for what is in use, indices (``(IDX:0,2-3)``) and, for shards, how many of each
GPU's are (``(3/4,0/4)``). TRES (``gres/gpu:a100=4``) are read too.

Memory of a MIG slice is in its profile's name: NVIDIA's MIG user guide, "Supported profiles"
(``1g.10gb``: one compute slice and 10 GB; ``+me`` adds media engines, ``+gfx`` graphics, ``-me``
and ``+me.all`` are newer GPUs'). Memory of whole GPUs is from the vendors' data sheets: NVIDIA
V100, T4, A10, A30, A40, A100, L4, L40, L40S, H100, H200, B200, GH200 and RTX; AMD Instinct MI210,
MI250, MI300.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

_PROFILE = re.compile(
    r"(?<![0-9a-z])(?P<compute>\d{1,2})g[._](?P<memory>\d{1,3})gb"
    r"(?P<extra>(?:[+-]me(?:\.all)?|\+gfx|\.me)?)(?![0-9a-z])",
    re.IGNORECASE,
)
_MULTIPLIERS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}
_COUNT = re.compile(r"(\d+)([KMGT]?)", re.IGNORECASE)

_WHOLE_GPU_GIB: tuple[tuple[str, int], ...] = (
    # First match wins, so the longer name stands before the shorter one.
    (r"gh200", 96),
    (r"gb200|b200", 180),
    (r"gb300|b300", 270),
    (r"h200", 141),
    (r"h20\b", 96),
    (r"h100.*nvl", 94),
    (r"h100", 80),
    (r"a100", 40),
    (r"a800", 40),
    (r"h800", 80),
    (r"a30\b", 24),
    (r"a40\b", 48),
    (r"a16\b", 16),
    (r"a10g?\b", 24),
    (r"a2\b", 16),
    (r"l40s?\b", 48),
    (r"l4\b", 24),
    (r"t4\b", 16),
    (r"v100s", 32),
    (r"v100", 16),
    (r"p100", 16),
    (r"p40\b", 24),
    (r"pro.?6000|6000.?blackwell", 96),
    (r"(rtx)?.?6000.?ada", 48),
    (r"rtx.?a6000|\ba6000", 48),
    (r"rtx.?8000|quadro.?8000", 48),
    (r"rtx.?a5000|\ba5000", 24),
    (r"rtx.?a4000|\ba4000", 16),
    (r"rtx.?6000|quadro.?6000", 24),
    (r"5090", 32),
    (r"4090|3090|titan.?rtx", 24),
    (r"5080|4080", 16),
    (r"2080.?ti|1080.?ti", 11),
    (r"3080", 10),
    (r"mi355|mi350", 288),
    (r"mi325", 256),
    (r"mi300a", 128),
    (r"mi300", 192),
    (r"mi250", 64),
    (r"mi210", 64),
    (r"mi100", 32),
)
"""Usable memory in GiB by a pattern in the lower-cased type. Where one name covers several sizes
(A100 40/80, V100 16/32, B200 180/192), the smaller: a job must not be sent to what may not hold it.
An MI250 counts per GCD, since Slurm and ROCm show each of its two as one GPU."""

_STATED_SIZE = re.compile(r"(?<![0-9.])(\d{2,3})\s?g(?:i?b)?(?![0-9a-z.])", re.IGNORECASE)


@dataclass(frozen=True)
class Gres:
    """So many of one generic resource.

    ``name`` is ``gpu``, ``shard``, ``mps`` or whatever the site has; ``type`` as the site spells
    it, None where it gives none.
    """

    name: str
    type: str | None
    count: int
    consumable: bool = True
    parts: tuple[tuple[int | None, int], ...] = ()
    """Of shards in use: of each GPU, how many are in use (None: a job has the GPU as a whole) and
    how many it has."""

    @property
    def is_gpu(self) -> bool:
        """A GPU or a MIG slice; ``shard`` and ``mps`` are shares of one, without own memory."""
        return self.name == "gpu"

    @property
    def profile(self) -> str | None:
        """The MIG profile, ``1g.10gb`` or ``1g.10gb+me``; None for a whole GPU."""
        return mig_profile(self.type)

    @property
    def is_mig(self) -> bool:
        return self.profile is not None or (
            self.type is not None
            and re.search(r"(^|[-_.])mig([-_.]|$)", self.type.lower()) is not None
        )

    @property
    def memory_mib(self) -> int | None:
        """Memory of one, MiB; None where the name does not tell."""
        return type_memory_mib(self.type)

    def option(self, count: int) -> str:
        """``count`` of these, as ``--gres`` takes it (sbatch(1))."""
        return ":".join(part for part in (self.name, self.type, str(count)) if part)


def mig_profile(type_: str | None) -> str | None:
    """The MIG profile in a type's name, in NVIDIA's spelling; None when there is none.

    Underscores for the dot, as some sites write them, are understood: ``a100_1g_10gb``.
    """
    found = None if type_ is None else _PROFILE.search(type_)
    if found is None:
        return None
    extra = found["extra"].lower()
    return f"{int(found['compute'])}g.{int(found['memory'])}gb" + (
        "+me" if extra == ".me" else extra
    )


def type_memory_mib(type_: str | None) -> int | None:
    """Memory in MiB of one GPU or slice of a type.

    A slice's profile tells; a size in a whole GPU's name (``a100_80gb``, ``a100-sxm4-80gb``) tells;
    else the table above. None when nothing is known.
    """
    if type_ is None:
        return None
    profile = mig_profile(type_)
    if profile is not None:
        return int(profile.split(".")[1].split("gb")[0]) * 1024
    name = type_.lower().replace("_", " ").replace("-", " ")
    stated = _STATED_SIZE.search(name)
    if stated and 8 <= int(stated[1]) <= 512:
        return int(stated[1]) * 1024
    for pattern, gib in _WHOLE_GPU_GIB:
        if re.search(pattern, name):
            return gib * 1024
    return None


def parse_gres(text: str | None) -> tuple[Gres, ...]:
    """Read a GRES or TRES list; entries that are no generic resource are left out.

    Equal names and types are added up (``GresUsed`` may list one type per socket). A TRES list
    counts typed ones twice, once in the untyped total (``gres/gpu=4,gres/gpu:a100=4``): the total
    is then left out. Pure, and never raises: what cannot be read is left out, since a site's plugin
    may add words of its own.
    """
    if text is None or text.strip() in {"", "(null)", "N/A", "none"}:
        return ()
    found: dict[tuple[str, str | None], Gres] = {}
    totals = set()
    for entry in split_outside_parentheses(text):
        gres = _parse_entry(entry)
        if gres is None:
            continue
        if gres.type is None and entry.startswith("gres/"):
            totals.add(gres.name)
        key = (gres.name, gres.type)
        before = found.get(key)
        if before is not None:
            count, parts = before.count + gres.count, before.parts + gres.parts
            gres = replace(gres, count=count, parts=parts)
        found[key] = gres
    typed = {name for name, type_ in found if type_ is not None}
    return tuple(gres for gres in found.values() if gres.type or gres.name not in totals & typed)


def split_outside_parentheses(text: str) -> list[str]:
    """Split at commas, but not those in ``(IDX:0,2)`` or ``c[1,3]``."""
    parts, depth, start = [], 0, 0
    for at, char in enumerate(text):
        if char in "([":
            depth += 1
        elif char in ")]":
            depth = max(0, depth - 1)
        elif char == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    parts.append(text[start:])
    return [part.strip() for part in parts if part.strip()]


def _parse_entry(entry: str) -> Gres | None:
    plain = re.sub(r"\([^)]*\)?", "", entry).strip()
    tres, equals, amount = plain.partition("=")
    if equals:
        if not tres.startswith("gres/"):
            return None  # cpu=8, mem=32G, billing=8: not generic resources
        plain = f"{tres.removeprefix('gres/')}:{amount}"
    elif plain.startswith("gres/"):
        plain = plain.removeprefix("gres/")
    words = [word for word in plain.removeprefix("gres:").split(":") if word]
    consumable = "no_consume" not in words
    words = [word for word in words if word != "no_consume"]
    if not words or words == ["(null)"]:
        return None
    name, rest = words[0].lower(), words[1:]
    count = 1
    if rest:
        number = _COUNT.fullmatch(rest[-1])
        if number:
            count = int(number[1]) * _MULTIPLIERS[number[2].upper()]
            rest = rest[:-1]
    return Gres(name, ":".join(rest) or None, count, consumable, _parts(entry))


def _parts(entry: str) -> tuple[tuple[int | None, int], ...]:
    """``(3/4,-/4)``; the dash is a GPU that a job has as a whole."""
    inside = re.search(r"\(((?:\d+|-)/\d+(?:,(?:\d+|-)/\d+)*)\)", entry)
    if inside is None:
        return ()
    pairs = (part.split("/") for part in inside[1].split(","))
    return tuple((None if busy == "-" else int(busy), int(has)) for busy, has in pairs)


def free(total: Iterable[Gres], used: Iterable[Gres]) -> tuple[Gres, ...]:
    """What is left of ``total``. What is used without a type (``gpu:2`` on a typed node) is taken
    from each type in turn, so that a free count is never overstated."""
    left = {(one.name, one.type): one for one in total}
    untyped: list[Gres] = []
    for one in used:
        mine = left.get((one.name, one.type))
        if mine is None:
            untyped.append(one)
        else:
            left[mine.name, mine.type] = replace(mine, count=max(0, mine.count - one.count))
    for one in untyped:
        owed = one.count
        for key, mine in left.items():
            if mine.name == one.name:
                taken = min(owed, mine.count)
                left[key] = replace(mine, count=mine.count - taken)
                owed -= taken
    return tuple(left.values())
