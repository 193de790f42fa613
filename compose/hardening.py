"""What every service of the project gets: as little as it needs, and limits on that.

Fields: the Compose specification (github.com/compose-spec/compose-spec, 05-services.md).
"""

from __future__ import annotations

from typing import Any


def hardened(
    user: str, *, cpus: float, memory_mib: int, pids: int = 512, scratch: str = "256m"
) -> dict[str, Any]:
    """Not root, no capabilities, a read-only root with /tmp in memory, and limits.

    Args:
        user: ``UID:GID``.
        cpus: processor cores.
        memory_mib: memory in MiB, /tmp included.
        pids: processes and threads.
        scratch: size of /tmp, as tmpfs takes it.
    """
    return {
        "user": user,
        "read_only": True,
        # exec: engines compile kernels there.
        "tmpfs": [f"/tmp:size={scratch},mode=1777,exec"],  # noqa: S108
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "cpus": cpus,
        "mem_limit": f"{memory_mib}m",
        "pids_limit": pids,
        # core: a core file would hold prompts and keys.
        "ulimits": {"nofile": {"soft": 65536, "hard": 65536}, "core": 0},
        "restart": "unless-stopped",
        "init": True,
        "logging": {"driver": "json-file", "options": {"max-size": "20m", "max-file": "3"}},
    }
