"""Where a launch goes: a pure function from the cluster's snapshot and the model's needs.

Every pair of a partition and a kind of GPU in it is a candidate. Needs are applied one after the
other, and the first that leaves nothing is the error, told with what there was before it. Of what
remains, the smallest sufficient GPU or slice wins, then what is free now, then the site's order.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from modeltainer.hpc.gres import Gres
from modeltainer.hpc.hostlist import expand
from modeltainer.hpc.shards import NAME as SHARD
from modeltainer.hpc.shards import SharedGpus
from modeltainer.hpc.snapshot import Node, Partition, Snapshot
from modeltainer.spec import Placement, Resources, Share


class PlacementError(Exception):
    """No place for these resources on this cluster; asking Slurm would be in vain.

    ``code`` is one of ``no-such-partition``, ``partition-down``, ``no-such-node``,
    ``too-many-nodes``, ``no-gpus``,
    ``no-such-gpu-type``, ``no-such-mig-profile``, ``gpu-too-small``, ``too-many-gpus``,
    ``not-enough-cpus``, ``not-enough-memory``, ``no-such-feature``, ``walltime-too-long``,
    ``account-not-allowed`` and ``qos-not-allowed``; ``message`` says what is wrong, ``hint`` what
    to do.
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.code, self.message, self.hint = code, message, hint


@dataclass(frozen=True)
class _Candidate:
    """One kind of GPU (None: no GPU wanted) on one node, reached through one partition."""

    partition: Partition
    node: Node
    gpu: Gres | None
    shared: SharedGpus | None = None
    """Not the whole GPU but some of its shards."""
    shards: int = 0

    @property
    def memory_mib(self) -> int | None:
        """What its name says of the memory that a job would have, MiB."""
        if self.gpu is None or self.gpu.memory_mib is None or self.shared is None:
            return None if self.gpu is None else self.gpu.memory_mib
        return self.gpu.memory_mib * self.shards // self.shared.per_gpu


class Places:
    """Where things go on one cluster at one moment: what asks for the same goes to the same place,
    which is looked for once."""

    def __init__(self, snapshot: Snapshot, partitions_preferred: Sequence[str] = ()) -> None:
        self.snapshot, self._preferred = snapshot, tuple(partitions_preferred)
        self._known: dict[Resources, Placement] = {}

    def find(self, resources: Resources) -> Placement:
        """:func:`place`, and raises as it does."""
        known = self._known.get(resources)
        if known is None:
            known = place(self.snapshot, resources, partitions_preferred=self._preferred)
            self._known[resources] = known
        return known


def place(
    snapshot: Snapshot, resources: Resources, *, partitions_preferred: Sequence[str] = ()
) -> Placement:
    """Choose partition, GPU or slice and walltime.

    The partition: the wished one (of several, ``a,b``, the best); else those preferred by the site;
    only if nothing there fits, the cluster's default and then the others. A GPU type that is named
    is taken as it is, slice or not; else ``mig=False`` keeps whole GPUs, ``True`` allows slices for
    a single GPU (several slices cannot work on one model together: NCCL does not cross them), and a
    profile demands it in whatever spelling the site has. With ``shared``, a single GPU may be some
    of a GPU's shards, which go before a whole one wherever they are enough.

    Raises:
        PlacementError: nothing fits.
    """
    first, others = _partitions(snapshot, resources, partitions_preferred)
    try:
        fitting = _fitting(snapshot, first, resources)
        fallen_back = False
    except PlacementError:
        if not others:
            raise
        fitting, fallen_back = _fitting(snapshot, [*first, *others], resources), True
    order = [one.name for one in (*first, *others)]
    chosen = frozenset((resources.partition or "").split(",")) | frozenset(partitions_preferred)
    best = min(fitting, key=lambda one: _preference(one, resources, order, chosen))
    reasons = _reasons(best, fitting, resources, fallen_back, bool(partitions_preferred))
    if _may_share(resources) and best.shared is None and best.gpu is not None:
        reasons = (*reasons, _why_whole(best, snapshot, resources))
    return Placement(
        best.partition.name,
        _gres(best, snapshot, resources),
        resources.walltime_s,
        reasons,
        None if best.shared is None else Share(_part(best), _gpu(best).type),
    )


