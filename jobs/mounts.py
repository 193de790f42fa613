"""Which kind of filesystem a path is on. Source: proc(5), ``/proc/self/mountinfo``."""

from __future__ import annotations

import os
import re
from pathlib import Path

NETWORK = frozenset(
    {
        *("9p", "afs", "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.juicefs", "fuse.sshfs"),
        *("gpfs", "lustre", "mmfs", "nfs", "nfs4", "orangefs", "panfs", "pvfs2", "smb3", "smbfs"),
        *("wekafs", "xtreemfs", "fuse.ceph-fuse", "fuse.s3fs", "vast"),
    }
)
"""Types whose bytes come over the network each time they are not in the page cache."""
MEMORY = frozenset({"tmpfs", "ramfs"})
"""Types whose bytes take the memory that the job has asked for."""


def filesystem(path: str, mountinfo: str) -> str:
    """The type of the filesystem that has ``path``: of the deepest mount above it, and of several
    on one folder the last.

    Args:
        path: absolute, without links.
        mountinfo: the content of ``/proc/self/mountinfo``.
    """
    found, depth = "unknown", -1
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(" "), right.split(" ")[0]
        if len(fields) < 5 or not kind:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4])
        below = point if point.endswith("/") else f"{point}/"
        if (path == point or path.startswith(below)) and len(point) >= depth:
            found, depth = kind, len(point)
    return found


def filesystem_of(path: Path) -> str:
    """The type of a path's filesystem here; ``unknown`` where that cannot be found out."""
    try:
        return filesystem(os.path.realpath(path), Path("/proc/self/mountinfo").read_text())
    except OSError:
        return "unknown"
