"""From what is declared and what is seen to what must be done. Pure, and without memory of its own.

A replica is *fresh* while it is what the declaration wants and its walltime is far; it is *due*
when its successor has to be under way. Every look compares the number of fresh replicas with the
number wanted, so that a reconciler that died at any step is continued by the next look.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from modeltainer.reconcile.learn import STABLE_S, forgiven, gpu_seconds_today, learn
from modeltainer.reconcile.queue_estimates import AHEAD_S
from modeltainer.reconcile.replica import Phase, Replica
from modeltainer.reconcile.scale import Load, Pressure, scale
from modeltainer.registry.days import day_of
from modeltainer.registry.deployments import Deployment, History

DEFAULT_LOAD_S = 300.0
"""Of a model that was never seen to load."""
MARGIN_SHARE, MARGIN_MIN_S, MARGIN_MAX_S = 0.1, 20.0, 900.0
"""Time kept in hand at a handover: a share of the useful life, within these bounds."""
UNSUBMITTED_GRACE_S = 90.0
"""sbatch is given a minute; a job of that name that is not there by now will not come."""
BACKOFF_FIRST_S, BACKOFF_MAX_S = 15.0, 1800.0
BACKOFF_BUSY_S = 60.0
"""At most, when it was the scheduler that had no answer."""
SILENT_CANCEL_S = 120.0
"""A silent launch that is replaced by then is cancelled."""


@dataclass(frozen=True)
class Submit:
    """Start one more replica."""

    model: str
    number: int
    reason: str
    spare: bool = False


@dataclass(frozen=True)
class Drain:
    """Have it finish what runs, then end."""

    launch_id: str
    reason: str


@dataclass(frozen=True)
class Cancel:
    """End its job: it serves nobody."""

    launch_id: str
    reason: str


@dataclass(frozen=True)
class Forget:
    """Remove its folder: it has ended, or never became a job."""

    launch_id: str


Action = Submit | Drain | Cancel | Forget


@dataclass(frozen=True)
class Plan:
    """What one look comes to."""

    actions: tuple[Action, ...] = ()
    histories: Mapping[str, History] = field(default_factory=dict)
    pressures: Mapping[str, Pressure] = field(default_factory=dict)


def decide(
    deployments: Mapping[str, Deployment],
    replicas: Sequence[Replica],
    histories: Mapping[str, History],
    *,
    now_unix: float,
    now: float = 0.0,
    loads: Mapping[str, Load] | None = None,
    pressures: Mapping[str, Pressure] | None = None,
    queue_estimates: Mapping[str, float] | None = None,
    no_spares: Collection[str] = (),
) -> Plan:
    """One look.

    Args:
        replicas: every launch that belongs to a deployment, declared still or not.
        histories: of models that are declared no more too, for the total of those on demand.
        now: monotonic seconds; ``now_unix`` is for days and back-off only.
        loads: what gateways say, by model; a model that is missing there is not known.
        queue_estimates: seconds a new job of the model would wait now, where Slurm says.
        no_spares: models of which no further spare replica is to be tried now.
    """
    by_model: dict[str, list[Replica]] = {}
    for one in replicas:
        by_model.setdefault(one.model, []).append(one)
    actions: list[Action] = []
    changed: dict[str, History] = {}
    kept: dict[str, Pressure] = {}
    shared_s = sum(
        gpu_seconds_today(
            histories.get(model, History(model)), by_model.get(model, ()), now_unix, on_demand=True
        )
        for model in {*histories, *by_model}
    )
    for model in sorted({*deployments, *by_model}):
        mine = by_model.get(model, [])
        deployment = deployments.get(model)
        history = histories.get(model, History(model))
        if deployment is not None and history.failed_unix < deployment.created_unix:
            history = forgiven(history)
        history = learn(history, mine, now_unix)
        if deployment is None:
            actions += _undeclared(mine)
            changed[model] = replace(history, wanted=0, spent_day="", shared_spent_day="", note="")
            continue
        wanted, kept[model] = scale(
            deployment,
            history.wanted,
            (loads or {}).get(model),
            (pressures or {}).get(model, Pressure()),
            now,
            ready=sum(one.phase is Phase.READY for one in mine),
        )
        history = _budgeted(
            deployment, history, gpu_seconds_today(history, mine, now_unix), shared_s, now_unix
        )
        held = 0 if history.note else wanted
        estimate = (queue_estimates or {}).get(model, 0.0)
        due = {one.launch_id for one in mine if is_due(one, history, estimate)}
        good = [
            one
            for one in mine
            if one.phase is Phase.READY
            and one.revision == deployment.revision
            and one.launch_id not in due
        ]
        calm = now_unix - history.failed_unix >= STABLE_S
        if history.failures and calm and len(good) >= held:
            # Nothing has to start: the failure was of one that is replaced already.
            history = forgiven(history)
        actions += _ended(history, mine)
        over = (Phase.LEAVING, Phase.ENDED)
        taken = {one.number for one in mine if one.phase not in over}
        numbers = itertools.filterfalse(taken.__contains__, itertools.count())
        safe, spare = _shares(deployment, held)
        waits = ""
        for share, is_spare in ((safe, False), (spare, True)):
            found, waiting = _serve(
                deployment,
                history,
                [one for one in mine if one.spare is is_spare],
                share,
                expiring=due,
                numbers=numbers,
                spare=is_spare,
                now_unix=now_unix,
            )
            if is_spare and model in no_spares:
                found = [one for one in found if not isinstance(one, Submit)]
            actions += found
            waits = waits or waiting
        changed[model] = replace(history, wanted=wanted, note=history.note or waits)
    return Plan(tuple(actions), changed, kept)


def _shares(deployment: Deployment, wanted: int) -> tuple[int, int]:
    """How many of the wanted replicas are safe ones, and how many spare ones. A model that is in
    use at all has a safe one."""
    if deployment.spare_partition is None:
        return wanted, 0
    safe = min(wanted, max(deployment.minimum, 1))
    return safe, wanted - safe


def _serve(
    deployment: Deployment,
    history: History,
    mine: Sequence[Replica],
    wanted: int,
    *,
    expiring: Collection[str],
    numbers: Iterator[int],
    spare: bool,
    now_unix: float,
) -> tuple[list[Action], str]:
    """The actions for one model's safe or spare replicas, and what they wait for.

    Args:
        mine: those of the one sort.
        expiring: launches that need a successor.
        numbers: those that are free.
    """
    actions: list[Action] = [
        Forget(one.launch_id)
        for one in mine
        if one.phase is Phase.UNSUBMITTED and one.unsubmitted_s >= UNSUBMITTED_GRACE_S
    ]
    gone = {action.launch_id for action in actions if isinstance(action, Forget)}
    staying = [
        one
        for one in mine
        if one.phase not in (Phase.LEAVING, Phase.ENDED) and one.launch_id not in gone
    ]
    other = [one for one in staying if one.revision != deployment.revision]
    silent = [one for one in staying if one not in other and one.phase is Phase.SILENT]
    current = [one for one in staying if one not in other and one not in silent]
    due = [one for one in current if one.launch_id in expiring]
    fresh = [one for one in current if one not in due]
    due += _with_successor(fresh, wanted)
    fresh = [one for one in fresh if one not in due]

    replaced = sum(good.phase is Phase.READY and good.confirmed for good in current) >= wanted
    for one in [*other, *silent]:
        if one.phase in (Phase.READY, Phase.UNSUBMITTED):
            continue  # it serves until its successor does; or has no job that could be ended
        if one.phase is not Phase.SILENT or (replaced and one.silent_s >= SILENT_CANCEL_S):
            actions.append(Cancel(one.launch_id, "it is not what is declared, or does not answer"))
    # A reconciler that has just begun waits until it has seen who lives: seconds.
    if all(one.confirmed for one in staying if one.phase is Phase.READY):
        surplus = max(0, len(fresh) - wanted)
        given_up = sorted(fresh, key=_worth)[:surplus]
        actions += _let_go(given_up, "fewer replicas are wanted")
        serving = [one for one in fresh if one.phase is Phase.READY and one not in given_up]
        outgoing = [one for one in (*other, *due) if one.phase is Phase.READY]
        outgoing.sort(key=lambda one: (one not in other, one.useful_s or 0.0))
        beyond = max(0, len(serving) + len(outgoing) - wanted)
        why = "another replica serves in its place" if serving else "fewer replicas are wanted"
        actions += [Drain(one.launch_id, why) for one in outgoing[:beyond]]

    missing = max(0, min(wanted - len(fresh), 2 * max(wanted, 1) - len(staying)))
    if not missing:
        return actions, ""
    underway = any(one.phase is not Phase.READY for one in fresh)
    allowed, waits = _attempts(history, missing, underway, now_unix)
    leaves = any(one.phase is Phase.READY for one in (*other, *due))
    reason = "its predecessor's time runs out" if leaves else "it is wanted"
    actions += [
        Submit(deployment.model, number, reason, spare)
        for number in itertools.islice(numbers, allowed)
    ]
    return actions, waits


def _with_successor(fresh: Sequence[Replica], wanted: int) -> list[Replica]:
    """Those that a younger one, which is there already, may as well replace: their end is near.
    What had a successor submitted once has it still when the queue is said to be shorter, or by a
    reconciler that has not asked yet; else its place in the queue would be given up."""
    near = [
        one
        for one in fresh
        if one.phase is Phase.READY
        and one.useful_s is not None
        and one.useful_s <= min(AHEAD_S, (one.lifetime_s or float("inf")) / 2)
        and any(other.submitted_unix > one.submitted_unix for other in fresh)
    ]
    near.sort(key=lambda one: one.useful_s or 0.0)
    return near[: max(0, len(fresh) - wanted)]


def lead_s(one: Replica, history: History, queue_estimate_s: float) -> float:
    """How long before a replica's useful end its successor must be submitted."""
    life = one.lifetime_s if one.lifetime_s is not None else float("inf")
    load = max(history.load_s, default=DEFAULT_LOAD_S)
    queue = max(*history.queue_s, queue_estimate_s, 0.0)
    margin = min(max(MARGIN_SHARE * life, MARGIN_MIN_S), MARGIN_MAX_S)
    # A walltime that is short for the load time must not have a successor replaced at once.
    return min(load + queue + margin, life / 2)


