"""Clusters of different makes: what their administrators would write, and what happens on them.

A site's text is slurm.conf(5) and gres.conf(5) as it could stand there, so that its recording
(``python -m tests.cluster record-sites``) is what a real controller makes of it. The sites are
invented, after kinds of clusters that there are. Their GPUs are device files of ``host_init.sh``,
which has 16 of them on each node.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from modeltainer.hpc.hostlist import expand


@dataclass(frozen=True)
class Site:
    """One cluster, and the moment of its life that is recorded."""

    name: str
    about: str
    flavour: str
    """Whose Slurm: a name of ``rootfs.FLAVOURS``."""
    slurm: str
    """Lines of slurm.conf(5): nodes and partitions. They come after :data:`DEFAULTS`."""
    gres: str = ""
    """Lines of gres.conf(5)."""
    books: tuple[str, ...] = ()
    """sacctmgr(1) commands, before the controller starts; where the flavour keeps books."""
    never_up: tuple[str, ...] = ()
    """Nodes whose slurmd never starts."""
    admin: tuple[str, ...] = ()
    """Commands that root types once the nodes are idle."""
    jobs: tuple[str, ...] = ()
    """Options of sbatch(1) for jobs that run when the recording is made; in this order."""
    lost: tuple[str, ...] = ()
    """Nodes whose slurmd dies in the end."""
    states: Mapping[str, str] = field(default_factory=dict)
    """What ``scontrol show node`` calls the nodes then, but for those that are ``IDLE``."""

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of its nodes."""
        return tuple(
            name
            for listed in re.findall(r"^NodeName=(\S+)", self.slurm, re.MULTILINE)
            if listed != "DEFAULT"
            for name in expand(listed)
        )

    @property
    def partitions(self) -> tuple[str, ...]:
        """Names of its partitions."""
        found = re.findall(r"^PartitionName=(\S+)", self.slurm, re.MULTILINE)
        return tuple(name for name in found if name != "DEFAULT")

    @property
    def state_of(self) -> dict[str, str]:
        """Every node's state when it is recorded."""
        return {name: self.states.get(name, "IDLE") for name in self.nodes}


DEFAULTS = """\
NodeName=DEFAULT Sockets=2 CoresPerSocket=32 ThreadsPerCore=1 RealMemory=512000 State=UNKNOWN
PartitionName=DEFAULT MaxTime=1-00:00:00 DefaultTime=01:00:00 PreemptMode=OFF State=UP
"""