def _partitions(
    snapshot: Snapshot, resources: Resources, preferred: Sequence[str]
) -> tuple[list[Partition], list[Partition]]:
    """The partitions to look at first, and those to fall back on."""
    if resources.partition:
        return [_wished(snapshot, name) for name in resources.partition.split(",")], []
    liked = [found for name in preferred if (found := snapshot.partition(name)) is not None]
    rest = [one for one in snapshot.partitions if one not in liked]
    rest.sort(key=lambda one: (not one.default, one.preemptible, -one.priority_tier))
    return (liked, rest) if liked else (rest, [])


def _wished(snapshot: Snapshot, name: str) -> Partition:
    found = snapshot.partition(name)
    if found is None:
        names = [one.name for one in snapshot.partitions]
        raise PlacementError(
            "no-such-partition",
            f"there is no partition {name!r} on this cluster",
            f"{_did_you_mean(name, names)}partitions: {', '.join(names)}",
        )
    return found


def _fitting(
    snapshot: Snapshot, partitions: Sequence[Partition], resources: Resources
) -> list[_Candidate]:
    """Candidates that meet every need.

    Raises:
        PlacementError: for the first need that none meets.
    """
    names = ", ".join(one.name for one in partitions)
    up = [one for one in partitions if one.up]
    if not up:
        raise PlacementError(
            "partition-down",
            (
                f"no job starts in partition {names} now: it is {partitions[0].state.lower()}"
                if partitions
                else "this cluster shows no partition"
            ),
            "take another partition, or ask the site when it is back",
        )
    left = [
        _Candidate(partition, node, gpu)
        for partition in up
        for node in snapshot.nodes_of(partition)
        for gpu in (_gpus(node) if resources.gpus else (None,))
    ]
    if _may_share(resources):
        left += [one for partition in up for one in _shares(snapshot, partition, resources)]
    if not left:
        raise PlacementError("no-gpus", f"partition {names} has no GPUs", _where_gpus_are(snapshot))
    for meets, refusal in _needs(snapshot, resources, up):
        before, left = left, [one for one in left if meets(one)]
        if not left:
            raise refusal(before)
    return _on_enough_nodes(left, resources) if resources.nodes > 1 else left


def _may_share(resources: Resources) -> bool:
    return (
        resources.shared
        and (resources.gpus, resources.nodes) == (1, 1)
        and not isinstance(resources.mig, str)
    )


def _shares(snapshot: Snapshot, partition: Partition, resources: Resources) -> Iterable[_Candidate]:
    """Parts of a GPU that hold what is asked for, one candidate for each kind of GPU of a node.

    Where nodes divide GPUs of one type differently, the finest counts: the request cannot tell
    them apart, and the part that is promised to the engine must hold on each.
    """
    having = [(node, kind) for node in snapshot.nodes_of(partition) for kind in node.shared]
    finest: dict[str | None, int] = {}
    for _, kind in having:
        finest[kind.gpu.type] = max(kind.per_gpu, finest.get(kind.gpu.type, 0))
    for node, kind in having:
        alike = replace(kind, per_gpu=finest[kind.gpu.type])
        shards = alike.shards_for(resources.gpu_memory_mib)
        if shards is not None and shards <= kind.per_gpu:
            yield _Candidate(partition, node, kind.gpu, alike, shards)


def _part(one: _Candidate) -> float:
    assert one.shared is not None
    return one.shards / one.shared.per_gpu


def _on_enough_nodes(fitting: Sequence[_Candidate], resources: Resources) -> list[_Candidate]:
    """Those with enough of their kind in their partition for a replica on several nodes.

    Raises:
        PlacementError: there is no such kind.
    """
    together: dict[tuple[str, str | None], set[str]] = {}
    for one in fitting:
        together.setdefault(_kind(one), set()).add(one.node.name)
    left = [one for one in fitting if len(together[_kind(one)]) >= resources.nodes]
    if not left:
        (partition, gpu), names = max(together.items(), key=lambda item: len(item[1]))
        raise PlacementError(
            "too-many-nodes",
            f"{resources.nodes} nodes are asked for; partition {partition} has {len(names)} that "
            f"would do{f' with {gpu}' if gpu else ''}",
            "ask for fewer with resources.nodes, or for less on each",
        )
    return left