def is_due(one: Replica, history: History, queue_estimate_s: float = 0.0) -> bool:
    """Its successor has to be under way."""
    if one.useful_s is None or one.phase is not Phase.READY:
        return False
    return one.useful_s <= lead_s(one, history, queue_estimate_s)


def backoff_s(history: History) -> float:
    """How long to wait after the last failure. The first is answered at once: a lost node, a
    preemption and a cancelled job are nobody's fault."""
    if history.failures <= 1:
        return 0.0
    longest = BACKOFF_BUSY_S if history.cause_code in _BUSY else BACKOFF_MAX_S
    return min(BACKOFF_FIRST_S * 2.0 ** min(history.failures - 2, 30), longest)


_BUSY = frozenset({"slurm-unavailable", "scheduler-busy"})


def _attempts(history: History, missing: int, underway: bool, now_unix: float) -> tuple[int, str]:
    if history.failures <= 1:
        return missing, ""
    # A clock that was set back must not keep it waiting for longer than the back-off itself.
    passed = now_unix - min(history.failed_unix, now_unix)
    left = backoff_s(history) - passed
    told = f"{history.failures} starts in a row failed: {history.cause} [{history.cause_code}]"
    if left > 0:
        return 0, f"{told}; next try in {round(left)} s"
    # One by one, until one is up.
    return (0, f"{told}; trying once more") if underway else (1, f"{told}; trying once more")