SITES = (
    Site(
        "untyped",
        "GPUs without a type; one node is full.",
        "bookworm",
        """\
NodeName=n[1-2] Gres=gpu:4
NodeName=c1
PartitionName=cpu Nodes=c1 Default=YES MaxTime=7-00:00:00
PartitionName=gpu Nodes=n[1-2] MaxTime=2-00:00:00
""",
        "NodeName=n[1-2] Name=gpu File=/dev/fakegpu[0-3]\n",
        jobs=("-p gpu -w n1 --gres=gpu:4 -c 8",),
        states={"n1": "MIXED"},
    ),
    Site(
        "untyped-shards",
        "GPUs without a type, divided into shards; some are in use.",
        "bookworm",
        """\
NodeName=u1 Gres=gpu:4,shard:16
PartitionName=old Nodes=u1 Default=YES
""",
        """\
NodeName=u1 Name=gpu File=/dev/fakegpu[0-3]
NodeName=u1 Name=shard Count=16
""",
        jobs=("-p old --gres=shard:4", "-p old --gres=shard:1"),
        states={"u1": "MIXED"},
    ),
    Site(
        "cpu-only",
        "No GPU anywhere.",
        "bookworm",
        """\
NodeName=c[1-3] CoresPerSocket=64 RealMemory=256000
PartitionName=batch Nodes=c[1-3] Default=YES MaxTime=12:00:00
PartitionName=long Nodes=c[1-2] MaxTime=10-00:00:00
""",
    ),
    Site(
        "accounts-and-qos",
        "Partitions for some accounts, some QOS, and for reservations.",
        "bookworm",
        """\
NodeName=a1 Gres=gpu:a100:8
NodeName=l1 Gres=gpu:l40s:4
PartitionName=standard Nodes=a1,l1 Default=YES AllowQos=normal,long
PartitionName=priority Nodes=a1 AllowAccounts=hep,bio PriorityTier=10
PartitionName=course Nodes=a1 AllowAccounts=cs101 QoS=course MaxTime=01:00:00
PartitionName=resv Nodes=l1 ReqResv=YES
""",
        """\
NodeName=a1 Name=gpu Type=a100 File=/dev/fakegpu[0-7]
NodeName=l1 Name=gpu Type=l40s File=/dev/fakegpu[0-3]
""",
        books=(
            "add account hep,bio,cs101 Organization=university",
            "add qos long,gold",
            "add qos course MaxTRESPerUser=gres/gpu=1 MaxWall=01:00:00",
        ),
    ),
    Site(
        "v100-and-a100",
        "Two generations in partitions of their own; of the newer one, a single GPU is free.",
        "trixie",
        """\
NodeName=v1 Gres=gpu:v100:4
NodeName=a[1-2] Gres=gpu:a100:4
PartitionName=gpu-v100 Nodes=v1 Default=YES MaxTime=3-00:00:00
PartitionName=gpu-a100 Nodes=a[1-2] MaxTime=08:00:00
""",
        """\
NodeName=v1 Name=gpu Type=v100 File=/dev/fakegpu[0-3]
NodeName=a[1-2] Name=gpu Type=a100 File=/dev/fakegpu[0-3]
""",
        jobs=(
            "-p gpu-a100 -w a1 --gres=gpu:a100:3 -c 12 --mem=64G",
            "-p gpu-a100 -w a2 --gres=gpu:a100:4 --exclusive",
        ),
        states={"a1": "MIXED", "a2": "ALLOCATED"},
    ),
    Site(
        "mig-mix",
        "A100-40 nodes cut in several ways beside whole ones.",
        "trixie",
        """\
NodeName=m1 Gres=gpu:a100_1g.5gb:7,gpu:a100_2g.10gb:3
NodeName=m2 Gres=gpu:a100_3g.20gb:2,gpu:a100_4g.20gb:1
NodeName=f1 Gres=gpu:a100:4
PartitionName=interactive Nodes=m1 Default=YES MaxTime=02:00:00
PartitionName=mig Nodes=m[1-2]
PartitionName=full Nodes=f1
""",
        """\
NodeName=m1 Name=gpu Type=a100_1g.5gb File=/dev/fakegpu[0-6]
NodeName=m1 Name=gpu Type=a100_2g.10gb File=/dev/fakegpu[7-9]
NodeName=m2 Name=gpu Type=a100_3g.20gb File=/dev/fakegpu[0-1]
NodeName=m2 Name=gpu Type=a100_4g.20gb File=/dev/fakegpu2
NodeName=f1 Name=gpu Type=a100 File=/dev/fakegpu[0-3]
""",
        jobs=("-p mig -w m1 --gres=gpu:a100_1g.5gb:1", "-p mig -w m1 --gres=gpu:a100_1g.5gb:1"),
        states={"m1": "MIXED"},
    ),
    Site(
        "amd",
        "MI210 and MI300X, as GPUs of these names: they were configured, no AMD driver was asked.",
        "trixie",
        """\
NodeName=g1 Gres=gpu:mi210:4
NodeName=g2 Gres=gpu:mi300x:8 CoresPerSocket=96 RealMemory=2000000
PartitionName=rocm Nodes=g1 Default=YES
PartitionName=big Nodes=g2 MaxTime=12:00:00
""",
        """\
NodeName=g1 Name=gpu Type=mi210 File=/dev/fakegpu[0-3]
NodeName=g2 Name=gpu Type=mi300x File=/dev/fakegpu[0-7]
""",
    ),
    Site(
        "gh200",
        "Grace Hopper: GPUs and cores are those, but Arch= is of the computer that recorded it.",
        "trixie",
        """\
NodeName=gh1 Gres=gpu:gh200:4 CoresPerSocket=144 RealMemory=850000
PartitionName=normal Nodes=gh1 Default=YES MaxTime=12:00:00
PartitionName=debug Nodes=gh1 MaxTime=00:30:00 PriorityTier=5
""",
        "NodeName=gh1 Name=gpu Type=gh200 File=/dev/fakegpu[0-3]\n",
    ),
    Site(
        "drained",
        "The best nodes are drained, reserved or down; one partition is drained, too.",
        "trixie",
        """\
NodeName=h[1-2] Gres=gpu:h100:4
NodeName=a[1-2] Gres=gpu:a100:4
PartitionName=gpu Nodes=h[1-2],a[1-2] Default=YES
PartitionName=old Nodes=a2 State=DRAIN
""",
        """\
NodeName=h[1-2] Name=gpu Type=h100 File=/dev/fakegpu[0-3]
NodeName=a[1-2] Name=gpu Type=a100 File=/dev/fakegpu[0-3]
""",
        admin=(
            "scontrol update NodeName=h1 State=DRAIN Reason='Xid 79: State=IDLE it is not'",
            "scontrol create reservation ReservationName=summer-school Users=alice Nodes=h2"
            " StartTime=now Duration=1-00:00:00",
        ),
        jobs=(
            "-p gpu -w h2 --reservation=summer-school --gres=gpu:h100:1 -c 4",
            "-p gpu -w a1 --gres=gpu:a100:2 -c 32",
        ),
        lost=("a2",),
        states={
            "h1": "IDLE+DRAIN",
            "h2": "MIXED+RESERVED",
            "a1": "MIXED",
            "a2": "DOWN+NOT_RESPONDING",
        },
    ),
    Site(
        "scavenger",
        "H200 nodes of one group, open to all while preemptible; one is full.",
        "trixie",
        """\
NodeName=x[1-2] Gres=gpu:h200:8 CoresPerSocket=48 RealMemory=2000000
NodeName=r1 Gres=gpu:rtx_a6000:8
PartitionName=general Nodes=r1 Default=YES
PartitionName=owner Nodes=x[1-2] AllowAccounts=lab7 PriorityTier=10
PartitionName=scavenge Nodes=x[1-2] PriorityTier=0 PreemptMode=REQUEUE MaxTime=06:00:00
""",
        """\
NodeName=x[1-2] Name=gpu Type=h200 File=/dev/fakegpu[0-7]
NodeName=r1 Name=gpu Type=rtx_a6000 File=/dev/fakegpu[0-7]
""",
        jobs=("-p owner -A lab7 -w x1 --gres=gpu:h200:8 -c 60",),
        states={"x1": "MIXED"},
    ),
    Site(
        "nvml-names",
        "The names and cores that AutoDetect=nvml gives, as they were configured: no driver here.",
        "sid",
        """\
NodeName=p1 Gres=gpu:nvidia_a100_80gb_pcie:2
NodeName=h1 Gres=gpu:nvidia_h100_80gb_hbm3:4
NodeName=s1 Gres=gpu:nvidia_h100_80gb_hbm3_1g.10gb:7,gpu:nvidia_h100_80gb_hbm3_3g.40gb:2
PartitionName=gpu Nodes=p1,h1,s1 Default=YES MaxTime=UNLIMITED
""",
        """\
NodeName=p1 Name=gpu Type=nvidia_a100_80gb_pcie File=/dev/fakegpu0 Cores=0-31
NodeName=p1 Name=gpu Type=nvidia_a100_80gb_pcie File=/dev/fakegpu1 Cores=32-63
NodeName=h1 Name=gpu Type=nvidia_h100_80gb_hbm3 File=/dev/fakegpu[0-1] Cores=0-31
NodeName=h1 Name=gpu Type=nvidia_h100_80gb_hbm3 File=/dev/fakegpu[2-3] Cores=32-63
NodeName=s1 Name=gpu Type=nvidia_h100_80gb_hbm3_1g.10gb File=/dev/fakegpu[0-6] Cores=0-31
NodeName=s1 Name=gpu Type=nvidia_h100_80gb_hbm3_3g.40gb File=/dev/fakegpu[7-8] Cores=0-31
""",
    ),
    Site(
        "shards",
        "GPUs that are divided into shards, some in use; one node has never registered.",
        "sid",
        """\
NodeName=s[1-2] Gres=gpu:a100:4,shard:32
NodeName=x1 Gres=gpu:l40s:2,gpu:a30:2,shard:12
NodeName=f1 Gres=gpu:a100:4
PartitionName=shared Nodes=s[1-2] Default=YES
PartitionName=various Nodes=x1
PartitionName=full Nodes=f1 MaxTime=7-00:00:00
""",
        """\
NodeName=s[1-2] Name=gpu Type=a100 File=/dev/fakegpu[0-1] Cores=0-31
NodeName=s[1-2] Name=gpu Type=a100 File=/dev/fakegpu[2-3] Cores=32-63
NodeName=s[1-2] Name=shard Count=32
NodeName=x1 Name=gpu Type=l40s File=/dev/fakegpu[0-1]
NodeName=x1 Name=gpu Type=a30 File=/dev/fakegpu[2-3]
NodeName=x1 Name=shard Count=4 File=/dev/fakegpu0
NodeName=x1 Name=shard Count=4 File=/dev/fakegpu1
NodeName=x1 Name=shard Count=2 File=/dev/fakegpu2
NodeName=x1 Name=shard Count=2 File=/dev/fakegpu3
NodeName=f1 Name=gpu Type=a100 File=/dev/fakegpu[0-3]
""",
        never_up=("s2",),
        jobs=(
            "-p shared -w s1 --gres=shard:8",
            "-p shared -w s1 --gres=shard:3",
            "-p shared -w s1 --gres=gpu:a100:1",
            "-p various -w x1 --gres=shard:l40s:4",
        ),
        states={"s1": "MIXED", "s2": "UNKNOWN+NOT_RESPONDING", "x1": "MIXED"},
    ),
)
