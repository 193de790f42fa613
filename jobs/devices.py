"""GPUs as Slurm hands them out, and as an engine can take them.

Slurm may set ``CUDA_VISIBLE_DEVICES`` to UUIDs of GPUs or MIG slices. vLLM reads them with
``int()`` and dies with 'Model architectures failed to be inspected' (vllm#41848, #46132; seen with
0.22.1), so UUIDs become indices, wherever that is safe.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass

_UUID = re.compile(r"UUID: ((?:GPU|MIG)-[0-9a-fA-F/-]+)")


@dataclass(frozen=True)
class Relabelled:
    """What to set ``CUDA_VISIBLE_DEVICES`` to; ``note`` goes to the log when there is one."""

    value: str
    note: str = ""


def listed_uuids(nvidia_smi_list: str) -> tuple[str, ...]:
    """UUIDs that ``nvidia-smi -L`` prints, in CUDA's order; where a GPU has MIG slices they stand
    for it, as CUDA then shows the slices only."""
    found: list[str] = []
    parent: str | None = None
    for line in nvidia_smi_list.splitlines():
        match = _UUID.search(line)
        if match is None:
            continue
        if line.startswith("GPU"):
            parent = match[1]
            found.append(parent)
        else:
            if parent in found:
                found.remove(parent)
            found.append(match[1])
    return tuple(found)


def relabel(devices: tuple[str, ...], visible: tuple[str, ...]) -> Relabelled:
    """Indices in place of UUIDs.

    Args:
        devices: what Slurm handed out.
        visible: what ``nvidia-smi -L`` shows inside the job (:func:`listed_uuids`).

    Exact when the job sees its own devices only (ConstrainDevices=yes in cgroup.conf); else the
    position among the visible ones, which holds for whole GPUs. A slice among visible strangers
    has no index in CUDA, so it keeps its UUID and the note says what may follow.
    """
    if all(device.isdigit() for device in devices):
        return Relabelled(",".join(devices))
    if set(devices) == set(visible):
        return Relabelled(",".join(str(index) for index in range(len(devices))))
    if all(device in visible and device.startswith("GPU-") for device in devices):
        return Relabelled(",".join(str(visible.index(device)) for device in devices))
    return Relabelled(
        ",".join(devices),
        "the job sees other jobs' devices too (cgroup.conf lacks ConstrainDevices=yes), so the "
        "UUIDs were kept; vLLM may fail with 'Model architectures failed to be inspected'",
    )


def nvidia_smi_list() -> str:
    """Output of ``nvidia-smi -L`` in this job; empty where it is not there or does not answer."""
    try:
        return subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