def _kind(one: _Candidate) -> tuple[str, str | None]:
    return one.partition.name, one.gpu.type if one.gpu is not None else None


_Need = tuple[Callable[[_Candidate], bool], Callable[[list[_Candidate]], PlacementError]]


def _needs(snapshot: Snapshot, resources: Resources, up: Sequence[Partition]) -> Iterable[_Need]:
    """Each need as a test and the error for when no candidate passes it, in the order in which
    they are told."""
    yield lambda one: _account_allowed(one.partition, resources), lambda before: PlacementError(
        "account-not-allowed",
        (
            f"partition {_names(before)} is open to root or to reservations only"
            if all(one.partition.closed for one in before)
            else f"account {resources.account!r} may not use partition {_names(before)}"
        ),
        "allowed: " + (", ".join(before[0].partition.allow_accounts or ()) or "others"),
    )
    yield lambda one: _qos_allowed(one.partition, resources), lambda before: PlacementError(
        "qos-not-allowed",
        f"QOS {resources.qos!r} may not use partition {_names(before)}",
        "allowed: " + ", ".join(before[0].partition.allow_qos or ()),
    )
    if resources.nodelist:
        wished = frozenset(expand(resources.nodelist))
        if len(wished) > resources.nodes:
            # sbatch(1), --nodelist: the job gets all of them.
            runs = "runs on one" if resources.nodes == 1 else f"asks for {resources.nodes}"
            raise PlacementError(
                "too-many-nodes",
                f"{resources.nodelist} are {len(wished)} nodes; a replica {runs}",
                "name as many, or choose among several by a feature (resources.constraint)",
            )
        yield lambda one: one.node.name in wished, lambda before: PlacementError(
            "no-such-node",
            f"none of the nodes {resources.nodelist} is in partition {_names(before)}",
            "see sinfo -N for the nodes' names",
        )
    features = _plain_features(resources.constraint)
    yield lambda one: features <= {*one.node.features}, lambda before: PlacementError(
        "no-such-feature",
        f"no node of partition {_names(before)} has the features {resources.constraint!r}",
        "features: " + ", ".join(sorted({word for one in before for word in one.node.features})),
    )
    if resources.gpus:
        yield from _gpu_needs(snapshot, resources)
    yield lambda one: _cpus(one) >= resources.cpus, lambda before: PlacementError(
        "not-enough-cpus",
        f"{resources.cpus} CPUs are asked for; the largest node that would do has "
        f"{max(map(_cpus, before))} ({_names(before)})",
        "ask for fewer with resources.cpus",
    )
    memory = resources.memory_mib or 0
    yield lambda one: _memory(one) >= memory, lambda before: PlacementError(
        "not-enough-memory",
        f"{_gib(memory)} of memory are asked for; the largest node that would do has "
        f"{_gib(max(map(_memory, before)))} ({_names(before)})",
        "ask for less with resources.memory",
    )
    yield lambda one: _time_fits(one.partition, resources), lambda before: _too_long(
        before, resources
    )


def _gpu_needs(snapshot: Snapshot, resources: Resources) -> Iterable[_Need]:
    if resources.gpu_type is not None:
        wanted = resources.gpu_type.lower()
        yield lambda one: _gpu(one).type is not None and str(_gpu(one).type).lower() == wanted, (
            lambda before: PlacementError(
                "no-such-gpu-type",
                f"there is no GPU type {resources.gpu_type!r} in partition {_names(before)}",
                _did_you_mean(resources.gpu_type or "", _types(before)) + _type_list(before),
            )
        )
    if isinstance(resources.mig, str):
        profile = resources.mig.lower()
        yield lambda one: _gpu(one).profile == profile, lambda before: PlacementError(
            "no-such-mig-profile",
            f"no node of partition {_names(before)} has MIG slices {resources.mig!r}",
            _profile_hint(profile, before),
        )
    elif resources.gpu_type is None and (not resources.mig or resources.gpus > 1):
        yield lambda one: not _gpu(one).is_mig, lambda before: PlacementError(
            "no-gpus",
            f"partition {_names(before)} has no whole GPUs, only MIG slices"
            + (" (several slices cannot work on one model together)" if resources.mig else ""),
            ("ask for one GPU" if resources.mig else "allow slices with mig: true (--mig)")
            + f"; {_type_list(before)}",
        )
    yield lambda one: _large_enough(_gpu(one), resources), lambda before: PlacementError(
        "gpu-too-small",
        f"{_gib(resources.gpu_memory_mib or 0)} per GPU are asked for; the largest here has "
        f"{_gib(max(_gpu(one).memory_mib or 0 for one in before))}",
        "ask for less with resources.gpu_memory, or for more GPUs; where a site's type name hides "
        f"a larger variant, name it with resources.gpu_type; {_type_list(before)}",
    )
    yield lambda one: _gpu(one).count >= resources.gpus, lambda before: PlacementError(
        "too-many-gpus",
        f"{resources.gpus} GPUs are asked for; the largest node has " + _largest(before),
        "ask for fewer GPUs with more memory each, for a larger partition, or with vLLM for more "
        "nodes (resources.nodes)",
    )