def _worth(one: Replica) -> tuple[int, int, float]:
    """The least useful first: those that do not serve yet, then those with the least to do."""
    order = (Phase.UNSUBMITTED, Phase.QUEUED, Phase.STARTING, Phase.READY)
    return order.index(one.phase), one.in_flight, -one.submitted_unix


def _let_go(leaving: Sequence[Replica], reason: str) -> list[Action]:
    """Those without a job are found to have one, or forgotten, at a later look."""
    return [
        (Drain if one.phase is Phase.READY else Cancel)(one.launch_id, reason)
        for one in leaving
        if one.phase is not Phase.UNSUBMITTED
    ]


def _undeclared(mine: Sequence[Replica]) -> list[Action]:
    over = [
        one
        for one in mine
        if one.phase is Phase.ENDED
        or (one.phase is Phase.UNSUBMITTED and one.unsubmitted_s >= UNSUBMITTED_GRACE_S)
    ]
    left = [one for one in mine if one not in over and one.phase is not Phase.LEAVING]
    forgotten: list[Action] = [Forget(one.launch_id) for one in over]
    return [*forgotten, *_let_go(left, "it is declared no more")]


def _ended(history: History, mine: Sequence[Replica]) -> list[Action]:
    """Ended launches are cleared away, but for the last one that failed: its log says why."""
    ended = [one for one in mine if one.phase is Phase.ENDED]
    failed = [one for one in ended if one.cause is not None and one.cause.failed]
    last = max(failed, key=lambda one: one.submitted_unix, default=None)
    kept = last.launch_id if last is not None and history.failures else None
    return [Forget(one.launch_id) for one in ended if one.launch_id != kept]


def _budgeted(
    deployment: Deployment, history: History, own_s: float, shared_s: float, now_unix: float
) -> History:
    """With a note and the day where GPU hours are used up, without either where they are not.

    Args:
        own_s: GPU seconds of this model today.
        shared_s: those of all launches on demand.
    """
    today = day_of(now_unix)
    spent = _is_spent(deployment.gpu_hours_per_day, own_s)
    shared = _is_spent(deployment.shared_gpu_hours_per_day, shared_s)
    note = ""
    if spent:
        note = "its GPU hours of today are used up; it goes on tomorrow (UTC)"
    elif shared:
        note = (
            "today's GPU hours of all models started on demand are used up; it goes on tomorrow "
            "(UTC)"
        )
    return replace(
        history,
        spent_day=today if spent else "",
        shared_spent_day=today if shared else "",
        note=note,
    )


def _is_spent(hours: float | None, used_s: float) -> bool:
    return hours is not None and used_s >= hours * 3600
