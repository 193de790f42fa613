"""Answers of real Slurm commands (22.05.8), with SLURM_TIME_FORMAT=%s."""

from __future__ import annotations

SQUEUE = (
    "1_2\x1f1\x1fPENDING\x1fJobArrayTaskLimit\x1f\x1fN/A\x1fN/A\x1f1795491087\x1fmain\x1fwrap\n"
    "1_0\x1f4\x1fRUNNING\x1fNone\x1fc1\x1f1795491239\x1f1795491839\x1f1795491087\x1fmain\x1fwrap\n"
    "3\x1f3\x1fPENDING\x1fResources\x1f\x1f1795493039\x1f1795494839\x1f1795491087\x1fshort\x1fw\n"
    "2\x1f2\x1fRUNNING\x1fNone\x1fc2\x1f1795491239\x1f1795493039\x1f1795491087\x1fp2\x1fna|me x\n"
    "6\x1f6\x1fCANCELLED\x1fNone\x1fc1\x1f1795491239\x1f1795491300\x1f1795491087\x1fmain\x1fdrain\n"
)

NODES = """\
NodeName=c1 Arch=x86_64 CoresPerSocket=1  CPUAlloc=1 CPUEfctv=8 CPUTot=8 CPULoad=0.02 AvailableFeatures=a100,ib ActiveFeatures=a100,ib Gres=gpu:a100:2,gpu:a100_1g.10gb:3 GresDrain=N/A GresUsed=gpu:a100:1(IDX:0),gpu:a100_1g.10gb:0(IDX:N/A) NodeAddr=10.9.9.1 NodeHostName=login Port=17001 Version=22.05.8 OS=Linux 6.18.44-fc-v669 #1 SMP PREEMPT_DYNAMIC @0  RealMemory=32000 AllocMem=32000 FreeMem=23724 Sockets=8 Boards=1 State=MIXED ThreadsPerCore=1 TmpDisk=0 Weight=1 Owner=N/A MCS_label=N/A Partitions=main,closed,vip  BootTime=1795489798 SlurmdStartTime=1795491238 LastBusyTime=1795491238 CfgTRES=cpu=8,mem=32000M,billing=8 AllocTRES=cpu=1,mem=32000M CapWatts=n/a CurrentWatts=0 AveWatts=0 ExtSensorsJoules=n/s ExtSensorsWatts=0 ExtSensorsTemp=n/s
NodeName=c2 Arch=x86_64 CoresPerSocket=1  CPUAlloc=1 CPUEfctv=8 CPUTot=8 CPULoad=0.02 AvailableFeatures=cpu ActiveFeatures=cpu Gres=gpu:a100_1g.10gb:2 GresDrain=N/A GresUsed=gpu:a100_1g.10gb:2(IDX:0-1) NodeAddr=10.9.9.1 NodeHostName=login Port=17002 Version=22.05.8 OS=Linux 6.18.44-fc-v669 #1 SMP PREEMPT_DYNAMIC @0  RealMemory=32000 AllocMem=8000 FreeMem=23724 Sockets=8 Boards=1 State=MIXED+DRAIN ThreadsPerCore=1 TmpDisk=0 Weight=1 Owner=N/A MCS_label=N/A Partitions=main,short  BootTime=1795489798 SlurmdStartTime=1795491238 LastBusyTime=1795491238 CfgTRES=cpu=8,mem=32000M,billing=8 AllocTRES=cpu=1,mem=32000M CapWatts=n/a CurrentWatts=0 AveWatts=0 ExtSensorsJoules=n/s ExtSensorsWatts=0 ExtSensorsTemp=n/s Reason=bad disk State=IDLE Gres=none [root@1795491238]
"""  # noqa: E501

PARTITIONS = """\
PartitionName=main AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=YES QoS=N/A DefaultTime=01:00:00 DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO MaxNodes=UNLIMITED MaxTime=1-00:00:00 MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED Nodes=c[1-2] PriorityJobFactor=1 PriorityTier=1 RootOnly=NO ReqResv=NO OverSubscribe=NO OverTimeLimit=NONE PreemptMode=OFF State=UP TotalCPUs=16 TotalNodes=2 SelectTypeParameters=NONE JobDefaults=(null) DefMemPerNode=UNLIMITED MaxMemPerNode=UNLIMITED TRES=cpu=16,mem=62.50G,node=2,billing=16
PartitionName=short AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=NO QoS=N/A DefaultTime=NONE DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO MaxNodes=UNLIMITED MaxTime=00:30:00 MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED Nodes=c2 PriorityJobFactor=1 PriorityTier=10 RootOnly=NO ReqResv=NO OverSubscribe=NO OverTimeLimit=NONE PreemptMode=OFF State=UP TotalCPUs=8 TotalNodes=1 SelectTypeParameters=NONE JobDefaults=(null) DefMemPerNode=UNLIMITED MaxMemPerNode=UNLIMITED TRES=cpu=8,mem=32000M,node=1,billing=8
PartitionName=closed AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=NO QoS=N/A DefaultTime=NONE DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO MaxNodes=UNLIMITED MaxTime=UNLIMITED MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED Nodes=c1 PriorityJobFactor=1 PriorityTier=1 RootOnly=NO ReqResv=NO OverSubscribe=NO OverTimeLimit=NONE PreemptMode=OFF State=DOWN TotalCPUs=8 TotalNodes=1 SelectTypeParameters=NONE JobDefaults=(null) DefMemPerNode=UNLIMITED MaxMemPerNode=UNLIMITED TRES=cpu=8,mem=32000M,node=1,billing=8
PartitionName=vip AllowGroups=ALL AllowAccounts=special AllowQos=ALL AllocNodes=ALL Default=NO QoS=N/A DefaultTime=NONE DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO MaxNodes=UNLIMITED MaxTime=UNLIMITED MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED Nodes=c1 PriorityJobFactor=1 PriorityTier=1 RootOnly=NO ReqResv=NO OverSubscribe=NO OverTimeLimit=NONE PreemptMode=OFF State=UP TotalCPUs=8 TotalNodes=1 SelectTypeParameters=NONE JobDefaults=(null) DefMemPerNode=UNLIMITED MaxMemPerNode=UNLIMITED TRES=cpu=8,mem=32000M,node=1,billing=8
"""  # noqa: E501