def _gpus(node: Node) -> tuple[Gres, ...]:
    return tuple(one for one in node.gres if one.is_gpu and one.count > 0)


def _gpu(one: _Candidate) -> Gres:
    assert one.gpu is not None
    return one.gpu


def _cpus(one: _Candidate) -> int:
    limit = one.partition.max_cpus_per_node
    return one.node.cpus_total if limit is None else min(limit, one.node.cpus_total)


def _memory(one: _Candidate) -> int:
    limit = one.partition.max_memory_per_node_mib
    return one.node.memory_mib if not limit else min(limit, one.node.memory_mib)


def _untyped(resources: Resources) -> bool:
    """Would any GPU do, so that the type may be left to Slurm?"""
    return resources.gpu_type is None and resources.gpu_memory_mib is None and not resources.mig


def _large_enough(gpu: Gres, resources: Resources) -> bool:
    """Unknown sizes pass (and are taken last); so does a whole GPU that the user named, since its
    name may hide a larger variant."""
    wanted, has = resources.gpu_memory_mib, gpu.memory_mib
    if wanted is None or has is None or has >= wanted:
        return True
    return resources.gpu_type is not None and not gpu.is_mig


def _time_fits(partition: Partition, resources: Resources) -> bool:
    return partition.max_time_s is None or resources.walltime_s <= partition.max_time_s


def _account_allowed(partition: Partition, resources: Resources) -> bool:
    if partition.closed or resources.account in partition.deny_accounts:
        return False
    allowed = partition.allow_accounts
    return allowed is None or resources.account is None or resources.account in allowed


def _qos_allowed(partition: Partition, resources: Resources) -> bool:
    return (
        partition.allow_qos is None or resources.qos is None or resources.qos in partition.allow_qos
    )


def _uncertain(partition: Partition, resources: Resources) -> bool:
    """Is it open to some accounts or QOS only, and we cannot tell whether to this user?"""
    return (partition.allow_accounts is not None and resources.account is None) or (
        partition.allow_qos is not None and resources.qos not in partition.allow_qos
    )


def _plain_features(constraint: str | None) -> frozenset[str]:
    """The features of ``a`` or ``a&b``; anything richer is left to Slurm to judge."""
    if constraint is None or not re.fullmatch(r"[\w.:-]+(?:[&,][\w.:-]+)*", constraint):
        return frozenset()
    return frozenset(re.split(r"[&,]", constraint))


def _free_now(one: _Candidate, resources: Resources) -> bool:
    if not one.node.usable or one.node.cpus_free < resources.cpus:
        return False
    if one.node.memory_free_mib < (resources.memory_mib or 0):
        return False
    if one.gpu is None:
        return True
    if one.shared is not None:
        return one.shared.free >= one.shards
    left = sum(gpu.count for gpu in one.node.gres_free if gpu.type == one.gpu.type and gpu.is_gpu)
    return left >= resources.gpus


