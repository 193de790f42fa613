"""The root file systems of the hosts: one flavour for each Slurm release that is tested."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from tests.cluster.layers import Base, Layer, apt_install

USERS = {"alice": 2001, "bob": 2002}
GROUP = 2000
"""Both users are in group ``lab``, as the members of one team are."""

COMMON_PACKAGES = (
    "curl",
    "iproute2",
    "iputils-ping",
    "less",
    "munge",
    "openssh-client",
    "openssh-server",
    "procps",
    "python3",
    "python3-venv",
    "slurm-client",
    "slurm-wlm",
    "tini",
    "util-linux",
    "vim-tiny",
)
BOOKS_PACKAGES = ("mariadb-server", "slurmdbd")
APPTAINER_PACKAGES = ("fuse3", "squashfs-tools", "squashfuse", "uidmap")

SET_UP = f"""
groupadd --gid {GROUP} lab
{{}}
rm -f /etc/ssh/ssh_host_*
mkdir -p /shared /opt/modeltainer-src /opt/llama /etc/slurm
# Where sid's llama.cpp looks for its back ends; see images.py.
ln -s /opt/llama/lib/ggml /usr/lib/x86_64-linux-gnu/ggml
mkdir -p /var/spool/slurmctld /var/spool/slurmd /var/log/slurm
cat >/etc/profile.d/modeltainer.sh <<'EOF'
PATH=/opt/modeltainer/bin:$PATH
export LANG=C.UTF-8
EOF
"""


def _set_up() -> str:
    users = "\n".join(
        f"useradd --uid {uid} --gid {uid} --groups lab --home-dir /shared/home/{name}"
        f" --no-create-home --shell /bin/bash {name}"
        for name, uid in USERS.items()
    )
    groups = "\n".join(f"groupadd --gid {uid} {name}" for name, uid in USERS.items())
    return SET_UP.format(f"{groups}\n{users}")


@dataclass(frozen=True)
class Flavour:
    """One release of Debian, and with it of Slurm, Apptainer and Python."""

    suite: str
    slurm: str
    """Slurm's release, as in ``24.11``."""
    has_apptainer: bool = True
    """sid's package runs on glibc 2.38 or newer; trixie has none of its own."""
    has_books: bool = False
    """slurmdbd with a database: sacct, associations, limits."""

    @cached_property
    def system(self) -> Layer:
        """Debian with Slurm, users and folders; no ModelTainer yet."""
        packages: tuple[str, ...] = COMMON_PACKAGES
        from_sid: tuple[str, ...] = ()
        if self.has_apptainer:
            packages, from_sid = COMMON_PACKAGES + APPTAINER_PACKAGES, ("apptainer",)
        if self.has_books:
            packages += BOOKS_PACKAGES
        script = apt_install(self.suite, packages, from_sid) + _set_up()
        return Layer(f"{self.suite}-system", Base(self.suite), script)


FLAVOURS = {
    flavour.suite: flavour
    for flavour in (
        Flavour("sid", slurm="26.05"),
        Flavour("trixie", slurm="24.11"),
        Flavour("bookworm", slurm="22.05", has_apptainer=False, has_books=True),
    )
}
