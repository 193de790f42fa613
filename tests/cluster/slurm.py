"""Slurm's configuration and services for the cluster."""

from __future__ import annotations

from collections.abc import Iterable

from tests.cluster.network import address

CPUS = 16
MEMORY_MB = 32000
GRES = {"a100": 2, "a100_1g.10gb": 4, "a100_3g.40gb": 1}
"""GPUs and MIG slices of each compute node: type and count."""
SHARDS = {"a100": 4}
"""Types whose GPUs may be shared, and into how many shards each is divided: gres.conf(5), and
slurm.schedmd.com/gres.html#Sharding."""

CONTROLLER = "login"

ACCOUNT = "lab"
BOOKS_CONF = (
    "AccountingStorageType=accounting_storage/slurmdbd",
    f"AccountingStorageHost={CONTROLLER}",
    "AccountingStorageTRES=gres/gpu,gres/gpu:a100,gres/shard",
    "AccountingStorageEnforce=associations,limits,qos",
)


def slurm_conf(nodes: list[str], numbers: dict[str, int], *, books: bool) -> str:
    """slurm.conf(5): what a small GPU cluster has, without cgroups.

    ``books``: a site with accounting, where only who has an association may submit.
    """
    shards = sum(GRES[kind] * each for kind, each in SHARDS.items())
    gres = ",".join([*(f"gpu:{kind}:{count}" for kind, count in GRES.items()), f"shard:{shards}"])
    everywhere = f"Nodes={','.join(nodes)} State=UP"
    lines = [
        *daemon_lines(numbers[CONTROLLER], books=books),
        "GresTypes=gpu,shard",
        *(
            f"NodeName={node} NodeAddr={address(numbers[node])} Sockets=1 CoresPerSocket={CPUS}"
            f" ThreadsPerCore=1 RealMemory={MEMORY_MB} Gres={gres} State=UNKNOWN"
            for node in nodes
        ),
        f"PartitionName=cpu {everywhere} Default=YES MaxTime=1-00:00:00 DefaultTime=01:00:00"
        " PriorityTier=10 PreemptMode=OFF",
        f"PartitionName=gpu {everywhere} MaxTime=1-00:00:00 DefaultTime=01:00:00"
        " PriorityTier=10 PreemptMode=OFF",
        f"PartitionName=short {everywhere} MaxTime=00:10:00 DefaultTime=00:05:00"
        " PriorityTier=10 PreemptMode=OFF",
        f"PartitionName=scavenger {everywhere} MaxTime=1-00:00:00 DefaultTime=01:00:00"
        " PriorityTier=1 PreemptMode=REQUEUE",
    ]
    return "".join(f"{line}\n" for line in lines)


def daemon_lines(controller: int, *, books: bool) -> list[str]:
    """Those lines of slurm.conf(5) that tell neither nodes nor partitions.

    ``controller``: the last part of its host's address.
    """
    return [
        "ClusterName=cluster",
        f"SlurmctldHost={CONTROLLER}({address(controller)})",
        "SlurmUser=root",
        "AuthType=auth/munge",
        "CredType=cred/munge",
        "StateSaveLocation=/var/spool/slurmctld",
        "SlurmdSpoolDir=/var/spool/slurmd",
        "SlurmctldPidFile=/run/slurmctld.pid",
        "SlurmdPidFile=/run/slurmd.pid",
        "SlurmctldLogFile=/var/log/slurm/slurmctld.log",
        "SlurmdLogFile=/var/log/slurm/slurmd.log",
        "MpiDefault=none",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "JobAcctGatherType=jobacct_gather/none",
        "SchedulerType=sched/backfill",
        "SchedulerParameters=bf_interval=5,sched_interval=5,sched_min_interval=100000",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core_Memory",
        "DefMemPerCPU=1000",
        "PreemptType=preempt/partition_prio",
        "PreemptMode=REQUEUE",
        "JobRequeue=1",
        "ReturnToService=2",
        # A dead node is seen within a test's patience.
        "SlurmdTimeout=15",
        "KillWait=30",
        "MessageTimeout=15",
        # The nodes pretend to have more cores than this machine.
        "SlurmdParameters=config_overrides",
        *(BOOKS_CONF if books else ()),
    ]


def slurmdbd_conf() -> str:
    """slurmdbd.conf(5): the database is beside it, and reached by its socket."""
    lines = [
        "AuthType=auth/munge",
        f"DbdHost={CONTROLLER}",
        "SlurmUser=root",
        "StorageType=accounting_storage/mysql",
        "StorageHost=localhost",
        "StorageUser=slurm",
        "LogFile=/var/log/slurm/slurmdbd.log",
        "PidFile=/run/slurmdbd.pid",
    ]
    return "".join(f"{line}\n" for line in lines)


def gres_conf() -> str:
    """gres.conf(5): each GPU or slice is a device file of its own."""
    lines, shards, first = ["AutoDetect=off"], [], 0
    for kind, count in GRES.items():
        last = first + count - 1
        files = f"[{first}-{last}]" if count > 1 else f"{first}"
        lines.append(f"Name=gpu Type={kind} File=/dev/fakegpu{files}")
        shards += [
            f"Name=shard Count={SHARDS[kind]} File=/dev/fakegpu{number}"
            for number in range(first, last + 1)
            if kind in SHARDS
        ]
        first = last + 1
    lines += shards
    return "".join(f"{line}\n" for line in lines)


def cgroup_conf(release: str) -> str:
    """cgroup.conf(5): no cgroups, which this machine may not let us change.

    22.05 has no plugin that does nothing; its v1 plugin does nothing until it is asked to.
    """
    return f"CgroupPlugin={'cgroup/v1' if release == '22.05' else 'disabled'}\n"


START_MUNGE = """
install -d -m 755 -o munge -g munge /run/munge
setpriv --reuid=munge --regid=munge --init-groups /usr/sbin/munged
"""
START_DATABASE = """
install -d -m 755 -o mysql -g mysql /run/mysqld
setsid mariadbd --user=mysql --skip-networking </dev/null >/var/log/slurm/mariadb.log 2>&1 &
for _ in {1..100}; do mariadb-admin ping >/dev/null 2>&1 && break; sleep 0.1; done
mariadb -e 'CREATE USER IF NOT EXISTS slurm@localhost;
            GRANT ALL ON slurm_acct_db.* TO slurm@localhost'
slurmdbd
for _ in {1..100}; do sacctmgr -n show cluster >/dev/null 2>&1 && break; sleep 0.1; done
"""
_START_CONTROLLER = "slurmctld || { tail -n 20 /var/log/slurm/slurmctld.log; false; }\n"


def start_controller(*, books: bool, members: Iterable[str] = ()) -> str:
    """The services of the login node.

    ``members``: users to write into an empty database, before the controller reads it.
    """
    database = START_DATABASE if books else ""
    if books and members:
        database += f"""
sacctmgr -i add cluster cluster
sacctmgr -i add account {ACCOUNT} Description=lab Organization=lab
sacctmgr -i add user {",".join(members)} Account={ACCOUNT}
"""
    return START_MUNGE + database + _START_CONTROLLER


START_NODE = START_MUNGE + "slurmd || { tail -n 20 /var/log/slurm/slurmd.log; false; }\n"