def _preference(
    one: _Candidate, resources: Resources, order: Sequence[str], chosen: frozenset[str]
) -> tuple[bool, bool, bool, bool, int, bool, bool, int]:
    """Smaller is better."""
    size = one.memory_mib
    # A CPU job leaves GPU nodes to those who need them.
    waste = bool(_gpus(one.node)) if one.gpu is None else False
    by_size = 0 if _untyped(resources) else (size or 0)
    unknown = one.gpu is not None and size is None and resources.gpu_memory_mib is not None
    return (
        _uncertain(one.partition, resources),
        not one.node.usable,
        unknown or waste,
        # A part of a GPU, or a slice, leaves the rest to others.
        _may_share(resources) and one.shared is None and not _gpu(one).is_mig,
        by_size,
        # A server that is preempted is little use; but the site or the user may have chosen so.
        one.partition.preemptible and one.partition.name not in chosen,
        not _free_now(one, resources),
        order.index(one.partition.name),
    )


def _gres(best: _Candidate, snapshot: Snapshot, resources: Resources) -> str | None:
    if best.gpu is None:
        return None
    if best.shared is not None:
        kinds = {
            kind.gpu.type for node in snapshot.nodes_of(best.partition) for kind in node.shared
        }
        # Where there is a choice, the type is named even if the node does not show it yet.
        type_ = best.gpu.type if len(kinds) > 1 else best.shared.type
        return Gres(SHARD, type_, best.shards).option(best.shards)
    everywhere = [gpu for node in snapshot.nodes_of(best.partition) for gpu in _gpus(node)]
    alike = resources.nodes == 1 or len({gpu.type for gpu in everywhere}) == 1
    if _untyped(resources) and alike and not any(gpu.is_mig for gpu in everywhere):
        return f"gpu:{resources.gpus}"  # the first that is free, whichever type
    return best.gpu.option(resources.gpus)


def _reasons(
    best: _Candidate,
    fitting: Sequence[_Candidate],
    resources: Resources,
    fallen_back: bool,
    preferred: bool,
) -> tuple[str, ...]:
    partition = best.partition
    reasons = []
    if resources.partition:
        reasons.append(f"partition {partition.name}: asked for")
    elif fallen_back:
        reasons.append(f"partition {partition.name}: none of the site's preferred ones fits")
    elif preferred:
        reasons.append(f"partition {partition.name}: preferred by the site")
    elif partition.default:
        reasons.append(f"partition {partition.name}: the cluster's default")
    else:
        reasons.append(f"partition {partition.name}: has what is needed")
    if partition.preemptible:
        reasons.append(f"jobs in {partition.name} may be preempted")
    if _uncertain(partition, resources):
        who = partition.allow_accounts or partition.allow_qos or ()
        reasons.append(f"{partition.name} is open to some only: {', '.join(who)}")
    if best.gpu is not None:
        reasons += _gpu_reasons(best, fitting, resources)
    same = [
        one
        for one in fitting
        if one.partition is partition
        and (best.gpu is None or _gpu(one).type == best.gpu.type)
        and (one.shared is None) == (best.shared is None)
    ]
    free = sorted({one.node.name for one in same if _free_now(one, resources)})
    if len(free) >= resources.nodes:
        reasons.append(f"free now on {_few(free)}")
    elif not any(one.node.usable for one in same):
        reasons.append("all nodes that would do are down or drained now: it has to wait for one")
    else:
        reasons.append("nothing that would do is free now: it has to wait")
    if partition.max_time_s is not None:
        reasons.append(
            f"walltime {_span(resources.walltime_s)} of at most {_span(partition.max_time_s)}"
        )
    return tuple(reasons)


def _gpu_reasons(
    best: _Candidate, fitting: Sequence[_Candidate], resources: Resources
) -> Iterable[str]:
    gpu = _gpu(best)
    if best.shared is not None:
        yield from _share_reasons(best, best.shared, resources)
        return
    kind = (
        f"MIG slice {gpu.profile or gpu.type}" if gpu.is_mig else f"GPU {gpu.type or '(no type)'}"
    )
    if resources.gpu_type is not None:
        yield f"{kind}: the type asked for"
    elif isinstance(resources.mig, str):
        yield f"{kind}: the profile asked for"
    elif resources.gpu_memory_mib is not None and gpu.memory_mib is not None:
        kinds = len({_gpu(one).type for one in fitting})
        yield (
            f"{kind}: the smallest of {kinds} kind(s) that hold {_gib(resources.gpu_memory_mib)} "
            f"(it has {_gib(gpu.memory_mib)})"
        )
    elif resources.gpu_memory_mib is not None:
        yield f"{kind}: its memory is not known; name a type in resources.gpu_type to be sure"
    else:
        yield f"{kind}: no memory was asked for (resources.gpu_memory)"
    if resources.mig is True and resources.gpus > 1 and not gpu.is_mig:
        yield "whole GPUs: several MIG slices cannot work on one model together"
    if gpu.is_mig and resources.gpus > 1:
        yield (
            f"{resources.gpus} slices: tensor parallelism does not cross MIG slices (NCCL), one "
            "process sees one slice; they serve separate copies at best"
        )


def _share_reasons(best: _Candidate, shared: SharedGpus, resources: Resources) -> Iterable[str]:
    size = "" if best.memory_mib is None else f" ({_gib(best.memory_mib)})"
    part = (
        f"{best.shards} of {shared.per_gpu} shards of a GPU {_gpu(best).type or '(no type)'}{size}"
    )
    if resources.gpu_memory_mib is None:
        yield f"{part}: no memory was asked for (resources.gpu_memory)"
    else:
        yield f"{part}: the fewest that hold {_gib(resources.gpu_memory_mib)}"
    yield "other jobs may have the rest of that GPU: Slurm does not keep them from its memory"


def _why_whole(best: _Candidate, snapshot: Snapshot, resources: Resources) -> str:
    """Why a model that may share a GPU gets a whole one, or a slice."""
    kinds = [kind for node in snapshot.nodes_of(best.partition) for kind in node.shared]
    if not kinds:
        return f"not shared: no GPU in {best.partition.name} is divided into shards"
    wanted = resources.gpu_memory_mib
    if wanted is not None and all(kind.gpu.memory_mib is None for kind in kinds):
        return "not shared: the GPUs' memory is not known, so that no part of one can be measured"
    if _gpu(best).is_mig:
        return "not shared: this slice is smaller than the shards that would do"
    return "not shared: no part of a GPU there would do, only a whole one"


def _too_long(before: Sequence[_Candidate], resources: Resources) -> PlacementError:
    limits = {one.partition.name: one.partition.max_time_s or 0 for one in before}
    longest = max(limits, key=lambda name: limits[name])
    return PlacementError(
        "walltime-too-long",
        f"{_span(resources.walltime_s)} are asked for; partition {longest} allows at most "
        f"{_span(limits[longest])}",
        f"use --time {_span(limits[longest])} or less"
        + (", or another partition" if resources.partition else ""),
    )


def _largest(before: Sequence[_Candidate]) -> str:
    best = max(before, key=lambda one: _gpu(one).count)
    kind = _gpu(best).type
    return f"{_gpu(best).count}{f' {kind}' if kind else ''} ({best.node.name})"


def _where_gpus_are(snapshot: Snapshot) -> str:
    having = [
        one.name
        for one in snapshot.partitions
        if any(_gpus(node) for node in snapshot.nodes_of(one))
    ]
    if having:
        return f"partitions with GPUs: {', '.join(having)}"
    return "this cluster has no GPUs; resources.gpus: 0 makes it a CPU job"


def _names(candidates: Iterable[_Candidate]) -> str:
    return ", ".join(dict.fromkeys(one.partition.name for one in candidates))


def _types(candidates: Iterable[_Candidate]) -> list[str]:
    return list(dict.fromkeys(kind for one in candidates if (kind := _gpu(one).type)))


def _type_list(candidates: Iterable[_Candidate]) -> str:
    types = _types(candidates)
    return f"types: {', '.join(types)}" if types else "this site gives its GPUs no types"


def _profile_hint(profile: str, candidates: Sequence[_Candidate]) -> str:
    there = list(dict.fromkeys(found for one in candidates if (found := _gpu(one).profile)))
    if there:
        return f"{_did_you_mean(profile, there)}profiles: {', '.join(there)}"
    return f"no GPU there is shown as a MIG slice; {_type_list(candidates)}"


def _did_you_mean(wished: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(wished, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}? " if near else ""


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _gib(mib: int) -> str:
    return f"{mib / 1024:.4g} GiB"


def _span(seconds: int) -> str:
    """As ``--time`` takes it: ``[D-]HH:MM:SS``."""
    days, rest = divmod(seconds, 86400)
    text = f"{rest // 3600:02d}:{rest % 3600 // 60:02d}:{rest % 60:02d}"
    return f"{days}-{text}" if days else text
